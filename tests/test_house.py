"""The house: the order of the folders, the size of modules and functions, printing, and wording."""

from __future__ import annotations

import ast
import graphlib
import io
import itertools
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

ORDER = """\
data_prep data_prep.geometry data_prep.errors data_prep.settings data_prep.regular
data_prep.files
data_prep.progress data_prep.registry data_prep.locks data_prep.standing data_prep.cluster
data_prep.counted
data_prep.osm
data_prep.city
data_prep.drive
data_prep.sources.storage
data_prep.sources.points
data_prep.sources.formats
data_prep.sources
data_prep.simulate.scene
data_prep.simulate
maptile_loc maptile_loc.types maptile_loc.small_tiles
maptile_loc.config maptile_loc.device maptile_loc.weights
maptile_loc.arguments
maptile_loc.odometry
maptile_loc.perceive
maptile_loc.score
maptile_loc.render
maptile_loc.models
maptile_loc.search
maptile_loc.photo
maptile_loc.fuse
maptile_loc.recipe
maptile_loc.map_search
maptile_loc.asked
maptile_loc.pipeline
maptile_loc.live
maptile_loc.learn
maptile_loc.report
maptile_loc.batch
maptile_loc.api
maptile_loc.fleet
maptile_loc.towns
maptile_loc.cli maptile_loc.__main__
""".splitlines()
"""Modules and folders in the order of the data: each imports only its own line and those above."""

RANK = {name: rank for rank, names in enumerate(ORDER) for name in names.split()}
"""The line of ``ORDER`` that each name stands in."""

REGISTRIES = {
    "data_prep/sources",
    "maptile_loc/search",
    "maptile_loc/models",
    "maptile_loc/cli",
    "maptile_loc/report/formats",
}
"""Folders with one file per entry, which may hold more modules than ``MODULES_PER_FOLDER``."""

COMMAND_LINE = "maptile_loc/cli"
"""The folder that may import everything, and print."""

MODULES_PER_FOLDER = 12
"""Largest number of modules in a folder, ``__init__`` aside."""

LINES_PER_MODULE = 400
"""Largest number of lines in a module."""

LINES_PER_FUNCTION = 60
"""Largest number of lines in a function, from ``def`` to its last line."""

PHRASES = {
    "tells, told": r"\b(tells?|telling|told)\b",
    "so many, so much": r"\bso (many|much)\b",
    "covers it not": r"\b(?!if |whether |is |does |do |did |are |was |why )\w+ (it|them) not\b",
    "is had": r"\b(is|are|was|were|be) had\b",
    "the way driven": r"\bways? (driven|travelled|gone)\b",
    "made used to": r"\b(made|makes|make|making) used to\b",
    "looked at": r"\blooked at\b",
    "what it has in common": r"\bwhat (\w+ ){0,5}(has|have|had) in common\b",
    "as of every": r"\bas of (every|each|all)\b",
    "bear it out": r"\b(bears?|bore|borne) (it |them |this |that )?out\b",
    "too short a way": r"\btoo (short|long|far) a way\b",
    "counts for as many": r"\bcounts? for as (many|much)\b",
    "is that of the ... by": r"\bis that of the \w+ \w+ by\b",
    "the way an edge faces": r"\bthe way (an?|the) \w+ (faces|runs|looks)\b",
    "was ... all the way": r"\ball the way\b(?! to\b)",
}
"""Phrases of the left column of the project's style table, as regular expressions."""

PLACE = (
    r"(?<!-)(?<!\bin )(?<!\btake )(?<!\btakes )(?<!\btaken )(?<!\btook )(?<!\btaking )"
    r"(?<!\bdecimal )(?<!\bto )\bplaces?\b(?! names?\b)(?!\.geojson)(?![`\"'=:])(?!-)(?!, b)"
    r"(?! them\b)(?! it\b)"
)
"""The noun "place" for a candidate or a position; place names and the option ``place`` are free."""

PLACE_NAMES = ("data_prep/osm",)
"""Folders about OpenStreetMap's places, where the noun has its own meaning."""

FOLDERS = sorted(
    str(path.parent.relative_to(ROOT))
    for package in ("data_prep", "maptile_loc")
    for path in (ROOT / package).rglob("__init__.py")
)
"""Every folder of the two packages."""

