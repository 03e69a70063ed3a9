"""GNSS as a witness that may lie: likelihood, filter, smoother, and live vehicles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_t
from test_fuse import AREA_M2, SETTINGS, drive, errors, fixes_at
from test_live import ENGINE, engine_on, route, straight
from test_localize import SETTINGS as RECIPE

from data_prep.drive import Drive, GnssTrack
from data_prep.errors import MaptileError
from data_prep.geometry import se2_between, wrap_angle
from data_prep.simulate.navigation import correlated
from maptile_loc.fuse.filter import Filter, filter_causal, filter_with_gnss
from maptile_loc.fuse.gnss import (
    GnssEvidence,
    GnssSettings,
    GnssWindow,
    Witness,
    differences,
    fit,
    log_t,
    support,
)
from maptile_loc.fuse.gnss_watch import GnssWatch
from maptile_loc.fuse.gnss_windows import OFF_MAP, with_asked_gnss
from maptile_loc.fuse.smoother import smooth
from maptile_loc.live.localizer import Localizer
from maptile_loc.live.replay import feed, replay
from maptile_loc.live.watch import GnssTail
from maptile_loc.search.engine.tracked import RADIUS_M, disc
from maptile_loc.types import Candidates, Fixes, HeadingKnowledge, Queries

GNSS = GnssSettings()
UNKNOWN = HeadingKnowledge("unknown")
STATED = 2.0
STRAIGHT = straight(26)
ROUTE = route(STRAIGHT)


def window_at(pose, seconds, error, speed=8.0, bend=0.02) -> GnssWindow:
    """The samples of a vehicle that drives along a bend and is at ``pose`` at 0 seconds."""
    metres = speed * np.asarray(seconds)
    turn = bend * metres
    local = np.column_stack([np.sin(turn), 1 - np.cos(turn)]) / bend
    c, s = np.cos(pose[2]), np.sin(pose[2])
    seen = pose[:2] + local @ np.array([[c, s], [-s, c]]) + error
    return GnssWindow(local, seen, np.full(len(seen), STATED), np.asarray(seconds))


# --- likelihood ----------------------------------------------------------------------------------


@given(
    st.integers(1, 3),
    st.floats(0.5, 30),
    st.integers(0, 10**6),
)
def test_the_density_is_that_of_the_t_distribution(size: int, tail: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size)) + 2 * np.eye(size)
    scale, at = root @ root.T, rng.normal(0, 20, (5, size))
    expected = multivariate_t.logpdf(at, np.zeros(size), scale, tail)
    np.testing.assert_allclose(log_t(at, np.tile(scale, (5, 1, 1)), tail), expected, rtol=1e-9)


def test_support_is_that_of_two_hypotheses_about_the_receiver() -> None:
    """Honest, it is near; else anywhere: the factor is 1 + odds times area times density."""
    witness = Witness(np.array([10.0, 20.0, 0.5]), np.diag([4.0, 9.0, np.inf]))
    poses = np.array([[10.0, 20.0, 0], [15.0, 8.0, 1], [400.0, 0.0, 2]])
    covariance = np.tile(np.diag([1.0, 2.0, 0.01]), (3, 1, 1))
    scale = np.diag([5.0, 11.0]) + GNSS.bias_m**2 * np.eye(2)
    density = multivariate_t.pdf(poses[:, :2], [10.0, 20.0], scale, GNSS.tail)
    expected = np.log1p(GNSS.odds * AREA_M2 * density)
    found = support(witness, poses, covariance, AREA_M2, GNSS)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[0] > found[1] > 1
    assert found[2] < 0.1


def test_a_known_course_supports_hypotheses_along_it() -> None:
    witness = Witness(np.array([0.0, 0.0, 0.5]), np.diag([4.0, 4.0, 0.01]))
    poses = np.array([[0.0, 0, 0.5], [0, 0, 0.7], [0, 0, 0.5 - np.pi], [0, 0, 0.5 + 2 * np.pi]])
    covariance = np.tile(np.diag([1.0, 1.0, 0.001]), (4, 1, 1))
    along, aside, against, turned = support(witness, poses, covariance, AREA_M2, GNSS)
    assert along > aside > against + 3
    assert along == pytest.approx(turned)


# --- fit -----------------------------------------------------------------------------------------


@given(
    st.floats(-np.pi, np.pi),
    st.integers(0, 10**6),
)
def test_the_fit_finds_pose_and_heading_among_outliers(heading: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pose = np.array([620_000.0, 5_736_000.0, heading])
    seconds = np.arange(-10, 10, 0.2)
    error = rng.normal(0, 1, (len(seconds), 2))
    out = rng.permutation(len(seconds))[: int(0.3 * len(seconds))]
    angle = rng.uniform(0, 2 * np.pi, len(out))
    error[out] += 50 * np.column_stack([np.cos(angle), np.sin(angle)])
    witness = fit(window_at(pose, seconds, error), GNSS)
    assert witness is not None
    assert np.hypot(*(witness.pose - pose)[:2]) < 2.0
    assert abs(wrap_angle(witness.pose[2] - heading)) < np.radians(3)
    assert 0 < witness.covariance[2, 2] < np.radians(10) ** 2


def test_exact_samples_give_the_exact_pose() -> None:
    pose = np.array([100.0, -50.0, 2.5])
    window = window_at(pose, np.arange(-10, 1.0), 0.0)
    witness = fit(window, GNSS)
    assert witness is not None
    np.testing.assert_allclose(witness.pose, pose, atol=1e-6)
    np.testing.assert_allclose(differences(window, pose), 0, atol=1e-9)


@pytest.mark.parametrize("seconds", [np.arange(-10, 0.1, 0.5), np.zeros(1)])
def test_standing_still_the_heading_is_unknown(seconds) -> None:
    rng = np.random.default_rng(3)
    error = rng.normal(0, 1, (len(seconds), 2))
    pose = np.array([5.0, 7.0, 1.0])
    witness = fit(window_at(pose, seconds, error, speed=0.0), GNSS)
    assert witness is not None
    assert np.isinf(witness.covariance[2, 2])
    assert np.hypot(*(witness.pose - pose)[:2]) < 4
    assert np.isfinite(witness.covariance[:2, :2]).all()


def test_old_samples_state_nothing() -> None:
    window = window_at(np.zeros(3), np.arange(-9, -3.0), 0.0)
    assert fit(window, GNSS) is None
    assert fit(None, GNSS) is None


@given(st.integers(0, 10**6))
def test_twice_the_rate_changes_little(seed: int) -> None:
    """The errors of consecutive samples depend on each other: ten a second are no ten witnesses."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(-10, 0.01, 0.1)
    slow = 3 * np.sin(seconds[:, None] / 7 + rng.uniform(0, 6, 2))
    window = window_at(np.array([0.0, 0, 1.0]), seconds, slow)
    half = GnssWindow(*(column[::2] for column in window))
    whole, part = fit(window, GNSS), fit(half, GNSS)
    assert whole is not None
    assert part is not None
    np.testing.assert_allclose(whole.covariance[:2, :2], part.covariance[:2, :2], rtol=0.15)
    covariance = np.tile(np.eye(3) * 0.3, (2, 1, 1))
    poses = np.array([[1.0, 0, 1.0], [20, 0, 1.0]])
    a, b = (support(one, poses, covariance, AREA_M2, GNSS) for one in (whole, part))
    np.testing.assert_allclose(a, b, atol=0.2)


