from __future__ import annotations

import errno
import json

import pytest

from data_prep.errors import MaptileError
from data_prep.files import atomic_file, atomic_folder, read_json, write_json


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


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "city"
    with atomic_folder(folder) as temporary:
        (temporary / "one").write_text("1")
        assert not folder.exists()
    with pytest.raises(ValueError, match="halfway"), atomic_folder(folder) as temporary:
        (temporary / "two").write_text("2")
        raise ValueError("halfway")
    assert [file.name for file in folder.iterdir()] == ["one"]
    with atomic_folder(folder) as temporary:
        (temporary / "three").write_text("3")
    assert [file.name for file in folder.iterdir()] == ["three"]
    assert [file.name for file in tmp_path.iterdir()] == ["city"]


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MaptileError, match="cannot write"):
        write_json(tmp_path / "file" / "a.json", {})


def test_a_full_disk_inside_a_folder_names_the_folder(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(MaptileError, match=r"city/map\.tif: cannot write: No space left") as error,
        atomic_folder(tmp_path / "city") as temporary,
        atomic_file(temporary / "map.tif"),
    ):
        raise full
    assert ".tmp" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


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
