"""Recordings and outputs as people name and write them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

import maptile_loc as ml
from data_prep.errors import MaptileError
from data_prep.files import swapped_folder
from data_prep.sources.points.file_times import times_in_names
from maptile_loc.cli import app

START_S = 1_317_384_506
UPRIGHT = (0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A folder of clouds, a second apart, with odometry along x at 5 m/s."""
    folder = tmp_path / "drive"
    (folder / "clouds").mkdir(parents=True)
    points = np.random.default_rng(0).normal(0, 10, (200, 3))
    for k in range(8):
        write_cloud(folder / "clouds" / f"{(START_S + k) * 10**9}.ply", points)
    write_odometry(folder, [(START_S + k, (5.0 * k, 0.0, 0.0), UPRIGHT) for k in range(8)])
    return folder


def write_cloud(path: Path, points: np.ndarray) -> None:
    names = "".join(f"property float {name}\n" for name in "xyz")
    head = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{names}end_header\n"
    )
    path.write_bytes(head.encode() + points.astype("<f4").tobytes())


def write_odometry(folder: Path, rows: list, scale: int = 1) -> None:
    lines = (" ".join(f"{v}" for v in (t * scale, *xyz, *q)) for t, xyz, q in rows)
    (folder / "odometry.tum").write_text("\n".join(lines) + "\n")


def localize(*arguments: object) -> str:
    said = CliRunner().invoke(app, ["localize", *map(str, arguments)])
    assert said.exit_code != 0
    assert not isinstance(said.exception, KeyError)
    return str(said.exception)


# --- Outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", ".."])
def test_the_current_folder_is_not_replaced(
    tmp_path: Path, town_city: Path, drive: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inside = tmp_path / "out" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert "you are in this folder" in localize(town_city, drive, "--out", name, "--force")
    with pytest.raises(MaptileError, match="you are in this folder"), swapped_folder(Path(name)):
        pass
    assert list(inside.iterdir()) == []
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_what_is_read_is_not_replaced(
    tmp_path: Path, town_city: Path, drive: Path, force: tuple[str, ...]
) -> None:
    city = Path(shutil.copytree(town_city, tmp_path / "towns" / "city"))
    for out, what in (
        (city, "is the city"),
        (city.parent, "holds the city"),
        (drive, "is the drive"),
    ):
        assert what in localize(city, drive, "--out", out, *force)
    assert (city / "city.json").is_file()
    assert (drive / "odometry.tum").is_file()


def test_columns_and_sensors_may_be_one_text(drive: Path) -> None:
    points = np.random.default_rng(0).normal(0, 10, (200, 4)).astype("<f4")
    for file in (drive / "clouds").iterdir():
        file.with_suffix(".bin").write_bytes(points.tobytes())
        file.unlink()
    opened = ml.open_drive(drive, columns="x,y,z,intensity", sensors="clouds")
    np.testing.assert_array_equal(opened.scans.read(0, 1).points, points[:, :3])


# --- Odometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_times_of_poses_may_be_in_any_unit(drive: Path, scale: int) -> None:
    write_odometry(drive, [(START_S + k, (5.0 * k, 0, 0), UPRIGHT) for k in range(8)], scale)
    odometry = ml.open_drive(drive).odometry
    assert odometry is not None
    assert odometry.t_ns.tolist() == [(START_S + k) * 10**9 for k in range(8)]


def test_a_time_that_is_none_is_one_line(drive: Path) -> None:
    write_odometry(drive, [(10**13 + k, (5.0 * k, 0, 0), UPRIGHT) for k in range(20)])
    with pytest.raises(MaptileError, match="is no time"):
        ml.open_drive(drive)


def test_a_gap_in_the_poses_begins_a_new_segment(drive: Path) -> None:
    write_odometry(drive, [(START_S + k, (5.0 * k, 0, 0), UPRIGHT) for k in (0, 1, 2, 6, 7)])
    found = ml.open_drive(drive)
    assert found.odometry is not None
    assert found.odometry.segment.tolist() == [0, 0, 0, 1, 1]
    assert found.odometry.segment_at(found.scans.t_ns).tolist() == [0, 0, 0, -1, -1, -1, 1, 1]
    assert any("1 gap of more than 2 s" in note for note in found.notes)


def test_a_gap_without_scans_is_none(drive: Path) -> None:
    for k in (3, 4, 5):
        (drive / "clouds" / f"{(START_S + k) * 10**9}.ply").unlink()
    write_odometry(drive, [(START_S + k, (5.0 * k, 0, 0), UPRIGHT) for k in (0, 1, 2, 6, 7)])
    odometry = ml.open_drive(drive).odometry
    assert odometry is not None
    assert set(odometry.segment.tolist()) == {0}


def test_poses_that_are_all_far_apart_have_no_gap(drive: Path) -> None:
    write_odometry(drive, [(START_S + 4 * k, (20.0 * k, 0, 0), UPRIGHT) for k in range(4)])
    odometry = ml.open_drive(drive).odometry
    assert odometry is not None
    assert set(odometry.segment.tolist()) == {0}


@pytest.mark.parametrize("how", ["upright", "w x y z", "camera"])
def test_a_z_axis_that_does_not_point_up_is_noted(drive: Path, how: str) -> None:
    rows = []
    for k in range(8):
        x, y, z, w = Rotation.from_euler("z", 40 + k, degrees=True).as_quat().tolist()
        place = (0.0, 0.0, 5.0 * k) if how == "camera" else (5.0 * k, 0.0, 0.1 * k)
        rows.append((START_S + k, place, (w, x, y, z) if how == "w x y z" else (x, y, z, w)))
    write_odometry(drive, rows)
    noted = any("z axis does not point up" in note for note in ml.open_drive(drive).notes)
    assert noted == (how != "upright")


# --- Clouds and headings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["335337", "435337"], [335_337_000, 435_337_000]),
        (["5337", "105337"], [5_337_000, 105_337_000]),
        (["033", "133"], [33_000_000, 133_000_000]),
        (["335337000", "5337000"], [335_337_000, 5_337_000]),
    ],
)
def test_parts_of_a_second_in_names(parts: list[str], expected: list[int]) -> None:
    found = times_in_names([f"{START_S}_{part}" for part in parts])
    assert found is not None
    assert (found - START_S * 10**9).tolist() == expected


@pytest.mark.parametrize(("shift_m", "says"), [(0.0, "centimetres"), (5000.0, "not in a map's")])
def test_the_remedy_for_points_far_away_fits(drive: Path, shift_m: float, says: str) -> None:
    points = np.random.default_rng(0).normal(0, 1000, (500, 3)) + [shift_m, 0, 0]
    for file in (drive / "clouds").iterdir():
        write_cloud(file, points)
    with pytest.raises(MaptileError, match=says):
        ml.open_drive(drive)


def test_degrees_in_a_column_of_radians_are_refused(drive: Path) -> None:
    rows = "".join(f"{(START_S + k) * 10**9},{270 + k}\n" for k in range(8))
    (drive / "heading.csv").write_text("t_ns,heading\n" + rows)
    with pytest.raises(MaptileError, match="name it heading_deg"):
        ml.open_drive(drive)
    (drive / "heading.csv").write_text("t_ns,heading_deg\n" + rows)
    assert ml.open_drive(drive).heading is not None
