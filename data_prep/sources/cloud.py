"""One point cloud: a .ply, .pcd, .bin, .las, .laz or .e57 file in the sensor's frame."""

from __future__ import annotations

from bisect import bisect
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.sources import Source
from data_prep.sources.clouds import SENSORS, SUFFIXES, TURNED, CloudScans, check_near
from data_prep.sources.formats.cloud_labels import find_labels
from data_prep.sources.points.bin_layout import Layout
from data_prep.sources.points.pointfiles import layout_of_files, read_cloud, said_of_thinning
from data_prep.sources.storage.tree import Node

_NEIGHBOURS = 2
"""Files before and after a .bin, in the order of their names, that help to find its layout."""


def is_cloud(path: Node) -> bool:
    """Return whether ``path`` is a file with a point cloud."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def open_cloud(path: Node, columns: tuple[str, ...] | None = None) -> Drive:
    """Open a drive of one scan.

    Args:
        path: The file; x forward, y left, z up, from the sensor.
        columns: Names of the columns of a .bin; None: by its contents, or its neighbours'.

    Raises:
        MaptileError: The file is damaged, or its points are in a map's frame.
    """
    if not isinstance(path, Path):
        raise MaptileError(f"{path}: unpack the archive; one cloud is read from a file")
    path = path.resolve()
    layout = _layout(path, columns) if path.suffix.lower() == ".bin" else None
    cloud = read_cloud(path, 0, layout)
    check_near(path, cloud)
    notes: list[str] = []
    labels = find_labels(path.parent, (path.name,), [(path, cloud)], notes)
    turned = layout is not None and layout.blocks
    zero = np.zeros(1, np.int64)
    scans = CloudScans(path.parent, (path.name,), zero, labels, layout=layout, turned=turned)
    notes += said_of_thinning(cloud)
    notes += [TURNED] if turned else []
    notes.append("one cloud: its pose is found by itself")
    drive = Drive(path.stem, "cloud", scans, None, None, None, tuple(notes), labels.table)
    return replace(drive, apart=True)


def _layout(path: Path, columns: tuple[str, ...] | None) -> Layout:
    """The layout of a .bin by its contents; where they do not show it, by its neighbours', too."""
    try:
        return layout_of_files([path], columns)
    except MaptileError:
        others = sorted(one for one in path.parent.glob("*.bin") if one.is_file() and one != path)
        after = bisect(others, path)
        near = others[max(0, after - _NEIGHBOURS) : after + _NEIGHBOURS]
        if not near:
            raise
        return layout_of_files([path, *near], columns)


SOURCE = Source(
    looked_for="one point cloud (.ply, .pcd, .bin, .las, .laz or .e57)",
    recognises=is_cloud,
    open=lambda path, _: open_cloud(path),
    open_columns=open_cloud,
    priority=90,
    sensors=SENSORS,
    suffixes=SUFFIXES,
)