SCRIPTS = ("Makefile", "setup.sh", ".ci/run", "pyproject.toml")
"""Files with comments that are neither Python, YAML nor Markdown."""

TEXTS = [
    *FOLDERS,
    "tests",
    "benchmarks",
    "benchmarks/fit",
    "benchmarks/lean",
    "docs",
    "configs",
    "configs/literature",
    ".",
]
"""Every folder whose wording is checked; "." holds README.md and the scripts."""


def modules(folder: str) -> list[Path]:
    """The Python files that lie directly in ``folder``, this file aside."""
    return sorted(path for path in (ROOT / folder).glob("*.py") if path.name != "test_house.py")


def name_of(path: Path) -> str:
    """The dotted name of a module or package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def known_modules() -> frozenset[str]:
    """The dotted names of all modules and packages of the project."""
    return frozenset(name_of(path) for folder in FOLDERS for path in modules(folder))


def imported(path: Path, node: ast.stmt) -> Iterator[str]:
    """The project's modules that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        assert isinstance(node, ast.ImportFrom)
        base = node.module or ""
        if node.level:
            package = name_of(path).split(".")
            package = package if path.name == "__init__.py" else package[:-1]
            above = package[: len(package) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        names = [f"{base}.{alias.name}" for alias in node.names]
        names = [name if name in known_modules() else base for name in names]
    packages = ("data_prep", "maptile_loc")
    yield from sorted({name for name in names if name.split(".")[0] in packages})


def import_statements(node: ast.AST, exempt: str | None = None) -> Iterator[ast.stmt]:
    """All import statements below ``node``, except those of class ``exempt``.

    These are the imports in its methods, and those for type checkers of its module.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
            continue
        typing_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        skipped = typing_only or (isinstance(child, ast.ClassDef) and child.name == exempt)
        if exempt is None or not skipped:
            yield from import_statements(child, exempt)


def rank(name: str) -> int:
    """The line of ``ORDER`` that a module belongs to: that of its longest known prefix."""
    parts = name.split(".")
    if len(parts) == 2 and name not in RANK:
        raise AssertionError(f"{name} has no line in ORDER")
    return next(
        RANK[prefix]
        for prefix in (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        if prefix in RANK
    )


def report(found: list[str]) -> None:
    """Fail with one line per item found."""
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_what_stands_before_it(folder):
    found = []
    for path in modules(folder):
        if folder.startswith("maptile_loc/cli") or name_of(path) in (
            "maptile_loc",
            "maptile_loc.__main__",
        ):
            continue
        exempt = "Localization" if name_of(path) == "maptile_loc.types" else None
        for node in import_statements(tree(path), exempt):
            for name in imported(path, node):
                if rank(name) > rank(name_of(path)):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {name}")
    report(found)


def test_no_import_cycle():
    """No cycle among the imports that run when a module is loaded."""

    def at_module_level(node: ast.AST) -> Iterator[ast.stmt]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                yield child
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield from at_module_level(child)

    graph = {}
    for path in (path for folder in FOLDERS for path in modules(folder)):
        names = {name for node in at_module_level(tree(path)) for name in imported(path, node)}
        graph[name_of(path)] = names - {name_of(path)}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" -> ".join(reversed(error.args[1]))) from None


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_holds_few_modules(folder):
    count = sum(path.name != "__init__.py" for path in modules(folder))
    assert folder in REGISTRIES or count <= MODULES_PER_FOLDER


@pytest.mark.parametrize("folder", FOLDERS)
def test_modules_and_functions_are_short(folder):
    found = []
    for path in modules(folder):
        where = path.relative_to(ROOT)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LINES_PER_MODULE:
            found.append(f"{where}: {lines} lines")
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > LINES_PER_FUNCTION:
                    found.append(f"{where}:{node.lineno} {node.name}: {lines} lines")
    report(found)


@pytest.mark.parametrize("folder", [name for name in FOLDERS if not name.startswith(COMMAND_LINE)])
def test_nothing_prints_below_the_command_line(folder):
    found = []
    for path in modules(folder):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} prints")
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "tqdm" for name in names):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} imports tqdm")
    report(found)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_below_a_constant_describes_that_constant_alone(folder):
    found = []
    for path in modules(folder):
        body = tree(path).body
        for before, node in itertools.pairwise(body):
            if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                continue
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            targets = before.targets if isinstance(before, ast.Assign) else []
            targets = [before.target] if isinstance(before, ast.AnnAssign) else targets
            if len(targets) != 1 or not isinstance(targets[0], ast.Name):
                found.append(f"{where}: not below the assignment of one constant")
            elif before.end_lineno != node.lineno - 1:
                found.append(f"{where}: not directly below the constant")
            elif re.search(r"^\.\.\.|(\.\.\.|[,;]|\band)$", str(node.value.value).strip()):
                found.append(f"{where}: goes on in the next constant's docstring")
    report(found)


def docstring_lines(path: Path) -> set[int]:
    """The lines of all strings that are statements: the docstrings."""
    return {
        line
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def python_texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, text, and whether it is prose, of each run of comments and of each string."""
    docstrings = docstring_lines(path)
    source = path.read_text(encoding="utf-8")
    start, comment = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            start, comment = start or token.start[0], comment + token.string.lstrip("#") + "\n"
        elif token.type != tokenize.NL and comment:
            yield start, comment, True
            start, comment = 0, ""
        if token.type == tokenize.STRING:
            yield token.start[0], token.string, token.start[0] in docstrings


def texts(folder: str) -> Iterator[tuple[Path, int, str, bool]]:
    """File, line, text, and whether it is a comment or a docstring, of all the texts in a folder.

    Markdown and scripts count as text whose nouns are free; of YAML only the comments count.
    """
    for path in modules(folder):
        yield from ((path, *text) for text in python_texts(path))
    others = [ROOT / name for name in SCRIPTS] if folder == "." else []
    for path in [*sorted((ROOT / folder).glob("*.md")), *others]:
        # By paragraphs, since a phrase may be broken over two lines.
        line = 1
        for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
            yield path, line, paragraph.replace("\n#", "\n"), False
            line += paragraph.count("\n") + 2
    for path in sorted((ROOT / folder).glob("*.yaml")):
        start, comment = 0, ""
        for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], 1):
            key, hash_, rest = line.partition("#")
            if comment and (key.strip() or not hash_):
                yield path, start, comment, True
                start, comment = 0, ""
            if hash_:
                start, comment = start or number, comment + rest + "\n"


