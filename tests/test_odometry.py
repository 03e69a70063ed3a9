"""The file of LiDAR odometry: format, reuse, and when it is computed again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_scene import made_drive, scene_drive, straight, street, times
from scipy.spatial.transform import Rotation

from data_prep.drive import PoseTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Projection, se3, utm_crs
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.sources import open_drive
from data_prep.sources.formats.tum import read_tum, write_tum
from maptile_loc.api import localize
from maptile_loc.odometry.odometry_settings import OdometrySettings
from maptile_loc.odometry.stored import with_lidar_odometry

SETTINGS = OdometrySettings()


@pytest.fixture(scope="module")
def drive():
    return scene_drive(straight(8.0), street(length=20.0), 4, rows=16, columns=240)


def a_track(count: int, segment) -> PoseTrack:
    rng = np.random.default_rng(count)
    poses = se3(Rotation.random(count, rng=rng), rng.normal(0, 1000, (count, 3)))
    t_ns = 1_700_000_000_123_456_789 + np.cumsum(rng.integers(1, 10**9, count))
    return PoseTrack(t_ns, poses, np.asarray(segment, np.int32))


# --- the file ------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_written_track_reads_back(tmp_path_factory, begins):
    track = a_track(len(begins), np.cumsum(begins) - begins[0])
    path = tmp_path_factory.mktemp("tum") / "odometry.tum"
    write_tum(path, track, "made up")
    again = read_tum(path)
    np.testing.assert_array_equal(again.t_ns, track.t_ns)
    np.testing.assert_array_equal(again.segment, track.segment)
    np.testing.assert_allclose(again.poses, track.poses, atol=1e-8)
    write_tum(path, again, "made up")
    third = read_tum(path)
    np.testing.assert_allclose(third.poses, again.poses, atol=1e-8)


@given(st.text(alphabet="0123456789.-+einfa# \n\tsegmt", max_size=200))
def test_any_text_is_a_track_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("tum") / "odometry.tum"
    path.write_text(text)
    try:
        track = read_tum(path)
    except MaptileError as error:
        assert str(path) in str(error)
        return
    assert (np.diff(track.t_ns) > 0).all()
    assert (np.diff(track.segment) >= 0).all()
    assert np.isfinite(track.poses).all()


def test_a_generic_drive_reads_it_with_its_segments(tmp_path):
    track = a_track(4, [0, 0, 1, 1])
    (tmp_path / "clouds").mkdir()
    for t in track.t_ns.tolist():
        np.ones((5, 4), "<f4").tofile(tmp_path / "clouds" / f"{t}.bin")
    write_tum(tmp_path / "odometry.tum", track, "made up")
    odometry = open_drive(tmp_path).odometry
    np.testing.assert_array_equal(odometry.segment, [0, 0, 1, 1])
    np.testing.assert_allclose(odometry.poses, track.poses, atol=1e-8)


# --- computed, reused, computed again ------------------------------------------------------------


def test_odometry_is_computed_once_and_then_reused(drive, tmp_path):
    first = with_lidar_odometry(drive, SETTINGS, tmp_path)
    assert first.odometry.travelled()[-1] == pytest.approx(8.0 * 0.3, abs=0.05)
    assert first.notes[-1].startswith("odometry made from the scans: 2 m in 1 piece, 4 of 4 scans")
    written = (tmp_path / "odometry.tum").stat()
    second = with_lidar_odometry(drive, SETTINGS, tmp_path)
    assert second.notes[-1].startswith("odometry reused: ")
    assert (tmp_path / "odometry.tum").stat() == written
    np.testing.assert_array_equal(second.odometry.poses, first.odometry.poses)
    np.testing.assert_array_equal(second.odometry.t_ns, first.odometry.t_ns)


def test_odometry_is_computed_again_for_other_scans_or_settings_or_a_damaged_file(drive, tmp_path):
    path = tmp_path / "odometry.tum"

    def note(which, settings=SETTINGS):
        return with_lidar_odometry(which, settings, tmp_path).notes[-1]

    def made(which, settings=SETTINGS):
        return "made from the scans" in note(which, settings)

    assert made(drive)
    assert made(replace(drive, name="other"))
    shorter = made_drive(times(3), drive.scans.scans[:3])
    assert made(drive) and made(shorter) and not made(shorter)
    one_later = times(4) + np.array([0, 0, 1, 0])
    assert made(drive) and made(made_drive(one_later, drive.scans.scans))
    assert made(drive) and made(drive, OdometrySettings(max_range_m=60.0))
    assert made(drive) and not made(drive)
    text = path.read_text()
    for damage in (
        text[: len(text) // 2 * 2 - 40],
        "",
        text.replace("# LiDAR", "# lidar"),
        "\0\xff",
    ):
        path.write_text(damage, encoding="latin-1")
        assert made(drive)
        assert path.read_text() == text


def test_the_first_line_states_the_origin(drive, tmp_path):
    with_lidar_odometry(drive, SETTINGS, tmp_path)
    first = (tmp_path / "odometry.tum").read_text().splitlines()[0]
    origin = json.loads(first[first.index("{") :])
    assert origin["drive"] == "made"
    assert origin["scans"] == 4
    assert origin["first_t_ns"] == times(4)[:1].tolist()
    assert origin["last_t_ns"] == times(4)[-1:].tolist()
    assert origin["settings"] == SETTINGS.model_dump()


def test_no_file_is_written_when_the_motion_cannot_be_found(tmp_path):
    bare = scene_drive(straight(5.0), np.zeros((0, 6)), 4)
    with pytest.raises(
        MaptileError, match=r"give it an odometry\.tum, or use --submap 0 --every 0"
    ):
        with_lidar_odometry(bare, SETTINGS, tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- a simulated drive ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roof_drive(town_city, tmp_path_factory) -> Path:
    """A short simulated drive with an HDL-32E on the roof."""
    from data_prep.city.folder import open_city
    from data_prep.simulate.trajectory import trajectory_from_route

    city = open_city(town_city)
    folder = tmp_path_factory.mktemp("roof") / "drive"
    simulate(city, trajectory_from_route(city, 30.0, 3), folder, "hdl32", SimulateSettings())
    return folder


def test_a_simulated_drive_against_its_exact_path(roof_drive, tmp_path):
    drive = with_lidar_odometry(open_drive(roof_drive, end=3.0), SETTINGS, tmp_path)
    t_ns = drive.odometry.t_ns
    latitude, longitude, heading = drive.truth.at(t_ns)
    known = np.isfinite(latitude)
    projection = Projection(utm_crs(latitude[known][0], longitude[known][0]))
    position = projection.forward(latitude[known], longitude[known])
    driven = np.linalg.norm(np.diff(position, axis=0), axis=1).sum()
    assert driven > 8
    poses = drive.odometry.poses[known]
    assert not drive.odometry.segment.any()
    assert known.sum() > 0.9 * len(drive.scans.t_ns)
    straight_line = np.linalg.norm(position[-1] - position[0])
    found = np.linalg.norm(poses[-1, :2, 3] - poses[0, :2, 3])
    assert found == pytest.approx(straight_line, rel=0.01)
    turned = np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
    true = np.unwrap(heading[known])
    assert np.degrees(np.abs((turned - turned[0]) - (true - true[0])).max()) < 0.7


def notes(city, drive, out, **options):
    """What is said of a localized drive, its odometry kept in ``out``."""
    return "\n".join(localize(city, drive, keep=out, **options).notes)


def test_localize_computes_odometry_if_there_is_none_or_if_asked(roof_drive, town_city, tmp_path):
    def run(name, odometry):
        drive = open_drive(roof_drive, end=2.0)
        out = tmp_path / name
        return notes(town_city, drive, out, submap_m=4.0, every_m=8.0, odometry=odometry)

    assert "odometry made from the scans: " in run("asked", "lidar")
    (roof_drive / "vo" / "vo.csv").rename(roof_drive / "vo" / "vo.old")
    try:
        lines, again = run("none", "auto"), run("none", "auto")
    finally:
        (roof_drive / "vo" / "vo.old").rename(roof_drive / "vo" / "vo.csv")
    assert "no odometry" in lines
    assert "odometry made from the scans" in lines
    assert "odometry reused" in again
    made = [(tmp_path / name / "odometry.tum").read_bytes() for name in ("asked", "none")]
    assert made[0] == made[1]
    assert "odometry made" not in run("own", "auto")
    assert not (tmp_path / "own" / "odometry.tum").exists()
    with pytest.raises(MaptileError, match="odometry 'gps': there are auto and lidar"):
        run("own", "gps")


def test_a_push_broom_drive_without_odometry_is_one_clear_error(town_drive, town_city, tmp_path):
    with pytest.raises(MaptileError, match=r"lies in a plane.*give it an odometry\.tum"):
        localize(town_city, town_drive, odometry="lidar")
