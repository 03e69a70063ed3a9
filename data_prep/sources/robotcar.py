"""Oxford RobotCar: LiDAR scans with gps/, vo/ and extrinsics/, as the data set's archives unpack.

The data set's vehicle frame (the stereo camera; x forward, y right, z down) and its INS and LiDAR
frames stay inside this module: everything it returns is x forward, y left, z up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyproj
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data_prep.drive import Drive, HeadingTrack, PoseTrack, ScanBlock, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import (
    NED_TO_FLU,
    Array,
    interpolate_angle,
    se3,
    se3_from_xyzrpy,
    se3_inverse,
    true_heading_from_ins_yaw,
    wrap_angle,
)
from data_prep.sources.formats.common import (
    MAX_BRIDGED_GAP_NS,
    file_numbers,
    increasing,
    read_bytes,
    read_header,
    read_records,
    read_table,
    scan_block,
)
from data_prep.sources.formats.velodyne_png import decode_scan
from data_prep.sources.storage.tree import Node, beside

LMS = ("lms_front", "lms_rear")
VELODYNES = ("velodyne_left", "velodyne_right")
SENSORS = (*LMS, *VELODYNES, "ldmrs")

SCAN_NAME = r"([1-8]?\d{1,15})\.bin"
"""A time in microseconds that is one in int64 nanoseconds as well."""
RAW_NAME = r"([1-8]?\d{1,15})\.png"

PLACE_COLUMNS = ("timestamp", "latitude", "longitude", "altitude", "northing", "easting")
SIGMA_COLUMNS = ("latitude_sigma", "longitude_sigma", "altitude_sigma")
VELOCITY_COLUMNS = ("velocity_north", "velocity_east", "velocity_down")
POSE_COLUMNS = ("x", "y", "z", "roll", "pitch", "yaw")
INS_COLUMNS = (*PLACE_COLUMNS, *VELOCITY_COLUMNS, *POSE_COLUMNS[3:])

LEVEL_OVER_M = 25.0
"""Of 25, 50, 100 and 200 m the one with roll and pitch nearest to the INS's on the loop runs."""

MAX_SIDEWAYS_M_PER_S = 3.0
"""The camera, 2 m ahead of the rear axle, reaches 1.3 m/s in the sharpest turns."""

GOOD = "INS_SOLUTION_GOOD"
NOT_ALIGNED = ("INS_INACTIVE", "INS_ALIGNING")

EXTRINSICS = {
    "ins": (-1.7132, 0.1181, 1.1948, -0.0125, 0.0400, 0.0050),
    "lms_front": (1.7589, 0.2268, 1.0411, -0.0437, -1.4572, 0.0356),
    "lms_rear": (-2.5850, 0.2852, 1.0885, -2.8405, -1.5090, -0.3614),
    "ldmrs": (1.5349, 0.0090, 1.3777, 0.0205, 0.0767, -0.0299),
    "velodyne_left": (-0.60072, -0.34077, -0.26837, -0.0053948, -0.041998, -3.1337),
    "velodyne_right": (-0.61153, 0.55676, -0.27023, 0.0027052, -0.041999, -3.1357),
}
"""Where the sensors are, should the drive lack extrinsics/: x y z (m), roll pitch yaw (rad)."""


@dataclass(frozen=True)
class Ins:
    """Rows of ins.csv or rtk.csv: the INS frame (x forward, y right, z down) in the world.

    Attributes:
        t_ns: (N,) strictly increasing.
        good: (N,) False where the status says that the solution is doubtful.
        aligned: (N,) False where the status says that there is no attitude yet.
        latitude, longitude, altitude: (N,) degrees WGS 84, metres.
        velocity: (N, 3) m/s north, east, down.
        rpy: (N, 3) roll, pitch, yaw in radians; yaw clockwise from true north.
    """

    t_ns: Times
    good: NDArray[np.bool_]
    aligned: NDArray[np.bool_]
    latitude: Array
    longitude: Array
    altitude: Array
    velocity: Array
    rpy: Array


@dataclass(frozen=True)
class Gps:
    """Rows of gps.csv.

    Attributes:
        t_ns: (N,) strictly increasing.
        latitude, longitude, altitude: (N,) degrees WGS 84, metres.
        sigma: (N, 3) standard deviations of the three, in metres.
    """

    t_ns: Times
    latitude: Array
    longitude: Array
    altitude: Array
    sigma: Array


