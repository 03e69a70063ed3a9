"""Small worlds with known answers, for tests."""

from __future__ import annotations

import numpy as np
import pyproj

from data_prep.city.raster import MapRaster
from data_prep.drive import Drive, HeadingTrack, PoseTrack, ScanBlock
from data_prep.geometry import se3_from_xyzrpy
from maptile_loc.live.replay import replay
from maptile_loc.map_search import MapSearch
from maptile_loc.perceive.tiles import query_tiles
from maptile_loc.pipeline import localize
from maptile_loc.score.map_fields import make_fields
from maptile_loc.search.engine.tracked import TrackedSearch
from maptile_loc.search.match import Matcher

UTM = pyproj.CRS.from_epsg(32630)


def blocks_raster(seed: int = 0, side_m: float = 400.0, resolution: float = 0.5) -> MapRaster:
    """A map of random rectangles on a jittered grid."""
    rng = np.random.default_rng(seed)
    size = round(side_m / resolution)
    data = np.zeros((3, size, size), np.uint8)
    step = round(40 / resolution)
    for row in range(0, size - step, step):
        for column in range(0, size - step, step):
            height, width = rng.integers(step // 4, 3 * step // 4, 2)
            r, c = row + rng.integers(0, step // 4), column + rng.integers(0, step // 4)
            data[0, r : r + height, c : c + width] = 255
    return MapRaster(data, 620_000.0, 5_736_000.0, resolution, UTM)


class ListedScans:
    """Scans held in memory."""

    sensors = ("made",)

    def __init__(self, t_ns, clouds):
        self.t_ns = np.asarray(t_ns, np.int64)
        self.clouds = [np.asarray(cloud, np.float32).reshape(-1, 3) for cloud in clouds]

    def read(self, start, stop):
        clouds = self.clouds[start:stop]
        return ScanBlock(
            self.t_ns[start:stop],
            np.concatenate(clouds),
            np.repeat(np.arange(len(clouds), dtype=np.int32), [len(c) for c in clouds]),
            np.zeros((len(clouds), 3), np.float32),
        )


def straight_drive(clouds, step_m: float = 1.0, true_heading: float = 0.0) -> Drive:
    """A straight drive along x with a scan per ``step_m``, ten per second."""
    t_ns = 1_700_000_000_000_000_000 + np.arange(len(clouds)) * 100_000_000
    poses = np.zeros((len(clouds), 6))
    poses[:, 0] = np.arange(len(clouds)) * step_m
    odometry = PoseTrack(t_ns, se3_from_xyzrpy(poses), np.zeros(len(clouds), np.int32))
    heading = HeadingTrack(t_ns, np.full(len(clouds), true_heading))
    return Drive("made", "made", ListedScans(t_ns, clouds), odometry, heading, None)


def seen_walls(raster: MapRaster, east_north, heading: float, rng, reach_m: float = 40.0):
    """(N, 3) points in the vehicle frame: the map's walls within reach, 6 m high, and ground."""
    building = raster.data[0] > 0
    inner = building.copy()
    inner[1:-1, 1:-1] &= building[:-2, 1:-1] & building[2:, 1:-1]
    inner[1:-1, 1:-1] &= building[1:-1, :-2] & building[1:-1, 2:]
    edge = np.argwhere(building & ~inner) + 0.5
    xy = raster.world_from_pixel(edge) - np.asarray(east_north)
    xy = xy[np.hypot(*xy.T) < reach_m]
    c, s = np.cos(-heading), np.sin(-heading)
    xy = np.repeat(xy @ np.array([[c, s], [-s, c]]), 12, axis=0)
    xy += rng.normal(0, 0.05, xy.shape)
    z = np.tile(np.linspace(0.5, 6, 12), len(xy) // 12)
    ground = np.column_stack([rng.uniform(-30, 30, (4000, 2)), rng.normal(0, 0.02, 4000)])
    return np.concatenate([np.column_stack([xy, z]), ground]).astype(np.float32)


def localized(drive, raster, queries, settings):
    """``drive`` localized on ``raster`` by the search of the whole map."""
    fields = make_fields(raster, settings.search.resolution, settings.likelihood)
    matcher = Matcher(fields, settings.query.size_m, settings.search)
    near = TrackedSearch(fields, settings.query.size_m, matcher.area_km2, settings.search)
    engine = MapSearch(raster, fields, matcher, near)
    if queries.online:
        return replay(drive, engine, queries, settings)
    tiles = query_tiles(drive, queries, raster.convergence, settings.submap, settings.query)
    return localize(tiles, engine, settings)
