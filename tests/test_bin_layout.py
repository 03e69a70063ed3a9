"""The layout of .bin files by their contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstwobign

from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.sources.points.bin_layout import KITTI, Layout, _chance_of_more, layout_of
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


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
@pytest.mark.parametrize(
    "column", [np.nan, 0.0, 1.0, 1.7e9, "whole"], ids=["nan", "zero", "one", "date", "whole"]
)
@pytest.mark.parametrize("columns", [3, 4, 5])
def test_a_column_that_says_nothing_is_a_column(kind: str, column: object, columns: int) -> None:
    rows = scan(5, columns)
    last = np.arange(len(rows)) % 256 if column == "whole" else np.full(len(rows), column)
    table = np.column_stack([rows, last]).astype(kind)
    assert layout_of(table.tobytes()) == Layout(kind, columns + 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), columns=st.sampled_from([3, 4, 5, 6]), count=st.integers(60, 400)
)
@example(seed=438, columns=3, count=60)
def test_a_part_of_a_scan_has_its_layout(seed: int, columns: int, count: int) -> None:
    rows = np.random.default_rng(seed).permutation(scan(seed, columns))[:count]
    assert layout_of(rows.astype("<f4").tobytes()) == Layout("<f4", columns)


@given(seed=st.integers(0, 10_000), sizes=st.tuples(st.integers(5, 300), st.integers(5, 300)))
@example(seed=325, sizes=(5, 5))
def test_the_chance_of_a_larger_difference_is_that_of_scipy(
    seed: int, sizes: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, sizes[0]), rng.normal(rng.uniform(0, 2), 1, sizes[1])
    statistic = ks_2samp(a, b, method="asymp").statistic  # "auto" may warn that it gave up
    expected = kstwobign.sf(statistic * np.sqrt(len(a) * len(b) / (len(a) + len(b))))
    with_gaps = np.append(a, np.nan)
    assert _chance_of_more(with_gaps, b) == pytest.approx(expected, abs=1e-12)


def test_neighbours_decide_for_a_few_points(tmp_path: Path) -> None:
    clouds = tmp_path / "drive" / "clouds"
    clouds.mkdir(parents=True)
    start = 1317384506407123456
    for i in range(5):
        rows = scan(i, 5)[:: 1 if i else 2000]  # the first of 7 points
        (clouds / f"{start + i * 10**8}.bin").write_bytes(rows.astype("<f4").tobytes())
    first = scan(0, 5)[::2000, :3].astype("<f4")
    np.testing.assert_array_equal(open_drive(clouds.parent).scans.read(0, 1).points, first)
    alone = open_drive(clouds / f"{start}.bin")
    np.testing.assert_array_equal(alone.scans.read(0, 1).points, first)


def test_a_cloud_of_another_layout_is_refused(tmp_path: Path) -> None:
    clouds = tmp_path / "drive" / "clouds"
    clouds.mkdir(parents=True)
    for i in range(5):
        rows = scan(i, 3 if i == 2 else 5)[:1001]
        (clouds / f"{1317384506407123456 + i * 10**8}.bin").write_bytes(
            rows.astype("<f4").tobytes()
        )
    drive = open_drive(clouds.parent)
    assert len(drive.scans.read(0, 2).points) == 2002
    with pytest.raises(MaptileError, match=r"56\.bin: .* whole number of points in rows of 5"):
        drive.scans.read(2, 3)


def test_columns_may_be_stated(tmp_path: Path) -> None:
    clouds = tmp_path / "drive" / "clouds"
    clouds.mkdir(parents=True)
    rows = scan(2, 6)[:, [5, 3, 0, 1, 2, 4]].astype("<f4")  # time, intensity, x, y, z, ring
    (clouds / "1317384506407123456.bin").write_bytes(rows.tobytes())
    drive = open_drive(clouds.parent, columns=["time", "_", "x", "y", "z", "ring"])
    block = drive.scans.read(0, 1)
    np.testing.assert_array_equal(block.points, rows[:, 2:5])
    np.testing.assert_array_equal(block.seconds, rows[:, 0])
    assert drive.origin is not None
    assert drive.origin.columns == ("time", "_", "x", "y", "z", "ring")
    one = open_drive(clouds / "1317384506407123456.bin", columns=["_", "_", "x", "y", "z", "_"])
    np.testing.assert_array_equal(one.scans.read(0, 1).points, rows[:, 2:5])
    tiny = tmp_path / "tiny.bin"
    tiny.write_bytes(rows[:4, 2:5].astype("<f8").tobytes())
    with pytest.raises(MaptileError, match="cannot be made out; state its columns with --columns"):
        open_drive(tiny)
    stated = open_drive(tiny, columns=["x", "y", "z"]).scans.read(0, 1)
    np.testing.assert_array_equal(stated.points, rows[:4, 2:5])
    for wrong in (["x", "y"], ["x", "y", "z", "x"], ["x", "y", "z", ""]):
        with pytest.raises(MaptileError, match=r"--columns .* expected x, y, z"):
            open_drive(tiny, columns=wrong)
    with pytest.raises(MaptileError, match="no whole number of points of 7 columns"):
        open_drive(tiny, columns=["x", "y", "z", "a", "b", "c", "d"])


def test_columns_are_not_stated_for_formats_that_define_them(tmp_path: Path) -> None:
    (tmp_path / "cloud.ply").write_bytes(
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
        b"property float z\nend_header\n1 2 3\n"
    )
    drive = open_drive(tmp_path / "cloud.ply", columns=["x", "y", "z"])
    assert drive.scans.read(0, 1).points.tolist() == [[1, 2, 3]]
    (tmp_path / "run" / "lms_front").mkdir(parents=True)
    with pytest.raises(MaptileError, match=r"--columns is for \.bin point clouds"):
        open_drive(tmp_path / "run", columns=["x", "y", "z"])


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
