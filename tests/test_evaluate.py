from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from made import blocks_raster
from made_result import (
    estimates,
    localization,
    path,
    times,
    truth_track,
    with_scans,
    write_drive,
)

from data_prep.drive import TruthTrack
from data_prep.errors import MaptileError
from maptile_loc.cli.evaluate import command as evaluate_command
from maptile_loc.fuse.alone import candidate_table
from maptile_loc.report.files import evaluate_run, write_result
from maptile_loc.report.metrics import (
    chance,
    evaluate,
    pose_errors,
    quantile,
    reliability,
    truth_in_map,
)
from maptile_loc.report.number_text import metrics_table
from maptile_loc.report.recall import recall_at_n
from maptile_loc.types import Candidates, Estimates

FIGURES = {
    *("frames", "localized", "recall_1m", "recall_2m", "recall_5m", "recall_10m", "median_m"),
    *("mean_m", "p95_m", "heading_recall_1deg", "heading_recall_5deg", "median_heading_deg"),
    *("availability", "integrity", "localized_wrong_10m", "nees", "nees_pose", "protected"),
    "median_protection_m",
}
OF_LOCALIZED = (
    *("localized", "availability", "integrity", "localized_wrong_10m", "nees", "nees_pose"),
    "median_protection_m",
)
ONCE = {
    *("stages", "bias_removed", "map_bias_m", "query_seconds_median", "search_area_km2"),
    *("outside_queries", "outside_localized", "notes", "recall_at_n", "radii_m"),
    *("dense", "dense_bias_removed"),
}


@pytest.fixture(scope="module")
def raster():
    return blocks_raster()


def moved(poses, east=0.0, north=0.0, degrees=0.0):
    return poses + np.column_stack(np.broadcast_arrays(east, north, np.radians(degrees)))


def test_known_errors_give_known_metrics(raster):
    poses = path(raster, 40)
    error = np.repeat([0.5, 1.5, 4.0, 9.0, 50.0, np.nan], [10, 10, 10, 4, 4, 2])
    turn = np.repeat([0.5, -3.0, 40.0], [20, 14, 6])
    estimate = moved(poses, 0.6 * error, -0.8 * error, turn)
    estimate[38:] = np.nan
    metrics = evaluate(localization(raster, estimate), truth_track(raster, times(40), poses))
    assert set(metrics) == ONCE
    assert set(metrics["stages"]) == set(metrics["bias_removed"])
    for stage in ("coarse", "aligned", "fused", "smoothed"):
        figures = metrics["stages"][stage]
        assert set(figures) == FIGURES
        assert (figures["frames"], figures["localized"]) == (40, 38)
        recalls = [figures[f"recall_{r}m"] for r in (1, 2, 5, 10)]
        assert recalls == [10 / 40, 20 / 40, 30 / 40, 34 / 40]
        assert figures["median_m"] == pytest.approx((1.5 + 4.0) / 2, abs=1e-6)
        assert figures["mean_m"] == pytest.approx(np.nanmean(error), abs=1e-6)
        assert figures["p95_m"] is None  # falls on the two without a pose
        assert figures["heading_recall_1deg"] == 20 / 40
        assert figures["heading_recall_5deg"] == 34 / 40
        assert figures["median_heading_deg"] == pytest.approx((0.5 + 3.0) / 2, abs=1e-3)
    assert metrics["query_seconds_median"] == 0.25
    assert metrics["search_area_km2"] == raster.area_km2
    assert (metrics["outside_queries"], metrics["outside_localized"]) == (0, 0)
    assert metrics["notes"] == []


