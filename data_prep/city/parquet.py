"""Tables of a city as GeoParquet files."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd

from data_prep.city.raster import ATTRIBUTION
from data_prep.errors import MaptileError
from data_prep.regular import check_regular


def write_table(path: Path, table: gpd.GeoDataFrame) -> None:
    """Write a table as GeoParquet."""
    table.attrs["attribution"] = ATTRIBUTION
    table.to_parquet(path, compression="zstd", index=False)


def read_table(path: Path) -> gpd.GeoDataFrame:
    """Read a GeoParquet file.

    Raises:
        MaptileError: The file is missing or damaged.
    """
    try:
        check_regular(path)
        return gpd.read_parquet(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise MaptileError(
            f"{path}: not readable as GeoParquet: {reason}; prepare the city again: "
            f"maptile prepare SOURCE {path.parent}"
        ) from error
