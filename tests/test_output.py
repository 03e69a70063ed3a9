from __future__ import annotations

import csv
import json
import resource
import signal
import xml.etree.ElementTree as ET
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from interruptions import CRASHED, REFUSED, SUCCEEDED, interruptions
from made import blocks_raster
from made_result import (
    RECORD,
    estimates,
    localization,
    path,
    random_localization,
    random_scans,
    times,
    truth_track,
    with_scans,
)

from data_prep.errors import MaptileError
from data_prep.settings import Settings
from maptile_loc.report import formats
from maptile_loc.report.files import read_result, write_result
from maptile_loc.report.trajectory import query_table, stretches
from maptile_loc.types import Localization

COLUMNS = [
    *("frame", "t_ns", "latitude", "longitude", "east", "north", "heading_deg"),
    *("std_east", "std_north", "std_heading_deg", "score", "localized"),
    *("protection_m", "reason"),
]


@pytest.fixture(scope="module")
def raster():
    return blocks_raster()


@pytest.fixture
def broken(raster) -> Localization:
    """Twelve queries: 3 and 4 have no pose, 8 has one that is not localized."""
    poses = path(raster, 12)
    poses[3:5] = np.nan
    return localization(raster, poses, np.arange(12) != 8)


def written(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("seed", range(3))
def test_everything_but_the_tiles_is_read_back_bit_for_bit(raster, tmp_path, seed):
    result = random_localization(raster, 50, seed)
    write_result(result, tmp_path / "new" / "o")
    back = read_result(tmp_path / "new" / "o", raster)
    assert back.record.items() >= RECORD.items()
    assert (back.blind, back.notes) == (2, ("a note",))
    assert list(back.stages) == list(result.stages)
    for name, stage in result.stages.items():
        for field in ("poses", "covariance", "score", "localized"):
            expected, found = getattr(stage, field), getattr(back.stages[name], field)
            assert expected.dtype == found.dtype
            np.testing.assert_array_equal(expected, found)
    for field in ("frame", "t_ns", "query_seconds", "candidates", "final", "search_area_km2"):
        np.testing.assert_array_equal(getattr(result, field), getattr(back, field))
    tile, found_tile = result.tiles[3], back.tiles[3]
    assert (tile.resolution, tile.rotation) == (found_tile.resolution, found_tile.rotation)
    for channel, levels in (("wall", 255), ("ground", 255), ("observed", 255), ("road", 127)):
        error = np.abs(getattr(tile, channel) - getattr(found_tile, channel)).max()
        assert 0 < error <= 0.5 / levels + 1e-6


def test_poses_per_scan_are_read_back_bit_for_bit(raster, tmp_path):
    result = random_localization(raster, 50, 0)
    dense = random_scans(3000, 50, 1)
    write_result(replace(result, dense=dense), tmp_path)
    back = read_result(tmp_path, raster).dense
    for field in fields(dense):
        expected, found = getattr(dense, field.name), getattr(back, field.name)
        assert expected.dtype.kind == found.dtype.kind
        np.testing.assert_array_equal(expected, found)
    assert (tmp_path / "scans.npz").stat().st_size < 120 * 3000
    write_result(result, tmp_path)
    assert not (tmp_path / "scans.npz").exists()
    assert read_result(tmp_path, raster).dense is None


def test_a_result_of_an_earlier_version_has_no_poses_per_scan(broken, raster, tmp_path):
    write_result(broken, tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    del run["dense"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "queries.csv").unlink()
    back = read_result(tmp_path, raster)
    assert back.dense is None
    assert back.evaluate(truth_track(raster, times(12), path(raster, 12)))["dense"] == {}
    assert len(back.plot()._repr_png_()) > 10_000
    assert len(back.to_geodataframe()) == 12
    with pytest.raises(MaptileError, match="made: localized by an earlier version"):
        back.to_geodataframe(dense=True)


def test_trajectory_csv_has_a_row_per_scan(broken, raster, tmp_path):
    result = with_scans(broken)
    write_result(result, tmp_path)
    with (tmp_path / "trajectory.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == [*COLUMNS, "query"]
    assert [int(row[0]) for row in rows] == list(range(111))
    assert [int(row[-1]) for row in rows] == result.dense.query.tolist()
    table = pd.read_csv(tmp_path / "trajectory.csv")
    other = pd.read_csv(tmp_path / "queries.csv")
    mine = table[table["query"] >= 0].drop(columns="query").reset_index(drop=True)
    kept = other["east"].notna()
    pd.testing.assert_frame_equal(mine[kept], other[kept])
    frame = broken.frame.astype(float)
    poses = path(raster, 12)
    np.testing.assert_allclose(table["east"], np.interp(table["frame"], frame, poses[:, 0]))
    dense = result.to_geodataframe(dense=True)
    assert len(dense) == 111
    pd.testing.assert_series_equal(dense["east"], table["east"])
    with pytest.raises(MaptileError, match="'coarse': only the final one, smoothed, is dense"):
        result.to_geodataframe("coarse", dense=True)


def test_geojson_gpx_and_tum_have_the_localized_scans(broken, raster, tmp_path):
    result = with_scans(broken)
    write_result(result, tmp_path)
    localized = np.flatnonzero(result.dense.localized)
    assert 60 < len(localized) < 111
    table = pyogrio.read_dataframe(tmp_path / "trajectory.geojson")
    points = table[table["kind"] != "path"]
    assert points["frame"].tolist() == localized.tolist()
    made = result.dense.query[localized] >= 0
    assert points["kind"].tolist() == np.where(made, "query", "scan").tolist()
    points = pyogrio.read_dataframe(tmp_path / "trajectory.gpx", layer="track_points")
    assert len(points) == len(localized)
    rows = np.loadtxt(tmp_path / "trajectory.tum")
    origin = json.loads((tmp_path / "run.json").read_text())["tum_origin"]
    expected = result.dense.poses[localized, 0]
    np.testing.assert_allclose(rows[:, 1] + origin["east"], expected, atol=1e-3)


@pytest.mark.parametrize("name", ["frame", "poses", "reason", "query", "reasons"])
def test_damaged_poses_per_scan_are_one_line(broken, raster, tmp_path, name):
    write_result(with_scans(broken), tmp_path)
    with np.load(tmp_path / "scans.npz") as stored:
        arrays = dict(stored)
    others = {key: value for key, value in arrays.items() if key != name}
    for changed in (others, others | {name: arrays[name][:-1]}, others | {name: np.zeros(0)}):
        np.savez(tmp_path / "scans.npz", **changed)
        with pytest.raises(MaptileError, match=r"scans.npz: damaged or missing") as caught:
            read_result(tmp_path, raster)
        assert "\n" not in str(caught.value)


def test_a_result_without_queries_is_read_back(raster, tmp_path):
    write_result(localization(raster, np.empty((0, 3))), tmp_path)
    back = read_result(tmp_path, raster)
    assert list(back.stages) == ["coarse", "aligned", "fused", "smoothed"]
    assert all(stage.poses.shape == (0, 3) for stage in back.stages.values())
    assert pyogrio.read_dataframe(tmp_path / "trajectory.geojson").empty


def test_an_online_result_has_no_smoothed_stage(raster, tmp_path):
    result = localization(raster, path(raster, 5))
    stages = {name: result.stages[name] for name in ("coarse", "aligned", "fused")}
    write_result(replace(result, stages=stages, final="fused"), tmp_path)
    back = read_result(tmp_path, raster)
    assert back.final == "fused"
    assert list(back.stages) == ["coarse", "aligned", "fused"]


def test_queries_csv_has_a_row_per_query_and_blanks_without_a_pose(broken, raster, tmp_path):
    write_result(broken, tmp_path)
    with (tmp_path / "queries.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == COLUMNS
    assert [int(row[0]) for row in rows] == broken.frame.tolist()
    assert [int(row[1]) for row in rows] == broken.t_ns.tolist()
    blank = [all(cell == "" for cell in row[2:10]) for row in rows]
    assert blank == [i in (3, 4) for i in range(12)]
    assert [row[11] for row in rows] == [str(i not in (3, 4, 8)) for i in range(12)]


def test_query_table_in_degrees_and_deviations(raster):
    poses = np.array([[*raster.centre, np.pi / 2 + 2 * np.pi]])
    stage = estimates(poses)
    stage = replace(stage, covariance=np.diag([4.0, 9.0, np.radians(3) ** 2])[None])
    result = replace(localization(raster, poses), stages={"smoothed": stage})
    row = query_table(result).iloc[0]
    assert row["heading_deg"] == pytest.approx(90)
    assert (row["std_east"], row["std_north"]) == (2, 3)
    assert row["std_heading_deg"] == pytest.approx(3, abs=1e-4)
    east, north = raster.projection.forward(row["latitude"], row["longitude"])
    np.testing.assert_allclose([east, north], poses[0, :2], atol=1e-3)


def test_another_reader_reads_the_geojson(broken, raster, tmp_path):
    write_result(broken, tmp_path)
    table = pyogrio.read_dataframe(tmp_path / "trajectory.geojson")
    assert table.crs.to_epsg() == 4326
    points, lines = table[table["kind"] == "query"], table[table["kind"] == "path"]
    assert points["frame"].tolist() == [10 * i for i in (0, 1, 2, 5, 6, 7, 9, 10, 11)]
    moved = points.to_crs(raster.crs).geometry
    expected = broken.stages["smoothed"].poses[[0, 1, 2, 5, 6, 7, 9, 10, 11]]
    np.testing.assert_allclose(shapely.get_coordinates(moved), expected[:, :2], atol=2e-3)
    assert [len(line.coords) for line in lines.geometry.iloc[0].geoms] == [3, 3, 3]
    text = (tmp_path / "trajectory.geojson").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "OpenStreetMap" in content["attribution"]
    assert "crs" not in content  # RFC 7946, section 4


def test_every_module_in_formats_is_an_output_format(broken, tmp_path):
    names = formats.FORMATS.names()
    every = formats.output_formats()
    assert len(every) == len(names) >= 4
    assert len({form.file_name for form in every}) == len(every)
    assert all(formats.FORMATS.summary(name) for name in names)
    for form in every:
        form.write(broken, tmp_path / form.file_name)
        assert (tmp_path / form.file_name).stat().st_size > 0
    write_result(broken, tmp_path / "o")
    assert {form.file_name for form in every} <= set(written(tmp_path / "o"))


def test_another_reader_reads_the_gpx(broken, raster, tmp_path):
    write_result(broken, tmp_path)
    points = pyogrio.read_dataframe(tmp_path / "trajectory.gpx", layer="track_points")
    assert points["track_seg_id"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    keep = [0, 1, 2, 5, 6, 7, 9, 10, 11]
    moved = shapely.get_coordinates(points.to_crs(raster.crs).geometry)
    np.testing.assert_allclose(moved, broken.stages["smoothed"].poses[keep, :2], atol=2e-3)
    read = pd.to_datetime(points["time"]).dt.tz_convert("UTC").dt.tz_localize(None)
    late = read.to_numpy("datetime64[ns]") - broken.t_ns[keep].astype("datetime64[ns]")
    assert np.abs(late).max() <= np.timedelta64(1_100_000, "ns")  # GDAL keeps milliseconds
    text = (tmp_path / "trajectory.gpx").read_text()
    assert "OpenStreetMap" in text
    space = {"g": "http://www.topografix.com/GPX/1/1"}
    exact = [node.text for node in ET.fromstring(text).iterfind(".//g:trkpt/g:time", space)]
    assert exact[0] == "2014-11-14T21:20:00.123456Z"


def test_tum_holds_localized_rows_from_the_origin_in_run_json(broken, raster, tmp_path):
    write_result(broken, tmp_path)
    rows = np.loadtxt(tmp_path / "trajectory.tum")
    keep = [0, 1, 2, 5, 6, 7, 9, 10, 11]
    origin = json.loads((tmp_path / "run.json").read_text())["tum_origin"]
    poses = broken.stages["smoothed"].poses[keep]
    np.testing.assert_allclose(rows[:, 1] + origin["east"], poses[:, 0], atol=1e-3)
    np.testing.assert_allclose(rows[:, 2] + origin["north"], poses[:, 1], atol=1e-3)
    np.testing.assert_allclose(2 * np.arctan2(rows[:, 6], rows[:, 7]), poses[:, 2], atol=1e-6)
    first = (tmp_path / "trajectory.tum").read_text().splitlines()[1]
    assert first.startswith("1416000000.123456789 ")


def test_a_new_result_removes_only_what_was_derived_from_the_old_one(broken, raster, tmp_path):
    write_result(broken, tmp_path)
    for name in ("metrics.json", "errors.csv", "report.html", "diary.txt"):
        (tmp_path / name).write_text("old")
    write_result(broken, tmp_path)
    left = written(tmp_path)
    assert left["diary.txt"] == b"old"
    assert not {"metrics.json", "errors.csv", "report.html"} & set(left)


def test_a_full_disk_leaves_the_old_result_whole(broken, raster, tmp_path):
    write_result(broken, tmp_path)
    before = written(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(MaptileError, match=r"cannot write: File too large") as caught:
            write_result(random_localization(raster, 50, 0), tmp_path)
        with pytest.raises(MaptileError):
            write_result(random_localization(raster, 50, 0), tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert written(tmp_path) == before


def test_settings_are_replaced_with_the_result_and_read_back(broken, raster, tmp_path):
    class Recipe(Settings):
        submap: dict[str, float] = {"length_m": 50.0}  # noqa: RUF012

    write_result(replace(broken, settings=Recipe()), tmp_path)
    back = read_result(tmp_path, raster)
    assert back.settings.model_dump() == {"submap": {"length_m": 50.0}}
    before = written(tmp_path)
    write_result(back, tmp_path)
    assert written(tmp_path) == before
    write_result(broken, tmp_path)
    assert read_result(tmp_path, raster).settings is None


@pytest.mark.parametrize("how", ["fail", "kill"])
def test_an_interruption_at_any_step_leaves_one_whole_result(broken, raster, tmp_path, how):
    """No state file of one result stands beside one of another, and the user's file stays."""
    truth = truth_track(raster, times(12), path(raster, 12))
    other = replace(broken, query_seconds=broken.query_seconds + 1, final="aligned")
    other = replace(other, settings=Settings())
    folder = tmp_path / "o"
    write_result(broken, folder)
    (folder / "diary.txt").write_text("mine")
    old = written(folder)
    write_result(other, tmp_path / "new", truth)
    new = written(tmp_path / "new") | {"diary.txt": b"mine"}
    codes = set()
    for code in interruptions(lambda: write_result(other, folder, truth), how):
        assert code != CRASHED
        assert written(folder) == (old if code == REFUSED else new) or (
            code == -signal.SIGKILL and written(folder) in (old, new)
        )
        codes.add(code)
        if written(folder) == new:
            write_result(broken, folder)
    assert codes == ({-signal.SIGKILL} if how == "kill" else {REFUSED, SUCCEEDED})


def test_a_folder_that_cannot_be_made_is_one_line(broken, raster, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MaptileError, match=r"file/o: cannot write") as caught:
        write_result(broken, tmp_path / "file" / "o")
    assert "\n" not in str(caught.value)


def test_no_result_and_damaged_results_are_one_line(broken, raster, tmp_path):
    with pytest.raises(MaptileError, match="no result here"):
        read_result(tmp_path, raster)
    write_result(with_scans(broken), tmp_path)
    whole = written(tmp_path)
    rows = whole["stages.csv"].splitlines(keepends=True)
    for name, content in (
        ("run.json", b"{}"),
        ("run.json", b"no json"),
        ("stages.csv", b"stage\n"),
        ("stages.csv", b"".join(rows[:-3])),
        ("stages.csv", whole["stages.csv"].replace(b"6", b"x")),
        ("queries.npz", whole["queries.npz"][:100]),
        ("queries.npz", b""),
        ("scans.npz", whole["scans.npz"][:100]),
        ("scans.npz", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MaptileError, match=name) as caught:
            read_result(tmp_path, raster)
        assert "\n" not in str(caught.value)
        (tmp_path / name).write_bytes(whole[name])
    for name in ("stages.csv", "queries.npz", "scans.npz"):
        (tmp_path / name).unlink()
        with pytest.raises(MaptileError, match=name):
            read_result(tmp_path, raster)
        (tmp_path / name).write_bytes(whole[name])
    read_result(tmp_path, raster)


def test_stretches():
    mask = np.array([1, 1, 0, 1, 0, 0, 1], bool)
    assert stretches(mask) == [slice(0, 2), slice(3, 4), slice(6, 7)]
    assert stretches(np.zeros(3, bool)) == []
    assert times(2)[1] - times(2)[0] == 1_000_000_001
