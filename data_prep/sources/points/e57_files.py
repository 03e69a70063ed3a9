"""Points of .e57 files, read by pye57 (MIT)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from data_prep.geometry import Array
from data_prep.sources.storage.tree import Node

INSTALL = "to read .e57: pip install 'maptile-loc[e57]'"
"""The remedy where the library is missing."""


class NotInstalledError(ValueError):
    """The library is not installed; the text is the remedy."""


def read_e57(node: Node) -> Array:
    """Return (N, 3) points of the first scan in a file, metres, in its scanner's own frame.

    Raises:
        NotInstalledError: pye57 is not installed.
        ValueError: The file is damaged, or holds no scan.
    """
    if isinstance(node, Path):
        return _read(node)
    with tempfile.NamedTemporaryFile(suffix=".e57") as copy:
        copy.write(node.read_bytes())
        copy.flush()
        return _read(Path(copy.name))


def _read(path: Path) -> Array:
    try:
        import pye57
    except ImportError:
        raise NotInstalledError(INSTALL) from None
    try:
        file = pye57.E57(str(path))
        try:
            if not file.scan_count:
                raise ValueError("it holds no scan")
            table = file.read_scan(0, ignore_missing_fields=True, transform=False)
        finally:
            file.close()
        axes = [np.asarray(table[f"cartesian{axis}"], np.float64) for axis in "XYZ"]
    except Exception as error:  # the library's own are no subclasses of each other
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    return np.stack(axes, axis=-1)
