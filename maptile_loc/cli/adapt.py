"""Adapt a model of a city to a drive, by the drive's odometry alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from maptile_loc.cli.parts import console, options

if TYPE_CHECKING:
    from maptile_loc.types import HeadingKnowledge


@click.command()
@click.argument("city", type=options.PATH)
@click.argument("drive", type=options.PATH)
@click.option(
    "--model", type=options.PATH, show_default="the city's newest mapnet", help="Folder of a model."
)
@click.option("--minutes", metavar="N", type=float, help="Stop after N minutes.")
@click.option(
    "--heading",
    type=options.Heading(),
    default="known",
    help="known or unknown, as the model was trained.",
)
@options.submap
@options.every
@options.drive_format()
@options.device
@options.recipe("mapnet_plus")
@options.overrides
def command(
    city: Path,
    drive: Path,
    model: Path | None,
    minutes: float | None,
    heading: HeadingKnowledge,
    submap: float,
    every: float,
    format: str,
    device: str,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Adapt a model of CITY to DRIVE (MapNet+), by the drive's odometry alone.

    The model, a mapnet or a posterior, stays as it is. The adapted model is written beside it, and
    is then the newest.
    """
    import maptile_loc as ml

    with console.progress_bar() as progress:
        folder = ml.adapt(
            city,
            ml.open_drive(drive, format, progress=progress),
            model=model,
            minutes=minutes,
            heading=heading,
            submap_m=submap,
            every_m=every,
            device=device,
            config=config,
            overrides=overrides,
            progress=progress,
        )
    console.say_recipe(config)
    click.echo(f"{folder}: adapted")
    console.say_next("localize", city, drive, "--method", "mapnet", "--out", "OUT")
