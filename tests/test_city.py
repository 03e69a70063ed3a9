from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import rasterio
from made_osm import OsmXml, box, hamlet

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.city.raster import ATTRIBUTION, BUILDING
from data_prep.city.tiles import TileSettings
from data_prep.errors import MaptileError
from data_prep.osm.footprints import OsmSource

FILES = {
    "city.json",
    "map.tif",
    "height.tif",
    "buildings.parquet",
    "roads.parquet",
    "tiles.parquet",
}


def prepare(folder: Path, osm: OsmXml | None = None, **settings) -> City:
    source = (osm or hamlet()).write(folder.parent / "hamlet.osm")
    return prepare_city(OsmSource(path=source), folder, CitySettings(**settings))


def assert_same_city(a: City, b: City) -> None:
    assert np.array_equal(a.raster.data, b.raster.data)
    assert (a.raster.west, a.raster.north, a.raster.crs) == (
        b.raster.west,
        b.raster.north,
        b.raster.crs,
    )
    assert (a.name, a.source, a.source_date, a.notes) == (b.name, b.source, b.source_date, b.notes)
    assert a.content_hash == b.content_hash
    assert a.reference.tolist() == b.reference.tolist()


def test_what_is_prepared_is_what_is_opened(tmp_path):
    made = prepare(tmp_path / "city")
    opened = open_city(tmp_path / "city")
    assert_same_city(made, opened)
    assert {file.name for file in (tmp_path / "city").iterdir()} == FILES
    assert len(opened.buildings()) == 3
    assert len(opened.roads()) == 3
    burnt = np.count_nonzero(opened.raster.data[BUILDING]) * 0.25
    assert burnt == pytest.approx(opened.buildings().union_all().area, rel=0.01)
    tiles = opened.tiles()
    centre = tiles.geometry.iloc[0].centroid
    offset = tiles[["offset_east", "offset_north"]].iloc[0].to_numpy()
    assert [centre.x, centre.y] == pytest.approx(opened.reference + offset)


def test_paths_may_be_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = OsmSource(path=hamlet().write(tmp_path / "hamlet.osm"))
    made = prepare_city(source, "city", CitySettings())
    assert made.folder == Path("city")
    assert_same_city(open_city("city"), made)
    assert open_city("city/map.tif").folder is None


def test_a_city_describes_itself(tmp_path):
    city = prepare(tmp_path / "city")
    raster = city.raster
    assert city.area_km2 == raster.area_km2 == raster.height * raster.width * 0.25 / 1e6
    assert repr(city) == (
        f"<City 'city': {raster.width * 0.5:.0f} x {raster.height * 0.5:.0f} m "
        f"({city.area_km2:.2f} km2) at 0.5 m/px, WGS 84 / UTM zone 30N, in {tmp_path / 'city'}>"
    )
    assert "array" not in repr(raster)
    assert "bare raster" in repr(open_city(tmp_path / "city" / "map.tif"))


def test_preparing_reports_its_progress(tmp_path):
    steps: dict[str, tuple[int, int]] = {}

    def note(step: str, done: int, total: int) -> None:
        steps[step] = (done, total)

    source = OsmSource(path=hamlet().write(tmp_path / "hamlet.osm"))
    prepare_city(source, tmp_path / "city", CitySettings(), progress=note)
    assert list(steps) == ["read hamlet.osm", "write map.tif", "write height.tif"]
    assert all(done > 0 for done, _ in steps.values())


def test_a_killed_writer_leaves_the_city_to_readers(tmp_path):
    """Where two renames replace the folder, a kill between them leaves it under a hidden name."""
    made = prepare(tmp_path / "city")
    (tmp_path / "city").rename(tmp_path / ".city-0123abcd.previous")
    assert_same_city(open_city(tmp_path / "city"), made)


