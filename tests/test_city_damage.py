"""Damage in any file of a city is one line that names the file, whoever opens the city."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from made_osm import OsmXml, box, hamlet

from data_prep.city.folder import CitySettings, open_city, prepare_city
from data_prep.errors import MaptileError
from data_prep.osm.footprints import OsmSource

FILES = ("map.tif", "height.tif", *(f"{t}.parquet" for t in ("buildings", "roads", "tiles")))


def prepared(folder: Path, osm: OsmXml) -> Path:
    """A city with all files, squares among them."""
    osm.way(box(160, 60, 180, 90), highway="pedestrian", area="yes", name="Green")
    folder.mkdir()
    prepare_city(OsmSource(path=osm.write(folder / "a.osm")), folder / "city", CitySettings())
    return folder / "city"


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A city, and another one of the same size whose first house is higher."""
    folder = tmp_path_factory.mktemp("cities")
    other = hamlet()
    other.building(box(160, 20, 180, 40), height="30")
    other.way([(0, 60), (90, 60)], highway="service")
    return prepared(folder / "one", hamlet()), prepared(folder / "other", other)


@pytest.fixture
def city(cities: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(cities[0], tmp_path / "city"))


def refused(city: Path, name: str) -> None:
    with pytest.raises(MaptileError, match=name) as error:
        open_city(city)
    assert "\n" not in str(error.value)
    assert "maptile prepare" in str(error.value) or "not readable" in str(error.value)


@pytest.mark.parametrize("name", [*FILES, "squares.parquet"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_cut_file_is_seen(city: Path, name: str, share: float) -> None:
    content = (city / name).read_bytes()
    (city / name).write_bytes(content[: int(share * len(content))])
    refused(city, name.replace(".", r"\."))


@pytest.mark.parametrize("name", [*FILES[1:], "squares.parquet"])
def test_a_changed_byte_is_seen(city: Path, name: str) -> None:
    content = bytearray((city / name).read_bytes())
    content[len(content) // 2] ^= 0x10
    (city / name).write_bytes(content)
    refused(city, name.replace(".", r"\."))


@pytest.mark.parametrize("name", [*FILES, "squares.parquet"])
def test_a_missing_file_is_seen(city: Path, name: str) -> None:
    (city / name).unlink()
    refused(city, rf"{name}: missing")


@pytest.mark.parametrize("name", [name for name in FILES if name != "tiles.parquet"])
def test_a_file_of_another_city_is_seen(cities: tuple[Path, Path], city: Path, name: str) -> None:
    shutil.copy(cities[1] / name, city / name)
    refused(city, name.replace(".", r"\."))


def test_a_file_that_the_city_does_not_have_is_seen(cities: tuple[Path, Path], city: Path) -> None:
    change(city, lambda content: content["files"].pop("height.tif"))
    refused(city, r"height\.tif: not of this city")


def change(city: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((city / "city.json").read_text())
    edit(content)
    (city / "city.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (lambda c: c.update(resolution=1.0), "resolution"),
        (lambda c: c.update(resolution="half"), "resolution"),
        (lambda c: c["bounds"].__setitem__(0, c["bounds"][0] + 1), "bounds"),
        (lambda c: c.update(bounds=c["bounds"][:2]), "bounds"),
        (lambda c: c["reference"].update(latitude=0.0), "reference.latitude"),
        (lambda c: c["reference"].update(longitude=None), "reference.longitude"),
        (lambda c: c["reference"].update(centre=[0, 0]), "map.tif"),
        (lambda c: c.update(name=5), "name"),
        (lambda c: c.update(notes="none"), "notes"),
        (lambda c: c.update(buildings=1), "buildings"),
        (lambda c: c.update(roads=99), "roads"),
        (lambda c: c.update(crs="EPSG:4326"), "crs"),
        (lambda c: c.update(crs=pyproj.CRS("EPSG:4326").to_wkt()), "crs"),
        (lambda c: c.update(crs=pyproj.CRS("EPSG:32631").to_wkt()), "map.tif"),
        (lambda c: c.update(files=["a"]), "files"),
    ],
)
def test_an_edited_description_is_seen(
    city: Path, edit: Callable[[dict[str, Any]], Any], key: str
) -> None:
    change(city, edit)
    refused(city, key)


def test_cities_of_older_versions_are_opened(city: Path) -> None:
    change(city, lambda content: content.pop("files"))
    assert len(open_city(city).buildings()) == 3
    shutil.copy(city / "roads.parquet", city / "buildings.parquet")
    change(city, lambda content: content.update(buildings=2))
    refused(city, r"buildings\.parquet: holds 3 buildings, city\.json states 2")


def test_a_raster_that_states_a_huge_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 2, "sparse_ok": True, "tiled": True}
    profile |= {"width": 200_000, "height": 200_000, "crs": "EPSG:32630"}
    transform = rasterio.Affine(0.5, 0, 6e5, 0, -0.5, 5e6)
    with rasterio.open(path, "w", transform=transform, **profile) as file:
        for index, name in enumerate(("building", "road"), 1):
            file.set_band_description(index, name)
    with pytest.raises(MaptileError, match="do not fit into memory"):
        open_city(path)


def test_a_raster_with_heights_in_its_system_is_opened(city: Path, tmp_path: Path) -> None:
    path = tmp_path / "compound.tif"
    with rasterio.open(city / "map.tif") as file:
        profile, data, names = file.profile, file.read(), file.descriptions
    profile["crs"] = "EPSG:32630+5773"
    with rasterio.open(path, "w", **profile) as file:
        file.write(data)
        for index, name in enumerate(names, 1):
            file.set_band_description(index, name)
    assert np.array_equal(open_city(path).raster.data, open_city(city).raster.data)
