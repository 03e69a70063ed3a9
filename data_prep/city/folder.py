"""The city folder: how it is made from a map source, opened and checked.

``city.json`` describes the city; ``map.tif``, ``height.tif`` (where heights are known),
``buildings.parquet``, ``roads.parquet``, ``squares.parquet`` (where squares are named) and
``tiles.parquet`` hold its content. Models trained for the city are stored beside them in
``models/`` and refer to it by the content hash.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
from numpy.typing import NDArray

from data_prep.city.burn import burnt, write_heights, write_map
from data_prep.city.content_hash import ContentDigest, content_hash
from data_prep.city.integrity import (
    check_description,
    check_georeference,
    check_map,
    file_digests,
    map_seal,
)
from data_prep.city.outlines import building_outlines, no_roads, no_squares
from data_prep.city.parquet import read_table, write_table
from data_prep.city.raster import ATTRIBUTION, MapRaster, read_raster
from data_prep.city.replaced import check_city_folder, models_left, origin_of
from data_prep.city.tiles import TileSettings, Tiling, tile_grid
from data_prep.cluster import Workers, connected
from data_prep.errors import MaptileError
from data_prep.files import (
    check_name,
    check_version,
    finish_swap,
    read_json,
    swapped_folder,
    write_json,
)
from data_prep.geometry import Array, metric_crs
from data_prep.locks import locked
from data_prep.osm.footprints import OnlineSettings, OsmData, OsmSource, read_osm
from data_prep.progress import Progress, silent
from data_prep.regular import check_regular
from data_prep.settings import Positive, Settings
from data_prep.standing import MADE_FROM

FORMAT = "maptile-city"
"""What ``format`` in ``city.json`` says."""
FORMAT_VERSION = 1
"""The version of the folder's layout that is written and read."""
CITY_FILES = (
    "city.json",
    "map.tif",
    "height.tif",
    "buildings.parquet",
    "roads.parquet",
    "squares.parquet",
    "tiles.parquet",
)
"""The files of a city; all other entries of the folder are the user's and stay when it is made
again."""
CACHE = "cache"
"""The folder of what was computed of a city; it is dropped when the city is made again."""
OPTIONAL_FILES = ("height.tif", "squares.parquet")
"""Those that a city without known heights, or without squares, does not have."""
RASTER_SUFFIXES = (".tif", ".tiff")
"""Suffixes of the files that are read as a georeferenced raster."""


class CitySettings(Settings):
    """How a city is made from a map source.

    Attributes:
        name: Name of the city; the folder's name by default.
        path, place, bbox, point, radius_m, date: The map source, as in ``OsmSource``.
        crs: The map frame, such as ``EPSG:32630``; by default the UTM zone of the map's centre.
        resolution: Metres per pixel.
        tiles: How the map is cut into tiles.
        online: The servers that are asked for place names and map data.
    """

    name: str | None = None
    path: Path | None = None
    place: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    radius_m: float | None = None
    date: str | None = None
    crs: str | None = None
    resolution: Positive = 0.5
    tiles: TileSettings = TileSettings()
    online: OnlineSettings = OnlineSettings()

    @property
    def source(self) -> OsmSource:
        """The map source that the settings name.

        Raises:
            MaptileError: They name none, or several.
        """
        return OsmSource(self.path, self.place, self.bbox, self.point, self.radius_m, self.date)


