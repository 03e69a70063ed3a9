"""Point labels of a generic drive: their files, and the table that defines their numbers.

Labels are in the clouds themselves (see ``pointfiles``), or in ``labels/<stem>.label`` beside
``clouds/``: a uint32 per point, its low 16 bits the class, as in SemanticKITTI. The default table
is that of KITTI-360 for PLY and PCD, of ASPRS for LAS, and of SemanticKITTI for labels/. A file
``labels.txt`` of one word names another table, or "none" to ignore labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.counted import counted
from data_prep.errors import MaptileError
from data_prep.sources.formats.common import file_names, read_records
from data_prep.sources.points.pointfiles import Cloud
from data_prep.sources.points.thinning import kept
from data_prep.sources.storage.tree import Node, read_node_text

Labels = NDArray[np.int32]
"""(N,) class number of each point."""

_TABLE = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""Name of a table in labels.txt."""

_NONE = "none"
"""Word in labels.txt for labels that are to be ignored."""


@dataclass(frozen=True)
class CloudLabels:
    """The source and the table of a drive's labels.

    Attributes:
        table: Name of the table; None where points have no labels, or labels are ignored.
        declared: Whether labels.txt names the table. Clouds then need not agree, and the points of
            a cloud without labels are all 0.
        folder: The folder labels/; None where the labels are in the clouds.
        stems: Names, without suffix, of the clouds that have a file in labels/.
    """

    table: str | None
    declared: bool = False
    folder: Node | None = None
    stems: frozenset[str] = frozenset()

    def of(self, file: Node, cloud: Cloud) -> Labels | None:
        """Return (N,) labels of the cloud read from ``file``; None where it has none.

        Raises:
            MaptileError: The cloud has labels where others have none, or of another table, or
                not one for each point.
        """
        if self.table is None and self.declared:
            return None
        nothing = np.zeros(len(cloud.points), np.int32)
        if self.folder is not None:
            if file.stem not in self.stems:
                return None
            return _read_labels(self.folder, f"{file.stem}.label", cloud.count or len(nothing))
        own = _table(file, cloud)
        # A LAS cloud without classified points is consistent with LAS labels.
        agrees = own == self.table or (own is None and self.table == "las" and _is_las(file))
        if not (agrees or self.declared):
            raise MaptileError(
                f"{file}: some clouds of the drive have labels, others have none or those of "
                "another table; write the name of one table, or none, to labels.txt beside clouds/"
            )
        if self.table is None:
            return None
        return nothing if cloud.label is None else cloud.label


def find_labels(
    path: Node, names: Sequence[str], samples: Sequence[tuple[Node, Cloud]], notes: list[str]
) -> CloudLabels:
    """Return the source and the table of a drive's labels.

    Args:
        path: The drive's folder.
        names: File names of the clouds.
        samples: Some of the clouds, with their files.
        notes: A line about missing labels is appended.

    Raises:
        MaptileError: There are labels both in the clouds and in labels/, or of several tables, or
            labels.txt is not one word.
    """
    declared = _declared_table(path / "labels.txt")
    if declared == _NONE:
        return CloudLabels(None, declared=True)
    tables = {_table(file, cloud) for file, cloud in samples} - {None}
    known = _labelled_stems(path / "labels", names)
    if known and tables and declared is None:
        raise MaptileError(
            f"{path}: there are labels both in the clouds and in labels/; remove one, or write the "
            "name of the table of those in labels/ to a file labels.txt"
        )
    if known:
        if len(known) < len(names):
            notes.append(
                f"{counted(len(names) - len(known), 'cloud')} without labels in labels/; a submap "
                "with one of these clouds does not use labels"
            )
        return CloudLabels(
            declared or "semantickitti", declared is not None, path / "labels", known
        )
    if not tables:
        if declared is not None:
            notes.append(f"labels.txt names {declared}, but there are no labels")
        return CloudLabels(None)
    labels = CloudLabels(declared or sorted(tables, key=str)[0], declared is not None)
    for file, cloud in samples:
        labels.of(file, cloud)
    return labels


def _labelled_stems(folder: Node, names: Sequence[str]) -> frozenset[str]:
    """Stems of the clouds ``names`` that have a file in labels/."""
    if not folder.is_dir():
        return frozenset()
    stems = {Path(name).stem for name in file_names(folder) if name.endswith(".label")}
    return frozenset(stems.intersection(Path(name).stem for name in names))


def _declared_table(file: Node) -> str | None:
    """The word in labels.txt; None where there is no such file."""
    if not file.is_file():
        return None
    try:
        word = read_node_text(file, "ascii").strip()
    except (OSError, ValueError):
        word = ""
    if not _TABLE.fullmatch(word):
        raise MaptileError(f"{file}: expected one word: the name of a table of labels, or none")
    return word


def _read_labels(folder: Node, name: str, points: int) -> Labels:
    numbers = np.frombuffer(read_records(folder, name, 4), "<u4")
    if len(numbers) != points:
        raise MaptileError(
            f"{folder / name}: {len(numbers)} labels for the {points} points of its cloud; copy "
            "both from the same source"
        )
    chosen = kept(points)
    return ((numbers if chosen is None else numbers[chosen]) & 0xFFFF).astype(np.int32)


def _table(file: Node, cloud: Cloud) -> str | None:
    """The default table of the labels in a cloud; None where it has none."""
    if cloud.label is None:
        return None
    return "las" if _is_las(file) else "kitti360"


def _is_las(file: Node) -> bool:
    return file.suffix.lower() in (".las", ".laz")
