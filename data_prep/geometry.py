"""Poses, headings and the map projection; the only module that converts angles.

All frames are right-handed, in metres and radians. The vehicle frame has x forward, y left, z up;
the map frame has x east, y north in a conformal metric CRS. A heading is counter-clockwise from
grid east, a *true* heading counter-clockwise from true east: heading = true heading + convergence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyproj
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation, Slerp

from data_prep.errors import MaptileError

Array = NDArray[np.float64]
"""A float64 array of any shape."""

NED_TO_FLU = np.diag([1.0, -1.0, -1.0, 1.0])
"""(4, 4) transform from x forward, y right, z down to x forward, y left, z up; its own inverse."""


def wrap_angle(angle: ArrayLike) -> Array:
    """Return angles (radians) wrapped to [-pi, pi)."""
    return (np.asarray(angle, np.float64) + np.pi) % (2 * np.pi) - np.pi


def true_heading_from_ins_yaw(yaw: ArrayLike) -> Array:
    """Return the true heading (radians) of a RobotCar yaw (radians, clockwise from true north)."""
    return wrap_angle(np.pi / 2 - np.asarray(yaw, np.float64))


def true_heading_from_oxts_yaw(yaw: ArrayLike) -> Array:
    """Return the true heading (radians) of a KITTI yaw (counter-clockwise from true east)."""
    return wrap_angle(yaw)


@dataclass(frozen=True)
class Projection:
    """The map frame of a city, and its relation to WGS 84.

    Attributes:
        crs: A conformal projected CRS in metres.
    """

    crs: pyproj.CRS

    @cached_property
    def _transformer(self) -> pyproj.Transformer:
        return pyproj.Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)

    @cached_property
    def _proj(self) -> pyproj.Proj:
        return pyproj.Proj(self.crs)

    def forward(self, latitude: ArrayLike, longitude: ArrayLike) -> Array:
        """Return positions in the map frame.

        Args:
            latitude: (N,) degrees, WGS 84.
            longitude: (N,) degrees, WGS 84.

        Returns:
            (N, 2) float64 east, north, metres.
        """
        east, north = self._transformer.transform(
            np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)
        )
        return np.stack([np.asarray(east), np.asarray(north)], axis=-1)

    def inverse(self, east_north: ArrayLike) -> tuple[Array, Array]:
        """Return the geographic coordinates of positions in the map frame.

        Args:
            east_north: (N, 2) metres.

        Returns:
            (N,) latitude and (N,) longitude, degrees, WGS 84.
        """
        xy = np.asarray(east_north, np.float64)
        longitude, latitude = self._transformer.transform(
            xy[..., 0], xy[..., 1], direction=pyproj.enums.TransformDirection.INVERSE
        )
        return np.asarray(latitude), np.asarray(longitude)

    def convergence(self, latitude: ArrayLike, longitude: ArrayLike) -> Array:
        """Return the meridian convergence, which is heading minus true heading.

        It is +1.369 degrees at Oxford in UTM zone 30, and -0.435 degrees at Karlsruhe in zone 32.

        Args:
            latitude: (N,) degrees, WGS 84.
            longitude: (N,) degrees, WGS 84.

        Returns:
            (N,) radians.
        """
        factors = self._proj.get_factors(
            np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)
        )
        return np.radians(np.asarray(factors.meridian_convergence))


def utm_crs(latitude: float, longitude: float) -> pyproj.CRS:
    """Return the CRS of the UTM zone of a position: the default map frame of a city.

    It is EPSG:326xx in the north and EPSG:327xx in the south. The zone follows from the longitude
    alone; the exceptions for Norway and Svalbard are ignored.

    Args:
        latitude: Degrees, WGS 84.
        longitude: Degrees, WGS 84.
    """
    zone = int((longitude + 180) // 6) % 60 + 1
    return pyproj.CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def metric_crs(name: str | None) -> pyproj.CRS | None:
    """Return the CRS called ``name``; None without a name.

    Raises:
        MaptileError: It is not known, or not projected and in metres.
    """
    if name is None:
        return None
    try:
        crs = pyproj.CRS.from_user_input(name)
    except pyproj.exceptions.CRSError:
        raise MaptileError(f"crs {name!r}: not known; give one such as EPSG:32630") from None
    if not crs.is_projected or any(axis.unit_conversion_factor != 1 for axis in crs.axis_info):
        raise MaptileError(f"crs {name!r}: its coordinates are not in metres; leave it out")
    return crs


# --- SE(3): arrays (..., 4, 4); the pose of frame b in frame a takes points of b to a ------------


def se3_from_xyzrpy(xyzrpy: ArrayLike) -> Array:
    """Return poses from positions and Euler angles, with R = Rz(yaw) Ry(pitch) Rx(roll).

    Args:
        xyzrpy: (..., 6) x, y, z (metres), roll, pitch, yaw (radians).

    Returns:
        (..., 4, 4) float64.
    """
    values = np.asarray(xyzrpy, np.float64)
    return se3(Rotation.from_euler("xyz", values[..., 3:].reshape(-1, 3)), values[..., :3])


def se3_from_quaternion(xyz: ArrayLike, quaternion: ArrayLike) -> Array:
    """Return poses from positions and quaternions.

    Args:
        xyz: (..., 3) metres.
        quaternion: (..., 4) x, y, z, w; scaled to unit length.

    Returns:
        (..., 4, 4) float64.
    """
    return se3(Rotation.from_quat(np.asarray(quaternion, np.float64).reshape(-1, 4)), xyz)


def se3(rotation: Rotation, translation: ArrayLike) -> Array:
    """Return (..., 4, 4) poses from rotations and (..., 3) translations, metres."""
    t = np.asarray(translation, np.float64)
    result = np.zeros((*t.shape[:-1], 4, 4))
    result[..., :3, :3] = rotation.as_matrix().reshape(*t.shape[:-1], 3, 3)
    result[..., :3, 3] = t
    result[..., 3, 3] = 1.0
    return result


def se3_inverse(pose: Array) -> Array:
    """Return the inverses of (..., 4, 4) rigid transforms."""
    result = np.zeros_like(pose)
    rotation = np.swapaxes(pose[..., :3, :3], -1, -2)
    result[..., :3, :3] = rotation
    result[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, pose[..., :3, 3])
    result[..., 3, 3] = 1.0
    return result


def transform_points(pose: Array, points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return transformed points.

    Args:
        pose: (4, 4) for all points, or (N, 4, 4), one per point.
        points: (N, 3) metres.

    Returns:
        (N, 3) float32.
    """
    if pose.ndim == 2:
        return (points @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32)
    turned = np.einsum("nij,nj->ni", pose[:, :3, :3], points)
    return (turned + pose[:, :3, 3]).astype(np.float32)


