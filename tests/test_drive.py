from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.drive import Drive, HeadingTrack, PoseTrack, ScanBlock, ScanSource, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import se3_from_xyzrpy
from data_prep.sources import SOURCES, open_drive
from data_prep.sources.formats.common import increasing, read_table
from maptile_loc.report.inspect.drive_text import describe_drive

S = 1_000_000_000
START = 1_403_774_724_292_807_000


def times(*seconds: float) -> np.ndarray:
    return START + np.array([round(s * S) for s in seconds], np.int64)


def track(seconds: list[float], x: list[float], segment: list[int]) -> PoseTrack:
    rows = [[value, 0, 0, 0, 0, 0] for value in x]
    return PoseTrack(times(*seconds), se3_from_xyzrpy(rows), np.array(segment, np.int32))


def write_clouds(drive: Path, seconds: list[float], points: int = 5) -> Path:
    (drive / "clouds").mkdir(parents=True)
    for t in times(*seconds):
        cloud = np.full((points, 4), 1.0, "<f4")
        (drive / "clouds" / f"{t}.bin").write_bytes(cloud.tobytes())
    return drive


def test_travelled_adds_nothing_between_two_segments() -> None:
    odometry = track([0, 1, 2, 9, 10], [0, 3, 3, 50, 54], [0, 0, 0, 1, 1])
    assert odometry.travelled().tolist() == [0, 3, 3, 3, 7]


def test_a_time_in_a_gap_or_outside_has_no_segment() -> None:
    odometry = track([0, 1, 5, 6], [0, 1, 9, 10], [0, 0, 1, 1])
    asked = times(-0.1, 0, 0.5, 1, 3, 5, 5.5, 6, 6.1)
    assert odometry.segment_at(asked).tolist() == [-1, 0, 0, 0, -1, 1, 1, 1, -1]


def test_poses_of_a_track_are_interpolated() -> None:
    odometry = track([0, 1, 2], [0, 4, 4], [0, 0, 0])
    assert np.allclose(odometry.at(times(0.25, 1.5, 9))[:, 0, 3], [1, 4, 4])


def test_heading_is_interpolated_across_west() -> None:
    heading = HeadingTrack(times(0, 1), np.radians([175.0, -175.0]))
    assert np.degrees(heading.at(times(0.2, 0.8))) == pytest.approx([177, -177])


def test_truth_is_known_only_between_samples_at_most_two_seconds_apart() -> None:
    truth = TruthTrack(
        times(0, 2, 5), np.array([51.0, 51.2, 51.5]), np.array([1.0, 1.2, 1.5]), np.zeros(3)
    )
    latitude, longitude, heading = truth.at(times(-1, 0, 1, 2, 3, 5, 6))
    known = [False, True, True, True, False, True, False]
    assert np.isfinite(latitude).tolist() == known
    assert np.isfinite(longitude).tolist() == known
    assert np.isfinite(heading).tolist() == known
    assert latitude[2] == pytest.approx(51.1)


def test_without_truth_keeps_everything_else(tmp_path: Path) -> None:
    drive = open_drive(write_clouds(tmp_path / "drive", [0, 1]))
    truth = TruthTrack(times(0), np.zeros(1), np.zeros(1), np.zeros(1))
    seen = Drive("d", "clouds", drive.scans, None, None, truth).without_truth()
    assert seen.truth is None
    assert seen.scans is drive.scans


def test_increasing_selects_samples_later_than_all_before() -> None:
    t_ns = np.array([5, 7, 7, 6, 8, 2, 9], np.int64)
    assert t_ns[increasing(t_ns)].tolist() == [5, 7, 8, 9]
    assert increasing(t_ns[:0]).tolist() == []


# --- opening -------------------------------------------------------------------------------------


def test_start_and_end_are_seconds_from_the_first_scan(tmp_path: Path) -> None:
    path = write_clouds(tmp_path / "drive", [0, 1, 2, 3, 4])
    whole = open_drive(path)
    cut = open_drive(path, start=1.0, end=3.0)
    assert cut.scans.t_ns.tolist() == times(1, 2, 3).tolist()
    assert cut.scans.sensors == whole.scans.sensors
    for block, same in ((cut.scans.read(0, 99), whole.scans.read(1, 4)),):
        assert np.array_equal(block.t_ns, same.t_ns)
        assert np.array_equal(block.points, same.points)
        assert np.array_equal(block.scan, same.scan)
    assert open_drive(path, end=0.5).scans.t_ns.tolist() == times(0).tolist()
    assert open_drive(path, start=3.5).scans.t_ns.tolist() == times(4).tolist()
    with pytest.raises(MaptileError, match=r"lasts 4\.0 seconds"):
        open_drive(path, start=10)


