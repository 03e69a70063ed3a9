"""Oxford RobotCar, Oxford Radar RobotCar and simulated drives in their layout.

A run is a folder such as 2014-06-26-09-24-58 with a folder of scans per LiDAR, and gps/, vo/ and
extrinsics/ as the data set's archives unpack. Everything that leaves this module is in the vehicle
frame of the stereo camera, x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.counted import counted
from data_prep.drive import Drive, GnssTrack, ScanBlock, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.sources import Source
from data_prep.sources.formats.common import (
    file_numbers,
    read_bytes,
    read_records,
    said_of_rows,
    scan_block,
)
from data_prep.sources.formats.robotcar_tables import (
    find_extrinsics,
    read_gps,
    read_ins,
    read_timestamps,
    read_vo,
)
from data_prep.sources.formats.robotcar_tracks import (
    heading_from_ins,
    odometry_from_vo,
    straighten_rtk,
    truth_from_ins,
)
from data_prep.sources.formats.velodyne_png import decode_scan
from data_prep.sources.storage.tree import Node

LMS = ("lms_front", "lms_rear")
"""The 2D LiDARs (SICK LMS-151)."""

VELODYNES = ("velodyne_left", "velodyne_right")
"""The 3D LiDARs of Oxford Radar RobotCar (Velodyne HDL-32E)."""

SENSORS = (*LMS, *VELODYNES, "ldmrs")
"""All LiDARs; each has a folder of its name in the run."""

SCAN_NAME = r"([1-8]?\d{1,15})\.bin"
"""Name of a scan: its time in microseconds, small enough for int64 nanoseconds."""

RAW_NAME = r"([1-8]?\d{1,15})\.png"
"""Name of a raw Velodyne scan."""


@dataclass(frozen=True)
class RobotCarScans:
    """The scans of one or more LiDARs of a run, merged in the order of time.

    Attributes:
        run: The run's folder.
        sensors: Names of the K sensors, which are those of their folders.
        t_ns: (S,) time of each scan, from the name of its file.
        which: (S,) int8, index into ``sensors``.
        mounts: (K, 4, 4) sensor -> vehicle frame.
        raw: For each of the K sensors, whether its scans are raw PNGs, which have a time for each
            point.
        labelled: Whether a folder ``<sensor>_labels`` holds the class of each point, as in
            simulated drives.
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
    """Return whether ``path`` is a run: it has a folder of a LiDAR's scans."""
    return any((path / sensor).is_dir() for sensor in SENSORS)


def open_robotcar(path: Node, sensors: tuple[str, ...] | None = None) -> Drive:
    """Open a run of Oxford RobotCar, or a simulated one.

    Odometry is vo/vo.csv; heading is gps/ins.csv, else gps/rtk.csv; GNSS is gps/gps.csv; truth is
    gps/rtk.csv, else gps/ins.csv.

    Args:
        path: The run's folder, such as 2014-06-26-09-24-58.
        sensors: Some of ``SENSORS``; by default both LMS, else the Velodynes, else the LD-MRS.

    Raises:
        MaptileError: There are no scans, a sensor has no folder, or a file is damaged.
    """
    notes: list[str] = []
    # A sensor that is named twice is used once.
    scans = _open_scans(path, tuple(dict.fromkeys(sensors or _default_sensors(path))), notes)
    ins_file, rtk_file, vo_file = path / "gps/ins.csv", path / "gps/rtk.csv", path / "vo/vo.csv"
    lever = find_extrinsics(path, "ins")
    ins = read_ins(ins_file) if ins_file.is_file() else None
    rtk = read_ins(rtk_file) if rtk_file.is_file() else None
    for file, table in ((ins_file, ins), (rtk_file, rtk)):
        if table is not None:
            count = len(table.t_ns)
            notes += said_of_rows(file.name, count + table.left_out, count)
    if rtk is not None:
        rtk = straighten_rtk(rtk, ins, notes)
    odometry = None
    if vo_file.is_file():
        vo = read_vo(vo_file)
        notes += said_of_rows(vo_file.name, len(vo.newer_ns) + vo.left_out, len(vo.newer_ns))
        odometry = odometry_from_vo(vo, notes)
    else:
        notes.append(f"no odometry: {vo_file} is missing")
    heading_source = ins if ins is not None else rtk
    truth_source = rtk if rtk is not None else ins
    return Drive(
        name=path.resolve().name,
        format="robotcar",
        scans=scans,
        odometry=odometry,
        heading=None if heading_source is None else heading_from_ins(heading_source, lever),
        truth=None if truth_source is None else truth_from_ins(truth_source, lever, notes),
        gnss=_gnss(path / "gps/gps.csv", notes),
        notes=tuple(notes),
        labels="simulated" if scans.labelled else None,
    )


