"""Files of a drive, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Literal, Protocol


class Node(Protocol):
    """A file or folder: a ``pathlib.Path``, or a place in an archive. To be read, not written."""

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
        """The end of the name from its last dot on, such as ".bin"; or ""."""
        ...

    @property
    def parent(self) -> Node:
        """The folder that this lies in."""
        ...

    def __truediv__(self, name: str, /) -> Node:
        """What is called ``name`` (parts joined by "/") in this folder; it need not exist."""
        ...

    def is_dir(self) -> bool:
        """Whether it is a folder that exists."""
        ...

    def is_file(self) -> bool:
        """Whether it is a file that exists."""
        ...

    def iterdir(self) -> Iterator[Node]:
        """Everything in this folder, in any order."""
        ...

    def read_bytes(self) -> bytes:
        """The whole file; raises OSError where it cannot be read."""
        ...

    def read_text(self, encoding: str | None = None) -> str:
        """The whole file; raises OSError, or ValueError where it is not in that encoding."""
        ...

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """The file to be read piece by piece."""
        ...

    def resolve(self) -> Node:
        """The same with its full path, so that ``name`` and ``parent`` are what they really are."""
        ...
