"""Files inside .zip, .tar, .tar.gz and .tgz archives, read without unpacking them to a folder.

Every declaration of an archive is checked: a member must have exactly the declared size and
checksum. Names that lead out of the archive are ignored, as are links and devices.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary, finalize

from data_prep.errors import MaptileError
from data_prep.progress import Progress, silent
from data_prep.regular import MAX_FILE_BYTES, too_large
from data_prep.sources.storage.tars import tar_files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of archive names, in lower case."""

RESERVE_BYTES = 1 << 30
"""Space, in bytes, that unpacking leaves free on the disk."""

_MAX_NAME = 1024
"""Longest name of a member, in characters; longer ones are ignored."""

_MAX_DEPTH = 32
"""Largest number of parts in a member's name; names with more are ignored."""

_CHUNK = 1 << 20
"""Number of bytes that are decompressed at once."""

_CHUNKS_PER_CHECK = 64
"""Number of chunks between two checks of the free space."""

_ZIP_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,  # and its NotImplementedError: split over several disks, or a newer version
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""Exceptions that damage in an archive causes in the standard library."""


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        offset: Byte at which its content (in a tar) or its own header (in a zip) begins.
        size: Declared size of its content, bytes.
        packed: Declared size in the archive, bytes.
        crc: Declared CRC-32 of its content, in a zip.
        problem: Why it cannot be read and the remedy, or "".
        deflated: Whether it is compressed with deflate.
    """

    offset: int
    size: int
    packed: int
    crc: int = 0
    problem: str = ""
    deflated: bool = False


class Folder(NamedTuple):
    """A folder in an archive: its files by name, and the names of its subfolders."""

    files: dict[str, Member]
    folders: set[str]


class Archive:
    """An archive; its files can be read in any order and from any thread.

    Attributes:
        path: The archive's file.
        folders: Its folders by path, parts joined by "/"; the outermost is "".
    """

    def __init__(self, path: Path, progress: Progress = silent) -> None:
        """Index ``path``; ``open_archive`` returns the existing index where there is one.

        Raises:
            MaptileError: The file cannot be read or is damaged, or there is no space to unpack it.
        """
        self.path = path
        self.folders = {"": Folder({}, set())}
        self._is_zip = path.name.lower().endswith(".zip")
        try:
            gzipped = path.name.lower().endswith("gz")
            self._file = _unpacked(path, progress) if gzipped else os.open(path, os.O_RDONLY)
            finalize(self, os.close, self._file)
            self._size = os.fstat(self._file).st_size
            for name, member in self._zip_members() if self._is_zip else self._tar_members():
                self._add(name, member)
        except _ZIP_DAMAGE as error:
            raise MaptileError(
                f"{path}: not readable as an archive ({_reason(error)}); download it again, or "
                "move it away if it is not needed"
            ) from None

    def __reduce__(self) -> tuple[object, ...]:
        return open_archive, (self.path,)

    def read(self, name: str, member: Member) -> bytes:
        """Return the content of ``member``, whose path in the archive is ``name``.

        Raises:
            MaptileError: It is damaged, encrypted, or larger than ``MAX_FILE_BYTES``.
        """
        if member.problem:
            raise MaptileError(f"{self.path}: {name} {member.problem}")
        if max(member.size, member.packed) > MAX_FILE_BYTES:
            raise too_large(f"{self.path}: {name}", max(member.size, member.packed))
        try:
            return self._unzip(member) if self._is_zip else self.at(member.offset, member.size)
        except (OSError, ValueError, zlib.error) as error:
            raise MaptileError(
                f"{self.path}: {name} is damaged ({_reason(error)}); download the archive again"
            ) from None

    def open(self, name: str, member: Member) -> IO[bytes]:
        """Return the content of ``member`` as a stream.

        A tar's member is read piece by piece, so that its size is not limited.

        Raises:
            MaptileError: As for ``read``.
        """
        if self._is_zip:
            return io.BytesIO(self.read(name, member))
        return io.BufferedReader(_Piece(self.at, member.offset, member.size))

    def at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``; uses pread, so that threads share no position."""
        if offset + size > self._size:
            raise ValueError("cut short")
        data = os.pread(self._file, size, offset)
        while len(data) < size:  # one pread returns at most 2 GiB
            more = os.pread(self._file, size - len(data), offset + len(data))
            if not more:
                raise ValueError("cut short")
            data += more
        return data

    def _unzip(self, member: Member) -> bytes:
        head = self.at(member.offset, 30)
        if head[:4] != b"PK\3\4":
            raise ValueError("there is no header where the index says")
        name_bytes, extra_bytes = struct.unpack_from("<HH", head, 26)
        data = self.at(member.offset + 30 + name_bytes + extra_bytes, member.packed)
        if member.deflated:
            data = zlib.decompressobj(-15).decompress(data, member.size + 1)
        if len(data) != member.size:
            raise ValueError("its size differs from the declared one")
        if zlib.crc32(data) != member.crc:
            raise ValueError("its checksum is wrong")
        return data

    def _zip_members(self) -> Iterator[tuple[str, Member]]:
        with zipfile.ZipFile(self.path) as archive:
            infos = archive.infolist()
        for info in infos:
            mode = info.external_attr >> 16
            if info.create_system == 3 and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                continue
            if info.header_offset < 0:
                raise ValueError(f"{info.filename} begins before the file")
            problem = ""
            if info.flag_bits & 1:
                problem = "is encrypted; unpack it by hand, with its password"
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                problem = f"is compressed by method {info.compress_type}; unpack it by hand"
            yield (
                info.filename,
                Member(
                    info.header_offset,
                    info.file_size,
                    info.compress_size,
                    info.CRC,
                    problem,
                    info.compress_type == zipfile.ZIP_DEFLATED,
                ),
            )

    def _tar_members(self) -> Iterator[tuple[str, Member]]:
        for name, offset, size in tar_files(self.at, self._size):
            yield name, Member(offset, size, size)

    def _add(self, name: str, member: Member) -> None:
        parts = _inner_parts(name)
        if not parts:
            return
        *folders, last = parts
        if name.endswith("/"):
            self._folder("/".join(parts))
        else:
            self._folder("/".join(folders)).files[last] = member

    def _folder(self, inner: str) -> Folder:
        folder = self.folders.get(inner)
        if folder is None:
            folder = self.folders[inner] = Folder({}, set())
            parent, _, name = inner.rpartition("/")
            self._folder(parent).folders.add(name)
        return folder


class _Piece(io.RawIOBase):
    """A stream of the ``size`` bytes from ``offset`` that ``at`` returns."""

    def __init__(self, at: Callable[[int, int], bytes], offset: int, size: int) -> None:
        self._at, self._next, self._end = at, offset, offset + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._end - self._next)
        view[:count] = self._at(self._next, count)
        self._next += count
        return count


_OPEN: WeakValueDictionary[tuple[Path, int, int], Archive] = WeakValueDictionary()
"""Archives in use, by path, time of change and size."""


def is_archive(path: Path) -> bool:
    """Return whether ``path`` is a file with the name of an archive."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and path.is_file()


