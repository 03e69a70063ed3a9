"""Generic drive: a folder of point clouds, with optional odometry, heading and truth.

``clouds/*.{ply,pcd,bin,las,laz,e57}`` are in the sensor's frame (x forward, y left, z up), which is
the vehicle frame here; without ``clouds/``, they lie in the folder itself. The time of a cloud is,
in this order of preference:

1. its row in ``timestamps.csv`` (file, t_ns);
2. its name, where all names are times (``file_times``), such as 1317384506407123456.ply;
3. the odometry's row of the same index, where there are as many rows as clouds.

Without any of these, the clouds have nothing to do with each other: each is localized by itself.

Optional files are ``odometry.tum`` (seconds x y z qx qy qz qw) or ``odometry.csv`` (t_ns, x, y, z,
qx, qy, qz, qw), ``heading.csv`` (t_ns and heading or heading_deg, counter-clockwise from true
east), ``gnss.csv`` (t_ns, latitude, longitude, std_m) or a log of NMEA sentences (``*.nmea``), and
``truth.csv`` (t_ns, latitude, longitude and heading or heading_deg).

Points may have labels (``cloud_labels``) and times (``pointfiles``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.counted import counted
from data_prep.drive import Drive, HeadingTrack, PoseTrack, ScanBlock, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from data_prep.sources import Source
from data_prep.sources.formats.cloud_labels import CloudLabels, find_labels
from data_prep.sources.formats.common import (
    file_names,
    in_time,
    read_header,
    read_table,
    said_of_rows,
    scan_block,
    unbridged,
)
from data_prep.sources.formats.gnss_files import check_degrees, find_gnss
from data_prep.sources.formats.tum import pose_track, read_tum
from data_prep.sources.points.bin_layout import Layout
from data_prep.sources.points.file_times import times_in_names
from data_prep.sources.points.pointfiles import (
    Cloud,
    layout_of_files,
    read_cloud,
    said_of_thinning,
)
from data_prep.sources.storage.tree import Node

SUFFIXES = (".ply", ".pcd", ".bin", ".las", ".laz", ".e57")
"""Suffixes of point clouds, in lower case."""

SENSORS = ("clouds",)
"""Names of the sensors of a generic drive."""

POSE_COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw")
"""Columns of a pose in odometry.csv."""

APART = (
    "the times of the clouds are unknown: each is localized by itself; for a drive, name the "
    "clouds by their times, or add timestamps.csv (file,t_ns)"
)
"""Note of a drive whose clouds have no times."""

UPRIGHT = np.diag([-1.0, 1.0, -1.0, 1.0])
"""(4, 4) the frame of Radar RobotCar's LiDARs, x backward and z down -> x forward, z up."""

TURNED = "blocks of columns, as in Radar RobotCar, whose z is down: the clouds are turned upright"
"""Note of clouds in that layout."""

_MAX_RANGE_M = 1000.0
"""Largest median distance of a cloud's points from its sensor, metres."""

_MIN_TRAVEL_M = 200.0
"""Shortest distance from the start at which points around sensor and start are distinguished."""

_MAX_OFFSET_RATIO = 0.3
"""Points lie around a position if their median is nearer to it than this ratio of its distance."""

_LARGEST_RADIANS = 4 * np.pi
"""Larger headings are no radians."""

_SAMPLES = 3
"""Number of clouds that are read when a drive is opened."""

_LAYOUT_SAMPLES = 5
"""Number of .bin files by which the layout of all is decided."""


