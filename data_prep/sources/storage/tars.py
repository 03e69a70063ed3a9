"""Offsets of the files in a .tar, for random access.

Formats: POSIX ustar and pax, GNU (long names, sizes in base 256), and the older v7. The standard
library's reader is not used: it keeps an object per member, and some kinds of damage make it raise
unrelated exceptions or loop forever. The tests compare with it on sound files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

BLOCK = 512
"""Size of a header, bytes; content is padded to a multiple of it."""

_MAX_EXTRA = 1 << 20
"""Size limit of a header's extra records (long names, times, owners), bytes."""

_FILES = (b"0", b"\0", b"7")
"""Type flags of regular files."""

_FOLDER = b"5"
"""Type flag of a folder."""

_SPARSE = b"S"
"""Type flag of a GNU sparse file."""

_LONG_NAME = b"L"
"""Type flag of a GNU record with the next member's name."""

_LONG_LINK = b"K"
"""Type flag of a GNU record with the next member's link target."""

_RECORDS = (b"x", b"X", b"g")
"""Type flags of pax records: for the next member (POSIX, Solaris), and for all that follow."""

_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Type flags of links, devices, folders and pipes, which have no content."""


def tar_files(read: Callable[[int, int], bytes], size: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset of the first byte, and size in bytes of every file in a tar.

    Folders are yielded too; their names end in "/". Links, devices and sparse files are skipped.

    Args:
        read: Returns the bytes of the tar at an offset, of the size given, or raises a ValueError.
        size: Size of the tar, bytes.

    Raises:
        ValueError: The tar is damaged or cut short.
    """
    at = 0
    if not size:
        raise ValueError("it is empty")
    name, records = "", dict[bytes, bytes]()
    while at < size:
        head = read(at, BLOCK)
        if not any(head):
            return
        if not _checked(head):
            raise ValueError(f"no header of a member at byte {at}" if at else "it is not a tar")
        kind, count = head[156:157], _number(head[124:136])
        at += BLOCK
        if kind == _SPARSE:
            more = head[482]
            while more:
                more = read(at, BLOCK)[504]
                at += BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, *_RECORDS):
            if count > min(_MAX_EXTRA, size - at):
                raise ValueError(f"the header at byte {at - BLOCK} is damaged")
            extra = read(at, count)
            at += -(-count // BLOCK) * BLOCK
            if kind == _LONG_NAME:
                name = _text(extra)
            elif kind in _RECORDS[:2]:
                records |= _pax_records(extra)
            continue
        if b"size" in records:
            count = _whole(records[b"size"], 10)
        if kind in _WITHOUT_DATA:
            count = 0
        if count > size - at:
            raise ValueError("it is cut short")
        name = _text(records[b"path"]) if b"path" in records else name or _name(head)
        sparse = kind == _SPARSE or any(key.startswith(b"GNU.sparse.") for key in records)
        if kind == _FOLDER or (kind == b"\0" and name.endswith("/")):
            yield name.rstrip("/") + "/", at, 0
        elif kind in _FILES and not sparse:
            yield name, at, count
        at += -(-count // BLOCK) * BLOCK
        name, records = "", {}


def _checked(head: bytes) -> bool:
    """Whether a header's checksum is right, over unsigned bytes or (old programs) signed ones."""
    rest = head[:148] + b" " * 8 + head[156:]
    try:
        declared = _number(head[148:156])
    except ValueError:
        return False
    total = sum(rest)
    return declared in (total, total - 256 * sum(byte > 127 for byte in rest))


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # base 256
        return int.from_bytes(field[1:], "big")
    return _whole(field.split(b"\0", 1)[0].strip(b" ") or b"0", 8)


def _whole(digits: bytes, base: int) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise ValueError(f"{digits[:20]!r} is not a size")
    return int(digits, base)


def _name(head: bytes) -> str:
    name = _text(head[:100])
    prefix = _text(head[345:500]) if head[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Keys and values of pax lines "<length of the line> <key>=<value>"."""
    records = {}
    at = 0
    while at < len(data):
        digits = data[at : at + 20].split(b" ", 1)[0]
        end = at + _whole(digits, 10)
        key, found, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
        if not found or data[end - 1 : end] != b"\n":
            raise ValueError("a header's records are damaged")
        records[key] = value
        at = end
    return records
