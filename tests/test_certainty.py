"""Protection levels against sampled errors, and the reasons why fixes are not localized."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from maptile_loc.fuse.certainty import (
    likely_reason,
    make_estimates,
    protection_level,
    worst_std,
)
from maptile_loc.fuse.motion import FuseSettings

SETTINGS = FuseSettings()


def covariance_of(major: float, minor: float, angle: float) -> np.ndarray:
    """(1, 3, 3) covariance with standard deviations of ``major`` and ``minor`` metres."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    result = np.diag([0.0, 0.0, 1e-4])
    result[:2, :2] = turn @ np.diag([major**2, minor**2]) @ turn.T
    return result[None]


@given(st.floats(0.1, 3.0), st.floats(0.05, 1.0), st.floats(0, np.pi))
def test_the_level_holds_errors_of_a_t_distribution(major, ratio, angle):
    """The share beyond the level, by samples of scipy's distribution."""
    settings = FuseSettings(risk=0.02)
    covariance = covariance_of(major, ratio * major, angle)
    (level,) = protection_level(np.ones(1), covariance, settings)
    scale = covariance[0, :2, :2] * (settings.tail - 2) / settings.tail
    errors = stats.multivariate_t(shape=scale, df=settings.tail, seed=0).rvs(40_000)
    assert np.mean(np.hypot(*errors.T) > level) == pytest.approx(0.02, abs=0.003)


@pytest.mark.parametrize("tail", [2.1, 4.0, 30.0])
@pytest.mark.parametrize("ratio", [1.0, 0.3, 0.01])
def test_the_error_exceeds_the_level_with_the_risk(tail, ratio):
    """The formula of the docstring, integrated by scipy."""
    settings = FuseSettings(tail=tail)
    (level,) = protection_level(np.ones(1), covariance_of(1.5, 1.5 * ratio, 0.7), settings)
    scale = np.array([1.5, 1.5 * ratio]) ** 2 * (tail - 2) / tail

    def beyond(angle):
        reach = scale @ np.array([np.cos(angle), np.sin(angle)]) ** 2
        return (1 + level**2 / (tail * reach)) ** (-tail / 2)

    share = integrate.quad(beyond, 0, np.pi / 2)[0] / (np.pi / 2)
    assert share == pytest.approx(settings.risk, rel=1e-4)


def test_many_degrees_of_freedom_and_a_round_error_give_rayleighs_quantile():
    settings = FuseSettings(tail=1e7)
    (level,) = protection_level(np.ones(1), covariance_of(0.7, 0.7, 0.0), settings)
    assert level == pytest.approx(0.7 * np.sqrt(-2 * np.log(settings.risk)), rel=1e-4)


@given(st.floats(0.9991, 1.0), st.floats(0.9991, 1.0), st.floats(0.1, 2.0), st.floats(1.0, 3.0))
def test_more_doubt_or_spread_never_lowers_the_level(one, other, std, factor):
    narrow, wide = covariance_of(std, std / 2, 0.4), covariance_of(factor * std, std / 2, 0.4)
    low, high = sorted((one, other))
    levels = [
        protection_level(np.array([score]), covariance, SETTINGS)[0]
        for score, covariance in ((high, narrow), (low, narrow), (low, wide))
    ]
    assert levels[0] <= levels[1] * (1 + 1e-9)
    assert levels[1] <= levels[2] * (1 + 1e-9)


def test_a_fix_that_is_wrong_too_often_or_has_no_covariance_has_no_level():
    covariance = np.concatenate([covariance_of(0.5, 0.5, 0.0)] * 3)
    covariance[2] = np.nan
    level = protection_level(np.array([1 - 1.1e-3, 1 - 0.9e-3, 1.0]), covariance, SETTINGS)
    assert np.isinf(level).tolist() == [True, False, True]


def test_the_worst_direction_is_found_in_any_frame():
    for angle in (0.0, 0.5, 2.0):
        assert worst_std(covariance_of(3.0, 0.2, angle)) == pytest.approx([3.0])
    assert np.isinf(worst_std(np.full((1, 3, 3), np.nan)))
    assert np.isinf(worst_std(np.full((1, 3, 3), np.inf)))


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1.0), st.floats(-4, 4))
def test_the_worst_direction_is_that_of_numpy(major, ratio, angle):
    covariance = covariance_of(major, ratio * major, angle)
    expected = np.sqrt(np.linalg.eigvalsh(covariance[:, :2, :2])[:, -1])
    assert worst_std(covariance) == pytest.approx(expected, rel=1e-12)


def test_each_reason_has_its_case():
    wall_m2 = np.array([5.0, 100.0, 100.0, 100.0])
    alike = np.array([True, True, False, False])
    travelled = np.array([500.0, 500.0, 30.0, 500.0])
    reason = likely_reason(wall_m2, alike, travelled, SETTINGS)
    assert reason.tolist() == ["few_walls", "look_alikes", "too_short", "off_map"]


def test_a_street_leaves_the_position_along_it_open():
    covariance = np.concatenate(
        [covariance_of(9.0, 0.3, 0.0), covariance_of(0.5, 0.3, 0.0), covariance_of(9.0, 9.0, 0.0)]
    )
    reason = np.array(["off_map", "off_map", "few_walls"])
    got = make_estimates(np.zeros((3, 3)), covariance, np.ones(3), reason, SETTINGS)
    assert got.reason.tolist() == ["straight_street", "", "few_walls"]
    assert got.localized.tolist() == [False, True, False]


def test_a_fix_that_is_probably_right_is_not_off_the_map():
    covariance = np.concatenate([covariance_of(0.5, 0.3, 0.0)] * 3)
    score, reason = np.array([0.83, 0.2, 0.83]), np.array(["off_map", "off_map", "look_alikes"])
    got = make_estimates(np.zeros((3, 3)), covariance, score, reason, SETTINGS)
    assert got.reason.tolist() == ["too_short", "off_map", "look_alikes"]
