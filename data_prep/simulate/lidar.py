"""LiDARs of simulated vehicles: the directions of their beams, and a model of their returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.settings import Settings
from data_prep.simulate.scene.rays import Hits
from data_prep.simulate.scene.surfaces import Surface
from data_prep.simulate.sensors import CAMERA_HEIGHT_M, SENSORS, PlanarLidar, SpinningLidar
from data_prep.sources.formats.robotcar_tables import EXTRINSICS

_AMBIENT = 0.35
"""Brightness of a surface seen edge-on, before normalization: 0 is Lambert's cosine law."""

_CERTAIN_POWER = 4.0
"""Returns above this power are always detected; half of the returns of power 1 are."""

_MIXED_STEP_M = (0.15, 1.5)
"""Range steps between neighbouring beams over which a beam may return a mixed range, metres."""

_LEAST_COSINE = 0.1
"""Surfaces that are met at a smaller cosine of incidence spread ranges no more than at this one."""

_NEAREST_M = 0.05
"""Shorter ranges are not measured, metres."""


class LidarNoise(Settings):
    """Errors of a simulated LiDAR; zeros and False turn each of them off.

    Attributes:
        range_m: Standard deviation of a range from one firing of a beam to the next, metres. The
            accuracy on data sheets, 2 cm or more, includes the constant errors of beams.
        slant: The same per metre of distance and unit of the tangent of incidence, in addition. A
            beam with a divergence of 2 mrad meets a slanted surface over a depth of 0.002; the
            middle of its return scatters by a small share of this.
        beam_m: Standard deviation of each beam's constant range error, metres.
        dropout: Share of the returns that are lost at random; single beams rarely are.
        weak: Whether dark, distant and slanted surfaces may return too little to be detected.
        crown_m: Returns from leaves lie up to this far behind the first leaf, metres.
        mixed: Share of the beams over an edge that return a range between the two surfaces.
        glass: Share of the beams on car windows that return nothing.
        sweep: Whether the vehicle moves during a scan.
    """

    range_m: float = pydantic.Field(default=0.006, ge=0)
    slant: float = pydantic.Field(default=0.0001, ge=0)
    beam_m: float = pydantic.Field(default=0.025, ge=0)
    dropout: float = pydantic.Field(default=0.003, ge=0, le=1)
    weak: bool = True
    crown_m: float = pydantic.Field(default=0.1, ge=0)
    mixed: float = pydantic.Field(default=0.3, ge=0, le=1)
    glass: float = pydantic.Field(default=0.7, ge=0, le=1)
    sweep: bool = True


@dataclass(frozen=True)
class Lidar:
    """A LiDAR with the directions of its beams.

    Attributes:
        name: Its folder in a run and its extrinsics in the Oxford RobotCar data set.
        directions: (B, 3) unit vectors of the beams in the sensor frame, in the order of firing.
        starts: (B, 3) where the beams leave the sensor, metres in the same frame.
        when: (B,) firing time in the sweep: -1 at its start, 1 at its end.
        period_us: Microseconds between the starts of two scans.
        half_sweep_us: Microseconds from the middle of a sweep to its end.
        phase_us: Microseconds from the start of the drive to the start of the first sweep.
        max_range_m: Largest measured range, metres.
        dark_range_m: Range at which half of the returns of a surface with 10 % reflectance are
            detected, metres.
        at_once: Number of beams that are fired together, one below the other.
        mount: x, y, z (metres), roll, pitch, yaw (radians) of the sensor in the vehicle frame with
            z down, as in the data set's extrinsics.
        planar: Whether all beams lie in one plane; scans are then written as x, y, reflectance.
    """

    name: str
    directions: Array
    starts: Array
    when: Array
    period_us: int
    half_sweep_us: int
    phase_us: int
    max_range_m: float
    dark_range_m: float
    at_once: int
    mount: tuple[float, ...]
    planar: bool


def lidars_of(sensor: str) -> tuple[Lidar, ...]:
    """Return the LiDARs of a sensor.

    Args:
        sensor: One of ``sensors.SENSORS``.

    Raises:
        MaptileError: There is no such sensor.
    """
    if sensor not in SENSORS:
        raise MaptileError(f"no sensor {sensor}; there are {', '.join(SENSORS)}")
    return tuple(
        lms_151(model) if isinstance(model, PlanarLidar) else velodyne(model)
        for model in SENSORS[sensor].lidars
    )


def lms_151(model: PlanarLidar) -> Lidar:
    """Return a SICK LMS-151: beams in the sensor's x-y plane, from -135 to 135 degrees."""
    angle = np.radians(np.arange(-135.0, 135.25, 0.5))
    directions = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
    return Lidar(
        model.name,
        directions,
        starts=np.zeros_like(directions),
        when=angle / angle[-1],
        period_us=20_000,
        half_sweep_us=7_500,
        phase_us=model.phase_us,
        max_range_m=50.0,
        dark_range_m=18.0,
        at_once=1,
        mount=EXTRINSICS[model.name],
        planar=True,
    )