def test_unknown_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(MaptileError) as error:
        open_drive(tmp_path)
    for word in (str(tmp_path), "lms_front", "velodyne_points", "clouds/"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_of_drives_names_them(tmp_path: Path) -> None:
    write_clouds(tmp_path / "monday", [0])
    write_clouds(tmp_path / "tuesday", [0])
    with pytest.raises(MaptileError, match="monday, tuesday"):
        open_drive(tmp_path)


def test_missing_folder_and_unknown_format_are_clear(tmp_path: Path) -> None:
    with pytest.raises(MaptileError, match="no such folder"):
        open_drive(tmp_path / "nowhere")
    with pytest.raises(MaptileError, match=f"choose from auto, {', '.join(SOURCES.names())}"):
        open_drive(tmp_path, format="rostopic")


@pytest.mark.parametrize("format", SOURCES.names())
def test_a_named_format_without_a_drive_is_an_error(tmp_path: Path, format: str) -> None:
    with pytest.raises(MaptileError, match=str(tmp_path)):
        open_drive(tmp_path, format=format)


def test_a_named_format_is_preferred_to_detection(tmp_path: Path) -> None:
    path = write_clouds(tmp_path / "drive", [0])
    (path / "velodyne_points" / "data").mkdir(parents=True)
    assert open_drive(path, format="clouds").format == "clouds"


# --- tables --------------------------------------------------------------------------------------


def test_a_row_cut_short_is_left_out_and_integers_stay_exact(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "t_ns, x ,y\n1403774724292807123,1,2\n1403774724292807124,3,4\n14037747", "ascii"
    )
    rows = read_table(path, ["t_ns", "y", "x"])
    assert rows["t_ns"].tolist() == [1403774724292807123, 1403774724292807124]
    assert rows["x"].tolist() == [1, 3]
    assert rows["y"].tolist() == [2, 4]


def test_rows_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t_ns,x\n1,1\n2,nan\n3,inf\n4,4\n", "ascii")
    assert read_table(path, ["t_ns", "x"])["x"].tolist() == [1, 4]


def test_a_trailing_comma_shifts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t_ns,x\n1,10,\n2,20,\n", "ascii")
    assert read_table(path, ["t_ns", "x"])["x"].tolist() == [10, 20]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as CSV"),
        (b"\xff\xfe\x00\x01,\n", "not readable as CSV"),
        (b"t_ns,z\n1,2\n", "no column x"),
        (b"t_ns,x\n", "no complete row"),
        (b"t_ns,x\n1,two\n", "column x"),
        (b"t_ns,x\n1.5,2\n", "column t_ns"),
        (b"t_ns,x\n99999999999999999999,2\n", "column t_ns"),
        (b"t_ns,x\n1,2\n1,2,3,4\n", "not readable as CSV"),
    ],
)
def test_damaged_tables_are_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(MaptileError, match=message) as error:
        read_table(path, ["t_ns", "x"])
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


# --- inspection ----------------------------------------------------------------------------------


class Scans:
    """Three points per scan."""

    sensors = ("lidar",)

    def __init__(self, t_ns: np.ndarray) -> None:
        self.t_ns = t_ns

    def read(self, start: int, stop: int) -> ScanBlock:
        t_ns = self.t_ns[start:stop]
        scan = np.repeat(np.arange(len(t_ns), dtype=np.int32), 3)
        return ScanBlock(
            t_ns, np.ones((len(scan), 3), np.float32), scan, np.zeros((len(t_ns), 3), np.float32)
        )


def test_inspection_shows_rates_gaps_and_lengths() -> None:
    scans: ScanSource = Scans(times(0, 0.5, 1, 4, 4.5, 5))
    drive = Drive(
        name="tuesday",
        format="clouds",
        scans=scans,
        odometry=track([0, 1, 2, 5, 6], [0, 10, 10, 0, 7], [0, 0, 0, 1, 1]),
        heading=HeadingTrack(times(0, 1, 2), np.zeros(3)),
        truth=TruthTrack(times(0, 1), np.array([51.5, 51.6]), np.array([-1.3, -1.2]), np.zeros(2)),
        notes=("a scan is missing",),
    )
    text = "\n".join(describe_drive(drive))
    assert "tuesday (clouds)" in text
    assert "6 in 5.0 s, 1.0 per second" in text
    assert "3 in the first scan" in text
    assert "1 of more than 1 s between scans; longest 3.00 s" in text
    # 10 m + 7 m; one second of three stands still; scans at 4 and 4.5 s lie in the gap.
    assert "17.0 m in 2 segments, 0.7 per second; stationary 33% of the time" in text
    assert "covers 66.7% of the scans" in text
    assert "3 samples, 1.0 per second" in text
    assert "latitude 51.500000 to 51.600000, longitude -1.300000 to -1.200000" in text
    assert text.count("covers 50.0% of the scans") == 1
    assert "a scan is missing" in text


def test_inspection_of_a_bare_drive_says_what_it_lacks() -> None:
    lines = describe_drive(Drive("d", "clouds", Scans(times(0)), None, None, None))
    assert [
        line.split()[-1] for line in lines if line.split()[0] in {"odometry", "heading", "truth"}
    ] == ["none"] * 3
    assert any("1 in 0.0 s" in line for line in lines)


@pytest.mark.realdata
def test_inspection_of_a_real_drive(data_dir: Path) -> None:
    path = data_dir / "kitti_raw/2011_09_26/2011_09_26_drive_0005_sync"
    text = "\n".join(describe_drive(open_drive(path)))
    assert "2011_09_26_drive_0005_sync (kitti)" in text
    assert "77 in 15.7 s, 4.8 per second" in text
    assert "77 of 154 scans are missing" in text
