"""Files that the KITTI data sets share: numbered Velodyne scans, labels, times, rows of poses."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data_prep.counted import counted
from data_prep.drive import ScanBlock, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3
from data_prep.sources.formats.common import file_names, read_records, scan_block
from data_prep.sources.storage.tree import Node, read_node_text

SENSORS = ("velodyne",)
"""Names of the sensors of a KITTI drive."""

NO_TIME = int(np.iinfo(np.int64).min)
"""Time of a frame whose line in a list of times is empty, because the frame was lost."""

TURN_S = 0.1
"""Usual duration of a turn of the Velodyne HDL-64E in the KITTI data sets, seconds."""

_TURNS_S = (0.05, 0.2)
"""Shortest and longest turn that the sensor can be set to, seconds (20 and 5 Hz)."""

_STAMP = re.compile(r"(?:19|20|21)\d\d-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,9})?")
"""A line of a list of times."""

_MAX_SHIFT_M = 1e7
"""Largest coordinate of a pose, metres; anything larger is damage."""


@dataclass(frozen=True)
class VelodyneScans:
    """The existing scans of a drive, with the numbers of their files.

    Attributes:
        folder: Holds the scans, <number>.bin: float32 rows of x, y, z, reflectance.
        labels: Holds the labels, <number>.label: a uint32 per point, its low 16 bits the class.
        t_ns: (S,) time of each scan.
        names: S names of its file, without suffix.
        label_names: S names of the file of its labels, without suffix; "" without labels.
        labelled: (S,) whether it has labels.
        turn_s: (S,) duration of the sensor's turn in each scan, seconds; None where the scans are
            motion-compensated.
        mount: (4, 4) Velodyne -> vehicle frame.
        sensors: ("velodyne",).
    """

    folder: Node
    labels: Node
    t_ns: Times
    names: tuple[str, ...]
    label_names: tuple[str, ...]
    labelled: NDArray[np.bool_]
    turn_s: Array | None
    mount: Array
    sensors: tuple[str, ...] = SENSORS

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive); see ``ScanSource``."""
        t_ns = self.t_ns[start:stop]
        names = self.names[start:stop]
        clouds = [
            np.frombuffer(read_records(self.folder, f"{name}.bin", 16), "<f4").reshape(-1, 4)
            for name in names
        ]
        labels = seconds = None
        if names and self.labelled[start:stop].all():
            pairs = zip(self.label_names[start:stop], clouds, strict=True)
            labels = [self._label(name, len(cloud)) for name, cloud in pairs]
        if self.turn_s is not None:
            turns = self.turn_s[start:stop].tolist()
            seconds = [turning(*pair) for pair in zip(clouds, turns, strict=True)]
        which = np.zeros(len(t_ns), np.int8)
        xyz = [cloud[:, :3] for cloud in clouds]
        return scan_block(t_ns, xyz, self.mount[None], which, seconds, labels)

    def _label(self, name: str, points: int) -> NDArray[np.int32]:
        numbers = np.frombuffer(read_records(self.labels, f"{name}.label", 4), "<u4")
        if len(numbers) != points:
            raise MaptileError(
                f"{self.labels}/{name}.label: {len(numbers)} labels for the {points} points of the "
                "scan; take both from the same data set"
            )
        return (numbers & 0xFFFF).astype(np.int32)


