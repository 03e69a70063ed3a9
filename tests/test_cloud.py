"""One cloud, and clouds without times: each is localized by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import maptile_loc as ml
from maptile_loc.cli import app
from maptile_loc.report.inspect.drive_picture import draw_drive

SHOWN = (0, 3, 6)


@pytest.fixture(scope="module")
def scans(town_city: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Clouds of a simulated HDL-64E, in the sensor's frame, and their true positions."""
    folder = tmp_path_factory.mktemp("cloud")
    drive = ml.simulate(town_city, folder / "drive", sensor="hdl64", length_m=60.0, seed=2)
    assert drive.truth is not None
    files = {}
    for number in SHOWN:
        block = drive.scans.read(number, number + 1)
        points = block.points - block.origin[0]
        rows = np.column_stack([points, np.zeros(len(points))]).astype("<f4")
        files[number] = folder / f"{number}.bin"
        files[number].write_bytes(rows.tobytes())
    city = ml.open_city(town_city)
    latitude, longitude, _ = drive.truth.at(drive.scans.t_ns[list(SHOWN)])
    truth = city.raster.projection.forward(latitude, longitude)
    return {"files": files, "truth": truth}


def test_one_cloud_is_a_drive_of_one_scan(scans: dict, tmp_path: Path) -> None:
    file = scans["files"][0]
    one = ml.open_drive(file)
    assert (one.format, one.apart, len(one.scans.t_ns)) == ("cloud", True, 1)
    (tmp_path / "drive" / "clouds").mkdir(parents=True)
    named = tmp_path / "drive" / "clouds" / "1317384506407123456.bin"
    named.write_bytes(file.read_bytes())
    folder = ml.open_drive(tmp_path / "drive")
    assert not folder.apart
    np.testing.assert_array_equal(
        one.scans.read(0, 1).points, folder.scans.read(0, 1).points, strict=True
    )


def test_the_picture_of_one_cloud_has_no_axis_of_time(scans: dict) -> None:
    picture = draw_drive(ml.open_drive(scans["files"][0]), 0.0)
    assert len([axes for axes in picture.axes if axes.get_title(loc="left")]) == 2
    assert not any("s after" in axes.get_xlabel() for axes in picture.axes)


def test_the_command_says_where_a_cloud_was_taken(
    town_city: Path, scans: dict, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["localize", str(town_city), str(scans["files"][3]), "--out", str(out)]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    first = next(line for line in said.output.splitlines() if line.startswith("scan 0, 1: "))
    latitude, longitude = (float(part.strip(",")) for part in first.split()[3:5])
    place = ml.open_city(town_city).raster.projection.forward(latitude, longitude)
    assert np.hypot(*(np.array(place) - scans["truth"][1])) < 5
    written = json.loads((out / "candidates.geojson").read_text())["features"]
    assert written[0]["properties"]["rank"] == 1
    assert written[0]["geometry"]["coordinates"] == pytest.approx([longitude, latitude], abs=1e-6)
    shares = [float(line.split()[-1]) for line in said.output.splitlines() if "probab" in line]
    assert sum(feature["properties"]["probability"] for feature in written) <= 1 + 1e-6
    assert sum(shares) == pytest.approx(1, abs=0.05)  # of five candidates, and elsewhere


def test_clouds_without_times_are_localized_one_by_one(
    town_city: Path, scans: dict, tmp_path: Path
) -> None:
    folder = tmp_path / "some" / "clouds"
    folder.mkdir(parents=True)
    for name, number in (("scan2", 0), ("scan10", 3), ("scan1", 6)):
        (folder / f"{name}.bin").write_bytes(scans["files"][number].read_bytes())
    drive = ml.open_drive(tmp_path / "some")
    assert drive.apart
    assert any("each is localized by itself" in note for note in drive.notes)
    found = ml.localize(town_city, drive)
    for row, number in enumerate((6, 0, 3)):  # scan1, scan2, scan10
        alone = ml.localize(town_city, scans["files"][number])
        # Each is turned by a random angle of its own first.
        np.testing.assert_allclose(
            found.candidates[row, 0, :2], alone.candidates[0, 0, :2], atol=0.5
        )
    with pytest.raises(ml.MaptileError, match="no times; leave --online out"):
        ml.localize(town_city, drive, online=True)


def test_clouds_of_radar_robotcar_are_turned_upright(scans: dict, tmp_path: Path) -> None:
    """Its blocks of columns are in a frame with x backward and z down."""
    rows = np.frombuffer(scans["files"][0].read_bytes(), "<f4").reshape(-1, 4)
    down = rows * np.array([-1, 1, -1, 1], "<f4")
    (tmp_path / "down.bin").write_bytes(np.ascontiguousarray(down.T).tobytes())
    drive = ml.open_drive(tmp_path / "down.bin")
    np.testing.assert_array_equal(
        drive.scans.read(0, 1).points, ml.open_drive(scans["files"][0]).scans.read(0, 1).points
    )
    assert any("z is down: the clouds are turned upright" in note for note in drive.notes)


@pytest.mark.realdata
def test_a_real_cloud_of_radar_robotcar_stands_on_the_ground(
    data_dir: Path, tmp_path: Path
) -> None:
    files = sorted((data_dir / "radar_robotcar").glob("*/velodyne_left/*.bin"))
    (tmp_path / "alone.bin").write_bytes(files[0].read_bytes())
    height = ml.open_drive(tmp_path / "alone.bin").scans.read(0, 1).points[:, 2]
    values, edges = np.histogram(height, np.arange(-4, 4, 0.25))
    assert -2.5 < edges[values.argmax()] < -1.0


def test_a_file_that_is_no_cloud_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(ml.MaptileError, match="neither a folder nor an archive"):
        ml.open_drive(tmp_path / "notes.txt")
    (tmp_path / "bad.ply").write_text("ply\nformat")
    with pytest.raises(ml.MaptileError, match=r"bad\.ply"):
        ml.open_drive(tmp_path / "bad.ply")
