"""The ``maptile`` command. Heavy imports are inside the commands, so that --help is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from data_prep.errors import MaptileError

FOLDER = click.Path(path_type=Path)

overrides = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override one key of the recipe; repeatable.",
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
seed = click.option(
    "--seed", type=click.IntRange(0), default=0, help="All randomness comes from this."
)


def recipe(default: str) -> Callable[[Any], Any]:
    """The option that names a recipe."""
    return click.option(
        "--config", default=default, show_default=True, help="A name in configs/, or a file."
    )


@click.group(context_settings={"show_default": True, "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def app(debug: bool) -> None:
    """Localize a vehicle on OpenStreetMap."""


@app.command()
@click.argument("paths", metavar="[SOURCE] CITY", nargs=-1, required=True, type=FOLDER)
@click.option("--place", help='A place name, as "Oxford, UK".')
@click.option("--bbox", metavar="W,S,E,N", help="Box in degrees.")
@click.option("--point", metavar="LAT,LON", help="Centre in degrees.")
@click.option("--radius", default=1000.0, help="Metres around --point.")
@click.option("--date", metavar="YYYY-MM-DD", help="The map as of a day.")
@recipe("city")
@overrides
def prepare(
    paths: tuple[Path, ...],
    place: str | None,
    bbox: str | None,
    point: str | None,
    radius: float,
    date: str | None,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Make a city folder (map raster, tiles, footprints) from OpenStreetMap.

    SOURCE is an .osm, .osm.gz, .osm.bz2, .osm.pbf, .gpkg, .geojson, .parquet or .tif file; leave it
    out with --place, --bbox, --point or the recipe of a city. CITY is the folder to write.
    """
    from data_prep.city.folder import CitySettings, prepare_city
    from data_prep.osm.footprints import OsmSource
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
@click.argument("city", type=FOLDER)
@click.argument("drive", type=FOLDER)
@click.option("--sensor", default="robotcar", help="robotcar (2 x LMS-151), hdl64 or hdl32.")
@click.option(
    "--trajectory",
    default="route",
    help="route: along the city's roads; or follow a drive's truth, an ins.csv, or a gps.csv "
    "(with ../vo/vo.csv).",
)
@click.option("--length", default=2000.0, help="Metres of a route.")
@click.option("--outside", is_flag=True, help="Drive on where the trajectory leaves the map.")
@click.option("--seed", type=click.IntRange(0), help="Default: the recipe's.")
@recipe("simulate")
@overrides
def simulate(
    city: Path,
    drive: Path,
    sensor: str,
    trajectory: str,
    length: float,
    outside: bool,
    seed: int | None,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Drive a vehicle with a LiDAR through a world like CITY, and record it in DRIVE.

    DRIVE is written in the file format of Oxford RobotCar.
    """
    from data_prep.city.folder import open_city
    from data_prep.simulate.record import SimulateSettings
    from data_prep.simulate.record import simulate as run
    from data_prep.simulate.trajectory import open_trajectory
    from maptile_loc.config import load_settings

    seeded = () if seed is None else (f"seed={seed}",)
    settings = load_settings(SimulateSettings, config, [*overrides, *seeded])
    opened = open_city(city)
    path = open_trajectory(trajectory, opened, length, settings.seed, outside)
    run(opened, path, drive, sensor, settings)
    print(f"{drive}: written")


@app.command()
@click.argument("city", type=FOLDER)
@click.argument("others", type=FOLDER, nargs=-1)
@click.option("--minutes", type=float, help="Stop after so many minutes.")
@device
@recipe("mapnet")
@overrides
def train(
    city: Path,
    others: tuple[Path, ...],
    minutes: float | None,
    device: str,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Train a model for CITY on tiles rendered from its map alone.

    OTHERS are more cities to learn from, for models that then serve in any (--config retrieval).
    """
    from data_prep.city.folder import open_city
    from maptile_loc.config import load_settings
    from maptile_loc.learn.loop import train as run
    from maptile_loc.learn.settings import ModelSettings

    settings = load_settings(ModelSettings, config, overrides)
    more = [open_city(other) for other in others]
    folder = run(open_city(city), settings, minutes=minutes, device=device, others=more)
    print(f"{folder}: trained")


@app.command()
@click.argument("city", type=FOLDER)
@click.argument("drive", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Folder to write the trajectory to.")
@click.option("--method", default="match", help="match, mapnet, cells or retrieval.")
@click.option("--model", type=FOLDER, help="Model folder; default: the city's newest.")
@click.option(
    "--heading", default="known", help="known, prior:DEG (to a standard deviation) or unknown."
)
@click.option("--submap", default=50.0, help="Metres of travel per query; 0: one scan.")
@click.option("--every", default=20.0, help="Metres between queries; 0: every scan.")
@click.option("--online", is_flag=True, help="Use nothing that comes after a query.")
@click.option(
    "--odometry",
    default="auto",
    help="auto: the drive's, or made from its scans where it has none; lidar: made from its scans.",
)
@click.option(
    "--format",
    default="auto",
    help="auto, robotcar, kitti, kitti360, kitti_odometry, argoverse2, nuscenes, clouds or colmap.",
)
@click.option("--sensors", help="Comma-separated; default: the format's usual ones.")
@click.option("--start", type=float, help="Seconds from the first scan.")
@click.option("--end", type=float, help="Seconds from the first scan.")
@click.option("--prior", metavar="LAT,LON,RADIUS", help="Search only there (metres).")
@device
@seed
@recipe("localize")
@overrides
def localize(
    city: Path,
    drive: Path,
    out: Path,
    method: str,
    model: Path | None,
    heading: str,
    submap: float,
    every: float,
    online: bool,
    odometry: str,
    format: str,
    sensors: str | None,
    start: float | None,
    end: float | None,
    prior: str | None,
    device: str,
    seed: int,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Find where on the map of CITY the DRIVE went.

    CITY is a city folder or a georeferenced raster (.tif); DRIVE is the
    folder of a drive, or its archives as downloaded.
    """
    from maptile_loc.config import load_settings
    from maptile_loc.pipeline import LocalizeSettings
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
        odometry=odometry,
        prior=_numbers(prior, 3, "--prior") if prior else None,
        device=device,
        seed=seed,
    )
    print(run_localize(options, load_settings(LocalizeSettings, config, overrides), out))


@app.command()
@click.argument("city", type=FOLDER)
@click.argument("drive", type=FOLDER)
@click.option("--model", type=FOLDER, help="Model folder; default: the city's newest mapnet.")
@click.option("--minutes", type=float, help="Stop after so many minutes.")
@click.option("--heading", default="known", help="known or unknown, as the model was trained.")
@click.option("--submap", default=50.0, help="Metres of travel per query tile; 0: one scan.")
@click.option("--every", default=20.0, help="Metres between query tiles; 0: every scan.")
@click.option("--format", default="auto", help="As of localize.")
@device
@recipe("mapnet_plus")
@overrides
def adapt(
    city: Path,
    drive: Path,
    model: Path | None,
    minutes: float | None,
    heading: str,
    submap: float,
    every: float,
    format: str,
    device: str,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Make a model of CITY used to what DRIVE sees (MapNet+); no truth is needed.

    The drive's odometry says how its tiles lie to each other. The model, a mapnet or a posterior,
    stays; the adapted one is written beside it, and is then the newest.
    """
    from data_prep.city.folder import open_city
    from data_prep.sources import open_drive
    from maptile_loc.config import load_settings
    from maptile_loc.learn.adapt import AdaptSettings
    from maptile_loc.learn.adapt import adapt as run
    from maptile_loc.pipeline import LocalizeSettings
    from maptile_loc.run import parse_heading
    from maptile_loc.search.mapnet import default_model

    settings = load_settings(AdaptSettings, config, overrides)
    opened = open_city(city)
    folder = run(
        opened,
        model or default_model(opened, "mapnet"),
        open_drive(drive, format),
        parse_heading(heading),
        submap,
        every,
        settings,
        load_settings(LocalizeSettings, "localize"),
        minutes,
        device,
    )
    print(f"{folder}: adapted")


@app.command()
@click.argument("out", type=FOLDER)
def evaluate(out: Path) -> None:
    """Compare the trajectory in OUT with the drive's truth, and write metrics.json."""
    from maptile_loc.report.metrics import evaluate_run, summary

    print(summary(evaluate_run(out)))


@app.command()
@click.argument("out", type=FOLDER)
def report(out: Path) -> None:
    """Draw one page to look at, OUT/report.html, that needs no network."""
    from maptile_loc.report.report import write_report

    print(write_report(out))


@app.command()
@click.argument("path", metavar="CITY_OR_DRIVE", type=FOLDER)
@click.option(
    "--picture",
    metavar="FILE.png",
    type=FOLDER,
    show_default="NAME_inspect.png in this folder",
    help="Where to draw it.",
)
@click.option("--submap", default=50.0, help="Metres of travel in the query tile; 0: one scan.")
@click.option(
    "--at",
    metavar="SECONDS",
    type=float,
    show_default="half-way",
    help="From the first scan to the query tile.",
)
def inspect(path: Path, picture: Path | None, submap: float, at: float | None) -> None:
    """Say what is in a city or a drive, and draw it.

    Of a drive it draws one query tile too; a city is a folder or a georeferenced raster (.tif).
    """
    from maptile_loc.report.inspect.inspect import inspect as look

    for line in look(path, picture, submap, at):
        print(line, flush=True)


@app.command("city-report")
@click.argument("city", type=FOLDER)
@click.option("--out", type=FOLDER, show_default="CITY/report", help="Folder to write to.")
@click.option("--submap", default=20.0, help="Metres of travel that a vehicle sees at once.")
@click.option(
    "--sensor", default="robotcar", help="robotcar (looks across the track) or hdl64 (all around)."
)
@click.option("--places", default=1500, help="Look at no more; a place is 20 m of road.")
@device
@seed
@recipe("localize")
@overrides
def city_report(
    city: Path,
    out: Path | None,
    submap: float,
    sensor: str,
    places: int,
    device: str,
    seed: int,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Say how well each place of CITY can be told from the others, and draw a map of it.

    CITY is a city folder, or a georeferenced raster (.tif) with --out.
    """
    from maptile_loc.config import load_settings
    from maptile_loc.pipeline import LocalizeSettings
    from maptile_loc.report.city.city_report import ReportOptions
    from maptile_loc.report.city.city_report import city_report as run

    options = ReportOptions(city, out, submap, sensor, places, device, seed)
    print(run(options, load_settings(LocalizeSettings, config, overrides)))


@app.command()
@click.argument("folder", type=FOLDER, default=Path("demo"))
@click.option("--minutes", default=3.0, help="Minutes of training.")
def demo(folder: Path, minutes: float) -> None:
    """All jobs without input: a made-up town, a drive through it, a model, a trajectory."""
    from maptile_loc.cli.demo import demo as run

    print(run(folder, minutes))


def _numbers(text: str, count: int, option: str) -> tuple[Any, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise MaptileError(f"{option} {text}: expected {count} numbers separated by commas")
    return values


def _fail(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Run the command; a user's error is one line and status 2, ``--debug`` shows where."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, prog_name="maptile")
    except MaptileError as error:
        if debug:
            raise
        _fail(str(error))
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}; check its permissions")
