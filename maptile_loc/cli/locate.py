"""Find the town in which a drive was recorded, and localize the drive there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from data_prep.counted import counted
from maptile_loc.cli.parts import console
from maptile_loc.cli.parts import options as shared
from maptile_loc.cli.parts.output import writing
from maptile_loc.cli.parts.progress import progress_bar

SHOWN_TOWNS = 5
"""Towns whose probabilities are printed, at most."""


@click.command()
@click.argument("cities", type=shared.PATH, nargs=-1, required=True)
@click.argument("drive", type=shared.PATH)
@click.option("--out", required=True, type=shared.PATH, help="Folder to write the result to.")
@click.option(
    "--model",
    required=True,
    type=shared.PATH,
    help="Folder of a descriptor: maptile train CITY OTHERS... --config retrieval.",
)
@click.option(
    "--index", type=shared.PATH, help="Folder in which the cities' index is kept for later runs."
)
@click.option(
    "--heading",
    type=shared.Heading(),
    show_default="known where the drive has headings, else unknown",
    help="What is known of the heading; prior:DEG is known to a standard deviation.",
)
@shared.submap
@shared.every
@shared.drive
@shared.force
@shared.device
@shared.seed
@shared.recipe("locate")
@shared.overrides
def command(
    cities: tuple[Path, ...],
    drive: Path,
    out: Path,
    submap: float,
    every: float,
    format: str,
    sensors: tuple[str, ...] | None,
    columns: tuple[str, ...] | None,
    force: bool,
    **options: Any,
) -> None:
    """Find which of CITIES a DRIVE was recorded in, and localize it there.

    CITIES are city folders or georeferenced rasters; the drive comes last.
    """
    import maptile_loc as ml
    from data_prep.standing import check_standing
    from maptile_loc.arguments import recorded_in
    from maptile_loc.report.files import result_of

    with writing(out, "run.json"), progress_bar() as progress:
        opened = ml.open_drive(drive, format, sensors, progress=progress, columns=columns)
        check_standing(out, result_of(recorded_in(opened)), force)
        located = ml.locate(
            cities,
            opened,
            submap_m=submap,
            every_m=every,
            keep=out,
            force=force,
            progress=progress,
            **options,
        )
        if located.found is not None:
            # An older result of this drive may be of another town.
            located.found.save(out, opened.truth, force=True)
    console.say_recipe(options["config"])
    for town in located.towns[:SHOWN_TOWNS]:
        click.echo(f"{town.city.name}: {town.probability:.1%}")
    if located.found is None or located.city is None:
        tried = counted(len(located.towns), "town")
        console.end_with_nothing(
            f"localized in none of the most probable of {tried}; try a longer drive, or more cities"
        )
        return
    localized = int(located.found.trajectory.localized.sum())
    total = counted(len(located.found.t_ns), "query")
    click.echo(f"{out}: in {located.city.name}, {localized} of {total} localized")
    console.say_next("report", out)