def test_recall_at_n_counts_the_nearest_of_the_best_candidates(raster):
    """Of 4 queries, the right candidate is the 1st, the 3rd, the 7th, and missing."""
    poses = path(raster, 4)
    far = np.tile(poses[:, None] + [40.0, 0.0, 0.0], (1, 8, 1))
    far[0, 0], far[1, 2], far[2, 6] = poses[0] + [0.5, 0, 0], poses[1] + [0, 4, 0], poses[2]
    scores = np.tile(-np.arange(8.0), (4, 1))[..., None]
    found = replace(localization(raster, poses), candidates=np.concatenate([far, scores], 2))
    metrics = evaluate(found, truth_track(raster, times(4), poses))
    recall = metrics["recall_at_n"]
    assert set(recall) == {"1", "5", "10", "50"}
    line = "a candidate within 5 m among the best 1: 25.0%, 5: 50.0%, 10: 75.0%, 50: 75.0%"
    assert line in str(metrics).splitlines()
    assert [recall[n]["recall_1m"] for n in ("1", "5", "10", "50")] == [0.25, 0.25, 0.5, 0.5]
    assert [recall[n]["recall_5m"] for n in ("1", "5", "10", "50")] == [0.25, 0.5, 0.75, 0.75]
    assert recall["50"]["recall_25m"] == 0.75


def test_candidates_near_a_predicted_pose_do_not_count(raster):
    poses = path(raster, 4)
    candidates = np.concatenate([poses, np.zeros((4, 1))], 1)[:, None]
    found = replace(localization(raster, poses), candidates=candidates)
    truth, tracked = truth_track(raster, times(4), poses), np.array([False, False, True, False])
    assert evaluate(found, truth)["recall_at_n"]["1"]["recall_1m"] == 1.0
    assert evaluate(replace(found, tracked=tracked), truth)["recall_at_n"] == {}
    assert evaluate(replace(found, tracked=tracked & False), truth)["recall_at_n"] != {}


def test_a_query_without_candidates_is_a_miss(raster):
    poses = path(raster, 2)
    some = np.full((2, 3, 4), np.nan)
    some[0, 0] = [*poses[0], -0.1]
    truth = truth_track(raster, times(2), poses)
    for candidates, share in ((some, 0.5), (some[:, :0], 0.0)):
        found = replace(localization(raster, poses), candidates=candidates)
        recall = evaluate(found, truth)["recall_at_n"]
        assert {one["recall_1m"] for one in recall.values()} == {share}


@given(st.integers(0, 1000))
def test_recall_at_n_grows_with_n_and_with_the_distance(seed):
    rng = np.random.default_rng(seed)
    candidates, truth = rng.normal(0, 8, (20, 12, 4)), rng.normal(0, 8, (20, 3))
    candidates[rng.random((20, 12)) < 0.3] = np.nan
    recall = recall_at_n(candidates, truth, rng.random(20) < 0.9)
    table = np.array([list(one.values()) for one in recall.values()])
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.diff(table, axis=1) >= 0).all()


def test_candidates_are_put_into_one_table_best_first():
    few = Candidates(np.array([[1.0, 2.0, 0.1], [3.0, 4.0, 0.2]]), np.array([-2.0, -1.0]))
    none = Candidates(np.zeros((0, 3)), np.zeros(0))
    table = candidate_table([few, none])
    expected = [[[3.0, 4.0, 0.2, -1.0], [1.0, 2.0, 0.1, -2.0]], [[np.nan] * 4] * 2]
    np.testing.assert_array_equal(table, expected)


def test_errors_do_not_depend_on_the_localized_flag(raster):
    poses = path(raster, 30)
    estimate = moved(poses, np.linspace(0, 20, 30))
    truth = truth_track(raster, times(30), poses)
    sure = evaluate(localization(raster, estimate), truth)["stages"]["fused"]
    never = evaluate(localization(raster, estimate, False), truth)["stages"]["fused"]
    assert (sure["localized"], never["localized"]) == (30, 0)
    assert {key: value for key, value in sure.items() if key not in OF_LOCALIZED} == {
        key: value for key, value in never.items() if key not in OF_LOCALIZED
    }


