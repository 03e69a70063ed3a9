"""Where the files of a .tar are in it, for random access.

The standard library's reader keeps an object per member and a few kinds of damage make it fail in
ways of their own, or run for ever; the tests compare with it on sound files. Formats: POSIX ustar
and pax, GNU (long names, sizes in base 256), and what came before them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

BLOCK = 512

_MAX_EXTRA = 1 << 20
"""A header's extra records (long names, times, owners) take less than this."""

_FILES = (b"0", b"\0", b"7")
_FOLDER, _SPARSE = b"5", b"S"
_LONG_NAME, _LONG_LINK, _RECORDS = b"L", b"K", (b"x", b"X", b"g")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes


def tar_files(read: Callable[[int, int], bytes], size: int) -> Iterator[tuple[str, int, int]]:
    """Name, place of the first byte, and number of bytes of every file in a tar.

    The name of a folder ends in "/". Links, devices and sparse files are passed over.

    Args:
        read: Gives the bytes of the tar from a place on, as many as asked for, or a ValueError.
        size: Number of bytes of the tar.

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
            raise ValueError(f"no header of a member at byte {at}" if at else "it is no tar")
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
    """Whether a header has the sum that it says, over unsigned or (old programs) signed bytes."""
    rest = head[:148] + b" " * 8 + head[156:]
    try:
        told = _number(head[148:156])
    except ValueError:
        return False
    total = sum(rest)
    return told == total or told == total - 256 * sum(byte > 127 for byte in rest)


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # base 256
        return int.from_bytes(field[1:], "big")
    return _whole(field.split(b"\0", 1)[0].strip(b" ") or b"0", 8)


def _whole(digits: bytes, base: int) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise ValueError(f"{digits[:20]!r} is no size")
    return int(digits, base)


def _name(head: bytes) -> str:
    name = _text(head[:100])
    prefix = _text(head[345:500]) if head[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Lines "<length> <key>=<value>", the length that of the whole line."""
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
