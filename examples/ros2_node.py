"""A ROS 2 node that localizes a vehicle on a city's map; a thin layer over ``Localizer``.

Run: python examples/ros2_node.py CITY --ros-args -r points:=/velodyne_points -r odometry:=/odom

It subscribes to ``points`` (sensor_msgs/PointCloud2, in the vehicle's frame, or one whose pose in
it is the parameter ``mount``: x y z qx qy qz qw), ``odometry`` (nav_msgs/Odometry) and, where there
is a receiver, ``gnss`` (sensor_msgs/NavSatFix). It publishes ``fix`` (sensor_msgs/NavSatFix) and
``pose`` (geometry_msgs/PoseWithCovarianceStamped, in the map frame: metres east and north, yaw from
grid east). It needs rclpy, which comes with ROS. The conversions are tested with the message types
of rosbags; the node has never run inside ROS.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import maptile_loc as ml
from data_prep.geometry import Array, se3_from_quaternion
from data_prep.sources.ros.bag import stamps, vector
from data_prep.sources.ros.gnss import position_of
from data_prep.sources.ros.pointcloud2 import points_of

STATUS_FIX, STATUS_NO_FIX = 0, -1
"""States of a sensor_msgs/NavSatStatus."""
KNOWN_COVARIANCE = 3
"""COVARIANCE_TYPE_KNOWN of a sensor_msgs/NavSatFix."""


def scan_of(cloud: Any, mount: Array) -> ml.ScanBlock:
    """The scan in a PointCloud2.

    Args:
        cloud: The message.
        mount: (4, 4) pose of its frame in the vehicle's.
    """
    t_ns = stamps(cloud.header.stamp)
    points = points_of(cloud, t_ns)
    returned = np.isfinite(points.xyz).all(axis=1) & (np.abs(points.xyz).max(axis=1) > 0)
    xyz = points.xyz[returned] @ mount[:3, :3].T + mount[:3, 3]
    seconds = None if points.seconds is None else points.seconds[returned]
    return ml.ScanBlock.single(t_ns, xyz, mount[:3, 3], seconds)


def pose_of(odometry: Any) -> tuple[int, Array]:
    """The time (nanoseconds) and the (4, 4) pose in an Odometry."""
    pose = odometry.pose.pose
    moved = se3_from_quaternion(vector(pose.position)[None], vector(pose.orientation)[None])[0]
    return stamps(odometry.header.stamp), moved


def gnss_of(message: Any) -> tuple[int, float, float, float] | None:
    """Time (ns), latitude, longitude and std (metres) in a NavSatFix; None without a position."""
    position = position_of(message)
    if np.isnan(position.latitude):
        return None
    return stamps(message.header.stamp), position.latitude, position.longitude, position.std_m


def fill_fix(message: Any, fix: ml.Fix) -> Any:
    """Fill a NavSatFix; its covariance is that of the position, east and north."""
    message.latitude, message.longitude, message.altitude = fix.latitude, fix.longitude, np.nan
    message.status.status = STATUS_FIX if fix.localized else STATUS_NO_FIX
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = fix.covariance[:2, :2]
    message.position_covariance = covariance.ravel()
    message.position_covariance_type = KNOWN_COVARIANCE
    return message


def fill_pose(message: Any, fix: ml.Fix) -> Any:
    """Fill a PoseWithCovarianceStamped: east and north as x and y, the heading as yaw."""
    pose = message.pose.pose
    pose.position.x, pose.position.y = float(fix.pose[0]), float(fix.pose[1])
    pose.orientation.z = float(np.sin(fix.pose[2] / 2))
    pose.orientation.w = float(np.cos(fix.pose[2] / 2))
    covariance = np.zeros((6, 6))
    where = np.ix_([0, 1, 5], [0, 1, 5])  # x, y and the turn about z
    covariance[where] = fix.covariance
    message.pose.covariance = covariance.ravel()
    return message


def main() -> None:
    """Run the node until it is interrupted."""
    import rclpy
    from geometry_msgs.msg import PoseWithCovarianceStamped
    from nav_msgs.msg import Odometry
    from sensor_msgs.msg import NavSatFix, PointCloud2

    rclpy.init()
    node = rclpy.create_node("maptile_loc")
    node.declare_parameter("mount", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    numbers = np.array(node.get_parameter("mount").value)
    mount = se3_from_quaternion(numbers[None, :3], numbers[None, 3:])[0]
    localizer = ml.Localizer(sys.argv[1])
    fixes = node.create_publisher(NavSatFix, "fix", 10)
    poses = node.create_publisher(PoseWithCovarianceStamped, "pose", 10)

    def on_odometry(message: Any) -> None:
        localizer.add_odometry(*pose_of(message))

    def on_gnss(message: Any) -> None:
        position = gnss_of(message)
        if position is not None:
            localizer.add_gnss(*position)

    def on_points(message: Any) -> None:
        fix = localizer.add_scan(scan_of(message, mount))
        if fix is None or not np.isfinite(fix.latitude):
            return
        for publisher, made in (
            (fixes, fill_fix(NavSatFix(), fix)),
            (poses, fill_pose(PoseWithCovarianceStamped(), fix)),
        ):
            made.header.stamp, made.header.frame_id = message.header.stamp, "map"
            publisher.publish(made)

    node.create_subscription(Odometry, "odometry", on_odometry, 100)
    node.create_subscription(NavSatFix, "gnss", on_gnss, 100)
    node.create_subscription(PointCloud2, "points", on_points, 10)
    try:
        rclpy.spin(node)
    finally:
        localizer.close()


if __name__ == "__main__":
    main()
