"""Commands that are interrupted at seeded moments: what stands afterwards is the old or the new.

Each trial is a forked child that runs the command line; modules are imported once, before.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_prep.city.folder import open_city
from data_prep.errors import MaptileError
from data_prep.files import read_json
from data_prep.regular import read_regular
from maptile_loc import cli

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
"""The signals, in turn."""
SENSOR = ("--sensor", "hdl32", "--set", "every_m=2")
"""A LiDAR with few scans."""
DEMO_M = 100.0
"""Length of the demo's drive, metres: that of the command takes a minute to simulate."""
LONGEST_S = 300.0
"""A command that takes longer hangs."""


class Command(NamedTuple):
    """A command of the campaign.

    Attributes:
        name: Its name.
        old: Arguments of the run that makes what stands there before.
        new: Arguments of the run that is interrupted.
        made: The path that it writes, in the folder of the trial.
        mark: The file in it by which old and new are distinguished; "" for the path itself.
        check: Raises an error unless what stands there is whole.
    """

    name: str
    old: list[str]
    new: list[str]
    made: str
    mark: str
    check: Callable[[Path], None]


def commands() -> list[Command]:
    """All commands, with small inputs that ``prepare_inputs`` makes."""
    short = ["--set", "training.epoch_steps=2", "--set", "data.batch_tuples=2"]
    model = ["train", "city", *short, "--set", "training.steps=6"]
    route = ["simulate", "city", "new", "--length", "60", *SENSOR]
    localize = ["localize", "city", "drive", "--out", "new", "--submap", "20"]
    report = ["city-report", "city", "--out", "new", "--submap", "10", "--places"]
    adapt = ["adapt", "city", "drive", "--submap", "20", "--every", "5", "--set"]
    live = ["live", "city", "recording", "--out", "new.csv", "--idle", "1", "--submap", "10"]
    picture = ["inspect", "drive", "--picture", "new.png", "--submap"]
    return [
        Command(
            "prepare",
            ["prepare", "town.osm", "new"],
            ["prepare", "town.osm", "new", "--set", "resolution=1"],
            "new",
            "city.json",
            _whole_city,
        ),
        Command(
            "simulate",
            [*route, "--seed", "1"],
            [*route, "--seed", "2"],
            "new",
            "world.json",
            _whole_drive,
        ),
        Command("train", model, [*model, "--set", "seed=1"], "city/models/mapnet", "", _model),
        Command(
            "localize", [*localize, "--every", "10"], localize, "new", "run.json", _whole_result
        ),
        Command("live", live, [*live, "--force"], "new.csv", "", _rows),
        Command(
            "adapt",
            [*adapt, "steps=2"],
            [*adapt, "steps=3"],
            "city/models/mapnet-drive",
            "",
            _model,
        ),
        Command(
            "evaluate",
            ["evaluate", "result"],
            ["evaluate", "result", "--radii", "3"],
            "result",
            "metrics.json",
            _whole_result,
        ),
        Command(
            "report", ["report", "result"], ["report", "result"], "result/report.html", "", _page
        ),
        Command("inspect", [*picture, "10"], [*picture, "0"], "new.png", "", _picture),
        Command("city-report", [*report, "6"], [*report, "8"], "new", "report.json", _report),
        Command(
            "demo",
            ["demo", "new", "--minutes", "0.02"],
            ["demo", "new", "--minutes", "0.02"],
            "new",
            "match/run.json",
            _whole_demo,
        ),
    ]


def preload() -> None:
    """Import what the commands import late, so that a trial interrupts their work."""
    for name in (
        *("learn.loop", "learn.adapt", "report.page.html_report", "report.inspect.drive_picture"),
        *("report.inspect.city_picture", "report.city.city_report", "live.localizer", "api"),
        *("search.mapnet", "search.match"),
    ):
        importlib.import_module(f"maptile_loc.{name}")
    importlib.import_module("maptile_loc.cli.demo").ROUTE_M = DEMO_M
    for name in ("simulate.town", "sources.robotcar", "osm.files"):
        importlib.import_module(f"data_prep.{name}")


def prepare_inputs(folder: Path) -> None:
    """Make what the commands need: a town, its city, a drive, a result, a model, a recording."""
    from data_prep.simulate.town import write_town

    folder.mkdir(parents=True)
    write_town(folder / "town.osm")
    short = ["--length", "60", "--seed", "3", *SENSOR]
    steps = [
        ["prepare", "town.osm", "city"],
        ["simulate", "city", "drive", *short],
        ["localize", "city", "drive", "--out", "result", "--submap", "20"],
        next(command.old for command in commands() if command.name == "train"),
    ]
    for arguments in steps:
        status, text = run(arguments, folder)
        if status not in (0, 3):
            raise RuntimeError(f"{arguments}: {status}: {text}")
    _write_recording(folder / "drive", folder / "recording")


def trial(command: Command, inputs: Path, work: Path, seed: int, seconds: float) -> str:
    """Interrupt a command once; returns "" or what is wrong.

    Args:
        command: The command.
        inputs: The folder that ``prepare_inputs`` made.
        work: A folder for the trial, which must not exist.
        seed: Decides the moment, the signal, and whether something stands there before.
        seconds: How long the command takes.
    """
    rng = np.random.default_rng([seed, *command.name.encode()])
    number = SIGNALS[seed % len(SIGNALS)]
    shutil.copytree(inputs, work)
    made, mark = work / command.made, work / command.made / command.mark
    if rng.random() < 0.5 and not (inputs / command.made).exists():
        run(command.old, work)
    old = _digest(mark)
    status, text = run(command.new, work, float(rng.uniform(0, seconds)), number)
    now = _digest(mark)
    wrong = _not_whole(command, made) if made.exists() and now is not None else []
    if old is not None and now is None:
        wrong.append("the old one is gone")
    if number != signal.SIGKILL and status not in (0, 2, 3, 128 + number):
        wrong.append(f"ended with {status}")
    wrong += _untrue(text, old, now, command.name)
    if "Traceback" in text:
        wrong.append(f"a traceback: {text[-300:]}")
    status, text = run(command.new, work)
    if status not in (0, 3) and not (command.name == "live" and "stands there" in text):
        wrong.append(f"the next run ended with {status}: {text[-200:]}")
    hidden = [str(path.relative_to(work)) for path in work.rglob(".*")]
    hidden += [str(path.relative_to(work)) for path in work.rglob("unfinished*")]
    if hidden:
        wrong.append(f"left behind: {', '.join(hidden[:3])}")
    shutil.rmtree(work)
    return "; ".join(wrong)


