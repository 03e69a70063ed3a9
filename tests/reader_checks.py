"""Checks that every reader of drives has to pass: the truth stays out, damage is one clear line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_prep.drive import Drive, ScanBlock
from data_prep.errors import MaptileError
from data_prep.sources import open_drive


def fuzz(max_examples: int) -> settings:
    """Settings of a fuzz test: its fixtures may be shared by all examples.

    MAPTILE_FUZZ_CASES is the number of examples of a campaign, in place of ``max_examples``.
    """
    return settings(
        max_examples=int(os.environ.get("MAPTILE_FUZZ_CASES", max_examples)),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


often = fuzz(250)

SIGNALLING = st.sampled_from([bytes.fromhex("0000817f"), bytes.fromhex("000000000000f47f")])
"""Signalling NaNs of single and double precision: to cast or to compute with one is a warning."""

EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9) | SIGNALLING),
    max_size=6,
)
"""Bytes to write over a file's, each at a fraction of its length."""


def edited(data: bytes, edits: list[tuple[float, bytes]]) -> bytearray:
    """``data`` with ``edits``, as drawn from ``EDITS``, written over it."""
    result = bytearray(data)
    for where, patch in edits:
        at = int(where * len(result))
        result[at : at + len(patch)] = patch
    return result


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` cut, with a part repeated or moved, or with some bytes or a number overwritten."""
    kind = draw(st.sampled_from(["cut", "repeat", "swap", "write", "signal"]))
    at = draw(st.integers(0, len(data)))
    end = draw(st.integers(at, len(data)))
    if kind == "cut":
        return data[:at]
    if kind == "repeat":
        return data[:end] + data[at:]
    if kind == "swap":
        return data[at:end] + data[:at] + data[end:]
    if kind == "write":
        return data[:at] + draw(st.binary(max_size=12)) + data[end:]
    number = draw(SIGNALLING)
    at -= at % len(number)
    return data[:at] + number + data[at + len(number) :]


def read_damaged(
    folder: Path, file: Path, choices: st.DataObject
) -> tuple[Drive, ScanBlock] | None:
    """The drive in ``folder`` and all its scans, read while ``file`` is damaged; see ``read``."""
    before = file.read_bytes()
    file.write_bytes(choices.draw(damaged(before)))
    try:
        return read(folder)
    finally:
        file.write_bytes(before)


def read(folder: Path, within: Path | None = None) -> tuple[Drive, ScanBlock] | None:
    """The drive in ``folder`` and all its scans, both sound; None where reading is an error.

    The error must be one line, with a path in ``within``.
    """
    try:
        drive = open_drive(folder)
        block = drive.scans.read(0, len(drive.scans.t_ns))
    except MaptileError as error:
        assert "\n" not in str(error)
        assert within is None or str(within) in str(error)
        return None
    check_sound(drive, block)
    return drive, block


def check_sound(drive: Drive, block: ScanBlock) -> None:
    """Every value of a drive is finite, and times and rotations are what they should be."""
    assert np.isfinite(block.points).all()
    assert block.seconds is None or np.isfinite(block.seconds).all()
    for column in (block.scan, block.seconds, block.label):
        assert column is None or len(column) == len(block.points)
    assert (np.diff(drive.scans.t_ns) >= 0).all()
    if drive.odometry is not None:
        assert (np.diff(drive.odometry.t_ns) > 0).all()
        assert np.isfinite(drive.odometry.poses).all()
        turn = drive.odometry.poses[:, :3, :3]
        assert np.allclose(turn @ np.swapaxes(turn, 1, 2), np.eye(3), atol=1e-9)
    if drive.heading is not None:
        assert (np.diff(drive.heading.t_ns) > 0).all()
        assert np.isfinite(drive.heading.heading).all()
    if drive.truth is not None:
        assert (np.diff(drive.truth.t_ns) > 0).all()
        for values in (drive.truth.latitude, drive.truth.longitude, drive.truth.heading):
            assert np.isfinite(values).all()


# --- equal drives --------------------------------------------------------------------------------


def arrays(drive: Drive, scans: int | None = None) -> dict[str, NDArray]:
    """All arrays of a drive but its truth, with the points of its first scans (None: of all)."""
    block = drive.scans.read(0, len(drive.scans.t_ns) if scans is None else scans)
    found = {"scans.t_ns": drive.scans.t_ns} | _fields("block", block)
    return found | _fields("odometry", drive.odometry) | _fields("heading", drive.heading)


def truth_arrays(drive: Drive) -> dict[str, NDArray]:
    """All arrays of a drive's truth."""
    return _fields("truth", drive.truth)


def check_same(left: dict[str, NDArray], right: dict[str, NDArray]) -> None:
    """Two drives' arrays are equal to the last bit."""
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype, name
        assert array.shape == right[name].shape, name
        assert array.tobytes() == right[name].tobytes(), name


def check_same_but_truth(here: Drive, away: Drive, scans: int | None = None) -> None:
    """Scans, odometry and heading of two drives are equal to the last bit, and no truth is."""
    for drive in (here, away):
        assert drive.odometry is not None
        assert drive.heading is not None
    assert here.truth is not None
    assert away.truth is not None
    moved = abs(here.truth.latitude - away.truth.latitude)
    assert (moved + abs(here.truth.longitude - away.truth.longitude) > 0.01).all()
    check_same(arrays(here, scans), arrays(away, scans))


def _fields(prefix: str, track: object) -> dict[str, NDArray]:
    fields = {} if track is None else vars(track)
    return {f"{prefix}.{name}": value for name, value in fields.items() if value is not None}
