"""MCD, MulRan, NCLT and Boreas in made files of their published layouts; real scans of MCD."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bag import BagMaker
from reader_checks import fuzz, read_damaged
from scipy.spatial.transform import Rotation

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import Projection, se3, se3_from_xyzrpy, utm_crs
from data_prep.sources import open_drive
from data_prep.sources.mulran import MOUNT as OUSTER
from data_prep.sources.nclt import MOUNT as HDL32
from data_prep.sources.nclt import ORIGIN

T0_US = 1_560_000_000_000_000
COUNT = 6
WALL = np.array([[8.0, 3.0, 0.5], [9.0, 4.0, 1.0], [7.0, -6.0, 2.0], [-5.0, 2.5, -0.5]])
"""Points that do not move, in the frame of the first pose (x forward, y left, z up)."""
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def route() -> np.ndarray:
    """(N, 4, 4) of a vehicle that turns left, x forward, y left, z up; the first at the origin."""
    angle = 0.1 * np.arange(COUNT)
    position = np.stack([20 * np.sin(angle), 20 * (1 - np.cos(angle)), 0 * angle], axis=1)
    return se3(Rotation.from_euler("z", angle[:, None]), position)


def seen(pose: np.ndarray, mount: np.ndarray) -> np.ndarray:
    """The wall in the frame of a sensor with a mount on a vehicle."""
    inverse = np.linalg.inv(pose @ mount)
    return WALL @ inverse[:3, :3].T + inverse[:3, 3]


def check(drive: Drive, format: str, atol: float) -> None:
    """The wall stands still where the scans are put together with the odometry."""
    assert drive.format == format
    assert drive.odometry is not None
    assert len(drive.scans.t_ns) == COUNT
    poses = drive.odometry.at(drive.scans.t_ns)
    np.testing.assert_allclose(np.linalg.inv(poses[0]) @ poses, expected(drive), atol=1e-5)
    for scan in range(COUNT):
        points = drive.scans.read(scan, scan + 1).points
        world = points @ poses[scan, :3, :3].T + poses[scan, :3, 3]
        first = drive.scans.read(0, 1).points
        np.testing.assert_allclose(world, first @ poses[0, :3, :3].T + poses[0, :3, 3], atol=atol)


def expected(drive: Drive) -> np.ndarray:
    """The route, as motion of the drive's own frame."""
    mount = LIDAR_ON_VEHICLE if drive.format == "mcd" else np.eye(4)
    moved = route() @ mount
    return np.linalg.inv(moved[0]) @ moved


# --- MulRan --------------------------------------------------------------------------------------

DAEJEON = (36.3748, 127.3647, 0.7)
"""Latitude, longitude (degrees) and heading from grid east (radians) of the start."""


