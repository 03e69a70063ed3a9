"""The query tiles of a drive in a row, as a network sees them; the drive's truth is not used."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.drive import Times
from data_prep.errors import MaptileError
from data_prep.files import atomic_file
from data_prep.geometry import Array, se2_between, se2_compose, se2_from_se3, wrap_angle
from data_prep.progress import Progress, silent, tracked
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.render.look import Look, in_look


@dataclass(frozen=True)
class TileSequence:
    """Query tiles of a drive in order, and the motion of the vehicle between them.

    Attributes:
        tiles: (Q, C, S, S) float32, as of ``look.in_look``.
        rotation: (Q,) radians by which each vehicle frame was turned to make its tile.
        odometry: (Q, 3) east, north, heading of the vehicle in the odometry's frame.
        segment: (Q,) int32 of the odometry, negative where there is none.
        t_ns: (Q,) int64 times.
    """

    tiles: NDArray[np.float32]
    rotation: Array
    odometry: Array
    segment: NDArray[np.int32]
    t_ns: Times

    def motion(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> Array:
        """(...,) numbers of tiles -> (..., 3): the pose of the second in the frame of the first.

        A tile's frame has its axes along the tile's sides: east and north where it is north-up.
        """
        moved = se2_between(self.odometry[first], self.odometry[second])
        turn = self.rotation[first]
        moved = se2_compose(np.stack([0 * turn, 0 * turn, turn], -1), moved)
        moved[..., 2] = wrap_angle(moved[..., 2] - self.rotation[second])
        return moved

    def tuples(self, size: int) -> NDArray[np.int64]:
        """(N, size) numbers of consecutive tiles within one segment of the odometry."""
        number = np.arange(len(self.segment) - size + 1)[:, None] + np.arange(size)
        segment = self.segment[number]
        return number[(segment == segment[:, :1]).all(axis=1) & (segment[:, 0] >= 0)]

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        with atomic_file(path) as temporary:
            np.savez_compressed(temporary, **{f.name: getattr(self, f.name) for f in fields(self)})


def read_tile_sequence(path: Path) -> TileSequence:
    """Read a file that ``TileSequence.save`` wrote."""
    with np.load(path, allow_pickle=False) as content:
        return TileSequence(**{field.name: content[field.name] for field in fields(TileSequence)})


def see(tiles: QueryTiles, look: Look, progress: Progress = silent) -> TileSequence:
    """The query tiles of a drive in the look of a model's tiles, without those that have no points.

    Args:
        tiles: The drive's query tiles.
        look: What the model's tiles show.
        progress: Is called after each tile.

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
    )