@dataclass(frozen=True)
class CloudScans:
    """Point clouds sorted by time.

    Attributes:
        folder: The folder clouds/.
        files: S file names.
        t_ns: (S,) time of each cloud.
        labels: The source of their labels.
        timed: Whether points have times; in a cloud without, all are 0.
        layout: The layout of .bin files; None: each by its contents.
        turned: Whether the clouds are in the frame of Radar RobotCar's LiDARs.
        sensors: ("clouds",).
    """

    folder: Node
    files: tuple[str, ...]
    t_ns: Times
    labels: CloudLabels
    timed: bool = False
    layout: Layout | None = None
    turned: bool = False
    sensors: tuple[str, ...] = SENSORS

    def file(self, scan: int) -> Node:
        """The file of one scan."""
        return self.folder / self.files[scan]

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive); see ``ScanSource``."""
        clouds, labels = [], []
        for scan in range(len(self.files))[start:stop]:
            file = self.file(scan)
            cloud = read_cloud(file, int(self.t_ns[scan]), self.layout)
            check_near(file, cloud)
            clouds.append(cloud)
            label = self.labels.of(file, cloud)
            labels += [] if label is None else [label]
        seconds = [
            np.zeros(len(cloud.points), np.float32) if cloud.seconds is None else cloud.seconds
            for cloud in clouds
        ]
        return scan_block(
            self.t_ns[start:stop],
            [cloud.points for cloud in clouds],
            (UPRIGHT if self.turned else np.eye(4))[None],
            np.zeros(len(clouds), np.int8),
            seconds if self.timed else None,
            labels if labels and len(labels) == len(clouds) else None,
        )


def is_clouds(path: Node) -> bool:
    """Return whether ``path`` is a generic drive: it has a folder clouds/."""
    return (path / "clouds").is_dir()


def has_clouds(path: Node) -> bool:
    """Return whether ``path`` is a folder with point clouds in it."""
    return path.is_dir() and any(Path(name).suffix.lower() in SUFFIXES for name in file_names(path))


def open_clouds(path: Node, columns: tuple[str, ...] | None = None) -> Drive:
    """Open a generic drive.

    Args:
        path: The drive's folder.
        columns: Names of the columns of .bin files; None: by their contents.

    Raises:
        MaptileError: There are no clouds, their times or columns are unknown, they are in a map's
            frame or have labels of several tables, or a file is damaged.
    """
    notes: list[str] = []
    odometry = _odometry(path, notes)
    if odometry is None:
        notes.append("no odometry: neither odometry.tum nor odometry.csv exists")
    scans = _open_scans(path, odometry, notes)
    odometry = unbridged(odometry, scans.t_ns, notes)
    layout = _bin_layout(scans, columns)
    turned = odometry is None and layout is not None and layout.blocks
    notes += [TURNED] if turned else []
    scans = replace(scans, layout=layout, turned=turned)
    samples = _read_samples(scans, odometry)
    timed = any(cloud.seconds is not None for _, cloud in samples)
    if timed:
        notes.append("points have times: clouds are motion-compensated")
    notes += next(filter(None, (said_of_thinning(cloud) for _, cloud in samples)), [])
    labels = find_labels(path, scans.files, samples, notes)
    gnss = find_gnss(path, notes)
    return Drive(
        name=path.resolve().name,
        format="clouds",
        scans=replace(scans, labels=labels, timed=timed),
        odometry=odometry,
        heading=_heading(path / "heading.csv", notes),
        truth=_truth(path / "truth.csv", notes),
        notes=tuple(notes),
        labels=labels.table,
        apart=APART in notes,
        gnss=gnss,
    )


SOURCE = Source(
    looked_for="generic drive (clouds/ with .ply, .pcd, .bin, .las, .laz or .e57 files)",
    recognises=is_clouds,
    accepts=has_clouds,
    open=lambda path, _: open_clouds(path),
    open_columns=open_clouds,
    priority=70,
    sensors=SENSORS,
)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names as people count: 2.bin before 10.bin."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _open_scans(path: Node, odometry: PoseTrack | None, notes: list[str]) -> CloudScans:
    folder = path / "clouds"
    if not folder.is_dir() and has_clouds(path):
        folder = path
    if not folder.is_dir():
        raise MaptileError(f"{folder}: no such folder; the point clouds belong there")
    files = [
        name
        for name in sorted(file_names(folder), key=natural)
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not files:
        raise MaptileError(f"{folder}: no point cloud ({', '.join(SUFFIXES)})")
    listing = path / "timestamps.csv"
    if listing.is_file():
        files, t_ns = _listed_times(listing, files, notes)
    else:
        t_ns = _times_without_list(path, files, odometry, notes)
    order = np.argsort(t_ns, kind="stable")
    return CloudScans(folder, tuple(files[i] for i in order), t_ns[order], CloudLabels(None))


def _bin_layout(scans: CloudScans, columns: tuple[str, ...] | None) -> Layout | None:
    """The one layout of the drive's .bin files; None where there are none."""
    bins = [scans.folder / name for name in scans.files if name.lower().endswith(".bin")]
    if not bins:
        return None
    chosen = np.unique(np.linspace(0, len(bins) - 1, _LAYOUT_SAMPLES).astype(int)).tolist()
    return layout_of_files([bins[i] for i in chosen], columns)


def _listed_times(listing: Node, files: list[str], notes: list[str]) -> tuple[list[str], Times]:
    """The files that timestamps.csv lists, and their times."""
    rows = read_table(listing, ["t_ns"], text=["file"])
    times = dict(zip(rows["file"].tolist(), rows["t_ns"].tolist(), strict=True))
    known = [name for name in files if name in times]
    if len(known) < len(files):
        notes.append(f"{counted(len(files) - len(known), 'cloud')} not in timestamps.csv; left out")
    if not known:
        raise MaptileError(f"{listing}: lists none of the files in {listing.parent / 'clouds'}")
    if len(known) < len(times):
        notes.append(f"{len(times) - len(known)} of the {len(times)} clouds listed are missing")
    return known, np.array([times[name] for name in known], np.int64)


