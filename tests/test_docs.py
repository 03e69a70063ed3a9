"""Every example of the documentation runs, in the order of its page.

Fenced blocks hold the examples:

- ``python``: executed; the blocks of a page share one namespace. A block after the comment
  ``<!-- realdata -->`` needs the real data.
- ``console``: each line ``$ maptile ...`` is run; where output follows it, the output must match
  (``...`` stands for any text).
- ``sh``: commands for the reader's own data, which the tests do not have. They are parsed only:
  a command, an option or a make target that does not exist is an error.

Each page runs in a folder of its own with ``town.osm``, ``city/town`` and ``drives/town``. Training
takes a moment: the number of minutes is replaced.

Pages that change the code (``add-*.md``) run on a copy of the packages. A ``python`` block after
``<!-- file: PATH -->`` is written to that file of the copy, a ``diff`` block is applied to it.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import click
import nbformat
import pytest
import yaml
from conftest import ROOT
from nbclient import NotebookClient

import maptile_loc as ml
from maptile_loc import cli

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>realdata|file: \S+) -->\n+)?"
    r"^```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```$",
    re.M | re.S,
)
MINUTES = re.compile(r"(?<=minutes[= ])[0-9.]+")
MOMENT = "0.05"
MATCHES = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        line: The number of its first line in the page.
        kind: The language after the fence.
        text: The lines between the fences.
        mark: The comment before it: "realdata", "file: PATH", or "".
    """

    line: int
    kind: str
    text: str
    mark: str


def blocks(page: Path, *kinds: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(line, match["kind"], match["text"], match["mark"] or ""))
    return [block for block in found if block.kind in kinds]


def pages_with(*kinds: str, mark: str = "") -> list[Path]:
    return [page for page in PAGES if any(block.mark == mark for block in blocks(page, *kinds))]


EXTENSIONS = sorted((ROOT / "docs").glob("add-*.md"))
EXAMPLES = [page for page in pages_with("python", "console") if page not in EXTENSIONS]


def name(page: Path) -> str:
    return page.name


@pytest.fixture(scope="module")
def short_drive(town_city, tmp_path_factory) -> Path:
    """A simulated drive of a few queries, so that each example takes seconds."""
    drive = tmp_path_factory.mktemp("drives") / "short"
    ml.simulate(town_city, drive, length_m=100, seed=4)
    return drive