def open_velodyne(
    folder: Node,
    labels: Node,
    times: Times,
    turn_s: Array | None,
    mount: Array,
    notes: list[str],
) -> VelodyneScans:
    """Return the scans of ``folder`` that have a time, sorted by time.

    Args:
        folder: Holds the scans.
        labels: Holds the labels; need not exist.
        times: (L,) time of scan number 0, 1, ...; ``NO_TIME`` where it is unknown.
        turn_s: (L,) duration of each scan's turn, seconds; None for motion-compensated scans.
        mount: (4, 4) Velodyne -> vehicle frame.
        notes: Lines about missing scans, times and labels are appended.

    Raises:
        MaptileError: No scan has a time.
    """
    files = numbered(folder, "bin")
    numbers = np.array(sorted(files), np.int64)
    known = numbers[numbers < len(times)]
    known = known[times[known] != NO_TIME]
    if len(known) < len(numbers):
        notes.append(
            f"velodyne: {counted(len(numbers) - len(known), 'scan')} without a time stamp; left out"
        )
    if len(known) < len(times):
        notes.append(f"velodyne: {len(times) - len(known)} of {len(times)} scans are missing")
    if not len(known):
        raise MaptileError(f"{folder}: no scan (<number>.bin) with a time stamp")
    number = known[np.argsort(times[known], kind="stable")]
    classes = numbered(labels, "label")
    label_names = tuple(classes.get(one, "") for one in number.tolist())
    labelled = np.array([name != "" for name in label_names])
    if labelled.any() and not labelled.all():
        notes.append(
            f"labels: {len(number) - labelled.sum()} of {len(number)} scans have none; "
            "a submap with one of these scans does not use labels"
        )
    turns = None if turn_s is None else turn_s[number]
    names = tuple(files[one] for one in number.tolist())
    return VelodyneScans(folder, labels, times[number], names, label_names, labelled, turns, mount)


def numbered(folder: Node, suffix: str) -> dict[int, str]:
    """Names, without suffix, of the files <number>.<suffix> in a folder, by their numbers.

    The data sets write 6 or 10 digits, copies of them any number; of two names of one number, the
    longer is used. There are none where there is no such folder.
    """
    if not folder.is_dir():
        return {}
    pattern = re.compile(rf"(\d{{1,10}})\.{suffix}", re.ASCII)
    stems = [match[1] for match in map(pattern.fullmatch, file_names(folder)) if match]
    return {int(stem): stem for stem in sorted(stems, key=len)}


# --- times of points -----------------------------------------------------------------------------


def turning(cloud: NDArray[np.float32], turn_s: float) -> NDArray[np.float32]:
    """Return the time of each point, relative to the moment at which the Velodyne faces forward.

    Seen from above, the sensor turns clockwise, and a turn begins and ends at the back: points on
    the left are measured before that moment, points on the right after it. KITTI-360's own tools
    compensate the motion in the same way. Pairs of scans of KITTI raw drive 0005 confirm it: their
    distance is smallest with the motion undone in this direction (docs/datasets.md).

    Args:
        cloud: (n, 2 or more) x forward and y left of the sensor, metres.
        turn_s: Duration of the turn, seconds.

    Returns:
        (n,) float32 seconds.
    """
    with np.errstate(invalid="ignore"):  # damaged numbers are not finite
        return np.arctan2(cloud[:, 1], cloud[:, 0]) * np.float32(-turn_s / (2 * np.pi))


def turn_seconds(times: Times, begin: Times | None = None, end: Times | None = None) -> Array:
    """Return the duration of each turn.

    Args:
        times: (L,) time at which the sensor faces forward in each turn; ``NO_TIME`` where unknown.
        begin: Begin of each turn, of any length; unknown beyond its end.
        end: End of each turn, of any length; unknown beyond its end.

    Returns:
        (L,) seconds: end - begin where both are known and plausible, else the median difference of
        ``times`` where that is plausible, else ``TURN_S``.
    """
    usual = np.median(_seconds(times[:-1], times[1:])) if len(times) > 1 else TURN_S
    turn = np.full(len(times), usual if _TURNS_S[0] <= usual <= _TURNS_S[1] else TURN_S)
    if begin is not None and end is not None:
        count = min(len(times), len(begin), len(end))
        measured = _seconds(begin[:count], end[:count])
        sound = (measured >= _TURNS_S[0]) & (measured <= _TURNS_S[1])
        turn[:count][sound] = measured[sound]
    return turn


def _seconds(begin: Times, end: Times) -> Array:
    known = (begin != NO_TIME) & (end != NO_TIME)
    return np.where(known, end - np.where(known, begin, end), 0) / 1e9


# --- text files ----------------------------------------------------------------------------------


