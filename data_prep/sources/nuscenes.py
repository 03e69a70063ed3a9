"""nuScenes: a scene, as the data set's archives unpack into one folder ROOT.

A scene has no folder of its own. Its path is ROOT/<name>, such as nuscenes/scene-0061: a name that
does not exist, in the folder that holds the tables (ROOT/v1.0-mini, v1.0-trainval or v1.0-test).

The vehicle frame is the data set's own: x forward, y left, z up, on the ground under the rear axle.
Sweeps are motion-compensated to the time of their last packet (the data set's forum, thread 245),
so that points have no times.

The tables and the origins of the maps are from the data set's devkit
(https://github.com/nutonomy/nuscenes-devkit, Apache-2.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyproj
from numpy.typing import NDArray

from data_prep.drive import Drive, HeadingTrack, ScanBlock, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3_from_quaternion, wrap_angle
from data_prep.sources import Source
from data_prep.sources.formats.common import (
    file_names,
    in_time,
    read_records,
    relative_track,
    said_of_rows,
    scan_block,
)
from data_prep.sources.formats.jsontable import Row, find_rows, read_rows
from data_prep.sources.storage.tree import Node

SENSORS = ("LIDAR_TOP",)
"""Names of the sensors of a scene."""

VERSIONS = ("v1.0-mini", "v1.0-trainval", "v1.0-test")
"""Names of the folders of tables."""

ORIGINS = {
    "boston-seaport": (42.336849169438615, -71.05785369873047),
    "singapore-onenorth": (1.2882100868743724, 103.78475189208984),
    "singapore-hollandvillage": (1.2993652317780957, 103.78217697143555),
    "singapore-queenstown": (1.2782562240223188, 103.76741409301758),
}
"""Latitude and longitude (degrees) of the origin of each map's frame (x east, y north)."""

SPHERE = pyproj.Geod(a=6378137.0, b=6378137.0)
"""The sphere on which the devkit converts map coordinates (export_poses.py)."""

BODY = ((-1.0, 3.6), (-1.0, 1.0))
"""Extent of the car, ahead of the rear axle and to its left, metres; points inside are removed.

The car is a Renault Zoe, 4.08 m by 1.73 m, which the LiDAR on its roof sees."""

_SCENE_NAME = re.compile(r"\w[\w.+-]{0,99}")
"""Name of a scene; file names are made from it."""

_SCAN_FILE = re.compile(r"(samples|sweeps)/LIDAR_TOP/([^/\\]+)")
"""Path of a sweep in sample_data.json."""


