"""Broken maps of every kind: an answer or one line, in little time and memory.

The campaign: MAPTILE_FUZZ_CASES=10000 python -m pytest tests/test_fuzz_maps.py
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import broken_maps
import hypothesis
import numpy as np
import pytest
import shapely
from hypothesis import strategies as st

from data_prep.errors import MaptileError
from data_prep.osm.footprints import read_osm
from data_prep.osm.source import OsmSource

CASES = int(os.environ.get("MAPTILE_FUZZ_CASES", "12"))
"""Files of each kind that are tried."""
SEED = int(os.environ.get("MAPTILE_FUZZ_SEED", "0"))
"""Seed of the files."""
SECONDS = 10.0
"""Longest time for a file."""
MEMORY_KB = 1 << 20
"""Most memory for a file, kilobytes."""
OWN_FAULTS = (TypeError, AttributeError, NameError, KeyError, IndexError, AssertionError)
"""Errors of a program rather than of a file."""

KINDS: dict[str, Callable[[Path], st.SearchStrategy[Any]]] = {
    "xml": broken_maps.xml_files,
    "overpass": broken_maps.overpass_files,
    "pbf": broken_maps.pbf_files,
    "geojson": broken_maps.geojson_files,
    "tables": broken_maps.table_files,
}


def survives(path: Path) -> None:
    """Check what becomes of a file."""
    begin, memory = time.monotonic(), peak_kb()
    try:
        data = read_osm(OsmSource(path=path))
    except MaptileError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
        assert not isinstance(error.__cause__, OWN_FAULTS), repr(error.__cause__)
    else:
        for table in (data.buildings, data.roads, data.squares):
            assert np.isfinite(shapely.bounds(table.geometry.to_numpy())).all()
        assert (data.buildings.area > 0).all()
        assert data.buildings.is_valid.all()
        assert set(data.buildings.geom_type) <= {"Polygon", "MultiPolygon"}
        assert set(data.roads.geom_type) <= {"LineString"}
        assert np.isfinite(data.bounds).all()
    assert time.monotonic() - begin < SECONDS
    assert peak_kb() - memory < MEMORY_KB


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_broken_maps_are_read_or_refused_in_one_line(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(kind)

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(KINDS[kind](folder))
    def check(path: Path | None) -> None:
        if path is not None:
            survives(path)

    check()
