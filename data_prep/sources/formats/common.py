"""What the readers of all formats share: scan files, points, tables, relative motion."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data_prep.counted import counted
from data_prep.drive import MAX_BRIDGED_GAP_NS, PoseTrack, ScanBlock, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3
from data_prep.regular import read_regular
from data_prep.sources.storage.tree import Node, names, read_node
from data_prep.sources.storage.tree import file_names as file_names

T = TypeVar("T", bound=np.generic)

NEIGHBOURS = 5
"""Rows before and after one that a wrong time stamp is compared with."""

SPARSE = 3
"""A gap in a track lasts longer than this many times the usual time between its poses."""

APART_NS = 10_000_000_000
"""Stamps that are less than this many nanoseconds from the others are never wrong by that."""


def file_numbers(folder: Node, name: str) -> NDArray[np.int64]:
    """Return the sorted numbers in the names of the files in ``folder``.

    The folder is listed once, because a run has more than a hundred thousand scans.

    Args:
        folder: The folder.
        name: Pattern of the file names; its one group is the number. Other files are ignored.

    Returns:
        (N,) int64.

    Raises:
        MaptileError: There is no such folder.
    """
    if not folder.is_dir():
        raise MaptileError(f"{folder}: no such folder")
    pattern = re.compile(name)
    found = [pattern.fullmatch(child) for child in names(folder)]
    return np.sort(np.array([int(match[1]) for match in found if match], np.int64))


def read_bytes(folder: Node, name: str) -> bytes:
    """Read the whole file ``name`` of ``folder``.

    Raises:
        MaptileError: The file cannot be read.
    """
    try:
        if isinstance(folder, Path):
            return read_regular(f"{folder}/{name}")  # a Path takes as long as reading a scan
        return (folder / name).read_bytes()
    except OSError as error:
        raise MaptileError(f"{folder}/{name}: cannot read this file ({error.strerror})") from None


def read_records(folder: Node, name: str, record_bytes: int) -> bytes:
    """Read the whole file ``name`` of ``folder``, which consists of records of equal size.

    Args:
        folder: An existing folder.
        name: The file's name.
        record_bytes: Size of a record, bytes.

    Raises:
        MaptileError: The file cannot be read, or its size is not a multiple of the record.
    """
    data = read_bytes(folder, name)
    if len(data) % record_bytes:
        raise MaptileError(
            f"{folder}/{name}: {len(data)} bytes are not a multiple of {record_bytes}: the scan is "
            "cut short, or of another sensor. Copy or download it again."
        )
    return data


def scan_block(
    t_ns: Times,
    clouds: Sequence[NDArray[np.floating]],
    mounts: Array,
    which: NDArray[np.integer],
    seconds: Sequence[NDArray[np.floating]] | None = None,
    labels: Sequence[NDArray[np.integer]] | None = None,
) -> ScanBlock:
    """Return scans as one block of points in the vehicle frame.

    Points that are not finite, or lie in the sensor's origin (no return), are removed, with their
    times and labels.

    Args:
        t_ns: (S,) time of each scan.
        clouds: S arrays (n, 3) or (n, 2), metres, in the sensor's own frame; a missing z is 0.
        mounts: (K, 4, 4), sensor -> vehicle frame (x forward, y left, z up).
        which: (S,) index of each scan's sensor, 0 to K - 1.
        seconds: S arrays (n,), time of each point relative to its scan's time, or None.
        labels: S arrays (n,), class number of each point in the data set's own table, or None.
    """
    counts = [len(cloud) for cloud in clouds]
    points = np.empty((sum(counts), 3), np.float32)
    real = np.empty(len(points), np.bool_)
    origin = mounts[which, :3, 3].astype(np.float32)
    start = 0
    with np.errstate(invalid="ignore", over="ignore"):
        # Scan by scan: sensors may alternate, and the data in work stay in the cache.
        for cloud, k, sensor in zip(clouds, which.tolist(), origin, strict=True):
            part = points[start : start + len(cloud)]
            own = cloud.T.astype(np.float64)
            for i, (*turn, shift) in enumerate(mounts[k, :3].tolist()):
                # By column: several times faster than a matrix product of such narrow arrays.
                moved = turn[0] * own[0]
                for factor, column in zip(turn[1 : len(own)], own[1:], strict=True):
                    moved += factor * column
                part[:, i] = moved + shift
            x, y, z = (part[:, axis] - sensor[axis] for axis in range(3))
            squared = x * x + y * y + z * z
            real[start : start + len(cloud)] = (squared > 0) & (squared < np.inf)
            start += len(cloud)
    scan = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    when = None if seconds is None else _joined(seconds, np.float32)
    label = None if labels is None else _joined(labels, np.int32)
    if not real.all():
        points, scan = np.compress(real, points, axis=0), np.compress(real, scan)
        when = None if when is None else when[real]
        label = None if label is None else label[real]
    return ScanBlock(t_ns, points, scan, origin, when, label)


def _joined(parts: Sequence[NDArray[Any]], dtype: type[T]) -> NDArray[T]:
    return np.concatenate([np.zeros(0, dtype), *parts], dtype=dtype, casting="unsafe")


def read_table(path: Node, columns: Sequence[str], text: Sequence[str] = ()) -> dict[str, Any]:
    """Read named columns of a CSV file with a header line.

    Rows that lack one of the columns (the last one of an interrupted copy) or have a number that is
    not finite are left out.

    Args:
        path: The file.
        columns: Numeric columns: int64 for names that end in "timestamp" or are "t_ns", else
            float64.
        text: Columns that stay text.

    Returns:
        An array per column, all of equal length.

    Raises:
        MaptileError: The file cannot be read, has no such column or no complete row, or a value is
            not a number.
    """
    frame = _read_csv(path)
    missing = [name for name in (*columns, *text) if name not in frame.columns]
    if missing:
        raise MaptileError(f"{path}: no column {', '.join(missing)} in the header line")
    frame = frame[[*columns, *text]].dropna()
    if frame.empty:
        raise MaptileError(f"{path}: no complete row")
    table: dict[str, Any] = {name: frame[name].to_numpy(object) for name in text}
    for name in columns:
        whole = name.endswith("timestamp") or name == "t_ns"
        try:
            table[name] = frame[name].to_numpy(object).astype(np.int64 if whole else np.float64)
        except (ValueError, OverflowError):
            kind = np.int64 if whole else np.float64
            line, value = _first_wrong(frame[name], kind)
            number = "a whole number" if whole else "a number"
            raise MaptileError(
                f"{path}: line {line}: column {name}: expected {number}, found {value[:60]!r}"
            ) from None
    finite = np.all([np.isfinite(table[name]) for name in columns], axis=0)
    return {name: values[finite] for name, values in table.items()}


def _first_wrong(column: pd.Series[str], kind: type[np.generic]) -> tuple[int, str]:
    """The line and the text of the first value that is no number of a kind."""
    for row, text in column.items():
        try:
            np.array([text], object).astype(kind)
        except (ValueError, OverflowError):
            return int(str(row)) + 2, str(text)
    return 1, ""


def relative_track(t_ns: Times, world: Array) -> PoseTrack:
    """Reduce absolute poses to relative motion: each segment starts at the origin, facing x.

    Positions are rounded to 2**-20 m (a micrometre) first, so that a shift of the world's origin by
    whole metres changes no bit of the track.

    Args:
        t_ns: (N,) times, N > 0, in any order; of two poses at one time, the first is used.
        world: (N, 4, 4) vehicle frame -> a world frame with z up.

    Returns:
        A track whose segments end at gaps of more than ``MAX_BRIDGED_GAP_NS``.
    """
    order = np.argsort(t_ns, kind="stable")
    order = order[increasing(t_ns[order])]
    t_ns, world = t_ns[order], world[order]
    segment = np.concatenate([[0], np.cumsum(np.diff(t_ns) > MAX_BRIDGED_GAP_NS)])
    first = np.searchsorted(segment, segment)
    position = np.round(world[:, :3, 3] * 2**20) / 2**20
    yaw = np.arctan2(world[first, 1, 0], world[first, 0, 0])
    level = Rotation.from_euler("z", -yaw[:, None])
    attitude = level * Rotation.from_matrix(world[:, :3, :3])
    poses = se3(attitude, level.apply(position - position[first]))
    return PoseTrack(t_ns, poses, segment.astype(np.int32))


def increasing(t_ns: Times) -> NDArray[np.bool_]:
    """Return (N,) whether each sample is later than all before it."""
    if not len(t_ns):
        return np.zeros(0, bool)
    before = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(t_ns)[:-1]])
    return t_ns > before


def in_time(t_ns: Times) -> NDArray[np.int64]:
    """The rows of a recording in the order of time, without those whose stamps are wrong.

    A stamp is wrong if the rows around it are in order without it, and it lies outside all of
    theirs; or if it is one of a few that lie farther from the others than those last. Of rows at
    the same time, the first is used.

    Args:
        t_ns: (N,) in the order of the file: pieces of it may be jumbled or reversed.

    Returns:
        (M,) indices, M <= N; ``t_ns`` of them is strictly increasing.
    """
    rows = np.arange(len(t_ns))
    if len(t_ns) > 2:
        wide = np.pad(t_ns, NEIGHBOURS, mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(wide, 2 * NEIGHBOURS + 1)
        others = np.delete(around, NEIGHBOURS, axis=1)[1:-1]
        before, own, after = t_ns[:-2], t_ns[1:-1], t_ns[2:]
        beyond = (own < others.min(axis=1)) | (own > others.max(axis=1))
        rising = np.diff(t_ns) > 0
        in_order = np.append(True, rising[:-2]) & (before < after) & np.append(rising[2:], True)
        rows = rows[~np.concatenate([[False], in_order & beyond, [False]])]
    order = rows[np.argsort(t_ns[rows], kind="stable")]
    order = order[increasing(t_ns[order])]
    few = max(NEIGHBOURS, len(order) // 100)
    gaps = np.diff(t_ns[order])
    for part in (slice(few), slice(-few, None)):
        if len(gaps) <= 2 * few:
            break
        at = int(gaps[part].argmax()) + (0 if part.stop else len(gaps) - few)
        rest = order[at + 1 :] if part.stop else order[: at + 1]
        if gaps[at] > max(APART_NS, int(np.ptp(t_ns[rest]))):
            order = rest
            gaps = np.diff(t_ns[order])
    chosen: NDArray[np.int64] = order
    return chosen


def said_of_rows(what: str, before: int, after: int) -> list[str]:
    """A note on rows that ``in_time`` left out; none if there are none."""
    if before == after:
        return []
    return [
        f"{what}: {before - after} of {before} rows have a wrong or double time stamp; left out"
    ]


def said_of_gaps(what: str, gaps: int) -> str:
    """A note on the gaps in a track that end segments of the odometry."""
    longest = MAX_BRIDGED_GAP_NS / 1e9
    text = f"{what}: {counted(gaps, 'gap')} of more than {longest:g} s; the odometry has "
    return f"{text}{counted(gaps + 1, 'segment')}"


def unbridged(track: PoseTrack | None, scan_ns: Times, notes: list[str]) -> PoseTrack | None:
    """A track of which no part joins two poses with a gap of scans between them.

    Args:
        track: Poses of a recorder; None where there are none.
        scan_ns: (S,) times of the scans, ascending.
        notes: A line on the gaps is appended.

    Returns:
        The track with a new segment after each gap of more than ``MAX_BRIDGED_GAP_NS``, and of more
        than ``SPARSE`` times the usual time between poses, in which scans were taken.
    """
    if track is None or len(track.t_ns) < 2:
        return track
    between = np.diff(track.t_ns)
    begin, end = track.t_ns[:-1], track.t_ns[1:]
    scans = np.searchsorted(scan_ns, end) - np.searchsorted(scan_ns, begin, side="right")
    gap = between > max(MAX_BRIDGED_GAP_NS, SPARSE * float(np.median(between)))
    gap &= (scans > 0) & (np.diff(track.segment) == 0)
    if not gap.any():
        return track
    notes.append(said_of_gaps("odometry", int(gap.sum())))
    return replace(track, segment=track.segment + np.append(0, np.cumsum(gap)).astype(np.int32))


def read_header(path: Node) -> tuple[str, ...]:
    """Return the names of the columns of a CSV file.

    Raises:
        MaptileError: The file cannot be read.
    """
    return tuple(_read_csv(path, rows=0).columns)


def _read_csv(path: Node, rows: int | None = None) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            # Without index_col=False, a trailing comma would shift every column by one.
            frame = pd.read_csv(
                io.BytesIO(read_node(path)),
                dtype=str,
                index_col=False,
                skipinitialspace=True,
                nrows=rows,
            )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(f"{path}: not readable as CSV ({reason})") from None
    frame.columns = frame.columns.str.strip()
    return frame


@dataclass(frozen=True)
class FilesByTime:
    """The scans of one sensor, in files of points of equal size.

    Attributes:
        folder: The folder of the files.
        t_ns: (S,) time of each scan, from the name of its file.
        mount: (4, 4) sensor -> vehicle frame.
        sensors: The sensor's name.
        tick_ns: Unit of the times in the names, nanoseconds.
        record_bytes: Size of a point, bytes.
        points: Turns a file's content into (N, 3) metres, sensor frame.
        seconds: Turns it into the (N,) times of the points, relative to the scan's; None: unknown.
    """

    folder: Node
    t_ns: Times
    mount: Array
    sensors: tuple[str, ...]
    tick_ns: int
    record_bytes: int
    points: Callable[[bytes], Array]
    seconds: Callable[[bytes], Array] | None = None

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive); see ``ScanSource``."""
        t_ns = self.t_ns[start:stop]
        names = [f"{number}.bin" for number in (t_ns // self.tick_ns).tolist()]
        files = [read_records(self.folder, name, self.record_bytes) for name in names]
        clouds = [self.points(data) for data in files]
        seconds = None if self.seconds is None else [self.seconds(data) for data in files]
        return scan_block(t_ns, clouds, self.mount[None], np.zeros(len(t_ns), np.int8), seconds)
