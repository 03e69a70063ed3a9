"""Localize a drive on the map of a city."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from data_prep.counted import counted
from data_prep.errors import MaptileError
from maptile_loc.cli.parts import console
from maptile_loc.cli.parts import options as shared
from maptile_loc.cli.parts.output import writing
from maptile_loc.cli.parts.progress import progress_bar
from maptile_loc.search import METHODS

SHOWN_SCANS = 20
"""Scans without times whose candidates are printed, at most."""


@click.command()
@click.argument("city", type=shared.PATH)
@click.argument("drives", metavar="DRIVE...", type=shared.PATH, nargs=-1, required=True)
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
@shared.drive
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
@click.option("--gnss", is_flag=True, help="Use the drive's GNSS, as a witness that may lie.")
@click.option(
    "--search",
    type=click.Choice(["map", "none"]),
    default="map",
    help="none: a model's regressed poses are the result.",
)
@click.option("--pgo", is_flag=True, help="Optimise regressed poses with the odometry, too.")
@shared.sensor_profile
@shared.force
@shared.device
@shared.cluster
@shared.seed
@shared.recipe("localize")
@shared.overrides
@shared.no_cache
def command(
    city: Path, drives: tuple[Path, ...], out: Path, submap: float, every: float, **options: Any
) -> None:
    """Localize DRIVE on the map of CITY.

    CITY is a city folder or a georeferenced raster (.tif). DRIVE is the folder of a drive, or the
    archives that it was downloaded as. Of several drives, the results are in OUT/NAME; with
    --cluster, each worker does a whole one.
    """
    options["search"] = options["search"] == "map"
    asked = shared.with_cache(options) | {"submap_m": submap, "every_m": every}
    if len(drives) > 1:
        _fleet(city, drives, out, asked)
    else:
        _one(city, drives[0], out, **asked)


def _fleet(city: Path, drives: tuple[Path, ...], out: Path, asked: dict[str, Any]) -> None:
    """Localize several drives."""
    import maptile_loc as ml

    with progress_bar() as progress:
        done = ml.localize_fleet(city, drives, out, progress=progress, **asked)
    console.say_recipe(asked["config"])
    for one in done:
        text = one.error or f"{one.localized} of {counted(one.queries, 'query')} localized"
        click.echo(f"{one.drive.name}: {text}" if one.error else f"{one.folder}: {text}")
    if failed := [one for one in done if one.error]:
        raise MaptileError(f"{len(failed)} of {counted(len(done), 'drive')} have no result")
    if not any(one.localized for one in done):
        console.end_with_nothing("in none of the drives; see each result's run.json")


def _one(
    city: Path,
    drive: Path,
    out: Path,
    format: str,
    sensors: tuple[str, ...] | None,
    columns: tuple[str, ...] | None,
    start: float | None,
    end: float | None,
    force: bool,
    **asked: Any,
) -> None:
    """Localize a single drive."""
    import maptile_loc as ml
    from data_prep.standing import check_standing
    from maptile_loc.arguments import check_order, made_from
    from maptile_loc.report.files import result_of
    from maptile_loc.report.findings import said_of_bias, why_nothing
    from maptile_loc.report.trajectory import scan_rows

    check_order(city, drive)
    with writing(out, "run.json"), progress_bar() as progress:
        map_ = ml.open_city(city)
        opened = ml.open_drive(drive, format, sensors, start, end, progress, columns)
        check_standing(out, result_of(made_from(map_, opened)), force)
        found = ml.localize(map_, opened, keep=out, progress=progress, **asked)
        metrics = found.save(out, opened.truth, force)
    console.say_notes(found.notes)
    console.say_recipe(asked["config"])
    localized, scans = int(found.trajectory.localized.sum()), scan_rows(found)
    click.echo(
        f"{out}: {localized} of {counted(len(found.t_ns), 'query')} localized, "
        f"{int(scans.localized.sum())} of {counted(len(scans.t_ns), 'scan')}"
    )
    if opened.apart:
        for line in console.in_words(found, SHOWN_SCANS):
            click.echo(line)
    if metrics is not None:
        click.echo(str(metrics))
        console.say_notes(said_of_bias(metrics, found.final))
    console.say_next("report", out)
    # Of single clouds the candidates are the answer, and of a model alone its poses.
    if not localized and not opened.apart and asked["search"]:
        console.end_with_nothing(why_nothing(found))
