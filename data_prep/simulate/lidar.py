"""The LiDARs of simulated vehicles: where their beams point, and what their returns look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_prep.geometry import Array
from data_prep.settings import Settings
from data_prep.simulate.scene.kinds import GLASS, LEAF
from data_prep.simulate.scene.world import Hits
from data_prep.sources.formats.robotcar_tables import EXTRINSICS

_EVEN = 0.35
"""How much the returns of rough surfaces depend less on the incidence than those of matt ones."""

_SURE = 4.0
"""A return of so many times the power at which half are seen is seen."""

_MIXED_M = (0.15, 1.5)
"""Of two surfaces that a beam meets the LiDAR sees one mean if they are so far apart."""


class LidarNoise(Settings):
    """What keeps returns from being exact.

    Attributes:
        range_m: Standard deviation of a range, metres.
        beam_m: Standard deviation of the constant error that each beam's ranges have.
        dropout: Share of the returns that get lost for no reason.
        weak: Whether dark, distant and slanting surfaces send too little back to be seen.
        crown_m: Returns from leaves come from up to this far behind the first, metres.
        mixed: Share of the beams over the edge of something that return a range between the two.
        glass: Share of the beams on the windows of cars that return nothing.
        sweep: Whether the vehicle moves on while a scan is taken.
    """

    range_m: float = pydantic.Field(default=0.02, ge=0)
    beam_m: float = pydantic.Field(default=0.012, ge=0)
    dropout: float = pydantic.Field(default=0.01, ge=0, le=1)
    weak: bool = True
    crown_m: float = pydantic.Field(default=0.1, ge=0)
    mixed: float = pydantic.Field(default=0.3, ge=0, le=1)
    glass: float = pydantic.Field(default=0.7, ge=0, le=1)
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
        at_once: How many beams are fired together, one below the other.
        mount: Where it is on the vehicle, as in the data set's extrinsics.
    """

    name: str
    directions: Array
    when: Array
    period_us: int
    half_sweep_us: int
    phase_us: int
    max_range_m: float
    dark_range_m: float
    at_once: int
    mount: tuple[float, ...]

    @property
    def planar(self) -> bool:
        """Whether scans are written as (x, y, reflectance) of the sensor's plane."""
        return self.name.startswith("lms")


def lms_151(name: str, phase_us: int) -> Lidar:
    """SICK LMS-151: 541 beams over 270 degrees in one plane, 50 Hz, 50 m."""
    angle = np.radians(np.arange(-135.0, 135.25, 0.5))
    directions = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
    return Lidar(
        name,
        directions,
        when=angle / angle[-1],
        period_us=20_000,
        half_sweep_us=7_500,
        phase_us=phase_us,
        max_range_m=50.0,
        dark_range_m=18.0,
        at_once=1,
        mount=EXTRINSICS[name],
    )


_ROOF = "velodyne_left"


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
    place, yaw = EXTRINSICS[_ROOF][:3], EXTRINSICS[_ROOF][5]
    return Lidar(
        _ROOF,
        directions,
        when=np.repeat(when, len(elevation_deg)),
        period_us=100_000,
        half_sweep_us=50_000,
        phase_us=0,
        max_range_m=max_range_m,
        dark_range_m=dark_range_m,
        at_once=len(elevation_deg),
        # Level: the data set's LiDARs are tilted only against its camera, which looks down.
        mount=(*place, 0.0, 0.0, yaw),
    )


SENSORS: dict[str, tuple[Lidar, ...]] = {
    "robotcar": (lms_151("lms_front", 0), lms_151("lms_rear", 9_000)),
    "hdl64": (
        velodyne(
            np.concatenate([np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.8, 32)]),
            2083,
            120.0,
            80.0,
        ),
    ),
    "hdl32": (velodyne(np.linspace(10.67, -30.67, 32), 2170, 100.0, 55.0),),
}
"""Two LMS-151 as on the RobotCar, or an HDL-64E or HDL-32E on the roof."""


def seen(
    hits: Hits, lidar: Lidar, noise: LidarNoise, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What the LiDAR makes of ``hits``: (N,) measured ranges, and (N,) which it sees at all.

    A return's power is that of a rough surface: reflectance times a cosine of the incidence that
    never falls to nothing, by squared distance; half of the returns are seen where it equals 10 %
    reflectance, met upright, at ``dark_range_m``.
    """
    measured = hits.distance.copy()
    count = len(measured)
    visible = measured < lidar.max_range_m
    if noise.mixed:
        at = np.flatnonzero(_over_an_edge(measured, lidar))
        at = at[rng.random(len(at)) < noise.mixed]
        measured[at] += rng.random(len(at)) * (measured[at + lidar.at_once] - measured[at])
    if noise.crown_m:
        soft = np.flatnonzero(hits.kind == LEAF)
        measured[soft] += rng.uniform(0, noise.crown_m, len(soft))
    if noise.beam_m:
        off = np.random.default_rng(lidar.at_once).normal(0, noise.beam_m, lidar.at_once)
        measured += np.tile(off.astype(np.float32), -(-count // len(off)))[:count]
    if noise.range_m:
        measured += np.float32(noise.range_m) * rng.standard_normal(count, np.float32)
    if noise.dropout:
        visible &= rng.random(count, np.float32) >= noise.dropout
    if noise.glass:
        visible &= (hits.kind != GLASS) | (rng.random(count, np.float32) >= noise.glass)
    if noise.weak:
        distance = np.maximum(hits.distance, 0.1)
        power = hits.reflectance * brightness(hits.cosine) / 0.1
        power *= (lidar.dark_range_m / distance) ** 2
        faint = np.flatnonzero(power < _SURE)
        visible[faint] &= rng.random(len(faint), np.float32) >= 0.5 ** (power[faint] ** 2)
    return measured, visible & (measured > 0.05)


def brightness(cosine: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) what a rough surface sends back at (N,) cosines of the incidence, 1 met upright."""
    return (cosine + np.float32(_EVEN)) / np.float32(1 + _EVEN)


def _over_an_edge(distance: NDArray[np.float32], lidar: Lidar) -> NDArray[np.bool_]:
    """(N,) beams beside which the next one meets something a little nearer or farther."""
    result = np.zeros(len(distance), bool)
    last = np.arange(len(distance)) % len(lidar.directions) >= len(lidar.directions) - lidar.at_once
    with np.errstate(invalid="ignore"):
        step = np.abs(distance[lidar.at_once :] - distance[: -lidar.at_once])
    result[: -lidar.at_once] = (step > _MIXED_M[0]) & (step < _MIXED_M[1])
    return result & ~last