def test_the_files_are_open_to_others(tmp_path):
    city = prepare(tmp_path / "city")
    for name in ("buildings", "roads", "tiles"):
        path = tmp_path / "city" / f"{name}.parquet"
        table = gpd.read_parquet(path)
        assert table.crs.to_epsg() == 32630
        parquet = pyarrow.parquet.ParquetFile(path)
        assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"
        assert ATTRIBUTION in str(parquet.schema_arrow.metadata)
    with rasterio.open(tmp_path / "city" / "map.tif") as file:
        assert file.tags()["TIFFTAG_COPYRIGHT"] == ATTRIBUTION
    with rasterio.open(tmp_path / "city" / "height.tif") as file:
        assert file.shape == (city.raster.height, city.raster.width)
    content = json.loads((tmp_path / "city" / "city.json").read_text())
    assert content["attribution"] == ATTRIBUTION
    assert content["content_hash"] == city.content_hash
    assert content["settings"]["tiles"]["size_m"] == 96.0


def test_no_heights_no_height_raster(tmp_path):
    osm = OsmXml()
    osm.building(box(0, 0, 20, 20))
    prepare(tmp_path / "city", osm)
    assert {file.name for file in (tmp_path / "city").iterdir()} == FILES - {"height.tif"}
    city = open_city(tmp_path / "city")
    assert city.roads().empty
    assert city.notes == ("no roads in it: nothing to train or drive along",)


def test_a_copy_with_other_pixels_has_another_hash(tmp_path):
    city = prepare(tmp_path / "city")
    empty = replace(city.raster, data=np.zeros_like(np.asarray(city.raster.data)))
    assert replace(city, raster=empty).content_hash != city.content_hash
    assert replace(city, name="another").content_hash == city.content_hash
    assert open_city(tmp_path / "city").content_hash == city.content_hash


def test_the_hash_names_the_content(tmp_path):
    first = prepare(tmp_path / "a")
    again = prepare(tmp_path / "b", name="another name")
    assert again.content_hash == first.content_hash
    bytes_of = [(tmp_path / name / "map.tif").read_bytes() for name in "ab"]
    assert bytes_of[0] == bytes_of[1]
    osm = hamlet()
    osm.building(box(160, 60, 170, 70))
    others = [
        prepare(tmp_path / "c", osm),
        prepare(tmp_path / "d", resolution=1.0),
        prepare(tmp_path / "e", crs="EPSG:32631"),
        prepare(tmp_path / "f", tiles=TileSettings(size_m=40)),
    ]
    assert len({first.content_hash, *(city.content_hash for city in others)}) == 5
    assert first.raster.crs != others[2].raster.crs


def test_models_survive(tmp_path):
    folder = tmp_path / "city"
    first = prepare(folder)
    (folder / "models" / "mapnet").mkdir(parents=True)
    (folder / "models" / "mapnet" / "weights").write_text("precious")
    (folder / "notes.txt").write_text("mine")
    assert prepare(folder).content_hash == first.content_hash
    osm = OsmXml()
    osm.building(box(0, 0, 20, 20))
    assert prepare(folder, osm).content_hash != first.content_hash
    assert (folder / "models" / "mapnet" / "weights").read_text() == "precious"
    assert (folder / "notes.txt").read_text() == "mine"
    # Files of the older city are gone.
    assert not (folder / "height.tif").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"city", "hamlet.osm"}


