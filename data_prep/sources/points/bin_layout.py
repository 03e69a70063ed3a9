"""The layout of .bin files, which state nothing about themselves, by their contents.

A file is rows of 3 to 6 numbers, float32 or float64, of which the first three are x, y, z; or all
x, then all y, all z and all intensities, as in Radar RobotCar. In the right layout the columns
differ: heights from distances, intensities from both. In a wrong one each column is a mixture of
all. The mutual information between a number's value and its column shows which is right. The files
of a drive have one layout, so that large clouds decide for small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import kolmogorov

from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.sources.points.thinning import Data

COLUMNS = (3, 4, 5, 6)
"""Numbers of columns in rows."""
BLOCKS = (4,)
"""Numbers of columns in blocks: those of Radar RobotCar."""
ROWS = 2000
"""Rows that are examined, evenly spaced."""
BINS = 32
"""Most bins of equal frequency into which values are sorted."""
PER_BIN = 10
"""Fewest values in a bin, on average."""
LEAST_BITS = 0.03
"""Mutual information below which columns do not differ."""
LEAST_POINTS = 20
"""Little can be learned from fewer points."""
BRIGHTEST = 255
"""Largest reflectance in rows of KITTI's layout, by which a few points are recognised."""
ENOUGH = 0.9
"""Fewer columns are preferred if they give this share of the most information: rows of two points
look like points, too."""
CLEAR_ROWS = 0.5
"""Rows are preferred if they give this share of the most information: a few points along a wall
differ from a few others as columns do, but the rows of true blocks give none."""
SAME_HALVES = 1e-4
"""Rows whose halves differ by chance at this probability are two points each: a few points may seem
to say more in rows of two."""
FARTHEST_M = 1000.0
"""Most coordinates are smaller."""
PLAUSIBLE = (1e-15, 2e19)
"""Numbers beyond these limits, and negative zeros, are halves of a float64."""
REMEDY = "state its columns with --columns x,y,z,..., or save it as .ply or .pcd"
"""What to do where the layout is unknown."""

BLANK_BYTES = 1 << 20
"""Size from which files without any number are no clouds without points."""

_PIECES = 200
"""Number of pieces in a sample of a large file."""
_PIECE_BYTES = 480 * 20
"""Size of a piece: a multiple of the size of a row in all layouts of rows."""


class LayoutError(ValueError):
    """The layout is unknown; the text states why, and the remedy."""


class Layout(NamedTuple):
    """How the numbers of a file are arranged.

    Attributes:
        kind: ``<f4`` or ``<f8``.
        columns: Numbers per point.
        blocks: Whether all x come first, then all y, and so on.
        names: Names of the first columns.
    """

    kind: str
    columns: int
    blocks: bool = False
    names: tuple[str, ...] = ("x", "y", "z")

    def fits(self, size: int) -> bool:
        """Whether ``size`` bytes are a whole number of points."""
        return size % (np.dtype(self.kind).itemsize * self.columns) == 0

    def table(self, data: Data) -> NDArray[np.floating]:
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


