"""Measure how distinctive each position in a city is, and draw a map of it."""

from __future__ import annotations

from pathlib import Path

import click

from maptile_loc.cli.parts import console, options
from maptile_loc.cli.parts.output import writing
from maptile_loc.cli.parts.progress import progress_bar


@click.command("city-report")
@click.argument("city", type=options.PATH)
@click.option("--out", type=options.PATH, show_default="CITY/report", help="Folder to write to.")
@click.option(
    "--submap", metavar="M", default=20.0, help="Metres of travel that a vehicle sees at once."
)
@click.option(
    "--sensor",
    type=click.Choice(["robotcar", "hdl64"]),
    default="robotcar",
    help="robotcar: scans across the track; hdl64: all around.",
)
@click.option(
    "--places",
    metavar="N",
    type=click.IntRange(1),
    default=1500,
    help="Positions to measure at most; there is one per 20 m of road.",
)
@options.device
@options.force
@options.seed
@options.recipe("localize")
@options.overrides
def command(
    city: Path,
    out: Path | None,
    submap: float,
    sensor: str,
    places: int,
    device: str,
    seed: int,
    force: bool,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Measure how distinctive each position in CITY is, and draw a map of it.

    CITY is a city folder, or a georeferenced raster (.tif) with --out. An interrupted report is
    resumed by the same command.
    """
    from maptile_loc.recipe import load_recipe
    from maptile_loc.report.city.city_report import ReportOptions, city_report

    asked = ReportOptions(city, out, submap, sensor, places, device, seed, force)
    folder = out or city / "report"
    with writing(folder, "report.json", False, "goes on"), progress_bar() as progress:
        line = city_report(asked, load_recipe(config, overrides), progress)
    console.say_recipe(config)
    click.echo(line)
    console.say_next("localize", city, "DRIVE", "--out", "OUT")
