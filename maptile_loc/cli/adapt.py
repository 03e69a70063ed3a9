"""Adapt a model of a city to a drive, or the wall detector to the drive's sensor."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maptile_loc.cli.parts import console, options
from maptile_loc.cli.parts.output import writing
from maptile_loc.cli.parts.progress import progress_bar

if TYPE_CHECKING:
    from maptile_loc.types import HeadingKnowledge


@click.command()
@click.argument("city", type=options.PATH)
@click.argument("drive", type=options.PATH)
@click.option("--walls", is_flag=True, help="Adapt the wall detector, by the map.")
@click.option("--out", type=options.PATH, help="With --walls: folder to write the profile to.")
@click.option(
    "--model", type=options.PATH, show_default="the city's newest mapnet", help="Folder of a model."
)
@click.option("--minutes", metavar="N", type=options.MINUTES, help="Stop after N minutes.")
@click.option(
    "--heading",
    type=options.Heading(),
    show_default="known; with --walls, unknown if the drive has no headings",
    help="known or unknown, as the model was trained; with --walls as for localize.",
)
@click.option("--gnss", is_flag=True, help="Translations by the drive's GNSS; not with --walls.")
@options.submap
@options.every
@options.drive
@options.device
@options.force
@click.option(
    "--config",
    metavar="NAME",
    show_default="mapnet_plus; with --walls adapt_walls",
    help="Recipe: a name in configs/, or a YAML file.",
)
@options.overrides
def command(
    city: Path,
    drive: Path,
    walls: bool,
    out: Path | None,
    model: Path | None,
    minutes: float | None,
    heading: HeadingKnowledge | None,
    gnss: bool,
    submap: float,
    every: float,
    format: str,
    sensors: tuple[str, ...] | None,
    columns: tuple[str, ...] | None,
    device: str,
    force: bool,
    config: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Adapt a model of CITY to DRIVE (MapNet+), by the drive's odometry, or with --gnss its GNSS.

    The model, a mapnet or a posterior, stays as it is. The adapted model is written beside it, and
    is then the newest.

    With --walls, adapt the wall detector to the sensor of DRIVE: the drive is localized, and the
    buildings of CITY label its scans. The folder OUT is then a sensor profile for localize.
    """
    import maptile_loc as ml
    from maptile_loc.arguments import check_order

    if walls and (out is None or model is not None or minutes is not None or gnss):
        raise click.UsageError("--walls needs --out, and has no --model, --minutes and --gnss")
    if out is not None and not walls:
        raise click.UsageError("--out belongs to --walls; a model is written into the city")
    check_order(city, drive)
    lock = writing(out, "detector.json") if out is not None else nullcontext()
    with lock, progress_bar() as progress:
        folder = ml.adapt(
            city,
            ml.open_drive(drive, format, sensors, progress=progress, columns=columns),
            what="walls" if walls else "model",
            model=model,
            out=out,
            minutes=minutes,
            heading=heading,
            gnss=gnss,
            submap_m=submap,
            every_m=every,
            device=device,
            force=force,
            config=config,
            overrides=overrides,
            progress=progress,
        )
    console.say_recipe(config or ("adapt_walls" if walls else "mapnet_plus"))
    click.echo(f"{folder}: adapted")
    use = ("--sensor-profile", folder) if walls else ("--method", "mapnet")
    console.say_next("localize", city, drive, *use, "--out", "OUT")
