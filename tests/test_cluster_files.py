"""Cities and drives that the workers of a cluster make: the files that one process makes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.city.folder import open_city
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_route

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two processes of this machine; one that dies is replaced."""
    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 40}
    with distributed.LocalCluster(2, **options) as started:
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
