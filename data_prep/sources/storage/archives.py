"""Files inside .zip, .tar, .tar.gz and .tgz archives, read without unpacking them to a folder.

Every declaration of an archive is checked: a member must have exactly the declared size and
checksum. Names that lead out of the archive are ignored, as are links, devices, and what macOS and
Windows add. An archive in an archive is read as if it were unpacked beside itself.
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
from data_prep.sources.storage.names import inner_parts
from data_prep.sources.storage.tars import tar_files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of archive names, in lower case."""

RESERVE_BYTES = 1 << 30
"""Space, in bytes, that unpacking leaves free on the disk."""

_MAX_NESTED = 2
"""Largest number of archives around an archive."""

_MAX_INNER = 100
"""Largest number of archives in an archive."""

_MAX_RATIO = 20
"""Largest ratio of sizes, unpacked to packed, of an archive in a zip: it is packed already."""

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
        inside: The inner archive that holds it, or None.
    """

    offset: int
    size: int
    packed: int
    crc: int = 0
    problem: str = ""
    deflated: bool = False
    inside: Archive | None = None


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

    def __init__(
        self,
        path: Path,
        progress: Progress = silent,
        content: IO[bytes] | None = None,
        depth: int = 0,
    ) -> None:
        """Index ``path``; ``open_archive`` returns the existing index where there is one.

        Args:
            path: The archive.
            progress: Called while a compressed tar is unpacked; counts bytes.
            content: Its bytes, where it is inside another one; the path is then for messages.
            depth: Number of archives around it.

        Raises:
            MaptileError: The file cannot be read or is damaged, or there is no space to unpack it.
        """
        self.path = path
        self.folders = {"": Folder({}, set())}
        self._depth, self._inner = depth, 0
        self._is_zip = path.name.lower().endswith(".zip")
        try:
            with path.open("rb") if content is None else _copied(path, content) as stream:
                if path.name.lower().endswith("gz"):
                    self._file = _unpacked(path, stream, progress)
                else:
                    self._file = os.dup(stream.fileno())
            finalize(self, os.close, self._file)
            self._size = os.fstat(self._file).st_size
            for name, member in self._zip_members() if self._is_zip else self._tar_members():
                self._add(name, member, progress)
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
        if member.inside is not None:
            return member.inside.read(name, member._replace(inside=None))
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
        if member.inside is not None:
            return member.inside.open(name, member._replace(inside=None))
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
        with os.fdopen(os.dup(self._file), "rb") as stream, zipfile.ZipFile(stream) as archive:
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

    def _add(self, name: str, member: Member, progress: Progress) -> None:
        parts = inner_parts(name)
        if not parts:
            return
        *folders, last = parts
        if name.endswith(("/", "\\")):
            self._folder("/".join(parts))
        elif self._is_inner(last, member):
            self._inner += 1
            self._merge("/".join(folders), self._opened("/".join(parts), member, progress))
        else:
            self._folder("/".join(folders)).files[last] = member

    def _is_inner(self, name: str, member: Member) -> bool:
        """Whether a file is an archive that is to be opened, too."""
        few = self._depth < _MAX_NESTED and self._inner < _MAX_INNER
        return few and name.lower().endswith(SUFFIXES) and not member.problem

    def _opened(self, name: str, member: Member, progress: Progress) -> Archive:
        """The archive that is the file ``name`` of this one."""
        if member.size > _MAX_RATIO * max(member.packed, _CHUNK):
            raise ValueError(f"{name} is packed too tightly for an archive; unpack it by hand")
        return Archive(self.path / name, progress, self.open(name, member), self._depth + 1)

    def _merge(self, folder: str, inner: Archive) -> None:
        """Add the files of an archive that lies in ``folder``."""
        for path, found in inner.folders.items():
            here = self._folder("/".join(part for part in (folder, path) if part))
            for name, member in found.files.items():
                if name not in here.files or here.files[name].inside is not None:
                    here.files[name] = member._replace(inside=member.inside or inner)

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


def _copied(path: Path, content: IO[bytes]) -> IO[bytes]:
    """An unnamed temporary file with the same content."""
    _check_space(path, 0)
    with content, tempfile.TemporaryFile() as target:
        shutil.copyfileobj(content, target, _CHUNK)
        target.seek(0)
        return os.fdopen(os.dup(target.fileno()), "rb")


def _unpacked(path: Path, raw: IO[bytes], progress: Progress) -> int:
    """Descriptor of an unnamed temporary file that holds the unpacked ``raw``."""
    packed = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    step = f"unpack {path.name}"
    with (
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
