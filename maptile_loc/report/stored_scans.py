"""The poses per scan of a result as a file, read back bit for bit."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from data_prep.errors import MaptileError
from maptile_loc.types import ScanPoses

SCANS_FILE = "scans.npz"
"""Name of the file in a result's folder."""

SHAPES = {
    "frame": (np.int64, ()),
    "t_ns": (np.int64, ()),
    "poses": (np.float64, (3,)),
    "covariance": (np.float64, (6,)),
    "score": (np.float64, ()),
    "localized": (np.bool_, ()),
    "protection_m": (np.float64, ()),
    "reason": (np.uint8, ()),
    "query": (np.int32, ()),
}
"""Type and shape of each array's rows; of covariances the upper triangle, of reasons the number."""


def write_scans(dense: ScanPoses, path: Path) -> None:
    """Write the poses of S scans, about 100 bytes per scan."""
    names, number = np.unique(dense.reason, return_inverse=True)
    upper = np.triu_indices(3)
    arrays = {name: getattr(dense, name) for name in SHAPES}
    arrays |= {"reason": number.astype(np.uint8), "covariance": dense.covariance[:, *upper]}
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, reasons=names, **arrays)


def read_scans(path: Path, queries: int) -> ScanPoses:
    """Read what ``write_scans`` wrote.

    Args:
        path: The file.
        queries: Number of queries of the result.

    Raises:
        MaptileError: The file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in SHAPES}
            names = stored["reasons"].astype(np.str_)
        count = len(columns["frame"])
        for name, (kind, row) in SHAPES.items():
            if (columns[name].dtype, columns[name].shape) != (kind, (count, *row)):
                raise ValueError(f"{name} of shape {columns[name].shape}")
        if count and columns["query"].max() >= queries:
            raise ValueError(f"a query beyond the {queries} of the result")
        covariance = np.empty((count, 3, 3))
        i, j = np.triu_indices(3)
        covariance[:, i, j] = covariance[:, j, i] = columns["covariance"]
        reason = names[columns["reason"]] if count else np.zeros(0, np.str_)
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise MaptileError(f"{path}: damaged or missing ({error}); localize again") from None
    return ScanPoses(**columns | {"covariance": covariance, "reason": reason})
