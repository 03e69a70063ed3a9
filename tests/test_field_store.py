"""The files that keep a map's likelihood fields: equal results, damage, limits, two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from made import blocks_raster
from small_city import small_city, write_osm

from data_prep.city.folder import CitySettings, open_city, prepare_city
from data_prep.city.raster import ROAD
from data_prep.osm.footprints import OsmSource
from maptile_loc.map_search import city_fields
from maptile_loc.recipe import load_recipe
from maptile_loc.score import cover, map_fields, store
from maptile_loc.score.map_fields import MapFields, made_of
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.score.store import FieldStore, open_store

SETTINGS = LikelihoodSettings()


@pytest.fixture
def raster(monkeypatch):
    """A map of several blocks."""
    monkeypatch.setattr(map_fields, "BLOCK", 64)
    made = blocks_raster(seed=5)
    data = made.data.copy()
    data[ROAD, 150:162] = 255
    return replace(made, data=data)


def kept(raster, folder: Path, limit_gb: float = 1.0) -> MapFields:
    return MapFields(raster, 1.0, SETTINGS, FieldStore(folder, "map", limit_gb))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"*{store.SUFFIX}"))


def test_a_second_run_reads_what_the_first_computed(raster, tmp_path, monkeypatch):
    expected = MapFields(raster, 1.0, SETTINGS)
    first = kept(raster, tmp_path)
    np.testing.assert_array_equal(first.channels, expected.channels)
    np.testing.assert_array_equal(first.coarser(4).channels, expected.coarser(4).channels)
    made = len(files(tmp_path))

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(map_fields, "surroundings", never)
    monkeypatch.setattr(map_fields, "cover_of", never)
    second = kept(raster, tmp_path)
    np.testing.assert_array_equal(second.channels, expected.channels)
    np.testing.assert_array_equal(second.coarser(4).channels, expected.coarser(4).channels)
    assert len(files(tmp_path)) == made > 10


def test_a_window_makes_only_the_blocks_around_it(raster, tmp_path):
    kept(raster, tmp_path).window(70, 70, 50, 50)
    assert {path.stem for path in files(tmp_path)} == {"cover", "level", "block-1-1"}


def test_before_a_search_of_the_whole_map_all_blocks_are_made_once(raster, tmp_path, monkeypatch):
    expected = MapFields(raster, 1.0, SETTINGS)
    made = []
    plain = map_fields.surroundings

    def counted(building, *rest):
        made.append(building.shape)
        return plain(building, *rest)

    monkeypatch.setattr(map_fields, "surroundings", counted)
    fields = kept(raster, tmp_path)
    seen = []
    fields.coarser(4).expect_all(lambda step, done, total: seen.append((done, total)))
    blocks = [path for path in files(tmp_path) if path.stem.startswith("block")]
    assert len(made) == len(blocks) > 4
    assert seen == [(done, len(blocks)) for done in range(len(blocks) + 1)]
    np.testing.assert_array_equal(fields.level, expected.level)
    made.clear()
    np.testing.assert_array_equal(fields.channels, expected.channels)
    assert len(made) == len(blocks)  # those of ``expected``, which keeps none


def test_only_windows_of_the_raster_are_read(raster, monkeypatch):
    """The whole map need not be in memory."""
    monkeypatch.setattr(cover, "STRIP", 50)
    largest = []
    window = type(raster).window

    def watched(self, row, column, height, width):
        largest.append(height)
        return window(self, row, column, height, width)

    expected = MapFields(raster, 1.0, SETTINGS).channels
    monkeypatch.setattr(type(raster), "window", watched)
    np.testing.assert_array_equal(MapFields(raster, 1.0, SETTINGS).channels, expected)
    assert max(largest) == 100


@pytest.mark.parametrize("how", ["bit", "short", "long", "empty"])
def test_damaged_files_are_made_again(raster, tmp_path, how):
    expected = kept(raster, tmp_path).channels
    for path in files(tmp_path):
        whole = path.read_bytes()
        middle = len(whole) // 2
        damaged = {
            "bit": whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
            "short": whole[:middle],
            "long": whole + b"0",
            "empty": b"",
        }[how]
        path.write_bytes(damaged)
        np.testing.assert_array_equal(kept(raster, tmp_path).channels, expected)
        # Where all blocks are at hand, the covered cells are not read.
        assert path.read_bytes() == whole or path.stem == "cover"


def test_what_was_not_used_for_longest_is_removed(tmp_path):
    limited = FieldStore(tmp_path, "map", 10_500 / 1e9)
    for number in range(8):
        limited.get(f"{number}", 2000, lambda number=number: np.full(2000, number, np.uint8))
        # The first one is used all the time.
        assert (limited.get("0", 2000, lambda: np.zeros(2000, np.uint8)) == 0).all()
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 10_500
    names = {path.stem for path in files(tmp_path)}
    assert {"0", "7"} <= names
    assert "1" not in names
    # The limit is that of all maps in the folder.
    FieldStore(tmp_path, "another map", 5e-9).get("x", 9, lambda: np.zeros(9, np.uint8))
    assert {path.stem for path in files(tmp_path)} == {"x"}


def test_what_a_killed_process_left_is_removed_when_the_store_is_opened(tmp_path):
    FieldStore(tmp_path, "map", 1.0)
    folder = next(tmp_path.iterdir())
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    left, own = (folder / f".block-{pid}-0123abcd.tmp.fields" for pid in (dead.pid, os.getpid()))
    left.touch(), own.touch()
    FieldStore(tmp_path, "map", 1.0).get("x", 9, lambda: np.zeros(9, np.uint8))
    assert {path.name for path in folder.iterdir()} == {own.name, "x.fields"}


def test_two_processes_make_an_array_once(tmp_path):
    script = f"""
