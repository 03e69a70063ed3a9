"""Tables of a city as GeoParquet files."""

from __future__ import annotations

import io
from pathlib import Path

import geopandas as gpd
from pyarrow import parquet

from data_prep.city.raster import ATTRIBUTION
from data_prep.errors import MaptileError
from data_prep.regular import check_regular


def write_table(path: Path, table: gpd.GeoDataFrame) -> None:
    """Write a table as GeoParquet, with its licence in the file's metadata."""
    content = io.BytesIO()
    table.to_parquet(content, compression=None, index=False)
    arrow = parquet.read_table(content)
    facts = {**arrow.schema.metadata, b"attribution": ATTRIBUTION.encode()}
    parquet.write_table(arrow.replace_schema_metadata(facts), path, compression="zstd")


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
