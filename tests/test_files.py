from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from interruptions import CRASHED, REFUSED, SUCCEEDED, interruptions

from data_prep.errors import MaptileError
from data_prep.files import (
    atomic_file,
    check_version,
    ensure_replaceable,
    finish_swap,
    read_json,
    swapped_folder,
    write_json,
)


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="halfway"), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise ValueError("halfway")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_full_disk_is_one_clear_line(tmp_path):
    path = tmp_path / "a.txt"
    with (
        pytest.raises(MaptileError, match=r"a\.txt: cannot write: No space left"),
        atomic_file(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MaptileError, match="cannot write"):
        write_json(tmp_path / "file" / "a.json", {})


# --- folders that are replaced whole ------------------------------------------------------------

OWN = ("city.json", "map.tif")
MINE = {"models/mapnet/weights": "mine", "models/newest": "mine", "notes.txt": "mine"}
OLD = {"city.json": "old", "map.tif": "old"} | MINE
NEW = {"city.json": "new"} | MINE


def is_foreign(name: str) -> bool:
    return name not in OWN


def write_new(folder) -> None:
    with swapped_folder(folder, keep=is_foreign) as new:
        (new / "city.json").write_text("new")


@pytest.fixture
def folder(tmp_path):
    """A city folder with a user's files, one of them a symbolic link."""
    folder = tmp_path / "city"
    (folder / "models" / "mapnet").mkdir(parents=True)
    (folder / "models" / "newest").symlink_to("mapnet/weights")
    for name, text in OLD.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(params=["in one step", "in two steps"])
def steps(request, monkeypatch):
    """With two steps, the C library knows no renameat2."""
    if request.param == "in two steps":
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    return request.param


def files_in(folder) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_whole_or_not_at_all(tmp_path, steps):
    folder = tmp_path / "city"
    with swapped_folder(folder) as new:
        (new / "one").write_text("1")
        assert not folder.exists()
    with pytest.raises(ValueError, match="halfway"), swapped_folder(folder) as new:
        (new / "two").write_text("2")
        raise ValueError("halfway")
    assert names_in(folder) == ["one"]
    with swapped_folder(folder) as new:
        (new / "three").write_text("3")
    assert names_in(folder) == ["three"]
    assert names_in(tmp_path) == ["city"]


def test_kept_entries_stay_the_same_files(folder, steps):
    (folder / "models" / "empty").mkdir()
    before = (folder / "models" / "mapnet" / "weights").stat()
    write_new(folder)
    after = (folder / "models" / "mapnet" / "weights").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (
        before.st_ino,
        before.st_mtime_ns,
        1,
    )
    assert files_in(folder) == NEW
    assert (folder / "models" / "newest").readlink().name == "weights"
    assert (folder / "models" / "empty").is_dir()
    assert names_in(folder.parent) == ["city"]


def test_kept_entries_are_copied_where_hard_links_are_unknown(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    before = (folder / "notes.txt").stat()
    monkeypatch.setattr(os, "link", refuse)
    write_new(folder)
    assert files_in(folder) == NEW
    assert (folder / "models" / "newest").is_symlink()
    assert (folder / "notes.txt").stat().st_mtime_ns == before.st_mtime_ns


def test_entries_that_turn_up_meanwhile_are_kept(folder):
    with swapped_folder(folder, keep=is_foreign) as new:
        (new / "city.json").write_text("new")
        (folder / "report.html").write_text("late")
    assert files_in(folder) == NEW | {"report.html": "late"}


def test_a_new_entry_wins_over_a_kept_one(folder):
    with swapped_folder(folder, keep=is_foreign) as new:
        (new / "notes.txt").write_text("theirs")
    assert (folder / "notes.txt").read_text() == "theirs"


def assert_next_run_cleans_up(folder) -> None:
    write_new(folder)
    assert files_in(folder) == NEW
    assert names_in(folder.parent) == ["city"]
    for name in OWN:
        (folder / name).write_text("old")


@pytest.mark.parametrize(
    ("steps", "how"),
    [("in one step", "fail"), ("in two steps", "fail"), ("in two steps", "fail from there on")],
    indirect=["steps"],
)
def test_a_failure_at_any_step_leaves_the_old_or_the_new_folder(folder, steps, how):
    codes = set()
    for code in interruptions(lambda: write_new(folder), how):
        assert code != CRASHED
        codes.add(code)
        if folder.exists() or steps == "in one step" or how == "fail":
            assert files_in(folder) == (OLD if code == REFUSED else NEW)
        assert_next_run_cleans_up(folder)
    assert codes == {REFUSED, SUCCEEDED}


def test_a_kill_at_any_step_leaves_the_old_or_the_new_folder(folder, steps):
    found = []
    for code in interruptions(lambda: write_new(folder), "kill"):
        assert code == -signal.SIGKILL
        if folder.exists() or steps == "in one step":
            assert files_in(folder) in (OLD, NEW)
            found.append(files_in(folder) == NEW)
        assert_next_run_cleans_up(folder)
    assert found == sorted(found)
    assert set(found) == {False, True}


def test_readers_can_finish_a_swap(folder):
    """A process that was killed between two renames leaves the old folder under a hidden name."""
    folder.rename(folder.parent / ".city-0123abcd.previous")
    (folder.parent / ".city-4567abcd.new").mkdir()
    (folder.parent / ".city-mine.new").mkdir()
    finish_swap(folder)
    assert files_in(folder) == OLD
    assert names_in(folder.parent) == [".city-mine.new", "city"]


def test_a_kill_while_a_first_folder_is_written(tmp_path):
    for code in interruptions(lambda: write_new(tmp_path / "city"), "kill"):
        assert code == -signal.SIGKILL
        assert not (tmp_path / "city").exists() or files_in(tmp_path / "city") == {
            "city.json": "new"
        }
        finish_swap(tmp_path / "city")
        assert names_in(tmp_path) in ([], ["city"])
        shutil.rmtree(tmp_path / "city", ignore_errors=True)


def test_two_writers_at_once_leave_each_other_alone(folder):
    with swapped_folder(folder, keep=is_foreign) as slow:
        (slow / "city.json").write_text("slow")
        write_new(folder)
        assert files_in(folder) == NEW
    assert files_in(folder) == NEW | {"city.json": "slow"}
    assert names_in(folder.parent) == ["city"]


def test_a_symbolic_link_stays_one(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    write_new(link)
    assert link.is_symlink()
    assert files_in(folder) == NEW


def test_the_current_folder_stays_what_it_is(folder, monkeypatch):
    """What is replaced would be the shell's folder, hidden and then removed."""
    before = files_in(folder)
    monkeypatch.chdir(folder)
    with pytest.raises(MaptileError, match="you are in this folder"):
        write_new(Path())
    assert files_in(folder) == before
    assert list(folder.parent.glob(".*")) == []


def test_the_mode_of_a_replaced_folder_stays(folder):
    folder.chmod(0o770)
    write_new(folder)
    assert folder.stat().st_mode & 0o777 == 0o770


def test_what_cannot_be_replaced_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(MaptileError, match=r"file: .*Not a directory"),
        swapped_folder(tmp_path / "file"),
    ):
        pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(MaptileError, match=r"proc: a mount point.*such as /proc/"):
        ensure_replaceable(Path("/proc"))
    ensure_replaceable(tmp_path / "new" / "city")
    assert names_in(tmp_path / "new") == []


def test_a_full_disk_inside_a_folder_names_the_folder(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(MaptileError, match=r"city/map\.tif: cannot write: No space left") as error,
        swapped_folder(tmp_path / "city") as new,
        atomic_file(new / "map.tif"),
    ):
        raise full
    assert ".new" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


# --- JSON ---------------------------------------------------------------------------------------


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, float("nan")], "c": {"d": 2}})
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "a": None,
        "b": [1.5, None],
        "c": {"d": 2},
    }
    assert read_json(tmp_path / "a.json")["b"] == [1.5, None]


@pytest.mark.parametrize(
    ("text", "message"), [("[1]", "expected a JSON object"), ("{", "not readable")]
)
def test_json_that_is_none(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(MaptileError, match=message):
        read_json(tmp_path / "a.json")
    with pytest.raises(MaptileError, match="no such file"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (4, r"a/city\.json: made by a newer maptile-loc \(format 4, .*3\); update .* train again"),
        (2, r"a/city\.json: made by an older maptile-loc \(format 2, .*3\); train again"),
        (None, r"a/city\.json: damaged \(no format version\); train again"),
        ("3", r"damaged \(no format version\)"),
    ],
)
def test_versions_of_formats(version, message):
    check_version(Path("a/city.json"), 3, supported=3, remedy="train again")
    with pytest.raises(MaptileError, match=message):
        check_version(Path("a/city.json"), version, supported=3, remedy="train again")
