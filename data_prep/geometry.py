"""Poses, headings and the map projection: the only place that converts angles.

Conventions: metres, radians, right-handed frames. Vehicle frame: x forward, y left, z up. Map
frame: x east, y north of a conformal metric CRS. Heading: counter-clockwise from grid east. A
*true* heading is counter-clockwise from true east; grid heading = true heading + convergence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyproj
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation, Slerp

Array = NDArray[np.float64]

NED_TO_FLU = np.diag([1.0, -1.0, -1.0, 1.0])
"""Turns x forward, y right, z down into x forward, y left, z up (and back: its own inverse)."""


def wrap_angle(angle: ArrayLike) -> Array:
    """Return ``angle`` (radians) wrapped to [-pi, pi)."""
    return (np.asarray(angle, np.float64) + np.pi) % (2 * np.pi) - np.pi


def true_heading_from_ins_yaw(yaw: ArrayLike) -> Array:
    """RobotCar INS/RTK yaw (radians, clockwise from true north) as a true heading."""
    return wrap_angle(np.pi / 2 - np.asarray(yaw, np.float64))


def true_heading_from_oxts_yaw(yaw: ArrayLike) -> Array:
    """KITTI OXTS yaw (radians, counter-clockwise from true east) as a true heading."""
    return wrap_angle(yaw)


@dataclass(frozen=True)
class Projection:
    """The map frame of a city: geographic coordinates to (east, north) metres and back.

    Attributes:
        crs: A conformal, metric, projected CRS.
    """

    crs: pyproj.CRS

    @cached_property
    def _transformer(self) -> pyproj.Transformer:
        return pyproj.Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)

    @cached_property
    def _proj(self) -> pyproj.Proj:
        return pyproj.Proj(self.crs)

    def forward(self, latitude: ArrayLike, longitude: ArrayLike) -> Array:
        """(N,) WGS 84 latitude and longitude in degrees -> (N, 2) east, north in metres."""
        east, north = self._transformer.transform(
            np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)
        )
        return np.stack([np.asarray(east), np.asarray(north)], axis=-1)

    def inverse(self, east_north: ArrayLike) -> tuple[Array, Array]:
        """(N, 2) east, north in metres -> (N,) latitude and (N,) longitude in degrees."""
        xy = np.asarray(east_north, np.float64)
        longitude, latitude = self._transformer.transform(
            xy[..., 0], xy[..., 1], direction=pyproj.enums.TransformDirection.INVERSE
        )
        return np.asarray(latitude), np.asarray(longitude)

    def convergence(self, latitude: ArrayLike, longitude: ArrayLike) -> Array:
        """Meridian convergence g (radians): grid heading = true heading + g.

        +1.369 degrees at Oxford in UTM 30, -0.435 degrees at Karlsruhe in UTM 32.
        """
        factors = self._proj.get_factors(
            np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)
        )
        return np.radians(np.asarray(factors.meridian_convergence))


def utm_crs(latitude: float, longitude: float) -> pyproj.CRS:
    """The UTM zone of a place, the default map frame of a city (WGS 84, EPSG:326xx/327xx)."""
    zone = int((longitude + 180) // 6) % 60 + 1
    return pyproj.CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


# --- SE(3): arrays (..., 4, 4), T_a_b takes points of frame b to frame a ------------------------


def se3_from_xyzrpy(xyzrpy: ArrayLike) -> Array:
    """(..., 6) x y z roll pitch yaw (m, rad; R = Rz(yaw) Ry(pitch) Rx(roll)) -> (..., 4, 4)."""
    values = np.asarray(xyzrpy, np.float64)
    return se3(Rotation.from_euler("xyz", values[..., 3:].reshape(-1, 3)), values[..., :3])


def se3_from_quaternion(xyz: ArrayLike, quaternion: ArrayLike) -> Array:
    """(..., 3) metres and (..., 4) quaternion (x, y, z, w) -> (..., 4, 4)."""
    return se3(Rotation.from_quat(np.asarray(quaternion, np.float64).reshape(-1, 4)), xyz)


def se3(rotation: Rotation, translation: ArrayLike) -> Array:
    """Rotations and (..., 3) translations -> (..., 4, 4)."""
    t = np.asarray(translation, np.float64)
    result = np.zeros((*t.shape[:-1], 4, 4))
    result[..., :3, :3] = rotation.as_matrix().reshape(*t.shape[:-1], 3, 3)
    result[..., :3, 3] = t
    result[..., 3, 3] = 1.0
    return result


def se3_inverse(pose: Array) -> Array:
    """Inverse of (..., 4, 4) rigid transforms."""
    result = np.zeros_like(pose)
    rotation = np.swapaxes(pose[..., :3, :3], -1, -2)
    result[..., :3, :3] = rotation
    result[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, pose[..., :3, 3])
    result[..., 3, 3] = 1.0
    return result


def transform_points(pose: Array, points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Apply one (4, 4) transform to (N, 3) points, or (N, 4, 4) each to its own; float32."""
    if pose.ndim == 2:
        return (points @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32)
    turned = np.einsum("nij,nj->ni", pose[:, :3, :3], points)
    return (turned + pose[:, :3, 3]).astype(np.float32)


def interpolate_se3(t_ns: NDArray[np.int64], poses: Array, query_ns: NDArray[np.int64]) -> Array:
    """Poses at ``query_ns`` (M,): linear in position, spherical linear in rotation.

    Times outside ``t_ns`` (N,), which increases strictly, take the nearest end's pose.
    """
    query = np.clip(query_ns, t_ns[0], t_ns[-1])
    if len(t_ns) == 1 or len(query) == 0:
        return np.repeat(poses[:1], len(query), axis=0)
    # Of a long track only the poses around the queries matter.
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
    """Angles (radians) at ``query_ns``, the short way round; the ends are held.

    An unknown angle (NaN) makes only the times between it and its neighbours unknown.
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


# --- SE(2): arrays (..., 3) of x, y, heading ----------------------------------------------------


def se2_from_se3(pose: Array) -> Array:
    """(..., 4, 4) -> (..., 3): position in the plane and the heading of the x axis."""
    heading = np.arctan2(pose[..., 1, 0], pose[..., 0, 0])
    return np.stack([pose[..., 0, 3], pose[..., 1, 3], heading], axis=-1)


def se2_compose(a: ArrayLike, b: ArrayLike) -> Array:
    """Pose ``b``, given in the frame of pose ``a``, in the frame of ``a``'s parent."""
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
    """Pose ``b`` in the frame of pose ``a``, both given in one frame."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    c, s = np.cos(a[..., 2]), np.sin(a[..., 2])
    dx, dy = b[..., 0] - a[..., 0], b[..., 1] - a[..., 1]
    return np.stack([c * dx + s * dy, -s * dx + c * dy, wrap_angle(b[..., 2] - a[..., 2])], -1)


def rotate(xy: NDArray[np.floating], angle: float) -> NDArray[np.floating]:
    """Turn (N, 2) vectors counter-clockwise by ``angle`` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return xy @ np.array([[c, s], [-s, c]], dtype=xy.dtype)
