"""The registry of drive formats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import sources
from data_prep.errors import MaptileError
from data_prep.sources import (
    SOURCES,
    Source,
    open_drive,
)

ORDER = (
    "robotcar",
    "kitti360",
    "kitti",
    "kitti_odometry",
    "argoverse2",
    "nuscenes",
    "mcd",
    "mulran",
    "nclt",
    "boreas",
    "rosbag",
    "pcap",
    "clouds",
    "colmap",
    "cloud",
)
"""The order in which formats are tried."""

SNAPSHOT = '''"""Snapshot: a folder with a file snapshot.txt."""

from data_prep.drive import Drive
from data_prep.sources import Source


class Scans:
    sensors = ("camera",)

    def __init__(self, t_ns):
        self.t_ns = t_ns


def open_snapshot(path, sensors):
    import numpy as np

    scans = Scans(np.arange(3) * 1_000_000_000)
    return Drive("snap", "snapshot", scans, None, None, None, notes=tuple(sensors or ()))


SOURCE = Source(
    looked_for="snapshot (snapshot.txt)",
    recognises=lambda path: (path / "snapshot.txt").is_file(),
    open=open_snapshot,
    priority=5,
    sensors=("camera", "radar"),
)
'''
"""A file that reads another format."""


def test_every_file_of_the_folder_is_a_format() -> None:
    folder = Path(sources.__path__[0])
    files = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    assert set(SOURCES.names()) == files == set(ORDER)
    for name in SOURCES.names():
        assert isinstance(SOURCES.load(name), Source)
        assert SOURCES.load(name).looked_for


def test_formats_are_tried_in_a_fixed_order() -> None:
    priority = {name: SOURCES.load(name).priority for name in SOURCES.names()}
    assert len(set(priority.values())) == len(priority)
    assert sorted(priority, key=lambda name: priority[name]) == list(ORDER)


def test_names_and_summaries_are_read_without_importing_the_files() -> None:
    program = (
        "import sys\n"
        "from data_prep.sources import SOURCES\n"
        "print(*SOURCES.names())\n"
        "print(*map(SOURCES.summary, SOURCES.names()), sep='\\n')\n"
        "heavy = {'numpy', 'pandas', 'pyproj', 'pyarrow', 'lazrs', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert 'data_prep.sources.kitti' not in sys.modules\n"
    )
    names, *summaries = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert names.split() == list(SOURCES.names())
    assert summaries == [SOURCES.summary(name) for name in SOURCES.names()]
    assert all(summary.endswith(".") for summary in summaries)
    assert len(summaries) == len(ORDER)


def test_a_format_is_added_by_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "snapshot.py").write_text(SNAPSHOT, "utf-8")
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "more")])
    assert "snapshot" in SOURCES.names()
    assert SOURCES.summary("snapshot") == "Snapshot: a folder with a file snapshot.txt."
    (tmp_path / "drive" / "velodyne_points" / "data").mkdir(parents=True)
    (tmp_path / "drive" / "snapshot.txt").touch()
    for format in ("auto", "snapshot"):  # of two formats that recognise it, the first in order
        assert open_drive(str(tmp_path / "drive"), format).format == "snapshot"
    assert open_drive(tmp_path / "drive", sensors=("radar",)).notes == ("radar",)
    with pytest.raises(MaptileError, match="no sensor sonar; choose from camera, radar"):
        open_drive(tmp_path / "drive", sensors=("sonar",))
    assert open_drive(tmp_path / "drive", end=1.5).scans.t_ns.tolist() == [0, 1_000_000_000]
    sys.modules.pop("data_prep.sources.snapshot")
