"""Packets of Ouster's LiDARs, decoded by its SDK (ouster-sdk).

The SDK asks for an old version of rosbags, so it is no extra: no installer could fulfil both. It
works with the newer one, and is installed without its requirements.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import MaptileError
from data_prep.sources.packets.spool import Decoded

REMEDY = "pip install --no-deps ouster-sdk"
"""How the SDK is installed beside this package's version of rosbags."""
KEYS = ("beam_altitude_angles", "beam_intrinsics", "lidar_intrinsics")
"""Names in a sensor's metadata, of old and of new firmware."""
MAX_JSON_BYTES = 1 << 22
"""Largest file of metadata."""


def decode(path: Path, metadata: Path | None) -> Iterator[Decoded]:
    """Yield the scans in a .pcap file, or in a bag of packets.

    Args:
        path: The file.
        metadata: The sensor's own description; None for a bag, which contains it.

    Raises:
        MaptileError: The SDK is not installed.
    """
    try:
        from ouster.sdk import core, open_source
    except ImportError:
        raise MaptileError(f"{path}: packets of an Ouster; to read them: {REMEDY}") from None
    given = {} if metadata is None else {"meta": [str(metadata)]}
    source = open_source(str(path), **given)
    tables: dict[int, Any] = {}
    try:
        for together in source:
            for k, frame in enumerate(together):
                if frame is None:
                    continue
                if k not in tables:
                    tables[k] = core.XYZLut(frame.sensor_info)
                yield _decoded(frame, tables[k], core.ChanField.RANGE)
    finally:
        source.close()


def find_metadata(path: Path) -> Path | None:
    """Return the metadata that belongs to a .pcap: of its name, or the only one beside it."""
    own = path.with_suffix(".json")
    if own.is_file():
        return own
    found = [file for file in sorted(path.parent.glob("*.json")) if _is_metadata(file)]
    return found[0] if len(found) == 1 else None


def _is_metadata(file: Path) -> bool:
    if not file.is_file() or file.stat().st_size > MAX_JSON_BYTES:
        return False
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and any(key in content for key in KEYS)


def _decoded(frame: Any, table: Any, field: Any) -> Decoded:
    """The points of a frame; columns that did not arrive have no time and no points."""
    column_ns = np.asarray(frame.timestamp).astype(np.int64)
    arrived = column_ns > 0
    seen = (frame.field(field) > 0) & arrived
    xyz = np.asarray(table(frame))[seen]
    start = int(column_ns[arrived].min()) if arrived.any() else 0
    seconds = np.broadcast_to((column_ns - start) * 1e-9, seen.shape)[seen]
    return Decoded(start, xyz, seconds)