def test_a_failure_leaves_the_old_city(tmp_path):
    folder = tmp_path / "city"
    old = prepare(folder)
    (tmp_path / "bad.osm").write_text("hello")
    with pytest.raises(MaptileError, match=r"bad\.osm"):
        prepare_city(OsmSource(path=tmp_path / "bad.osm"), folder, CitySettings())
    assert_same_city(open_city(folder), old)
    with pytest.raises(MaptileError, match=r"bad\.osm"):
        prepare_city(OsmSource(path=tmp_path / "bad.osm"), tmp_path / "new", CitySettings())
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(MaptileError, match="no city folder"):
        prepare(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").exists()
    (tmp_path / "empty").mkdir()
    prepare(tmp_path / "empty")


@pytest.mark.parametrize(
    ("crs", "message"), [("EPSG:999999", "not known"), ("EPSG:4326", "not in metres")]
)
def test_invalid_map_frames(tmp_path, crs, message):
    with pytest.raises(MaptileError, match=message):
        prepare(tmp_path / "city", crs=crs)


# --- opening ------------------------------------------------------------------------------------


def change_json(folder: Path, **changes) -> None:
    path = folder / "city.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_map(folder: Path) -> None:
    with rasterio.open(folder / "map.tif", "r+") as file:
        data = file.read()
        data[0, 0, 0] ^= 255
        file.write(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda city: shutil.rmtree(city), "no such city"),
        (lambda city: (city / "city.json").unlink(), r"city\.json is missing"),
        (lambda city: (city / "city.json").write_text("{"), "not readable as JSON"),
        (lambda city: (city / "city.json").write_text("{}"), "not the description of a city"),
        (lambda city: change_json(city, version=2), "newer maptile-loc.*update"),
        (lambda city: change_json(city, version=0), "older maptile-loc.*maptile prepare"),
        (lambda city: change_json(city, version=None), "damaged"),
        (lambda city: change_json(city, crs=None), "damaged"),
        (lambda city: change_json(city, reference={}), "damaged"),
        (lambda city: (city / "map.tif").unlink(), r"map\.tif: missing"),
        (lambda city: (city / "tiles.parquet").unlink(), r"tiles\.parquet: missing"),
        (lambda city: (city / "map.tif").write_text("hello"), "not readable as a raster"),
        (other_map, r"map\.tif: not the map that city\.json describes"),
        (lambda city: change_json(city, content_hash="0"), "not the map"),
    ],
)
def test_damaged_cities(tmp_path, damage, message):
    folder = tmp_path / "city"
    prepare(folder)
    damage(folder)
    with pytest.raises(MaptileError, match=message) as error:
        open_city(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_a_damaged_table(tmp_path):
    prepare(tmp_path / "city")
    (tmp_path / "city" / "buildings.parquet").write_text("hello")
    with pytest.raises(MaptileError, match=r"buildings\.parquet: not readable"):
        open_city(tmp_path / "city").buildings()


def test_a_bare_raster_is_a_city(tmp_path):
    city = prepare(tmp_path / "city")
    bare = open_city(tmp_path / "city" / "map.tif")
    assert bare.folder is None
    assert np.array_equal(bare.raster.data, city.raster.data)
    # The content is the same, so a model of the one is valid for the other.
    assert bare.content_hash == city.content_hash
    pd.testing.assert_frame_equal(
        pd.DataFrame(bare.tiles().drop(columns="geometry")),
        pd.DataFrame(city.tiles().drop(columns="geometry")),
    )
    outlines = bare.buildings()
    assert outlines.union_all().area == np.count_nonzero(bare.raster.data[BUILDING]) * 0.25
    assert list(outlines.columns) == list(city.buildings().columns)
    assert bare.roads().empty
    assert list(bare.roads().columns) == list(city.roads().columns)
    assert (bare.roads().dtypes == city.roads().dtypes).all()


def test_a_raster_is_a_source(tmp_path):
    city = prepare(tmp_path / "city")
    again = prepare_city(
        OsmSource(path=tmp_path / "city" / "map.tif"), tmp_path / "again", CitySettings()
    )
    assert again.content_hash == city.content_hash
    opened = open_city(tmp_path / "again")
    assert_same_city(opened, again)
    assert len(opened.buildings()) == 3
    assert (opened.roads().dtypes == city.roads().dtypes).all()


@pytest.mark.realdata
def test_the_raster_of_kitti_360(data_dir):
    city = open_city(data_dir / "kitti360_0000" / "map.tif")
    assert city.raster.data.shape == (3, 3200, 2400)
    assert len(city.buildings()) > 1000
    assert not city.tiles()["empty"].all()
