"""Speed-ups of --cluster: one worker against several, each a process with one thread.

Run: python benchmarks/cluster.py [DATA] [--km2 KM2] [--length M] [--workers N ...] [--rounds N]

The map of KM2 square kilometres is that of ``benchmarks/prepare.py``. On it a route of M metres is
simulated; that drive is localized alone, then it and a copy of it as a fleet. Workers are running
before the clock starts. Of the rounds the fastest counts, so imports do not. Worth reading on an
idle machine only: this process needs a part of a core, too. "same" is whether the files have the
same bytes as those of one worker (of a city the content hash, because the blocks of a GeoTIFF are
written in any order).
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
from prepare import ROOT, SOURCE, write_map
from stamp import head, row, stamp

import maptile_loc as ml
from data_prep.osm.footprints import OsmSource, read_osm

RESULT = ("trajectory.csv", "queries.csv", "stages.csv")
"""The files of a result that are compared."""


def jobs(source: Path, work: Path, length_m: float) -> dict[str, Callable[[str], Any]]:
    """What is timed, by name; each returns what has to be the same for any number of workers."""
    city, drive = work / "city", work / "drive"

    def prepare(cluster: str) -> Any:
        return ml.prepare_city(source, city, cluster=cluster, force=True).content_hash

    def simulate(cluster: str) -> Any:
        how = {"length_m": length_m, "seed": 0, "force": True}
        ml.simulate(city, drive, sensor="hdl32", cluster=cluster, **how)
        return bytes_of(drive, [str(path.relative_to(drive)) for path in drive.rglob("*.bin")])

    def localize(cluster: str) -> Any:
        found = ml.localize(city, drive, heading="known", cluster=cluster)
        found.save(work / "alone", force=True)
        return bytes_of(work / "alone", RESULT)

    def fleet(cluster: str) -> Any:
        twin = work / "twin"
        shutil.rmtree(twin, ignore_errors=True)
        shutil.copytree(drive, twin)
        out = work / "fleet"
        how = {"heading": "known", "cluster": cluster, "force": True}
        done = ml.localize_fleet(city, [drive, twin], out, **how)
        return [one.error or bytes_of(one.folder, RESULT) for one in done]

    return {"prepare": prepare, "simulate": simulate, "localize": localize, "a fleet": fleet}


def bytes_of(folder: Path, names: Any) -> dict[str, bytes]:
    """The contents of files of a folder."""
    return {name: (folder / name).read_bytes() for name in names}


def measure(
    work: dict[str, Callable[[str], Any]], workers: int, rounds: int
) -> Iterator[tuple[str, float, Any]]:
    """Name, seconds and answer of each job on a cluster of this machine."""
    options = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(n_workers=workers, **options) as cluster:
        for name, job in work.items():
            seconds = []
            for _ in range(rounds):
                begun = time.perf_counter()
                answer = job(cluster.scheduler_address)
                seconds.append(time.perf_counter() - begun)
            yield name, min(seconds), answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--km2", type=int, default=316)
    parser.add_argument("--length", type=float, default=2000.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    given = parser.parse_args()
    print(stamp(), end="\n\n")
    work = given.work / f"cluster-{given.km2}"
    work.mkdir(parents=True, exist_ok=True)
    source = work / "map.parquet"
    write_map(read_osm(OsmSource(path=given.data / SOURCE)), given.km2, source)
    todo = jobs(source, work, given.length)
    head("job", "workers", "s", "speed-up", "same")
    one: dict[str, tuple[float, Any]] = {}
    for workers in (1, *given.workers):
        for name, seconds, answer in measure(todo, workers, given.rounds):
            before, expected = one.setdefault(name, (seconds, answer))
            same = "yes" if answer == expected else "no"
            row(name, str(workers), f"{seconds:.1f}", f"{before / seconds:.2f}", same)


if __name__ == "__main__":
    main()
