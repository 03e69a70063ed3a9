"""The LiDARs of simulated vehicles: where their beams point, and what their returns look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_prep.geometry import Array
from data_prep.settings import Settings
from data_prep.world import CROWN, Hits


class LidarNoise(Settings):
    """What keeps returns from being exact.

    Attributes:
        range_m: Standard deviation of a range, metres.
        dropout: Share of the returns that get lost for no reason.
        weak: Whether dark, distant and slanting surfaces send too little back to be seen.
        crown_m: Returns from tree crowns come from up to this deep inside, metres.
        sweep: Whether the vehicle moves on while a scan is taken.
    """

    range_m: float = pydantic.Field(default=0.02, ge=0)
    dropout: float = pydantic.Field(default=0.01, ge=0, le=1)
    weak: bool = True
    crown_m: float = pydantic.Field(default=1.0, ge=0)
    sweep: bool = True


@dataclass(frozen=True)
class Lidar:
    """A LiDAR.

    Attributes:
        name: Of its folder and its extrinsics in the Oxford RobotCar data set.
        directions: (B, 3) unit vectors of the beams in the sensor's own frame.
        when: (B,) when in the sweep each is fired: -1 at its beginning, 1 at its end.
        period_us: Microseconds from scan to scan.
        half_sweep_us: Microseconds from the middle of a sweep to its end.
        phase_us: When the first scan is taken, microseconds after the others' beginning.
        max_range_m: Nothing is seen beyond.
        dark_range_m: Where half of the returns of a surface of 10 % reflectance are seen.
    """

    name: str
    directions: Array
    when: Array
    period_us: int
    half_sweep_us: int
    phase_us: int
    max_range_m: float
    dark_range_m: float

    @property
    def planar(self) -> bool:
        """Whether scans are written as (x, y, reflectance) of the sensor's plane."""
        return self.name.startswith("lms")


def lms_151(name: str, phase_us: int) -> Lidar:
    """SICK LMS-151: 541 beams over 270 degrees in one plane, 50 Hz, 50 m."""
    angle = np.radians(np.arange(-135.0, 135.25, 0.5))
    directions = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
    return Lidar(name, directions, angle / angle[-1], 20_000, 7_500, phase_us, 50.0, 18.0)


def velodyne(elevation_deg: Array, columns: int, max_range_m: float, dark_range_m: float) -> Lidar:
    """A spinning LiDAR on the roof, 10 Hz; (L,) elevations in degrees, up positive.

    Its frame is the data set's: x backward as mounted, z down. The middle of a sweep looks forward.
    """
    when = (2 * np.arange(columns) + 1) / columns - 1
    azimuth = (np.pi * when)[:, None]
    elevation = np.radians(elevation_deg)[None, :]
    flat = np.cos(elevation)
    directions = np.stack(
        np.broadcast_arrays(-np.cos(azimuth) * flat, -np.sin(azimuth) * flat, -np.sin(elevation)),
        axis=-1,
    ).reshape(-1, 3)
    turns = np.repeat(when, len(elevation_deg))
    return Lidar("velodyne_left", directions, turns, 100_000, 50_000, 0, max_range_m, dark_range_m)


SENSORS: dict[str, tuple[Lidar, ...]] = {
    "robotcar": (lms_151("lms_front", 0), lms_151("lms_rear", 9_000)),
    "hdl64": (
        velodyne(
            np.concatenate([np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.8, 32)]),
            2083,
            120.0,
            50.0,
        ),
    ),
    "hdl32": (velodyne(np.linspace(10.67, -30.67, 32), 2170, 100.0, 35.0),),
}
"""Two LMS-151 as on the RobotCar, or an HDL-64E or HDL-32E on the roof."""


def seen(
    hits: Hits, lidar: Lidar, noise: LidarNoise, rng: np.random.Generator
) -> tuple[Array, NDArray[np.bool_]]:
    """What the LiDAR makes of ``hits``: (N,) measured ranges, and (N,) which it sees at all.

    A return's power is that of a matt surface: reflectance times cosine of the incidence by squared
    distance; half of the returns are seen where it equals 10 % reflectance at ``dark_range_m``.
    """
    measured = hits.distance.astype(np.float64)
    visible = measured < lidar.max_range_m
    deep = hits.kind == CROWN
    if noise.crown_m:
        measured[deep] += rng.uniform(0, noise.crown_m, np.count_nonzero(deep))
    if noise.range_m:
        measured += rng.normal(0, noise.range_m, len(measured))
    if noise.dropout:
        visible &= rng.random(len(measured)) >= noise.dropout
    if noise.weak:
        distance = np.maximum(hits.distance, 0.1)
        power = hits.reflectance * hits.cosine / 0.1 * (lidar.dark_range_m / distance) ** 2
        visible &= rng.random(len(measured)) >= 0.5 ** (power**2)
    return measured, visible & (measured > 0.05)
