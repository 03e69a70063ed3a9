from __future__ import annotations

import json
import math
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader_checks import arrays, check_same, check_same_but_truth, fuzz, read

from data_prep.errors import MaptileError
from data_prep.sources import detect_format, open_drive
from data_prep.sources.formats.jsontable import CHUNK, find_rows, read_rows
from maptile_loc.perceive.labels import (
    BUILDING,
    CAR,
    FENCE,
    GROUND,
    LABELS,
    MOVING,
    OTHER,
    ROAD,
    TRUCK,
    UNLABELLED,
    VEGETATION,
    kinds,
)

START = 1_532_402_927_647_951  # microseconds, as in the data set
TWENTIETH = 50_000
RNG = np.random.default_rng(6)
POINTS = RNG.uniform([-40, -40, -2], [40, 40, 9], size=(150, 3)).astype(np.float32)

# --- writing data sets, from the description of the format only ----------------------------------


class Writer:
    """Tables and scans in the layout of the data set; a test can change them before writing."""

    def __init__(self, root: Path, version: str = "v1.0-mini") -> None:
        self.root, self.version = root, version
        self.tables: dict[str, list[dict]] = {
            "sensor": [
                {"token": "sensor-cam", "channel": "CAM_FRONT", "modality": "camera"},
                {"token": "sensor-lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
            ],
            "calibrated_sensor": [],
            "log": [],
            "scene": [],
            "sample": [],
            "sample_data": [],
            "ego_pose": [],
        }

    def add_scene(
        self,
        name: str = "scene-0061",
        location: str = "singapore-onenorth",
        scans: int = 21,
        start: int = START,
        place: tuple[float, float] = (411.25, 1180.75),
        yaw: float = -1.9,
    ) -> None:
        """A scene of ``scans`` sweeps, every tenth a key frame, on a right turn at 5 m/s."""
        at = self.tables
        at["log"].append({"token": f"log-{name}", "logfile": "n015", "location": location})
        scene = {"token": f"token-{name}", "log_token": f"log-{name}", "name": name}
        at["scene"].append({**scene, "description": 'Parked {truck}, "bikes"}, wait ]'})
        # x right, y forward, z up, as the data set mounts it
        for sensor, mount in (("sensor-lidar", LIDAR), ("sensor-cam", (1.7, 0.0, 1.5))):
            row = {"token": f"{sensor}-{name}", "sensor_token": sensor}
            row |= {"translation": [*mount], "camera_intrinsic": [[1.0, 0.0], [0.0, 1.0]]}
            at["calibrated_sensor"].append(
                {**row, "rotation": [math.sqrt(0.5), 0, 0, -math.sqrt(0.5)]}
            )
        for i in range(scans):
            time = start + i * TWENTIETH
            key = i % 10 == 0
            sample = f"sample-{name}-{(i + 9) // 10}"
            if key:
                at["sample"].append(
                    {"token": sample, "timestamp": time, "scene_token": scene["token"]}
                )
            for sensor, channel in (("sensor-lidar", "LIDAR_TOP"), ("sensor-cam", "CAM_FRONT")):
                token = f"{channel}-{name}-{i}"
                folder = "samples" if key else "sweeps"
                suffix = "pcd.bin" if channel == "LIDAR_TOP" else "jpg"
                at["sample_data"].append(
                    {
                        "token": token,
                        "sample_token": sample,
                        "ego_pose_token": token,
                        "calibrated_sensor_token": f"{sensor}-{name}",
                        "timestamp": time,
                        "fileformat": "pcd",
                        "is_key_frame": key,
                        "filename": f"{folder}/{channel}/n015__{channel}__{time}.{suffix}",
                        "prev": "",
                        "next": f"{channel}-{name}-{i + 1}",
                    }
                )
                turned = yaw - 0.25 / 30 * i
                x = place[0] - 30 * (math.sin(turned) - math.sin(yaw))
                y = place[1] + 30 * (math.cos(turned) - math.cos(yaw))
                rotation = [math.cos(turned / 2), 0.0, 0.0, math.sin(turned / 2)]
                at["ego_pose"].append(
                    {
                        "token": token,
                        "timestamp": time,
                        "rotation": rotation,
                        "translation": [x, y, 0.0],
                    }
                )

    def write(self, folder: Path | None = None) -> Path:
        folder = folder or self.root / self.version
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=0), "utf-8")
        return self.root

    def write_scans(self, points: np.ndarray = POINTS) -> None:
        for row in self.lidar():
            file = self.root / row["filename"]
            file.parent.mkdir(parents=True, exist_ok=True)
            rest = np.tile([7.0, 3.0], (len(points), 1))
            file.write_bytes(np.column_stack([points, rest]).astype("<f4").tobytes())

    def write_labels(self, labels: np.ndarray) -> None:
        folder = self.root / "lidarseg" / self.version
        folder.mkdir(parents=True)
        for row in self.lidar():
            if row["is_key_frame"]:
                (folder / f"{row['token']}_lidarseg.bin").write_bytes(
                    labels.astype(np.uint8).tobytes()
                )

    def lidar(self) -> list[dict]:
        return [row for row in self.tables["sample_data"] if "LIDAR_TOP" in row["token"]]

    def row(self, table: str, token: str) -> dict:
        return next(row for row in self.tables[table] if row["token"] == token)


