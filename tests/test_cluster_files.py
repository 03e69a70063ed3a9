"""Cities and drives that the workers of a cluster make: the files that one process makes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import maptile_loc as ml
from data_prep.city.folder import open_city
from data_prep.errors import MaptileError
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.town import write_town
from data_prep.simulate.trajectory import trajectory_from_route
from maptile_loc.device import one_thread

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two processes of this machine; one that dies is replaced."""
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 40}
    with distributed.LocalCluster(n_workers=2, **options) as started:
        yield started


class Killer:
    """A progress callback that kills a worker after the first part of a step."""

    def __init__(self, cluster: Any, step: str) -> None:
        self.cluster, self.step = cluster, step
        self.killed: list[int] = []

    def __call__(self, step: str, done: int, total: int) -> None:
        if step == self.step and 0 < done < total and not self.killed:
            self.killed.append(next(iter(self.cluster.workers.values())).pid)
            os.kill(self.killed[0], signal.SIGKILL)


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_city_that_workers_burn(cluster: Any, tmp_path: Path) -> None:
    write_town(tmp_path / "town.osm")
    killer = Killer(cluster, "write map.tif")
    how = {"overrides": ["name=town", "resolution=0.2"]}
    here = ml.prepare_city(tmp_path / "town.osm", tmp_path / "here", **how)
    address = cluster.scheduler_address
    there = ml.prepare_city(
        tmp_path / "town.osm", tmp_path / "there", cluster=address, progress=killer, **how
    )
    assert killer.killed
    assert here.content_hash == there.content_hash
    for name in ("map.tif", "height.tif"):
        one, other = (rasterio.open(city.folder / name) for city in (here, there))
        for about in ("transform", "crs", "dtypes", "descriptions", "compression", "block_shapes"):
            assert getattr(one, about) == getattr(other, about)
        assert one.tags() == other.tags()
        np.testing.assert_array_equal(one.read(), other.read())
        assert one.overviews(1) == other.overviews(1)
        for level in range(len(one.overviews(1))):
            reduced = [
                rasterio.open(file.name, OVERVIEW_LEVEL=level).read() for file in (one, other)
            ]
            np.testing.assert_array_equal(*reduced)
    hidden = {"map.tif", "height.tif", "city.json"}  # the order of the blocks in the files differs
    one, other = (contents(city.folder) for city in (here, there))
    assert {name: one[name] for name in one.keys() - hidden} == {
        name: other[name] for name in other.keys() - hidden
    }
    ml.open_city(there.folder)


def test_a_drive_that_workers_simulate(
    cluster: Any, town_city: Path, town_drive: Path, tmp_path: Path
) -> None:
    city, made = open_city(town_city), tmp_path / "drive"
    route = trajectory_from_route(city, 300.0, 3)
    killer = Killer(cluster, "simulate")
    how = made, "robotcar", SimulateSettings(), killer
    simulate(city, route, *how, cluster=cluster.scheduler_address)
    assert killer.killed
    assert contents(made) == contents(town_drive)


def test_the_drives_of_a_fleet(
    cluster: Any, town_city: Path, town_drive: Path, tmp_path: Path
) -> None:
    drives = [town_drive, tmp_path / "second", tmp_path / "none"]
    shutil.copytree(town_drive, drives[1])
    how = {"heading": "known", "submap_m": 40.0, "every_m": 60.0, "end": 20.0}
    killer = Killer(cluster, "localize drives")
    address = cluster.scheduler_address
    there = ml.localize_fleet(
        town_city, drives, tmp_path / "there", cluster=address, progress=killer, **how
    )
    assert killer.killed
    with one_thread():
        here = ml.localize_fleet(town_city, drives, tmp_path / "here", **how)
    assert [one.drive for one in there] == [one.drive for one in here] == drives
    assert [one.localized for one in there] == [one.localized for one in here]
    assert here[0].localized > 2
    assert "none" in (there[2].error or "") and there[2].error == here[2].error
    for one, other in zip(here[:2], there[:2], strict=True):
        for name in ("trajectory.csv", "queries.csv", "stages.csv"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_drives_of_one_name_are_not_mixed_up(town_city: Path, tmp_path: Path) -> None:
    drives = [tmp_path / "monday" / "drive", tmp_path / "tuesday" / "drive"]
    with pytest.raises(MaptileError, match="called drive"):
        ml.localize_fleet(town_city, drives, tmp_path / "out")