def run(
    arguments: list[str],
    folder: Path,
    after_s: float | None = None,
    number: signal.Signals = signal.SIGKILL,
) -> tuple[int, str]:
    """Run the command line in a forked child; send a signal after some seconds.

    Returns:
        The exit status (negative: the signal that ended it), and the text that it printed.
    """
    said = folder.with_name(f"{folder.name}.txt")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_the_command(arguments, folder, said)
    begun, sent = time.monotonic(), after_s is None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        passed = time.monotonic() - begun
        if not sent and after_s is not None and passed >= after_s:
            os.kill(child, number)
            sent = True
        if passed > LONGEST_S:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    text = said.read_text(encoding="utf-8", errors="replace")
    said.unlink()
    return os.waitstatus_to_exitcode(status), text


def _not_whole(command: Command, made: Path) -> list[str]:
    """What a command's check finds, in a forked child: threads of libraries survive no fork."""
    said = made.with_name("check.txt")
    child = os.fork()
    if child == 0:
        text = ""
        try:
            command.check(made)
        except (MaptileError, OSError, ValueError, KeyError, AssertionError) as error:
            text = f"not whole: {error!r}"
        finally:
            said.write_text(text, encoding="utf-8")
            os._exit(0)
    os.waitpid(child, 0)
    text = said.read_text(encoding="utf-8")
    said.unlink()
    return [text] if text else []


def _be_the_command(arguments: list[str], folder: Path, said: Path) -> None:
    code = 1
    with said.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    sys.argv = ["maptile", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException as error:
        sys.stderr.write(f"Traceback: {error!r}\n")
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _untrue(text: str, old: str | None, now: str | None, name: str) -> list[str]:
    """What is not true of the last line of an interrupted command."""
    lines = [line for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if not last.startswith("interrupted: "):
        return []
    claims = {
        "nothing finished": now is None,
        "stands as it was": old is not None and now == old,
        "new one is complete": now is not None and (now != old or name in ("report", "demo")),
    }
    return [f"untrue: {last}" for claim, holds in claims.items() if claim in last and not holds]


def _digest(path: Path) -> str | None:
    """What distinguishes old and new: a hash of a file's content; None where it is missing."""
    if path.is_dir():
        path = path / "model.json"
    return hashlib.sha256(read_regular(path)).hexdigest() if path.is_file() else None


def _whole_city(path: Path) -> None:
    city = open_city(path)
    for table in (city.buildings(), city.roads(), city.tiles()):
        assert len(table)


def _whole_drive(path: Path) -> None:
    scans = read_json(path / "world.json")["scans"]
    for name, count in scans.items():
        found = len(list((path / name).glob("*.bin")))
        if found != count:
            raise ValueError(f"{found} of {count} scans")


def _model(path: Path) -> None:
    card = read_json(path / "model.json")
    content = read_regular(path / card["weights"]["file"])
    if hashlib.sha256(content).hexdigest() != card["weights"]["sha256"]:
        raise ValueError("weights and card do not belong together")


def _whole_result(path: Path) -> None:
    from maptile_loc.report.files import read_result

    found = read_result(path)
    with (path / "queries.csv" if (path / "queries.csv").is_file() else path / "stages.csv").open(
        encoding="utf-8"
    ) as file:
        if len(list(csv.reader(file))) < len(found.t_ns):
            raise ValueError("rows are missing")
    if (path / "metrics.json").is_file():
        read_json(path / "metrics.json")


def _rows(path: Path) -> None:
    from maptile_loc.cli.live import COLUMNS

    with path.open(encoding="ascii") as file:
        rows = list(csv.reader(file))
    if any(len(line) != len(COLUMNS) for line in rows):
        raise ValueError("a row is cut short")


def _whole_demo(path: Path) -> None:
    _whole_city(path / "city")
    _whole_drive(path / "drive")
    for method in ("mapnet", "match"):
        _whole_result(path / method)


def _page(path: Path) -> None:
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("the page is cut short")


def _picture(path: Path) -> None:
    with Image.open(path) as image:
        image.verify()


def _report(path: Path) -> None:
    summary = read_json(path / "report.json")
    places = json.loads((path / "places.geojson").read_text(encoding="utf-8"))
    if len(places["features"]) != summary["places"]:
        raise ValueError("positions and summary do not belong together")
    _picture(path / "map.png")


def _write_recording(drive: Path, recording: Path) -> None:
    """A drive's scans as a recorder writes them: clouds named by their times."""
    from data_prep.sources import open_drive

    scans = open_drive(drive).scans
    (recording / "clouds").mkdir(parents=True)
    for scan in range(min(len(scans.t_ns), 10)):
        block = scans.read(scan, scan + 1)
        rows = np.column_stack([block.points, np.ones(len(block.points))]).astype("<f4")
        (recording / "clouds" / f"{block.t_ns[0]}.bin").write_bytes(rows.tobytes())