LIDAR = (0.94, 0.0, 1.84)


@pytest.fixture
def made(tmp_path: Path) -> Writer:
    writer = Writer(tmp_path / "nuscenes")
    writer.add_scene()
    writer.write_scans()
    writer.write()
    return writer


def in_vehicle(points: np.ndarray) -> np.ndarray:
    """Points of the LiDAR (x right, y forward) in the vehicle frame."""
    return np.column_stack([points[:, 1], -points[:, 0], points[:, 2]]) + LIDAR


def outside_car(points: np.ndarray) -> np.ndarray:
    """Whether each point in the vehicle frame is outside the car itself."""
    x, y, _ = points.T
    return (x < -1) | (x > 3.6) | (abs(y) > 1)


SEEN = in_vehicle(POINTS)[outside_car(in_vehicle(POINTS))]


# --- choice of the scene -------------------------------------------------------------------------


def test_the_only_scene_needs_no_name(made: Writer) -> None:
    assert detect_format(made.root) == "nuscenes"
    drive = open_drive(made.root)
    assert drive.name == "scene-0061"
    assert drive.format == "nuscenes"


@pytest.mark.parametrize("inside", ["", "v1.0-mini"])
def test_a_scene_is_named_like_a_missing_folder(made: Writer, inside: str) -> None:
    made.add_scene("scene-0103", "boston-seaport", start=START + 10**9)
    made.write_scans()
    made.write()
    for name in ("scene-0061", "scene-0103"):
        assert detect_format(made.root / inside / name) == "nuscenes"
        drive = open_drive(made.root / inside / name)
        assert drive.name == name
        assert len(drive.scans.t_ns) == 21
    with pytest.raises(MaptileError, match=r"name one .*: scene-0061, scene-0103$"):
        open_drive(made.root / inside)
    with pytest.raises(
        MaptileError, match=r"no scene scene-0062; there are scene-0061, scene-0103$"
    ):
        open_drive(made.root / inside / "scene-0062")


def test_many_scenes_are_not_all_listed(made: Writer) -> None:
    for i in range(40):
        made.tables["scene"].append({"token": f"t{i}", "name": f"scene-{i:04d}", "log_token": ""})
    made.write()
    with pytest.raises(MaptileError, match=r"scene-0019 and 21 more$"):
        open_drive(made.root)


def test_a_scene_may_be_in_any_of_several_tables(made: Writer) -> None:
    other = Writer(made.root, "v1.0-trainval")
    other.add_scene("scene-0103", "boston-seaport", start=START + 10**9)
    other.write_scans()
    other.write()
    assert open_drive(made.root / "scene-0061").name == "scene-0061"
    assert open_drive(made.root / "scene-0103").name == "scene-0103"


@pytest.mark.parametrize("start", [None, 0.5])
def test_start_and_end_select_a_part_of_a_scene(made: Writer, start: float | None) -> None:
    drive = open_drive(made.root / "scene-0061", "nuscenes", ("LIDAR_TOP",), start, 0.7)
    assert len(drive.scans.t_ns) == (15 if start is None else 5)


def test_only_the_lidar_is_a_sensor(made: Writer) -> None:
    with pytest.raises(MaptileError, match="no sensor CAM_FRONT; choose from LIDAR_TOP"):
        open_drive(made.root, sensors=("CAM_FRONT",))


def test_a_folder_without_tables_is_not_recognised(made: Writer) -> None:
    shutil.rmtree(made.root / "v1.0-mini")
    with pytest.raises(MaptileError, match=r"no drive of a known format.*nuScenes"):
        open_drive(made.root)
    with pytest.raises(MaptileError, match="no tables of nuScenes"):
        open_drive(made.root, "nuscenes")