@pytest.fixture
def workplace(town_city, short_drive, tmp_path, monkeypatch) -> Path:
    """The folder in which a page's examples run."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(town_city, tmp_path / "city" / "town")
    shutil.copytree(short_drive, tmp_path / "drives" / "town")
    shutil.copy(town_city.parent / "town.osm", tmp_path)
    return tmp_path


def run_python(page: Path, block: Block, names: dict[str, object]) -> None:
    text = "\n" * (block.line - 1) + MINUTES.sub(MOMENT, block.text)
    exec(compile(text, page, "exec"), names)


def commands(block: Block) -> Iterator[tuple[list[str], str]]:
    """The arguments of each command of a ``console`` block, and the output that it shows."""
    for command in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        line, _, shown = command.partition("\n")
        yield shlex.split(MINUTES.sub(MOMENT, line), comments=True), shown


def check_output(where: str, shown: str, printed: str) -> None:
    if shown.strip():
        matched = doctest.OutputChecker().check_output(shown, printed, MATCHES)
        assert matched, f"{where}: wanted\n{shown}\ngot\n{printed}"


@pytest.mark.parametrize("page", EXAMPLES, ids=name)
def test_the_examples_run(page, workplace, monkeypatch, capsys):
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks(page, "python", "console"):
        if block.mark:
            continue
        if block.kind == "python":
            run_python(page, block, names)
            continue
        for arguments, shown in commands(block):
            monkeypatch.setattr(sys, "argv", arguments)
            capsys.readouterr()
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            printed = capsys.readouterr()
            where = f"{page.name}:{block.line}: {shlex.join(arguments)}"
            assert arguments[0] == "maptile" and not stopped.value.code, where + printed.err
            check_output(where, shown, printed.out)


@pytest.mark.realdata
@pytest.mark.parametrize("page", pages_with("python", mark="realdata"), ids=name)
def test_the_examples_on_real_data_run(page, workplace, data_dir):
    (workplace / "kitti").symlink_to(data_dir / "kitti_raw")
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks(page, "python"):
        if block.mark == "realdata":
            run_python(page, block, names)


def apply(diff: str, checkout: Path) -> None:
    """Apply a unified diff, whose hunks need no line numbers: each must fit exactly once."""
    head, *hunks = re.split(r"^@@.*\n", diff, flags=re.M)
    file = checkout / re.search(r"^\+\+\+ b/(\S+)", head, re.M).group(1)
    text = file.read_text(encoding="utf-8")
    for hunk in hunks:
        lines = [line or " " for line in hunk.splitlines()]
        old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert text.count(old) == 1, f"{file.name}: does not fit\n{hunk}"
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("page", EXTENSIONS, ids=name)
def test_the_extensions_work(page, workplace, tmp_path_factory):
    checkout = tmp_path_factory.mktemp("checkout")
    for folder in ("maptile_loc", "data_prep", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, checkout / folder, ignore=ignored)
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}

    def run(where: str, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{where}\n{done.stderr}\n{done.stdout}"
        return done.stdout

    for block in blocks(page, "python", "console", "diff"):
        where = f"{page.name}:{block.line}"
        if block.kind == "diff":
            apply(block.text, checkout)
        elif block.mark.startswith("file: "):
            named = Path(block.mark.removeprefix("file: "))
            path = (workplace if named.parts[0] == "tests" else checkout) / named
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            run(where, "-c", block.text)
        else:
            for (program, *arguments), shown in commands(block):
                module = {"maptile": "maptile_loc", "pytest": "pytest"}[program]
                check_output(where, shown, run(where, "-m", module, *arguments))


@pytest.mark.parametrize("page", pages_with("sh"), ids=name)
def test_the_commands_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            match words:
                case ["maptile", command, *arguments]:
                    found = cli.app.get_command(click.Context(cli.app), command)
                    assert found is not None, f"{page.name}: no command {command}"
                    try:
                        found.make_context(command, arguments)
                    except click.ClickException as error:
                        pytest.fail(f"{page.name}: {line}: {error.format_message()}")
                case ["make", *targets]:
                    for target in targets:
                        known = "=" in target or re.search(rf"^{target}:", makefile, re.M)
                        assert known, f"{page.name}: no make target {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_and_modules_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\bbenchmarks/[\w/]+\.py", text))
    named |= set(re.findall(r"\b(?:maptile_loc|data_prep|tests|configs)/[\w/]+\.(?:py|yaml)", text))
    imaginary = " ".join(re.findall(r"<!-- (?:imaginary|file): (.*?) -->", text, re.S)).split()
    missing = [path for path in sorted(named - set(imaginary)) if not (ROOT / path).is_file()]
    assert not missing, f"{page.name} names files that do not exist: {missing}"


def test_the_notebook_runs(workplace):
    path = ROOT / "docs" / "quickstart.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs"
    resources = {"metadata": {"path": str(workplace)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()


def test_the_site_builds_strictly_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = re.compile(r"<(?:script|link|img)\b[^>]*?(?:src|href)=\"(https?:[^\"]+)\"")
    for page in tmp_path.rglob("*.html"):
        assert not loaded.findall(page.read_text(encoding="utf-8")), page.name


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_links_between_files_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_headings_go_down_one_level_at_a_time():
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.M)]
        assert levels.count(1) == 1, page.name
        assert all(below <= above + 1 for above, below in pairwise(levels)), page.name


def test_the_hooks_run_the_pinned_tools():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = hooks["repos"]
    assert repository["repo"] == "local"
    entries = {hook["id"]: hook["entry"].split()[0] for hook in repository["hooks"]}
    assert entries == {
        "ruff-check": ".venv/bin/ruff",
        "ruff-format": ".venv/bin/ruff",
        "mypy": ".venv/bin/mypy",
    }
    assert all(hook["language"] == "system" for hook in repository["hooks"])


def test_the_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    assert citation["cff-version"] == "1.2.0"
    assert f'version = "{citation["version"]}"' in project
    assert citation["license"] == "Apache-2.0"
