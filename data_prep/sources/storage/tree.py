"""Files of a drive, in folders or in archives as they were downloaded, behind one protocol."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOENT, ENOTDIR
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Protocol

from data_prep.errors import MaptileError
from data_prep.progress import Progress, silent
from data_prep.regular import check_regular, open_regular, read_regular
from data_prep.sources.storage.archives import SUFFIXES, Archive, Member, is_archive, open_archive
from data_prep.sources.storage.names import is_clutter


class Node(Protocol):
    """A file or folder to read: a ``pathlib.Path``, or an ``ArchivePath``."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        ...

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        ...

    @property
    def suffix(self) -> str:
        """The name from its last dot, such as ".bin"; or ""."""
        ...

    @property
    def parent(self) -> Node:
        """The folder that contains this file or folder."""
        ...

    def __truediv__(self, name: str, /) -> Node:
        """The node ``name`` (parts joined by "/") in this folder; it need not exist."""
        ...

    def is_dir(self) -> bool:
        """Whether it is a folder that exists."""
        ...

    def is_file(self) -> bool:
        """Whether it is a file that exists."""
        ...

    def iterdir(self) -> Iterator[Node]:
        """The files and folders in this folder, in any order."""
        ...

    def read_bytes(self) -> bytes:
        """The content of the file; raises OSError where it cannot be read."""
        ...

    def read_text(self, encoding: str | None = None) -> str:
        """The file as text; raises OSError, or ValueError where the encoding does not fit."""
        ...

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """The file as a stream."""
        ...

    def resolve(self) -> Node:
        """The same node with its full path, on which ``name`` and ``parent`` are the real ones."""
        ...


@dataclass(frozen=True, eq=False)
class Tree:
    """Archives merged into one tree of files.

    Attributes:
        path: An archive, or the folder that holds the archives.
        loose: That folder, whose own files take precedence over archives; None for one archive.
        archives: The archives; of a file that is in several, the last one counts.
    """

    path: Path
    loose: Path | None
    archives: tuple[Archive, ...]


