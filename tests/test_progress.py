"""Progress of a command without a terminal: a line every ten seconds."""

from __future__ import annotations

import time

import pytest

from maptile_loc.cli.parts import progress
from maptile_loc.cli.parts.output import Interrupted, writing
from maptile_loc.cli.parts.progress import Lines, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_says_what_is_done_and_how_long_the_step_still_takes(clock):
    lines = Lines(0.0)
    assert lines.line(10.0) == "10 s: at work"
    clock[0] = 20.0
    lines.show("search", 0, 200)
    assert lines.line(30.0) == "30 s: search 0 of 200 (0 %)"
    lines.show("search", 50, 200)
    assert lines.line(40.0) == "40 s: search 50 of 200 (25 %), about 60 s left"
    clock[0] = 50.0
    lines.show("search", 60, 0)
    assert lines.line(50.0) == "50 s: search 60"


def test_a_resumed_step_is_estimated_by_what_was_done_since(clock):
    lines = Lines(0.0)
    lines.show("search", 100, 200)
    lines.show("search", 120, 200)
    assert lines.line(10.0).endswith("about 40 s left")


def test_lines_come_while_a_step_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY_S", 0.05)
    with progress_bar() as show:
        show("work", 0, 3)
        time.sleep(0.3)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("work 0 of 3") >= 2


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (None, None, "nothing finished was written; the same command goes on"),
        ("old", "old", "stands as it was before"),
        ("old", "new", "the new one is complete"),
        (None, "new", "the new one is complete"),
    ],
)
def test_the_last_line_of_an_interrupted_command_is_true(tmp_path, before, after, says):
    (tmp_path / "out").mkdir()
    mark = tmp_path / "out" / "mark"
    if before is not None:
        mark.write_text(before)
    with (
        pytest.raises(Interrupted, match=says),
        writing(tmp_path / "out", "mark", again="goes on"),
    ):
        if after != before:
            new = tmp_path / "new"
            new.write_text(str(after))
            new.replace(mark)
        raise KeyboardInterrupt
    assert not list(tmp_path.glob(".*"))
