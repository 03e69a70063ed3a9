"""The sensors that a simulated vehicle can carry, as plain data without heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

CAMERA_HEIGHT_M = 1.6
"""Height of the vehicle frame's origin, the stereo camera, above the road, metres."""


@dataclass(frozen=True)
class PlanarLidar:
    """A SICK LMS-151: 541 beams over 270 degrees in one plane, 50 Hz, 50 m.

    Attributes:
        name: Its folder in a run and its extrinsics in the Oxford RobotCar data set.
        phase_us: Microseconds from the start of the drive to the start of the first sweep.
    """

    name: str
    phase_us: int


@dataclass(frozen=True)
class Block:
    """A group of beams with evenly spaced elevations.

    Attributes:
        first_deg, last_deg: Elevations of its first and last beam, degrees, up is positive.
        beams: Number of beams.
        above_m: Height at which the beams leave the sensor, above the origin of its coordinates,
            metres.
    """

    first_deg: float
    last_deg: float
    beams: int
    above_m: float = 0.0


@dataclass(frozen=True)
class SpinningLidar:
    """A LiDAR that spins about the vertical axis on the vehicle's roof, 10 Hz.

    Attributes:
        blocks: Groups of beams.
        columns: Number of azimuths per sweep.
        max_range_m: Largest measured range, metres.
        dark_range_m: Range at which half of the returns of a surface with 10 % reflectance are
            detected, metres.
        height_m: Height of the origin of its coordinates above the road, metres.
        name: Its folder in a run and its extrinsics in the Oxford RobotCar data set.
    """

    blocks: tuple[Block, ...]
    columns: int
    max_range_m: float
    dark_range_m: float
    height_m: float
    name: str = "velodyne_left"


@dataclass(frozen=True)
class SensorSet:
    """The LiDARs of one simulated vehicle.

    Attributes:
        summary: One line for a help text.
        lidars: The LiDARs, each recorded to a folder of its own.
    """

    summary: str
    lidars: tuple[PlanarLidar | SpinningLidar, ...]


SENSORS: dict[str, SensorSet] = {
    "robotcar": SensorSet(
        "two SICK LMS-151 that scan across the track, as on the Oxford RobotCar",
        (PlanarLidar("lms_front", 0), PlanarLidar("lms_rear", 9_000)),
    ),
    "hdl64": SensorSet(
        "a Velodyne HDL-64E on the roof, as high as on KITTI's car",
        (
            SpinningLidar(
                (Block(2.0, -8.33, 32, above_m=0.21), Block(-8.83, -24.8, 32, above_m=0.13)),
                *(2083, 120.0, 80.0, 1.73),
            ),
        ),
    ),
    "hdl32": SensorSet(
        "a Velodyne HDL-32E on the roof",
        (SpinningLidar((Block(10.67, -30.67, 32),), 2170, 100.0, 55.0, 1.87),),
    ),
}
"""The sensors by their names on the command line."""