def read_text(path: Node, hint: str) -> str:
    """Return the text of a file.

    Raises:
        MaptileError: It is missing (the message ends with ``hint``), or is not ASCII text.
    """
    try:
        return read_node_text(path, "ascii")
    except FileNotFoundError:
        raise MaptileError(f"{path}: no such file; {hint}") from None
    except (OSError, ValueError):
        raise MaptileError(f"{path}: not a text file; copy or download it again") from None


def read_timestamps(path: Node) -> Times:
    """Read a list of times, lines such as "2011-09-26 13:04:32.349659964", to the nanosecond.

    Returns:
        (N,) int64 nanoseconds since 1970; ``NO_TIME`` for an empty line, which stands for a lost
        frame (as in KITTI raw 2011_09_26 drive 0009).

    Raises:
        MaptileError: The file is missing, or a line is not a time.
    """
    lines = read_text(path, "it comes with the drive's archive").rstrip().split("\n")
    lines = [line.strip() for line in lines] if lines != [""] else []
    try:
        if not all(_STAMP.fullmatch(line) for line in lines if line):
            raise ValueError
        # numpy reads an empty string as NaT, which is the integer NO_TIME.
        return np.array([line.replace(" ", "T") for line in lines], "datetime64[ns]").astype(
            np.int64
        )
    except ValueError:
        raise MaptileError(
            f"{path}: not a list of times such as 2011-09-26 13:04:32.349659964"
        ) from None


def read_rows(path: Node, columns: int, hint: str) -> Array:
    """Read a text file of numbers, a row per line; empty lines are left out.

    Returns:
        (N, columns) finite numbers.

    Raises:
        MaptileError: The file is missing (the message ends with ``hint``), or a line does not
            consist of ``columns`` finite numbers.
    """
    rows = []
    for number, line in enumerate(read_text(path, hint).split("\n"), 1):
        row = _numbers_of(line)
        if len(row) != columns and line.strip():
            raise MaptileError(
                f"{path}: line {number} is not {columns} numbers; copy or download it again"
            )
        rows.append(row)
    return np.array([row for row in rows if row], np.float64).reshape(-1, columns)


def _numbers_of(text: str) -> list[float]:
    """The finite numbers that ``text`` consists of; empty where it contains anything else."""
    try:
        row = [float(word) for word in text.split()]
    except ValueError:
        return []
    return row if np.isfinite(row).all() else []


def read_named(path: Node, name: str, hint: str) -> Array:
    """Read the line "name: ..." of a calibration file.

    Returns:
        (K,) finite numbers.

    Raises:
        MaptileError: The file is missing (the message ends with ``hint``), or lacks the line.
    """
    for line in read_text(path, hint).splitlines():
        label, colon, numbers = line.partition(":")
        if colon and label.strip() == name:
            row = _numbers_of(numbers)
            if row:
                return np.array(row, np.float64)
    raise MaptileError(f"{path}: no line {name}: with numbers; copy or download it again")


def rigid(rows: Array, path: Node) -> Array:
    """Convert (N, 12) row-major 3 x 4 matrices, read from ``path``, to (N, 4, 4) transforms.

    Raises:
        MaptileError: A matrix is not rigid: its left part is not a rotation, or its translation is
            larger than any on Earth.
    """
    if rows.shape[1] != 12:  # a line of a calibration file may have any length
        raise MaptileError(f"{path}: expected 12 numbers, found {rows.shape[1]}")
    matrix = rows.reshape(-1, 3, 4)
    turn, shift = np.clip(matrix[:, :, :3], -2, 2), matrix[:, :, 3]
    square = np.einsum("nij,nkj->nik", turn, turn)
    sound = (abs(square - np.eye(3)).max(axis=(1, 2), initial=0) < 0.01) & (np.linalg.det(turn) > 0)
    sound &= abs(shift).max(axis=1, initial=0) < _MAX_SHIFT_M
    if not sound.all():
        raise MaptileError(
            f"{path}: transform number {int(np.argmin(sound)) + 1} of {len(rows)} is not rigid; "
            "copy or download it again"
        )
    return se3(Rotation.from_matrix(turn), shift)
