"""Rows of JSON tables (arrays of objects), within bounded memory.

The tables of nuScenes have up to a gigabyte of text, of which a drive needs a few hundred rows.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any

from data_prep.errors import MaptileError
from data_prep.sources.storage.tree import Node, open_node

Row = dict[str, Any]
"""A row of a table: values by name."""

CHUNK = 1 << 20
"""Number of bytes of a large table that are searched at once."""

MAX_ROW = 1 << 20
"""Longest row, characters; a longer one is damage."""

MAX_BYTES = 1 << 26
"""Largest table that is read whole, bytes; nuScenes has tables of up to 5 MB of this kind."""


def read_rows(file: Node) -> list[Row]:
    """Return all rows of a small table.

    Raises:
        MaptileError: The file cannot be read, is not an array of objects, or has more than
            ``MAX_BYTES``.
    """
    return _read(file, _whole)


def find_rows(file: Node, key: str, values: Collection[str]) -> list[Row]:
    """Return the rows of a large table whose ``key`` is one of ``values``, in the file's order.

    The text is searched for the key, and only matching rows are parsed. Rows must not contain other
    objects.

    Raises:
        MaptileError: The file cannot be read, is cut short, or a match is not in a row.
    """
    return _read(file, lambda stream: list(_search(stream, key, values)))


def _read(file: Node, read: Callable[[IO[bytes]], list[Row]]) -> list[Row]:
    try:
        with open_node(file) as stream:
            return read(stream)
    except FileNotFoundError:
        raise MaptileError(f"{file}: no such file; unpack the archive with the tables") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(
            f"{file}: not readable as a table ({reason}); copy or unpack it again"
        ) from None


def _whole(stream: IO[bytes]) -> list[Row]:
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
    rows = json.loads(data)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("not an array of objects")
    return rows


def _search(stream: IO[bytes], key: str, values: Collection[str]) -> Iterator[Row]:
    pattern = re.compile(rf'"{re.escape(key)}"\s*:\s*"([^"\\]*)"')
    decode = json.JSONDecoder().raw_decode
    utf8 = codecs.getincrementaldecoder("utf-8")()
    rest = ""
    while chunk := stream.read(CHUNK):
        buffer = rest + utf8.decode(chunk)
        end = buffer.rfind("}") + 1
        for match in pattern.finditer(buffer, 0, end):
            if match[1] in values:
                row, _ = decode(buffer, max(buffer.rfind("{", 0, match.start()), 0))
                if not isinstance(row, dict) or row.get(key) != match[1]:
                    raise ValueError(f"{match[0][:80]} is not in a row")
                yield row
        rest = buffer[end:]
        if len(rest) > MAX_ROW:
            raise ValueError("a row without an end")
    if "".join(rest.split()) not in ("]", "[]"):
        raise ValueError("it does not end in ]: cut short")
