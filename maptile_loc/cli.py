"""The ``maptile`` command. Heavy imports are inside the commands, so that --help is quick."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from data_prep.errors import MaptileError

app = typer.Typer(
    help="Localize a vehicle on OpenStreetMap.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the recipe; repeatable."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
CityArgument = Annotated[
    Path, typer.Argument(help="City folder, or a georeferenced raster (.tif).")
]
Seed = Annotated[int, typer.Option(help="All randomness comes from this.")]


@app.command()
def prepare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[SOURCE] CITY",
            help="SOURCE: .osm, .osm.gz, .osm.bz2, .osm.pbf, .gpkg, .geojson, .parquet or .tif; "
            "leave it out with --place, --bbox, --point or a city recipe. CITY: folder to write.",
        ),
    ],
    place: Annotated[str | None, typer.Option(help='A place name, as "Oxford, UK".')] = None,
    bbox: Annotated[str | None, typer.Option(metavar="W,S,E,N", help="Box in degrees.")] = None,
    point: Annotated[str | None, typer.Option(metavar="LAT,LON", help="Centre in degrees.")] = None,
    radius: Annotated[float, typer.Option(help="Metres around --point.")] = 1000.0,
    date: Annotated[str | None, typer.Option(help="The map as of a day, YYYY-MM-DD.")] = None,
    config: Annotated[
        str, typer.Option(help="City recipe: a name in configs/, or a file.")
    ] = "city",
    overrides: Overrides = None,
) -> None:
    """Make a city folder (map raster, tiles, footprints) from OpenStreetMap."""
    from data_prep.city import CitySettings, prepare_city
    from data_prep.osm import OsmSource
    from maptile_loc.config import load_settings

    settings = load_settings(CitySettings, config, overrides)
    *sources, folder = paths
    if len(sources) > 1:
        raise MaptileError("prepare takes one SOURCE and one CITY; quote names that hold blanks")
    named = [sources, place, bbox, point]
    if sum(bool(one) for one in named) > 1:
        raise MaptileError("give one of SOURCE, --place, --bbox or --point, not several")
    if any(named):
        source = OsmSource(
            path=sources[0] if sources else None,
            place=place,
            bbox=_numbers(bbox, 4, "--bbox") if bbox else None,
            point=_numbers(point, 2, "--point") if point else None,
            radius_m=radius if point else None,
            date=date,
        )
    else:
        source = replace(settings.source, date=date or settings.date)
    city = prepare_city(source, folder, settings)
    for note in city.notes:
        print(f"note: {note}")
    raster = city.raster
    print(
        f"{folder}: {city.name}, {len(city.buildings())} buildings, {len(city.roads())} roads, "
        f"{raster.width} x {raster.height} pixels of {raster.resolution} m "
        f"({raster.area_km2:.2f} km2), {len(city.tiles())} tiles"
    )


@app.command()
def simulate(
    city: CityArgument,
    drive: Annotated[Path, typer.Argument(help="Folder to write, in RobotCar's format.")],
    sensor: Annotated[
        str, typer.Option(help="robotcar (2 x LMS-151), hdl64 or hdl32.")
    ] = "robotcar",
    trajectory: Annotated[
        str, typer.Option(help="An ins.csv, a gps.csv (with vo/vo.csv beside it), or route.")
    ] = "route",
    length: Annotated[float, typer.Option(help="Metres of a route.")] = 2000.0,
    seed: Seed = 0,
    config: Annotated[
        str, typer.Option(help="Recipe: a name in configs/, or a file.")
    ] = "simulate",
    overrides: Overrides = None,
) -> None:
    """Drive a vehicle with a LiDAR through a world like the city, and record it."""
    from data_prep.city import open_city
    from data_prep.simulate import SimulateSettings
    from data_prep.simulate import simulate as run
    from data_prep.trajectory import open_trajectory
    from maptile_loc.config import load_settings

    settings = load_settings(SimulateSettings, config, [*(overrides or []), f"seed={seed}"])
    opened = open_city(city)
    run(opened, open_trajectory(trajectory, opened, length, seed), drive, sensor, settings)
    print(f"{drive}: written")


@app.command()
def train(
    city: CityArgument,
    config: Annotated[str, typer.Option(help="Model recipe: a name, or a file.")] = "mapnet",
    minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes.")] = None,
    device: Device = "auto",
    overrides: Overrides = None,
) -> None:
    """Train a model for the city on tiles rendered from its map alone."""
    from data_prep.city import open_city
    from maptile_loc.config import load_settings
    from maptile_loc.train import ModelSettings
    from maptile_loc.train import train as run

    settings = load_settings(ModelSettings, config, overrides)
    print(f"{run(open_city(city), settings, minutes=minutes, device=device)}: trained")


@app.command()
def localize(
    city: CityArgument,
    drive: Annotated[Path, typer.Argument(help="Folder of the drive.")],
    out: Annotated[Path, typer.Option(help="Folder to write the trajectory to.")],
    method: Annotated[str, typer.Option(help="match or mapnet.")] = "match",
    model: Annotated[Path | None, typer.Option(help="Default: the city's newest.")] = None,
    heading: Annotated[
        str, typer.Option(help="known, prior:DEG (known to a standard deviation) or unknown.")
    ] = "known",
    submap: Annotated[float, typer.Option(help="Metres of travel per query; 0: one scan.")] = 50.0,
    every: Annotated[float, typer.Option(help="Metres between queries; 0: every scan.")] = 20.0,
    online: Annotated[bool, typer.Option("--online", help="Use nothing after a query.")] = False,
    format: Annotated[str, typer.Option(help="auto, robotcar, kitti or clouds.")] = "auto",
    sensors: Annotated[
        str | None, typer.Option(help="Comma-separated; default: all usual.")
    ] = None,
    start: Annotated[float | None, typer.Option(help="Seconds from the first scan.")] = None,
    end: Annotated[float | None, typer.Option(help="Seconds from the first scan.")] = None,
    prior: Annotated[
        str | None, typer.Option(metavar="LAT,LON,RADIUS", help="Search only there (metres).")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    config: Annotated[
        str, typer.Option(help="Recipe: a name in configs/, or a file.")
    ] = "localize",
    overrides: Overrides = None,
) -> None:
    """Find where on the map the drive went."""
    from maptile_loc.config import load_settings
    from maptile_loc.localize import LocalizeSettings
    from maptile_loc.run import RunOptions, parse_heading
    from maptile_loc.run import run as run_localize

    options = RunOptions(
        city=city,
        drive=drive,
        format=format,
        sensors=tuple(sensors.split(",")) if sensors else None,
        start=start,
        end=end,
        method=method,
        model=model,
        heading=parse_heading(heading),
        submap_m=submap,
        every_m=every,
        online=online,
        prior=_numbers(prior, 3, "--prior") if prior else None,
        device=device,
        seed=seed,
    )
    print(run_localize(options, load_settings(LocalizeSettings, config, overrides), out))


@app.command()
def evaluate(out: Annotated[Path, typer.Argument(help="Folder that localize wrote.")]) -> None:
    """Compare a trajectory with the drive's truth, and write metrics.json."""
    from maptile_loc.evaluate import evaluate_run, summary

    print(summary(evaluate_run(out)))


@app.command()
def report(out: Annotated[Path, typer.Argument(help="Folder that localize wrote.")]) -> None:
    """Draw one page to look at, report.html, that needs no network."""
    from maptile_loc.report import write_report

    print(write_report(out))


@app.command()
def inspect(path: Annotated[Path, typer.Argument(help="A city, or a drive.")]) -> None:
    """Say what is in a city or a drive."""
    from maptile_loc.inspect import inspect as look

    print("\n".join(look(path)))


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to work in.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Minutes of training.")] = 3.0,
) -> None:
    """Prepare a made-up town, simulate a drive, train, localize and report: all jobs, no input."""
    from maptile_loc.demo import demo as run

    print(run(folder, minutes))


def _numbers(text: str, count: int, option: str) -> tuple[Any, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise MaptileError(f"{option} {text}: expected {count} numbers separated by commas")
    return values


def main() -> None:
    """Run the command; a user's error is one line and status 2, ``--debug`` shows where."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except MaptileError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
