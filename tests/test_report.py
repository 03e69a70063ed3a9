from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
from made import blocks_raster
from made_result import localization, path, times, truth_track, write_drive

from data_prep.errors import MaptileError
from maptile_loc.report.files import evaluate_run, read_result, write_result
from maptile_loc.report.findings import clock, find
from maptile_loc.report.metrics import evaluate_queries
from maptile_loc.report.page.candidate_chart import candidate_chart
from maptile_loc.report.page.html_report import overview_png, write_report
from maptile_loc.report.page.map_layers import degrees_from_metres, map_layers
from maptile_loc.report.page.packed import MISSING, packed
from maptile_loc.report.page.page import render
from maptile_loc.report.page.tile_layers import grey_png
from maptile_loc.report.pictures import (
    broken_line,
    ellipses,
    map_crop,
    map_view,
    png_uri,
    seen_picture,
    tile_on_map,
)
from maptile_loc.small_tiles import (
    FREE,
    KEPT,
    ROAD,
    UNOBSERVED,
    SmallTiles,
    SmallTileStore,
    small_picture,
    small_tiles,
)
from maptile_loc.types import Localization, QueryTile

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """Checks that elements nest, and collects the addresses that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {attrs}"
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        if tag != "a":
            self.loads += [values[name] for name in ("src", "href", "data") if name in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data


@pytest.fixture(scope="module")
def raster():
    return blocks_raster()


@pytest.fixture
def drive(raster) -> Localization:
    """Thirty queries with 1 m of error; 3 has no pose, 7 is not localized, 20 is wrong by 60 m."""
    poses = path(raster, 30)
    poses[:, 1] += 1.0
    poses[3] = np.nan
    poses[20, 1] += 60.0
    return localization(raster, poses, np.arange(30) != 7, tiles=5)


@pytest.fixture
def folder(raster, drive, tmp_path):
    raster.write(tmp_path / "town.tif")
    truth = truth_track(raster, times(30), path(raster, 30))
    write_drive(tmp_path / "<b>drive", times(30), truth)
    run = {"city": str(tmp_path / "town.tif"), "drive": str(tmp_path / "<b>drive"), "every_m": 2.0}
    run |= {"method": "match", "heading": {"kind": "known", "std_deg": 0.0}, "submap_m": 50.0}
    run |= {"format": "clouds", "seed": 0}
    write_result(replace(drive, record=run), tmp_path / "o")
    return tmp_path / "o"


def embedded(text: str) -> dict:
    """The data of the page, with its packed numbers as arrays."""
    return unpacked(json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1]))


def unpacked(value):
    if isinstance(value, dict) and "kind" in value:
        whole = np.frombuffer(base64.b64decode(value["data"]), f"<{value['kind']}")
        return np.where(whole == MISSING[value["kind"]], np.nan, whole * value["step"])
    if isinstance(value, dict):
        return {key: unpacked(item) for key, item in value.items()}
    return value


def assert_offline_and_valid(text: str) -> Page:
    page = Page(text)
    assert all(load.startswith("data:") for load in page.loads)
    assert len(set(page.ids)) == len(page.ids)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
    assert "{{" not in text
    wanted = set(re.findall(r'byId\("([\w-]+)"\)', text))
    if "chart-recall" not in page.ids:
        wanted -= {"chart-recall", "recall-legend"}
    assert wanted <= set(page.ids)
    return page


def test_the_page_is_one_valid_file_that_loads_nothing(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    page = assert_offline_and_valid(text)
    assert page.text["h1"] == "<b>drive on town"
    assert "OpenStreetMap contributors" in text
    assert text.count('<figure class="tile">') == 5
    assert len(page.loads) == 9  # two pictures per tile, one where there is no pose


def test_the_page_evaluates_first_and_shows_those_figures(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"{100 * metrics['stages']['smoothed']['recall_5m']:.1f} %" in text
    data = embedded(text)
    assert data["bias"] == metrics["map_bias_m"]
    assert data["final"] == "smoothed"
    aligned, truth = data["stages"]["aligned"], data["truth"]
    off = np.hypot(aligned["x"] - truth["x"], aligned["y"] - truth["y"])
    expected = np.ones(30)
    expected[20] = 61
    np.testing.assert_allclose(np.delete(off, 3), np.delete(expected, 3), atol=2e-3)
    assert np.isnan(off[3])
    sure = aligned["reason"] == 0
    assert sure.tolist() == [i not in (3, 7) for i in range(30)]
    assert data["reasons"][int(aligned["reason"][7]) - 1] == "the scans do not fit the map"


def test_the_page_shows_recall_over_the_number_of_candidates(raster):
    """The right candidate is the third of 6 for half of the queries, and missing for the others."""
    poses = path(raster, 4)
    candidates = np.tile(poses[:, None] + [90.0, 0, 0], (1, 6, 1))
    candidates[:2, 2] = poses[:2]
    candidates = np.concatenate([candidates, np.zeros((4, 6, 1))], 2)
    chart = candidate_chart(candidates, poses, np.ones(4, bool))
    lines = re.findall(r'points="([^"]+)"', chart)
    assert len(lines) == 5
    y = np.array([[float(xy.split(",")[1]) for xy in line.split()] for line in lines])
    low, half = y[0, 0], y[0, -1]
    np.testing.assert_allclose(y, np.tile([low] * 2 + [half] * 4, (5, 1)))
    assert half < low  # up
    assert candidate_chart(None, poses, np.ones(4, bool)) == ""
    assert candidate_chart(candidates, poses, np.zeros(4, bool)) == ""


def test_the_map_in_the_page_has_the_extent_of_the_raster(folder, raster):
    data = embedded(write_report(folder).read_text(encoding="utf-8"))
    (picture,) = data["map"]
    west, south, east, north = picture["box"]
    assert [east - west, north - south] == [400, 400]
    assert picture["box"] == data["extent"]
    truth = np.array([data["truth"]["x"], data["truth"]["y"]]).T + raster.centre
    np.testing.assert_allclose(truth, path(raster, 30)[:, :2], atol=2e-3)


def test_the_page_works_without_truth(folder):
    (folder.parent / "<b>drive" / "truth.csv").unlink()
    text = write_report(folder).read_text(encoding="utf-8")
    assert_offline_and_valid(text)
    assert "has no truth to evaluate against" in text
    assert embedded(text)["truth"] is None
    assert 'id="chart-recall"' not in text


def test_the_page_works_without_a_query_or_a_pose(raster):
    for poses in (np.empty((0, 3)), np.full((4, 3), np.nan)):
        result = localization(raster, poses)
        assert_offline_and_valid(render(result, None, None))


def test_the_page_needs_the_city(folder):
    (folder.parent / "town.tif").rename(folder.parent / "moved.tif")
    with pytest.raises(MaptileError, match=r"town\.tif"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_the_overview_is_a_picture(folder):
    overview_png(folder, folder / "overview.png")
    picture = matplotlib.image.imread(folder / "overview.png")
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 100
    (folder.parent / "<b>drive" / "truth.csv").unlink()
    for name in ("metrics.json", "errors.csv"):
        (folder / name).unlink()
    overview_png(folder, folder / "without.png")
    without = matplotlib.image.imread(folder / "without.png")
    assert not np.array_equal(without, picture)


def findings(raster, result, truth_poses) -> str:
    truth = truth_track(raster, result.t_ns, truth_poses)
    metrics, _, errors = evaluate_queries(result, truth)
    return "\n".join(f"{kind}: {text}" for kind, text in find(result, metrics, errors))


def test_findings_name_errors_gaps_and_shift(raster, drive):
    text = findings(raster, drive, path(raster, 30))
    assert "good: 28 of 30 queries localized (93 %)." in text
    assert (
        "2 stretches without a position, in minutes from the start: 0:03 to 0:03 (1 query)" in text
    )
    assert "bad: 1 localized query is more than 10 m from the truth" in text
    assert "the largest error is 61 m, at frame 200." in text
    assert re.search(r"the map lies 0\.0 m (west|east) and 1\.0 m north of", text)
    assert "lie within their 95 % ellipse" in text


def test_findings_of_a_drive_outside_the_map(raster):
    poses = path(raster, 5) + [9000, 0, 0]
    nothing = localization(raster, np.full((5, 3), np.nan))
    text = findings(raster, nothing, poses)
    assert "the drive may be outside it" in text
    assert (
        "good: 5 queries are outside the map or close to its edge; none of them are called" in text
    )
    wrong = localization(raster, path(raster, 5))
    assert "bad: 5 queries are outside" in findings(raster, wrong, poses)
    assert "no query" in find(localization(raster, np.empty((0, 3))), None, None)[0].text


@pytest.mark.parametrize(
    ("scale", "words"), [(0.3, "too small"), (1.0, "about right"), (4.0, "cautious")]
)
def test_findings_judge_the_claimed_uncertainty(raster, scale, words):
    rng = np.random.default_rng(3)
    poses = path(raster, 150)
    poses[:, 0] = np.linspace(raster.west + 40, raster.east - 40, 150)
    estimate = poses.copy()
    estimate[:, :2] += rng.normal(scale=0.5 / 1.05, size=(150, 2))
    result = localization(raster, estimate)
    stage = result.stages["smoothed"]
    stage = replace(stage, covariance=stage.covariance * scale**2)
    text = findings(raster, replace(result, stages=result.stages | {"smoothed": stage}), poses)
    assert words in text


def test_clock():
    assert [clock(s) for s in (0, 9.9, 60, 3605)] == ["0:00", "0:09", "1:00", "60:05"]


def test_map_crop_copies_the_raster_if_the_pixels_coincide(raster):
    centre = raster.world_from_pixel([100, 260])
    crop = map_crop(raster, centre[:, None, None], 80, raster.resolution)
    np.testing.assert_array_equal(crop, raster.data[:, 60:140, 220:300])
    beyond = map_crop(raster, raster.world_from_pixel([0, 0])[:, None, None], 80, raster.resolution)
    assert not beyond[:, :40].any()
    assert not beyond[:, :, :40].any()
    np.testing.assert_array_equal(beyond[:, 40:, 40:], raster.data[:, :40, :40])


@pytest.mark.parametrize("rotation", [0.0, np.pi / 2, np.pi])
def test_a_wall_ahead_is_ahead_on_the_map_for_every_rotation_of_the_tile(rotation):
    """A wall 20 m ahead of a vehicle with heading north is 20 m north of it."""
    wall = np.zeros((128, 128), np.float32)
    x, y = 20.25 * np.cos(rotation), 20.25 * np.sin(rotation)
    wall[int(64 - y / 0.5), int(64 + x / 0.5)] = 1
    tile = QueryTile(wall, wall, wall, 0.5, rotation)
    rows, columns = np.nonzero(tile_on_map(tile, np.pi / 2))
    assert np.abs(rows - (63.5 - 20.25 / 0.5)).max() <= 1
    assert np.abs(columns - 63.5).max() <= 1


def test_a_north_up_tile_is_not_changed():
    tile = QueryTile(*np.random.default_rng(0).random((3, 64, 64), np.float32), 0.5, 1.234)
    np.testing.assert_array_equal(tile_on_map(tile, 1.234), tile.wall)


def test_ellipses_by_closed_form():
    c, s = np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    covariance = np.stack([turn @ np.diag([9.0, 4.0, 1.0]) @ turn.T, np.full((3, 3), np.nan)])
    long, short, angle = ellipses(covariance)[0]
    assert (long, short) == pytest.approx((3 * np.sqrt(5.991), 2 * np.sqrt(5.991)))
    assert angle % np.pi == pytest.approx(0.7)
    assert np.isnan(ellipses(covariance)[1]).all()


def test_large_maps_are_cropped_to_the_drive_and_reduced(raster):
    near = map_view(raster, raster.centre[None], 30.0)
    assert near.west == pytest.approx(raster.centre[0] - 30, abs=1)
    assert near.north == pytest.approx(raster.centre[1] + 30, abs=1)
    row, column = raster.pixel_from_world([near.west, near.north]).astype(int)
    rows, columns = near.data.shape[1:]
    np.testing.assert_array_equal(
        near.data, raster.data[:, row : row + rows, column : column + columns]
    )
    large = replace(raster, data=np.tile(raster.data, (1, 7, 7)))
    view = map_view(large, np.empty((0, 2)), 30.0)
    assert view.resolution == 3 * raster.resolution
    assert max(view.data.shape[1:]) <= 2400
    share = large.data[0].mean() / 255
    assert view.data[0].mean() / 255 == pytest.approx(share, rel=0.01)


def test_channels_of_a_tile_have_different_colours():
    wall, ground, observed = np.zeros((3, 8, 8), np.float32)
    observed[:4], ground[:2], wall[0] = 1, 1, 1
    road = np.zeros((8, 8), np.float32)
    road[1, 4:], road[1, :4] = 1, -1
    picture = seen_picture(QueryTile(wall, ground, observed, 0.5, 0.0, road=road))
    colours = [tuple(picture[row, 0]) for row in (0, 1, 2, 7)] + [tuple(picture[1, 7])]
    assert len(set(colours)) == 5
    assert sum(map(int, colours[0])) < 200  # dark
    assert png_uri(picture).startswith("data:image/png;base64,iVBOR")


def test_a_line_is_interrupted_at_a_jump():
    places = np.column_stack([[0, 10, 20, 500, 510, 520.0], np.zeros(6)])
    line = broken_line(places)
    assert np.isnan(line[3]).all()
    np.testing.assert_array_equal(np.delete(line, 3, axis=0), places)


def test_a_report_after_another_evaluation_reads_its_figures(folder):
    evaluate_run(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["stages"]["smoothed"]["median_m"] = 123.456
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "123.46 m" in write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "step"), [("i4", 0.001), ("u4", 1), ("u2", 0.01), ("u1", 0.004)])
def test_packed_numbers_are_within_half_a_step(kind, step):
    limits = np.iinfo(kind)
    low, high = max(limits.min + 1, -(2**31) + 1), limits.max - 1
    values = np.random.default_rng(1).uniform(low * step, high * step, 500)
    values[[3, 8]] = np.nan, np.inf
    back = unpacked(packed(values, kind, step))
    assert np.isnan(back[[3, 8]]).all()
    known = np.isfinite(values)
    assert np.abs(back - values)[known].max() <= step / 2 * (1 + 1e-6)
    beyond = unpacked(packed([1e30, -1e30], kind, step))
    assert np.isfinite(beyond).all()
    assert beyond[0] == pytest.approx(high * step)


def test_metres_become_degrees_on_large_maps(raster):
    """Against the projection itself, on 60 km around the map's centre."""
    large = replace(raster, resolution=75.0)
    poly = degrees_from_metres(large)
    away = np.random.default_rng(2).uniform(-30_000, 30_000, (200, 2))
    away = np.clip(away, [large.west - large.centre[0]] * 2, [large.east - large.centre[0]] * 2)
    x, y = (away / poly["unit_m"]).T
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    terms = np.column_stack([x**i * y**j for i, j in powers])
    latitude, longitude = large.projection.inverse(large.centre + away)
    assert np.abs(terms @ poly["latitude"] - latitude).max() < 1e-6
    assert np.abs(terms @ poly["longitude"] - longitude).max() < 1e-6


