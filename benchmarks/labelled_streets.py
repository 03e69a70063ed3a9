"""Streets with real labelled HDL-64E scans, and scans simulated at the same poses."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from road_lines import SIMPLIFIED_M, road_lines

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.city.outlines import building_outlines
from data_prep.city.raster import PATH, ROAD, MapRaster, read_raster
from data_prep.drive import Drive
from data_prep.geometry import Array, Projection
from data_prep.osm.source import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import Trajectory
from data_prep.sources import open_drive

SEQUENCES = ("00", "05", "06", "08")
"""Sequences of SemanticKITTI with buildings; all scans of one show the same site."""

KITTI360 = "2013_05_28_drive_0009_sync"
"""Drive of KITTI-360; each of its scans shows a site of its own."""

AROUND_M = 150.0
"""Width of the map around the poses, metres; points lie up to 60 m from the sensor."""

KINDS = ("buildings", "roads")
"""Names of a map's tables."""

SPEED_M_S = 8.0
"""Speed of the simulated vehicle."""

HALF_STRETCH_NS = 500_000_000
"""Time from a pose to each end of the stretch that is driven around it, nanoseconds."""

BETWEEN_NS = 10_000_000_000
"""Time from one pose to the next, nanoseconds: longer than any gap that is bridged."""

STEP_NS = 20_000_000
"""Time between two poses of a stretch, nanoseconds."""

START_NS = 1_700_000_000_000_000_000
"""Time of the first pose, nanoseconds since 1970: any."""


LINE_M = 1.3
"""Roads that are not wider on a raster are drawn as lines: the usual width of their class counts,
metres."""


@dataclass(frozen=True)
class Street:
    """S real scans and the map around them.

    Attributes:
        drive: The real scans, with labels.
        city: The map.
        poses: (S, 3) east, north (map frame, metres) and heading (radians from grid east).
        site: (S,) number of the site that a scan shows.
    """

    drive: Drive
    city: City
    poses: Array
    site: NDArray[np.int64]


def streets(data: Path, work: Path) -> list[Street]:
    """All streets, with sites numbered through.

    Args:
        data: The folder of real data.
        work: A folder for the cities.
    """
    result = []
    for number, sequence in enumerate(SEQUENCES):
        folder = data / "kitti_odometry"
        drive = open_drive(folder / "sequences" / sequence)
        truth = pd.read_csv(folder / "sequences" / sequence / "truth.csv").to_numpy(np.float64)
        site = np.full(len(truth), number)
        result.append(
            _street(drive, truth[:, 1:], site, folder / "maps", sequence, work / sequence)
        )
    folder = work / "kitti360_0009"
    shutil.copytree(data / "kitti360_0009", folder)
    (folder / "labels").rename(folder / "data_3d_raw" / KITTI360 / "labels")
    drive = open_drive(folder / "data_3d_raw" / KITTI360)
    assert drive.truth is not None
    latitude, longitude, heading = drive.truth.at(drive.scans.t_ns)
    truth = np.column_stack([latitude, longitude, np.degrees(heading)])
    site = len(SEQUENCES) + np.arange(len(truth))
    return [*result, _street(drive, truth, site, folder, "map", work / "0009")]


def _street(
    drive: Drive, truth: Array, site: NDArray[np.int64], maps: Path, name: str, folder: Path
) -> Street:
    """A street.

    Args:
        drive: S real scans.
        truth: (S, 3) latitude, longitude, heading counter-clockwise from true east, degrees.
        site: (S,) site of each scan.
        maps: Folder of the map: two GeoJSON files, or else a raster.
        name: Name of the map in that folder.
        folder: The city folder to make.
    """
    latitude, longitude, heading = truth.T
    if (maps / f"kitti{name}_buildings.geojson").is_file():
        tables = [gpd.read_file(maps / f"kitti{name}_{kind}.geojson") for kind in KINDS]
        crs = tables[0].estimate_utm_crs()
        tables = [table.to_crs(crs) for table in tables]
        box = _box(Projection(crs).forward(latitude, longitude))
    else:
        raster = read_raster(maps / f"{name}.tif")
        box = _box(raster.projection.forward(latitude, longitude))
        tables = raster_tables(cropped(raster, *box))
    city = city_of_tables(tables, box, folder)
    projection = city.raster.projection
    grid = np.radians(heading) + projection.convergence(latitude, longitude)
    poses = np.column_stack([projection.forward(latitude, longitude), grid])
    return Street(drive, city, poses, site)