def write_mulran(folder: Path) -> Path:
    grid = Projection(utm_crs(*DAEJEON[:2]))
    east, north = (float(v) for v in np.ravel(grid.forward(*DAEJEON[:2])))
    start = se3(Rotation.from_euler("z", DAEJEON[2]), [east, north, 40.0])
    (folder / "Ouster").mkdir(parents=True)
    lines = []
    for k, pose in enumerate(route()):
        t_ns = 1000 * (T0_US + 100_000 * k)
        rows = np.column_stack([seen(pose, se3_from_xyzrpy(OUSTER)), np.full(len(WALL), 7.0)])
        (folder / "Ouster" / f"{t_ns}.bin").write_bytes(rows.astype("<f4").tobytes())
        lines.append(",".join([str(t_ns), *(f"{v:.9f}" for v in (start @ pose)[:3].ravel())]))
    (folder / "global_pose.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_sequence_of_mulran(tmp_path: Path) -> None:
    drive = open_drive(write_mulran(tmp_path / "DCC01"))
    check(drive, "mulran", 2e-4)
    assert drive.truth is not None and drive.heading is not None
    assert drive.truth.latitude[0] == pytest.approx(DAEJEON[0], abs=1e-7)
    assert drive.truth.longitude[0] == pytest.approx(DAEJEON[1], abs=1e-7)
    convergence = Projection(utm_crs(*DAEJEON[:2])).convergence(*DAEJEON[:2])
    assert drive.heading.heading[0] == pytest.approx(DAEJEON[2] - convergence, abs=1e-6)
    np.testing.assert_allclose(drive.scans.read(0, 1).points, WALL, atol=1e-4)


# --- NCLT ----------------------------------------------------------------------------------------


def write_nclt(folder: Path) -> Path:
    (folder / "velodyne_sync").mkdir(parents=True)
    wheels, truth = [], []
    north = se3(Rotation.from_euler("z", 0.3), [30.0, -20.0, 0.0])  # x north, y west, z up
    for k, pose in enumerate(route()):
        micro = T0_US + 200_000 * k
        xyz = seen(pose, FLIP @ se3_from_xyzrpy(HDL32))
        steps = np.rint((xyz + 100) / 0.005).astype(int).tolist()
        data = b"".join(struct.pack("<HHHBB", *row, 9, 3) for row in steps)
        (folder / "velodyne_sync" / f"{micro}.bin").write_bytes(data)
        for lines, start in ((wheels, np.eye(4)), (truth, north)):
            ned = FLIP @ start @ pose @ FLIP
            yaw, pitch, roll = Rotation.from_matrix(ned[:3, :3]).as_euler("ZYX")
            values = [*ned[:3, 3], roll, pitch, yaw]
            lines.append(",".join([str(micro), *(f"{v:.9f}" for v in values)]))
    truth.insert(0, f"{T0_US - 1}," + ",".join(["nan"] * 6))
    (folder / "odometry_mu_100hz.csv").write_text("\n".join(wheels) + "\n")
    (folder / f"groundtruth_{folder.name}.csv").write_text("\n".join(truth) + "\n")
    return folder


def test_a_session_of_nclt(tmp_path: Path) -> None:
    drive = open_drive(write_nclt(tmp_path / "2012-01-08"))
    check(drive, "nclt", 0.02)
    np.testing.assert_allclose(drive.scans.read(0, 1).points, WALL, atol=0.01)
    assert drive.truth is not None and drive.heading is not None
    assert drive.truth.latitude[0] - ORIGIN[0] == pytest.approx(30 / 111_080, rel=2e-3)
    east = (drive.truth.longitude[0] - ORIGIN[1]) * np.cos(np.radians(ORIGIN[0])) * 111_320
    assert east == pytest.approx(20, rel=2e-2)
    assert drive.heading.heading[0] == pytest.approx(np.pi / 2 + 0.3, abs=1e-6)


# --- Boreas --------------------------------------------------------------------------------------

TORONTO = (43.7822, -79.4661)
"""Latitude and longitude of the origin of the poses, degrees."""
APPLANIX_TO_LIDAR = """\
7.353640198707580566e-01 -6.776720285415649414e-01 0.000000000000000000e+00 2.491541951894760132e-02
6.776720285415649414e-01 7.353640198707580566e-01 1.000000047497451305e-03 -1.343978010118007660e-02
-6.776719819754362106e-04 -7.353639812208712101e-04 1.000000000000000e+00 3.160137534141540527e-01
0.000000000000000000e+00 0.000000000000000000e+00 0.000000000000000000e+00 1.000000000000000e+00
"""
"""A calibration as the data set has it (a matrix that is a rotation to 1e-3)."""


def boreas_lidar() -> np.ndarray:
    """(4, 4) the LiDAR on the Applanix, whose x is right, y forward, z up."""
    rows = np.array([float(word) for word in APPLANIX_TO_LIDAR.split()]).reshape(4, 4)
    return se3(Rotation.from_matrix(rows[:3, :3]), rows[:3, 3])


def boreas_row(time: str, pose: np.ndarray) -> str:
    """A row of a table of poses: the angles are those of the inverse of the rotation."""
    yaw, pitch, roll = Rotation.from_matrix(pose[:3, :3].T).as_euler("ZYX")
    values = [*pose[:3, 3], 0, 0, 0, roll, pitch, yaw, 0, 0, 0]
    return ",".join([time, *(f"{value:.9f}" for value in values)])


def write_boreas(folder: Path) -> Path:
    for name in ("lidar", "applanix", "calib"):
        (folder / name).mkdir(parents=True)
    (folder / "calib" / "T_applanix_lidar.txt").write_text(APPLANIX_TO_LIDAR)
    head = "GPSTime,easting,northing,altitude,vel_east,vel_north,vel_up,roll,pitch,heading"
    head += ",angvel_z,angvel_y,angvel_x"
    poses, gps = [head], [f"{head},accelz,accely,accelx,latitude,longitude"]
    start = se3(Rotation.from_euler("z", 1.1), [500.0, 2000.0, 3.0])
    turned = se3(Rotation.from_euler("z", -np.pi / 2), [0, 0, 0])  # its y is forward
    plane = pyproj.CRS.from_proj4(f"+proj=aeqd +lat_0={TORONTO[0]} +lon_0={TORONTO[1]}")
    for k, pose in enumerate(route()):
        micro = T0_US + 100_000 * k
        applanix = start @ pose @ turned
        lidar = applanix @ boreas_lidar()
        on_vehicle = np.linalg.inv(pose) @ np.linalg.inv(start) @ lidar
        seconds = np.linspace(-0.05, 0.05, len(WALL))
        more = np.column_stack([np.full(len(WALL), 9.0), np.arange(len(WALL)), seconds])
        rows = np.column_stack([seen(pose, on_vehicle), more]).astype("<f4")
        (folder / "lidar" / f"{micro}.bin").write_bytes(rows.tobytes())
        poses.append(boreas_row(str(micro), lidar))
        place = Projection(plane).inverse(applanix[None, :2, 3])
        degrees = [float(value[0]) for value in place]
        more_text = ",".join(["0", "0", "0", *(f"{np.radians(one):.12f}" for one in degrees)])
        gps.append(f"{boreas_row(f'{micro // 10**6}.{micro % 10**6:06d}', applanix)},{more_text}")
    (folder / "applanix" / "lidar_poses.csv").write_text("\n".join(poses) + "\n")
    (folder / "applanix" / "gps_post_process.csv").write_text("\n".join(gps) + "\n")
    return folder


def test_a_sequence_of_boreas(tmp_path: Path) -> None:
    folder = write_boreas(tmp_path / "boreas-2021-09-02-11-42")
    drive = open_drive(folder)
    check(drive, "boreas", 2e-4)
    block = drive.scans.read(0, 1)
    np.testing.assert_allclose(block.points, WALL, atol=1e-4)
    np.testing.assert_allclose(block.seconds, np.linspace(-0.05, 0.05, len(WALL)), atol=1e-6)
    assert drive.truth is not None
    plane = pyproj.CRS.from_proj4(f"+proj=aeqd +lat_0={TORONTO[0]} +lon_0={TORONTO[1]}")
    east, north = Projection(plane).forward(drive.truth.latitude[0], drive.truth.longitude[0])
    assert (east, north) == (pytest.approx(500, abs=0.01), pytest.approx(2000, abs=0.01))
    convergence = np.radians(500 / 111_320 / np.cos(np.radians(43.8)) * np.sin(np.radians(43.8)))
    assert drive.truth.heading[0] == pytest.approx(1.1 - convergence, abs=2e-6)
    for name in ("lidar_poses", "gps_post_process"):
        (folder / "applanix" / f"{name}.csv").unlink()
    blind = open_drive(folder)
    assert (blind.odometry, blind.heading, blind.truth) == (None, None, None)
    assert "no heading and truth: applanix/gps_post_process.csv is missing" in blind.notes


def test_the_axes_of_boreas_are_those_of_a_real_pose() -> None:
    """A row of a real lidar_poses.csv: the vehicle drives where its own velocity points."""
    from data_prep.sources.boreas import FORWARD, POSE

    row = dict(
        zip(
            ("easting", "northing", "altitude", "east", "north", "up", "roll", "pitch", "heading"),
            (
                *(623069.4266090854, 4849538.475397975, 153.81338375539977, -2.4610144309344726),
                *(12.251877063013758, -0.05061341020732893, -0.01636291319063402),
                *(-0.00855337247635029, -0.943921342514183),
            ),
            strict=True,
        )
    )
    angles = se3_from_xyzrpy([0, 0, 0, *(row[name] for name in POSE[3:])])[:3, :3]
    velocity = angles @ [row["east"], row["north"], row["up"]]  # in the LiDAR's frame
    ahead = (FORWARD @ boreas_lidar())[:3, :3] @ velocity
    np.testing.assert_allclose(ahead / np.linalg.norm(ahead), [1, 0, 0], atol=0.03)


# --- MCD -----------------------------------------------------------------------------------------

LIDAR_ON_VEHICLE = se3_from_xyzrpy([0.3, -0.1, 0.2, 0.02, -0.01, 0.3])
"""The LiDAR on the vehicle; the body of the calibration hangs below, upside down."""


def write_mcd(folder: Path, bag: bool) -> Path:
    folder.mkdir(parents=True)
    body = FLIP
    lidar = np.linalg.inv(body) @ LIDAR_ON_VEHICLE
    text = "".join(f"        - {row.tolist()}\n" for row in lidar)
    (folder / "hhs_calib.yaml").write_text(f"body:\n    os_sensor:\n        T:\n{text}")
    lines = ["num,t,x,y,z,qx,qy,qz,qw"]
    clouds = []
    for k, pose in enumerate(route()):
        t_ns = 1000 * (T0_US + 100_000 * k)
        world = pose @ body
        numbers = [*world[:3, 3], *Rotation.from_matrix(world[:3, :3]).as_quat()]
        second = f"{t_ns // 10**9}.{t_ns % 10**9:09d}"
        lines.append(f"{10 * k + 1},{second}," + ",".join(f"{v:.12f}" for v in numbers))
        clouds.append((10 * k + 1, t_ns, seen(pose, LIDAR_ON_VEHICLE).astype("<f4")))
    (folder / "pose_inW.csv").write_text("\n".join(lines) + "\n")
    if bag:
        with BagMaker(folder, "ros1") as target:
            for _, t_ns, xyz in clouds:
                table = np.zeros(len(xyz), [(axis, "<f4") for axis in "xyz"])
                for axis, column in zip("xyz", xyz.T, strict=True):
                    table[axis] = column
                target.cloud("/os_cloud_node/points", t_ns, "os_sensor", table)
    else:
        (folder / "clouds").mkdir()
        for number, _, xyz in clouds:
            rows = np.column_stack([xyz, np.full(len(xyz), 5.0, "<f4")])
            (folder / "clouds" / f"{number:010d}.bin").write_bytes(rows.astype("<f4").tobytes())
    return folder


@pytest.mark.parametrize("bag", [True, False])
def test_a_sequence_of_mcd(tmp_path: Path, bag: bool) -> None:
    folder = write_mcd(tmp_path / "kth_day_06", bag)
    drive = open_drive(folder)
    check(drive, "mcd", 1e-4)
    (folder / "hhs_calib.yaml").rename(tmp_path / "hhs_calib.yaml")
    check(open_drive(folder), "mcd", 1e-4)
    (tmp_path / "hhs_calib.yaml").write_text("body: 1")
    with pytest.raises(MaptileError, match=r"hhs_calib\.yaml: no body: os_sensor: T:"):
        open_drive(folder)
    (tmp_path / "hhs_calib.yaml").unlink()
    with pytest.raises(MaptileError, match=r"hhs_calib\.yaml: no such file"):
        open_drive(folder)


@pytest.mark.realdata
def test_real_scans_of_mcd_stand_on_the_ground_and_still(data_dir: Path) -> None:
    drive = open_drive(data_dir / "mcd_kth")
    assert drive.format == "mcd"
    assert drive.odometry is not None
    poses = drive.odometry.at(drive.scans.t_ns)
    assert (poses[:, 2, 2] > 0.98).all()  # upright
    clouds = [drive.scans.read(k, k + 1).points[::20] for k in (0, 1)]
    worlds = [c @ p[:3, :3].T + p[:3, 3] for c, p in zip(clouds, poses, strict=False)]
    from scipy.spatial import cKDTree

    apart = [np.median(cKDTree(worlds[0]).query(worlds[1])[0])]
    apart.append(np.median(cKDTree(clouds[0]).query(clouds[1])[0]))
    assert apart[0] < apart[1]


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    return {
        "mulran": write_mulran(folder / "DCC01"),
        "nclt": write_nclt(folder / "2012-01-08"),
        "boreas": write_boreas(folder / "boreas-2021-09-02-11-42"),
        "mcd": write_mcd(folder / "kth_day_06", False),
        "mcd bag": write_mcd(folder / "kth_day_09", True),
    }


@fuzz(150)
@given(choices=st.data())
def test_damage_is_an_error_or_a_sound_drive(
    sound: dict[str, Path], choices: st.DataObject
) -> None:
    folder = sound[choices.draw(st.sampled_from(sorted(sound)))]
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    read_damaged(folder, choices.draw(st.sampled_from(files)), choices)
