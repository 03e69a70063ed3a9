"""A drive whose queries are asked by the workers of a cluster."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import maptile_loc as ml
from data_prep.cluster import connected
from data_prep.errors import MaptileError
from maptile_loc.device import one_thread
from maptile_loc.types import Localization

distributed = pytest.importorskip("distributed")
SCHEDULER = {"cls": distributed.Scheduler, "options": {"dashboard_address": ":0", "port": 0}}
HOW = {"heading": "known", "submap_m": 40.0, "every_m": 25.0}


@pytest.fixture(scope="module")
def here(town_city: Path, town_drive: Path) -> Localization:
    """The drive localized in this process, with as many threads as a worker has."""
    with one_thread():
        return ml.localize(town_city, town_drive, **HOW)


def same(one: Localization, other: Localization) -> None:
    for stage, estimates in one.stages.items():
        for name in ("poses", "covariance", "score", "localized"):
            np.testing.assert_array_equal(
                getattr(estimates, name), getattr(other.stages[stage], name)
            )
    np.testing.assert_array_equal(one.candidates, other.candidates)
    assert one.small_tiles is not None
    assert other.small_tiles is not None
    np.testing.assert_array_equal(one.small_tiles.codes, other.small_tiles.codes)
    assert one.tiles.keys() == other.tiles.keys()


def test_workers_give_the_same_bits_as_one_process(
    here: Localization, town_city: Path, town_drive: Path
) -> None:
    steps: list[tuple[str, int, int]] = []
    found = ml.localize(
        town_city,
        town_drive,
        cluster="local:2",
        progress=lambda *step: steps.append(step),
        **HOW,
    )
    same(here, found)
    done = [step for step in steps if step[0] == "localize"]
    assert done[0][1] == 0
    assert done[-1][1:] == (len(found.t_ns), len(found.t_ns))


def test_a_worker_that_is_killed_costs_its_part_not_the_run(
    here: Localization, town_city: Path, town_drive: Path
) -> None:
    killed: list[int] = []
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 40}
    with distributed.LocalCluster(n_workers=2, **options) as cluster:

        def kill_one(step: str, done: int, total: int) -> None:
            if step == "localize" and 0 < done < total and not killed:
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)

        found = ml.localize(
            town_city, town_drive, cluster=cluster.scheduler_address, progress=kill_one, **HOW
        )
    assert killed
    same(here, found)


@pytest.mark.parametrize("number", [1, 3])
def test_a_local_cluster_has_as_many_workers_as_are_asked_for(number: int) -> None:
    with connected(f"local:{number}") as workers:
        assert workers.count == number


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("local:none", "local:N"),
        ("local:0", "local:N"),
        ("tcp://127.0.0.1:9", "no scheduler"),
        ("somewhere", "no scheduler"),
    ],
)
def test_a_cluster_that_is_not_there(
    cluster: str, message: str, town_city: Path, town_drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.cluster.CONNECT_S", 1)
    with pytest.raises(MaptileError, match=message) as caught:
        ml.localize(town_city, town_drive, cluster=cluster, **HOW)
    assert "\n" not in str(caught.value)


def test_live_drives_and_objects_have_no_cluster(town_city: Path, town_drive: Path) -> None:
    with pytest.raises(MaptileError, match="--online"):
        ml.localize(town_city, town_drive, cluster="local:1", online=True, **HOW)


def test_a_scheduler_without_workers(
    town_city: Path, town_drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.cluster.CONNECT_S", 1)
    with (
        distributed.SpecCluster(scheduler=SCHEDULER) as cluster,
        pytest.raises(MaptileError, match="no worker is connected"),
    ):
        ml.localize(town_city, town_drive, cluster=cluster.scheduler_address, **HOW)