@dataclass(frozen=True)
class NuScenesScans:
    """The sweeps of a scene's LiDAR.

    Attributes:
        root: The folder that holds samples/ and sweeps/.
        t_ns: (S,) time of each sweep, increasing.
        files: S pairs of folder and file name.
        mounts: (K, 4, 4) sensor -> vehicle frame.
        which: (S,) int64, index into ``mounts``.
        labels: S file names in ``label_folder``; empty without labels.
        label_folder: lidarseg/<version>.
        sensors: ("LIDAR_TOP",).
    """

    root: Node
    t_ns: Times
    files: tuple[tuple[str, str], ...]
    mounts: Array
    which: NDArray[np.int64]
    labels: tuple[str, ...]
    label_folder: Node
    sensors: tuple[str, ...] = SENSORS

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive), without points on the car itself."""
        files = self.files[start:stop]
        # float32 rows of x, y, z, intensity, ring
        clouds = [
            np.frombuffer(read_records(self.root / folder / "LIDAR_TOP", name, 20), "<f4").reshape(
                -1, 5
            )[:, :3]
            for folder, name in files
        ]
        labels = None
        if self.labels:
            named = zip(self.labels[start:stop], files, clouds, strict=True)
            labels = [self._labels(label, file[1], len(cloud)) for label, file, cloud in named]
        block = scan_block(
            self.t_ns[start:stop], clouds, self.mounts, self.which[start:stop], labels=labels
        )
        return _without_car(block)

    def _labels(self, name: str, scan: str, count: int) -> NDArray[np.uint8]:
        labels = np.frombuffer(read_records(self.label_folder, name, 1), np.uint8)
        if len(labels) != count:
            raise MaptileError(
                f"{self.label_folder / name}: {len(labels)} labels for the {count} points of {scan}"
            )
        return labels


def is_nuscenes(path: Node) -> bool:
    """Return whether ``path`` holds the tables of nuScenes, or names a scene beside them."""
    return _locate(path) is not None


def open_nuscenes(path: Node) -> Drive:
    """Open a scene of nuScenes.

    All existing sweeps of its LiDAR are used, 20 per second; where the scene has labels
    (lidarseg), only the labelled ones are, 2 per second. Odometry is the relative motion of the
    poses; heading and truth are the poses on the map of the scene's log.

    Args:
        path: ROOT/<scene>; or ROOT, where it holds one scene only. ROOT/<version> may stand for
            ROOT.

    Raises:
        MaptileError: There is no such scene, or several and none was named; a table is missing or
            damaged; or all of the scene's sweeps are missing.
    """
    found = _locate(path)
    if found is None:
        raise MaptileError(f"{path}: no tables of nuScenes in it ({', '.join(VERSIONS)})")
    tables, scene = _choose(path, *found)
    notes: list[str] = []
    sweeps, mounts = _read_sweeps(tables, scene["token"])
    t_ns, world = _read_poses(tables / "ego_pose.json", sweeps, notes)
    sweeps = _existing(tables.parent, sweeps, notes)
    labelled = _labelled(tables, sweeps, notes)
    sweeps = labelled or sweeps
    scans = NuScenesScans(
        root=tables.parent,
        t_ns=np.array([sweep.t_ns for sweep in sweeps], np.int64),
        files=tuple((sweep.folder, sweep.name) for sweep in sweeps),
        mounts=np.stack([*mounts.values()]),
        which=np.array([[*mounts].index(sweep.mount) for sweep in sweeps]),
        labels=tuple(_label_file(sweep) for sweep in labelled),
        label_folder=_label_folder(tables),
    )
    log = find_rows(tables / "log.json", "token", {str(scene.get("log_token"))})
    location = str(log[0].get("location")) if log else "unknown"
    heading = truth = None
    if location in ORIGINS:
        heading, truth = _georeference(location, t_ns, world)
    else:
        notes.append(f"no heading and truth: the origin of the map {location} is unknown")
    return Drive(
        name=str(scene["name"]),
        format="nuscenes",
        scans=scans,
        odometry=relative_track(t_ns, world),
        heading=heading,
        truth=truth,
        notes=tuple(notes),
        labels="nuscenes" if scans.labels else None,
    )


SOURCE = Source(
    looked_for="scene of nuScenes (v1.0-mini, v1.0-trainval or v1.0-test, with samples/ and "
    "sweeps/)",
    recognises=is_nuscenes,
    open=lambda path, _: open_nuscenes(path),
    priority=60,
    sensors=SENSORS,
)


# --- choice of the scene -------------------------------------------------------------------------


def _locate(path: Node) -> tuple[tuple[Node, ...], str | None] | None:
    """The folders of tables, and the name of the scene where there is one."""
    found = _tables(path)
    if found:
        return found, None
    found = () if path.is_dir() else _tables(path.parent)
    return (found, path.name) if found else None


def _tables(folder: Node) -> tuple[Node, ...]:
    folders = (folder, *(folder / version for version in VERSIONS))
    return tuple(
        one for one in folders if one.name in VERSIONS and (one / "sample_data.json").is_file()
    )


def _choose(path: Node, tables: Iterable[Node], name: str | None) -> tuple[Node, Row]:
    """The folder of tables that contains the scene, and the scene's row."""
    scenes = {
        _scene_name(file, row): (folder, row)
        for folder in reversed(tuple(tables))
        for file in (folder / "scene.json",)
        for row in read_rows(file)
    }
    names = sorted(scenes)
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    if name is None and len(names) == 1:
        name = names[0]
    if name is None:
        raise MaptileError(f"{path}: name one of its scenes, as in {path}/SCENE: {listed}")
    if name not in scenes:
        raise MaptileError(f"{path}: no scene {name}; there are {listed or 'none'}")
    folder, row = scenes[name]
    _text(folder / "scene.json", row, "token")
    return folder, row


