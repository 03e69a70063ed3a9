"""The query tiles of a drive in a row, as a network sees them; the drive's truth is not used."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.drive import GnssTrack, Times
from data_prep.errors import MaptileError
from data_prep.files import atomic_file
from data_prep.geometry import Array, Projection, se2_between, se2_compose, se2_from_se3, wrap_angle
from data_prep.progress import Progress, silent, tracked
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.render.look import Look, in_look

MAX_GAP_S = 2.0
"""Longest gap between two GNSS positions that is bridged, seconds."""


@dataclass(frozen=True)
class TileSequence:
    """Query tiles of a drive in order, and the motion of the vehicle between them.

    Attributes:
        tiles: (Q, C, S, S) float32, as of ``look.in_look``.
        rotation: (Q,) radians by which each vehicle frame was turned to make its tile.
        odometry: (Q, 3) east, north, heading of the vehicle in the odometry's frame.
        segment: (Q,) int32 of the odometry, negative where there is none.
        t_ns: (Q,) int64 times.
        measured: (Q, 2) east, north of the vehicle by GNSS, metres, NaN where it has none; None:
            the odometry alone is used.
    """

    tiles: NDArray[np.float32]
    rotation: Array
    odometry: Array
    segment: NDArray[np.int32]
    t_ns: Times
    measured: Array | None = None

    def motion(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> Array:
        """(...,) numbers of tiles -> (..., 3): the pose of the second in the frame of the first.

        A tile's frame has its axes along the tile's sides: east and north where it is north-up.
        With GNSS, the translation is that between its positions, in the map's axes.
        """
        moved = se2_between(self.odometry[first], self.odometry[second])
        turn = self.rotation[first]
        moved = se2_compose(np.stack([0 * turn, 0 * turn, turn], -1), moved)
        moved[..., 2] = wrap_angle(moved[..., 2] - self.rotation[second])
        if self.measured is not None:
            moved[..., :2] = self.measured[second] - self.measured[first]
        return moved

    def tuples(self, size: int) -> NDArray[np.int64]:
        """(N, size) numbers of consecutive tiles within one segment of the odometry.

        With GNSS, each of them has a position.
        """
        number = np.arange(len(self.segment) - size + 1)[:, None] + np.arange(size)
        segment = self.segment[number]
        good = (segment == segment[:, :1]).all(axis=1) & (segment[:, 0] >= 0)
        if self.measured is not None:
            good &= np.isfinite(self.measured[number]).all(axis=(1, 2))
        return number[good]

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        with atomic_file(path) as temporary:
            arrays = {f.name: getattr(self, f.name) for f in fields(self)}
            np.savez_compressed(temporary, **{k: a for k, a in arrays.items() if a is not None})


def read_tile_sequence(path: Path) -> TileSequence:
    """Read a file that ``TileSequence.save`` wrote."""
    with np.load(path, allow_pickle=False) as content:
        return TileSequence(**{name: content[name] for name in content.files})


def positions_at(track: GnssTrack, t_ns: Times, projection: Projection) -> Array:
    """(Q, 2) east, north of a receiver at (Q,) times, metres.

    Positions are interpolated; NaN outside the track and between two that are more than
    ``MAX_GAP_S`` apart.
    """
    place = projection.forward(track.latitude, track.longitude)
    good = np.isfinite(place).all(axis=1)
    times, place = track.t_ns[good], place[good]
    found = np.full((len(t_ns), 2), np.nan)
    if len(times) < 2:
        return found
    right = np.clip(np.searchsorted(times, t_ns), 1, len(times) - 1)
    span = (times[right] - times[right - 1]) / 1e9
    share = (t_ns - times[right - 1]) / 1e9 / span
    inside = (share >= 0) & (share <= 1) & (span <= MAX_GAP_S)
    between = place[right - 1] + share[:, None] * (place[right] - place[right - 1])
    found[inside] = between[inside]
    return found


def see(
    tiles: QueryTiles, look: Look, progress: Progress = silent, gnss: Projection | None = None
) -> TileSequence:
    """The query tiles of a drive in the look of a model's tiles, without those that have no points.

    Args:
        tiles: The drive's query tiles.
        look: What the model's tiles show.
        progress: Is called after each tile.
        gnss: The map's projection, where the drive's GNSS is to give the translations.

    Raises:
        MaptileError: The drive has no odometry, or no query has a point.
    """
    drive, plan = tiles.drive, tiles.plan
    if drive.odometry is None:
        raise MaptileError(f"{drive.name}: no odometry, so the motion between tiles is unknown")
    numbered = enumerate(tracked(tiles, "tiles", len(tiles), progress))
    seen = {query: in_look(tile, look) for query, tile in numbered if tile is not None}
    if not seen:
        raise MaptileError(f"{drive.name}: no usable point in its scans")
    kept = list(seen)
    t_ns = tiles.t_ns[kept]
    return TileSequence(
        torch.stack(list(seen.values())).numpy(),
        tiles.rotation[kept],
        se2_from_se3(drive.odometry.at(t_ns)),
        plan.segment[plan.scan[kept]],
        t_ns,
        None if gnss is None or drive.gnss is None else positions_at(drive.gnss, t_ns, gnss),
    )
