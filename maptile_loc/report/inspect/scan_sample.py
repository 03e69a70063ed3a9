"""A sample of a drive's scans: numbers of points, distances, time stamps, labels, damage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import ScanSource
from data_prep.errors import MaptileError
from data_prep.progress import Progress, silent, tracked

SAMPLED_SCANS = 50
"""Number of scans that are read from a drive."""
SAMPLED_POINTS = 10_000_000
"""Approximate number of points that are read; if scans are large, fewer of them are read."""
POINTS_PER_SCAN = 2000
"""Approximate number of points of a scan whose distances are kept."""
PLANAR_RAD = 0.02
"""A scan is planar if its points deviate from a plane through the sensor by less than this angle
(root mean square, radians)."""


@dataclass(frozen=True)
class ScanSample:
    """Contents of the first scan of a drive and of others at equal intervals.

    Attributes:
        index: (K,) int64, index in the drive of each scan that could be read.
        points: (K,) int64, number of usable points in each.
        distance: (M,) float32, distances of some of the points from their sensor, metres.
        farthest: Largest distance of all points, metres; 0 without points.
        planar: Whether the points of each scan lie in a plane with the sensor (push-broom).
        seconds: Earliest and latest time of a point relative to its scan's time; None if the
            points have no time stamps.
        labels: (L,) int32, label numbers that occur, sorted.
        label_points: (L,) int64, number of points with each label.
        damaged: One line of text per scan that could not be read.
    """

    index: NDArray[np.int64]
    points: NDArray[np.int64]
    distance: NDArray[np.float32]
    farthest: float
    planar: bool
    seconds: tuple[float, float] | None
    labels: NDArray[np.int32]
    label_points: NDArray[np.int64]
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class _Scan:
    """The part of one scan that is kept; fields as in ``ScanSample``."""

    index: int
    points: int
    distance: NDArray[np.float32]
    farthest: float
    planar: bool
    seconds: NDArray[np.float32] | None
    label: NDArray[np.int32] | None


def sample_scans(
    scans: ScanSource, count: int = SAMPLED_SCANS, progress: Progress = silent
) -> ScanSample:
    """Read the first scan and up to ``count`` - 1 others at equal intervals.

    A damaged scan raises no error: it is listed in ``damaged``.

    Args:
        scans: The scans of a drive, at least one.
        count: Largest number of scans to read.
        progress: Called after each scan.
    """
    found: list[_Scan] = []
    damaged: list[str] = []
    _read(scans, 0, found, damaged)
    if found:
        count = min(count, max(2, SAMPLED_POINTS // max(found[0].points, 1)))
    others = np.unique(np.linspace(0, len(scans.t_ns) - 1, count).round().astype(np.int64))[1:]
    for index in tracked(others.tolist(), "read scans", len(others), progress):
        _read(scans, index, found, damaged)
    timed = [scan.seconds for scan in found if scan.seconds is not None and len(scan.seconds)]
    labelled = [scan.label for scan in found if scan.label is not None]
    labels, label_points = np.unique(
        np.concatenate([np.zeros(0, np.int32), *labelled]), return_counts=True
    )
    return ScanSample(
        index=np.array([scan.index for scan in found], np.int64),
        points=np.array([scan.points for scan in found], np.int64),
        distance=np.concatenate([np.zeros(0, np.float32), *(scan.distance for scan in found)]),
        farthest=max((scan.farthest for scan in found), default=0.0),
        planar=any(scan.points for scan in found) and all(scan.planar for scan in found),
        seconds=(min(s.min() for s in timed), max(s.max() for s in timed)) if timed else None,
        labels=labels,
        label_points=label_points.astype(np.int64),
        damaged=tuple(damaged),
    )


def _read(scans: ScanSource, index: int, found: list[_Scan], damaged: list[str]) -> None:
    """Read one scan and append it to ``found``, or its error to ``damaged``."""
    try:
        block = scans.read(index, index + 1)
    except MaptileError as error:
        damaged.append(str(error))
        return
    from_sensor = block.points - block.origin[block.scan]
    metres = np.sqrt(np.einsum("ni,ni->n", from_sensor, from_sensor))
    some = from_sensor[:: len(from_sensor) // POINTS_PER_SCAN + 1].astype(np.float64)
    smallest, *_, largest = np.linalg.eigvalsh(some.T @ some).clip(0)
    found.append(
        _Scan(
            index,
            len(metres),
            metres[:: len(metres) // POINTS_PER_SCAN + 1],
            float(metres.max(initial=0)),
            bool(smallest <= PLANAR_RAD**2 * largest),
            block.seconds,
            block.label,
        )
    )
