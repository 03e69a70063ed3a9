"""The city folder: prepared from a source, opened and checked.

``city.json`` says what it is; ``map.tif``, ``height.tif`` (where heights are known),
``buildings.parquet``, ``roads.parquet`` and ``tiles.parquet`` hold it. Models trained for the city
live beside them in ``models/`` and are bound to it by the content hash.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pydantic
import pyproj
import rasterio.features
import shapely
from numpy.typing import NDArray

from data_prep.city.raster import (
    ATTRIBUTION,
    BUILDING,
    MapRaster,
    rasterise,
    read_raster,
    write_heights,
)
from data_prep.city.tiles import TileSettings, reference_centre, tile_grid
from data_prep.errors import MaptileError
from data_prep.files import atomic_folder, read_json, write_json
from data_prep.geometry import Array
from data_prep.osm.footprints import OnlineSettings, OsmSource, read_osm
from data_prep.osm.tables import BUILDING_COLUMNS, ROAD_COLUMNS
from data_prep.settings import Settings

FORMAT_VERSION = 1
CITY_FILES = (
    "city.json",
    "map.tif",
    "height.tif",
    "buildings.parquet",
    "roads.parquet",
    "tiles.parquet",
)
RASTER_SUFFIXES = (".tif", ".tiff")


class CitySettings(Settings):
    """A city's recipe.

    Attributes:
        name: What to call it; the folder's name by default.
        path, place, bbox, point, radius_m, date: Where it comes from, as in ``OsmSource``.
        crs: The map frame, such as ``EPSG:32630``; the UTM zone of the middle by default.
        resolution: Metres per pixel.
        tiles: How it is cut into tiles.
        online: Which servers to ask for a place, box or point.
    """

    name: str | None = None
    path: Path | None = None
    place: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    radius_m: float | None = None
    date: str | None = None
    crs: str | None = None
    resolution: float = pydantic.Field(default=0.5, gt=0)
    tiles: TileSettings = TileSettings()
    online: OnlineSettings = OnlineSettings()

    @property
    def source(self) -> OsmSource:
        """Where the recipe says that the city comes from."""
        return OsmSource(self.path, self.place, self.bbox, self.point, self.radius_m, self.date)


@dataclass(frozen=True)
class City:
    """A city, ready for use.

    Attributes:
        folder: Where it lies; None for a bare raster.
        name: What it is called.
        raster: The map.
        reference: (2,) east, north of the reference tile's centre, metres.
        source: Where the map came from, in words.
        source_date: The state of the map (ISO 8601), where known.
        content_hash: Names the content: equal for equal pixels, georeference and reference tile.
        notes: What the user should know about the source, one line each.
        path: The folder, or the file of a bare raster.
    """

    folder: Path | None
    name: str
    raster: MapRaster
    reference: Array
    source: str
    source_date: str | None
    content_hash: str
    notes: tuple[str, ...]
    path: Path | None = None

    def tiles(self) -> gpd.GeoDataFrame:
        """The overlapping tiles, as ``data_prep.tiles.tile_grid`` gives them."""
        if self.folder is None:
            return tile_grid(self.raster, TileSettings())
        return _read_table(self.folder / "tiles.parquet")

    def buildings(self) -> gpd.GeoDataFrame:
        """The building table, as in ``data_prep.osm.OsmData``; a bare raster's pixel outlines."""
        if self.folder is None:
            return _outlines(self.raster)
        return _read_table(self.folder / "buildings.parquet")

    def roads(self) -> gpd.GeoDataFrame:
        """The road table, as in ``data_prep.osm.OsmData``; none of a bare raster."""
        if self.folder is None:
            return _no_roads(self.raster.crs)
        return _read_table(self.folder / "roads.parquet")


def prepare_city(source: OsmSource, folder: Path, settings: CitySettings) -> City:
    """Make the city folder ``folder`` from ``source``, whole or not at all.

    What else lies in an older city folder of that name (models) stays.

    Raises:
        MaptileError: The source cannot be read or holds no building; ``folder`` is something else
            than a city; it cannot be written.
    """
    if folder.exists() and not (folder / "city.json").is_file() and any(folder.iterdir()):
        raise MaptileError(f"{folder}: exists and is no city folder; choose another name")
    if source.path is not None and source.path.suffix.lower() in RASTER_SUFFIXES:
        raster = read_raster(source.path)
        buildings, roads = _outlines(raster), _no_roads(raster.crs)
        name, date = source.path.name, None
        notes: tuple[str, ...] = ()
        if buildings.empty:
            raise MaptileError(f"{source.path}: no buildings in it; a city needs them")
    else:
        data = read_osm(source, _metric_crs(settings.crs), settings.online)
        raster = rasterise(data.buildings, data.roads, data.bounds, settings.resolution, data.crs)
        buildings, roads = data.buildings, data.roads
        name, date, notes = data.source, data.source_date, data.notes
    tiles = tile_grid(raster, settings.tiles)
    reference = reference_centre(raster, tiles)
    city = City(
        folder,
        settings.name or folder.name,
        raster,
        reference,
        name,
        date,
        content_hash(raster, reference),
        notes,
        folder,
    )
    with atomic_folder(folder, keep=_foreign(folder)) as new:
        raster.write(new / "map.tif")
        if buildings["height"].notna().any():
            write_heights(new / "height.tif", buildings, raster)
        _write_table(new / "buildings.parquet", buildings)
        _write_table(new / "roads.parquet", roads)
        _write_table(new / "tiles.parquet", tiles)
        write_json(new / "city.json", _description(city, settings, len(buildings), len(roads)))
    return city


