"""The layout of .bin files by their contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.sources.points.bin_layout import KITTI, Layout, layout_of
from data_prep.sources.points.pointfiles import read_cloud


def scan(seed: int, columns: int, rings: int = 32) -> np.ndarray:
    """(N, columns) a scan of a spinning LiDAR: x, y, z, intensity, ring, seconds."""
    rng = np.random.default_rng(seed)
    azimuth = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    down = np.radians(np.linspace(-25, 3, rings))[:, None]
    walk = np.cumsum(rng.normal(0, 0.4, len(azimuth)))
    far = np.clip(12 + walk - np.linspace(walk[0], walk[-1], len(walk)), 4, 60)
    distance = np.minimum(far, 1.8 / np.maximum(np.sin(-down), 1e-3))
    distance = distance * rng.uniform(0.97, 1.03, distance.shape)
    x, y = distance * np.cos(down) * np.cos(azimuth), distance * np.cos(down) * np.sin(azimuth)
    parts = [x, y, distance * np.sin(down) + 0 * azimuth, rng.gamma(2, 0.1, x.shape)]
    parts += [np.arange(rings)[:, None] + 0 * x, 0.1 * azimuth / (2 * np.pi) + 0 * x]
    return np.stack([part.ravel() for part in parts[:columns]], -1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    columns=st.sampled_from([3, 4, 5, 6]),
    kind=st.sampled_from(["<f4", "<f8"]),
    shuffled=st.booleans(),
)
def test_rows_of_any_number_of_columns_are_recognised(
    seed: int, columns: int, kind: str, shuffled: bool
) -> None:
    rows = scan(seed, columns)
    if shuffled:
        rows = np.random.default_rng(seed).permutation(rows)
    assert layout_of(rows.astype(kind).tobytes()) == Layout(kind, columns)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["<f4", "<f8"]))
def test_blocks_of_four_are_recognised(seed: int, kind: str) -> None:
    rows = scan(seed, 4).astype(kind)
    layout = layout_of(np.ascontiguousarray(rows.T).tobytes())
    assert layout == Layout(kind, 4, blocks=True)
    np.testing.assert_array_equal(layout.table(np.ascontiguousarray(rows.T).tobytes()), rows)


def test_points_without_return_do_not_matter() -> None:
    rows = scan(3, 5)
    rows[::3] = 0
    rows[1::7] = np.nan
    assert layout_of(rows.astype("<f4").tobytes()) == Layout("<f4", 5)


def test_a_few_points_have_the_most_common_layout() -> None:
    assert layout_of(np.zeros(12, "<f4").tobytes()) == KITTI
    assert layout_of(b"") == KITTI


def test_what_cannot_be_made_out_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 10, 30_000).astype("<f4")
    (tmp_path / "noise.bin").write_bytes(noise.tobytes())
    with pytest.raises(MaptileError, match=r"noise\.bin: .* cannot be made out"):
        read_cloud(tmp_path / "noise.bin")
    (tmp_path / "odd.bin").write_bytes(noise.tobytes()[:4001])
    with pytest.raises(MaptileError, match="no whole number of points"):
        read_cloud(tmp_path / "odd.bin")


def test_a_drive_of_five_columns_has_the_points_of_one_of_four(tmp_path: Path) -> None:
    """A sweep of nuScenes has rings; its size is a multiple of 16, as KITTI's."""
    for columns in (4, 5):
        clouds = tmp_path / f"{columns}" / "clouds"
        clouds.mkdir(parents=True)
        (clouds / "1317384506407123456.bin").write_bytes(scan(1, columns).astype("<f4").tobytes())
    four, five = (open_drive(tmp_path / f"{n}").scans.read(0, 1).points for n in (4, 5))
    np.testing.assert_array_equal(four, five)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("kitti_raw/**/velodyne_points/data/*.bin", KITTI),
        ("kitti_odometry/**/velodyne/*.bin", KITTI),
        ("mcd_kth/clouds/*.bin", KITTI),
        ("radar_robotcar/**/velodyne_left/*.bin", Layout("<f4", 4, blocks=True)),
    ],
)
def test_real_scans_have_the_layout_that_they_are_known_to_have(
    data_dir: Path, pattern: str, expected: Layout
) -> None:
    files = sorted(data_dir.glob(pattern))
    assert files
    for file in files[::5]:
        rows = expected.table(file.read_bytes())
        assert layout_of(file.read_bytes()) == expected
        more = np.column_stack([rows, np.arange(len(rows)) % 64])  # with rings
        assert layout_of(more.astype("<f4").tobytes()) == Layout("<f4", 5)
        assert layout_of(rows[:, :3].astype("<f4").tobytes()) == Layout("<f4", 3)