def _scene_name(file: Node, row: Row) -> str:
    """The name of a scene, checked: file names are made from it."""
    name = _text(file, row, "name")
    if _SCENE_NAME.fullmatch(name) is None:
        raise MaptileError(f"{file}: {name[:40]!r} is not a scene's name; copy or unpack it again")
    return name


# --- tables --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sweep:
    """The fields of a row of sample_data.json that are used."""

    t_ns: int
    folder: str
    name: str
    token: str
    pose: str
    mount: str


def _read_sweeps(tables: Node, scene: str) -> tuple[list[_Sweep], dict[str, Array]]:
    """The sweeps of a scene sorted by time, and the (4, 4) mounts that they refer to."""
    sensors = find_rows(tables / "sensor.json", "channel", {"LIDAR_TOP"})
    file = tables / "calibrated_sensor.json"
    tokens = {_text(tables / "sensor.json", row, "token") for row in sensors}
    calibrations = {
        _text(file, row, "token"): row for row in find_rows(file, "sensor_token", tokens)
    }
    file = tables / "sample.json"
    samples = {_text(file, row, "token") for row in find_rows(file, "scene_token", {scene})}
    file = tables / "sample_data.json"
    sweeps = [
        _sweep(file, row)
        for row in find_rows(file, "sample_token", samples)
        if row.get("calibrated_sensor_token") in calibrations
    ]
    if not sweeps:
        raise MaptileError(f"{file}: no LIDAR_TOP in the scene; copy or unpack the tables again")
    used = sorted({sweep.mount for sweep in sweeps})
    mounts = _transforms(tables / "calibrated_sensor.json", [calibrations[name] for name in used])
    return sorted(sweeps, key=lambda sweep: sweep.t_ns), dict(zip(used, mounts, strict=True))


def _sweep(file: Node, row: Row) -> _Sweep:
    token, microseconds = _text(file, row, "token"), row.get("timestamp")
    if type(microseconds) is not int or not 0 <= microseconds < 2**62 // 1000:
        raise MaptileError(f"{file}: the timestamp of {token[:40]} is not in microseconds")
    # The name is only compared with the listing of its folder.
    match = _SCAN_FILE.fullmatch(_text(file, row, "filename"))
    if match is None:
        raise MaptileError(f"{file}: the filename of {token[:40]} is not {_SCAN_FILE.pattern}")
    pose, mount = (_text(file, row, key) for key in ("ego_pose_token", "calibrated_sensor_token"))
    return _Sweep(microseconds * 1000, match[1], match[2], token, pose, mount)


def _existing(root: Node, sweeps: list[_Sweep], notes: list[str]) -> list[_Sweep]:
    """The sweeps whose files exist."""
    files = {
        (folder, name)
        for folder in ("samples", "sweeps")
        if (root / folder / "LIDAR_TOP").is_dir()
        for name in file_names(root / folder / "LIDAR_TOP")
    }
    existing = [sweep for sweep in sweeps if (sweep.folder, sweep.name) in files]
    if not existing:
        raise MaptileError(
            f"{root}: none of the scene's {len(sweeps)} LiDAR files, such as {sweeps[0].folder}/"
            f"LIDAR_TOP/{sweeps[0].name}; unpack the archive that contains them"
        )
    missing = len(sweeps) - len(existing)
    if missing:
        notes.append(f"LIDAR_TOP: {missing} of {len(sweeps)} scans are missing")
    return existing


def _labelled(tables: Node, sweeps: list[_Sweep], notes: list[str]) -> list[_Sweep]:
    """The sweeps that have labels; empty where the scene has no labels."""
    folder = _label_folder(tables)
    files = set(file_names(folder)) if folder.is_dir() else set()
    found = [sweep for sweep in sweeps if _label_file(sweep) in files]
    if found:
        notes.append(
            f"lidarseg: {len(found)} of {len(sweeps)} scans are labelled; only they are used"
        )
    return found