# --- filter and smoother -------------------------------------------------------------------------


def evidence(truth, error=0.0, every=1) -> GnssEvidence:
    """GNSS at every query of a drive: true positions, and ``error`` metres (2,) or (Q, 2)."""
    count, seconds = len(truth), 2.0 * np.arange(len(truth))
    error = np.broadcast_to(error, (count, 2))
    windows: list[GnssWindow | None] = []
    for i, pose in enumerate(truth):
        near = np.arange(max(0, i - 2), min(count, i + 3))
        local = se2_between(pose[None], truth[near])[:, :2]
        seen = truth[near, :2] + error[near]
        std = np.full(len(near), STATED)
        windows.append(GnssWindow(local, seen, std, seconds[near] - seconds[i]))
    if every > 1:
        windows = [one if i % every == 0 else None for i, one in enumerate(windows)]
    return GnssEvidence(windows, [fit(one, GNSS) for one in windows], seconds, GNSS)


def both(fixes, steps, gnss):
    fused, used = filter_with_gnss(fixes, steps, AREA_M2, SETTINGS, gnss)
    used_gnss = None if gnss is None else gnss.only(used)
    return fused, smooth(fixes, steps, fused, AREA_M2, SETTINGS, used_gnss), used


def test_without_gnss_the_filter_is_the_same_to_the_last_bit() -> None:
    truth, steps = drive()
    fixes = fixes_at(truth, np.random.default_rng(1))
    fused, smoothed, _ = both(fixes, steps, None)
    plain = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    none = replace(evidence(truth), windows=[None] * 40, witnesses=[None] * 40)
    silent, still, used = both(fixes, steps, none)
    for one in (plain, silent):
        np.testing.assert_array_equal(fused.poses, one.poses)
        np.testing.assert_array_equal(fused.score, one.score)
        np.testing.assert_array_equal(fused.covariance, one.covariance)
    np.testing.assert_array_equal(smoothed.poses, still.poses)
    np.testing.assert_array_equal(smoothed.score, still.score)
    assert not used.any()