# --- scans ---------------------------------------------------------------------------------------


def test_key_frames_and_sweeps_come_in_the_order_of_time(made: Writer) -> None:
    made.tables["sample_data"].reverse()
    made.write()
    scans = open_drive(made.root).scans
    assert scans.t_ns.tolist() == [(START + i * TWENTIETH) * 1000 for i in range(21)]
    block = scans.read(9, 12)
    assert 0 < len(SEEN) < len(POINTS)
    assert np.allclose(block.points, np.tile(SEEN, (3, 1)), atol=1e-5)
    assert np.bincount(block.scan).tolist() == [len(SEEN)] * 3
    assert np.allclose(block.origin, LIDAR)
    assert block.seconds is None
    assert block.label is None


def test_points_on_the_car_itself_are_removed(made: Writer) -> None:
    roof = np.array([[0, 2, -0.4], [0.5, -1.5, -0.3], [0, 2.8, -0.4], [1.1, 0, -1], [0, -2.5, -1]])
    made.write_scans(roof)
    assert np.allclose(open_drive(made.root).scans.read(0, 1).points, in_vehicle(roof[2:]))


def test_scans_may_be_missing(made: Writer) -> None:
    shutil.rmtree(made.root / "sweeps")
    drive = open_drive(made.root)
    assert len(drive.scans.t_ns) == 3
    assert any("18 of 21 scans are missing" in note for note in drive.notes)
    assert drive.odometry is not None
    assert len(drive.odometry.t_ns) == 21
    shutil.rmtree(made.root / "samples")
    with pytest.raises(MaptileError, match=r"none of the scene's 21 LiDAR files.*unpack"):
        open_drive(made.root)


def test_a_cut_scan_names_its_file(made: Writer) -> None:
    file = made.root / made.lidar()[4]["filename"]
    file.write_bytes(file.read_bytes()[:-1])
    scans = open_drive(made.root).scans
    assert len(scans.read(0, 4).points)
    with pytest.raises(MaptileError, match=file.name):
        scans.read(0, 5)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.bin",
        "samples/LIDAR_TOP/../../../secret.bin",
        "samples/LIDAR_TOP/..",
        "/etc/passwd",
        "samples\\LIDAR_TOP\\x.bin",
        "samples/CAM_FRONT/x.jpg",
        "samples/LIDAR_TOP/\0",
        "",
        17,
    ],
)
def test_file_names_cannot_lead_out_of_their_folder(made: Writer, name: object) -> None:
    (made.root / "secret.bin").write_bytes(bytes(20))
    (made.root.parent / "secret.bin").write_bytes(bytes(20))
    made.lidar()[3]["filename"] = name
    made.write()
    try:
        drive = open_drive(made.root)
    except MaptileError as error:
        assert "filename" in str(error)
    else:
        assert len(drive.scans.read(0, 21).t_ns) == 20
        assert any("1 of 21 scans are missing" in note for note in drive.notes)


# --- labels --------------------------------------------------------------------------------------


def test_where_there_are_labels_the_labelled_scans_are_used(made: Writer) -> None:
    labels = np.arange(len(POINTS)) % 32
    made.write_labels(labels)
    drive = open_drive(made.root)
    assert drive.labels == "nuscenes"
    assert drive.scans.t_ns.tolist() == [(START + i * TWENTIETH) * 1000 for i in (0, 10, 20)]
    assert any("3 of 21 scans are labelled; only they are used" in note for note in drive.notes)
    block = drive.scans.read(0, 3)
    assert block.label is not None
    kept = labels[outside_car(in_vehicle(POINTS))]
    assert block.label.tolist() == np.tile(kept, 3).tolist()
    assert drive.odometry is not None
    assert len(drive.odometry.t_ns) == 21


def test_too_few_labels_are_refused(made: Writer) -> None:
    made.write_labels(np.zeros(len(POINTS) - 1))
    with pytest.raises(MaptileError, match=r"_lidarseg.bin: 149 labels for the 150 points"):
        open_drive(made.root).scans.read(0, 1)


def test_the_label_table_agrees_with_the_data_set() -> None:
    numbers = np.array([0, 2, 9, 17, 23, 24, 25, 26, 27, 28, 29, 30, 31], np.int32)
    expected = [UNLABELLED, MOVING, FENCE, CAR, TRUCK, ROAD, *[GROUND] * 3]
    expected += [BUILDING, OTHER, VEGETATION, MOVING]
    assert kinds(numbers, LABELS["nuscenes"]).tolist() == expected