def test_names_cannot_end_the_data_or_a_script(raster, drive):
    evil = "</script><script>alert(1)</script>"
    run = {"city": f"/cities/{evil}", "drive": f"/drives/x{evil}", "note": evil, "every_m": 2.0}
    text = render(replace(drive, record=run), None, None)
    page = assert_offline_and_valid(text)
    assert text.count("<script") == 2
    assert "alert" not in page.text["script"]


def test_an_hour_of_scans_fits_the_page(raster):
    """36,000 queries, eight candidates and 2,000 tiles each as detailed as a real one."""
    count = 36_000
    poses = path(raster, count)
    poses[:, 0] = raster.centre[0] + 150 * np.cos(np.arange(count) / 900)
    poses[:, 1] = raster.centre[1] + 150 * np.sin(np.arange(count) / 900)
    rng = np.random.default_rng(0)
    hour = localization(raster, poses)
    codes = np.zeros((KEPT, 128, 128), np.uint8)
    codes[:, 20:108, 20:108] = rng.integers(0, 2, (KEPT, 88, 88)) * (rng.random((88, 88)) < 0.2)
    query = np.arange(KEPT) * (count // KEPT)
    small = SmallTiles(query, codes, np.zeros(KEPT), 128.0)
    candidates = np.concatenate([poses[:, None].repeat(8, 1), np.zeros((count, 8, 1))], 2)
    candidates[..., :3] += rng.normal(size=(count, 8, 3))
    hour = replace(hour, small_tiles=small, candidates=candidates)
    assert len(render(hour, None, None)) < 20e6


def test_a_grey_png_is_read_back_by_another_library():
    grey = np.random.default_rng(0).integers(0, 256, (5, 9), dtype=np.uint8)
    raw = base64.b64decode(grey_png(grey).partition("base64,")[2])
    read = matplotlib.image.imread(io.BytesIO(raw))
    np.testing.assert_array_equal(np.round(read * 255), grey)


def test_small_tiles_keep_the_walls_and_stay_few():
    """A thin wall and a road of a 256 px tile; of 5,000 tiles at most ``KEPT`` are kept, evenly."""
    zero = np.zeros((256, 256), np.float32)
    wall, observed, road = zero.copy(), zero.copy(), zero.copy()
    wall[7, 20:100], observed[:, :128], road[100:120, 40:60] = 0.7, 1, 1
    tile = QueryTile(wall, zero, observed, 0.5, 0.3, road=road)
    store = SmallTileStore()
    few = QueryTile(*np.zeros((3, 16, 16), np.float32), 8.0, 0.3)
    store.add(0, small_picture(tile))
    small = store.tiles()
    assert small is not None
    code = small.codes[0]
    store = SmallTileStore()
    for query in range(5000):
        store.add(query, small_picture(few))
    small = store.tiles()
    assert small is not None
    assert KEPT / 2 <= len(small.query) <= KEPT
    assert set(np.diff(small.query)) == {4}
    assert small.side_m == 128
    assert (code[3, 10:50] > ROAD).all()
    assert (code[50:60, 20:30] == ROAD).all()
    assert (code[80:, :64] == FREE).all()
    assert (code[:, 64:] == UNOBSERVED).all()


def test_small_tiles_are_read_back_and_damage_is_named(raster, drive, tmp_path):
    small = small_tiles(drive.tiles)
    write_result(replace(drive, small_tiles=small), tmp_path / "o")
    back = read_result(tmp_path / "o", raster).small_tiles
    assert back is not None
    assert small is not None
    np.testing.assert_array_equal(back.codes, small.codes)
    np.testing.assert_array_equal(back.rotation, small.rotation)
    assert back.query.tolist() == list(range(5))
    with np.load(tmp_path / "o" / "queries.npz") as arrays:
        content = dict(arrays)
    for name, value in (("query", content["small_query"] + 30), ("codes", np.zeros((5, 3, 4)))):
        np.savez(tmp_path / "o" / "queries.npz", **content | {f"small_{name}": value})
        with pytest.raises(MaptileError, match=r"queries\.npz: damaged"):
            read_result(tmp_path / "o", raster)


def test_long_drives_have_the_map_around_them_at_its_own_resolution(raster):
    """On a map of 1.6 km, the pictures along the drive have its pixels, and cover what is near."""
    large = replace(raster, data=np.tile(raster.data, (1, 1, 4)))
    along = np.linspace(50, 1550, 6)
    drive = np.column_stack([large.west + along, large.north - 150 - 0.05 * along])
    coarse, fine, *near = map_layers(large, drive)
    assert coarse["pixel_m"] > fine["pixel_m"] > large.resolution
    assert {layer["pixel_m"] for layer in near} == {large.resolution}
    boxes = np.array([layer["box"] for layer in near])
    for shift in ([0, 0], [149, 0], [0, -149], [100, 100]):
        east, north = (drive + shift - large.centre).T[:, :, None]
        inside = (boxes[:, 0] <= east) & (east <= boxes[:, 2])
        inside &= (boxes[:, 1] <= north) & (north <= boxes[:, 3])
        on_map = large.inside(drive + shift)
        assert inside.any(axis=1)[on_map].all()
    west, _, _, north = near[3]["box"]
    row, column = large.pixel_from_world([west, north] + large.centre).round().astype(int)
    raw = base64.b64decode(near[3]["src"].partition("base64,")[2])
    read = np.round(matplotlib.image.imread(io.BytesIO(raw))[..., :3] * 255)
    np.testing.assert_array_equal(np.moveaxis(read, -1, 0), large.window(row, column, 512, 512))
