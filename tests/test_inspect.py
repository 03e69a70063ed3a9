from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from made import ListedScans, straight_drive
from matplotlib import image as mpl_image
from small_city import small_city

from data_prep.city.folder import open_city
from data_prep.drive import Drive, HeadingTrack, PoseTrack, ScanBlock, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import se3_from_xyzrpy
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.report.inspect.city_text import describe_city
from maptile_loc.report.inspect.drive_text import (
    describe_drive,
    gap_threshold,
    missing,
    start_time,
)
from maptile_loc.report.inspect.drive_views import speed_at
from maptile_loc.report.inspect.moment import view_moment
from maptile_loc.report.inspect.moment_views import highest_points
from maptile_loc.report.inspect.scan_sample import sample_scans
from maptile_loc.report.inspect.summary import inspect
from maptile_loc.report.marks import scale_metres

S = 1_000_000_000
START = 1_403_774_724 * S


def facts(lines) -> dict[str, str]:
    """The text of each line by its label; several lines of one label are joined."""
    found: dict[str, str] = {}
    for line in lines:
        name, text = line[:10].strip(), line[10:]
        found[name] = f"{found[name]}\n{text}" if name in found else text
    return found


def street(x0: float, seed: int = 0, points: int = 4000) -> np.ndarray:
    """(N, 3) of a street along x, seen from x0: walls 8 m to the left, 9 m to the right."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-40, 100, points)
    third = points // 3
    left, right = np.full(third, 8.0), np.full(third, -9.0)
    y = np.concatenate([left, right, rng.uniform(-9, 8, points - 2 * third)])
    z = np.concatenate([rng.uniform(-1.7, 6, 2 * third), np.full(points - 2 * third, -1.7)])
    return np.stack([x - x0, y + rng.normal(0, 0.02, points), z], 1).astype("<f4")


def write_drive(folder: Path, seconds, odometry: bool = True, seed: int = 0) -> Path:
    """A drive of clouds along the street at 3 m/s, a scan at each of ``seconds``."""
    (folder / "clouds").mkdir(parents=True)
    t_ns = [START + round(s * S) for s in seconds]
    for t, s in zip(t_ns, seconds, strict=True):
        cloud = np.pad(street(3.0 * s, seed), ((0, 0), (0, 1)))
        (folder / "clouds" / f"{t}.bin").write_bytes(cloud.tobytes())
    if odometry:
        rows = [f"{t / S:.9f} {3.0 * s} 0 0 0 0 0 1" for t, s in zip(t_ns, seconds, strict=True)]
        (folder / "odometry.tum").write_text("\n".join(rows) + "\n")
    return folder


def pixels(path: Path) -> np.ndarray:
    """(H, W, 3) of a PNG, 0..1."""
    return mpl_image.imread(path)[..., :3]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Pictures go to the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


# --- samples of scans ----------------------------------------------------------------------------


class ManyScans:
    """A hundred thousand scans; that of number i has i % 7 points, number 0 is damaged."""

    sensors = ("made",)
    t_ns = np.arange(100_000) * (S // 10) + START

    def __init__(self):
        self.asked: list[int] = []

    def read(self, start, stop):
        assert stop == start + 1
        self.asked.append(start)
        if start == 0:
            raise MaptileError("0.bin: damaged")
        count = start % 7
        points = np.array([[3.0, 4.0, 0.0]] * count, np.float32).reshape(-1, 3)
        return ScanBlock(
            self.t_ns[start:stop], points, np.zeros(count, np.int32), np.zeros((1, 3), np.float32)
        )


def test_a_long_drive_is_sampled_evenly_and_a_damaged_scan_is_listed():
    scans = ManyScans()
    sample = sample_scans(scans, 50)
    assert len(scans.asked) == len(set(scans.asked)) == 50
    assert {scans.asked[0], max(scans.asked)} == {0, 99_999}
    between = np.diff(np.sort(scans.asked))
    assert between.min() > 2000
    assert between.max() < 2100
    assert sample.damaged == ("0.bin: damaged",)
    assert sample.index.tolist() == sorted(set(scans.asked) - {0})
    assert sample.points.tolist() == [i % 7 for i in sample.index]
    assert sample.farthest == 5.0
    assert set(sample.distance.tolist()) == {5.0}
    lines = facts(describe_drive(Drive("long", "made", scans, None, None, None), sample))
    assert lines["damaged"] == "0.bin: damaged"
    assert lines["points"].startswith("the first scan is damaged")
    empty = sum(i % 7 == 0 for i in sample.index)
    assert f"0 to 6 in 49 scans read, {empty} of them empty" in lines["points"]


def test_a_drive_whose_scans_are_all_damaged():
    class Damaged(ListedScans):
        def read(self, start, stop):
            raise MaptileError(f"{start}.bin: damaged")

    drive = Drive("d", "made", Damaged(START + np.arange(4) * S, []), None, None, None)
    lines = facts(describe_drive(drive))
    assert lines["points"] == "unknown: all 4 scans read are damaged"
    assert lines["damaged"].split("\n")[:2] == ["0.bin: damaged", "1.bin: damaged"]


def test_fewer_large_scans_are_read():
    clouds = [np.ones((400_000, 3), np.float32)] * 100
    scans = ListedScans(START + np.arange(100) * S, clouds)
    assert 20 <= len(sample_scans(scans, 50).index) <= 30


def test_ranges_are_distances_from_the_sensor():
    rng = np.random.default_rng(1)
    distance = rng.uniform(0, 50, 20_000)
    direction = rng.normal(size=(20_000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    origin = np.array([[5.0, -3.0, 1.0]], np.float32)

    class Away(ListedScans):
        def read(self, start, stop):
            points = (origin + distance[:, None] * direction).astype(np.float32)
            zero = np.zeros(len(points), np.int32)
            return ScanBlock(self.t_ns[start:stop], points, zero, origin)

    drive = Drive("d", "made", Away([START], []), None, None, None)
    text = facts(describe_drive(drive))["range"]
    values = [float(word) for word in text.replace("%", "").split() if word[0].isdigit()]
    assert values == pytest.approx([25.0, 95.0, 47.5, distance.max()], rel=0.04)


def test_only_scans_in_a_plane_through_their_sensor_are_planar():
    rng = np.random.default_rng(0)
    angle, reach = rng.uniform(-2, 2, 500), rng.uniform(1, 30, 500)
    tilt = np.array([0.1, np.cos(0.3), np.sin(0.3)]) / np.linalg.norm([0.1, 1.0])
    other = np.cross(tilt, [1.0, 0.2, 0.1])
    other /= np.linalg.norm(other)
    fan = reach[:, None] * (np.cos(angle)[:, None] * tilt + np.sin(angle)[:, None] * other)
    ground = np.column_stack([rng.uniform(-20, 20, (500, 2)), np.full(500, -1.8)])
    for cloud, planar in ((fan, True), (ground, False), (street(0.0), False)):
        sample = sample_scans(ListedScans([START], [cloud]))
        assert sample.planar is planar
    assert not sample_scans(ListedScans([START], [np.zeros((0, 3))])).planar


def labelled(seconds, label, table: str | None) -> Drive:
    class Scans(ListedScans):
        def read(self, start, stop):
            block = super().read(start, stop)
            return ScanBlock(
                block.t_ns, block.points, block.scan, block.origin, seconds=seconds, label=label
            )

    scans = Scans([START], [street(0.0, points=8)])
    return Drive("d", "made", scans, None, None, None, labels=table)


def test_time_stamps_and_labels_of_points_are_described(tmp_path, monkeypatch):
    seconds = np.linspace(-0.05, 0.025, 8, dtype=np.float32)
    label = np.array([50, 50, 50, 50, 40, 40, 252, 70], np.int32)
    drive = labelled(seconds, label, "semantickitti")
    lines = facts(describe_drive(drive))
    assert "-50 to +25 ms" in lines["timing"]
    assert lines["labels"] == "semantickitti: 50 (50%), 40 (25%), 70 (12%), 252 (12%)"
    monkeypatch.setattr("data_prep.sources.open_drive", lambda *_, **__: drive)
    used = facts(inspect(tmp_path / "d"))["used as"]
    assert used == "building 50%, road 25%, ground 0%, moving 12%, other 12%"


def test_missing_time_stamps_and_labels_are_described():
    lines = facts(describe_drive(labelled(None, None, None)))
    assert "no time stamps" in lines["timing"]
    assert lines["labels"] == "none"
    assert "none in the scans read" in facts(describe_drive(labelled(None, None, "las")))["labels"]


def test_the_start_is_utc_where_the_clock_counts_from_1970():
    moment = datetime(2014, 6, 26, 9, 25, 24, tzinfo=UTC)
    t_ns = np.array([int(moment.timestamp()) * S + 5], np.int64)
    assert start_time(t_ns) == "2014-06-26 09:25:24 UTC"
    assert start_time(np.array([12_500_000_000], np.int64)) == "12.500 s on the drive's own clock"


def test_a_gap_is_longer_than_a_second_and_than_two_median_intervals():
    assert gap_threshold(np.arange(10) * S // 10) == 1.0
    assert gap_threshold(np.arange(10) * 5 * S) == 10.0
    assert gap_threshold(np.array([START])) == 1.0


def test_the_extent_is_that_of_the_largest_piece():
    poses = np.zeros((6, 6))
    poses[:, :2] = [[0, 0], [30, 0], [30, 200], [1000, 0], [1000, 50], [1010, 50]]
    track = PoseTrack(
        START + np.arange(6) * S, se3_from_xyzrpy(poses), np.array([0, 0, 0, 1, 1, 1], np.int32)
    )
    drive = Drive("d", "made", ListedScans([START], [street(0)]), track, None, None)
    lines = facts(describe_drive(drive))
    assert lines["extent"] == "the largest segment of the path has a bounding box of 200 x 30 m"


# --- what is missing -----------------------------------------------------------------------------


def test_a_complete_drive_lacks_nothing():
    drive = straight_drive([street(i) for i in range(5)])
    n = len(drive.scans.t_ns)
    truth = TruthTrack(drive.scans.t_ns, np.full(n, 51.0), np.full(n, -1.0), np.zeros(n))
    whole = Drive("d", "made", drive.scans, drive.odometry, drive.heading, truth)
    assert list(missing(whole, sample_scans(whole.scans))) == []


def test_what_a_drive_lacks_is_listed_with_the_remedy():
    drive = straight_drive([street(i) for i in range(5)])
    sample = sample_scans(drive.scans)

    def lines(scans=drive.scans, odometry=None, heading=None):
        return "\n".join(missing(Drive("d", "made", scans, odometry, heading, None), sample))

    assert "odometry: it will be estimated from the LiDAR scans" in lines()
    assert "--heading unknown" in lines()
    assert "maptile evaluate" in lines()
    cut = PoseTrack(
        drive.scans.t_ns[[0, 1, 3, 4]],
        drive.odometry.poses[:4],
        np.array([0, 0, 1, 1], np.int32),
    )
    assert "odometry at 1 of 5 scans" in lines(odometry=cut)
    assert "2 segments" in lines(odometry=cut)
    late = HeadingTrack(drive.scans.t_ns[[2]] + S + S // 10, np.zeros(1))
    assert "heading at 4 of 5 scans" in lines(heading=late)
    one = ListedScans(drive.scans.t_ns[:1], [street(0)])
    assert "--submap 0 --every 0" in lines(scans=one)
    empty = ListedScans(drive.scans.t_ns, [np.zeros((0, 3))] * 5)
    nothing = Drive("d", "made", empty, None, None, None)
    assert "points: the scans read have no usable point" in "\n".join(
        missing(nothing, sample_scans(empty))
    )


def test_planar_scans_give_no_odometry():
    fan = np.column_stack([np.zeros(50), np.linspace(-9, 9, 50), np.linspace(0, 5, 50) ** 2])
    drive = Drive("d", "made", ListedScans([0, S], [fan, fan]), None, None, None)
    text = "\n".join(missing(drive, sample_scans(drive.scans)))
    assert "will be estimated" not in text
    assert "odometry: it cannot be estimated from planar scans" in text


# --- drives on disk ------------------------------------------------------------------------------


def test_a_drive_is_described_and_drawn_without_being_touched(tmp_path):
    seconds = [*np.arange(0, 4, 0.1).round(1), *np.arange(9, 14, 0.1).round(1)]
    drive = write_drive(tmp_path / "monday", seconds)
    before = sorted((path, path.stat().st_mtime_ns) for path in drive.rglob("*"))
    lines = facts(inspect(drive))
    assert lines["drive"] == "monday (clouds)"
    assert lines["start"] == "2014-06-26 09:25:24 UTC"
    assert lines["scans"] == "90 in 13.9 s, 6.4 per second"
    assert lines["points"] == "4,000 in the first scan and in each of the 50 scans read"
    assert lines["gaps"].startswith("1 of more than 1 s between scans; longest 5.10 s, 3.9 s after")
    assert lines["odometry"].startswith("41.7 m in 1 segment")
    assert lines["heading"] == lines["truth"] == "none"
    assert lines["picture"] == "monday_inspect.png"
    assert pixels(Path("monday_inspect.png")).shape == (1325, 1625, 3)
    assert Path("monday_inspect.png").stat().st_size < 1_500_000
    assert sorted((path, path.stat().st_mtime_ns) for path in drive.rglob("*")) == before
    assert [path.name for path in Path.cwd().iterdir()] == ["monday_inspect.png"]


def test_another_drive_and_another_moment_look_different(tmp_path):
    seconds = np.arange(0, 6, 0.2).round(1)
    first = write_drive(tmp_path / "a" / "run", seconds)
    second = write_drive(tmp_path / "b" / "run", seconds, seed=1)
    shown = {}
    for name, drive, at in (("1", first, 3), ("2", second, 3), ("3", first, 1), ("4", first, 3)):
        list(inspect(drive, Path(f"{name}.png"), 10.0, at))
        shown[name] = pixels(Path(f"{name}.png"))
    assert (shown["1"] != shown["2"]).any()
    assert (shown["1"] != shown["3"]).any()
    assert (shown["1"] == shown["4"]).all()


def test_names_are_neither_formulas_nor_folders(tmp_path):
    drive = write_drive(tmp_path / "a $_$ 東京", [0.0, 0.1])
    assert facts(inspect(drive))["picture"] == "a___東京_inspect.png"


def test_a_damaged_first_scan_is_listed_and_the_rest_is_described(tmp_path):
    drive = write_drive(tmp_path / "d", np.arange(0, 3, 0.1).round(1))
    first = min((drive / "clouds").iterdir())
    first.write_bytes(b"1234567")
    lines = facts(inspect(drive, at_s=0.0))
    assert str(first) in lines["damaged"]
    assert "29 scans read" in lines["points"]
    assert lines["odometry"].startswith("8.7 m")
    assert Path(lines["picture"]).is_file()
    for path in sorted((drive / "clouds").iterdir())[:-1]:
        path.write_bytes(b"1234567")
    lines = facts(inspect(drive))
    assert lines["points"] == "the first scan is damaged"
    assert lines["damaged"].count("\n") == 3
    assert lines["damaged"].endswith("and 26 more of the scans read")
    assert Path(lines["picture"]).is_file()


@pytest.mark.parametrize("odometry", [True, False])
def test_a_drive_of_one_scan(tmp_path, odometry):
    lines = facts(inspect(write_drive(tmp_path / "one", [0.0], odometry)))
    assert lines["scans"] == "1 in 0.0 s"
    assert lines["points"] == "4,000 in the first scan"
    assert "--submap 0 --every 0" in lines["missing"]
    assert Path(lines["picture"]).is_file()


def test_scans_without_a_usable_point(tmp_path):
    drive = write_drive(tmp_path / "empty", [0.0, 0.1, 0.2])
    for path in (drive / "clouds").iterdir():
        path.write_bytes(np.full((5, 4), np.nan, "<f4").tobytes())
    lines = facts(inspect(drive))
    assert lines["points"] == "0 in the first scan and in each of the 3 scans read"
    assert "range" not in lines
    assert "points: the scans read have no usable point" in lines["missing"]
    assert Path(lines["picture"]).is_file()


def test_odometry_of_another_time_is_described_and_drawn(tmp_path):
    drive = write_drive(tmp_path / "d", [0.0, 0.1, 0.2])
    rows = [f"{t}.0 {t} 0 0 0 0 0 1" for t in range(5)]
    (drive / "odometry.tum").write_text("\n".join(rows))
    lines = facts(inspect(drive))
    assert "covers 0.0% of the scans" in lines["odometry"]
    assert "odometry at 3 of 3 scans" in lines["missing"]
    assert Path(lines["picture"]).is_file()


def test_errors_are_one_line(tmp_path):
    (tmp_path / "photos").mkdir()
    drive = write_drive(tmp_path / "d", [0.0, 0.1])
    for arguments, message in (
        ((tmp_path / "photos",), "no drive of a known format.*Nor is it a city"),
        ((tmp_path / "nowhere",), "no such"),
        ((drive, Path("x.jpg")), "--picture x.jpg"),
        ((drive, None, -1.0), "--submap"),
        ((drive, None, float("nan")), "--submap"),
        ((drive, None, 50.0, 99.0), r"--at 99: d lasts from 0 to 0\.1 seconds"),
        ((drive, None, 50.0, float("nan")), "--at nan"),
    ):
        with pytest.raises(MaptileError, match=message) as error:
            list(inspect(*arguments))
        assert "\n" not in str(error.value)
    assert list(Path.cwd().iterdir()) == []


def test_a_picture_that_cannot_be_written_is_an_error_after_the_text(tmp_path):
    drive = write_drive(tmp_path / "d", [0.0, 0.1])
    (tmp_path / "file").write_text("")
    lines = inspect(drive, tmp_path / "file" / "p.png")
    assert next(lines).startswith("drive ")
    with pytest.raises(MaptileError, match="cannot write"):
        list(lines)


# --- the picture's parts -------------------------------------------------------------------------


def test_a_wall_to_the_left_of_a_vehicle_that_heads_north_is_in_the_west():
    wall = street(20.0)
    wall = wall[(wall[:, 1] > 7) | (wall[:, 2] < -1.6)]
    moment = view_moment(straight_drive([wall] * 3, true_heading=np.pi / 2), 0.0)
    rows, columns = np.nonzero(moment.tile.wall > 0.3)
    assert len(rows) > 50
    assert columns / 2 - 64 == pytest.approx(-8, abs=1.5)
    assert np.ptp(rows) > 100


def test_the_tile_and_the_labels_are_those_of_the_recipe(tmp_path, monkeypatch):
    small = LocalizeSettings(
        query={"size_m": 64.0}, submap={"labels": {"las": {"building": [6], "ground": []}}}
    )
    steps = []
    folder = write_drive(tmp_path / "d", np.arange(0, 3, 0.1).round(1))
    list(inspect(folder, Path("usual.png"), 10.0))
    list(inspect(folder, Path("small.png"), 10.0, None, small, lambda *step: steps.append(step)))
    assert (pixels(Path("usual.png")) != pixels(Path("small.png"))).any()
    assert steps[-1] == ("query tile", 2, 2)
    drive = labelled(None, np.array([6] * 4 + [2] * 4, np.int32), "las")
    monkeypatch.setattr("data_prep.sources.open_drive", lambda *_, **__: drive)
    lines = facts(inspect(tmp_path / "x", settings=small))
    assert lines["used as"] == "building 50%, road 0%, ground 0%, moving 0%, other 50%"


def test_without_a_heading_the_vehicle_drives_upwards():
    drive = straight_drive([street(0.0)] * 3)
    known = HeadingTrack(drive.scans.t_ns, np.full(3, np.pi / 2))
    blind = view_moment(Drive("d", "made", drive.scans, drive.odometry, None, None), 0.0)
    seeing = view_moment(Drive("d", "made", drive.scans, drive.odometry, known, None), 0.0)
    assert blind.heading is None
    assert np.array_equal(blind.tile.wall, seeing.tile.wall)


def test_the_tile_is_where_half_is_travelled_or_at_the_time_named():
    drive = straight_drive([street(i) for i in range(9)])
    assert view_moment(drive, 5.0).scan == 4
    assert view_moment(drive, 5.0, 0.71).scan == 7
    standing = straight_drive([street(0)] * 9, step_m=0.0)
    assert view_moment(standing, 5.0).scan == 4


def test_truth_is_not_read():
    drive = straight_drive([street(i) for i in range(5)])

    class Hidden:
        def __getattr__(self, name):
            raise AssertionError(name)

    seen = view_moment(
        Drive("d", "made", drive.scans, drive.odometry, drive.heading, Hidden()), 4.0
    )
    assert np.array_equal(seen.tile.wall, view_moment(drive, 4.0).tile.wall)


def test_speed_is_that_of_the_motion_and_unknown_in_gaps():
    seconds = np.concatenate([np.arange(0, 10.01, 0.1), np.arange(20, 30.01, 0.1)])
    poses = np.zeros((len(seconds), 6))
    poses[:, 0] = np.where(seconds < 15, seconds**2, 7 * seconds)
    track = PoseTrack(
        START + np.round(seconds * S).astype(np.int64),
        se3_from_xyzrpy(poses),
        (seconds > 15).astype(np.int32),
    )
    drive = Drive("d", "made", ListedScans([START], [street(0)]), track, None, None)
    found = speed_at(drive, np.array([-1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 31.0]))
    # At the end of a piece the mean is over what there is of it.
    assert found == pytest.approx([np.nan, 10.0, 19.0, np.nan, 7.0, 7.0, np.nan], nan_ok=True)


def test_a_pixel_of_the_cloud_has_its_highest_point():
    rng = np.random.default_rng(3)
    xy = rng.uniform(-70, 70, (3000, 2))
    height = rng.uniform(-1, 9, 3000).astype(np.float32)
    found = highest_points(xy, height, 64.0)
    expected = np.full((512, 512), np.nan)
    for (x, y), h in zip(xy, height, strict=True):
        if abs(x) < 64 and abs(y) < 64:
            row, column = int((64 - y) * 4), int((x + 64) * 4)
            expected[row, column] = np.nanmax([expected[row, column], h])
    assert np.array_equal(found, expected.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize(("width", "bar"), [(128, 20), (1045.5, 200), (9210, 1000), (24.9, 2)])
def test_a_scale_bar_has_a_round_length(width, bar):
    assert scale_metres(width) == bar


# --- cities --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return small_city(tmp_path_factory.mktemp("city"))


def test_a_city_is_described_and_drawn(city):
    lines = facts(inspect(city.folder))
    with rasterio.open(city.folder / "map.tif") as raster:
        size, bands = (raster.width, raster.height), raster.read()
    assert lines["city"] == "city"
    assert lines["raster"].startswith(f"{size[0]} x {size[1]} pixels of 0.5 m")
    assert f"buildings {(bands[0] > 0).mean():.1%}" in lines["covered"]
    assert lines["buildings"] == "9, no heights known"
    assert lines["roads"] == "8, and 0 paths"
    assert lines["tiles"].startswith(f"{len(city.tiles())} of 96 m")
    assert lines["model"].startswith("none")
    assert lines["hash"] == city.content_hash
    picture = pixels(Path(lines["picture"]))
    # The map's longer side is 10 inches; what is as dark as a building covers as much as those.
    height, width = picture.shape[:2]
    assert width == pytest.approx((10 * size[0] / max(size) + 0.5) * 125, abs=1)
    assert height == pytest.approx((10 * size[1] / max(size) + 1.55) * 125, abs=1)
    map_share = 10 * 10 * min(size) / max(size) / (width * height / 125**2)
    dark = (np.abs(picture - [57 / 255, 67 / 255, 79 / 255]) < 0.03).all(axis=2).mean()
    assert dark / map_share == pytest.approx((bands[0] > 0).mean(), rel=0.12)


def test_another_city_looks_different(city, tmp_path):
    other = small_city(tmp_path, seed=5)
    list(inspect(city.folder, Path("1.png")))
    list(inspect(other.folder, Path("2.png")))
    first, second = pixels(Path("1.png")), pixels(Path("2.png"))
    assert first.shape != second.shape or (first != second).any()


def test_a_bare_raster_is_a_city(city):
    lines = facts(inspect(city.folder / "map.tif"))
    assert lines["city"] == "map"
    assert lines["buildings"].startswith("9,")
    assert lines["roads"] == "no lines, pixels only"
    assert Path(lines["picture"]) == Path("map_inspect.png")


def test_models_are_listed_and_those_of_another_map_are_marked(tmp_path):
    made = small_city(tmp_path)
    for name, hashed in (("fits", made.content_hash), ("stale", "0" * 64)):
        (made.folder / "models" / name).mkdir(parents=True)
        card = {"method": "mapnet", "city": {"content_hash": hashed}}
        (made.folder / "models" / name / "model.json").write_text(json.dumps(card))
    models = facts(describe_city(open_city(made.folder)))["model"].split("\n")
    assert models[0] == "fits, --method mapnet"
    assert models[1].startswith("stale, --method mapnet; trained for another map")


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.realdata
def test_a_real_drive(data_dir):
    drive = data_dir / "kitti_raw/2011_09_26/2011_09_26_drive_0005_sync"
    lines = facts(inspect(drive, submap_m=10.0))
    assert lines["start"] == "2011-09-26 13:04:32 UTC"
    assert lines["sensors"] == "velodyne"
    assert lines["points"].startswith("123,397 in the first scan")
    # 154 rows of oxts, whose first and last positions are 60 m apart.
    assert lines["odometry"].startswith("71.")
    assert lines["heading"].startswith("154 samples")
    assert lines["missing"] == "odometry at 1 of 77 scans: these are not localized"
    picture = pixels(Path(lines["picture"]))
    assert picture.shape == (1325, 1625, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200
