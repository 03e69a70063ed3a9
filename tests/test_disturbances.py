"""The disturbances of the benchmark of live localization do what they say."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from conftest import ROOT

import maptile_loc as ml

sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def case(town_city, town_drive):
    city, drive = ml.open_city(town_city), ml.open_drive(town_drive)
    return city.raster, drive


def made(case, kind):
    from disturbances import disturbed

    raster, drive = case
    return disturbed(drive, raster, kind, 0)


def test_a_kidnapped_vehicle_goes_on_elsewhere_without_a_gap(case) -> None:
    found = made(case, "kidnapped")
    t_ns, over = found.drive.scans.t_ns, found.over
    assert (np.diff(t_ns) >= 0).all() and np.diff(t_ns).max() < 1_000_000_000
    jump = np.linalg.norm(np.diff(found.truth[:, :2], axis=0), axis=1)
    assert jump.argmax() == over - 1 and jump[over - 1] > 20
    poses = found.drive.odometry.at(t_ns)
    step = np.linalg.norm(np.diff(poses[:, :2, 3], axis=0), axis=1)
    assert step.max() < 2.0
    assert np.diff(found.travelled).max() < 2.0


def test_a_gap_has_no_odometry_but_scans(case) -> None:
    found = made(case, "odometry gap")
    odometry = found.drive.odometry
    assert set(odometry.segment) == {0, 1}
    assert len(odometry.t_ns) < len(found.drive.scans.t_ns)


def test_a_blinded_sensor_sees_nothing_for_a_while(case) -> None:
    found = made(case, "blinded")
    scans, over = found.drive.scans, found.over
    assert len(scans.read(over - 2, over - 1).points) == 0
    assert len(scans.read(over, over + 1).points) > 0
    assert len(scans.read(0, 1).points) > 0


def test_a_vehicle_leaves_the_map_and_comes_back(case) -> None:
    found = made(case, "off the map")
    if found is None:
        pytest.skip("no straight edge cuts this route")
    inside = found.raster.inside(found.truth[:, :2])
    assert inside[0] and inside[found.over :].all() and not inside[found.over - 1]
    np.testing.assert_allclose(found.truth[0], found.truth[-1])
    assert (np.diff(found.drive.scans.t_ns) >= 0).all()
    middle = found.truth[: found.over, :2].mean(axis=0)
    assert found.raster.west < middle[0] < found.raster.west + 5000


def test_what_follows_a_disturbance_is_a_drive_of_its_own(case) -> None:
    from disturbances import rest_of

    found = made(case, "kidnapped")
    rest, over = rest_of(found), found.over
    assert rest.over == 0 and rest.travelled[0] == 0
    for mine, whole in ((rest.truth, found.truth), (rest.drive.scans.t_ns, found.drive.scans.t_ns)):
        np.testing.assert_array_equal(mine, whole[over:])
    scan, same = rest.drive.scans.read(3, 4), found.drive.scans.read(over + 3, over + 4)
    np.testing.assert_array_equal(scan.points, same.points)
    moved = rest.drive.odometry.at(rest.drive.scans.t_ns)
    np.testing.assert_allclose(moved, found.drive.odometry.at(found.drive.scans.t_ns)[over:])


def test_a_map_without_half_of_its_houses_is_another_map(town_city, town_drive) -> None:
    """Otherwise the fields that are kept of the whole map would be searched."""
    from faulty_drives import degraded

    city = ml.open_city(town_city)
    other, _ = degraded(city, ml.open_drive(town_drive), "half the houses", 0)
    assert other.content_hash != city.content_hash
    assert other.folder is None
    left = np.mean(other.raster.data[0] > 0) / np.mean(city.raster.data[0] > 0)
    assert 0.2 < left < 0.8
