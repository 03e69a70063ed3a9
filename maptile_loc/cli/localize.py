"""Localize a drive on the map of a city."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from maptile_loc.cli.parts import console
from maptile_loc.cli.parts import options as shared
from maptile_loc.search import METHODS

SHOWN_SCANS = 20
"""Scans without times whose candidates are printed, at most."""


@click.command()
@click.argument("city", type=shared.PATH)
@click.argument("drive", type=shared.PATH)
@click.option("--out", required=True, type=shared.PATH, help="Folder to write the result to.")
@click.option(
    "--method",
    type=click.Choice([*METHODS.names(), "cells+retrieval"]),
    default="match",
    help=" ".join(f"{name}: {METHODS.summary(name)}" for name in METHODS.names()),
)
@click.option(
    "--model", type=shared.PATH, show_default="the city's newest", help="Folder of a model."
)
@click.option(
    "--heading",
    type=shared.Heading(),
    show_default="known where the drive has headings, else unknown",
    help="What is known of the heading; prior:DEG is known to a standard deviation.",
)
@shared.submap
@shared.every
@click.option("--online", is_flag=True, help="Use nothing that comes after a query.")
@click.option(
    "--odometry",
    type=click.Choice(["auto", "lidar"]),
    default="auto",
    help="auto: the drive's, or made from its scans if it has none; lidar: made from its scans.",
)
@shared.drive_format()
@click.option("--sensors", metavar="NAME,...", show_default="the format's", help="Sensors to use.")
@click.option("--start", metavar="S", type=float, help="Seconds from the first scan.")
@click.option("--end", metavar="S", type=float, help="Seconds from the first scan.")
@click.option(
    "--prior", type=shared.Numbers("LAT,LON,RADIUS"), help="Search only there (degrees, metres)."
)
@click.option(
    "--near",
    metavar="NAME",
    multiple=True,
    help="Search only near a street, square or building, or near one of several; A & B: near both.",
)
@click.option(
    "--search",
    type=click.Choice(["map", "none"]),
    default="map",
    help="none: a model's regressed poses are the result.",
)
@click.option("--pgo", is_flag=True, help="Optimise regressed poses with the odometry, too.")
@shared.sensor_profile
@shared.device
@shared.seed
@shared.recipe("localize")
@shared.overrides
def command(
    city: Path,
    drive: Path,
    out: Path,
    submap: float,
    every: float,
    format: str,
    sensors: str | None,
    start: float | None,
    end: float | None,
    search: str,
    **options: Any,
) -> None:
    """Localize DRIVE on the map of CITY.

    CITY is a city folder or a georeferenced raster (.tif). DRIVE is the folder of a drive, or the
    archives that it was downloaded as.
    """
    import maptile_loc as ml
    from maptile_loc.report.trajectory import scan_rows

    names = sensors.split(",") if sensors else None
    with console.progress_bar() as progress:
        opened = ml.open_drive(drive, format, names, start, end, progress)
        found = ml.localize(
            city,
            opened,
            submap_m=submap,
            every_m=every,
            search=search == "map",
            keep=out,
            progress=progress,
            **options,
        )
    metrics = found.save(out, opened.truth)
    console.say_notes(found.notes)
    console.say_recipe(options["config"])
    queries, scans = int(found.trajectory.localized.sum()), scan_rows(found)
    click.echo(
        f"{out}: {queries} of {len(found.t_ns)} queries localized, "
        f"{int(scans.localized.sum())} of {len(scans.t_ns)} scans"
    )
    if opened.apart:
        for line in console.in_words(found, SHOWN_SCANS):
            click.echo(line)
    if metrics is not None:
        click.echo(str(metrics))
    console.say_next("report", out)
