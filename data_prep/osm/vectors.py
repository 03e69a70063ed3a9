"""Buildings, roads and squares from what GDAL reads, and from GeoParquet.

These are GeoPackage, GeoJSON (also one object per line), Shapefile and FlatGeobuf. Polygons are
buildings; lines with a ``highway`` or ``class`` column are roads. The columns may be those that
``columns`` knows, or those of this project's own tables.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.files import check_name
from data_prep.osm.columns import FALSE, TRUE, VERSIONS, known_as, tags_of, text_of
from data_prep.osm.kinds import MapFile
from data_prep.osm.tables import (
    Extract,
    Features,
    Tags,
    is_building,
    is_road,
    is_square,
)

OLD = "older versions of objects, or deleted ones"
"""What is left out of a history."""
BOXES = "objects of which only the bounding box is known"
"""What is left out of an answer without outlines."""
UNCLOSED = "buildings whose ring does not close"
"""What is left out of outlines that are lines."""
MAX_ROWS = 3_000_000
"""Most rows of a layer."""
MAX_SIZE_DEG = 1.0
"""Buildings of this median size, degrees, are no buildings: the coordinates are no degrees."""
MIN_SIZE_M = 0.1
"""Buildings of less than this median size, metres, are no buildings: the coordinates are
degrees."""


def read_vector_file(source: MapFile) -> Extract:
    """Read the buildings, roads and squares of a vector file.

    Raises:
        MaptileError: The file is damaged, or its coordinates contradict its coordinate system, or
            it states none and they are not degrees.
    """
    layers = {name: _flat(table) for name, table in _layers(source)}
    # If some layers name buildings, the polygons of the others are something else.
    named = {
        name for name, table in layers.items() if "building" in table or "building" in name.lower()
    }
    buildings, roads, squares = (
        _Rows(source.path, kind) for kind in (is_building, is_road, is_square)
    )
    dropped = dict.fromkeys((OLD, BOXES, UNCLOSED), 0)
    for name, table in layers.items():
        kept = table[_is_now(table)]
        outlines = kept[~_is_box(kept)]
        dropped[OLD] += len(table) - len(kept)
        dropped[BOXES] += len(kept) - len(outlines)
        dimension = shapely.get_dimensions(outlines.geometry.to_numpy())
        areas, lines = outlines[dimension == 2], outlines[dimension == 1]
        if name in named or not named:
            buildings.add(areas, name)
        rings, unclosed = _rings(lines, areas, name)
        dropped[UNCLOSED] += unclosed
        buildings.add(rings, name)
        roads.add(lines, name)
        squares.add(areas, name)
    found = buildings.features(), roads.features(), squares.features()
    return Extract(*found, None, None, dropped)


def _is_now(table: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    """(N,) which rows are objects as they are now: no older version, and not deleted."""
    now = np.ones(len(table), np.bool_)
    for column, gone in (("visible", FALSE), ("@visible", FALSE), ("@deletion", TRUE)):
        if column in table:
            now &= np.array([str(value).lower() not in gone for value in table[column]], bool)
    columns = [column for column in VERSIONS if column in table]
    if not columns or table.empty:
        return now
    order = _in_order(columns[0], table[columns[0]])
    newest = order.groupby(_names(table, 0)).transform("max")
    now &= ((order == newest) | order.isna()).to_numpy()
    if columns[0] == "@snapshottimestamp":
        now &= ((order == order.max()) | order.isna()).to_numpy()
    elif columns[0] == "@validfrom" and "@validto" in table:
        end = _in_order("@validto", table["@validto"])
        endless = end.isna() & order.notna()
        last = endless if endless.any() else end == end.max()
        now &= (last | order.isna()).to_numpy()
    return now


def _in_order(column: str, values: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers of versions, or times, that can be compared; none where a value is neither."""
    values = values.reset_index(drop=True)
    if "version" in column:
        return pd.to_numeric(values, errors="coerce")
    return pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")