def _read_samples(scans: CloudScans, odometry: PoseTrack | None) -> list[tuple[Node, Cloud]]:
    """The readable ones of the first, a middle and the last cloud, with their files."""
    found, error = [], None
    for scan in np.unique(np.linspace(0, len(scans.files) - 1, _SAMPLES).astype(int)).tolist():
        file, t_ns = scans.file(scan), scans.t_ns[scan : scan + 1]
        try:
            cloud = read_cloud(file, int(t_ns[0]), scans.layout)
        except MaptileError as damage:
            error = damage
            continue
        check_near(file, cloud)
        if odometry is not None:
            _check_not_around(file, cloud, odometry.at(t_ns)[0, :3, 3])
        found.append((file, cloud))
    if error is not None and not found:
        raise error
    return found


def check_near(file: Node, cloud: Cloud) -> None:
    """Raise an error where points are too far from the origin of a sensor's frame."""
    some = cloud.points[:: max(1, len(cloud.points) // 1000)]
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.linalg.norm(some.astype(np.float64), axis=1)
    away = away[np.isfinite(away) & (away > 0)]
    if len(away) and np.median(away) > _MAX_RANGE_M:
        observed = f"its points are {np.median(away):.0f} m from 0, 0, 0 (median)"
        finite = some[np.isfinite(some).all(axis=1)].astype(np.float64)
        if np.linalg.norm(np.median(finite, axis=0)) < _MAX_OFFSET_RATIO * np.median(away):
            raise MaptileError(
                f"{file}: {observed}, all around it; are they in centimetres or millimetres? "
                "Expected are metres"
            )
        raise _in_map_frame(file, observed)


def _check_not_around(file: Node, cloud: Cloud, position: Array) -> None:
    """Raise an error where points lie around the odometry's ``position``, not the origin."""
    finite = cloud.points[np.isfinite(cloud.points).all(axis=1)]
    far = np.linalg.norm(position)
    if far < _MIN_TRAVEL_M or not len(finite):
        return
    if np.linalg.norm(np.median(finite, axis=0) - position) < _MAX_OFFSET_RATIO * far:
        raise _in_map_frame(
            file, f"its points lie around the odometry's position, {far:.0f} m from 0, 0, 0"
        )


def _in_map_frame(file: Node, observed: str) -> MaptileError:
    return MaptileError(
        f"{file}: {observed}: clouds must be in the sensor's frame (x forward, y left, z up), not "
        "in a map's. Transform each cloud by points = (points - position) @ rotation, with the "
        "sensor's position and 3x3 rotation (sensor to map) at its time"
    )


def _times_without_list(
    path: Node, files: list[str], odometry: PoseTrack | None, notes: list[str]
) -> Times:
    """The times of clouds by their names, or the odometry; 0, 1, ... seconds if all is unknown."""
    stems = [Path(name).stem for name in files]
    times = times_in_names(stems)
    if times is not None:
        return times
    if odometry is None:
        notes.append(APART)
        return np.arange(len(files), dtype=np.int64) * 1_000_000_000
    if len(odometry.t_ns) == len(files):
        return odometry.t_ns
    raise MaptileError(
        f"{path}: the times of the clouds are unknown; name the clouds by their time in "
        "nanoseconds, or add timestamps.csv (file,t_ns), or an odometry with one row per cloud"
    )


def _odometry(path: Node, notes: list[str]) -> PoseTrack | None:
    tum, table = path / "odometry.tum", path / "odometry.csv"
    if tum.is_file():
        return read_tum(tum, notes)
    if not table.is_file():
        return None
    columns = read_table(table, ["t_ns", *POSE_COLUMNS])
    rows = np.stack([columns[name] for name in POSE_COLUMNS], axis=1)
    return pose_track(table, columns["t_ns"], rows, np.zeros(len(rows), np.int32), notes)


def _heading(path: Node, notes: list[str]) -> HeadingTrack | None:
    if not path.is_file():
        return None
    name = _heading_column(path)
    rows = read_table(path, ["t_ns", name])
    order = in_time(rows["t_ns"])
    notes += said_of_rows(path.name, len(rows["t_ns"]), len(order))
    return HeadingTrack(rows["t_ns"][order], _radians(rows[name], name)[order])


def _truth(path: Node, notes: list[str]) -> TruthTrack | None:
    if not path.is_file():
        return None
    name = _heading_column(path)
    rows = read_table(path, ["t_ns", "latitude", "longitude", name])
    check_degrees(path, rows)
    order = in_time(rows["t_ns"])
    notes += said_of_rows(path.name, len(rows["t_ns"]), len(order))
    return TruthTrack(
        rows["t_ns"][order],
        rows["latitude"][order],
        rows["longitude"][order],
        _radians(rows[name], name)[order],
    )


def _heading_column(path: Node) -> str:
    return "heading_deg" if "heading_deg" in read_header(path) else "heading"


def _radians(values: Array, name: str) -> Array:
    if name.endswith("_deg"):
        return wrap_angle(np.radians(values))
    if np.nanmax(np.abs(values), initial=0.0) > _LARGEST_RADIANS:
        raise MaptileError(
            f"a heading of {np.nanmax(np.abs(values)):g} in the column {name}, which is in "
            "radians; name it heading_deg if it is in degrees"
        )
    return wrap_angle(values)
