"""What stands at a name is replaced by the same kind of thing from the same source only."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_city import small_city, write_osm

import maptile_loc as ml
from data_prep.errors import MaptileError
from data_prep.files import write_json
from data_prep.standing import Product, check_standing
from maptile_loc.cli import app

CITY = Product("city.json", {"source": ["/maps/a.osm"]}, lambda name: name == "models")


def stands(folder: Path, mark: str, **content) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / mark, content)


def a_city(folder: Path, source: str) -> None:
    stands(folder, "city.json", format="maptile-city", made_from={"source": [source]})


def test_nothing_and_an_empty_folder_are_free(tmp_path):
    assert check_standing(tmp_path / "new", CITY)("models")
    (tmp_path / "empty").mkdir()
    check_standing(tmp_path / "empty", CITY)


def test_the_same_source_is_replaced_without_asking(tmp_path):
    a_city(tmp_path / "city", "/maps/a.osm")
    keep = check_standing(tmp_path / "city", CITY)
    assert keep("models")
    assert not keep("map.tif")


@pytest.mark.parametrize(
    ("mark", "content", "says"),
    [
        ("city.json", {"format": "maptile-city", "made_from": {"source": ["/b.osm"]}}, r"/b\.osm"),
        ("world.json", {"simulated": True, "made_from": {"city": ["/c"]}}, "simulated drive made"),
        ("run.json", {"final": "x", "made_from": {"drive": ["/d"]}}, "a result made from drive /d"),
        ("model.json", {"format": "maptile-model"}, "a model stands there"),
        ("report.json", {"places": 3}, "a city report"),
    ],
)
def test_anything_else_is_replaced_by_force_only(tmp_path, mark, content, says):
    stands(tmp_path / "x", mark, **content)
    with pytest.raises(MaptileError, match=says) as error:
        check_standing(tmp_path / "x", CITY)
    assert "--force" in str(error.value)
    keep = check_standing(tmp_path / "x", CITY, force=True)
    assert keep("models") == (mark == "city.json")  # nothing of another kind stays


def test_the_files_of_a_user_stay_even_by_force(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(MaptileError, match=r"no city folder \(it holds thesis\.tex\)"):
        check_standing(tmp_path, CITY)
    assert check_standing(tmp_path, CITY, force=True)("thesis.tex")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_text("")
    for force in (False, True):
        with pytest.raises(MaptileError, match="a file stands there"):
            check_standing(tmp_path / "x", CITY, force)


def test_a_file_of_the_name_of_a_mark_is_no_mark(tmp_path):
    stands(tmp_path / "x", "world.json", continents=7)
    with pytest.raises(MaptileError, match=r"holds world\.json"):
        check_standing(tmp_path / "x", CITY)


def test_what_an_unfinished_run_left_is_free(tmp_path):
    (tmp_path / "odometry.tum").write_text("")
    check_standing(tmp_path, Product("run.json", {}, begun=("odometry.tum",)))


# --- commands -----------------------------------------------------------------------------------


def test_another_city_is_kept_and_its_models_are_named(tmp_path):
    city = small_city(tmp_path)
    model = tmp_path / "city" / "models" / "mapnet"
    stands(model, "model.json", format="maptile-model")
    (tmp_path / "b").mkdir()
    write_osm(tmp_path / "b" / "small.osm", blocks=2)
    before = (tmp_path / "city" / "city.json").read_bytes()
    with pytest.raises(MaptileError, match=r"small\.osm stands there"):
        ml.prepare_city(tmp_path / "b" / "small.osm", tmp_path / "city")
    assert (tmp_path / "city" / "city.json").read_bytes() == before
    other = ml.prepare_city(tmp_path / "b" / "small.osm", tmp_path / "city", force=True)
    assert other.content_hash != city.content_hash
    assert (model / "model.json").is_file()
    assert any("mapnet" in note for note in other.notes)
    again = ml.prepare_city(
        tmp_path / "b" / "small.osm", tmp_path / "city", overrides=["resolution=1"]
    )
    assert again.raster.resolution == 1


def test_a_drive_of_another_city_is_kept(tmp_path):
    first, second = small_city(tmp_path / "1"), small_city(tmp_path / "2", seed=1)
    how = {"sensor": "hdl32", "length_m": 40.0, "overrides": ["every_m=20"]}
    ml.simulate(first, tmp_path / "drive", **how)
    with pytest.raises(MaptileError, match=f"made from city {tmp_path / '1' / 'city'}"):
        ml.simulate(second, tmp_path / "drive", **how)
    ml.simulate(first, tmp_path / "drive", seed=4, **how)  # other settings
    with pytest.raises(MaptileError, match="a simulated drive"):
        ml.prepare_city(tmp_path / "1" / "small.osm", tmp_path / "drive")
    with pytest.raises(MaptileError, match="a city folder"):
        ml.simulate(first, tmp_path / "2" / "city", **how)
    ml.simulate(second, tmp_path / "drive", force=True, **how)
    world = json.loads((tmp_path / "drive" / "world.json").read_text())
    assert world["made_from"]["city"][0] == str(tmp_path / "2" / "city")


def test_a_result_is_replaced_by_the_same_city_and_drive_only(town_city, town_drive, tmp_path):
    city = ml.open_city(town_city)
    found = ml.localize(city, town_drive, every_m=100.0)
    found.save(tmp_path / "out")
    again = ml.localize(city, town_drive, every_m=150.0)
    again.save(tmp_path / "out")
    shutil.copytree(town_drive, tmp_path / "other")
    other = ml.localize(city, tmp_path / "other", every_m=150.0)
    with pytest.raises(MaptileError, match=f"drive {tmp_path / 'other'}"):
        other.save(tmp_path / "out")
    with pytest.raises(MaptileError, match="is not replaced by a result"):
        other.save(town_drive)
    other.save(tmp_path / "out", force=True)


def test_what_an_unfinished_run_left_does_not_stay(tmp_path):
    begun = Product("report.json", {"city": ["/a"]}, lambda _: False, ("unfinished.npz",))
    (tmp_path / "unfinished.npz").touch()
    assert not check_standing(tmp_path, begun)("unfinished.npz")
    (tmp_path / "notes.txt").touch()
    assert check_standing(tmp_path, begun, force=True)("notes.txt")


@pytest.mark.parametrize("force", [False, True])
def test_live_and_demo_replace_what_is_theirs_only(town_city, tmp_path, force):
    (tmp_path / "fixes.csv").write_text("years of work")
    (tmp_path / "recording" / "clouds").mkdir(parents=True)
    (tmp_path / "demo" / "city").mkdir(parents=True)
    (tmp_path / "demo" / "city" / "thesis.tex").write_text("years of work")
    if force:  # a folder is no file of fixes, whatever is asked for
        (tmp_path / "fixes.csv").unlink()
        (tmp_path / "fixes.csv").mkdir()
    commands = [
        ["live", town_city, tmp_path / "recording", "--out", tmp_path / "fixes.csv", "--idle", 1],
        ["demo", tmp_path / "demo"],
    ][: 1 if force else 2]
    for command in commands:
        words = [str(word) for word in command] + (["--force"] if force else [])
        said = CliRunner().invoke(app, words)
        assert isinstance(said.exception, MaptileError | SystemExit)
        assert "--force" in f"{said.output}{said.exception}"
    assert (tmp_path / "demo" / "city" / "thesis.tex").read_text() == "years of work"
    assert force or (tmp_path / "fixes.csv").read_text() == "years of work"


def test_a_training_does_not_replace_what_is_no_model(tmp_path):
    city = small_city(tmp_path)
    other = city.path / "models" / "mapnet"
    other.mkdir(parents=True)
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(MaptileError, match=r"mapnet: .*thesis\.tex.*--force"):
        ml.train(city, overrides=["training.steps=1"])
    assert [file.name for file in other.iterdir()] == ["thesis.tex"]


def test_names_that_are_not_utf8_are_refused(town_city, tmp_path):
    """Folders unpacked from old archives have such names; GDAL cannot open files below them."""
    bad = tmp_path / os.fsdecode(b"stra\xdfe")
    write_osm(tmp_path / "town.osm")
    for wanted in (bad, bad / "city"):
        with pytest.raises(MaptileError, match=r"stra\\udcdfe.*: .* is not UTF-8; rename it"):
            ml.prepare_city(tmp_path / "town.osm", wanted)
        assert not bad.exists()
    shutil.copytree(town_city, bad)
    with pytest.raises(MaptileError, match="not UTF-8; rename it"):
        ml.open_city(bad)
    shutil.copy(town_city / "map.tif", tmp_path / os.fsdecode(b"stra\xdfe.tif"))
    with pytest.raises(MaptileError, match="not UTF-8; rename it"):
        ml.open_city(tmp_path / os.fsdecode(b"stra\xdfe.tif"))
    table = tmp_path / os.fsdecode(b"stra\xdfe.parquet")
    shutil.copy(town_city / "buildings.parquet", table)
    with pytest.raises(MaptileError, match="not UTF-8; rename it"):
        ml.prepare_city(table, tmp_path / "city")
    shutil.copytree(bad, tmp_path / "stra\u00dfe")
    assert ml.open_city(tmp_path / "stra\u00dfe").name == ml.open_city(town_city).name
