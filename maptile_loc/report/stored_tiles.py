"""The small tiles of a result, as arrays of ``queries.npz``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maptile_loc.small_tiles import SmallTiles

PREFIX = "small_"
"""Start of the arrays' names; the rest is the attribute's."""


def small_tile_arrays(tiles: SmallTiles | None) -> dict[str, NDArray[Any]]:
    """Return the arrays that ``read_small_tiles`` reads; none where there are no tiles."""
    if tiles is None:
        return {}
    return {f"{PREFIX}{name}": np.asarray(value) for name, value in vars(tiles).items()}


def read_small_tiles(arrays: Mapping[str, NDArray[Any]], queries: int) -> SmallTiles | None:
    """Return the small tiles that are among ``arrays``; None where there are none.

    Args:
        arrays: Content of ``queries.npz``.
        queries: Number of the result's queries.

    Raises:
        ValueError: The arrays do not fit each other or the queries.
        KeyError: One of them is missing.
    """
    if f"{PREFIX}query" not in arrays:
        return None
    query, codes, rotation, side_m = (
        arrays[f"{PREFIX}{name}"] for name in ("query", "codes", "rotation", "side_m")
    )
    count = len(query)
    fits = codes.ndim == 3 and codes.shape == (count, codes.shape[1], codes.shape[1])
    if not (fits and rotation.shape == (count,) and codes.dtype == np.uint8):
        raise ValueError(f"small tiles of shape {codes.shape} for {count} queries")
    if count and (query.min() < 0 or query.max() >= queries):
        raise ValueError(f"small tiles of query {query.max()}, of {queries}")
    return SmallTiles(
        query.astype(np.int64), codes, rotation.astype(np.float64), float(side_m.item())
    )