@dataclass(frozen=True)
class Vo:
    """Rows of vo.csv: visual odometry from one stereo frame to the next.

    Attributes:
        older_ns, newer_ns: (N,) times of the two frames (the file names the newer one "source").
        motion: (N, 4, 4) pose of the newer vehicle frame in the older one (x forward, y left,
            z up).
    """

    older_ns: Times
    newer_ns: Times
    motion: Array


@dataclass(frozen=True)
class RobotCarScans:
    """The scans of one or more LiDARs of a run, merged in the order of time.

    Attributes:
        run: The run's folder.
        sensors: Names of the sensors, which are those of their folders.
        t_ns: (S,) time of each scan; a file's name is its time in microseconds.
        which: (S,) int8, index into ``sensors``.
        mounts: (K, 4, 4) sensor -> vehicle frame.
        raw: For each of the K sensors, whether its scans are raw PNGs: only they tell when a point
            was measured.
        labelled: Whether a folder ``<sensor>_labels`` tells what each point hit, as simulated
            drives have it.
    """

    run: Node
    sensors: tuple[str, ...]
    t_ns: Times
    which: NDArray[np.int8]
    mounts: Array
    raw: tuple[bool, ...]
    labelled: bool

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive); see ``ScanSource``."""
        t_ns, which = self.t_ns[start:stop], self.which[start:stop]
        folders = [self.run / sensor for sensor in self.sensors]
        clouds: list[NDArray[np.floating]] = []
        when: list[NDArray[np.float32] | None] = []
        for t, k in zip(t_ns.tolist(), which.tolist(), strict=True):
            if self.raw[k]:
                cloud, measured = _read_raw(folders[k], t // 1000)
            else:
                cloud, measured = _read_scan(folders[k], f"{t // 1000}.bin", self.sensors[k]), None
            clouds.append(cloud)
            when.append(measured)
        labels = None
        if self.labelled:
            labels = [
                _read_labels(self.run / f"{self.sensors[k]}_labels", f"{t // 1000}.label", cloud)
                for t, k, cloud in zip(t_ns.tolist(), which.tolist(), clouds, strict=True)
            ]
        seconds = None
        if any(self.raw):
            seconds = [
                np.zeros(len(cloud), np.float32) if measured is None else measured
                for cloud, measured in zip(clouds, when, strict=True)
            ]
        return scan_block(t_ns, clouds, self.mounts, which, seconds, labels)


def is_robotcar(path: Node) -> bool:
    """Whether ``path`` looks like a run: a folder with a LiDAR's scans."""
    return any((path / sensor).is_dir() for sensor in SENSORS)


def open_robotcar(path: Node, sensors: tuple[str, ...] | None = None) -> Drive:
    """Open a run of Oxford RobotCar, or a simulated one.

    Args:
        path: The run's folder, such as 2014-06-26-09-24-58.
        sensors: Some of ``SENSORS``; by default both LMS, else the Velodynes, else the LD-MRS.

    Raises:
        MaptileError: There are no scans, a sensor is unknown or absent, or a file is damaged.
    """
    notes: list[str] = []
    # A sensor named twice would give every scan twice.
    scans = _open_scans(path, tuple(dict.fromkeys(sensors or _default_sensors(path))), notes)
    ins_file, rtk_file, vo_file = path / "gps/ins.csv", path / "gps/rtk.csv", path / "vo/vo.csv"
    lever = find_extrinsics(path, "ins")
    ins = read_ins(ins_file) if ins_file.is_file() else None
    rtk = read_ins(rtk_file) if rtk_file.is_file() else None
    if rtk is not None:
        rtk = _straighten_rtk(rtk, ins, notes)
    odometry = None
    if vo_file.is_file():
        odometry = odometry_from_vo(read_vo(vo_file), notes)
    else:
        notes.append(f"no odometry: {vo_file} is missing")
    heading_source = ins if ins is not None else rtk
    truth_source = rtk if rtk is not None else ins
    return Drive(
        name=path.resolve().name,
        format="robotcar",
        scans=scans,
        odometry=odometry,
        heading=None if heading_source is None else _heading(heading_source, lever),
        truth=None if truth_source is None else _truth(truth_source, lever, notes),
        notes=tuple(notes),
        labels="simulated" if scans.labelled else None,
    )


# --- files ---------------------------------------------------------------------------------------


