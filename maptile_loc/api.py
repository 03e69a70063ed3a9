"""The Python API: every job of maptile-loc as one function, with the command line's defaults.

Cities and drives are given as objects or as paths. City first, then drive, everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from data_prep.city import folder as city_folder
from data_prep.city.folder import City, CitySettings
from data_prep.drive import Drive, TruthTrack
from data_prep.errors import MaptileError
from data_prep.osm.source import OsmSource
from data_prep.progress import Progress, silent
from data_prep.simulate import record
from data_prep.simulate.trajectory import open_trajectory
from data_prep.sources import open_drive as open_source
from maptile_loc.arguments import PathLike, as_city, as_heading, as_pair, several
from maptile_loc.batch.localized import localized
from maptile_loc.config import load_settings
from maptile_loc.device import pick_device
from maptile_loc.odometry.stored import with_needed_odometry
from maptile_loc.recipe import load_recipe, with_profile
from maptile_loc.report.metrics import Metrics
from maptile_loc.types import HeadingKnowledge, Localization, Queries


def prepare_city(
    source: PathLike | OsmSource | None,
    folder: PathLike,
    *,
    config: PathLike = "city",
    overrides: Sequence[str] = (),
    date: str | None = None,
    cluster: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> City:
    """Make a city folder: map raster, footprints and overlapping tiles.

    Args:
        source: An OSM file (.osm, .osm.gz, .osm.bz2, .osm.pbf), a vector file (.gpkg, .geojson,
            .parquet), a georeferenced raster (.tif), or an ``OsmSource`` that names a place, box
            or point. None: the source that the recipe names.
        folder: The folder to write; a city of the same source is replaced, its models stay.
        config: Recipe: a name in ``configs/``, or a YAML file.
        overrides: ``key=value`` strings that override single keys of the recipe.
        date: State of the map, ``YYYY-MM-DD``, where the source is online.
        cluster: As of ``localize``: its workers burn the footprints.
        force: Replace whatever stands at ``folder``.
        progress: Is called as the work proceeds.

    Returns:
        The city, open.

    Raises:
        MaptileError: The source cannot be read or holds no building; the folder is not writable;
            there is no such cluster.
    """
    settings = load_settings(CitySettings, config, overrides)
    if source is None:
        source = replace(settings.source, date=date or settings.date)
    elif not isinstance(source, OsmSource):
        source = OsmSource(path=Path(source), date=date)
    return city_folder.prepare_city(
        source, Path(folder), settings, force=force, progress=progress, cluster=cluster
    )


def open_city(path: PathLike) -> City:
    """Open a city folder, or a georeferenced raster (.tif) with bands named building and road.

    Raises:
        MaptileError: There is no city, or files of it are missing or changed.
    """
    return city_folder.open_city(Path(path))


def open_drive(
    path: PathLike,
    format: str = "auto",
    sensors: Sequence[str] | None = None,
    start: float | None = None,
    end: float | None = None,
    progress: Progress = silent,
    columns: Sequence[str] | None = None,
) -> Drive:
    """Open a drive.

    Args:
        path: Its folder, its archives, a bag, or one cloud.
        format: Name of the format, or "auto".
        sensors: Names of the sensors to use, of a bag its topics; None: the format's default.
        start: Seconds from the first scan before which scans are left out.
        end: The same, after which they are left out.
        progress: Is called while a compressed archive is unpacked.
        columns: Names of the columns of .bin clouds; None: recognised by their contents.

    Raises:
        MaptileError: There is no drive, or more than one; a file is damaged; no scan is left.
    """
    return open_source(path, format, sensors or None, start, end, progress, columns)


def localize(
    city: City | PathLike,
    drive: Drive | PathLike,
    *,
    method: str = "match",
    model: PathLike | None = None,
    heading: str | HeadingKnowledge | None = None,
    submap_m: float = 50.0,
    every_m: float = 20.0,
    online: bool = False,
    odometry: Literal["auto", "lidar"] = "auto",
    prior: tuple[float, float, float] | None = None,
    near: Sequence[str] = (),
    gnss: bool = False,
    search: bool = True,
    pgo: bool = False,
    sensor_profile: PathLike | None = None,
    device: str = "auto",
    cluster: str | None = None,
    seed: int = 0,
    config: PathLike = "localize",
    overrides: Sequence[str] = (),
    keep: PathLike | None = None,
    progress: Progress = silent,
) -> Localization:
    """Localize a drive on the map of a city: poses of every stage. Its truth is never read.

    Args:
        city: A city, or its path.
        drive: A drive, or its path.
        method: Search method: "match", "mapnet", "cells", "retrieval", "panorama" or two by "+".
        model: Folder of a trained model; None: the city's newest one of this method.
        heading: "known", "prior:DEG" or "unknown"; None: known where the drive has headings.
        submap_m: Metres of travel that are put together for a query; 0 is one scan.
        every_m: Metres of travel between queries; 0 is a query per scan.
        online: Use nothing that comes after a query: the drive is pushed to a ``Localizer``.
        odometry: "auto": the drive's own, where it has one; "lidar": made from its scans.
        prior: Latitude, longitude (degrees) and radius (metres) of the only area to be searched.
        near: Names of streets, squares or buildings, near one of which alone is searched.
        gnss: Whether the drive's GNSS is used, as a witness that may lie.
        search: Whether the map is searched; otherwise a model's regressed poses are the result.
        pgo: Whether regressed poses are optimised with the odometry, too, as MapNet+PGO.
        sensor_profile: Folder of a wall detector that ``adapt`` wrote; None: the recipe's.
        device: "auto", "cpu" or "cuda".
        cluster: "local:N": N processes share the work; or the address of a scheduler of Dask.
        seed: Seed of all randomness.
        config: Recipe: a name in ``configs/``, or a YAML file.
        overrides: ``key=value`` strings that override single keys of the recipe.
        keep: Folder in which odometry that is made from the scans is kept, and found again.
        progress: Is called as the work proceeds.

    Raises:
        MaptileError: Something that is named does not exist or does not fit.
    """
    settings = with_profile(load_recipe(config, overrides), sensor_profile)
    city, drive = as_pair(city, drive)
    queries = Queries(submap_m, every_m, online, as_heading(heading, drive), seed, gnss)
    how = {"method": method, "odometry": odometry, "prior": prior, "near": several(near)}
    given = how | {"device": device, "search": search, "pgo": pgo, "cluster": cluster}
    return localized(city, drive, queries, settings, model, given, keep, progress)


def train(
    city: City | PathLike,
    *,
    config: PathLike = "mapnet",
    overrides: Sequence[str] = (),
    minutes: float | None = None,
    others: Sequence[City | PathLike] = (),
    processes: int = 1,
    device: str = "auto",
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Train a model of a city on tiles made from its map alone.

    Args:
        city: A city, or its path.
        config: Recipe: a name in ``configs/``, or a YAML file.
        overrides: ``key=value`` strings that override single keys of the recipe.
        minutes: Stop after this many minutes.
        others: More cities, for models that are bound to none (``config="retrieval"``).
        processes: Processes of this machine that share each batch, on the CPU.
        device: "auto", "cpu" or "cuda".
        force: Replace whatever stands at the model's folder.
        progress: Is called as the training proceeds.

    Returns:
        The model's folder, ``CITY/models/NAME``.

    Raises:
        MaptileError: The city has no folder or no roads; no such recipe or device; interrupted.
    """
    from maptile_loc.learn import loop
    from maptile_loc.learn.settings import ModelSettings

    settings = load_settings(ModelSettings, config, overrides)
    cities = [as_city(other) for other in several(others)]
    how = minutes, device, True, cities, progress, force, processes
    return loop.train(as_city(city), settings, *how)


