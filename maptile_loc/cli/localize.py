"""Localize a drive on the map of a city."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from maptile_loc.cli.parts import console, options
from maptile_loc.search import METHODS

if TYPE_CHECKING:
    from maptile_loc.types import HeadingKnowledge


@click.command()
@click.argument("city", type=options.PATH)
@click.argument("drive", type=options.PATH)
@click.option("--out", required=True, type=options.PATH, help="Folder to write the result to.")
@click.option(
    "--method",
    type=click.Choice(METHODS.names()),
    default="match",
    help=" ".join(f"{name}: {METHODS.summary(name)}" for name in METHODS.names()),
)
@click.option(
    "--model", type=options.PATH, show_default="the city's newest", help="Folder of a model."
)
@click.option(
    "--heading",
    type=options.Heading(),
    show_default="known where the drive has headings, else unknown",
    help="What is known of the heading; prior:DEG is known to a standard deviation.",
)
@options.submap
@options.every
@click.option("--online", is_flag=True, help="Use nothing that comes after a query.")
@click.option(
    "--odometry",
    type=click.Choice(["auto", "lidar"]),
    default="auto",
    help="auto: the drive's, or made from its scans if it has none; lidar: made from its scans.",
)
@options.drive_format()
@click.option("--sensors", metavar="NAME,...", show_default="the format's", help="Sensors to use.")
@click.option("--start", metavar="S", type=float, help="Seconds from the first scan.")
@click.option("--end", metavar="S", type=float, help="Seconds from the first scan.")
@click.option(
    "--prior", type=options.Numbers("LAT,LON,RADIUS"), help="Search only there (degrees, metres)."
)
@options.sensor_profile
@options.device
@options.seed
@options.recipe("localize")
@options.overrides
def command(
    city: Path,
    drive: Path,
    out: Path,
    method: str,
    model: Path | None,
    heading: HeadingKnowledge | None,
    submap: float,
    every: float,
    online: bool,
    odometry: str,
    format: str,
    sensors: str | None,
    start: float | None,
    end: float | None,
    prior: tuple[float, float, float] | None,
    sensor_profile: Path | None,
    device: str,
    seed: int,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Localize DRIVE on the map of CITY.

    CITY is a city folder or a georeferenced raster (.tif). DRIVE is the folder of a drive, or the
    archives that it was downloaded as.
    """
    import maptile_loc as ml

    names = sensors.split(",") if sensors else None
    with console.progress_bar() as progress:
        opened = ml.open_drive(drive, format, names, start, end, progress)
        found = ml.localize(
            city,
            opened,
            method=method,
            model=model,
            heading=heading,
            submap_m=submap,
            every_m=every,
            online=online,
            odometry="lidar" if odometry == "lidar" else "auto",
            prior=prior,
            sensor_profile=sensor_profile,
            device=device,
            seed=seed,
            config=config,
            overrides=overrides,
            keep=out,
            progress=progress,
        )
    metrics = found.save(out, opened.truth)
    console.say_notes(found.notes)
    console.say_recipe(config)
    localized = int(found.trajectory.localized.sum())
    click.echo(f"{out}: {localized} of {len(found.t_ns)} queries localized")
    if metrics is not None:
        click.echo(str(metrics))
    console.say_next("report", out)
