from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import ROOT

from maptile_loc.cli import LIBRARIES


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    zipfile.ZipFile(path).extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_contains_the_recipes(wheel, tmp_path):
    script = (
        "from maptile_loc.config import config_folder\n"
        "from maptile_loc.recipe import load_recipe\n"
        "load_recipe()\n"
        "print(config_folder(), *sorted(p.stem for p in config_folder().rglob('*.yaml')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(wheel), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder, *names = done.stdout.split()
    assert folder.startswith(str(wheel))
    assert set(names) == {path.stem for path in (ROOT / "configs").rglob("*.yaml")}
    assert (wheel / "maptile_loc" / "report" / "page" / "assets" / "report.html").is_file()


def test_the_constraints_pin_the_installed_versions():
    from importlib.metadata import version

    lines = (ROOT / "constraints.txt").read_text().split()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines)
    assert pins["torch"] == "2.13.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    wanted = project["project"]["dependencies"] + groups["dev"] + groups["docs"]
    for requirement in (one for one in wanted if isinstance(one, str)):
        name = re.match(r"[A-Za-z0-9_.-]+", requirement).group().lower()
        if name == "open3d":
            continue
        assert name in pins, f"{name} is not pinned"
        assert version(name).split("+")[0] == pins[name]


@pytest.mark.parametrize("file", ["setup.sh", "Dockerfile", "docs/installing.md"])
def test_the_system_libraries_are_the_same_everywhere(file):
    packages = LIBRARIES.split()[3:]
    assert len(packages) == 4
    assert all(package in (ROOT / file).read_text() for package in packages)