def test_reliability_of_known_noise():
    rng = np.random.default_rng(0)
    count = 4000
    spread = np.array([0.5, 1.5, 0.02])
    truth = rng.uniform(-3, 3, (count, 3))
    poses = truth + rng.normal(0, spread, (count, 3))
    covariance = np.tile(np.diag(spread**2), (count, 1, 1))
    poses[:3, 0] += 50.0  # far off: two are not called localized, the third is
    localized = np.arange(count) > 1
    level = np.where(np.arange(count) < 3, np.inf, 3.0)
    stage = Estimates(poses, covariance, np.ones(count), localized, level, np.full(count, ""))
    metres = np.hypot(*(poses - truth)[:, :2].T)
    got = reliability(stage, truth, np.ones(count, bool))
    assert got["localized_wrong_10m"] == 1
    assert got["integrity"] == pytest.approx(1 / (count - 2))
    assert got["availability"] == 1.0
    assert got["protected"] == pytest.approx((metres[3:] <= 3.0).mean())
    assert got["median_protection_m"] == 3.0
    got = reliability(replace(stage, localized=np.arange(count) > 2), truth, np.ones(count, bool))
    assert got["nees"] == pytest.approx(1.0, abs=0.06)
    assert got["nees_pose"] == pytest.approx(1.0, abs=0.06)
    third = replace(stage, localized=np.arange(count) % 3 == 0)
    right = metres <= 5.0
    assert reliability(third, truth, np.ones(count, bool))["availability"] == pytest.approx(
        third.localized[right].mean()
    )


@pytest.mark.parametrize("shift", [(3.0, -2.0), (-4.0, 4.0)])
def test_a_shifted_truth_changes_the_bias_but_not_the_metrics_without_it(raster, shift):
    rng = np.random.default_rng(1)
    poses = path(raster, 61)
    estimate = moved(poses, *rng.uniform(-2, 2, (2, 61)), rng.normal(size=61))
    estimate[::10, 0] += 90.0
    result = localization(raster, estimate)
    one = evaluate(result, truth_track(raster, times(61), poses))
    two = evaluate(result, truth_track(raster, times(61), moved(poses, *shift)))
    difference = np.subtract(two["map_bias_m"], one["map_bias_m"])
    np.testing.assert_allclose(difference, np.negative(shift), atol=1e-6)
    for stage, figures in one["bias_removed"].items():
        assert figures == pytest.approx(two["bias_removed"][stage], abs=2e-5)
    assert one["stages"]["aligned"]["median_m"] < two["stages"]["aligned"]["median_m"]


def test_a_pure_shift_is_the_bias(raster):
    poses = path(raster, 25)
    result = localization(raster, moved(poses, -1.5, 3.5))
    metrics = evaluate(result, truth_track(raster, times(25), poses))
    np.testing.assert_allclose(metrics["map_bias_m"], [-1.5, 3.5], atol=1e-6)
    assert metrics["stages"]["aligned"]["recall_2m"] == 0
    assert metrics["bias_removed"]["aligned"]["recall_1m"] == 1
    assert metrics["bias_removed"]["aligned"]["median_m"] == pytest.approx(0, abs=1e-6)


def test_the_bias_is_that_of_the_aligned_stage(raster):
    poses = path(raster, 25)
    result = localization(raster, moved(poses, 5.0))
    result = replace(result, stages=result.stages | {"aligned": estimates(moved(poses, 1.0))})
    metrics = evaluate(result, truth_track(raster, times(25), poses))
    np.testing.assert_allclose(metrics["map_bias_m"], [1.0, 0.0], atol=1e-6)


def test_the_bias_is_unknown_if_no_query_is_close_to_the_truth(raster):
    poses = path(raster, 25)
    result = localization(raster, moved(poses, 11.0))
    metrics = evaluate(result, truth_track(raster, times(25), poses))
    assert metrics["map_bias_m"] == [None, None]
    assert metrics["bias_removed"] == metrics["stages"]
    assert "map bias unknown" in metrics["notes"][0]


@given(st.floats(-400, 400), st.floats(-179, 179))
def test_headings_wrap_around(heading, turn):
    truth = np.radians([[0, 0, heading]])
    _, angle = pose_errors(np.radians([[0, 0, heading + turn]]), truth)
    assert np.degrees(angle[0]) == pytest.approx(abs(turn), abs=1e-9)


