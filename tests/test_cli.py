from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import rasterio
from made import blocks_raster

from maptile_loc import cli
from maptile_loc.report.findings import outcome_notes, why_nothing
from maptile_loc.types import Estimates, Localization

COMMANDS = ["prepare", "simulate", "train", "localize", "evaluate", "report", "inspect", "demo"]


@pytest.fixture
def maptile(monkeypatch, capsys):
    """Run the command in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["maptile", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return run


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy(command):
    script = (
        "import sys; from maptile_loc import cli\n"
        f"sys.argv = ['maptile', *{[command] if command else []!r}, '--help']\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'open3d', 'geopandas', 'pandas', 'numpy', 'scipy', 'rasterio',\n"
        "         'pytorch_lightning', 'osmnx', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.fixture(scope="module")
def localized(town_city, town_drive, tmp_path_factory):
    """The folder of a localized drive, written by the command itself."""
    out = tmp_path_factory.mktemp("out") / "o"
    command = [sys.executable, "-m", "maptile_loc", "localize", town_city, town_drive]
    command += ["--out", out, "--submap", 40, "--every", 40]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_a_drive_is_localized_on_its_town(localized):
    metrics = json.loads((localized / "metrics.json").read_text())
    assert metrics["stages"]["aligned"]["frames"] >= 5
    assert metrics["stages"]["smoothed"]["recall_5m"] >= 0.8
    assert metrics["stages"]["smoothed"]["median_m"] < 2.5
    assert metrics["outside_queries"] + metrics["stages"]["aligned"]["frames"] >= 7


def test_drives_of_a_fleet_are_named_where_they_fail(maptile, tmp_path, town_city):
    status, out, err = maptile(
        *("localize", town_city, tmp_path / "monday", tmp_path / "tuesday"),
        *("--out", tmp_path / "fleet"),
    )
    assert status == 2
    assert "monday: " in out and "tuesday: " in out
    assert err.strip().endswith("2 of 2 drives have no result")
    assert len(err.strip().splitlines()) == 1


def test_what_ran_can_run_again(localized, maptile, tmp_path, town_city, town_drive):
    status, _, error = maptile(
        *("localize", town_city, town_drive, "--out", tmp_path / "again"),
        *("--submap", 40, "--every", 40, "--config", localized / "settings.yaml"),
    )
    assert status == 0, error
    first = pd.read_csv(localized / "trajectory.csv")
    second = pd.read_csv(tmp_path / "again" / "trajectory.csv")
    pd.testing.assert_frame_equal(first, second)


def test_truth_moved_away_changes_no_estimate(localized, maptile, tmp_path, town_city, town_drive):
    moved = tmp_path / "moved"
    shutil.copytree(town_drive, moved)
    for name in ("ins", "rtk", "gps"):
        table = pd.read_csv(moved / "gps" / f"{name}.csv")
        table["latitude"] += 0.5
        table["longitude"] -= 0.25
        table["northing"] += 55_000.0
        table["easting"] -= 17_000.0
        table.to_csv(moved / "gps" / f"{name}.csv", index=False)
    status, _, error = maptile(
        *("localize", town_city, moved, "--out", tmp_path / "o", "--submap", 40, "--every", 40)
    )
    assert status == 0, error
    for name in ("trajectory.csv", "stages.csv"):
        assert (tmp_path / "o" / name).read_bytes() == (localized / name).read_bytes()
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert metrics["stages"]["smoothed"]["frames"] == 0
    assert metrics["outside_queries"] == len(pd.read_csv(localized / "queries.csv"))


def test_a_city_prepared_anew_is_not_evaluated_against(localized, maptile, tmp_path):
    shutil.copytree(localized, tmp_path / "o")
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    run["city_content_hash"] = "0" * 64
    (tmp_path / "o" / "run.json").write_text(json.dumps(run))
    for command in ("evaluate", "report"):
        status, _, error = maptile(command, tmp_path / "o")
        assert status == 2
        assert "another state" in error


def test_a_folder_named_as_a_recipe_does_not_hide_it(maptile, tmp_path, monkeypatch):
    from data_prep.simulate.town import write_town

    write_town(tmp_path / "town.osm")
    (tmp_path / "city").mkdir()
    monkeypatch.chdir(tmp_path)
    status, _, error = maptile("prepare", "town.osm", "city/town")
    assert status == 0, error


def test_the_recipe_s_seed_counts_unless_another_is_given(maptile, tmp_path, town_city):
    def seed(*options):
        status, _, error = maptile("simulate", town_city, tmp_path / "d", "--length", 40, *options)
        assert status == 0, error
        return json.loads((tmp_path / "d" / "world.json").read_text())["settings"]["seed"]

    assert seed() == 0
    assert seed("--set", "seed=7") == 7
    assert seed("--set", "seed=7", "--seed", 9) == 9


def test_evaluate_and_report_of_a_run(localized, maptile):
    before = (localized / "metrics.json").read_text()
    (localized / "metrics.json").unlink()
    status, out, _ = maptile("evaluate", localized)
    assert status == 0
    assert "smoothed" in out
    assert (localized / "metrics.json").read_text() == before
    status, out, _ = maptile("report", localized)
    assert status == 0
    assert (localized / "report.html").is_file()


def test_inspect_says_what_is_there(maptile, town_city, town_drive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = maptile("inspect", town_city)
    assert status == 0
    assert "buildings" in out
    status, out, _ = maptile("inspect", town_drive, "--picture", "d.png", "--submap", 20, "--at", 5)
    assert status == 0
    assert "robotcar" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.png", "town_inspect.png"]


def test_prepare_from_the_command_line(maptile, tmp_path):
    from data_prep.simulate.town import write_town

    write_town(tmp_path / "town.osm")
    city = tmp_path / "city"
    status, out, error = maptile("prepare", tmp_path / "town.osm", city, "--set", "resolution=1.0")
    assert status == 0, error
    assert "buildings" in out
    with rasterio.open(city / "map.tif") as raster:
        assert raster.res == (1.0, 1.0)
        assert raster.descriptions == ("building", "road", "path")


def test_a_search_narrowed_by_a_prior(maptile, tmp_path, town_city, town_drive):
    truth = pd.read_csv(town_drive / "gps" / "rtk.csv")
    here = f"{truth.latitude.mean()},{truth.longitude.mean()},120"
    status, _, error = maptile(
        *("localize", town_city, town_drive, "--out", tmp_path / "o", "--every", 100),
        *("--submap", 40, "--prior", here, "--heading", "prior:5"),
    )
    assert status == 0, error
    metrics = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert metrics["search_area_km2"] == pytest.approx(np.pi * 0.12**2, rel=0.05)
    assert metrics["stages"]["aligned"]["recall_5m"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--heading", "north"], "--heading"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--method", "magic"], "--method"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--method", "mapnet"], "train"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--model", "{tmp}"], "no model"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--device", "tpu"], "--device"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--prior", "1,2"], "LAT,LON,RADIUS"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--prior", "1,2,9"], "not on this"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--format", "kitty"], "kitti"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--start", "99999"], "start"),
        (["localize", "{tmp}", "{drive}", "--out", "{tmp}/o"], "city"),
        (["localize", "{city}", "{city}", "--out", "{tmp}/o"], "format|drive"),
        (["localize", "{drive}", "{city}", "--out", "{tmp}/o"], "swap CITY and DRIVE"),
        (["localize", "{city}", "{drive}/lms_front", "--out", "{tmp}/o"], "name the drive: /"),
        (["localize", "{city}", "{drive}", "--out", "{drive}"], "simulated drive"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--every", "nan"], "0 or more"),
        (["localize", "{city}", "{drive}", "--out", "{city}/map.tif"], "another folder"),
        (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--set", "query.size_m=0"], "query"),
        (
            ["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--set", "query.size_m=127"],
            "multiple",
        ),
        *(
            (["localize", "{city}", "{drive}", "--out", "{tmp}/o", "--set", value], value[:8])
            for value in (
                *(
                    "search.candidates=0",
                    "search.refined=0",
                    "search.margin_m=-5",
                    "cells.places=0",
                ),
                *("align.steps_m=[]", "submap.max_points=0", "fuse.trust=2", "fuse.rounds=0"),
            )
        ),
        (["simulate", "{city}", "{tmp}/d", "--length", "nan"], "10 m"),
        (["evaluate", "{tmp}"], "run.json"),
        (["report", "{tmp}"], "run.json"),
        (["prepare", "{tmp}/none.osm", "{tmp}/c"], "no such file"),
        (["prepare", "a.osm", "{tmp}/c", "--bbox", "1,2,3,4"], "give one of"),
        (["prepare", "{tmp}/c", "--bbox", "1,2,3"], "W,S,E,N"),
        (["prepare", "{tmp}/c"], "place"),
        (["train", "{city}", "--set", "training.batchsize=3"], "did you mean"),
        (["train", "{city}", "--minutes", "0"], "--minutes"),
        (["adapt", "{city}", "{drive}", "--minutes", "-1"], "--minutes"),
        (["simulate", "{city}", "{tmp}/d", "--trajectory", "{tmp}/no.csv"], "no such file"),
        (["simulate", "{city}", "{tmp}/d", "--sensor", "sonar"], "sonar"),
        (["inspect", "{tmp}"], "Nor is it a city"),
        (["inspect", "{drive}", "--at", "99999"], "--at"),
        (["inspect", "{drive}", "--picture", "{tmp}/p.pdf"], "png"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments, message, maptile, tmp_path, town_city, town_drive
):
    places = {"city": town_city, "drive": town_drive, "tmp": tmp_path}
    status, _, error = maptile(*(argument.format(**places) for argument in arguments))
    assert status == 2
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in error
    assert re.search(message, lines[0])
    assert list(tmp_path.iterdir()) == []


def test_where_the_track_is_lost_and_why_nothing_is_localized_is_said():
    def said(**stages):
        made = {
            name: Estimates(
                np.zeros((4, 3)),
                np.zeros((4, 3, 3)),
                np.zeros(4),
                np.array(localized),
                np.zeros(4),
                np.full(4, ""),
            )
            for name, localized in stages.items()
        }
        last = list(made)[-1]
        t_ns = np.arange(4) * 10**10
        result = Localization(np.arange(4), t_ns, made, last, 1.0, np.zeros(4), {}, blocks_raster())
        return "\n".join(outcome_notes(result))

    none, some, every = [False] * 4, [True, False, False, True], [True] * 4
    assert "1 stretch without a position" in said(aligned=every, fused=some)
    assert "0:10 to 0:20 (2 queries)" in said(aligned=every, fused=some)
    assert said(aligned=every, fused=every) == ""
    assert said(aligned=none, fused=none).endswith("is the drive on this map?")
    assert "4 queries were, each by itself" in said(aligned=every, fused=none)


@pytest.mark.parametrize("kind", ["known", "prior", "unknown"])
def test_where_nothing_is_localized_headings_may_be_at_fault(kind):
    reason = np.full(4, "too_short")
    poses = np.zeros((4, 3)), np.zeros((4, 3, 3)), np.zeros(4), np.zeros(4, bool), np.zeros(4)
    record = {"heading": {"kind": kind, "std_deg": 1.0}}
    found = Localization(
        *(np.arange(4), np.arange(4) * 10**10, {"fused": Estimates(*poses, reason)}, "fused"),
        *(1.0, np.zeros(4), {}, blocks_raster()),
        record=record,
    )
    assert ("--heading unknown" in why_nothing(found)) == (kind != "unknown")


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_an_object_is_removed_is_not_lost(name, status):
    code = (
        "import signal, time, weakref\n"
        "from maptile_loc import cli\n"
        "class Thing: pass\n"
        "def work(*_, **__):\n"
        "    thing = Thing()\n"
        f"    kept = weakref.ref(thing, lambda _: signal.raise_signal(signal.{name}))\n"
        "    del thing\n"
        "    time.sleep(20)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.app = work\n"
        "cli.main()\n"
    )
    begun = time.monotonic()
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (child.returncode, child.stderr) == (status, "interrupted\n")
    assert time.monotonic() - begun < 15


def test_inspecting_a_map_says_how_to_make_a_city_of_it(maptile, tmp_path):
    (tmp_path / "town.osm.pbf").write_bytes(b"not looked into")
    status, _, error = maptile("inspect", tmp_path / "town.osm.pbf")
    assert status == 2
    assert f"maptile prepare {tmp_path / 'town.osm.pbf'} CITY" in error


@pytest.mark.realdata
def test_a_drive_elsewhere_is_not_localized(maptile, tmp_path, town_drive, data_dir):
    status, out, _ = maptile(
        *("localize", data_dir / "kitti360_0000" / "map.tif", town_drive),
        *("--out", tmp_path / "o", "--every", 60),
    )
    assert status == 3
    assert "note: nothing was localized" in out


@pytest.mark.realdata
def test_kitti_on_its_own_map_and_on_another(maptile, tmp_path, data_dir):
    day = data_dir / "kitti_raw" / "2011_09_26"
    drive = day / "2011_09_26_drive_0005_sync"
    for name, source in (
        ("own", day / "2011_09_26_drive_0005.osm"),
        ("other", data_dir / "oxford" / "oxford.osm"),
    ):
        assert maptile("prepare", source, tmp_path / name)[0] == 0
    status, _, error = maptile("localize", tmp_path / "own", drive, "--out", tmp_path / "a")
    assert status == 0, error
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["stages"]["aligned"]["recall_5m"] >= 0.95
    assert metrics["bias_removed"]["aligned"]["median_m"] <= 1.2
    status, out, _ = maptile("localize", tmp_path / "other", drive, "--out", tmp_path / "b")
    assert status == 3
    assert "note: nothing was localized" in out
    metrics = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert metrics["outside_queries"] > 0
    assert metrics["outside_localized"] == 0


def test_a_system_library_that_is_missing_is_one_line(town_city, tmp_path):
    """Open3D is linked to libraries that a minimal system lacks."""
    library, module = tmp_path / "libneeded.so.1", tmp_path / "open3d.so"
    (tmp_path / "empty.c").write_text("int needed(void) { return 0; }\n")
    link = ["gcc", "-shared", "-fPIC", str(tmp_path / "empty.c"), "-Wl,--no-as-needed", "-o"]
    subprocess.run([*link, str(library), "-Wl,-soname,libneeded.so.1"], check=True)
    subprocess.run([*link, str(module), str(library)], check=True)
    library.unlink()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    script = "from maptile_loc.cli import main; main()"
    command = [sys.executable, "-c", script, "simulate", str(town_city), str(tmp_path / "drive")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: libneeded.so.1: cannot open shared object file")
    assert "apt-get install libusb-1.0-0 " in done.stderr
    assert done.stderr.count("\n") == 1
