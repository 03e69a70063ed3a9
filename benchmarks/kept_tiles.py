"""Query tiles that are kept in a folder, so that a repeated benchmark need not make them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import atomic_file
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.types import Queries, QueryTile


@dataclass
class KeptTiles:
    """A ``TileCache``: one file per query, written when its tile is first asked for.

    Attributes:
        folder: The files.
        spent: Seconds that each query's tile took in this process, to read or to make.
    """

    folder: Path
    spent: dict[int, float] = field(default_factory=dict)

    def tile(self, query: int, make: Callable[[], QueryTile | None]) -> QueryTile | None:
        """The kept tile of a query; if there is none, the one that ``make`` returns."""
        begun, file = time.perf_counter(), self.folder / f"{query}.npz"
        tile = read_tile(file) if file.exists() else make()
        self.spent[query] = time.perf_counter() - begun
        if tile is not None and not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(file) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, **asdict(tile), seconds=self.spent[query])
        return tile

    def seconds(self) -> float:
        """Median seconds that the kept tiles took when they were made."""
        times = []
        for file in self.folder.glob("*.npz"):
            with np.load(file, allow_pickle=False) as kept:
                times.append(float(kept["seconds"]))
        return float(np.median(times)) if times else np.nan


def read_tile(file: Path) -> QueryTile:
    """The tile in a file of ``KeptTiles``."""
    with np.load(file, allow_pickle=False) as kept:
        parts: dict[str, Any] = {name: kept[name] for name in kept.files if name != "seconds"}
    return QueryTile(**parts | {name: float(parts[name]) for name in ("resolution", "rotation")})


def tile_folder(work: Path, city: Path, drive: Path, queries: Queries, s: LocalizeSettings) -> Path:
    """The folder of a drive's tiles: its name follows from the settings that make them.

    It does not follow from the code: ``--again`` makes the tiles anew, too.
    """
    made_of = f"{city} {drive} {queries} {s.submap.model_dump_json()} {s.query.model_dump_json()}"
    return work / "tiles" / hashlib.sha256(made_of.encode()).hexdigest()[:16]