@dataclass(frozen=True, repr=False)
class City:
    """A city: its map raster, and access to its tables.

    Attributes:
        folder: The city folder; None for a bare raster.
        name: Name of the city.
        raster: The map raster.
        reference: (2,) east, north of the reference tile's centre, metres, map frame.
        source: The map's file name, or the area that was requested from OpenStreetMap.
        source_date: Date of the map data (ISO 8601); None if unknown.
        notes: What a user should know about the map data, one line each.
        path: The folder, or the file of a bare raster.
    """

    folder: Path | None
    name: str
    raster: MapRaster
    reference: Array
    source: str
    source_date: str | None
    notes: tuple[str, ...]
    path: Path | None = None

    def __repr__(self) -> str:
        raster = self.raster
        width, height = raster.east - raster.west, raster.north - raster.south
        where = "bare raster" if self.folder is None else f"in {self.folder}"
        return (
            f"<City {self.name!r}: {width:.0f} x {height:.0f} m ({self.area_km2:.2f} km2) at "
            f"{raster.resolution:g} m/px, {raster.crs.name}, {where}>"
        )

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hexadecimal) of the pixels, their georeference and the reference tile.

        That of a city folder is known; of anything else, it is computed when it is first used.
        """
        return content_hash(self.raster, self.reference)

    @property
    def area_km2(self) -> float:
        """Area of the map raster in square kilometres."""
        return self.raster.area_km2

    def tiles(self) -> gpd.GeoDataFrame:
        """Return the overlapping tiles, a row each, with the columns of ``tiles.tile_grid``.

        Raises:
            MaptileError: The file is damaged.
        """
        if self.folder is None:
            return tile_grid(self.raster, TileSettings())
        return read_table(self.folder / "tiles.parquet")

    def buildings(self) -> gpd.GeoDataFrame:
        """Return the building table, with the columns of ``OsmData.buildings``.

        For a bare raster, the polygons are the outlines of its connected building pixels.

        Raises:
            MaptileError: The file is damaged.
        """
        if self.folder is None:
            return building_outlines(self.raster)
        return read_table(self.folder / "buildings.parquet")

    def roads(self) -> gpd.GeoDataFrame:
        """Return the road table, with the columns of ``OsmData.roads``; empty for a bare raster.

        Raises:
            MaptileError: The file is damaged.
        """
        if self.folder is None:
            return no_roads(self.raster.crs)
        return read_table(self.folder / "roads.parquet")

    def squares(self) -> gpd.GeoDataFrame:
        """Return the table of squares: osm_id, name, geometry; empty where none has a name."""
        if self.folder is None or not (self.folder / "squares.parquet").is_file():
            return no_squares(self.raster.crs)
        return read_table(self.folder / "squares.parquet")


def prepare_city(
    source: OsmSource,
    folder: str | Path,
    settings: CitySettings,
    *,
    force: bool = False,
    progress: Progress = silent,
    cluster: str | None = None,
) -> City:
    """Make the city folder ``folder`` from ``source``, whole or not at all.

    Args:
        source: The map source.
        folder: The folder to make. An older city of the same source is replaced; entries that are
            not files of a city (models, reports) stay.
        settings: How to make it. Their own source (``path``, ``place``, ...) is not used.
        force: Replace whatever stands there.
        progress: Called after each part of a step.
        cluster: Whose workers burn the map, as of ``cluster.connected``; None: this process. The
            pixels do not depend on it.

    Raises:
        MaptileError: The source cannot be read or holds no building; ``folder`` holds something
            else, or is written by another run, or a model in it is; it cannot be written; there is
            no such cluster.
    """
    folder = Path(folder)
    with ExitStack() as held:
        held.enter_context(locked(folder))
        workers = held.enter_context(connected(cluster))
        for lock in sorted(folder.glob("models/.*.lock")):  # perhaps of a training
            name = lock.name.removeprefix(".").removesuffix(".lock")
            held.enter_context(locked(lock.with_name(name)))
        return _prepare(source, folder, settings, force, progress, workers)


def _prepare(
    source: OsmSource,
    folder: Path,
    settings: CitySettings,
    force: bool,
    progress: Progress,
    workers: Workers,
) -> City:
    keep = check_city_folder(folder, source, lambda name: name not in (*CITY_FILES, CACHE), force)
    data, raster = _read_source(source, settings, progress)
    tiling = Tiling(raster, settings.tiles)
    digest = ContentDigest(raster, tiling.reference)

    def note(bits: NDArray[np.uint8]) -> None:
        digest.add(bits)
        tiling.add(bits)

    with swapped_folder(folder, keep=keep) as new:
        write_map(new / "map.tif", raster, note, workers, progress)
        if data.buildings["height"].notna().any():
            grid = data.buildings, raster
            write_heights(new / "height.tif", *grid, workers=workers, progress=progress)
        write_table(new / "buildings.parquet", data.buildings)
        write_table(new / "roads.parquet", data.roads)
        if len(data.squares):
            write_table(new / "squares.parquet", data.squares)
        write_table(new / "tiles.parquet", tiling.table())
        whole = digest.complete()
        left = models_left(folder, whole)
        name = settings.name or folder.absolute().name
        about = data.source, data.source_date, data.notes
        city = City(folder, name, raster, tiling.reference, *about, folder)
        _note_hash(city, whole)
        seal = map_seal(new / "map.tif", raster, tiling.reference, whole)
        files = {"map.tif": seal, **file_digests(new)}
        counts = {"buildings": len(data.buildings), "roads": len(data.roads)}
        facts = {**counts, MADE_FROM: origin_of(source), "files": files}
        write_json(new / "city.json", _description(city, settings, facts))
    written = replace(read_raster(folder / "map.tif", is_whole=True), crs=raster.crs)
    city = replace(city, raster=written, notes=(*city.notes, *left))
    _note_hash(city, whole)
    return city


def open_city(path: str | Path) -> City:
    """Return the city of a folder, or of a bare raster (.tif with bands named building and road).

    All files of a folder must be those that were prepared: they are compared with their hashes in
    ``city.json``.

    Raises:
        MaptileError: There is no city; its name is not UTF-8; a file is missing, damaged or
            changed; or another version of maptile-loc with another folder format made it.
    """
    path = Path(path)
    check_name(path)
    if path.suffix.lower() in RASTER_SUFFIXES and not path.is_dir():
        raster = read_raster(path)
        reference = Tiling(raster, TileSettings()).reference
        return City(None, path.stem, raster, reference, path.name, None, (), path)
    content, remedy = _read_description(path), _prepare_again(path)
    check_description(path, content, remedy)
    raster = read_raster(path / "map.tif", is_whole=True)
    try:
        # The keys of a GeoTIFF cannot hold the names of every CRS; the JSON file does.
        crs = pyproj.CRS.from_wkt(content["crs"])
    except pyproj.exceptions.CRSError as error:
        raise MaptileError(f"{path / 'city.json'}: damaged (crs: {error}); {remedy}") from error
    if crs.coordinate_operation is None:
        raise MaptileError(f"{path / 'city.json'}: changed, its crs is not in metres; {remedy}")
    raster = replace(raster, crs=crs)
    reference = np.array(content["reference"]["centre"], np.float64)
    check_map(path, content, raster, remedy)
    check_georeference(path, content, raster, remedy)
    about = content["source"], content["source_date"], tuple(content["notes"])
    city = City(path, content["name"], raster, reference, *about, path)
    _note_hash(city, content["content_hash"])
    return city


def _note_hash(city: City, digest: str) -> None:
    """Make ``digest`` the content hash of this object, but not of copies with other pixels."""
    vars(city)["content_hash"] = digest


def _read_source(
    source: OsmSource, settings: CitySettings, progress: Progress
) -> tuple[OsmData, MapRaster]:
    """Return the tables of a map source, and the map raster."""
    path = source.path
    if path is not None:
        check_regular(path)
    if path is None or path.suffix.lower() not in RASTER_SUFFIXES:
        data = read_osm(source, metric_crs(settings.crs), settings.online, progress=progress)
        resolution = settings.resolution
        return data, burnt(data.buildings, data.roads, data.bounds, resolution, data.crs)
    raster = read_raster(path)
    buildings = building_outlines(raster)
    if buildings.empty:
        raise MaptileError(f"{path}: no buildings in it; a city needs them")
    bounds = (raster.west, raster.south, raster.east, raster.north)
    roads = no_roads(raster.crs)
    tables = buildings, roads, no_squares(raster.crs)
    return OsmData(*tables, raster.crs, bounds, path.name, None, (), {}), raster


def _description(city: City, settings: CitySettings, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``city.json``."""
    raster = city.raster
    latitude, longitude = raster.projection.inverse(city.reference)
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": city.name,
        "source": city.source,
        "source_date": city.source_date,
        "attribution": ATTRIBUTION,
        "crs": raster.crs.to_wkt(),
        "resolution": raster.resolution,
        "bounds": [raster.west, raster.south, raster.east, raster.north],
        "reference": {
            "centre": city.reference.tolist(),
            "latitude": float(latitude),
            "longitude": float(longitude),
        },
        "content_hash": city.content_hash,
        **facts,
        "notes": list(city.notes),
        "made_by": f"maptile-loc {version('maptile-loc')}",
        "settings": settings.model_dump(mode="json"),
    }