def read_ins(path: Node) -> Ins:
    """Read ins.csv (15 columns) or rtk.csv (14: it has no status).

    Raises:
        MaptileError: The file cannot be read or lacks a column.
    """
    text = ["ins_status"] if "ins_status" in read_header(path) else []
    rows = read_table(path, INS_COLUMNS, text=[*text, "utm_zone"])
    latitude, longitude = _refine(rows)
    # rtk.csv, post-processed, has no status.
    status = rows.get("ins_status", np.full(len(latitude), GOOD, object))
    t_ns = _nanoseconds(path, rows["timestamp"])
    keep = increasing(t_ns)
    return Ins(
        t_ns=t_ns[keep],
        good=(status == GOOD)[keep],
        aligned=~np.isin(status.astype(str), NOT_ALIGNED)[keep],
        latitude=latitude[keep],
        longitude=longitude[keep],
        altitude=rows["altitude"][keep],
        velocity=_stack(rows, VELOCITY_COLUMNS)[keep],
        rpy=_stack(rows, POSE_COLUMNS[3:])[keep],
    )


def read_gps(path: Node) -> Gps:
    """Read gps.csv.

    Raises:
        MaptileError: The file cannot be read or lacks a column.
    """
    rows = read_table(path, [*PLACE_COLUMNS, *SIGMA_COLUMNS], text=["utm_zone"])
    latitude, longitude = _refine(rows)
    t_ns = _nanoseconds(path, rows["timestamp"])
    keep = increasing(t_ns)
    return Gps(
        t_ns=t_ns[keep],
        latitude=latitude[keep],
        longitude=longitude[keep],
        altitude=rows["altitude"][keep],
        sigma=_stack(rows, SIGMA_COLUMNS)[keep],
    )


def read_vo(path: Node) -> Vo:
    """Read vo.csv, rows in the order of time; rows that do not go forward in time are left out.

    Raises:
        MaptileError: The file cannot be read, lacks a column, or no row goes forward in time.
    """
    rows = read_table(path, ["source_timestamp", "destination_timestamp", *POSE_COLUMNS])
    newer = _nanoseconds(path, rows["source_timestamp"])
    older = _nanoseconds(path, rows["destination_timestamp"])
    order = np.argsort(newer, kind="stable")
    order = order[(newer > older)[order]]
    order = order[increasing(newer[order])]
    if not len(order):
        raise MaptileError(f"{path}: no row whose source frame is the newer one")
    motion = se3_from_xyzrpy(_stack(rows, POSE_COLUMNS)[order])
    return Vo(older[order], newer[order], NED_TO_FLU @ motion @ NED_TO_FLU)


def read_timestamps(path: Node) -> Times:
    """(N,) int64 nanoseconds of ``<sensor>.timestamps``: lines of microseconds and a chunk number.

    Raises:
        MaptileError: A line does not begin with an integer.
    """
    try:
        lines = path.read_text(encoding="ascii").split("\n")
        stamps = np.array([int(line.split()[0]) for line in lines if line.strip()], np.int64)
    except (OSError, ValueError, OverflowError):
        raise MaptileError(f"{path}: not a list of time stamps in microseconds") from None
    return _nanoseconds(path, stamps)