def velodyne(model: SpinningLidar) -> Lidar:
    """Return a spinning LiDAR on the roof; the middle of a sweep points forward.

    Its frame is that of the data set's Velodynes: x backward as mounted, z down.
    """
    blocks = model.blocks
    elevation_deg = np.concatenate(
        [np.linspace(block.first_deg, block.last_deg, block.beams) for block in blocks]
    )
    above = np.repeat([block.above_m for block in blocks], [block.beams for block in blocks])
    when = (2 * np.arange(model.columns) + 1) / model.columns - 1
    azimuth = (np.pi * when)[:, None]
    elevation = np.radians(elevation_deg)[None, :]
    flat = np.cos(elevation)
    directions = np.stack(
        np.broadcast_arrays(-np.cos(azimuth) * flat, -np.sin(azimuth) * flat, -np.sin(elevation)),
        axis=-1,
    ).reshape(-1, 3)
    x, y, _, _, _, yaw = EXTRINSICS[model.name]
    return Lidar(
        model.name,
        directions,
        starts=np.column_stack([np.zeros((len(directions), 2)), -np.tile(above, len(when))]),
        when=np.repeat(when, len(elevation_deg)),
        period_us=100_000,
        half_sweep_us=50_000,
        phase_us=0,
        max_range_m=model.max_range_m,
        dark_range_m=model.dark_range_m,
        at_once=len(elevation_deg),
        # Level: the data set's roll and pitch are relative to its camera, which is tilted down.
        mount=(x, y, CAMERA_HEIGHT_M - model.height_m, 0.0, 0.0, yaw),
        planar=False,
    )


def measure(
    hits: Hits, lidar: Lidar, noise: LidarNoise, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the ranges that a LiDAR measures, and which of its beams return anything.

    A return has the power reflectance / 0.1 * brightness(cosine) * (dark_range / distance)^2; it is
    detected with the probability 1 - 0.5^(power^2), that is 0.5 at power 1.

    Args:
        hits: (N,) what the beams meet: whole scans, one after the other, beams in firing order.
        lidar: The LiDAR.
        noise: Its errors.
        rng: Draws the errors.

    Returns:
        (N,) float32 ranges, metres; and (N,) bool, whether the beam has a detected return.
    """
    measured = hits.distance.copy()
    count = len(measured)
    visible = measured < lidar.max_range_m
    if noise.mixed:
        at = np.flatnonzero(_over_an_edge(measured, lidar))
        at = at[rng.random(len(at)) < noise.mixed]
        measured[at] += rng.random(len(at)) * (measured[at + lidar.at_once] - measured[at])
    if noise.crown_m:
        soft = np.flatnonzero(hits.kind == Surface.LEAF)
        measured[soft] += rng.uniform(0, noise.crown_m, len(soft))
    if noise.beam_m:
        # A seed of its own: the errors of the beams are the same in all scans and drives.
        off = np.random.default_rng(lidar.at_once).normal(0, noise.beam_m, lidar.at_once)
        measured += np.tile(off.astype(np.float32), -(-count // len(off)))[:count]
    if noise.range_m:
        measured += np.float32(noise.range_m) * rng.standard_normal(count, np.float32)
    if noise.slant:
        cosine = np.clip(hits.cosine, np.float32(_LEAST_COSINE), np.float32(1))
        depth = np.where(visible, hits.distance, 0) * np.sqrt(1 / cosine**2 - 1)
        measured += np.float32(noise.slant) * depth * rng.standard_normal(count, np.float32)
    if noise.dropout:
        visible &= rng.random(count, np.float32) >= noise.dropout
    if noise.glass:
        visible &= (hits.kind != Surface.GLASS) | (rng.random(count, np.float32) >= noise.glass)
    if noise.weak:
        distance = np.maximum(hits.distance, 0.1)
        power = hits.reflectance * brightness(hits.cosine) / 0.1
        power *= (lidar.dark_range_m / distance) ** 2
        faint = np.flatnonzero(power < _CERTAIN_POWER)
        visible[faint] &= rng.random(len(faint), np.float32) >= 0.5 ** (power[faint] ** 2)
    return measured, visible & (measured > _NEAREST_M)


def brightness(cosine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how bright a rough surface appears, relative to perpendicular incidence.

    Args:
        cosine: (N,) cosines of the angle between beam and surface normal, 0 to 1.

    Returns:
        (N,) float32, 1 at perpendicular incidence; Lambert's cosine law with an ambient part, so
        that it stays positive.
    """
    return (cosine + np.float32(_AMBIENT)) / np.float32(1 + _AMBIENT)


def _over_an_edge(distance: NDArray[np.float32], lidar: Lidar) -> NDArray[np.bool_]:
    """Return (N,) whether the next beam of the sweep is a little nearer or farther."""
    result = np.zeros(len(distance), bool)
    last = np.arange(len(distance)) % len(lidar.directions) >= len(lidar.directions) - lidar.at_once
    with np.errstate(invalid="ignore"):
        step = np.abs(distance[lidar.at_once :] - distance[: -lidar.at_once])
    result[: -lidar.at_once] = (step > _MIXED_STEP_M[0]) & (step < _MIXED_STEP_M[1])
    return result & ~last
