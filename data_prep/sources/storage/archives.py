"""Files inside .zip, .tar, .tar.gz and .tgz archives, read where they lie.

Nothing that an archive says is believed: a member must have just the bytes that are declared for
it, and names that lead out of the archive are passed over, as are links and devices.
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

from tqdm import tqdm

from data_prep.errors import MaptileError
from data_prep.sources.storage.tars import tar_files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

MAX_FILE_BYTES = 2 << 30
"""The largest file that is read out of an archive, 2 GiB: it is held in memory."""

RESERVE_BYTES = 1 << 30
"""What is left free on the disk by an archive that is unpacked."""

_MAX_NAME, _MAX_DEPTH = 1024, 32
_CHUNK = 1 << 20
_ZIP_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,  # NotImplementedError, too: several disks, or a version to come
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        offset: Where its bytes (in a tar) or its own header (in a zip) begin.
        size: Number of its bytes, as declared.
        packed: Number of bytes that it takes up in a zip, as declared.
        crc: CRC-32 of its bytes, in a zip.
        problem: Why it cannot be read and what to do, or "".
        deflated: Whether it is compressed.
    """

    offset: int
    size: int
    packed: int
    crc: int = 0
    problem: str = ""
    deflated: bool = False


class Folder(NamedTuple):
    """A folder in an archive: its files, and the names of the folders in it."""

    files: dict[str, Member]
    folders: set[str]


class Archive:
    """An archive, whose files are read in any order and from any thread.

    Attributes:
        path: Its own file.
        folders: Its folders by their paths, parts joined by "/"; the outermost is "".
    """

    def __init__(self, path: Path) -> None:
        """Index ``path``. ``open_archive`` does not do so twice.

        Raises:
            MaptileError: It cannot be read, is damaged, or there is no space to unpack it.
        """
        self.path = path
        self.folders = {"": Folder({}, set())}
        self._is_zip = path.name.lower().endswith(".zip")
        try:
            gzipped = path.name.lower().endswith("gz")
            self._file = _unpacked(path) if gzipped else os.open(path, os.O_RDONLY)
            finalize(self, os.close, self._file)
            self._size = os.fstat(self._file).st_size
            for name, member in self._zip_members() if self._is_zip else self._tar_members():
                self._add(name, member)
        except _ZIP_DAMAGE as error:
            raise MaptileError(
                f"{path}: not readable as an archive ({_reason(error)}); download it again, or "
                "move it away where it is not needed"
            ) from None

    def __reduce__(self) -> tuple[object, ...]:
        return open_archive, (self.path,)

    def read(self, name: str, member: Member) -> bytes:
        """The bytes of ``member``, whose path in the archive is ``name``.

        Raises:
            MaptileError: It is damaged, encrypted, or larger than ``MAX_FILE_BYTES``.
        """
        if member.problem:
            raise MaptileError(f"{self.path}: {name} {member.problem}")
        if max(member.size, member.packed) > MAX_FILE_BYTES:
            raise MaptileError(
                f"{self.path}: {name} has {member.size} bytes, and {MAX_FILE_BYTES} is the most "
                "that is read out of an archive; unpack it by hand"
            )
        try:
            return self._unzip(member) if self._is_zip else self.at(member.offset, member.size)
        except (OSError, ValueError, zlib.error) as error:
            raise MaptileError(
                f"{self.path}: {name} is damaged ({_reason(error)}); download the archive again"
            ) from None

    def open(self, name: str, member: Member) -> IO[bytes]:
        """The same as a stream, which of a tar is read piece by piece, however large.

        Raises:
            MaptileError: As ``read``, but for the size of a tar's file.
        """
        if self._is_zip:
            return io.BytesIO(self.read(name, member))
        return io.BufferedReader(_Piece(self.at, member.offset, member.size))

    def at(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; pread has no file position to share."""
        if offset + size > self._size:
            raise ValueError("cut short")
        data = os.pread(self._file, size, offset)
        while len(data) < size:  # at most 2 GiB at once
            more = os.pread(self._file, size - len(data), offset + len(data))
            if not more:
                raise ValueError("cut short")
            data += more
        return data

    def _unzip(self, member: Member) -> bytes:
        head = self.at(member.offset, 30)
        if head[:4] != b"PK\3\4":
            raise ValueError("no header where it is to begin")
        name_bytes, extra_bytes = struct.unpack_from("<HH", head, 26)
        data = self.at(member.offset + 30 + name_bytes + extra_bytes, member.packed)
        if member.deflated:
            data = zlib.decompressobj(-15).decompress(data, member.size + 1)
        if len(data) != member.size:
            raise ValueError("its size is not the one declared")
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
                problem = f"is packed by method {info.compress_type}; unpack it by hand"
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
    """``size`` bytes from ``offset`` of what ``at`` reads."""

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


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a file whose name is that of an archive."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and path.is_file()


def open_archive(path: Path) -> Archive:
    """The archive ``path``, indexed once for as long as somebody uses it.

    Raises:
        MaptileError: It cannot be read, is damaged, or there is no space to unpack it.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise MaptileError(f"{path}: cannot read this archive ({error.strerror})") from None
    key = (path.resolve(), about.st_mtime_ns, about.st_size)
    archive = _OPEN.get(key)
    if archive is None:
        archive = _OPEN[key] = Archive(path)
    return archive


def _inner_parts(name: str) -> list[str]:
    """The parts of a member's name; none where it leads out of the archive, or nowhere."""
    if name.startswith("/") or len(name) > _MAX_NAME or not name.isprintable():
        return []
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return [] if ".." in parts or len(parts) > _MAX_DEPTH else parts


def _unpacked(path: Path) -> int:
    """Descriptor of a file without a name that holds the unpacked ``path``."""
    packed = path.stat().st_size
    folder = tempfile.gettempdir()
    with (
        path.open("rb") as raw,
        gzip.GzipFile(fileobj=raw) as stream,
        tempfile.TemporaryFile() as target,
        tqdm(
            desc=f"unpack {path.name}",
            total=packed,
            unit="B",
            unit_scale=True,
            delay=1,
            disable=None,
            leave=False,
        ) as bar,
    ):
        while True:
            # The next gibibyte, or what is known to come: it does not shrink.
            needed = max(RESERVE_BYTES, RESERVE_BYTES + packed - raw.tell())
            if shutil.disk_usage(folder).free < needed:
                raise MaptileError(
                    f"{path}: no space to unpack it in {folder}; free some, name another folder "
                    "by the variable TMPDIR, or unpack it by hand"
                )
            for _ in range(64):
                try:
                    chunk = stream.read(_CHUNK)
                except (EOFError, zlib.error) as error:
                    raise ValueError(_reason(error)) from None
                if not chunk:
                    target.flush()
                    return os.dup(target.fileno())
                target.write(chunk)
                bar.update(raw.tell() - bar.n)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
