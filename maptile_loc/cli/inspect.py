"""Describe the contents of a city or a drive, and draw them."""

from __future__ import annotations

from pathlib import Path

import click

from maptile_loc.cli.parts import console, options
from maptile_loc.cli.parts.progress import progress_bar


@click.command()
@click.argument("path", metavar="CITY_OR_DRIVE", type=options.PATH)
@click.option(
    "--picture",
    metavar="FILE.png",
    type=options.PATH,
    show_default="NAME_inspect.png in this folder",
    help="File to draw.",
)
@click.option(
    "--submap", metavar="M", default=50.0, help="Metres of travel in the query tile; 0: one scan."
)
@click.option(
    "--at",
    metavar="S",
    type=float,
    show_default="half-way",
    help="Seconds from the first scan to the query tile.",
)
@options.drive
@options.force
@options.recipe("localize")
@options.overrides
def command(
    path: Path,
    picture: Path | None,
    submap: float,
    at: float | None,
    format: str,
    sensors: tuple[str, ...] | None,
    columns: tuple[str, ...] | None,
    force: bool,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Describe the contents of a city or a drive, and draw them.

    Of a drive, one query tile is drawn too, made as the recipe says. A city is a folder or a
    georeferenced raster (.tif).
    """
    from maptile_loc.arguments import is_city
    from maptile_loc.recipe import load_recipe
    from maptile_loc.report.inspect.summary import inspect

    settings = load_recipe(config, overrides)
    asked = format, sensors, columns
    with progress_bar() as progress:
        for line in inspect(path, picture, submap, at, settings, progress, asked, force):
            click.echo(line)
    console.say_recipe(config)
    pair = (path, "DRIVE") if is_city(path) else ("CITY", path)
    console.say_next("localize", *pair, "--out", "OUT")