def _label_folder(tables: Node) -> Node:
    return tables.parent / "lidarseg" / tables.name


def _label_file(sweep: _Sweep) -> str:
    return f"{sweep.token}_lidarseg.bin"


def _read_poses(file: Node, sweeps: list[_Sweep], notes: list[str]) -> tuple[Times, Array]:
    """(N,) strictly increasing times and (N, 4, 4) vehicle frame -> map frame."""
    rows = {
        _text(file, row, "token"): row
        for row in find_rows(file, "token", {sweep.pose for sweep in sweeps})
    }
    posed = [sweep for sweep in sweeps if sweep.pose in rows]
    if not posed:
        raise MaptileError(f"{file}: none of the scene's poses; copy or unpack the tables again")
    if len(posed) < len(sweeps):
        notes.append(f"ego_pose: {len(sweeps) - len(posed)} of {len(sweeps)} poses are missing")
    t_ns = np.array([sweep.t_ns for sweep in posed], np.int64)
    keep = in_time(t_ns)
    notes += said_of_rows("ego_pose", len(t_ns), len(keep))
    return t_ns[keep], _transforms(file, [rows[sweep.pose] for sweep in posed])[keep]


def _transforms(file: Node, rows: Iterable[Row]) -> Array:
    """(N, 4, 4) of rows with a translation (m) and a rotation (quaternion w, x, y, z)."""
    values = np.array(
        [
            [*_numbers(file, row, "translation", 3), *_numbers(file, row, "rotation", 4)]
            for row in rows
        ]
    )
    if (abs(np.linalg.norm(values[:, 3:], axis=1) - 1) > 0.01).any():
        raise MaptileError(f"{file}: a rotation is not a unit quaternion")
    return se3_from_quaternion(values[:, :3], values[:, [4, 5, 6, 3]])


def _numbers(file: Node, row: Row, key: str, count: int) -> list[float]:
    value = row.get(key)
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(x) in (int, float) and abs(x) < 1e6 for x in value)
    ):
        raise MaptileError(f"{file}: {key} of a row is not {count} numbers")
    return [float(x) for x in value]


def _text(file: Node, row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise MaptileError(f"{file}: a row without {key}; copy or unpack it again")
    return value


# --- scans and tracks ----------------------------------------------------------------------------


def _without_car(block: ScanBlock) -> ScanBlock:
    (back, front), (right, left) = BODY
    x, y = block.points[:, 0], block.points[:, 1]
    outside = (x < back) | (x > front) | (y < right) | (y > left)
    label = None if block.label is None else block.label[outside]
    return replace(block, points=block.points[outside], scan=block.scan[outside], label=label)


def _georeference(location: str, t_ns: Times, world: Array) -> tuple[HeadingTrack, TruthTrack]:
    """Headings and truth of (N, 4, 4) poses on a map.

    As in the devkit, the map's north is true north at its origin, and a position is reached from
    the origin along a great circle. The headings are relative to the map's north, so that they
    contain nothing of the vehicle's position; the truth's follow the great circle, which turns by
    up to 0.03 degrees.
    """
    east, north = world[:, 0, 3], world[:, 1, 3]
    azimuth = np.degrees(np.arctan2(east, north))
    latitude, longitude = (np.full(len(t_ns), degrees) for degrees in ORIGINS[location])
    longitude, latitude, back = SPHERE.fwd(longitude, latitude, azimuth, np.hypot(east, north))
    yaw = np.arctan2(world[:, 1, 0], world[:, 0, 0])
    turned = np.radians(azimuth - (np.asarray(back) + 180))
    truth = TruthTrack(t_ns, np.asarray(latitude), np.asarray(longitude), wrap_angle(yaw + turned))
    return HeadingTrack(t_ns, wrap_angle(yaw)), truth
