"""The MCAP file of a result, read by rosbags from the definitions that the file itself holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyproj
import pytest
from made import blocks_raster
from made_result import localization, path, with_scans
from rosbags.highlevel import AnyReader
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader

from maptile_loc.report.files import write_result
from maptile_loc.report.formats.mcap import LATEST_NS, TOPICS, message_times
from maptile_loc.report.trajectory import local_origin
from maptile_loc.types import Localization

PLANE = np.ix_([0, 1, 5], [0, 1, 5])


@pytest.fixture(scope="module")
def raster():
    return blocks_raster()


@pytest.fixture(scope="module")
def found(raster) -> Localization:
    """Twelve queries, of which 3 and 4 have no pose and 8 is not localized; the last has a tile."""
    poses = path(raster, 12)
    poses[3:5] = np.nan
    result = localization(raster, poses, np.arange(12) != 8, tiles=12)
    rng = np.random.default_rng(0)
    candidates = np.concatenate([rng.normal(size=(12, 6, 3)) * 100, np.zeros((12, 6, 1))], axis=2)
    candidates[:, :, :2] += raster.centre
    candidates[2, 4:] = np.nan
    spread = np.diag([9.0, 1.0, 0.01])
    tilted = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    result.trajectory.covariance[:] = tilted @ spread @ tilted.T
    return with_scans(replace(result, candidates=candidates))


def read(path) -> dict[str, list]:
    """Times and messages of a bag by topic."""
    with AnyReader([path]) as reader:
        content: dict[str, list] = {topic: [] for topic in TOPICS}
        for connection, t_ns, data in reader.messages():
            assert connection.msgtype == TOPICS[connection.topic]
            message = reader.deserialize(data, connection.msgtype)
            content[connection.topic].append((t_ns, message))
    return content


@pytest.fixture(scope="module")
def content(found, tmp_path_factory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("result") / "o"
    write_result(found, folder)
    assert [item.name for item in folder.glob("*.mcap")] == ["trajectory.mcap"]
    assert not any(item.is_dir() for item in folder.iterdir())
    return read(folder / "trajectory.mcap")


def planar(pose) -> list[float]:
    """x, y and heading of a ROS pose that lies in the plane."""
    turn = pose.orientation
    assert (pose.position.z, turn.x, turn.y) == (0, 0, 0)
    assert turn.z**2 + turn.w**2 == pytest.approx(1)
    return [pose.position.x, pose.position.y, 2 * np.arctan2(turn.z, turn.w)]


def stamp_ns(header) -> int:
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def local(found: Localization, poses: np.ndarray) -> np.ndarray:
    return poses - [*local_origin(found.raster), 0.0]


def test_poses_and_transforms_are_those_of_the_localized_scans(found, content) -> None:
    dense = found.dense
    sure = np.flatnonzero(dense.localized)
    assert 0 < len(sure) < len(dense.t_ns)
    for topic in ("/pose", "/tf"):
        assert [t_ns for t_ns, _ in content[topic]] == dense.t_ns[sure].tolist()
    messages = [message for _, message in content["/pose"]]
    assert {message.header.frame_id for message in messages} == {"map"}
    assert [stamp_ns(message.header) for message in messages] == dense.t_ns[sure].tolist()
    poses = np.array([planar(message.pose.pose) for message in messages])
    np.testing.assert_allclose(poses, local(found, dense.poses[sure]), atol=1e-9)
    spread = np.array([message.pose.covariance.reshape(6, 6) for message in messages])
    np.testing.assert_array_equal([one[PLANE] for one in spread], dense.covariance[sure])
    assert spread[:, 2:5].any() == spread[:, :, 2:5].any() == False  # noqa: E712
    for (_, transform), pose in zip(content["/tf"], poses, strict=True):
        (one,) = transform.transforms
        assert (one.header.frame_id, one.child_frame_id) == ("map", "base_link")
        turn = one.transform.rotation
        moved = [one.transform.translation.x, one.transform.translation.y]
        np.testing.assert_allclose(moved, pose[:2])
        assert 2 * np.arctan2(turn.z, turn.w) == pytest.approx(pose[2])


def test_fixes_are_of_every_scan_with_status_and_covariance(found, content) -> None:
    dense, fixes = found.dense, [message for _, message in content["/fix"]]
    assert [t_ns for t_ns, _ in content["/fix"]] == dense.t_ns.tolist()
    assert {fix.header.frame_id for fix in fixes} == {"base_link"}
    assert [fix.status.status for fix in fixes] == np.where(dense.localized, 0, -1).tolist()
    degrees = np.array([[fix.latitude, fix.longitude] for fix in fixes])
    position = found.raster.projection.forward(*degrees.T)
    np.testing.assert_allclose(position, dense.poses[:, :2], atol=1e-3)
    assert all(np.isnan(fix.altitude) for fix in fixes)
    assert {fix.position_covariance_type for fix in fixes} == {3}
    # The long axis by a geodesic between two positions in the map, not by the convergence.
    fix, (east, north, _) = fixes[55], dense.poses[55]
    value, vector = np.linalg.eigh(dense.covariance[55, :2, :2])
    ahead = np.array([[east, north], [east, north] + vector[:, 1]])
    latitude, longitude = found.raster.projection.inverse(ahead)
    geod = pyproj.Geod(ellps="WGS84")
    azimuth = np.radians(geod.inv(longitude[0], latitude[0], longitude[1], latitude[1])[0])
    axis = np.array([np.sin(azimuth), np.cos(azimuth)])
    enu = fix.position_covariance.reshape(3, 3)
    np.testing.assert_allclose(enu[:2, :2] @ axis, value[1] * axis, rtol=1e-4)
    assert not enu[2].any()


def test_a_path_is_a_stretch_of_localized_scans(found, content) -> None:
    dense = found.dense
    sure, at = np.flatnonzero(dense.localized), []
    for t_ns, message in content["/path"]:
        times = [stamp_ns(one.header) for one in message.poses]
        assert times[0] == t_ns == stamp_ns(message.header)
        assert (
            {one.header.frame_id for one in message.poses} == {message.header.frame_id} == {"map"}
        )
        scans = np.searchsorted(dense.t_ns, times)
        assert (np.diff(scans) == 1).all()
        poses = np.array([planar(one.pose) for one in message.poses])
        np.testing.assert_allclose(poses, local(found, dense.poses[scans]), atol=1e-9)
        at += scans.tolist()
    assert at == sure.tolist()
    assert len(content["/path"]) == (np.diff(sure) > 1).sum() + 1


def test_candidates_are_of_every_query(found, content) -> None:
    assert [t_ns for t_ns, _ in content["/candidates"]] == found.t_ns.tolist()
    for (_, message), rows in zip(content["/candidates"], found.candidates, strict=True):
        known = rows[np.isfinite(rows[:, 0]), :3]
        assert message.header.frame_id == "map"
        poses = np.array([planar(one) for one in message.poses])
        expected = local(found, known)
        np.testing.assert_allclose(poses[:, :2], expected[:, :2], atol=1e-9)
        np.testing.assert_allclose(np.exp(1j * poses[:, 2]), np.exp(1j * expected[:, 2]))


def test_cells_of_a_tile_lie_where_the_vehicle_saw_them(found, content) -> None:
    """A pixel of the tile, turned into the vehicle's frame and moved to its pose, is its cell."""
    assert len(content["/tile"]) == 12
    query = 6
    t_ns, grid = content["/tile"][query]
    assert t_ns == found.t_ns[query]
    tile, info = found.tiles[query], grid.info
    assert (grid.header.frame_id, info.resolution) == ("map", pytest.approx(tile.resolution))
    assert (info.width, info.height) == (tile.size, tile.size)
    cells = grid.data.reshape(info.height, info.width)
    row, column = 10, 40
    x, y = (np.array([column, tile.size - 1 - row]) + 0.5 - tile.size / 2) * tile.resolution
    east, north, heading = local(found, found.dense.poses[found.frame])[query]
    turn = heading - tile.rotation
    at = [east + x * np.cos(turn) - y * np.sin(turn), north + x * np.sin(turn) + y * np.cos(turn)]
    corner = planar(info.origin)
    c, s = np.cos(corner[2]), np.sin(corner[2])
    inside = np.array([[c, s], [-s, c]]) @ (np.array(at) - corner[:2]) / info.resolution
    i, j = np.floor(inside[::-1]).astype(int)
    seen = tile.observed[row, column] >= 0.5
    assert cells[i, j] == (round(100 * float(tile.wall[row, column])) if seen else -1)
    known = cells[::-1] >= 0
    np.testing.assert_array_equal(known, tile.observed >= 0.5)
    np.testing.assert_allclose(cells[::-1][known], 100 * tile.wall[known], atol=0.51)


