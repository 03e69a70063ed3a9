"""Names of files in archives, as parts of a path."""

from __future__ import annotations

_MAX_NAME = 1024
"""Longest name of a member, in characters; longer ones are ignored."""

_MAX_DEPTH = 32
"""Largest number of parts in a member's name; names with more are ignored."""

_MAC_FOLDER = "__MACOSX"
"""Name of the folder in which macOS keeps attributes of files."""

_SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Names of files that macOS and Windows write into any folder."""


def is_clutter(name: str) -> bool:
    """Return whether macOS or Windows wrote this file or folder: it is not of the data set."""
    return name.startswith("._") or name in (*_SYSTEM_FILES, _MAC_FOLDER)


def inner_parts(name: str) -> list[str]:
    """Return the parts of a member's name; empty where it leads out of the archive or is unusable.

    Programs on Windows may write backslashes between the parts.
    """
    name = name.replace("\\", "/")
    if name.startswith("/") or len(name) > _MAX_NAME or not name.isprintable():
        return []
    parts = [part for part in name.split("/") if part not in ("", ".")]
    unusable = ".." in parts or len(parts) > _MAX_DEPTH or any(map(is_clutter, parts))
    return [] if unusable else parts
