"""What the points of a generic drive belong to: whose numbers those are, and where they lie.

Labels are in the clouds themselves (see ``pointfiles``), or in ``labels/<stem>.label`` beside
``clouds/``: a uint32 per point, its low 16 bits the class, as in SemanticKITTI. Their numbers are
those of KITTI-360 in PLY and PCD, of ASPRS in LAS, and of SemanticKITTI in labels/. A file
``labels.txt`` of one word names another table, or none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.sources.formats.common import file_names, read_records
from data_prep.sources.formats.pointfiles import Cloud
from data_prep.sources.storage.tree import Node

Labels = NDArray[np.int32]

_TABLE = re.compile(r"[A-Za-z0-9_-]{1,40}")
_NONE = "none"


@dataclass(frozen=True)
class CloudLabels:
    """Where the labels of a drive are, and whose numbers they are.

    Attributes:
        table: Name of the table; None where points have no labels, or they are not to be used.
        told: Whether labels.txt told, so that clouds need not agree; of one without labels, all
            points are 0.
        folder: The folder labels/; None where the labels are in the clouds.
        stems: Names, without suffix, of the clouds that labels/ has labels of.
    """

    table: str | None
    told: bool = False
    folder: Node | None = None
    stems: frozenset[str] = frozenset()

    def of(self, file: Node, cloud: Cloud) -> Labels | None:
        """(N,) labels of the cloud read from ``file``; None where it has none.

        Raises:
            MaptileError: The cloud has labels where others have none, or of another table, or
                not one for each point.
        """
        if self.table is None and self.told:
            return None
        nothing = np.zeros(len(cloud.points), np.int32)
        if self.folder is not None:
            if file.stem not in self.stems:
                return None
            return _read_labels(self.folder, f"{file.stem}.label", len(nothing))
        own = _table(file, cloud)
        # A cloud of LAS in which nothing is classified says just that.
        agrees = own == self.table or (own is None and self.table == "las" and _is_las(file))
        if not (agrees or self.told):
            raise MaptileError(
                f"{file}: some clouds of the drive have labels, others have none or those of "
                "another table; name one for all of them in labels.txt beside clouds/, or none"
            )
        if self.table is None:
            return None
        return nothing if cloud.label is None else cloud.label


def find_labels(
    path: Node, names: Sequence[str], samples: Sequence[tuple[Node, Cloud]], notes: list[str]
) -> CloudLabels:
    """Where the labels of a drive are.

    Args:
        path: The drive's folder.
        names: Names of the clouds' files.
        samples: Some of the files, with what was read from them.
        notes: Gets a line about what is missing.

    Raises:
        MaptileError: Labels are in two places or of two tables, or labels.txt is no word.
    """
    told = _told_table(path / "labels.txt")
    if told == _NONE:
        return CloudLabels(None, told=True)
    tables = {_table(file, cloud) for file, cloud in samples} - {None}
    folder = path / "labels"
    if folder.is_dir():
        stems = {Path(name).stem for name in file_names(folder) if name.endswith(".label")}
        known = frozenset(stems.intersection(Path(name).stem for name in names))
        if known and tables and told is None:
            raise MaptileError(
                f"{path}: the clouds have labels, and labels/ has some too; remove one, or name "
                "the table of those in labels/ in a file labels.txt"
            )
        if known:
            if len(known) < len(names):
                notes.append(
                    f"{len(names) - len(known)} clouds have no labels in labels/; labels are not "
                    "used where one of these is in the submap"
                )
            return CloudLabels(told or "semantickitti", told is not None, folder, known)
    if not tables:
        if told is not None:
            notes.append(f"labels.txt names {told}, but there are no labels")
        return CloudLabels(None)
    labels = CloudLabels(told or sorted(tables, key=str)[0], told is not None)
    for file, cloud in samples:
        labels.of(file, cloud)
    return labels


def _told_table(file: Node) -> str | None:
    """The word in labels.txt; None without the file."""
    if not file.is_file():
        return None
    try:
        word = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        word = ""
    if not _TABLE.fullmatch(word):
        raise MaptileError(f"{file}: expected one word, the name of a table of labels, or none")
    return word


def _read_labels(folder: Node, name: str, points: int) -> Labels:
    numbers = np.frombuffer(read_records(folder, name, 4), "<u4")
    if len(numbers) != points:
        raise MaptileError(
            f"{folder / name}: {len(numbers)} labels for the {points} points of its cloud; copy "
            "both from one place"
        )
    return (numbers & 0xFFFF).astype(np.int32)


def _table(file: Node, cloud: Cloud) -> str | None:
    """Whose numbers a cloud's own labels are."""
    if cloud.label is None:
        return None
    return "las" if _is_las(file) else "kitti360"


def _is_las(file: Node) -> bool:
    return file.suffix.lower() in (".las", ".laz")