def interpolate_se3(t_ns: NDArray[np.int64], poses: Array, query_ns: NDArray[np.int64]) -> Array:
    """Return poses at given times: linear in position, spherical linear (slerp) in rotation.

    Args:
        t_ns: (N,) nanoseconds, strictly increasing.
        poses: (N, 4, 4).
        query_ns: (M,) nanoseconds; times before the first or after the last pose get that pose.

    Returns:
        (M, 4, 4) float64.
    """
    query = np.clip(query_ns, t_ns[0], t_ns[-1])
    if len(t_ns) == 1 or len(query) == 0:
        return np.repeat(poses[:1], len(query), axis=0)
    # Only the poses around the queries are needed; a track may be long.
    start = max(int(np.searchsorted(t_ns, query.min(), side="right")) - 1, 0)
    stop = int(np.searchsorted(t_ns, query.max())) + 2
    t_ns, poses = t_ns[start:stop], poses[start:stop]
    if len(t_ns) == 1:
        return np.repeat(poses, len(query), axis=0)
    right = np.clip(np.searchsorted(t_ns, query, side="right"), 1, len(t_ns) - 1)
    left = right - 1
    # Integer differences first: float64 cannot hold nanoseconds since 1970.
    fraction = (query - t_ns[left]) / (t_ns[right] - t_ns[left])
    position = poses[left, :3, 3] + fraction[:, None] * (poses[right, :3, 3] - poses[left, :3, 3])
    seconds = (t_ns - t_ns[0]) / 1e9
    slerp = Slerp(seconds, Rotation.from_matrix(poses[:, :3, :3]))
    return se3(slerp((query - t_ns[0]) / 1e9), position)