def _read_description(folder: Path) -> dict[str, Any]:
    """Return the content of ``city.json``, after checks of its version and of missing files.

    ``OPTIONAL_FILES`` may be missing. An interrupted replacement of the folder is completed.

    Raises:
        MaptileError: It is no city folder, it has another format version, or a file is missing.
    """
    if not folder.exists():
        finish_swap(folder)
    if not folder.exists():
        raise MaptileError(f"{folder}: no such city; make it with: maptile prepare SOURCE {folder}")
    if not (folder / "city.json").is_file():
        if (folder.resolve().parent / "city.json").is_file():
            raise MaptileError(
                f"{folder}: a part of a city; name the city: {folder.resolve().parent}"
            )
        raise MaptileError(f"{folder}: no city folder (city.json is missing); see maptile prepare")
    content = read_json(folder / "city.json")
    if content.get("format") != FORMAT:
        raise MaptileError(f"{folder / 'city.json'}: not the description of a city")
    check_version(folder, content.get("version"), FORMAT_VERSION, _prepare_again(folder))
    for file in CITY_FILES:
        if file not in OPTIONAL_FILES and not (folder / file).is_file():
            raise MaptileError(f"{folder / file}: missing; {_prepare_again(folder)}")
    return content


def _prepare_again(folder: Path) -> str:
    """Return the end of a message about a city folder that is of no use."""
    return f"prepare it again: maptile prepare SOURCE {folder}"