@dataclass(frozen=True)
class ArchivePath:
    """A file or folder in archives; see ``Node``. Its text is a path that ``open_tree`` accepts.

    Attributes:
        tree: The archives.
        inner: Path inside them, parts joined by "/"; "" is the outermost folder.
    """

    tree: Tree
    inner: str = ""

    def __str__(self) -> str:
        return f"{self.tree.path}/{self.inner}" if self.inner else str(self.tree.path)

    def __truediv__(self, name: str, /) -> ArchivePath:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        return ArchivePath(self.tree, "/".join([self.inner, *parts] if self.inner else parts))

    @property
    def name(self) -> str:
        """The last part of the path; for the outermost folder, the archive's without suffix."""
        if self.inner:
            return self.inner.rpartition("/")[2]
        name = self.tree.path.resolve().name
        if self.tree.loose is not None:
            return name
        return next(name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end))

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name from its last dot, or ""."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Node:
        """The folder around it; for the outermost folder, the real folder around the archive."""
        if self.inner:
            return ArchivePath(self.tree, self.inner.rpartition("/")[0])
        return self.tree.path.resolve().parent

    def resolve(self) -> ArchivePath:
        """The node itself: a path in archives is always full."""
        return self

    def is_dir(self) -> bool:
        """Whether it is a folder in one of the archives, or a real one beside them."""
        if any(self.inner in archive.folders for archive in self.tree.archives):
            return True
        loose = self._loose()
        return loose is not None and loose.is_dir()

    def is_file(self) -> bool:
        """Whether it is a file in one of the archives, or a real one beside them."""
        if self._member() is not None:
            return True
        loose = self._loose()
        return loose is not None and loose.is_file()

    def iterdir(self) -> Iterator[ArchivePath]:
        """The files and folders in this folder, of all archives and beside them."""
        yield from (self / name for name in names(self))

    def listing(self) -> tuple[set[str], set[str]]:
        """Names of the files and of the folders in this folder.

        Raises:
            OSError: It is not a folder.
        """
        files, folders = set[str](), set[str]()
        found = [one.folders[self.inner] for one in self.tree.archives if self.inner in one.folders]
        for folder in found:
            files.update(folder.files)
            folders.update(folder.folders)
        loose = self._loose()
        if loose is not None and loose.is_dir():
            for known, more in zip((files, folders), _scan(loose), strict=True):
                known.update(more)
        elif not found:
            code = ENOTDIR if self.is_file() else ENOENT
            raise OSError(code, os.strerror(code), str(self))
        return files, folders

    def read_bytes(self) -> bytes:
        """The content of the file.

        Raises:
            OSError: There is no such file.
            MaptileError: It is damaged, encrypted or too large.
        """
        loose = self._loose()
        if loose is not None and loose.is_file():
            return read_regular(loose)
        archive, found = self._found()
        return archive.read(self.inner, found)

    def read_text(self, encoding: str | None = None) -> str:
        """The file as text; raises ValueError as well where ``encoding`` does not fit."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding).read()

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """The file as a stream; raises as ``read_bytes``."""
        loose = self._loose()
        if loose is not None and loose.is_file():
            return open_regular(loose)
        archive, found = self._found()
        return archive.open(self.inner, found)

    def _member(self) -> tuple[Archive, Member] | None:
        folder, _, name = self.inner.rpartition("/")
        for archive in reversed(self.tree.archives):
            if folder in archive.folders and name in archive.folders[folder].files:
                return archive, archive.folders[folder].files[name]
        return None

    def _found(self) -> tuple[Archive, Member]:
        found = self._member()
        if found is None:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(self))
        return found

    def _loose(self) -> Path | None:
        """The same path in the folder of the archives; None where it would lead out of it."""
        if self.tree.loose is None or ".." in self.inner.split("/"):
            return None
        return self.tree.loose / self.inner


def read_node(node: Node) -> bytes:
    """Read a file whole; raises as ``ArchivePath.read_bytes``, or it is no regular file."""
    return read_regular(node) if isinstance(node, Path) else node.read_bytes()


def read_node_text(node: Node, encoding: str) -> str:
    """Read a file as text; raises as ``read_node``, and ValueError where ``encoding`` is wrong."""
    return io.TextIOWrapper(io.BytesIO(read_node(node)), encoding).read()


def open_node(node: Node) -> IO[bytes]:
    """Open a file as a stream; raises as ``read_node``, but no size is too large."""
    return open_regular(node) if isinstance(node, Path) else node.open("rb")


def open_tree(path: Path, progress: Progress = silent) -> Node:
    """Return the files at ``path`` as a node, which need not exist.

    ``path`` is a folder, an archive (.zip, .tar, .tar.gz, .tgz), a folder that contains archives
    (they are merged, and loose files beside them take precedence), or a path inside one of these,
    such as ARCHIVE.zip/inner/folder. A compressed tar is unpacked to an unnamed temporary file.

    Args:
        path: The path.
        progress: Called while a compressed tar is unpacked; counts bytes.

    Returns:
        ``path`` itself where no archive is involved, else an ``ArchivePath``.

    Raises:
        MaptileError: An archive is damaged, there is no space to unpack it, or ``path`` leads into
            a file that is not an archive, or into what is no file.
    """
    if path.is_dir():
        return _merged(path, progress)
    outer, inner = path, ""
    while not outer.exists() and outer != outer.parent:
        outer, inner = outer.parent, f"{outer.name}/{inner}"
    if outer.is_dir():
        found = _merged(outer, progress)
        return path if isinstance(found, Path) else found / inner
    check_regular(outer)
    if not is_archive(outer):
        raise MaptileError(f"{outer}: neither a folder nor an archive ({', '.join(SUFFIXES)})")
    return ArchivePath(Tree(outer, None, (open_archive(outer, progress),))) / inner


def beside(drive: Node) -> list[Node]:
    """Return the folders that may hold files which belong to a drive, the nearest first.

    These are the folder around the drive and, in archives, all folders around that, up to the real
    folder that contains the archive.
    """
    folders = [drive.resolve().parent]
    while isinstance(folders[-1], ArchivePath):
        folders.append(folders[-1].parent)
    return folders


def names(folder: Node) -> list[str]:
    """Return the names in an existing folder, in any order; the folder is listed once."""
    if isinstance(folder, ArchivePath):
        return list(set[str]().union(*folder.listing()))
    with os.scandir(str(folder)) as entries:
        return [entry.name for entry in entries if not is_clutter(entry.name)]


def file_names(folder: Node) -> list[str]:
    """Return the sorted names of the files in an existing folder, from a single listing of it."""
    files, _ = folder.listing() if isinstance(folder, ArchivePath) else _scan(folder)
    return sorted(files)


def subfolders(folder: Node) -> list[Node]:
    """Return the folders in an existing folder, sorted by name; it is listed once."""
    _, folders = folder.listing() if isinstance(folder, ArchivePath) else _scan(folder)
    return [folder / name for name in sorted(folders)]


def _scan(folder: Node) -> tuple[set[str], set[str]]:
    """Names of the files and of the folders in a real folder."""
    with os.scandir(str(folder)) as entries:
        found = [entry for entry in entries if not is_clutter(entry.name)]
    folders = {entry.name for entry in found if entry.is_dir()}
    return {entry.name for entry in found} - folders, folders


def _merged(folder: Path, progress: Progress) -> Node:
    """The folder itself, or its archives as one tree where it contains some."""
    archives = sorted(child for child in folder.iterdir() if is_archive(child))
    if not archives:
        return folder
    return ArchivePath(
        Tree(folder, folder, tuple(open_archive(path, progress) for path in archives))
    )