import sys, time
from pathlib import Path
import numpy as np
from maptile_loc.score.store import FieldStore
def make():
    with open({str(tmp_path / "made")!r}, "a") as file:
        file.write("made ")
    time.sleep(1)
    return np.arange(1000, dtype=np.int32)
store = FieldStore(Path({str(tmp_path / "files")!r}), "map", 1.0)
while not Path({str(tmp_path / "go")!r}).exists():
    time.sleep(0.01)
print(store.get("a", 4000, make).view(np.int32).sum())
"""
    command = [sys.executable, "-c", script]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    (tmp_path / "go").touch()
    assert [one.communicate()[0].strip() for one in both] == ["499500"] * 2
    assert (tmp_path / "made").read_text() == "made "
    assert not list((tmp_path / "files").rglob(".*"))


@pytest.mark.parametrize("folder", [False, True])
def test_where_the_city_cannot_be_written_the_users_cache_is_used(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    city = tmp_path / "city" if folder else None
    if folder:
        city.mkdir()
        (city / "cache").write_text("no folder")
    found = open_store(city, "hash", made_of(1.0, SETTINGS), 1.0)
    assert found.root == tmp_path / "user" / "maptile-loc"
    (tmp_path / "user").rename(tmp_path / "elsewhere")
    (tmp_path / "user").write_text("no folder")
    assert open_store(city, "hash", "", 1.0) is None


def test_a_folder_that_is_gone_is_no_obstacle(tmp_path):
    limited = FieldStore(tmp_path / "cache", "map", 1.0)
    limited.folder.rmdir()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("no folder")
    assert (limited.get("a", 3, lambda: np.arange(3, dtype=np.uint8)) == [0, 1, 2]).all()


def test_a_city_keeps_its_fields_until_it_is_prepared_again(tmp_path):
    city = small_city(tmp_path)
    settings = load_recipe()
    fields = city_fields(city, settings)
    assert files(city.folder / "cache")
    again = city_fields(open_city(city.folder), settings)
    np.testing.assert_array_equal(again.channels, fields.channels)
    # Other settings have files of their own.
    before = len(files(city.folder))
    city_fields(city, load_recipe(overrides=["likelihood.course=1.0"]))
    assert len(files(city.folder)) == 2 * before
    write_osm(tmp_path / "small.osm", seed=1)
    prepare_city(OsmSource(path=tmp_path / "small.osm"), city.folder, CitySettings())
    assert not (city.folder / "cache").exists()


def test_without_a_cache_nothing_is_written_and_nothing_differs(tmp_path):
    city = small_city(tmp_path)
    without = city_fields(city, load_recipe(overrides=["search.cache_gb=0"]))
    assert not (city.folder / "cache").exists()
    np.testing.assert_array_equal(without.channels, city_fields(city, load_recipe()).channels)