def read_extrinsics(path: Node) -> Array:
    """(4, 4) sensor -> vehicle frame (x forward, y left, z up) of ``extrinsics/<sensor>.txt``.

    The sensor's own axes stay as they are.

    Raises:
        MaptileError: The file does not hold six finite numbers.
    """
    try:
        values = [float(value) for value in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        values = []
    if len(values) != 6 or not np.isfinite(values).all():
        raise MaptileError(f"{path}: expected the six numbers x y z roll pitch yaw")
    return NED_TO_FLU @ se3_from_xyzrpy(values)


def find_extrinsics(run: Node, sensor: str) -> Array:
    """(4, 4) sensor -> vehicle frame: RUN/extrinsics, RUN/../extrinsics, else the data set's own.

    Raises:
        MaptileError: A file is there, but damaged.
    """
    for folder in (run, *beside(run)):
        file = folder / "extrinsics" / f"{sensor}.txt"
        if file.is_file():
            return read_extrinsics(file)
    return NED_TO_FLU @ se3_from_xyzrpy(EXTRINSICS[sensor])


# --- scans ---------------------------------------------------------------------------------------


def _default_sensors(path: Node) -> tuple[str, ...]:
    for family in (LMS, VELODYNES, ("ldmrs",)):
        found = tuple(sensor for sensor in family if (path / sensor).is_dir())
        if found:
            return found
    raise MaptileError(f"{path}: no scans; looked for the folders {', '.join(SENSORS)}")


def _open_scans(path: Node, sensors: tuple[str, ...], notes: list[str]) -> RobotCarScans:
    times, raw = [], []
    for sensor in sensors:
        if sensor not in SENSORS:
            raise MaptileError(f"{path}: no sensor {sensor}; known are {', '.join(SENSORS)}")
        if not (path / sensor).is_dir():
            raise MaptileError(f"{path}: no folder {sensor} with scans of that sensor")
        files = file_numbers(path / sensor, SCAN_NAME)
        raw.append(not len(files) and sensor in VELODYNES)
        if raw[-1]:
            files = _raw_scans(path / sensor, notes)
        _compare_list(path, sensor, files * 1000, notes)
        times.append(files * 1000)
    t_ns = np.concatenate(times)
    which = np.repeat(np.arange(len(sensors), dtype=np.int8), [len(t) for t in times])
    order = np.argsort(t_ns, kind="stable")
    if not len(order):
        raise MaptileError(
            f"{path}: no scan (<time in microseconds>.bin or .png) in {', '.join(sensors)}"
        )
    mounts = np.stack([find_extrinsics(path, sensor) for sensor in sensors])
    labelled = all((path / f"{sensor}_labels").is_dir() for sensor in sensors)
    return RobotCarScans(path, sensors, t_ns[order], which[order], mounts, tuple(raw), labelled)


def _raw_scans(folder: Node, notes: list[str]) -> NDArray[np.int64]:
    """Sorted microseconds of the raw scans in a folder."""
    files = file_numbers(folder, RAW_NAME)
    if len(files) and not _read_raw(folder, files[0])[1].any():
        notes.append(
            f"{folder.name}: the times in the raw scans are not near those of their names, so the "
            "vehicle's motion during a scan is not undone"
        )
    return files


def _compare_list(path: Node, sensor: str, files: Times, notes: list[str]) -> None:
    """The files are what there is; their names are their times. The list only tells what lacks."""
    listing = path / f"{sensor}.timestamps"
    if not listing.is_file():
        notes.append(f"{sensor}: no {listing.name}; the file names are the times")
        return
    listed = read_timestamps(listing)
    lacking = len(np.setdiff1d(listed, files))
    unlisted = len(np.setdiff1d(files, listed))
    if lacking:
        notes.append(f"{sensor}: {lacking} of {len(listed)} scans listed are not there")
    if unlisted:
        notes.append(
            f"{sensor}: {unlisted} scans are not listed in {listing.name}; used all the same"
        )


def _read_scan(folder: Node, name: str, sensor: str) -> NDArray[np.floating]:
    """(N, 3) points in the sensor's frame, or (N, 2) in its plane."""
    if sensor in VELODYNES:  # float32, all x, then all y, all z, all intensities
        return np.frombuffer(read_records(folder, name, 16), "<f4").reshape(4, -1)[:3].T
    rows = np.frombuffer(read_records(folder, name, 24), "<f8").reshape(-1, 3)
    return rows[:, :2] if sensor in LMS else rows  # the LMS's third number is the reflectance


def _read_raw(folder: Node, microseconds: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, 3) points of a raw scan in the sensor's frame, and (N,) seconds from its time."""
    name = f"{microseconds}.png"
    try:
        return decode_scan(read_bytes(folder, name), microseconds)
    except ValueError as error:
        raise MaptileError(
            f"{folder / name}: not readable as a raw scan ({error}); copy or download it again"
        ) from None


def _read_labels(
    folder: Node, name: str, cloud: NDArray[np.floating]
) -> NDArray[np.unsignedinteger]:
    """(N,) labels, one for each point of ``cloud``."""
    labels = np.frombuffer(read_records(folder, name, 4), "<u4")
    if len(labels) != len(cloud):
        raise MaptileError(
            f"{folder / name}: {len(labels)} labels for {len(cloud)} points; "
            "remove the folder, or simulate the drive again"
        )
    return labels


# --- tracks --------------------------------------------------------------------------------------


def odometry_from_vo(vo: Vo, notes: list[str]) -> PoseTrack:
    """Chain visual odometry into a track whose z is up.

    A gap of up to two seconds is bridged with the mean velocity and turn of the rows beside it;
    after a longer one a new segment begins. A row that makes a car jump sideways (something else
    filled the picture) counts as a gap. Chained as it is, the attitude drifts by 10 to 20 degrees
    within kilometres; so roll and pitch are drawn back, over ``LEVEL_OVER_M`` metres, to those that
    let the vehicle travel in the plane (the camera looks down by 2 to 3 degrees).

    Args:
        vo: Rows in the order of time.
        notes: What was done about gaps is added here.

    Raises:
        MaptileError: Every row jumps.
    """
    rate = _twist_rate(vo)
    jumps = np.abs(rate[:, 1]) > MAX_SIDEWAYS_M_PER_S
    if jumps.all():
        raise MaptileError("vo.csv: every row jumps sideways; x is to be forward, in metres")
    if jumps.any():
        notes.append(f"vo.csv: {jumps.sum()} rows jump sideways; left out")
        vo = Vo(vo.older_ns[~jumps], vo.newer_ns[~jumps], vo.motion[~jumps])
        rate = rate[~jumps]
    level = _level_attitude(vo.motion)
    up = level[2]
    attitude, position, t = level, np.zeros(3), int(vo.older_ns[0])
    track = [(t, attitude, position, 0)]
    bridged = lost = 0
    for i, motion in enumerate(vo.motion):
        gap = int(vo.older_ns[i]) - t
        if gap < 0:  # overlaps the row before
            continue
        if gap > MAX_BRIDGED_GAP_NS:
            lost += 1
        elif gap > 0:
            step = 0.5 * (rate[i - 1] + rate[i]) * (gap / 1e9)
            half = Rotation.from_rotvec(0.5 * (step[3:] @ up) * up).as_matrix()
            position = position + attitude @ half @ step[:3]
            attitude = attitude @ half @ half
            bridged += 1
        if gap > 0:
            track.append((int(vo.older_ns[i]), attitude, position, lost))
        position = position + attitude @ motion[:3, 3]
        attitude = _draw_level(attitude @ motion[:3, :3], up, math.hypot(*motion[:3, 3]))
        t = int(vo.newer_ns[i])
        track.append((t, attitude, position, lost))
    if bridged:
        notes.append(f"vo.csv: {bridged} gaps of up to 2 s bridged with the velocity beside them")
    if lost:
        notes.append(f"vo.csv: {lost} gaps of more than 2 s; the odometry has {lost + 1} pieces")
    times, attitudes, positions, segments = zip(*track, strict=True)
    poses = se3(Rotation.from_matrix(np.stack(attitudes)), np.stack(positions))
    return PoseTrack(np.array(times, np.int64), poses, np.array(segments, np.int32))


def _twist_rate(vo: Vo) -> Array:
    """(N, 6) velocity (m/s) and turn rate (rad/s) of each row, in the vehicle frame halfway."""
    turn = Rotation.from_matrix(vo.motion[:, :3, :3]).as_rotvec()
    travel = Rotation.from_rotvec(-0.5 * turn).apply(vo.motion[:, :3, 3])
    seconds = (vo.newer_ns - vo.older_ns) / 1e9
    return np.concatenate([travel, turn], axis=1) / seconds[:, None]


def _level_attitude(motion: Array) -> Array:
    """(3, 3) attitude whose pitch makes the usual direction of travel level."""
    moving = np.abs(motion[:, 0, 3]) > 0.1
    if not moving.any():
        return np.eye(3)
    pitch = np.median(np.arctan(motion[moving, 2, 3] / motion[moving, 0, 3]))
    return Rotation.from_euler("y", pitch).as_matrix()


def _draw_level(attitude: Array, up: Array, metres: float) -> Array:
    """Turn ``attitude`` about a horizontal axis, so that ``up`` of the vehicle points more up."""
    x, y, _ = attitude @ up
    tilt = math.hypot(x, y)
    if tilt < 1e-9:
        return attitude
    angle = math.asin(min(tilt, 1.0)) * (1 - math.exp(-metres / LEVEL_OVER_M))
    c, s, ax, ay = math.cos(angle), math.sin(angle), y / tilt, -x / tilt
    turn = np.array(
        [
            [c + ax * ax * (1 - c), ax * ay * (1 - c), ay * s],
            [ax * ay * (1 - c), c + ay * ay * (1 - c), -ax * s],
            [-ay * s, ax * s, c],
        ]
    )
    return turn @ attitude


def _vehicle_in_ned(ins: Ins, lever: Array) -> Array:
    """(N, 4, 4) vehicle frame (x forward, y left, z up) relative to the INS's place, axes NED."""
    attitude = se3_from_xyzrpy(np.concatenate([np.zeros_like(ins.rpy), ins.rpy], axis=1))
    return attitude @ se3_inverse(lever)


def _yaw(vehicle: Array) -> Array:
    return np.arctan2(vehicle[:, 1, 0], vehicle[:, 0, 0])


def _heading(ins: Ins, lever: Array) -> HeadingTrack | None:
    heading = true_heading_from_ins_yaw(_yaw(_vehicle_in_ned(ins, lever)))[ins.aligned]
    return HeadingTrack(ins.t_ns[ins.aligned], heading) if len(heading) else None


def _truth(ins: Ins, lever: Array, notes: list[str]) -> TruthTrack | None:
    good = ins.good
    if not good.all():
        notes.append(
            f"truth: {np.mean(~good):.1%} of the INS rows are not INS_SOLUTION_GOOD; left out"
        )
    if not good.any():
        return None
    vehicle = _vehicle_in_ned(ins, lever)
    north, east = vehicle[:, 0, 3], vehicle[:, 1, 3]
    longitude, latitude, _ = pyproj.Geod(ellps="WGS84").fwd(
        ins.longitude, ins.latitude, np.degrees(np.arctan2(east, north)), np.hypot(east, north)
    )
    heading = true_heading_from_ins_yaw(_yaw(vehicle))
    return TruthTrack(
        ins.t_ns[good], np.asarray(latitude)[good], np.asarray(longitude)[good], heading[good]
    )


def _straighten_rtk(rtk: Ins, ins: Ins | None, notes: list[str]) -> Ins:
    """Turn the RTK's yaw by the multiple of 90 degrees that makes it point along the motion.

    Where the vehicle never moves, the INS tells.
    """
    course, known = _course(rtk)
    if not known.any() and ins is not None:
        course = interpolate_angle(ins.t_ns, ins.rpy[:, 2], rtk.t_ns)
        known = np.ones(len(course), bool)
    if not known.any():
        notes.append("rtk.csv: the vehicle never moves, so its yaw could not be checked")
        return rtk
    off = rtk.rpy[known, 2] - course[known]
    mean = np.arctan2(np.median(np.sin(off)), np.median(np.cos(off)))
    turn = np.round(mean / (np.pi / 2)) * (np.pi / 2)
    if turn:
        notes.append(f"rtk.csv: yaw is {np.degrees(turn):.0f} degrees off the motion; corrected")
    rpy = np.column_stack([rtk.rpy[:, :2], wrap_angle(rtk.rpy[:, 2] - turn)])
    return replace(rtk, rpy=rpy)


def _course(ins: Ins) -> tuple[Array, NDArray[np.bool_]]:
    """(N,) direction of travel (radians clockwise from north) from positions, and where it is one.

    From positions, because the axes of the RTK file's velocities are as doubtful as its yaw.
    """
    seconds = (ins.t_ns - ins.t_ns[0]) / 1e9
    place = np.stack([ins.latitude, ins.longitude * np.cos(np.radians(ins.latitude))]) * 111_320.0
    north, east = (
        np.interp(seconds + 0.5, seconds, metres) - np.interp(seconds - 0.5, seconds, metres)
        for metres in place
    )
    return np.arctan2(east, north), np.hypot(north, east) > 2.0


# --- helpers -------------------------------------------------------------------------------------


def _nanoseconds(path: Node, microseconds: NDArray[np.int64]) -> Times:
    if len(microseconds) and np.abs(microseconds).max() >= 2**63 // 1000:
        raise MaptileError(f"{path}: the time stamps are not in microseconds")
    return microseconds * 1000


def _stack(rows: dict[str, Array], names: Sequence[str]) -> Array:
    return np.stack([rows[name] for name in names], axis=1)


def _refine(rows: dict[str, NDArray[np.generic]]) -> tuple[Array, Array]:
    """Latitude and longitude, from the UTM columns where both agree.

    The files give latitude and longitude to 0.11 m, northing and easting to a micrometre.
    """
    latitude, longitude = rows["latitude"].astype(np.float64), rows["longitude"].astype(np.float64)
    zone = re.fullmatch(r"(\d{1,2})([C-X])", str(rows["utm_zone"][0]).strip())
    if zone is None or len(set(rows["utm_zone"])) > 1 or not 1 <= int(zone[1]) <= 60:
        return latitude, longitude
    crs = pyproj.CRS.from_epsg((32600 if zone[2] >= "N" else 32700) + int(zone[1]))
    fine_lon, fine_lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(
        rows["easting"], rows["northing"]
    )
    agree = (np.abs(fine_lat - latitude) < 2e-6) & (np.abs(fine_lon - longitude) < 2e-6)
    return np.where(agree, fine_lat, latitude), np.where(agree, fine_lon, longitude)
