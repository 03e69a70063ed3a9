"""What ``localize`` returns: its text, table, figure, metrics and files."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import shapely
from made import blocks_raster
from made_result import estimates, localization, path, times, truth_track

from data_prep.errors import MaptileError
from maptile_loc.report.files import read_result
from maptile_loc.types import Localization


@pytest.fixture(scope="module")
def raster():
    return blocks_raster()


@pytest.fixture(scope="module")
def found(raster) -> Localization:
    """Twelve queries: 3 and 4 without a pose, 8 with one that is not localized."""
    poses = path(raster, 12)
    poses[3:5] = np.nan
    record = {"city": "/cities/oxford.tif", "drive": "/drives/monday", "method": "match"}
    return localization(raster, poses, np.arange(12) != 8, record=record)


def test_the_text_names_drive_stage_count_area_and_time_and_no_arrays(found):
    text = repr(found)
    assert text == (
        "<Localization: monday on oxford, stage smoothed; 9 of 12 queries localized; "
        "searched 0.16 km2; 0.25 s per query>"
    )
    assert "drive on city" in repr(replace(found, record={}))


def test_the_table_has_a_row_per_query_and_points_in_degrees(found, raster, tmp_path):
    found.save(tmp_path)
    table = found.to_geodataframe()
    assert table.crs.to_epsg() == 4326
    expected = pd.read_csv(tmp_path / "queries.csv", keep_default_na=True)
    expected["reason"] = expected["reason"].fillna("")
    pd.testing.assert_frame_equal(pd.DataFrame(table.drop(columns="geometry")), expected)
    assert [point is None for point in table.geometry] == [i in (3, 4) for i in range(12)]
    moved = shapely.get_coordinates(table.geometry.dropna().to_crs(raster.crs))
    poses = found.trajectory.poses[found.trajectory.has_pose]
    np.testing.assert_allclose(moved, poses[:, :2], atol=1e-3)


def test_the_table_of_another_stage(found, raster):
    shifted = path(raster, 12) + [5.0, 0, 0]
    other = replace(found, stages=found.stages | {"coarse": estimates(shifted)})
    table = other.to_geodataframe("coarse")
    np.testing.assert_allclose(table["east"], shifted[:, 0], atol=1e-4)
    with pytest.raises(MaptileError, match=r"'corse'.*coarse, aligned, fused, smoothed"):
        other.to_geodataframe("corse")


def test_an_empty_table_can_be_written(raster, tmp_path):
    table = localization(raster, np.empty((0, 3))).to_geodataframe()
    assert (len(table), table.crs.to_epsg()) == (0, 4326)


def test_metrics_need_no_files_and_print_as_a_table(found, raster):
    truth = truth_track(raster, times(12), path(raster, 12))
    metrics = found.evaluate(truth)
    assert metrics["stages"]["smoothed"]["recall_1m"] == 10 / 12
    assert json.loads(json.dumps(metrics)) == metrics
    assert str(metrics).splitlines()[0].split()[:2] == ["frames", "localized"]
    with pytest.raises(MaptileError, match="monday: the drive has no truth"):
        found.evaluate(None)


def test_saving_with_truth_writes_the_metrics_that_it_returns(found, raster, tmp_path):
    truth = truth_track(raster, times(12), path(raster, 12))
    metrics = found.save(str(tmp_path / "o"), truth)
    assert json.loads((tmp_path / "o" / "metrics.json").read_text()) == metrics
    assert len(pd.read_csv(tmp_path / "o" / "errors.csv")) == 4 * 12
    assert found.save(tmp_path / "o") is None
    assert not (tmp_path / "o" / "metrics.json").exists()
    assert read_result(tmp_path / "o", raster).evaluate(truth) == metrics


def test_the_figure_shows_localized_and_other_queries(found):
    picture = matplotlib.image.imread(io.BytesIO(found.plot()._repr_png_()))
    none = replace(found.trajectory, localized=np.zeros(12, bool))
    hollow = replace(found, stages=found.stages | {"smoothed": none}).plot()
    labels = [text.get_text() for text in hollow.legends[0].get_texts()]
    assert labels == ["95 % ellipse", "localized (0)", "not localized (10)"]
    other = matplotlib.image.imread(io.BytesIO(hollow._repr_png_()))
    assert min(picture.shape[:2]) > 300
    assert not np.array_equal(picture, other)


@pytest.mark.parametrize("poses", [np.empty((0, 3)), np.full((3, 3), np.nan)])
def test_the_figure_of_nothing_localized_is_the_map(raster, poses):
    figure = localization(raster, poses).plot()
    assert len(figure._repr_png_()) > 10_000