def column_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns as a user states them: x, y and z once, ``_`` for those of no use.

    Raises:
        MaptileError: They are not.
    """
    stated = tuple(name.strip().lower() for name in names)
    used = [name for name in stated if name != "_"]
    if not set("xyz") <= set(used) or len(set(used)) < len(used) or "" in used:
        raise MaptileError(
            f"--columns {','.join(names)}: expected x, y, z and others by their names, each once, "
            "such as x,y,z,intensity,ring,time (_ for a column of no use)"
        )
    return stated


def spread_sample(data: Data) -> bytes:
    """Pieces of a large file, evenly spread, each of whole rows in every layout of rows."""
    apart = max(len(data) // _PIECES // _PIECE_BYTES, 1) * _PIECE_BYTES
    starts = range(0, len(data) - _PIECE_BYTES + 1, apart)
    return b"".join(data[start : start + _PIECE_BYTES] for start in starts)


def layout_of(data: Data) -> Layout:
    """The layout of one file; see ``layout_of_all``.

    Raises:
        LayoutError: It cannot be decided.
    """
    return layout_of_all([data])


def layout_of_all(files: Sequence[Data], names: Sequence[str] | None = None) -> Layout:
    """The layout of the files of one drive, in which their columns differ most.

    Args:
        files: Contents of some files. A large one, which is mapped, is made of rows.
        names: Names of their columns; None: unknown.

    Raises:
        LayoutError: No layout has a whole number of points in most of the files, or in none do the
            columns differ.
    """
    sampled = [data if isinstance(data, bytes) else spread_sample(data) for data in files]
    sized = [(data, len(file)) for data, file in zip(sampled, files, strict=True)]
    rows_only = any(len(data) < size for data, size in sized)
    every = [
        one
        for one in _layouts([(data, size) for data, size in sized if _is_seen(data)], names)
        if not (rows_only and one.blocks)
    ]
    whole = [(data, size) for data, size in sized if any(one.fits(size) for one in every)]
    fits = {one: [data for data, size in whole if one.fits(size)] for one in every}
    fitting = [one for one in every if 2 * len(fits[one]) > len(whole)]
    if not fitting:
        sizes = ", ".join(str(size) for _, size in sized[:3])
        known = f"{len(names)} columns" if names else "3 to 6 numbers"
        raise LayoutError(f"{sizes} bytes are no whole number of points of {known}; {REMEDY}")
    full = [data for data, _ in whole if _is_seen(data)]
    if not full or len(fitting) == 1:
        if sum(size for _, size in sized) > BLANK_BYTES and not full:
            raise LayoutError(f"its columns cannot be made out; {REMEDY}")
        return fitting[0]
    bits = {one: sum(_bits(one.table(data)) for data in fits[one]) for one in fitting}
    most = max(bits.values())
    if most < LEAST_BITS * len(full):
        if names or (fitting[0] == KITTI and all(_is_few(data) for data in fits[KITTI])):
            return fitting[0]
        raise LayoutError(f"its columns cannot be made out; {REMEDY}")
    rows = max((bits[one] for one in fitting if not one.blocks), default=0.0)
    if rows >= CLEAR_ROWS * most:
        fitting, most = [one for one in fitting if not one.blocks], rows
    good = [one for one in fitting if bits[one] >= ENOUGH * most]
    best = min(good, key=lambda one: (one.columns, -bits[one]))
    half = best._replace(columns=best.columns // 2)
    two_points = half in fitting and all(_same_halves(best.table(data)) for data in fits[best])
    return half if two_points else best


def _same_halves(table: NDArray[np.floating]) -> bool:
    """Whether the first half of the columns may hold the same quantities as the second."""
    with np.errstate(invalid="ignore"):  # other bytes, read as numbers
        first, second = np.split(np.asarray(table[:ROWS], np.float64), 2, axis=1)
    return all(_chance_of_more(a, b) > SAME_HALVES for a, b in zip(first.T, second.T, strict=True))


def _chance_of_more(a: Array, b: Array) -> float:
    """Probability that samples of one distribution differ by more (Kolmogorov-Smirnov); 0 for none.

    The asymptotic distribution of the largest difference between the two empirical distributions.
    As scipy.stats.ks_2samp, which takes a second to import.
    """
    a, b = np.sort(a[np.isfinite(a)]), np.sort(b[np.isfinite(b)])
    if not (len(a) and len(b)):
        return 0.0
    both = np.concatenate([a, b])
    below = [np.searchsorted(part, both, side="right") / len(part) for part in (a, b)]
    largest = np.abs(below[0] - below[1]).max()
    return float(kolmogorov(largest * np.sqrt(len(a) * len(b) / len(both))))


def _is_seen(data: bytes) -> bool:
    """Whether there is any number but 0 and NaN."""
    values = np.frombuffer(data[: len(data) // 4 * 4], "<f4")
    return bool((np.isfinite(values) & (values != 0)).any())


def _is_few(data: bytes) -> bool:
    """Whether these are a few points in KITTI's layout, by their reflectances."""
    table = KITTI.table(data)
    with np.errstate(invalid="ignore"):
        return bool(
            len(table) < LEAST_POINTS and ((table[:, 3] >= 0) & (table[:, 3] <= BRIGHTEST)).all()
        )


def _layouts(files: Sequence[tuple[bytes, int]], names: Sequence[str] | None) -> list[Layout]:
    """All layouts of files whose numbers are of one kind, KITTI's first."""
    whole = all(size % 8 == 0 for _, size in files)
    kind = "<f8" if whole and _is_double([data for data, _ in files]) else "<f4"
    if names:
        stated = tuple(names)
        return [Layout(kind, len(stated), blocks, stated) for blocks in (False, True)]
    rows = [Layout(kind, columns) for columns in sorted(COLUMNS, key=lambda n: n != KITTI.columns)]
    return [*rows, *(Layout(kind, columns, True) for columns in BLOCKS)]


def _is_double(files: Sequence[bytes]) -> bool:
    """Whether every other four bytes are the lower half of a float64.

    Such halves have any bits, or none where the numbers are whole.
    """
    if not files:
        return False
    words = np.concatenate(
        [np.frombuffer(data, "<u4")[: ROWS * 4].reshape(-1, 2) for data in files]
    )
    low, high = words[:, 0], words[:, 1]
    seen = np.abs(np.ascontiguousarray(low[low != 0]).view("<f4"))
    if len(seen) < 0.05 * len(low):
        return bool(np.mean(high != 0) > 0.5)
    odd = (seen < PLAUSIBLE[0]) | ((seen > PLAUSIBLE[1]) & (seen < np.inf))
    return bool(odd.mean() > 0.25)


def _bits(table: NDArray[np.floating]) -> float:
    """Mutual information of value and column, bits; 0 where the first three are no coordinates."""
    chosen = np.unique(np.linspace(0, len(table) - 1, min(ROWS, len(table))).astype(np.int64))
    with np.errstate(invalid="ignore"):
        values = np.asarray(table[chosen], np.float64)
        near = (np.abs(values[:, :3]) < FARTHEST_M).all(axis=1)
    if not len(chosen) or near.mean() < 0.5:
        return 0.0
    values = values[near & values[:, :3].any(axis=1)]
    if len(values) < LEAST_POINTS:
        return 0.0
    bins = int(np.clip(values.size // PER_BIN, 2, BINS))
    known = np.isfinite(values)
    edges = np.quantile(values[known], np.linspace(0, 1, bins + 1)[1:-1])
    columns = values.shape[1]
    place = np.where(known, np.searchsorted(edges, values, side="right"), bins)
    code = place * columns + np.arange(columns)
    count = np.bincount(code.ravel(), minlength=(bins + 1) * columns).reshape(-1, columns)
    joint = count / count.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0)
    seen = joint > 0
    information = float((joint[seen] * np.log2(joint[seen] / apart[seen])).sum())
    chance = (columns - 1) * (bins - 1) / (2 * np.log(2) * values.size)
    return float(near.mean()) * max(information - chance, 0.0)
