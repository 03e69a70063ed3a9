"""Do all three jobs on a made-up town, with nothing to download."""

from __future__ import annotations

from pathlib import Path

import click

from data_prep.counted import counted
from maptile_loc.cli.parts import console, options
from maptile_loc.cli.parts.output import writing
from maptile_loc.cli.parts.progress import progress_bar

FILES = ("town.osm", "city", "drive", "mapnet", "match", "overview.png")
"""What the demo writes."""
ROUTE_M = 2000.0
"""Length of the simulated drive, metres."""


@click.command()
@click.argument("folder", type=options.PATH, default=Path("demo"))
@options.force
@click.option("--minutes", metavar="N", default=3.0, help="Minutes of training.")
def command(folder: Path, minutes: float, force: bool) -> None:
    """Prepare, simulate, train and localize on a made-up town, with nothing to download.

    FOLDER is made if need be; the demo's own files in it are made again.
    """
    from data_prep.errors import MaptileError

    if not force and (taken := _not_of_the_demo(folder)):
        raise MaptileError(
            f"{folder / taken}: not of the demo, and is not replaced; choose another folder, or "
            "add --force"
        )
    with writing(folder, "match/run.json", again="goes on or starts again"):
        _demo(folder, minutes, force)
    console.say_next("prepare", "SOURCE", "CITY")


def _not_of_the_demo(folder: Path) -> str | None:
    """The first entry that the demo would replace, unless an earlier demo made it."""
    from data_prep.simulate.town import is_town
    from data_prep.standing import kind_of

    present = [name for name in FILES if (folder / name).exists()]
    town, found = folder / "town.osm", kind_of(folder / "city")
    if not present or (is_town(town) and (found is None or found[1].get("source") == town.name)):
        return None
    return present[0]


def _demo(folder: Path, minutes: float, force: bool) -> None:
    import maptile_loc as ml
    from data_prep.simulate.town import write_town
    from maptile_loc.report.page.html_report import overview_png, write_report

    town, drive = folder / "town.osm", folder / "drive"
    click.echo("1/5 prepare a made-up town from its OSM file")
    write_town(town)
    city = ml.prepare_city(town, folder / "city", overrides=["name=demo town"], force=force)
    with progress_bar() as progress:
        click.echo(f"2/5 simulate a drive of {ROUTE_M:.0f} m in a world that differs from the map")
        made = ml.simulate(city, drive, length_m=ROUTE_M, seed=1, force=force, progress=progress)
        click.echo(f"3/5 train a MapNet (posterior) on the map alone, for {minutes:g} minutes")
        ml.train(city, config="posterior", minutes=minutes, force=force, progress=progress)
    for number, method in ((4, "mapnet"), (5, "match")):
        click.echo(f"{number}/5 localize the drive, --method {method}")
        out = folder / method
        with progress_bar() as progress:
            found = ml.localize(city, made, method=method, keep=out, progress=progress)
        metrics = found.save(out, made.truth, force)
        localized, total = int(found.trajectory.localized.sum()), counted(len(found.t_ns), "query")
        click.echo(f"{out}: {localized} of {total} localized\n{metrics}")
    page = write_report(folder / "match")
    overview_png(folder / "match", folder / "overview.png")
    click.echo(f"look at {page} and {folder / 'overview.png'}")