@pytest.mark.parametrize("far", [[5000.0, 0.0], [0.0, -8000.0]])
def test_gnss_that_is_far_off_everywhere_is_no_gnss(far) -> None:
    truth, steps = drive()
    for seed in range(3):
        fixes = fixes_at(truth, np.random.default_rng(seed))
        plain, smooth_plain, _ = both(fixes, steps, None)
        fused, smoothed, used = both(fixes, steps, evidence(truth, far))
        for a, b in ((plain, fused), (smooth_plain, smoothed)):
            np.testing.assert_allclose(a.poses, b.poses, atol=0.02)
            np.testing.assert_allclose(a.score, b.score, atol=2e-4)
            assert (a.localized == b.localized).mean() > 0.95
        assert not used[-10:].any()


def test_good_gnss_makes_the_first_query_sure() -> None:
    truth, steps = drive()
    sure = {"plain": 0, "gnss": 0}
    for seed in range(4):
        fixes = fixes_at(truth, np.random.default_rng(seed), right=1.0)
        gnss = evidence(truth, np.random.default_rng(seed).normal(0, 2, (40, 2)))
        for name, used_gnss in (("plain", None), ("gnss", gnss)):
            fused, smoothed, _ = both(fixes, steps, used_gnss)
            right = errors(fused, truth)[0] < 3
            sure[name] += int(fused.localized[0] and right)
            assert used_gnss is None or smoothed.localized[0]
    assert sure["plain"] == 0
    assert sure["gnss"] == 4


def test_walls_outvote_gnss() -> None:
    """A receiver that is 300 m off, where there are candidates that move as the vehicle does."""
    truth, steps = drive()
    off = np.array([200.0, -220.0])
    fixes = []
    for pose in truth:
        poses = np.array([pose, [*(pose[:2] + off), pose[2]]])
        covariance = np.tile(np.diag([0.3, 0.3, 1e-4]), (2, 1, 1))
        fixes.append(Fixes(Candidates(poses, np.log([0.6, 0.06])), covariance))
    fused, smoothed, _ = both(fixes, steps, evidence(truth, off))
    assert (errors(fused, truth)[10:] < 2).all()
    assert fused.localized[15:].all()
    assert (errors(smoothed, truth) < 2).all()


def test_gnss_decides_between_look_alikes() -> None:
    truth, steps = drive()
    off = np.array([200.0, -220.0])
    fixes = []
    for pose in truth:
        poses = np.array([pose, [*(pose[:2] + off), pose[2]]])
        covariance = np.tile(np.diag([0.3, 0.3, 1e-4]), (2, 1, 1))
        fixes.append(Fixes(Candidates(poses, np.log([0.4, 0.4])), covariance))
    plain, _, _ = both(fixes, steps, None)
    fused, smoothed, _ = both(fixes, steps, evidence(truth))
    assert not plain.localized.any()
    assert fused.localized.all()
    assert (errors(fused, truth) < 2).all()
    assert smoothed.localized.all()


def test_gnss_bounds_the_drift_where_there_are_no_walls() -> None:
    truth, steps = drive(count=200, scale=1.03, turn_deg_per_m=0.02)
    rng = np.random.default_rng(0)
    fixes = fixes_at(truth, rng, right=1.0)
    for number in range(10, 190):
        fixes[number] = Fixes(Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3)))
    plain, smooth_plain, _ = both(fixes, steps, None)
    fused, smoothed, _ = both(fixes, steps, evidence(truth, rng.normal(0, 2, (200, 2))))
    assert errors(fused, truth)[150:189].mean() < 0.5 * errors(plain, truth)[150:189].mean()
    assert errors(fused, truth).max() < 15
    assert errors(smoothed, truth).max() < max(errors(smooth_plain, truth).max(), 8.0)