def _is_box(table: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    """(N,) which rows are only bounding boxes, as Overpass Turbo marks them."""
    if "@geometry" not in table:
        return np.zeros(len(table), np.bool_)
    return np.array([value == "bounds" for value in table["@geometry"]], bool)


def _rings(
    lines: gpd.GeoDataFrame, areas: gpd.GeoDataFrame, layer: str
) -> tuple[gpd.GeoDataFrame, int]:
    """Buildings whose outlines are lines, as polygons; and the number of those that do not close.

    Those that are among the areas, too, are left out.
    """
    building = [is_building(tags) for tags in tags_of(lines, layer, building=False)]
    lines = lines[np.array(building, bool)]
    if lines.empty:
        return lines, 0
    shapes = shapely.line_merge(lines.geometry.to_numpy())
    closed = shapely.is_closed(shapes) & (shapely.get_num_coordinates(shapes) > 3)
    closed &= shapely.get_type_id(shapes) == shapely.GeometryType.LINESTRING
    corners, index = shapely.get_coordinates(shapes[closed], return_index=True)
    outlines = shapely.polygons(shapely.linearrings(corners, indices=index))
    rings = lines[closed].set_geometry(gpd.GeoSeries(outlines, lines.index[closed], lines.crs))
    own, known = (
        pd.Series(shapely.to_wkb(shapely.normalize(one.geometry.to_numpy())), dtype=object)
        for one in (rings, areas)
    )
    return rings[~own.isin(known).to_numpy()], int((~closed).sum())


def _layers(source: MapFile) -> Iterator[tuple[str, gpd.GeoDataFrame]]:
    """Yield the name and the rows of each layer that has geometries; only columns that count."""
    check_name(source.path)
    if source.kind == "parquet":
        yield source.path.stem, _parquet(source.path)
        return
    with warnings.catch_warnings():
        # What is odd about a file is said in errors and notes.
        warnings.simplefilter("ignore")
        for name, kind in pyogrio.list_layers(source.gdal_name):
            if kind is None:
                continue
            about = pyogrio.read_info(source.gdal_name, layer=name)
            _check_rows(source.path, about["features"])
            columns = [field for field in about["fields"] if known_as(field)]
            table = pyogrio.read_dataframe(
                source.gdal_name,
                layer=name,
                columns=columns,
                on_invalid="fix",
                max_features=MAX_ROWS + 1,
            )
            _check_rows(source.path, len(table))
            if about["features"] > len(table):
                raise MaptileError(
                    f"{source.path}: states {about['features']} objects in {name!r}, but only "
                    f"{len(table)} are readable: cut off or damaged; download it again"
                )
            if isinstance(table, gpd.GeoDataFrame):
                yield name, table


def _parquet(path: Path) -> gpd.GeoDataFrame:
    """The rows of a GeoParquet file; only columns that count."""
    file = pyarrow.parquet.ParquetFile(path)
    _check_rows(path, file.metadata.num_rows)
    schema = file.schema_arrow
    if b"geo" not in (schema.metadata or {}):
        raise MaptileError(
            f"{path}: Parquet without the metadata of GeoParquet; save it as GeoParquet, or as "
            "GeoPackage"
        )
    names = [name for name in schema.names if known_as(name)]
    geometry = json.loads(schema.metadata[b"geo"]).get("primary_column", "geometry")
    return gpd.read_parquet(path, columns=[*names, *({geometry} - {*names})])


def _check_rows(path: Path, count: int) -> None:
    if count > MAX_ROWS:
        raise MaptileError(
            f"{path}: more than {MAX_ROWS:,} rows, more than a city; cut it to the city first"
        )


def _flat(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The rows that have a geometry, in two dimensions, with the names of columns that count.

    Of columns that mean the same, the first counts. Of collections, the polygons count, else the
    lines.
    """
    geometry = table.geometry.to_numpy()
    table = table[~(shapely.is_missing(geometry) | shapely.is_empty(geometry))]
    shape = table.geometry.name
    names = [name if name == shape else known_as(name) or name for name in table.columns]
    table = table.set_axis(names, axis=1).loc[:, ~pd.Index(names).duplicated()]
    geometry = shapely.force_2d(table.geometry.to_numpy())
    mixed = shapely.get_type_id(geometry) == shapely.GeometryType.GEOMETRYCOLLECTION
    geometry[mixed] = [_largest_kind(one) for one in geometry[mixed]]
    return gpd.GeoDataFrame(table).set_geometry(gpd.GeoSeries(geometry, table.index, table.crs))


def _largest_kind(collection: shapely.Geometry) -> shapely.Geometry:
    """The parts of a collection that have its dimension, as one geometry."""
    parts = shapely.get_parts(collection)
    while (shapely.get_type_id(parts) == shapely.GeometryType.GEOMETRYCOLLECTION).any():
        parts = shapely.get_parts(parts)
    parts = parts[shapely.get_dimensions(parts) == shapely.get_dimensions(collection)]
    return shapely.union_all(parts)


def _degrees(path: Path, table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return the rows of ``table`` in WGS 84 degrees."""
    if table.empty:
        return table.set_crs("EPSG:4326", allow_override=True)
    stated = table.crs
    looks, size = _are_degrees(table.total_bounds), _median_size(table)
    if stated is None and not looks:
        raise MaptileError(
            f"{path}: states no coordinate system, and its coordinates are not degrees; "
            "save it with one"
        )
    if (stated is None or stated.is_geographic) and not (looks and size < MAX_SIZE_DEG):
        raise MaptileError(
            f"{path}: its coordinates are no degrees, as those of "
            f"{stated.name if stated else 'a file without a system'} are: "
            f"{_extreme(table.total_bounds)}; save it with its coordinate system, or, if latitude "
            "and longitude are swapped, exchange them"
        )
    if stated is not None and stated.is_projected and looks and size < MIN_SIZE_M:
        raise MaptileError(
            f"{path}: states {stated.name}, which is in metres, but its coordinates look like "
            "degrees; save it with the coordinate system that it has"
        )
    if stated is None:
        return table.set_crs("EPSG:4326")
    try:
        return table.to_crs("EPSG:4326")
    except (pyproj.exceptions.ProjError, pyproj.exceptions.CRSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MaptileError(
            f"{path}: its coordinate system {stated.name!r} cannot be converted to degrees "
            f"({reason}); save it with one that has an EPSG code"
        ) from error


def _are_degrees(bounds: NDArray[np.float64]) -> bool:
    """Whether west, south, east, north are those of longitudes and latitudes."""
    west, south, east, north = bounds
    return bool(-180 <= west <= east <= 180 and -90 <= south <= north <= 90)


def _extreme(bounds: NDArray[np.float64]) -> str:
    """What is odd about west, south, east and north that are no longitudes and latitudes."""
    most = int((np.abs(bounds) / (180, 90, 180, 90)).argmax())
    return f"the {('west', 'south', 'east', 'north')[most]} of it is {bounds[most]:g}"


def _median_size(table: gpd.GeoDataFrame) -> float:
    """Median of the greater side of the polygons' boxes (of all boxes, without polygons)."""
    geometry = table.geometry.to_numpy()
    polygons = geometry[shapely.get_dimensions(geometry) == 2]
    west, south, east, north = shapely.bounds(polygons if len(polygons) else geometry).T
    return float(np.median(np.maximum(east - west, north - south)))


class _Rows:
    """The objects of one kind in several layers: their OSM ids, tags and geometries.

    Args:
        path: The file.
        wanted: Whether tags are those of the kind.
    """

    def __init__(self, path: Path, wanted: Callable[[Tags], bool]) -> None:
        self.path, self.wanted = path, wanted
        self.names: list[str] = []
        self.tags: list[Tags] = []
        self.geometry: list[NDArray[Any]] = []

    def add(self, table: gpd.GeoDataFrame, layer: str) -> None:
        """Add the rows of a layer that are of the kind; only their coordinates are judged."""
        finite = np.isfinite(shapely.bounds(table.geometry.to_numpy())).all(axis=1)
        table = table[finite]
        tags = tags_of(table, layer, self.wanted is is_building)
        wanted = np.array([self.wanted(t) for t in tags], bool)
        names = _names(table, len(self.names))
        self.names += [name for name, use in zip(names, wanted, strict=True) if use]
        self.tags += [t for t, use in zip(tags, wanted, strict=True) if use]
        self.geometry.append(_degrees(self.path, table[wanted]).geometry.to_numpy())

    def features(self) -> Features:
        """Return all rows that were added."""
        geometry = np.concatenate([np.empty(0, object), *self.geometry])
        return Features(self.names, self.tags, geometry)


def _names(table: gpd.GeoDataFrame, count: int) -> list[str]:
    """Return an identifier for each row: its OSM id, or else its number, counted from ``count``.

    osmnx has the columns ``element`` and ``id``, GDAL ``osm_way_id`` or ``osm_id``.
    """
    names = [f"row/{count + index}" for index in range(len(table))]
    kinds = table["element"] if "element" in table else [None] * len(table)
    gdal = "way/" if "other_tags" in table else ""
    gdal = "relation/" if "osm_way_id" in table else gdal
    own = ("id", "@id", "@osmid")
    for column, prefix in (*((one, "") for one in own), ("osm_id", gdal), ("osm_way_id", "way/")):
        if column in table:
            for index, (value, kind) in enumerate(zip(table[column], kinds, strict=True)):
                number, element = text_of(column, value), text_of("element", kind)
                if number is not None:
                    names[index] = f"{element}/{number}" if element else f"{prefix}{number}"
    return names