def adapt(
    city: City | PathLike,
    drive: Drive | PathLike,
    *,
    what: Literal["model", "walls"] = "model",
    model: PathLike | None = None,
    out: PathLike | None = None,
    minutes: float | None = None,
    heading: str | HeadingKnowledge | None = None,
    gnss: bool = False,
    submap_m: float = 50.0,
    every_m: float = 20.0,
    device: str = "auto",
    config: PathLike | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Adapt a model of a city to a drive (MapNet+), or the wall detector to the drive's sensor.

    A model is adapted by the drive's odometry, the detector by the map: the drive is localized, and
    the map's buildings label its scans. ``localize(..., sensor_profile=...)`` uses the detector.

    Args:
        city: A city, or its path.
        drive: A drive, or its path; its truth is never read.
        what: What is adapted: "model" or "walls".
        model: Folder of the model; None: the city's newest one of method "mapnet". It stays as is.
        out: Folder of the sensor profile that is written; for walls, which need it.
        minutes: Stop after this many minutes; for a model.
        heading: As the model was trained (None: known); for walls as in ``localize``.
        gnss: Whether the drive's GNSS gives the translations; for a model.
        submap_m: Metres of travel per query tile; 0 is one scan.
        every_m: Metres of travel between query tiles; 0 is one per scan.
        device: "auto", "cpu" or "cuda".
        config: Recipe; None: ``mapnet_plus`` for a model, ``adapt_walls`` for walls.
        overrides: ``key=value`` strings that override single keys of the recipe.
        force: Replace whatever stands at the folder that is written.
        progress: Is called as the work proceeds.

    Returns:
        The folder of the adapted model, beside the model; for walls, ``out``.

    Raises:
        MaptileError: No model can be adapted; the drive lacks something, or is not sure of its
            poses; the map does not fit it; ``out`` is in the city; something else stands there.
    """
    city, drive = as_pair(city, drive)
    if what == "walls":
        if out is None or model is not None or minutes is not None or gnss:
            raise MaptileError("walls are adapted with an out folder, without model, minutes, GNSS")
        queries = Queries(submap_m, every_m, heading=as_heading(heading, drive))
        chosen = config or "adapt_walls", overrides
        return _adapt_walls(city, drive, Path(out), queries, chosen, device, force, progress)
    if what != "model" or out is not None:
        raise MaptileError(f"what={what!r}, out={out}: a model has no out folder, walls have one")
    known = "known" if heading is None else heading
    queries = Queries(submap_m, every_m, heading=as_heading(known, drive), gnss=gnss)
    chosen = config or "mapnet_plus", overrides
    return _adapt_model(city, drive, model, queries, chosen, minutes, device, force, progress)


def _adapt_model(
    city: City,
    drive: Drive,
    model: PathLike | None,
    queries: Queries,
    recipe: tuple[PathLike, Sequence[str]],
    minutes: float | None,
    device: str,
    force: bool,
    progress: Progress,
) -> Path:
    from maptile_loc.learn.adapt import AdaptSettings, adapt
    from maptile_loc.search.engine.locator import newest_model

    settings = load_settings(AdaptSettings, *recipe)
    folder = newest_model(city, "mapnet") if model is None else Path(model)
    asked = replace(queries, seed=settings.seed)
    how = settings, load_recipe(), minutes, device, progress, force
    return adapt(city, folder, drive, asked, *how)


def _adapt_walls(
    city: City,
    drive: Drive,
    out: Path,
    queries: Queries,
    recipe: tuple[PathLike, Sequence[str]],
    device: str,
    force: bool,
    progress: Progress,
) -> Path:
    from maptile_loc.learn.sensor_profile import adapt_walls, check_out
    from maptile_loc.learn.teacher import TeachSettings

    settings, localize = load_settings(TeachSettings, *recipe), load_recipe()
    queries, on = replace(queries, seed=settings.fit.seed), pick_device(device)
    check_out(out, city, drive, force)
    drive = with_needed_odometry(drive, queries, "auto", localize.odometry, None, progress)
    return adapt_walls(city, drive, queries, out, settings, localize, on, progress, force)


def simulate(
    city: City | PathLike,
    path: PathLike,
    *,
    sensor: str = "robotcar",
    trajectory: str = "route",
    length_m: float = 2000.0,
    outside: bool = False,
    seed: int | None = None,
    cluster: str | None = None,
    config: PathLike = "simulate",
    overrides: Sequence[str] = (),
    force: bool = False,
    progress: Progress = silent,
) -> Drive:
    """Drive a vehicle with a LiDAR through a world that differs from the map, and record it.

    Args:
        city: A city, or its path.
        path: Folder to write, in the file format of Oxford RobotCar; an older drive of the city is
            replaced.
        sensor: "robotcar" (two LMS-151), "hdl64" or "hdl32".
        trajectory: "route" along roads, or the path of a drive with truth, ins.csv or gps.csv.
        length_m: Length of a route, metres.
        outside: Continue where the trajectory leaves the map.
        seed: Seed of all randomness; None: the recipe's.
        cluster: As of ``localize``: its workers cast the rays.
        config: Recipe: a name in ``configs/``, or a YAML file.
        overrides: ``key=value`` strings that override single keys of the recipe.
        force: Replace whatever stands at ``path``.
        progress: Is called as the work proceeds.

    Returns:
        The drive, open.

    Raises:
        MaptileError: The trajectory does not fit the map, the folder cannot be written, or there is
            no such cluster.
    """
    seeded = () if seed is None else (f"seed={seed}",)
    settings = load_settings(record.SimulateSettings, config, [*several(overrides), *seeded])
    city = as_city(city)
    track = open_trajectory(trajectory, city, length_m, settings.seed, outside)
    record.simulate(city, track, Path(path), sensor, settings, progress, force, cluster)
    return open_drive(path)


def evaluate(found: Localization, truth: TruthTrack | None) -> Metrics:
    """Compare a localized drive with its truth.

    Args:
        found: The localized drive.
        truth: ``drive.truth``.

    Returns:
        The figures of ``metrics.json``; they print as a table.

    Raises:
        MaptileError: There is no truth, or the two are in the wrong order.
    """
    if not isinstance(found, Localization):
        raise MaptileError("evaluate: the localized drive comes first, then its truth")
    return found.evaluate(truth)