def test_true_headings_become_grid_headings(raster):
    poses = path(raster, 8)
    poses[:, 2] = np.radians([-179.9, -91, -10, 0, 45, 90, 170, 179.9])
    found = truth_in_map(truth_track(raster, times(8), poses), raster, times(8))
    np.testing.assert_allclose(found[:, :2], poses[:, :2], atol=1e-6)
    _, angle = pose_errors(found, poses)
    assert np.degrees(angle).max() < 1e-4  # the convergence is 1.4 degrees here
    assert abs(np.degrees(raster.convergence)) > 1


def test_queries_at_the_edge_and_outside_are_counted_separately(raster):
    """Truths 0, 29, 31 and 200 m inside the western edge, and 50 m outside it."""
    inside = np.array([0.01, 29.0, 31.0, 200.0, -50.0])
    poses = np.column_stack([raster.west + inside, np.full(5, raster.centre[1]), np.zeros(5)])
    localized = np.array([True, False, True, True, True])
    metrics = evaluate(localization(raster, poses, localized), truth_track(raster, times(5), poses))
    assert metrics["stages"]["aligned"]["frames"] == 2
    assert (metrics["outside_queries"], metrics["outside_localized"]) == (3, 2)


def test_nothing_inside_the_map_is_no_error(raster):
    poses = path(raster, 6) + [5000, 0, 0]
    result = localization(raster, np.full((6, 3), np.nan))
    metrics = evaluate(result, truth_track(raster, times(6), poses))
    figures = metrics["stages"]["smoothed"]
    assert (figures["frames"], figures["recall_5m"], figures["median_m"]) == (0, None, None)
    assert (metrics["outside_queries"], metrics["outside_localized"]) == (6, 0)
    assert "smoothed" in metrics_table(metrics)


def test_no_query_at_all_is_no_error(raster):
    metrics = evaluate(
        localization(raster, np.empty((0, 3))), truth_track(raster, times(6), path(raster, 6))
    )
    assert metrics["stages"]["smoothed"]["frames"] == 0
    assert metrics["query_seconds_median"] is None
    assert "smoothed" in metrics_table(metrics)


def test_queries_without_truth_are_left_out_and_counted(raster):
    poses = path(raster, 20)
    whole = truth_track(raster, times(20), poses)
    keep = np.r_[0:6, 12:18]  # a gap of seven seconds, and none at the end
    part = TruthTrack(*(getattr(whole, name)[keep] for name in whole.__dataclass_fields__))
    metrics = evaluate(localization(raster, poses), part)
    assert metrics["stages"]["aligned"]["frames"] == 12
    assert metrics["stages"]["aligned"]["recall_1m"] == 1
    assert metrics["outside_queries"] == 0
    assert metrics["notes"] == ["8 of 20 queries are left out: no truth at their times"]


@pytest.mark.parametrize("unknown", [range(10), range(3)])
def test_unknown_true_headings_do_not_change_the_position_metrics(raster, unknown):
    poses = path(raster, 10)
    truth = truth_track(raster, times(10), poses)
    truth.heading[list(unknown)] = np.nan
    metrics = evaluate(localization(raster, moved(poses, 0.5, 0, 2)), truth)
    figures = metrics["stages"]["aligned"]
    assert (figures["frames"], figures["recall_1m"]) == (10, 1)
    known = 10 - len(unknown)
    assert figures["heading_recall_5deg"] == (1 if known else None)
    assert (figures["median_heading_deg"] is None) == (known == 0)
    assert metrics["notes"][0].startswith(f"{len(unknown)} queries are left out of the heading")


def test_skipped_queries_do_not_count_in_the_time_per_query(raster):
    """A query without points takes no time; the median is over the queries with points."""
    poses = path(raster, 9)
    seconds = np.array([0, 0, 0, 0, 0, 0, 1.0, 2.0, 3.0])
    result = replace(localization(raster, poses), query_seconds=seconds, blind=6)
    truth = truth_track(raster, times(9), poses)
    assert evaluate(result, truth)["query_seconds_median"] == 2.0
    none = replace(result, query_seconds=np.zeros(9), blind=9)
    assert evaluate(none, truth)["query_seconds_median"] is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_equal_numpys_and_infinity_is_the_largest_value(values, share):
    expected = np.quantile(values, share)
    assert quantile(np.array(values), share) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    misses = quantile(np.array([*values, *[np.inf] * (len(values) + 1)]), 0.5)
    assert np.isinf(misses)