def occurrences(pattern: str, text: str) -> Iterator[tuple[int, str]]:
    """Line within ``text``, and the words around it, of each match, also of one across lines."""
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", text)
    for match in re.finditer(pattern.replace(" ", r"\s"), text, re.IGNORECASE):
        around = text[max(0, match.start() - 30) : match.end() + 30]
        yield text.count("\n", 0, match.start()), " ".join(around.split())


@pytest.mark.parametrize("folder", TEXTS)
def test_the_wording_is_plain(folder):
    found = []
    for path, line, text, is_prose in texts(folder):
        patterns = PHRASES | ({"place": PLACE} if is_prose and folder not in PLACE_NAMES else {})
        for name, pattern in patterns.items():
            found += [
                f"{path.relative_to(ROOT)}:{line + at} [{name}] ...{words}..."
                for at, words in occurrences(pattern, text)
            ]
    report(found)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("The file tells which.", "tells, told"),
        ("What is not told apart by a kerb is not told.", "tells, told"),
        ("smoothed with so much", "so many, so much"),
        ("The map covers it not.", "covers it not"),
        ("where none is had", "is had"),
        ("the way driven, by its distance", "the way driven"),
        ("made used to a drive", "made used to"),
        ("scans are looked at together", "looked at"),
        ("what the two have in common", "what it has in common"),
        ("The same as of every other.", "as of every"),
        ("The drive may not bear them out.", "bear it out"),
        ("each point counts for as many", "counts for as many"),
        ("the way an edge faces", "the way an edge faces"),
        ("above the ground all the way.", "was ... all the way"),
    ],
)
def test_each_phrase_is_found(text, name):
    assert list(occurrences(PHRASES[name], text))
    assert list(occurrences(PHRASES[name], text.replace(" ", "\n    ")))


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("the best place", True),
        ("the places of the map", True),
        ("A place name, or --place.", False),
        ("``place`` or in place; these take place; 3 decimal places", False),
    ],
)
def test_place_is_found_where_it_is_a_position(text, is_found):
    assert bool(list(occurrences(PLACE, text))) == is_found
