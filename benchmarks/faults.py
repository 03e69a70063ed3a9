"""Faults: commands interrupted at seeded moments, and drives whose recordings are degraded.

moments: each command is interrupted N times by Ctrl-C, SIGTERM or kill -9. What stands afterwards
has to be whole, the old or the new; the last line has to be true; the next run has to succeed and
leave nothing behind.

drives: N simulated drives through the made-up town, with the faults of faulty_drives.py in turn. Of
positions called localized at the final stage, those more than 10 m off are counted.

Run: python benchmarks/faults.py [moments] [drives] [--moments 10] [--drives 100] [--work FOLDER]
Results are appended to FOLDER/moments.jsonl and FOLDER/drives.jsonl as they are made: the same
command goes on after an interruption. The full campaign is --moments 100 --drives 1000 --base 50.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from faulty_drives import FAULTS, degraded
from moments import commands, preload, prepare_inputs, run, trial
from stamp import head, row, stamp

import maptile_loc as ml
from data_prep.files import write_json
from data_prep.simulate.town import write_town
from maptile_loc.report.metrics import truth_in_map

WRONG_M = 10.0
"""A position farther from the truth is wrong, metres."""
MARGIN_M = 30.0
"""Queries nearer to the edge of the map do not count, metres."""
ROUTE_M = 300.0
"""Length of a base drive, metres."""
MOST_WRONG = 0.01
"""Largest share of wrong positions among those called localized, for a fault."""


def interrupted_commands(work: Path, count: int, only: list[str], jobs: int) -> bool:
    """Interrupt each command ``count`` times; returns whether all held."""
    preload()
    inputs, file = work / "inputs", work / "moments.jsonl"
    if not (work / "inputs.ready").exists():  # results name their city: it never moves
        shutil.rmtree(inputs, ignore_errors=True)
        prepare_inputs(inputs)
        (work / "inputs.ready").touch()
    known = {(each["command"], each["seed"]): each["wrong"] for each in _lines(file)}
    head("command", "seconds", "moments", "held", "what was wrong")
    held = True
    # Workers are forked, as the trials are, so that modules are imported once.
    forked = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=forked) as pool:
        for command in commands():
            if only and command.name not in only:
                continue
            todo = [seed for seed in range(count) if (command.name, seed) not in known]
            seconds = _duration(command.new, inputs, work / "timed") if todo else 0.0
            tasks = [(command.name, str(work), seed, seconds) for seed in todo]
            for done in as_completed([pool.submit(interrupt_one, task) for task in tasks]):
                seed, wrong = done.result()
                known[command.name, seed] = wrong
                _append(file, {"command": command.name, "seed": seed, "wrong": wrong})
            found = [known[command.name, seed] for seed in range(count)]
            wrongs = sorted({text for text in found if text})
            row(
                command.name,
                f"{seconds:.1f}",
                str(count),
                str(found.count("")),
                "; ".join(wrongs[:3])[:300],
            )
            held &= not wrongs
    return held


def interrupt_one(task: tuple[str, str, int, float]) -> tuple[int, str]:
    """Interrupt one command once; returns the seed, and what is wrong."""
    name, work, seed, seconds = task
    command = next(one for one in commands() if one.name == name)
    folder = Path(work) / f"trial-{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    return seed, trial(command, Path(work) / "inputs", folder, seed, seconds)


def degraded_drives(work: Path, count: int, base: int, jobs: int) -> bool:
    """Localize degraded drives; returns whether few enough positions are wrong for each fault."""
    file = work / "drives.jsonl"
    city = work / "town"
    if not (city / "city.json").is_file():
        write_town(work / "town.osm")
        ml.prepare_city(work / "town.osm", city)
    for number in range(base):
        drive = work / "base" / str(number)
        if not drive.exists():
            ml.simulate(city, drive, length_m=ROUTE_M, seed=number)
    known = {each["number"]: each for each in _lines(file)}
    todo = [(str(work), n, base) for n in range(count) if n not in known]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for result in pool.imap_unordered(localize_one, todo):
            known[result["number"]] = result
            _append(file, result)
    rows = [known[n] for n in range(count)]
    head("fault", "drives", "queries", "localized", "wrong", "share wrong", "within 10 m")
    fine = True
    for fault in FAULTS:
        some = [each for each in rows if each["fault"] == fault]
        queries, sure, wrong, near = (
            sum(each[key] for each in some) for key in ("queries", "localized", "wrong", "near")
        )
        row(
            fault,
            str(len(some)),
            str(queries),
            f"{sure / max(queries, 1):.1%}",
            str(wrong),
            f"{wrong / max(sure, 1):.2%}",
            f"{near / max(queries, 1):.1%}",
        )
        fine &= wrong <= MOST_WRONG * sure
    return fine


def localize_one(task: tuple[str, int, int]) -> dict[str, Any]:
    """Localize one degraded drive, and count its positions."""
    import torch

    torch.set_num_threads(1)
    work, number, base = Path(task[0]), task[1], task[2]
    fault = FAULTS[number % len(FAULTS)]
    plain = ml.open_drive(work / "base" / str(number // len(FAULTS) % base))
    city, drive = degraded(ml.open_city(work / "town"), plain, fault, number)
    found = ml.localize(city, drive, seed=number, overrides=["search.cache_gb=0"])
    assert plain.truth is not None
    truth = truth_in_map(plain.truth, city.raster, found.t_ns)[:, :2]
    counts = np.isfinite(truth).all(axis=1)
    counts &= city.raster.inside(np.where(np.isfinite(truth), truth, 0), MARGIN_M)
    off = np.linalg.norm(found.trajectory.poses[:, :2] - truth, axis=1)
    sure = found.trajectory.localized & counts
    return {
        "number": number,
        "fault": fault,
        "queries": int(counts.sum()),
        "localized": int(sure.sum()),
        "wrong": int((sure & ~(off <= WRONG_M)).sum()),
        "near": int((counts & (off <= WRONG_M)).sum()),
    }


def _duration(arguments: list[str], inputs: Path, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(inputs, folder)
    begun = time.monotonic()
    run(arguments, folder)
    shutil.rmtree(folder)
    return time.monotonic() - begun


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The results so far; a last line that was cut short is left out."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _append(file: Path, result: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(result) + "\n")


def main(arguments: Iterable[str] | None = None) -> int:
    """Run what was asked for; returns 1 where something did not hold."""
    parser = argparse.ArgumentParser(description="Faults: interrupted commands, degraded drives.")
    parser.add_argument("what", nargs="*", help="moments, drives; both by default")
    parser.add_argument("--moments", type=int, default=10, metavar="N", help="for each command")
    parser.add_argument("--command", action="append", default=[], help="only this command")
    parser.add_argument("--drives", type=int, default=100, metavar="N")
    parser.add_argument("--base", type=int, default=4, metavar="N", help="simulated base drives")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--work", type=Path, default=Path("build/faults"), metavar="FOLDER")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    print(stamp(), end="\n\n")
    fine = True
    if "moments" in asked.what or not asked.what:
        fine &= interrupted_commands(work, asked.moments, asked.command, asked.jobs)
        print()
    if "drives" in asked.what or not asked.what:
        fine &= degraded_drives(work, asked.drives, asked.base, asked.jobs)
    write_json(work / "outcome.json", {"held": fine})
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
