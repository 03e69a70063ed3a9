"""Record a simulated drive through a world that differs from the map."""

from __future__ import annotations

from pathlib import Path

import click

from data_prep.counted import counted
from data_prep.simulate.sensors import SENSORS
from maptile_loc.cli.parts import console, options
from maptile_loc.cli.parts.output import writing
from maptile_loc.cli.parts.progress import progress_bar


@click.command()
@click.argument("city", type=options.PATH)
@click.argument("drive", type=options.PATH)
@click.option(
    "--sensor",
    type=click.Choice(list(SENSORS)),
    default="robotcar",
    help="; ".join(f"{name}: {sensor.summary}" for name, sensor in SENSORS.items()),
)
@click.option(
    "--trajectory",
    metavar="route|PATH",
    default="route",
    help="route: along the city's roads. PATH: the truth of a drive, an ins.csv, or a gps.csv with "
    "../vo/vo.csv.",
)
@click.option("--length", metavar="M", default=2000.0, help="Length of a route, metres.")
@click.option("--outside", is_flag=True, help="Continue where the trajectory leaves the map.")
@click.option(
    "--seed", type=click.IntRange(0), show_default="the recipe's", help="Seed of all randomness."
)
@options.cluster
@options.force
@options.recipe("simulate")
@options.overrides
def command(
    city: Path,
    drive: Path,
    sensor: str,
    trajectory: str,
    length: float,
    outside: bool,
    seed: int | None,
    cluster: str | None,
    force: bool,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Record a simulated drive through a world that differs from the map.

    A vehicle with a LiDAR drives through CITY, and its scans, odometry and truth are written to
    DRIVE, in the file format of Oxford RobotCar.
    """
    import maptile_loc as ml

    with writing(drive, "world.json"), progress_bar() as progress:
        made = ml.simulate(
            city,
            drive,
            sensor=sensor,
            trajectory=trajectory,
            length_m=length,
            outside=outside,
            seed=seed,
            cluster=cluster,
            force=force,
            config=config,
            overrides=overrides,
            progress=progress,
        )
    console.say_recipe(config)
    click.echo(f"{drive}: {counted(len(made.scans.t_ns), 'scan')} written")
    console.say_next("localize", city, drive, "--out", "OUT")