def test_the_container_is_as_foxglove_and_ros_expect(found, tmp_path) -> None:
    write_result(found, tmp_path)
    data = (tmp_path / "trajectory.mcap").read_bytes()
    assert data[:8] == data[-8:] == b"\x89MCAP0\r\n"
    assert data[8] == 1
    assert data[17:25] == b"\x04\0\0\0ros2"
    with Reader(tmp_path / "trajectory.mcap") as reader:
        assert {one.topic: one.msgtype for one in reader.connections} == TOPICS
        assert {one.msgdef.format for one in reader.connections} == {MessageDefinitionFormat.MSG}
        assert {one.ext.serialization_format for one in reader.connections} == {"cdr"}
        assert (reader.start_time, reader.end_time - 1) == tuple(found.dense.t_ns[[0, -1]])
    assert b"OpenStreetMap" in data
    again = tmp_path / "again"
    write_result(found, again)
    assert (again / "trajectory.mcap").read_bytes() == data


def test_results_without_scans_queries_or_poses_are_written(raster, tmp_path) -> None:
    older = localization(raster, path(raster, 3))
    write_result(older, tmp_path / "older")
    content = read(tmp_path / "older" / "trajectory.mcap")
    assert [t_ns for t_ns, _ in content["/pose"]] == older.t_ns.tolist()
    assert content["/candidates"] == []
    write_result(localization(raster, np.full((3, 3), np.nan)), tmp_path / "lost")
    fixes = read(tmp_path / "lost" / "trajectory.mcap")["/fix"]
    assert [(fix.status.status, fix.position_covariance_type) for _, fix in fixes] == 3 * [(-1, 0)]
    assert all(np.isnan(fix.latitude) for _, fix in fixes)
    write_result(localization(raster, np.empty((0, 3))), tmp_path / "empty")
    assert not any(read(tmp_path / "empty" / "trajectory.mcap").values())


def test_times_that_ros_cannot_express_are_since_the_first_scan(raster, tmp_path) -> None:
    t_ns = np.array([0, 5, LATEST_NS - 1])
    assert message_times(t_ns) is t_ns
    assert message_times(t_ns + 1).tolist() == [0, 5, LATEST_NS - 1]
    assert message_times(np.array([-7, 3])).tolist() == [0, 10]
    late = localization(raster, path(raster, 3))
    late = replace(late, t_ns=late.t_ns + LATEST_NS)
    write_result(late, tmp_path)
    content = read(tmp_path / "trajectory.mcap")
    assert [t_ns for t_ns, _ in content["/pose"]] == (late.t_ns - late.t_ns[0]).tolist()