# --- tracks --------------------------------------------------------------------------------------


def test_odometry_is_relative_motion(made: Writer) -> None:
    track = open_drive(made.root).odometry
    assert track is not None
    turned = -0.25 / 30 * np.arange(21)
    expected = 30 * np.stack([np.sin(-turned), np.cos(turned) - 1], axis=1)
    assert np.allclose(track.poses[:, :2, 3], expected, atol=1e-5)
    assert np.allclose(track.poses[:, 2, 3], 0)
    assert np.allclose(np.arctan2(track.poses[:, 1, 0], track.poses[:, 0, 0]), turned)
    assert track.segment.tolist() == [0] * 21


def great_circle(origin: tuple[float, float], east: float, north: float) -> tuple[float, float]:
    """Latitude and longitude at a distance from ``origin`` on a sphere, by vectors in space."""
    phi, lam = map(math.radians, origin)
    up = np.array([math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)])
    to_east = np.array([-math.sin(lam), math.cos(lam), 0.0])
    distance = math.hypot(east, north)
    way = (east * to_east + north * np.cross(up, to_east)) / distance
    angle = distance / 6_378_137.0
    x, y, z = math.cos(angle) * up + math.sin(angle) * way
    return math.degrees(math.asin(z)), math.degrees(math.atan2(y, x))


MAPS = {
    "boston-seaport": (42.336849169438615, -71.05785369873047),
    "singapore-onenorth": (1.2882100868743724, 103.78475189208984),
    "singapore-hollandvillage": (1.2993652317780957, 103.78217697143555),
    "singapore-queenstown": (1.2782562240223188, 103.76741409301758),
}


@pytest.mark.parametrize("location", MAPS)
@pytest.mark.parametrize("place", [(600.0, 1647.5), (2500.0, 40.0)])
def test_truth_agrees_with_the_data_set(
    tmp_path: Path, location: str, place: tuple[float, float]
) -> None:
    made = Writer(tmp_path)
    made.add_scene(location=location, place=place)
    made.write_scans()
    drive = open_drive(made.write())
    truth = drive.truth
    assert truth is not None
    assert truth.t_ns.tolist() == drive.scans.t_ns.tolist()
    latitude, longitude = great_circle(MAPS[location], *place)
    assert truth.latitude[0] == pytest.approx(latitude, abs=1e-10)
    assert truth.longitude[0] == pytest.approx(longitude, abs=1e-10)
    # It is also near the Mercator position, which the data set's documentation describes.
    assert truth.latitude[0] - MAPS[location][0] == pytest.approx(place[1] / 111_319.5, abs=6e-6)


@pytest.mark.parametrize("location", MAPS)
@pytest.mark.parametrize("yaw", [-3.0, -1.9, 0.0, 0.4, 1.6])
def test_headings_are_from_true_east(tmp_path: Path, location: str, yaw: float) -> None:
    """Headings agree with the azimuths from each position to the next."""
    made = Writer(tmp_path)
    made.add_scene(location=location, place=(2500.0, 1500.0), yaw=yaw)
    made.write_scans()
    drive = open_drive(made.write())
    assert drive.truth is not None
    assert drive.heading is not None
    phi = np.radians(drive.truth.latitude)
    north, east = np.diff(phi), np.diff(np.radians(drive.truth.longitude)) * np.cos(phi[:-1])
    course = np.unwrap(np.arctan2(north, east))
    middle = np.unwrap(drive.truth.heading)
    off = (middle[:-1] + middle[1:]) / 2 - course
    assert np.allclose(np.angle(np.exp(1j * off)), 0, atol=np.radians(0.01))
    assert np.allclose(
        np.angle(np.exp(1j * (drive.heading.heading - drive.truth.heading))),
        0,
        atol=np.radians(0.03),
    )


def test_an_unknown_map_has_no_truth(tmp_path: Path) -> None:
    made = Writer(tmp_path)
    made.add_scene(location="seoul-gangnam")
    made.write_scans()
    drive = open_drive(made.write())
    assert drive.truth is None
    assert drive.heading is None
    assert drive.odometry is not None
    assert any("the origin of the map seoul-gangnam is unknown" in note for note in drive.notes)