SOURCE = Source(
    looked_for=f"RobotCar run (a folder {' or '.join(SENSORS)})",
    recognises=is_robotcar,
    open=open_robotcar,
    priority=10,
    sensors=SENSORS,
)


def _gnss(path: Node, notes: list[str]) -> GnssTrack | None:
    """The positions in gps.csv; None where it is missing, or damaged, which a note says."""
    if not path.is_file():
        return None
    try:
        gps = read_gps(path)
    except MaptileError as error:
        notes.append(f"no GNSS: {error}")
        return None
    notes += said_of_rows(path.name, len(gps.t_ns) + gps.left_out, len(gps.t_ns))
    std_m = np.sqrt(np.square(gps.sigma[:, :2]).mean(axis=1))
    return GnssTrack(gps.t_ns, gps.latitude, gps.longitude, np.where(std_m > 0, std_m, np.nan))


def _default_sensors(path: Node) -> tuple[str, ...]:
    for family in (LMS, VELODYNES, ("ldmrs",)):
        found = tuple(sensor for sensor in family if (path / sensor).is_dir())
        if found:
            return found
    raise MaptileError(f"{path}: no scans; looked for the folders {', '.join(SENSORS)}")


def _open_scans(path: Node, sensors: tuple[str, ...], notes: list[str]) -> RobotCarScans:
    times, raw = [], []
    for sensor in sensors:
        if not (path / sensor).is_dir():
            raise MaptileError(f"{path}: no folder {sensor} with scans of that sensor")
        files = file_numbers(path / sensor, SCAN_NAME)
        raw.append(not len(files) and sensor in VELODYNES)
        if raw[-1]:
            files = _raw_scans(path / sensor, notes)
        _compare_with_list(path, sensor, files * 1000, notes)
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
    """Sorted times, microseconds, of the raw scans in a folder."""
    files = file_numbers(folder, RAW_NAME)
    if len(files) and not _read_raw(folder, files[0])[1].any():
        notes.append(
            f"{folder.name}: the times inside the raw scans do not fit the names of their files, "
            "so the scans are not motion-compensated"
        )
    return files


def _compare_with_list(path: Node, sensor: str, files: Times, notes: list[str]) -> None:
    """Note where the files of a sensor differ from its list of scans; the files are used."""
    listing = path / f"{sensor}.timestamps"
    if not listing.is_file():
        notes.append(f"{sensor}: no {listing.name}; the times are those of the file names")
        return
    listed = read_timestamps(listing)
    missing = len(np.setdiff1d(listed, files))
    unlisted = len(np.setdiff1d(files, listed))
    if missing:
        notes.append(f"{sensor}: {missing} of the {len(listed)} scans listed are missing")
    if unlisted:
        notes.append(
            f"{sensor}: {counted(unlisted, 'scan')} used that {listing.name} does not list"
        )


def _read_scan(folder: Node, name: str, sensor: str) -> NDArray[np.floating]:
    """(N, 3) points in the sensor's frame, or (N, 2) in the scan plane of an LMS, metres."""
    if sensor in VELODYNES:  # float32: all x, then all y, all z, all intensities
        return np.frombuffer(read_records(folder, name, 16), "<f4").reshape(4, -1)[:3].T
    rows = np.frombuffer(read_records(folder, name, 24), "<f8").reshape(-1, 3)
    return rows[:, :2] if sensor in LMS else rows  # the LMS's third number is the reflectance


def _read_raw(folder: Node, microseconds: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, 3) points of a raw scan in the sensor's frame, and (N,) seconds relative to its time."""
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
