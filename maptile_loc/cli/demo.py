"""Do all three jobs on a made-up town, with nothing to download."""

from __future__ import annotations

from pathlib import Path

import click

from maptile_loc.cli.parts import console, options

ROUTE_M = 2000.0
"""Length of the simulated drive, metres."""


@click.command()
@click.argument("folder", type=options.PATH, default=Path("demo"))
@click.option("--minutes", metavar="N", default=3.0, help="Minutes of training.")
def command(folder: Path, minutes: float) -> None:
    """Prepare, simulate, train and localize on a made-up town, with nothing to download.

    FOLDER is made if need be; the demo's own files in it are made again.
    """
    import maptile_loc as ml
    from data_prep.simulate.town import write_town
    from maptile_loc.report.page.html_report import overview_png, write_report

    town, drive = folder / "town.osm", folder / "drive"
    click.echo("1/5 prepare a made-up town from its OSM file")
    write_town(town)
    city = ml.prepare_city(town, folder / "city", overrides=["name=demo town"])
    with console.progress_bar() as progress:
        click.echo(f"2/5 simulate a drive of {ROUTE_M:.0f} m in a world that differs from the map")
        made = ml.simulate(city, drive, length_m=ROUTE_M, seed=1, progress=progress)
        click.echo(f"3/5 train a MapNet (posterior) on the map alone, for {minutes:g} minutes")
        ml.train(city, config="posterior", minutes=minutes, progress=progress)
    for number, method in ((4, "mapnet"), (5, "match")):
        click.echo(f"{number}/5 localize the drive, --method {method}")
        out = folder / method
        with console.progress_bar() as progress:
            found = ml.localize(city, made, method=method, keep=out, progress=progress)
        metrics = found.save(out, made.truth)
        localized = int(found.trajectory.localized.sum())
        click.echo(f"{out}: {localized} of {len(found.t_ns)} queries localized\n{metrics}")
    page = write_report(folder / "match")
    overview_png(folder / "match", folder / "overview.png")
    click.echo(f"look at {page} and {folder / 'overview.png'}")
    console.say_next("prepare", "SOURCE", "CITY")
