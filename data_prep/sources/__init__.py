"""The registry of drive formats: each file of this folder reads one data set or kind of recording.

A file exports ``SOURCE``, a ``Source``. The file's name is the name of the format, and the first
line of its docstring is the format's summary. To add a format, add a file. Names and summaries are
read without importing the files, so that a command line can list them without importing numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import MaptileError
from data_prep.progress import Progress, silent
from data_prep.registry import Registry
from data_prep.sources.storage.tree import Node, open_tree, subfolders

if TYPE_CHECKING:
    from data_prep.drive import Drive

MAX_DEPTH = 6
"""Number of folder levels that are searched for a drive, the named folder included."""

MAX_DEPTH_INSIDE = 4
"""Number of folder levels around a folder in which the drive that it is part of is searched."""

MAX_FOLDERS = 2000
"""Number of folders that are listed in the search for a drive."""


@dataclass(frozen=True)
class Source:
    """How drives of one format are recognised and opened.

    Attributes:
        looked_for: The files or folders that mark a drive of this format, for error messages.
        recognises: Returns whether a node (which need not exist) is a drive of this format, by its
            name and the files that exist.
        open: Opens the drive at a node with the sensors named, or its default sensors for None. It
            raises a MaptileError where files are missing or damaged.
        accepts: Whether a folder that the user names, with no drive in it, is one of this format.
        open_columns: Opens a drive whose .bin files have the columns named; None where the format
            defines them.
        priority: Formats are tried in ascending order; the first that recognises a folder opens it.
        sensors: Names of the sensors that can be chosen; empty where they depend on the drive.
        suffixes: Suffixes of single files that are a drive of this format.
    """

    looked_for: str
    recognises: Callable[[Node], bool]
    open: Callable[[Node, tuple[str, ...] | None], Drive]
    priority: int
    sensors: tuple[str, ...] = ()
    accepts: Callable[[Node], bool] | None = None
    open_columns: Callable[[Node, tuple[str, ...] | None], Drive] | None = None
    suffixes: tuple[str, ...] = ()


SOURCES = Registry("data_prep.sources", "SOURCE", "format")
"""All formats; their names and summaries are read without importing their files."""


def detect_format(path: Node) -> str | None:
    """Return the format of the drive in folder ``path``, or None where it is not a drive."""
    return _first_format(path, _by_priority(SOURCES.names()))


def open_drive(
    path: str | Path,
    format: str = "auto",
    sensors: Sequence[str] | None = None,
    start: float | None = None,
    end: float | None = None,
    progress: Progress = silent,
    columns: Sequence[str] | None = None,
) -> Drive:
    """Open a drive.

    Args:
        path: The drive's folder; or a folder, an archive or a folder of archives (see
            ``open_tree``) that contains this drive and no other.
        format: One of ``SOURCES.names()``, or "auto".
        sensors: Names of the sensors to use, of a bag its topics; None: the format's default.
        start: Keep only scans from this many seconds after the first one.
        end: Keep only scans up to this many seconds after the first one.
        progress: Called while a compressed archive is unpacked.
        columns: Names of the columns of .bin clouds, such as x, y, z, intensity, ring, time; None:
            recognised by their contents.

    Raises:
        MaptileError: There is no drive at ``path``, or several; one of its files is damaged; a
            sensor is unknown; its format defines the columns; or there is no scan between
            ``start`` and ``end``.
    """
    path = Path(path)
    sensors, columns = (
        one.split(",") if isinstance(one, str) else one for one in (sensors, columns)
    )
    sensors = None if sensors is None else tuple(sensors)
    known = ("auto", *SOURCES.names())
    if format not in known:
        raise MaptileError(f"{path}: unknown format {format}; choose from {', '.join(known)}")
    from data_prep.drive import Origin  # imports numpy, which a list of the formats does not need

    tree = path if _is_whole(path) else open_tree(path, progress)
    node, format = _only_drive(path, tree, format)
    source: Source = SOURCES.load(format)
    unknown = set(sensors or ()) - set(source.sensors)
    if source.sensors and unknown:
        raise MaptileError(
            f"{node}: no sensor {', '.join(sorted(unknown))}; "
            f"choose from {', '.join(source.sensors)}"
        )
    origin = Origin(path, format, sensors, start, end, tuple(columns) if columns else None)
    drive = replace(_opened(source, node, sensors, columns), origin=origin)
    if start is None and end is None:
        return drive
    part = drive.between(start, end)
    if not len(part.scans.t_ns):
        duration = (drive.scans.t_ns[-1] - drive.scans.t_ns[0]) / 1e9
        raise MaptileError(
            f"{path}: no scan between start and end; the drive lasts {duration:.1f} seconds"
        )
    return part


def _opened(
    source: Source, node: Node, sensors: tuple[str, ...] | None, columns: Sequence[str] | None
) -> Drive:
    """The drive at ``node``, by the function of its format that takes what is stated."""
    if not columns:
        return source.open(node, sensors)
    if source.open_columns is None:
        raise MaptileError(f"{node}: --columns is for .bin point clouds; leave it out for this one")
    from data_prep.sources.points.bin_layout import column_names

    return source.open_columns(node, column_names(columns))


def _is_whole(path: Path) -> bool:
    """Whether ``path`` is a file that is a drive by itself, by its suffix."""
    sources = _by_priority(SOURCES.names()).values()
    return path.is_file() and any(path.suffix.lower() in source.suffixes for source in sources)


def _by_priority(names: Iterable[str]) -> dict[str, Source]:
    """The entries of the formats named, in the order in which they are tried."""
    sources = {name: SOURCES.load(name) for name in names}
    return dict(sorted(sources.items(), key=lambda item: item[1].priority))


def _first_format(path: Node, sources: dict[str, Source]) -> str | None:
    return next((name for name, source in sources.items() if source.recognises(path)), None)


def _only_drive(path: Path, tree: Node, format: str) -> tuple[Node, str]:
    """Return the one drive in ``tree`` and its format.

    Where the user names a format that recognises no folder, they are ``tree`` and that format.

    Raises:
        MaptileError: There are several drives, or none and ``format`` is "auto".
    """
    sources = _by_priority(SOURCES.names() if format == "auto" else (format,))
    drives = _find_drives(tree, sources)
    if len(drives) > 1:
        raise MaptileError(_several(path, [node for node, _ in drives]))
    if drives:
        return drives[0]
    if (around := _drive_around(path, sources)) is not None:
        raise MaptileError(f"{path}: a part of a drive ({around[1]}); name the drive: {around[0]}")
    if not tree.is_dir():
        raise MaptileError(f"{path}: no such folder; name the folder or the archive of a drive")
    for name, source in sources.items():
        if source.accepts is not None and source.accepts(tree):
            return tree, name
    if format == "auto":
        looked_for = "; ".join(source.looked_for for source in sources.values())
        raise MaptileError(f"{path}: no drive of a known format; looked for: {looked_for}")
    return tree, format


def _drive_around(path: Path, sources: dict[str, Source]) -> tuple[Path, str] | None:
    """The drive that a folder lies in, as deep as drives have folders, and its format."""
    if not path.exists():
        return None
    for folder in path.resolve().parents[:MAX_DEPTH_INSIDE]:
        format = _first_format(folder, sources)
        if format is not None:
            return folder, format
    return None


def _find_drives(tree: Node, sources: dict[str, Source]) -> list[tuple[Node, str]]:
    """Every outermost folder of ``tree`` that one of the formats recognises, and that format."""
    found = []
    folders = [tree]
    listed = 0
    for _ in range(MAX_DEPTH):
        inside = []
        for folder in folders:
            format = _first_format(folder, sources)
            if format is not None:
                found.append((folder, format))
            elif listed < MAX_FOLDERS:
                listed += 1
                with suppress(OSError):  # the user may lack permission to list a folder
                    inside += subfolders(folder)
        folders = inside
    return found


def _several(path: Path, drives: list[Node]) -> str:
    names = ", ".join(str(drive).removeprefix(f"{path}/") for drive in drives[:5])
    more = f" and {len(drives) - 5} more" if len(drives) > 5 else ""
    return f"{path}: holds {len(drives)} drives; name one, such as {drives[0]} ({names}{more})"