def test_chance_is_that_of_random_points():
    rng = np.random.default_rng(0)
    points = rng.uniform(-100, 100, (200_000, 2))
    share = (np.linalg.norm(points, axis=1) < 20).mean()
    assert chance(20, 0.04) == pytest.approx(share, rel=0.05)
    assert chance(1000, 0.04) == 1


def test_the_table_has_stages_and_chance(raster):
    poses = path(raster, 20)
    result = localization(raster, moved(poses, 3.0))
    lines = metrics_table(evaluate(result, truth_track(raster, times(20), poses))).splitlines()
    named = {line.split()[0]: line.split() for line in lines if line}
    assert {"coarse", "aligned", "fused", "smoothed"} <= set(named)
    assert lines[4].split()[:7] == ["smoothed", "20", "20", "0.0", "0.0", "100.0", "100.0"]
    assert float(named["chance"][3]) == pytest.approx(100 * chance(5, raster.area_km2), rel=0.05)
    assert any("+3.00 m east" in line for line in lines)


@pytest.fixture
def run_folder(raster, tmp_path):
    """A result on disk beside its city (a bare raster) and its drive, 12 m/s along the path."""
    raster.write(tmp_path / "map.tif")
    poses = path(raster, 20)
    truth = truth_track(raster, times(20), poses)
    write_drive(tmp_path / "drive", times(20), truth)
    estimate = moved(poses, 0.0, 1.25, 0.5)
    estimate[4] = np.nan
    run = {"city": str(tmp_path / "map.tif"), "drive": str(tmp_path / "drive"), "format": "clouds"}
    found = localization(raster, estimate, record=run | {"sensors": None})
    write_result(found, tmp_path / "o")
    return tmp_path / "o"


def test_recall_is_given_for_more_radii_where_asked(run_folder):
    """All errors are 1.25 m, but one pose is missing."""
    metrics = evaluate_run(run_folder, (1.2, 1.3))
    figures = metrics["stages"]["aligned"]
    assert (figures["recall_1.2m"], figures["recall_1.3m"], figures["recall_2m"]) == (0, 0.95, 0.95)
    assert metrics["radii_m"] == [1, 1.2, 1.3, 2, 5, 10]
    shown = CliRunner().invoke(evaluate_command, [str(run_folder), "--radii", "1.3"])
    assert "<=1.3m %" in shown.output
    for wrong in ("near", "-1", "nan", ""):
        assert (
            CliRunner().invoke(evaluate_command, [str(run_folder), "--radii", wrong]).exit_code == 2
        )


def test_evaluate_run_writes_what_it_returns(run_folder):
    metrics = evaluate_run(run_folder)
    assert json.loads((run_folder / "metrics.json").read_text()) == metrics
    assert metrics["stages"]["smoothed"]["recall_2m"] == 19 / 20
    assert metrics["bias_removed"]["smoothed"]["recall_1m"] == 19 / 20
    errors = pd.read_csv(run_folder / "errors.csv")
    assert len(errors) == 4 * 20
    one = errors[errors["stage"] == "aligned"].reset_index()
    assert np.isnan(one.loc[4, "error_m"])
    assert one["counted"].all()
    np.testing.assert_allclose(one["error_m"].drop(4), 1.25, atol=1e-3)
    np.testing.assert_allclose(one["heading_error_deg"].drop(4), 0.5, atol=1e-3)
    np.testing.assert_allclose(one["truth_heading_deg"], np.degrees(0.3), atol=1e-3)


def test_evaluate_run_needs_truth_at_the_times_of_the_queries(run_folder):
    file = run_folder.parent / "drive" / "truth.csv"
    table = pd.read_csv(file)
    table.assign(t_ns=table["t_ns"] + 10**12).to_csv(file, index=False)
    with pytest.raises(MaptileError, match="covers none of the 20 queries"):
        evaluate_run(run_folder)
    file.unlink()
    with pytest.raises(MaptileError, match="has no truth"):
        evaluate_run(run_folder)
    assert not (run_folder / "metrics.json").exists()


