"""The layout of .bin files, which state nothing about themselves, by their contents.

A file is rows of 3 to 6 numbers, float32 or float64, of which the first three are x, y, z; or all
x, then all y, all z and all intensities, as in Radar RobotCar. In the right layout the columns
differ: heights from distances, intensities from both. In a wrong one each column is a mixture of
all. The mutual information between a number's value and its column shows which is right.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.sources.points.thinning import Data

COLUMNS = (3, 4, 5, 6)
"""Numbers of columns in rows."""
BLOCKS = (4,)
"""Numbers of columns in blocks: those of Radar RobotCar."""
FEW = 100
"""A cloud of fewer points is taken to have KITTI's layout: nothing can be learned from it."""
ROWS = 2000
"""Rows that are examined, evenly spaced."""
BINS = 32
"""Bins of equal frequency into which values are sorted."""
LEAST_BITS = 0.03
"""Mutual information below which columns do not differ."""
ENOUGH = 0.9
"""Fewer columns are preferred if they give this share of the most information: rows of two points
look like points, too."""
FARTHEST_M = 1000.0
"""Most coordinates are smaller."""
_PIECES = 200
"""Number of pieces in a sample of a large file."""
_PIECE_BYTES = 480 * 20
"""Size of a piece: a multiple of the size of a row in all layouts of rows."""
PLAUSIBLE = (1e-9, 1e9)
"""Numbers beyond these limits are halves of a float64."""


class Layout(NamedTuple):
    """How the numbers of a file are arranged.

    Attributes:
        kind: ``<f4`` or ``<f8``.
        columns: Numbers per point.
        blocks: Whether all x come first, then all y, and so on.
    """

    kind: str
    columns: int
    blocks: bool = False

    def fits(self, size: int) -> bool:
        """Whether ``size`` bytes are a whole number of points."""
        return size % (np.dtype(self.kind).itemsize * self.columns) == 0

    def table(self, data: bytes) -> NDArray[np.floating]:
        """(N, columns) numbers."""
        flat = np.frombuffer(data, self.kind)
        if self.blocks:
            return flat.reshape(self.columns, -1).T
        return flat.reshape(-1, self.columns)

    def __str__(self) -> str:
        order = "blocks" if self.blocks else "rows"
        return f"{order} of {self.columns} x float{8 * np.dtype(self.kind).itemsize}"


KITTI = Layout("<f4", 4)
"""Rows of x, y, z, reflectance."""


def spread_sample(data: Data) -> bytes:
    """Pieces of a large file, evenly spread, each of whole rows in every layout of rows."""
    apart = max(len(data) // _PIECES // _PIECE_BYTES, 1) * _PIECE_BYTES
    starts = range(0, len(data) - _PIECE_BYTES + 1, apart)
    return b"".join(data[start : start + _PIECE_BYTES] for start in starts)


def layout_of(data: bytes, size: int | None = None) -> Layout:
    """The layout in which the columns of a file differ most.

    Args:
        data: The file, or a ``spread_sample`` of it.
        size: Size of the file of which ``data`` is a sample, bytes; it is then made of rows.

    Raises:
        ValueError: No layout has a whole number of points, or in none do the columns differ.
    """
    if not len(data):
        return KITTI
    if len(data) < FEW * 16 and KITTI.fits(len(data)):
        return KITTI
    ways = [(columns, False) for columns in COLUMNS]
    if size is None:
        ways += [(columns, True) for columns in BLOCKS]
    kinds = ("<f8",) if _is_double(data) else ("<f4",)
    every = (Layout(kind, *way) for kind, way in itertools.product(kinds, ways))
    fitting = [layout for layout in every if layout.fits(len(data) if size is None else size)]
    if not fitting:
        raise ValueError(
            f"{size or len(data)} bytes are no whole number of points of 3 to 6 numbers"
        )
    bits = {layout: _bits(layout.table(data)) for layout in fitting}
    most = max(bits.values())
    if most < LEAST_BITS:
        raise ValueError("its columns cannot be made out; save it as .ply or .pcd")
    good = [layout for layout in fitting if bits[layout] >= ENOUGH * most]
    return min(good, key=lambda layout: (layout.columns, -bits[layout]))


def _is_double(data: bytes) -> bool:
    """Whether many numbers make no sense as float32."""
    some = np.frombuffer(data[: len(data) // 8 * 8], "<f4")[: ROWS * 4]
    with np.errstate(invalid="ignore"):
        size = np.abs(some)
        odd = ((size > 0) & (size < PLAUSIBLE[0])) | (size > PLAUSIBLE[1])
    return bool(odd.mean() > 0.05) if len(some) else False


def _bits(table: NDArray[np.floating]) -> float:
    """Mutual information of value and column, bits; 0 where the first three are no coordinates."""
    chosen = np.unique(np.linspace(0, len(table) - 1, min(ROWS, len(table))).astype(np.int64))
    with np.errstate(invalid="ignore"):
        values = np.asarray(table[chosen], np.float64)
        near = (np.abs(values[:, :3]) < FARTHEST_M).all(axis=1)
    if near.mean() < 0.5:
        return 0.0
    values = values[near & np.isfinite(values).all(axis=1)]
    if len(values) < 2:
        return 0.0
    edges = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
    columns = values.shape[1]
    code = np.searchsorted(edges, values, side="right") * columns + np.arange(columns)
    count = np.bincount(code.ravel(), minlength=BINS * columns).reshape(BINS, columns)
    joint = count / count.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0)
    seen = joint > 0
    information = float((joint[seen] * np.log2(joint[seen] / apart[seen])).sum())
    chance = (columns - 1) * (BINS - 1) / (2 * np.log(2) * values.size)
    return max(information - chance, 0.0)
