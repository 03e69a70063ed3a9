from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# A test is never timed: a busy machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; tests that use it are marked ``realdata``."""
    folder = Path(os.environ.get("MAPTILE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set MAPTILE_DATA)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Bare rasters keep their fields in the user's cache: here, in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user_cache")))
        yield


@pytest.fixture(scope="session")
def town_city(tmp_path_factory) -> Path:
    """A city folder of the made-up town."""
    from data_prep.city.folder import CitySettings, prepare_city
    from data_prep.osm.footprints import OsmSource
    from data_prep.simulate.town import write_town

    folder = tmp_path_factory.mktemp("town")
    write_town(folder / "town.osm")
    prepare_city(OsmSource(path=folder / "town.osm"), folder / "city", CitySettings(name="town"))
    return folder / "city"


@pytest.fixture(scope="session")
def town_drive(town_city, tmp_path_factory) -> Path:
    """A short simulated LMS drive through the made-up town."""
    from data_prep.city.folder import open_city
    from data_prep.simulate.record import SimulateSettings, simulate
    from data_prep.simulate.trajectory import trajectory_from_route

    city = open_city(town_city)
    drive = tmp_path_factory.mktemp("drives") / "short"
    simulate(city, trajectory_from_route(city, 300.0, 3), drive, "robotcar", SimulateSettings())
    return drive
