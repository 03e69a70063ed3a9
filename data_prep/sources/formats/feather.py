"""Columns of Feather files (version 2: Arrow IPC), compressed or not, within bounded memory.

A compressed buffer begins with its declared unpacked size, and pyarrow allocates that size without
a check. The declared sizes are therefore added up first, from the same footer that pyarrow reads
(https://arrow.apache.org/docs/format/Columnar.html, tables File.fbs and Message.fbs).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.sources.storage.tree import Node, read_node

MAX_BYTES = 1 << 28
"""Largest unpacked size, bytes; a sweep of two 32-beam LiDARs has a hundredth of it."""

_MAGIC = b"ARROW1"
"""First and last bytes of a file."""

_DICTIONARY = 2
"""Value of MessageHeader in Message.fbs for a dictionary."""

_RECORDS = 3
"""Value of MessageHeader in Message.fbs for a batch of records."""

_DAMAGE = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    struct.error,
)
"""Exceptions that damage in a file causes."""


def read_feather(
    file: Node, numbers: Sequence[str], text: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """Read named columns of a Feather file.

    Args:
        file: The file.
        numbers: Columns of numbers: integers are returned as int64, floats in their own width,
            with NaN where a value is missing.
        text: Columns of text, returned as objects.

    Returns:
        An array per column, all of equal length.

    Raises:
        MaptileError: The file cannot be read, is damaged, declares an unpacked size of more than
            ``MAX_BYTES``, or lacks a column of the required kind.
    """
    try:
        data = read_node(file)
        if unpacked_bytes(data) > MAX_BYTES:
            raise ValueError(f"it declares to unpack to more than {MAX_BYTES >> 20} MiB")
        buffer = pa.py_buffer(data)
        schema = pa.ipc.open_file(buffer).schema
        wanted = [_field(schema, name, _is_number) for name in numbers]
        wanted += [_field(schema, name, _is_text) for name in text]
        options = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
        table = pa.ipc.open_file(buffer, options=options).read_all()
        table.validate(full=True)
        return {name: _column(table.column(name)) for name in (*numbers, *text)}
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MaptileError(
            f"{file}: not readable as a Feather file ({reason}); copy or download it again"
        ) from None


def _field(schema: Any, name: str, of_kind: Any) -> int:
    index = schema.get_field_index(name)
    if index < 0 or not of_kind(schema.field(index).type):
        raise ValueError(f"no column {name} of the right kind")
    return int(index)


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _column(column: Any) -> NDArray[Any]:
    if pa.types.is_integer(column.type):
        if column.null_count:
            raise ValueError("values are missing in a column of integers")
        column = column.cast(pa.int64())
    return column.to_numpy()


# --- declared sizes ------------------------------------------------------------------------------


def unpacked_bytes(data: bytes) -> int:
    """Return the sum of the declared unpacked sizes of the buffers of an Arrow file, bytes.

    Raises:
        ValueError, struct.error: It is not such a file, or an offset leads out of it.
    """
    if len(data) < 18 or data[:6] != _MAGIC or data[-6:] != _MAGIC:
        raise ValueError("not an Arrow file: cut short, or of another format")
    (length,) = struct.unpack_from("<i", data, len(data) - 10)
    footer = len(data) - 10 - length
    if length <= 0 or footer < 8:
        raise ValueError("its footer is damaged")
    table = footer + _u32(data, footer)
    total = 0
    for index in (2, 3):  # Footer: dictionaries, recordBatches
        for block in _structs(data, _slot(data, table, index), 24):
            offset, metadata, _ = struct.unpack_from("<qi4xq", data, block)
            if not 8 <= offset <= len(data) or metadata < 8:
                raise ValueError("a block lies outside the file")
            total += _message_bytes(data, offset, offset + metadata)
    return total


def _message_bytes(data: bytes, message: int, body: int) -> int:
    """Sum of the declared unpacked sizes of the buffers of one message."""
    # Since 2019, a marker precedes the length of the metadata.
    start = message + (8 if data[message : message + 4] == b"\xff" * 4 else 4)
    table = start + _u32(data, start)
    kind, header = _slot(data, table, 1), _slot(data, table, 2)
    if kind is None or header is None or data[kind] not in (_DICTIONARY, _RECORDS):
        raise ValueError("a block is neither records nor a dictionary")
    batch = header + _u32(data, header)
    if data[kind] == _DICTIONARY:
        inner = _slot(data, batch, 1)
        if inner is None:
            raise ValueError("a dictionary without values")
        batch = inner + _u32(data, inner)
    packed = _slot(data, batch, 3) is not None
    total = 0
    for buffer in _structs(data, _slot(data, batch, 2), 16):
        offset, size = struct.unpack_from("<qq", data, buffer)
        if offset < 0 or size < 0 or body + offset + size > len(data):
            raise ValueError("a buffer lies outside the file: cut short")
        if packed and size >= 8:
            (declared,) = struct.unpack_from("<q", data, body + offset)
            size = size if declared == -1 else declared  # -1: not compressed
            if size < 0:
                raise ValueError("a buffer of negative size")
        total += size
    return total


def _slot(data: bytes, table: int, index: int) -> int | None:
    """Offset of field number ``index`` of a flatbuffer's table; None where it is left out."""
    (back,) = struct.unpack_from("<i", data, table)
    entries = table - back
    if entries < 0:
        raise ValueError("a table lies outside the file")
    (size,) = struct.unpack_from("<H", data, entries)
    if size < 6 + 2 * index:
        return None
    (offset,) = struct.unpack_from("<H", data, entries + 4 + 2 * index)
    return table + offset if offset else None


def _structs(data: bytes, vector: int | None, size: int) -> Iterator[int]:
    """Offsets of the structs of ``size`` bytes in a flatbuffer's vector."""
    if vector is None:
        return iter(())
    start = vector + _u32(data, vector)
    count = _u32(data, start)
    if count * size > len(data):
        raise ValueError("a list is longer than the file")
    return iter(range(start + 4, start + 4 + count * size, size))


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])
