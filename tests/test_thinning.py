"""Large clouds are thinned as they are read, the same in all formats."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import laspy
import numpy as np
import open3d as o3d
import pytest
from hypothesis import strategies as st

from data_prep.sources import open_drive
from data_prep.sources.points import thinning
from data_prep.sources.points.pointfiles import read_cloud, said_of_thinning

COUNT = 9_973
POINTS = np.column_stack(
    [np.arange(COUNT) / 100, np.random.default_rng(0).normal(0, 3, (COUNT, 2))]
).astype(np.float32)


@pytest.fixture
def small(monkeypatch):
    """Thins clouds of more than 1000 points, and maps files of more than 1000 bytes."""
    monkeypatch.setattr(thinning, "MOST_POINTS", 1000)
    monkeypatch.setattr(thinning, "LARGE_BYTES", 1000)
    monkeypatch.setattr(thinning, "_ROWS", 700)
    monkeypatch.setattr(thinning, "_TEXT_BYTES", 5000)


def write(path: Path, text: bool = False) -> Path:
    if path.suffix == ".bin":
        np.column_stack([POINTS, np.ones(COUNT)]).astype("<f4").tofile(path)
    elif path.suffix in (".las", ".laz"):
        las = laspy.create(point_format=0)
        las.header.scales = [1e-6] * 3
        las.x, las.y, las.z = POINTS.astype(np.float64).T
        las.write(path)
    else:
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(POINTS.astype(np.float64)))
        o3d.io.write_point_cloud(str(path), cloud, write_ascii=text)
    return path


@pytest.mark.parametrize("name", ["a.bin", "a.ply", "a.pcd", "a.las", "a.laz"])
@pytest.mark.parametrize("text", [False, True])
def test_the_points_kept_are_those_of_the_file(tmp_path, small, name, text):
    cloud = read_cloud(write(tmp_path / name, text))
    chosen = thinning.kept(COUNT)
    assert chosen is not None
    assert cloud.count == COUNT
    np.testing.assert_allclose(cloud.points, POINTS[chosen], atol=1e-5)
    assert said_of_thinning(cloud) == [f"a cloud of 9,973 points is thinned to {len(chosen):,}"]


def test_a_drive_says_that_it_is_thinned(tmp_path, small):
    (tmp_path / "clouds").mkdir()
    write(tmp_path / "clouds" / "1700000000000000000.ply")
    labels = tmp_path / "labels"
    labels.mkdir()
    number = np.arange(COUNT, dtype="<u4")
    number.tofile(labels / "1700000000000000000.label")
    drive = open_drive(tmp_path)
    assert any("9,973 points is thinned" in note for note in drive.notes)
    block = drive.scans.read(0, 1)
    assert block.label is not None
    np.testing.assert_array_equal(block.label, np.rint(block.points[:, 0] * 100).astype(int))


@hypothesis.given(st.integers(0, 10**7))
def test_one_point_of_each_group_is_kept(count):
    chosen = thinning.kept(count)
    if count <= thinning.MOST_POINTS:
        assert chosen is None
        return
    assert chosen is not None
    every = -(-count // thinning.MOST_POINTS)
    np.testing.assert_array_equal(chosen // every, np.arange(count // every))
    assert chosen.max() < count
    assert len(chosen) <= thinning.MOST_POINTS


def test_no_beam_of_a_sensor_is_preferred():
    """With 64 beams in turn, and one of 64 points kept, every beam is hit about as often."""
    chosen = thinning.kept(64 * thinning.MOST_POINTS)
    assert chosen is not None
    hits = np.bincount(chosen % 64, minlength=64)
    assert hits.min() > 0.9 * hits.mean()


def test_a_text_that_is_cut_short(tmp_path, small):
    path = write(tmp_path / "a.ply", text=True)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(Exception, match="cut short"):
        read_cloud(path)