def test_weighing_more_often_shrinks_the_covariance_little() -> None:
    def after(period_s: float) -> np.ndarray:
        causal = Filter(AREA_M2, SETTINGS)
        covariance = np.diag([30.0**2, 30.0**2, 0.01])[None]
        causal.update(Fixes(Candidates(np.zeros((1, 3)), np.log([0.9])), covariance), 1.0)
        witness = Witness(np.array([3.0, 0.0, 0.0]), np.diag([4.0, 4.0, np.inf]))
        for now_s in np.arange(0, 60, period_s):
            causal.weigh_gnss(witness, float(now_s))
        return causal.belief().covariance[:2, :2]

    once, often = np.sqrt(np.diag(after(1.0))), np.sqrt(np.diag(after(0.1)))
    np.testing.assert_allclose(once, often, rtol=0.1)
    assert once[0] > 0.5 * GNSS.bias_m


def test_weighing_twice_at_the_same_time_pulls_once() -> None:
    causal = Filter(AREA_M2, SETTINGS)
    covariance = np.diag([1.0, 1.0, 0.01])[None]
    causal.update(Fixes(Candidates(np.zeros((1, 3)), np.log([0.9])), covariance), 1.0)
    witness = Witness(np.array([3.0, 0.0, 0.0]), np.diag([4.0, 4.0, np.inf]))
    causal.weigh_gnss(witness, 1.0)
    once = causal.bank
    causal.weigh_gnss(witness, 1.0)
    np.testing.assert_allclose(causal.bank.states, once.states, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(causal.bank.covariance, once.covariance, rtol=1e-12, atol=1e-12)


# --- watch ---------------------------------------------------------------------------------------


def watched(error, seconds=60.0, rate=5.0) -> list[bool]:
    """Whether GNSS is trusted at each sample; ``error`` gives (N, 2) metres of (N,) seconds."""
    t = np.arange(0, seconds, 1 / rate)
    off = error(t)
    watch, trusted = GnssWatch(GNSS), []
    for now in t.tolist():
        near = np.flatnonzero((t <= now) & (t > now - GNSS.window_s))
        local = np.column_stack([8.0 * (t[near] - now), np.zeros(len(near))])
        window = GnssWindow(local, local + off[near], np.full(len(near), 2.0), t[near] - now)
        watch.judge(window, np.zeros(3), 0.5, now)
        trusted.append(watch.trusted)
    return trusted


@pytest.mark.parametrize("rate", [1.0, 5.0, 10.0])
@pytest.mark.parametrize("bias", [0.0, 8.0])
def test_spoofing_is_noticed_and_its_end_too(rate: float, bias: float) -> None:
    rng = np.random.default_rng(0)

    def error(t):
        off = rng.normal(0, 1.5, (len(t), 2)) - [bias, 0.0]
        off[(t >= 20) & (t < 40)] += [20.0, 0.0]
        return off

    trusted = np.array(watched(error, 60.0, rate))
    t = np.arange(0, 60, 1 / rate)
    assert trusted[t < 20].all()
    assert not trusted[(t >= 25) & (t < 40)].any()
    assert trusted[t >= 50].all()


def test_slow_spoofing_is_noticed_when_it_is_far() -> None:
    def error(t):
        return np.column_stack([np.clip(t - 10, 0, 20), np.zeros(len(t))])

    trusted = np.array(watched(error))
    t = np.arange(0, 60, 0.2)
    assert trusted[t < 20].all()
    assert not trusted[t > 35].any()


def test_scattered_outliers_are_no_spoofing() -> None:
    rng = np.random.default_rng(5)

    def error(t):
        off = rng.normal(0, 1.5, (len(t), 2))
        out = rng.random(len(t)) < 0.3
        angle = rng.uniform(0, 2 * np.pi, int(out.sum()))
        off[out] += 50 * np.column_stack([np.cos(angle), np.sin(angle)])
        return off

    assert np.mean(watched(error, 120.0)) > 0.95


# --- live and afterwards -------------------------------------------------------------------------


def with_gnss(one: Drive, xy, error=0.0, rate_ns=200_000_000) -> Drive:
    """A drive with GNSS: positions between (N, 2) ``xy`` of its scans, and an error."""
    scan_ns = one.scans.t_ns
    t_ns = np.arange(scan_ns[0], scan_ns[-1] + 1, rate_ns)
    seen = np.column_stack([np.interp(t_ns, scan_ns, column) for column in np.asarray(xy).T])
    latitude, longitude = ENGINE.raster.projection.inverse(seen + error)
    std = np.full(len(t_ns), STATED)
    return replace(one, gnss=GnssTrack(t_ns, latitude, longitude, std))


def live(one: Drive, engine=None, gnss=True, heading=UNKNOWN):
    queries = Queries(12.0, 8.0, True, heading, gnss=gnss)
    chosen = engine or ENGINE
    with Localizer.on(chosen, queries, RECIPE, background=False) as localizer:
        return [localizer.add_scan(scan) for scan in feed(localizer, one)]


@pytest.mark.parametrize("heading", ["known", "unknown"])
def test_live_is_the_batch_to_the_last_bit(heading: str) -> None:
    one, known = with_gnss(ROUTE, STRAIGHT), HeadingKnowledge.parse(heading)
    batch = replay(one, ENGINE, Queries(12.0, 8.0, True, known, gnss=True), RECIPE)
    found = live(one, heading=known)
    asked = [fix for fix in found if fix is not None and fix.is_query]
    fused = batch.stages["fused"]
    np.testing.assert_array_equal(fused.poses, [fix.pose for fix in asked])
    np.testing.assert_array_equal(fused.score, [fix.score for fix in asked])
    assert batch.record["gnss_queries"]["used"] == len(asked)
    assert {fix.gnss for fix in asked} == {"used"}


def test_unless_it_is_asked_for_gnss_changes_no_bit() -> None:
    lying = with_gnss(ROUTE, STRAIGHT, 100.0)
    for a, b in zip(live(ROUTE, gnss=False), live(lying, gnss=False), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_array_equal(a.pose, b.pose)
            np.testing.assert_array_equal(a.covariance, b.covariance)
            assert (a.score, a.gnss) == (b.score, "")
    stripped = with_asked_gnss(lying, False)
    assert stripped.gnss is None
    assert "--gnss uses it" in stripped.notes[-1]
    with pytest.raises(MaptileError, match="no GNSS in it"):
        with_asked_gnss(ROUTE, True)
    with pytest.raises(MaptileError, match="--search none"):
        with_asked_gnss(lying, True, search=False)


@pytest.mark.parametrize("heading", ["known", "unknown"])
def test_with_gnss_the_first_scan_is_sure_without_a_search_of_the_map(heading: str) -> None:
    engine = engine_on()
    found = live(with_gnss(ROUTE, STRAIGHT), engine, heading=HeadingKnowledge.parse(heading))
    first = found[0]
    assert first is not None
    assert first.localized
    assert np.hypot(*(first.pose[:2] - STRAIGHT[0])) < 2
    assert engine.search.asked == 0


def test_where_gnss_lies_from_the_start_the_whole_map_is_searched() -> None:
    engine = engine_on()
    found = live(with_gnss(ROUTE, STRAIGHT, [-40.0, 190.0]), engine)
    assert engine.search.asked > 0
    errors_m = [np.hypot(*(f.pose[:2] - xy)) for f, xy in zip(found, STRAIGHT, strict=True)]
    assert max(errors_m[10:]) < 3
    assert all(fix.localized for fix in found[20:])
    assert {fix.gnss for fix in found[20:]} == {"left_out"}


def test_gnss_is_used_in_the_push_that_ends_a_search_beside() -> None:
    one, queries = with_gnss(ROUTE, STRAIGHT, [-40.0, 190.0]), Queries(12.0, 0.0, True, UNKNOWN)
    fix, ended = None, 0
    with Localizer.on(ENGINE, replace(queries, gnss=True), RECIPE, background=True) as localizer:
        for scan in feed(localizer, one):
            before = localizer._tracker.searching
            fix = localizer.add_scan(scan)
            ended += before and fix is not None and fix.is_query
            job = localizer._tracker.background.job
            if job is not None:
                job.found.result(timeout=60)
    assert ended > 0
    assert fix is not None
    assert fix.localized
    assert np.hypot(*(fix.pose[:2] - STRAIGHT[-1])) < 3


def test_spoofing_is_noticed_within_five_seconds() -> None:
    xy = straight(64)
    one = with_gnss(route(xy), xy)
    assert one.gnss is not None
    t_ns = one.gnss.t_ns
    begin, end = (one.scans.t_ns[k] for k in (16, 36))
    error = np.where(((t_ns >= begin) & (t_ns < end))[:, None], [0.0, 20.0], [1.0, 0.0])
    found = live(with_gnss(one, xy, error))
    state = {int(fix.t_ns): fix.gnss for fix in found if fix is not None}
    for t, word in state.items():
        if t < begin:
            assert word == "used"
        elif begin + 5e9 <= t < end:
            assert word == "left_out"
        elif t >= end + 10e9:
            assert word == "used"
    errors_m = [np.hypot(*(f.pose[:2] - at)) for f, at in zip(found, xy, strict=True)]
    assert max(errors_m) < 2.5


@pytest.mark.parametrize(
    ("t_ns", "position"),
    [(5, (51.0, -1.0, 2.0)), (11, (91.0, 0.0, 2.0)), (12, (np.nan, 0.0, 2.0))],
)
def test_a_push_that_is_no_later_position_is_refused(t_ns: int, position) -> None:
    with Localizer.on(ENGINE, Queries(12.0, 8.0, True, UNKNOWN), RECIPE) as localizer:
        localizer.add_gnss(10, 51.0, -1.0)
        with pytest.raises(MaptileError, match=f"GNSS at {t_ns} ns"):
            localizer.add_gnss(t_ns, *position)


def test_gnss_far_outside_the_map_frame_is_ignored_and_said_once(caplog) -> None:
    queries = Queries(12.0, 8.0, True, UNKNOWN)
    with Localizer.on(ENGINE, queries, RECIPE, background=False) as localizer:
        localizer.add_gnss(10, -89.9, 179.0)
        localizer.add_gnss(11, -89.9, 179.0)
        assert [one.message for one in caplog.records] == [f"the GNSS lies {OFF_MAP}"]
        for scan in feed(localizer, ROUTE):
            fix = localizer.add_scan(scan)
        assert fix is not None
        assert fix.localized


def test_the_squares_of_a_disc_cover_it() -> None:
    pose, radius = np.array([1000.0, 2000.0, 0.7]), 75.0
    squares = disc(pose, radius)
    angle = np.linspace(0, 2 * np.pi, 200)
    for r in (0.0, 30.0, radius):
        at = pose[:2] + r * np.column_stack([np.cos(angle), np.sin(angle)])
        gap = np.abs(at[:, None] - squares[:, :2]).max(axis=2).min(axis=1)
        assert (gap <= RADIUS_M + 1e-9).all()
    assert (squares[:, 2] == 0.7).all()
    np.testing.assert_array_equal(squares[0], pose)


def test_errors_agree_with_their_covariance_with_gnss_too() -> None:
    """GNSS with the errors that the settings state, and walls at every tenth query only."""
    squared: dict[str, list[float]] = {"fused": [], "smoothed": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth, steps = drive(80, 20.0, seed, 1.03, 0.015, noise=1.0)
        slow = GNSS.bias_m * correlated(2.0 * np.arange(80), GNSS.bias_s, 2, rng)
        fixes = fixes_at(truth, rng, right=1.0, common=SETTINGS.common)
        nothing = Fixes(Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3)))
        fixes = [fix if i % 10 == 0 or i < 5 else nothing for i, fix in enumerate(fixes)]
        gnss = evidence(truth, slow + rng.normal(0, 2, (80, 2)))
        fused, smoothed, _ = both(fixes, steps, gnss)
        for name, one in (("fused", fused), ("smoothed", smoothed)):
            error = (one.poses - truth)[5:, :2]
            inverse = np.linalg.inv(one.covariance[5:, :2, :2])
            squared[name] += (np.einsum("qi,qij,qj->q", error, inverse, error) / 2).tolist()
    for name, values in squared.items():
        assert 0.4 < np.mean(values) < 2.0, name


def test_a_table_that_grows_is_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "gnss.csv"
    tail = GnssTail(file)
    assert list(tail.new()) == []
    file.write_text("T_ns,longitude,latitude,std_m\n5,-1.25,51")
    assert list(tail.new()) == []
    with file.open("a") as more:
        more.write(".5,2\n6,,,\n7,-1.25,51.75,\n")
    (first, second) = tail.new()
    assert first == (5, 51.5, -1.25, 2.0)
    assert second[:3] == (7, 51.75, -1.25)
    assert np.isnan(second[3])
    with file.open("a") as more:
        more.write("8,here,51.75,\n")
    with pytest.raises(MaptileError, match="line 5: longitude is 'here'"):
        list(tail.new())