def open_archive(path: Path, progress: Progress = silent) -> Archive:
    """Return the archive ``path``; it is indexed once for as long as it is in use.

    Args:
        path: The archive.
        progress: Called while a compressed tar is unpacked; counts bytes.

    Raises:
        MaptileError: The file cannot be read or is damaged, or there is no space to unpack it.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise MaptileError(f"{path}: cannot read this archive ({error.strerror})") from None
    key = (path.resolve(), about.st_mtime_ns, about.st_size)
    archive = _OPEN.get(key)
    if archive is None:
        archive = _OPEN[key] = Archive(path, progress)
    return archive


def _inner_parts(name: str) -> list[str]:
    """The parts of a member's name; empty where it leads out of the archive or is unusable."""
    if name.startswith("/") or len(name) > _MAX_NAME or not name.isprintable():
        return []
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return [] if ".." in parts or len(parts) > _MAX_DEPTH else parts


def _unpacked(path: Path, progress: Progress) -> int:
    """Descriptor of an unnamed temporary file that holds the unpacked ``path``."""
    packed = path.stat().st_size
    step = f"unpack {path.name}"
    with (
        path.open("rb") as raw,
        gzip.GzipFile(fileobj=raw) as stream,
        tempfile.TemporaryFile() as target,
    ):
        while True:
            _check_space(path, packed - raw.tell())
            for _ in range(_CHUNKS_PER_CHECK):
                progress(step, raw.tell(), packed)
                try:
                    chunk = stream.read(_CHUNK)
                except (EOFError, zlib.error) as error:
                    raise ValueError(_reason(error)) from None
                if not chunk:
                    target.flush()
                    return os.dup(target.fileno())
                target.write(chunk)


def _check_space(path: Path, packed_rest: int) -> None:
    """Raise an error where the disk cannot hold the rest of ``path``, which is still packed."""
    folder = tempfile.gettempdir()
    # At least the next gibibyte, and at least the packed size of the rest: unpacking adds bytes.
    if shutil.disk_usage(folder).free < max(RESERVE_BYTES, RESERVE_BYTES + packed_rest):
        raise MaptileError(
            f"{path}: no space to unpack it in {folder}; free some space, set the variable TMPDIR "
            "to another folder, or unpack it by hand"
        )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
