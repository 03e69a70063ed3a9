"""Tables with numbers that no vehicle has: one line, which names that of the file."""

from __future__ import annotations

import pytest

from data_prep.errors import MaptileError
from data_prep.sources.formats.common import read_table
from data_prep.sources.formats.tum import read_tum

GOOD = "1317384506.4 1 2 3 0 0 0 1\n"


@pytest.mark.parametrize(
    "row", ["1 1e300 0 0 0 0 0 1", "1 0 0 0 1e300 0 0 1", "1 -1e9 0 0 0 0 0 1"]
)
def test_a_pose_beyond_the_earth(tmp_path, row):
    (tmp_path / "odometry.tum").write_text(f"{row}\n{GOOD}")
    with pytest.raises(MaptileError, match="pose 1 has the number") as error:
        read_tum(tmp_path / "odometry.tum")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["NaN", "inf", "1e400"])
def test_a_pose_that_is_no_number(tmp_path, value):
    (tmp_path / "odometry.tum").write_text(f"{GOOD}1317384507 {value} 0 0 0 0 0 1\n")
    with pytest.raises(MaptileError, match="line 2"):
        read_tum(tmp_path / "odometry.tum")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("1,2.5\n2,left\n", "line 3: column heading: expected a number, found 'left'"),
        ("1,2.5\n2.7,3\n", r"line 3: column t_ns: expected a whole number, found '2\.7'"),
    ],
)
def test_the_line_of_a_csv_is_named(tmp_path, rows, says):
    (tmp_path / "heading.csv").write_text(f"t_ns,heading\n{rows}")
    with pytest.raises(MaptileError, match=says):
        read_table(tmp_path / "heading.csv", ["t_ns", "heading"])