def interpolate_angle(t_ns: NDArray[np.int64], angle: Array, query_ns: NDArray[np.int64]) -> Array:
    """Return angles at given times, interpolated along the shorter arc.

    Args:
        t_ns: (N,) nanoseconds, strictly increasing.
        angle: (N,) radians; NaN where unknown, which affects only the times up to its neighbours.
        query_ns: (M,) nanoseconds; times before the first or after the last angle get that angle.

    Returns:
        (M,) radians in [-pi, pi), or NaN.
    """
    if len(t_ns) == 1:
        return wrap_angle(np.repeat(angle, len(query_ns)))
    query = np.clip(query_ns, t_ns[0], t_ns[-1])
    right = np.clip(np.searchsorted(t_ns, query, side="right"), 1, len(t_ns) - 1)
    left = right - 1
    fraction = (query - t_ns[left]) / (t_ns[right] - t_ns[left])
    between = angle[left] + fraction * wrap_angle(angle[right] - angle[left])
    between = np.where(fraction == 0, angle[left], np.where(fraction == 1, angle[right], between))
    return wrap_angle(between)


# --- SE(2): arrays (..., 3) of x, y (metres) and heading (radians) -------------------------------


def se2_from_se3(pose: Array) -> Array:
    """Return (..., 3): the x-y position and the heading of the x axis of (..., 4, 4) poses."""
    heading = np.arctan2(pose[..., 1, 0], pose[..., 0, 0])
    return np.stack([pose[..., 0, 3], pose[..., 1, 3], heading], axis=-1)


def se2_compose(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the poses ``b``, given relative to ``a``, in the frame in which ``a`` is given.

    Args:
        a: (..., 3) x, y (metres) and heading (radians) in a common frame.
        b: (..., 3) poses in the frames of ``a``.

    Returns:
        (..., 3) the poses ``b`` in the common frame, headings in [-pi, pi).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    c, s = np.cos(a[..., 2]), np.sin(a[..., 2])
    return np.stack(
        [
            a[..., 0] + c * b[..., 0] - s * b[..., 1],
            a[..., 1] + s * b[..., 0] + c * b[..., 1],
            wrap_angle(a[..., 2] + b[..., 2]),
        ],
        axis=-1,
    )


def se2_between(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the poses ``b`` relative to the poses ``a``: ``se2_compose(a, result)`` is ``b``.

    Args:
        a: (..., 3) x, y (metres) and heading (radians) in a common frame.
        b: (..., 3) poses in the same frame.

    Returns:
        (..., 3) the poses ``b`` in the frames of ``a``, headings in [-pi, pi).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    c, s = np.cos(a[..., 2]), np.sin(a[..., 2])
    dx, dy = b[..., 0] - a[..., 0], b[..., 1] - a[..., 1]
    return np.stack([c * dx + s * dy, -s * dx + c * dy, wrap_angle(b[..., 2] - a[..., 2])], -1)


def rotate(xy: NDArray[np.floating], angle: float) -> NDArray[np.floating]:
    """Return (N, 2) vectors turned counter-clockwise by ``angle`` radians, in their dtype."""
    c, s = np.cos(angle), np.sin(angle)
    return xy @ np.array([[c, s], [-s, c]], dtype=xy.dtype)