def test_poses_may_be_missing(made: Writer) -> None:
    gone = {row["token"] for row in made.lidar()[5:9]}
    made.tables["ego_pose"] = [p for p in made.tables["ego_pose"] if p["token"] not in gone]
    made.write()
    drive = open_drive(made.root)
    assert drive.odometry is not None
    assert len(drive.odometry.t_ns) == 17
    assert len(drive.scans.t_ns) == 21
    assert any("4 of 21 poses are missing" in note for note in drive.notes)


def test_moving_the_truth_away_changes_nothing_else(made: Writer) -> None:
    here = open_drive(made.root)
    for row in made.tables["ego_pose"]:
        x, y, z = row["translation"]
        row["translation"] = [x + 1800, y - 700, z]
    made.tables["log"][0]["location"] = "boston-seaport"
    made.write()
    away = open_drive(made.root)
    check_same_but_truth(here, away)
    assert here.truth is not None
    assert away.truth is not None
    assert (away.truth.latitude - here.truth.latitude > 41).all()


# --- archives ------------------------------------------------------------------------------------


def test_a_scene_may_lie_in_archives(made: Writer, tmp_path: Path) -> None:
    """As downloaded: the tables in one, the scans in others, side by side."""
    made.add_scene("scene-0103", "boston-seaport", start=START + 10**9)
    made.write_scans()
    made.write()
    made.write_labels(np.arange(len(POINTS)) % 32)
    expected = open_drive(made.root / "scene-0061")
    folder = tmp_path / "archives"
    folder.mkdir()
    for name, inside in (("meta", "v1.0-mini"), ("01_blobs", "samples"), ("02_blobs", "sweeps")):
        with tarfile.open(folder / f"v1.0-mini_{name}.tgz", "w:gz") as archive:
            archive.add(made.root / inside, inside)
    with zipfile.ZipFile(folder / "lidarseg.zip", "w") as zipped:
        for file in (made.root / "lidarseg").rglob("*.bin"):
            zipped.write(file, file.relative_to(made.root))
    drive = open_drive(folder / "scene-0061")
    assert drive.name == "scene-0061"
    assert drive.labels == "nuscenes"
    check_same(arrays(drive), arrays(expected))
    with tarfile.open(tmp_path / "v1.0-mini.tgz", "w:gz") as archive:
        for inside in ("v1.0-mini", "samples", "sweeps", "lidarseg"):
            archive.add(made.root / inside, inside)
    drive = open_drive(tmp_path / "v1.0-mini.tgz" / "scene-0061")
    check_same(arrays(drive), arrays(expected))
    with pytest.raises(MaptileError, match=r"name one .*: scene-0061, scene-0103$"):
        open_drive(tmp_path / "v1.0-mini.tgz")


# --- errors --------------------------------------------------------------------------------------


def drop(table: str, key: str) -> Callable[[Writer], None]:
    def damage(made: Writer) -> None:
        for row in made.tables[table]:
            row.pop(key)

    return damage


def put(table: str, key: str, value: object) -> Callable[[Writer], None]:
    def damage(made: Writer) -> None:
        made.tables[table][-1][key] = value
        made.tables[table][-2 if len(made.tables[table]) > 1 else -1][key] = value

    return damage


def empty(table: str) -> Callable[[Writer], None]:
    def damage(made: Writer) -> None:
        made.tables[table] = []

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        *(drop("sample_data", key) for key in ("token", "timestamp", "filename", "ego_pose_token")),
        *(drop("ego_pose", key) for key in ("token", "rotation", "translation")),
        *(drop("scene", key) for key in ("token", "name")),
        *(put("scene", "name", name) for name in ("../up", "/root", "a/b", "..", "a\n", "a" * 101)),
        drop("sample", "token"),
        drop("calibrated_sensor", "rotation"),
        put("sample_data", "timestamp", 1.5),
        put("sample_data", "timestamp", 10**30),
        put("sample_data", "timestamp", -1),
        put("sample_data", "timestamp", True),
        put("sample_data", "ego_pose_token", ["a"]),
        put("ego_pose", "translation", [1.0, 2.0]),
        put("ego_pose", "translation", [1.0, 2.0, float("nan")]),
        put("ego_pose", "translation", [1.0, 2.0, 10**400]),
        put("ego_pose", "translation", [1.0, 2.0, "3"]),
        put("ego_pose", "rotation", [0, 0, 0, 0]),
        put("ego_pose", "rotation", {"w": 1}),
        put("calibrated_sensor", "translation", None),
        *(empty(table) for table in ("sensor", "calibrated_sensor", "scene", "sample")),
        *(empty(table) for table in ("sample_data", "ego_pose")),
    ],
)
def test_damage_is_one_clear_line(made: Writer, damage: Callable[[Writer], None]) -> None:
    damage(made)
    made.write()
    with pytest.raises(MaptileError, match=str(made.root)):
        open_drive(made.root)


