from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import maptile_loc as ml
from maptile_loc.cli import app


def maptile(*words: object) -> str:
    """What the command prints."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter loads for ``code``."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split()[-1000:])


HEAVY = {"numpy", "torch", "pandas", "geopandas", "scipy", "open3d", "matplotlib", "rasterio"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import maptile_loc; dir(maptile_loc); maptile_loc.__version__") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    code = (
        "from click.testing import CliRunner\nfrom maptile_loc.cli import app\n"
        "for words in (['--help'], ['localize', '-h'], ['--version']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0"
    )
    assert not loaded_by(code) & HEAVY


def test_every_public_name_is_there_and_documented() -> None:
    assert {"prepare_city", "open_city", "open_drive", "localize", "train", "adapt"} <= set(dir(ml))
    for name in ml.__all__:
        value = getattr(ml, name)
        assert name == "__version__" or value.__doc__
    with pytest.raises(AttributeError, match="localise"):
        ml.localise  # noqa: B018


def test_the_command_writes_what_the_api_writes(
    town_city: Path, town_drive: Path, tmp_path: Path
) -> None:
    maptile("localize", town_city, town_drive, "--out", tmp_path / "command", "--every", "60")
    drive = ml.open_drive(town_drive)
    found = ml.localize(ml.open_city(town_city), drive, every_m=60.0)
    found.save(tmp_path / "api", drive.truth)
    names = {path.name for path in (tmp_path / "command").iterdir()}
    assert names == {path.name for path in (tmp_path / "api").iterdir()}
    timed = {"queries.npz", "metrics.json"}  # these hold seconds
    for name in sorted(names - timed):
        one, other = ((tmp_path / out / name).read_bytes() for out in ("command", "api"))
        assert one == other, name


def test_the_truth_is_never_read(town_city: Path, town_drive: Path) -> None:
    drive = ml.open_drive(town_drive)
    one = ml.localize(town_city, drive, every_m=100.0)
    other = ml.localize(town_city, drive.without_truth(), every_m=100.0)
    for stage, estimates in one.stages.items():
        np.testing.assert_array_equal(estimates.poses, other.stages[stage].poses)


def test_the_heading_is_known_where_the_drive_has_headings(
    town_city: Path, town_drive: Path
) -> None:
    from dataclasses import replace

    drive = ml.open_drive(town_drive)
    known = ml.localize(town_city, drive, every_m=150.0)
    assert known.record["heading"]["kind"] == "known"
    without = replace(drive, heading=None)
    assert ml.localize(town_city, without, every_m=150.0).record["heading"]["kind"] == "unknown"


def test_progress_is_reported_step_by_step(town_city: Path, town_drive: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    found = ml.localize(
        town_city, town_drive, every_m=100.0, progress=lambda *state: seen.append(state)
    )
    queries = len(found.t_ns)
    steps = [state for state in seen if state[0] == "localize"]
    assert steps == [("localize", done, queries) for done in range(queries + 1)]


def test_nothing_is_printed_below_the_command(
    town_city: Path, town_drive: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ml.localize(town_city, town_drive, every_m=150.0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "magic"], "magic"),
        (["--heading", "prior:none"], "prior:DEG"),
        (["--format", "rosbag9"], "rosbag9"),
        (["--prior", "1,2"], "LAT,LON,RADIUS"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_a_wrong_choice_is_a_usage_error(words: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["localize", "city", "drive", "--out", "o", *words])
    assert done.exit_code == 2
    assert says in done.output


def test_each_command_names_the_recipe_and_the_next_command(
    town_city: Path, tmp_path: Path
) -> None:
    said = maptile("prepare", town_city / "map.tif", tmp_path / "city")
    assert "recipe: " in said
    assert "city.yaml" in said
    assert said.splitlines()[-1].startswith("next: maptile localize")


def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    town_city: Path, town_drive: Path
) -> None:
    with pytest.raises(ml.MaptileError, match="choose another"):
        ml.localize(town_city, town_drive, keep=town_city / "map.tif")
