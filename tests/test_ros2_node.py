"""The conversions of the example node, with the message types of rosbags."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_bag import CLOUD, ODOMETRY, STORE2, BagMaker
from scipy.spatial.transform import Rotation
from test_rosbag import MOUNT, SCANS, STEP_NS, T0, cloud_of, make, pose_of

import maptile_loc as ml
from data_prep.sources import open_drive
from data_prep.sources.ros.bag import Bag


@pytest.fixture(scope="module")
def node() -> ModuleType:
    path = Path(__file__).parent.parent / "examples" / "ros2_node.py"
    spec = importlib.util.spec_from_file_location("ros2_node", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_messages_become_what_is_read_from_a_bag(node: ModuleType, tmp_path: Path) -> None:
    path = make(tmp_path, "mcap", "velodyne")
    bag, drive = Bag(path), open_drive(path)
    clouds = [bag.decode(message, CLOUD) for message in bag.messages(["/points"])]
    assert len(clouds) == SCANS
    for number, cloud in enumerate(clouds):
        scan, expected = node.scan_of(cloud, MOUNT), drive.scans.read(number, number + 1)
        np.testing.assert_allclose(scan.points, expected.points, atol=1e-5)
        np.testing.assert_allclose(scan.seconds, expected.seconds, atol=1e-7)
        np.testing.assert_allclose(scan.origin, expected.origin, atol=1e-6)
        assert scan.t_ns.tolist() == expected.t_ns.tolist() == [T0 + number * STEP_NS]
    poses = [node.pose_of(bag.decode(one, ODOMETRY)) for one in bag.messages(["/odom"])]
    for number, (t_ns, pose) in enumerate(poses):
        assert t_ns == T0 + number * STEP_NS - 5_000_000
        np.testing.assert_allclose(pose, pose_of(number), atol=1e-9)


def test_points_without_return_are_left_out(node: ModuleType, tmp_path: Path) -> None:
    table, xyz, _ = cloud_of(0, "ouster")
    flat = table.ravel()
    flat["x"][:5] = flat["y"][:5] = flat["z"][:5] = 0
    flat["x"][5:9] = np.nan
    with BagMaker(tmp_path, "mcap") as maker:
        maker.cloud("/points", T0, "lidar", flat.reshape(table.shape))
    bag = Bag(maker.path)
    cloud = bag.decode(next(iter(bag.messages(["/points"]))), CLOUD)
    scan = node.scan_of(cloud, MOUNT)
    np.testing.assert_allclose(scan.points, xyz[9:] @ MOUNT[:3, :3].T + MOUNT[:3, 3], atol=1e-4)


def test_a_fix_fills_the_messages_of_ros(node: ModuleType) -> None:
    root = np.random.default_rng(0).normal(size=(3, 3))
    fix = ml.Fix(
        t_ns=T0,
        latitude=51.75,
        longitude=-1.25,
        pose=np.array([620_000.0, 5_735_000.0, 2.1]),
        covariance=root @ root.T,
        score=0.999,
        localized=True,
        protection_m=2.0,
        reason="",
        is_query=True,
    )
    message = node.fill_pose(_pose_message(), fix)
    turn = message.pose.pose.orientation
    euler = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_euler("xyz")
    np.testing.assert_allclose(euler, [0, 0, 2.1], atol=1e-12)
    assert (message.pose.pose.position.x, message.pose.pose.position.y) == (620_000.0, 5_735_000.0)
    covariance = np.reshape(message.pose.covariance, (6, 6))
    np.testing.assert_array_equal(covariance[np.ix_([0, 1, 5], [0, 1, 5])], fix.covariance)
    assert not covariance[2:5].any()
    sure = node.fill_fix(_fix_message(), fix)
    assert (sure.latitude, sure.longitude, sure.status.status) == (51.75, -1.25, 0)
    np.testing.assert_array_equal(
        np.reshape(sure.position_covariance, (3, 3))[:2, :2], fix.covariance[:2, :2]
    )
    doubtful = node.fill_fix(_fix_message(), ml.Fix(**asdict(fix) | {"localized": False}))
    assert doubtful.status.status == -1


def _pose_message() -> Any:
    """A message as ROS makes it: with zeros, and open to changes, as those of rosbags are not."""
    point = STORE2.types["geometry_msgs/msg/Point"](0.0, 0.0, 0.0)
    quaternion = STORE2.types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    pose = SimpleNamespace(
        position=SimpleNamespace(**asdict(point)), orientation=SimpleNamespace(**asdict(quaternion))
    )
    return SimpleNamespace(pose=SimpleNamespace(pose=pose, covariance=np.zeros(36)))


def _fix_message() -> Any:
    names = STORE2.types["sensor_msgs/msg/NavSatFix"].__dataclass_fields__
    message = SimpleNamespace(**dict.fromkeys(names))
    message.status = SimpleNamespace(status=-2)
    return message


def test_positions_of_a_receiver_become_pushes(node: ModuleType, tmp_path: Path) -> None:
    with BagMaker(tmp_path, "mcap") as maker:
        maker.position("/gnss", T0, (51.5, -1.25), 3.0)
        maker.position("/gnss", T0 + 1, (np.nan, np.nan), 3.0)
    bag = Bag(tmp_path / "mcap")
    messages = [bag.decode(one, "sensor_msgs/msg/NavSatFix") for one in bag.messages(["/gnss"])]
    assert node.gnss_of(messages[0]) == pytest.approx((T0, 51.5, -1.25, 3.0))
    assert node.gnss_of(messages[1]) is None
