"""Rows of a recording in the order of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.formats.common import in_time

STEP = 20_000_000
CLEAN = 1_400_000_000_000_000_000 + STEP * np.arange(400)


def times(order: np.ndarray, t_ns: np.ndarray) -> list[int]:
    return t_ns[order].tolist()


@pytest.mark.parametrize("where", [0, 1, 7, 200, 398, 399])
@pytest.mark.parametrize("to", [-(10**18), 10**18, 3600 * 10**9])
def test_one_bad_stamp_costs_one_row(where: int, to: int) -> None:
    t_ns = CLEAN.copy()
    t_ns[where] += to
    assert times(in_time(t_ns), t_ns) == np.delete(CLEAN, where).tolist()


@given(cut=st.integers(1, 399))
def test_pieces_that_are_jumbled_are_sorted(cut: int) -> None:
    t_ns = np.concatenate([CLEAN[cut:], CLEAN[:cut]])
    assert times(in_time(t_ns), t_ns) == CLEAN.tolist()


def test_a_reversed_file_is_sorted_and_doubles_are_used_once() -> None:
    assert times(in_time(CLEAN[::-1]), CLEAN[::-1]) == CLEAN.tolist()
    twice = np.repeat(CLEAN, 2)
    order = in_time(twice)
    assert order.tolist() == list(range(0, 800, 2))


def test_neighbours_that_are_swapped_are_sorted() -> None:
    t_ns = CLEAN.copy()
    t_ns[[50, 51]] = t_ns[[51, 50]]
    assert times(in_time(t_ns), t_ns) == CLEAN.tolist()


def test_gaps_and_few_rows_are_kept() -> None:
    gap = CLEAN + np.where(np.arange(400) >= 200, 3600 * 10**9, 0)
    assert times(in_time(gap), gap) == gap.tolist()
    for few in (CLEAN[:0], CLEAN[:1], CLEAN[:2], CLEAN[:3]):
        assert times(in_time(few), few) == few.tolist()


@given(st.lists(st.integers(-(2**40), 2**40), max_size=60))
def test_whatever_comes_the_result_increases(values: list[int]) -> None:
    t_ns = np.array(values, np.int64)
    order = in_time(t_ns)
    assert (np.diff(t_ns[order]) > 0).all()
    assert len(np.unique(order)) == len(order)


def test_a_double_behind_a_reversed_file_costs_no_row() -> None:
    t_ns = np.append(CLEAN[::-1], CLEAN[4])
    assert times(in_time(t_ns), t_ns) == CLEAN.tolist()


@pytest.mark.parametrize("to", [-3600 * 10**9, 3600 * 10**9])
def test_two_bad_stamps_near_each_other_cost_two_rows(to: int) -> None:
    t_ns = CLEAN.copy()
    t_ns[[100, 102]] += to
    assert times(in_time(t_ns), t_ns) == np.delete(CLEAN, [100, 102]).tolist()
