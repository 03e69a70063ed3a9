"""Drives with one damaged file: an error in one line, or a drive to look at."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from data_prep.drive import Drive, ScanBlock
from data_prep.errors import MaptileError
from data_prep.sources import open_drive

often = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` cut, with a piece of it repeated or moved, or with some bytes written over."""
    kind = draw(st.sampled_from(["cut", "repeat", "swap", "write"]))
    at = draw(st.integers(0, len(data)))
    end = draw(st.integers(at, len(data)))
    if kind == "cut":
        return data[:at]
    if kind == "repeat":
        return data[:end] + data[at:]
    if kind == "swap":
        return data[at:end] + data[:at] + data[end:]
    return data[:at] + draw(st.binary(max_size=12)) + data[end:]


def read_damaged(
    folder: Path, file: Path, choices: st.DataObject
) -> tuple[Drive, ScanBlock] | None:
    """The drive in ``folder`` and all its scans, read while ``file`` is damaged.

    None where that is told to be an error.
    """
    before = file.read_bytes()
    file.write_bytes(choices.draw(damaged(before)))
    try:
        drive = open_drive(folder)
        return drive, drive.scans.read(0, len(drive.scans.t_ns))
    except MaptileError as error:
        assert "\n" not in str(error)
        return None
    finally:
        file.write_bytes(before)