@pytest.mark.parametrize("table", ["sensor", "calibrated_sensor", "scene", "sample", "ego_pose"])
def test_a_table_that_is_missing_is_named(made: Writer, table: str) -> None:
    (made.root / f"v1.0-mini/{table}.json").unlink()
    with pytest.raises(MaptileError, match=f"{table}.json: no such file"):
        open_drive(made.root)


def test_circular_links_between_rows_are_ignored(made: Writer) -> None:
    before = open_drive(made.root)
    for row in made.tables["sample_data"]:
        row["next"] = row["prev"] = row["token"]
    made.tables["sample_data"] *= 2
    made.write()
    after = open_drive(made.root)
    assert len(after.scans.t_ns) == 2 * len(before.scans.t_ns)
    assert after.odometry is not None
    assert before.odometry is not None
    assert np.array_equal(after.odometry.poses, before.odometry.poses)


def test_a_table_that_is_cut_short_is_named(made: Writer) -> None:
    for table in made.tables:
        file = made.root / f"v1.0-mini/{table}.json"
        whole = file.read_bytes()
        for size in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:size])
            with pytest.raises(MaptileError, match=f"{table}.json: not readable as a table"):
                open_drive(made.root)
        file.write_bytes(whole)
    assert open_drive(made.root).name == "scene-0061"


@given(st.data())
@fuzz(150)
def test_damaged_tables_are_refused_or_read(made: Writer, data: st.DataObject) -> None:
    made.write()
    table = data.draw(st.sampled_from(sorted(made.tables)))
    file = made.root / f"v1.0-mini/{table}.json"
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        bits = data.draw(
            st.sampled_from([b"[", b"]", b"{", b"}", b'"', b",", b"1e999", b"NaN", b"null", b"\\"])
            | st.binary(min_size=1, max_size=3)
        )
        content[at : at + data.draw(st.integers(0, 3))] = bits
    file.write_bytes(content)
    opened = read(made.root, within=made.root)
    assert opened is None or opened[0].odometry is not None


# --- large tables --------------------------------------------------------------------------------


def test_rows_are_found_across_the_chunks_of_a_file(tmp_path: Path) -> None:
    """A table of several chunks, with rows of many lengths and letters of several bytes."""
    rows = [
        {"token": f"t{i}", "of": f"s{i % 97}", "text": "añ€" * (i % 53), "n": [1.5, [i]]}
        for i in range(40_000)
    ]
    file = tmp_path / "a.json"
    for indent, ascii_only in ((None, True), (0, False)):
        file.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), "utf-8")
        assert file.stat().st_size > 3 * CHUNK
        found = find_rows(file, "of", {"s3", "s96", "nothing"})
        assert found == [row for row in rows if row["of"] in ("s3", "s96")]


@given(
    st.lists(
        st.fixed_dictionaries(
            {"of": st.sampled_from(["a", "b"])},
            optional={"of it": st.text(st.characters(exclude_characters="{}")), "n": st.integers()},
        )
    ),
    st.sampled_from([None, 0, 2]),
)
@fuzz(100)
def test_find_rows_returns_the_same_rows_as_read_rows(
    tmp_path: Path, rows: list[dict], indent: int | None
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(rows, indent=indent), "utf-8")
    assert read_rows(file) == rows
    assert find_rows(file, "of", {"a"}) == [row for row in rows if row["of"] == "a"]


@pytest.mark.parametrize(
    "text",
    ["", "[", "{}", "[1]", '[{"of": "a"}', '[{"of": "a"', "[" * 100_000, '{"of": "a"}', "\xff"],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(MaptileError, match=f"{file}: not readable as a table"):
        read_rows(file)
    if text not in ("{}", "[1]"):
        with pytest.raises(MaptileError, match=f"{file}: not readable as a table"):
            find_rows(file, "of", {"a"})


def test_an_endless_row_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b'[{"of": "' + b"a" * (4 << 20))
    with pytest.raises(MaptileError, match="a row without an end"):
        find_rows(file, "of", {"a"})
    with file.open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(MaptileError, match="more than 64 MiB"):
        read_rows(file)
