"""Boxes on flat ground, and a vehicle with a spinning LiDAR that scans them, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_prep.drive import Drive, ScanBlock
from data_prep.geometry import se3_from_xyzrpy, se3_inverse, transform_points
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.fields import FieldArrays
from maptile_loc.types import Candidates, QueryTile

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
HEIGHT_M = 1.7


class SceneScans:
    """Scans in memory, with the times of their points."""

    def __init__(self, t_ns, scans, sensors=("made",)):
        self.t_ns = np.asarray(t_ns, np.int64)
        self.sensors = sensors
        self.scans = list(scans)  # of (points, seconds, origin)

    def read(self, start, stop):
        points, seconds, origin = zip(*self.scans[start:stop], strict=True)
        number = np.repeat(np.arange(len(points), dtype=np.int32), [len(p) for p in points])
        return ScanBlock(
            self.t_ns[start:stop],
            np.concatenate(points).astype(np.float32),
            number,
            np.array(origin, np.float32),
            np.concatenate(seconds).astype(np.float32),
        )


def made_drive(t_ns, scans, sensors=("made",)) -> Drive:
    return Drive("made", "made", SceneScans(t_ns, scans, sensors), None, None, None)


def times(count: int):
    return START_NS + np.arange(count) * PERIOD_NS


def straight(speed: float):
    """A function from (N,) seconds to (N, 4, 4) poses on a straight line."""

    def poses(seconds):
        values = np.zeros((len(seconds), 6))
        values[:, 0] = speed * seconds
        return se3_from_xyzrpy(values)

    return poses


def turning(speed: float, rate: float):
    """A function from (N,) seconds to (N, 4, 4) poses on a circle to the left."""

    def poses(seconds):
        values = np.zeros((len(seconds), 6))
        angle = rate * seconds
        values[:, 0] = speed / rate * np.sin(angle)
        values[:, 1] = speed / rate * (1 - np.cos(angle))
        values[:, 5] = angle
        return se3_from_xyzrpy(values)

    return poses


def street(seed: int = 1, length: float = 60.0):
    """(B, 6) boxes x0 y0 z0 x1 y1 z1: houses on both sides of a street along x."""
    rng = np.random.default_rng(seed)
    boxes = []
    for side in (-1, 1):
        x = -40.0
        while x < length:
            width, depth, away = rng.uniform(8, 20), rng.uniform(8, 12), rng.uniform(9, 14)
            y = side * (away + depth / 2)
            height = rng.uniform(4, 10)
            boxes.append([x, y - depth / 2, 0, x + width, y + depth / 2, height])
            x += width + rng.uniform(2, 8)
    return np.array(boxes)


def square(radius: float, count: int = 16, seed: int = 1):
    """(B, 6) boxes: houses around a circle to the left of the start, and some inside."""
    angle = np.arange(count) * (2 * np.pi / count)
    rng = np.random.default_rng(seed)
    away = radius + np.where(np.arange(count) % 4, 16.0, -12.0)
    centre = away[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + [0, radius]
    centre += rng.uniform(-2, 2, centre.shape)
    half = rng.uniform(3, 6, (count, 2))
    high = rng.uniform(4, 10, count)
    return np.column_stack([centre - half, np.zeros(count), centre + half, high])


def poles(count: int = 30, seed: int = 1, side: float = 120.0):
    """(B, 6) boxes: thin poles on open ground."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-side / 2, side / 2, (count, 2)) + [side / 3, 0]
    xy = xy[np.abs(xy[:, 1]) > 6]
    low, high = np.full(len(xy), 0.0), np.full(len(xy), 4.0)
    return np.column_stack([xy - 0.15, low, xy + 0.15, high])


def scan_scene(
    poses,
    seconds: float,
    boxes,
    rows: int = 32,
    columns: int = 360,
    sensor=None,
    sweep: bool = True,
    noise: float = 0.02,
    seed: int = 0,
    ahead: float | None = None,
):
    """Points, times and origin of one scan that is centred on ``seconds``.

    Each point is in the vehicle frame at its own time. ``sensor`` is the (4, 4) mount. With
    ``ahead``, only beams within this angle (radians) of the forward direction return.
    """
    mount = se3_from_xyzrpy([0, 0, HEIGHT_M, 0, 0, 0]) if sensor is None else sensor
    share = (np.arange(columns) + 0.5) / columns - 0.5
    azimuth, elevation = np.meshgrid(
        -2 * np.pi * share, np.radians(np.linspace(-25, 5, rows)), indexing="ij"
    )
    beams = np.stack(
        [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ],
        axis=-1,
    ).reshape(-1, 3)
    when = np.repeat(share, rows) * (PERIOD_NS / 1e9) * sweep
    world = poses(seconds + when) @ mount
    origin = world[:, :3, 3]
    direction = np.einsum("nij,nj->ni", world[:, :3, :3], beams)
    distance = _cast(origin, direction, boxes)
    distance = distance + np.random.default_rng([seed, int(seconds * 1e6)]).normal(
        0, noise, len(distance)
    )
    hit = np.isfinite(distance)
    if ahead is not None:
        hit &= np.abs(azimuth.ravel()) < ahead
    points = transform_points(mount, beams[hit] * distance[hit, None])
    return points, when[hit], mount[:3, 3]


def _cast(origin, direction, boxes, far: float = 100.0):
    best = np.full(len(direction), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / direction
        for box in boxes:
            first, second = (box[:3] - origin) * inverse, (box[3:] - origin) * inverse
            near = np.minimum(first, second).max(axis=1)
            beyond = np.maximum(first, second).min(axis=1)
            best = np.where((near <= beyond) & (near > 0) & (near < best), near, best)
        ground = -origin[:, 2] * inverse[:, 2]
    best = np.where((ground > 0) & (ground < best), ground, best)
    return np.where(best < far, best, np.nan)


def scene_drive(poses, boxes, count: int, **how) -> Drive:
    """A drive of ``count`` scans, ten per second."""
    t_ns = times(count)
    scans = [scan_scene(poses, (t - START_NS) / 1e9, boxes, **how) for t in t_ns.tolist()]
    return made_drive(t_ns, scans)


def off(track, poses):
    """(N,) metres and (N,) radians between a track and the truth, both from their first pose."""
    truth = poses((track.t_ns - START_NS) / 1e9)
    error = se3_inverse(se3_inverse(truth[0]) @ truth) @ (se3_inverse(track.poses[0]) @ track.poses)
    turned = np.arccos(np.clip((np.trace(error[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1))
    return np.linalg.norm(error[:, :3, 3], axis=1), turned


def bare_fields(channels, west, north, resolution):
    """Likelihood fields of a map without buildings."""
    building = np.zeros(channels.shape[1:], bool)
    return FieldArrays(channels, west, north, resolution, building)


def found_by(search: Any, tile: QueryTile, *arguments: Any, **options: Any) -> Candidates:
    """The candidates of ``tile``, with its evidence made at the resolution of the fields."""
    fields = search.search.fields if hasattr(search, "search") else search.fields
    evidence = make_evidence(tile, fields.resolution)
    return search.candidates(tile, evidence, *arguments, **options)