def _box(xy: Array) -> tuple[float, float, float, float]:
    """West, south, east, north of the map around (S, 2) positions, metres."""
    west, south = xy.min(axis=0) - AROUND_M
    east, north = xy.max(axis=0) + AROUND_M
    return west, south, east, north


def cropped(raster: MapRaster, west: float, south: float, east: float, north: float) -> MapRaster:
    """The part of a raster inside some limits, metres in its map frame."""
    corners = raster.pixel_from_world([[west, north], [east, south]])
    (top, left), (bottom, right) = np.clip(
        corners.round().astype(np.int64), 0, (raster.height, raster.width)
    ).tolist()
    edge = raster.world_from_pixel([top, left])
    part = raster.data[:, top:bottom, left:right]
    return MapRaster(part, float(edge[0]), float(edge[1]), raster.resolution, raster.crs)


def raster_tables(raster: MapRaster) -> list[Any]:
    """Tables of the buildings, and of the roads and paths, of a raster, with the tags of OSM.

    Outlines are simplified: walls along the pixels' steps would be rough.
    """
    buildings = building_outlines(raster)[["geometry"]]
    buildings["geometry"] = buildings.simplify(SIMPLIFIED_M)
    buildings["building"] = "yes"
    parts = []
    for band, highway in ((ROAD, "residential"), (PATH, "footway")):
        lines, width = road_lines(raster, band)
        known = [f"{metres:.2f}" if metres > LINE_M else None for metres in width.tolist()]
        columns = {"highway": highway, "width": known}
        parts.append(gpd.GeoDataFrame(columns, geometry=lines, crs=raster.crs))
    return [buildings, pd.concat(parts, ignore_index=True)]


def city_of_tables(tables: list[Any], box: tuple[float, float, float, float], folder: Path) -> City:
    """The city of the tables of ``KINDS``, inside a box in their map frame."""
    area = shapely.box(*box)
    file = folder.with_suffix(".gpkg")
    buildings, roads = tables
    buildings[buildings.intersects(area)].to_file(file, layer=KINDS[0])
    gpd.clip(roads[roads.geom_type.str.contains("Line")], area).to_file(file, layer=KINDS[1])
    prepare_city(OsmSource(path=file), folder, CitySettings(name=folder.name))
    return open_city(folder)


def trajectory_through(poses: Array) -> Trajectory:
    """A trajectory with a straight stretch through each of (S, 3) poses: a segment each.

    The time of pose k is ``START_NS`` + k ``BETWEEN_NS``.
    """
    after = np.arange(-HALF_STRETCH_NS, HALF_STRETCH_NS + 1, STEP_NS)
    t_ns = START_NS + (np.arange(len(poses)) * BETWEEN_NS)[:, None] + after
    ahead = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2]), np.zeros(len(poses))], axis=1)
    moved = poses[:, None] + (SPEED_M_S * after / 1e9)[:, None] * ahead[:, None]
    segment = np.repeat(np.arange(len(poses)), len(after)).astype(np.int32)
    return Trajectory(t_ns.ravel(), moved.reshape(-1, 3), segment, "poses of real scans", 0.0)


def simulated_drive(
    street: Street, folder: Path, settings: SimulateSettings
) -> tuple[Drive, NDArray[np.int64]]:
    """A drive simulated through a street's poses, and the (S,) scan that is nearest to each pose.

    Args:
        street: The real scans and the map.
        folder: Where to write the drive.
        settings: How it is simulated.
    """
    simulate(street.city, trajectory_through(street.poses), folder, "hdl64", settings)
    drive = open_drive(folder)
    asked = START_NS + np.arange(len(street.poses)) * BETWEEN_NS
    nearest = np.abs(drive.scans.t_ns[None, :] - asked[:, None]).argmin(axis=1)
    return drive, nearest
