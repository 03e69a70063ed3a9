"""Times in the names of files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.clouds import natural
from data_prep.sources.points.file_times import times_in_names

START_NS = 1_317_384_506_407_123_456


@given(
    digits=st.sampled_from([0, 3, 6, 9]),
    step_ms=st.integers(1_000, 20_000),
    count=st.integers(1, 30),
    start=st.integers(950_000_000, 4_000_000_000),
)
def test_the_unit_follows_from_the_size(digits: int, step_ms: int, count: int, start: int) -> None:
    seconds = start + np.arange(count) * step_ms // 1000
    stems = [f"{value}{'0' * digits}" for value in seconds]
    found = times_in_names(stems)
    assert found is not None
    np.testing.assert_array_equal(found, seconds * 10**9)


def test_seconds_and_nanoseconds_may_be_apart() -> None:
    expected = [START_NS, START_NS + 100_000_000]
    for stems in (
        ["1317384506_407123456", "1317384506_507123456"],
        ["1317384506.407123456", "1317384506.507123456"],
    ):
        assert times_in_names(stems).tolist() == expected
    assert times_in_names(["1317384506_000000009", "1317384506_10"]).tolist() == [
        1_317_384_506_000_000_009,
        1_317_384_506_000_000_010,
    ]
    assert times_in_names(["1317384506.4", "1317384506.45"]).tolist() == [
        1_317_384_506_400_000_000,
        1_317_384_506_450_000_000,
    ]


def test_a_clock_of_its_own_counts_nanoseconds() -> None:
    """1.3 s after the start, 0.1 s apart: no seconds of a date, which would be years apart."""
    stems = [str(1_300_000_000 + 100_000_000 * k) for k in range(5)]
    assert times_in_names(stems).tolist() == [int(stem) for stem in stems]


@pytest.mark.parametrize("stems", [["0", "1"], ["000123"], ["a1", "a2"], ["1" * 25], []])
def test_other_names_are_no_times(stems: list[str]) -> None:
    assert times_in_names(stems) is None


def test_numbers_are_in_natural_order() -> None:
    names = ["10.bin", "2.bin", "1.bin", "scan_10.bin", "scan_9.bin"]
    assert sorted(names, key=natural) == ["1.bin", "2.bin", "10.bin", "scan_9.bin", "scan_10.bin"]