def open_city(path: Path) -> City:
    """Open and check a city folder, or a bare raster (.tif) with bands named building and road.

    Raises:
        MaptileError: No city there, files missing or changed, or made by a newer version.
    """
    if path.suffix.lower() in RASTER_SUFFIXES and not path.is_dir():
        raster = read_raster(path)
        reference = reference_centre(raster, tile_grid(raster, TileSettings()))
        digest = content_hash(raster, reference)
        return City(None, path.stem, raster, reference, path.name, None, digest, (), path)
    if not path.exists():
        raise MaptileError(f"{path}: no such city; make it with: maptile prepare SOURCE {path}")
    if not (path / "city.json").is_file():
        raise MaptileError(f"{path}: no city folder (city.json is missing); see maptile prepare")
    content = read_json(path / "city.json")
    if content.get("format") != "maptile-city":
        raise MaptileError(f"{path / 'city.json'}: not the description of a city")
    if content.get("version") != FORMAT_VERSION:
        raise MaptileError(
            f"{path}: a city folder of version {content.get('version')}, made by a newer "
            "maptile-loc; update, or prepare it again"
        )
    again = f"prepare it again: maptile prepare SOURCE {path}"
    for file in CITY_FILES:
        if file != "height.tif" and not (path / file).is_file():
            raise MaptileError(f"{path / file}: missing; {again}")
    raster = read_raster(path / "map.tif")
    try:
        # The GeoTIFF's keys do not hold every name in a CRS; the JSON does.
        raster = replace(raster, crs=pyproj.CRS.from_wkt(content["crs"]))
        reference = np.array(content["reference"]["centre"], np.float64)
        city = City(
            path,
            content["name"],
            raster,
            reference,
            content["source"],
            content["source_date"],
            content["content_hash"],
            tuple(content["notes"]),
            path,
        )
    except (KeyError, TypeError, ValueError, pyproj.exceptions.CRSError) as error:
        raise MaptileError(f"{path / 'city.json'}: damaged ({error!r}); {again}") from None
    if content_hash(raster, reference) != city.content_hash:
        raise MaptileError(f"{path / 'map.tif'}: not the map that city.json describes; {again}")
    return city


def content_hash(raster: MapRaster, reference: Array) -> str:
    """SHA-256 (hexadecimal) over the pixels, their georeference and the reference tile."""
    digest = hashlib.sha256()
    place = (
        raster.data.shape,
        raster.west,
        raster.north,
        raster.resolution,
        _projection_name(raster.crs),
        *(float(value) for value in reference),
    )
    digest.update(json.dumps(place).encode())
    # A pixel is 0 or 255: eight to the byte say the same in an eighth of the time.
    for band in raster.data:
        for top in range(0, raster.height, 1024):
            digest.update(np.packbits(band[top : top + 1024], axis=1).tobytes())
    return digest.hexdigest()


def _projection_name(crs: pyproj.CRS) -> list[Any]:
    """What a CRS computes, without the texts around it, which change with PROJ's versions."""
    operation, ellipsoid = crs.coordinate_operation, crs.ellipsoid
    assert operation is not None
    assert ellipsoid is not None
    parameters = [[parameter.name, parameter.value] for parameter in operation.params]
    return [operation.method_name, ellipsoid.semi_major_metre, parameters]


def _metric_crs(name: str | None) -> pyproj.CRS | None:
    if name is None:
        return None
    try:
        crs = pyproj.CRS.from_user_input(name)
    except pyproj.exceptions.CRSError:
        raise MaptileError(f"crs {name!r}: not known; give one such as EPSG:32630") from None
    if not crs.is_projected or any(axis.unit_conversion_factor != 1 for axis in crs.axis_info):
        raise MaptileError(f"crs {name!r}: its coordinates are not in metres; leave it out")
    return crs


def _description(city: City, settings: CitySettings, buildings: int, roads: int) -> dict[str, Any]:
    raster = city.raster
    latitude, longitude = raster.projection.inverse(city.reference)
    return {
        "format": "maptile-city",
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
        "buildings": buildings,
        "roads": roads,
        "notes": list(city.notes),
        "made_by": f"maptile-loc {version('maptile-loc')}",
        "settings": settings.model_dump(mode="json"),
    }


def _foreign(folder: Path) -> tuple[str, ...]:
    """What lies in a city folder that is not part of the city: models, notes, reports."""
    if not folder.exists():
        return ()
    return tuple(item.name for item in folder.iterdir() if item.name not in CITY_FILES)


def _outlines(raster: MapRaster) -> gpd.GeoDataFrame:
    """The building table of a raster: the outlines of its connected pixels."""
    band = raster.data[BUILDING]
    shapes = rasterio.features.shapes(band, band > 0, transform=raster.transform)
    geometry: NDArray[Any] = np.array(
        [shapely.geometry.shape(shape) for shape, _ in shapes], object
    )
    unknown = np.full(len(geometry), np.nan)
    names = [f"raster/{index}" for index in range(len(geometry))]
    columns = {"osm_id": np.array(names, object), "height": unknown, "levels": unknown}
    table = gpd.GeoDataFrame(columns, geometry=geometry, crs=raster.crs)
    return table[list(BUILDING_COLUMNS)]


def _no_roads(crs: pyproj.CRS) -> gpd.GeoDataFrame:
    text, number = np.empty(0, str), np.empty(0)
    columns = {"osm_id": text, "highway": text, "width": number, "kind": text}
    return gpd.GeoDataFrame(columns, geometry=[], crs=crs)[list(ROAD_COLUMNS)]


def _write_table(path: Path, table: gpd.GeoDataFrame) -> None:
    table.attrs["attribution"] = ATTRIBUTION
    table.to_parquet(path, compression="zstd", index=False)


def _read_table(path: Path) -> gpd.GeoDataFrame:
    try:
        return gpd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(f"{path}: not readable as GeoParquet: {reason}") from None