def test_the_errors_of_every_scan(raster):
    """Queries are 3 m off to the east, of which 2 m are the map's; their scans are, too."""
    poses = path(raster, 20)
    result = with_scans(localization(raster, moved(poses, 3.0)))
    result.stages["aligned"] = estimates(moved(poses, 2.0))
    truth = truth_track(raster, times(20), poses)
    metrics = evaluate(result, truth)
    assert set(metrics["dense"]) == FIGURES
    assert metrics["dense"]["frames"] == 191
    assert metrics["stages"]["smoothed"]["frames"] == 20
    for key in ("median_m", "mean_m", "p95_m"):
        assert metrics["dense"][key] == pytest.approx(3.0, abs=0.02)
        assert metrics["dense_bias_removed"][key] == pytest.approx(1.0, abs=0.02)
    assert metrics["dense"]["recall_2m"] == 0.0
    assert metrics["dense_bias_removed"]["recall_2m"] == 1.0
    rows = [line.split()[:4] for line in str(metrics).splitlines()]
    assert [row[2] for row in rows if row[:2] == ["every", "scan"]] == ["191", "191"]
    assert evaluate(replace(result, dense=None), truth)["stages"] == metrics["stages"]


def test_evo_computes_the_same_errors_of_every_scan(raster, tmp_path):
    """evo reads the dense TUM file, and its absolute pose error equals ours."""
    evo_metrics = pytest.importorskip("evo.core.metrics")
    from evo.core import sync
    from evo.tools import file_interface

    poses = path(raster, 20)
    off = np.random.default_rng(0).normal(size=(20, 2)) * [[2.0, 1.0]]
    found = with_scans(localization(raster, moved(poses, *off.T)))
    t_ns = found.dense.t_ns
    truth = truth_track(raster, t_ns, with_scans(localization(raster, poses)).dense.poses)
    metrics = write_result(found, tmp_path, truth)
    write_result(with_scans(localization(raster, poses)), tmp_path / "truth")
    pair = sync.associate_trajectories(
        file_interface.read_tum_trajectory_file(str(tmp_path / "truth" / "trajectory.tum")),
        file_interface.read_tum_trajectory_file(str(tmp_path / "trajectory.tum")),
        max_diff=0.001,
    )
    assert pair[1].num_poses == 191
    ape = evo_metrics.APE(evo_metrics.PoseRelation.translation_part)
    ape.process_data(pair)
    for statistic in ("median", "mean"):
        value = ape.get_statistic(evo_metrics.StatisticsType[statistic])
        assert value == pytest.approx(metrics["dense"][f"{statistic}_m"], abs=2e-3)


def test_evo_computes_the_same_errors(run_folder, raster):
    """evo reads the TUM file, and its absolute pose error equals ours."""
    evo_metrics = pytest.importorskip("evo.core.metrics")
    from evo.core import sync
    from evo.tools import file_interface

    metrics = evaluate_run(run_folder)
    origin = json.loads((run_folder / "run.json").read_text())["tum_origin"]
    poses = path(raster, 20)
    half = poses[:, 2] / 2
    zero = np.zeros(20)
    rows = [times(20) / 1e9, poses[:, 0] - origin["east"], poses[:, 1] - origin["north"], zero]
    rows += [zero, zero, np.sin(half), np.cos(half)]
    np.savetxt(run_folder / "truth.tum", np.column_stack(rows), fmt="%.9f")
    reference = file_interface.read_tum_trajectory_file(str(run_folder / "truth.tum"))
    ours = file_interface.read_tum_trajectory_file(str(run_folder / "trajectory.tum"))
    assert (reference.num_poses, ours.num_poses) == (20, 19)
    pair = sync.associate_trajectories(reference, ours, max_diff=0.001)
    for relation, key in (
        ("translation_part", "median_m"),
        ("rotation_angle_deg", "median_heading_deg"),
    ):
        ape = evo_metrics.APE(evo_metrics.PoseRelation[relation])
        ape.process_data(pair)
        median = ape.get_statistic(evo_metrics.StatisticsType.median)
        assert median == pytest.approx(metrics["stages"]["smoothed"][key], abs=2e-4)
