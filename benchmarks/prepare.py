"""The time and memory to prepare and open cities, by their size; prints a markdown table.

Run: python benchmarks/prepare.py [DATA] [--work FOLDER] [--sizes KM2 ...]

DATA is the folder of real data (default: ../shared/data). Maps of up to 79 km2 are cut from the
north of Bayreuth, around its densest part; that of 316 km2 is made by ``big_city.py``. All are
GeoParquet. Each city is prepared and opened in processes of their own. Memory is the peak of what
no file backs, above that of the imports; reading the source is also measured by itself. Then random
windows of the map raster are read on one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from big_city import make_cells, make_map, tagged
from stamp import AnonymousPeak, head, row, stamp

from data_prep.city.folder import CitySettings, open_city, prepare_city
from data_prep.osm.footprints import OsmData, read_osm
from data_prep.osm.source import OsmSource

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

SOURCE = "cities/north-bayreuth.osm.gz"
"""The map below DATA that the others are made from."""

SIZES = (1, 3, 10, 79, 316)
"""Areas of the maps, km2."""

WINDOW = 128
"""Side of a window, pixels."""

WINDOWS = 10_000
"""Windows that are read in a round."""

ROUNDS = 3
"""Rounds, of which the fastest counts."""


def write_map(data: OsmData, km2: int, path: Path) -> None:
    """Write a map of about an area as GeoParquet."""
    west, south, east, north = data.bounds
    whole = (east - west) * (north - south) / 1e6
    if km2 > whole:
        table = make_map(data, make_cells(data, 0))
    else:
        middle = shapely.get_coordinates(shapely.centroid(data.buildings.geometry.to_numpy()))
        half = 0.5 * 1e3 * np.sqrt(min(km2, whole))
        centre = np.median(middle, axis=0)
        low = np.maximum(centre - half, (west, south))
        low = np.minimum(low, np.subtract((east, north), 2 * half).clip((west, south)))
        bounds = (*low.tolist(), *(low + 2 * half).tolist())
        part = replace(data, bounds=bounds if km2 < whole - 1 else data.bounds)
        inside = shapely.within(data.buildings.geometry.to_numpy(), shapely.box(*part.bounds))
        table = tagged(part, data.buildings.geometry.to_numpy()[inside])
    table.to_parquet(path, compression="zstd", index=False)


def prepare(source: Path, folder: Path) -> dict[str, float]:
    """Prepare one city in this process.

    Returns:
        ``wall`` and ``cpu`` (seconds), ``peak`` and ``read_peak`` (MB), ``read`` (seconds of CPU).
    """
    with AnonymousPeak() as reading:
        cpu = time.process_time()
        read_osm(OsmSource(path=source))
        read = time.process_time() - cpu
    wall, cpu = time.perf_counter(), time.process_time()
    with AnonymousPeak() as whole:
        prepare_city(OsmSource(path=source), folder, CitySettings(), force=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "peak": whole.mb, "read": read, "read_peak": reading.mb}


def use(folder: Path) -> dict[str, float]:
    """Open one city in this process, and read windows of it on one core.

    Returns:
        ``area`` (km2), ``open`` (seconds), ``peak`` (MB), ``rate`` (windows per second of CPU).
    """
    begun = time.perf_counter()
    with AnonymousPeak() as opening:
        city = open_city(folder)
        seconds = time.perf_counter() - begun
    raster, rng = city.raster, np.random.default_rng(0)
    rows = rng.integers(0, raster.height - WINDOW, WINDOWS).tolist()
    columns = rng.integers(0, raster.width - WINDOW, WINDOWS).tolist()
    rates = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for at in zip(rows, columns, strict=True):
            raster.window(*at, WINDOW, WINDOW)
        rates.append(WINDOWS / (time.process_time() - begun))
    return {"area": city.area_km2, "open": seconds, "peak": opening.mb, "rate": max(rates)}


def alone(*arguments: str) -> dict[str, float]:
    """What this script measures in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--prepare", type=Path, nargs=2, help="only this, as JSON")
    parser.add_argument("--use", type=Path, help="only this, as JSON")
    given = parser.parse_args()
    if given.prepare or given.use:
        print(json.dumps(prepare(*given.prepare) if given.prepare else use(given.use)))
        return
    print(stamp(), end="\n\n")
    head(
        *("km2", "prepare, s", "CPU s", "of it reading", "peak, MB", "of it reading", "MB per km2"),
        *("open, s", "MB", "windows per s"),
    )
    given.work.mkdir(parents=True, exist_ok=True)
    data = read_osm(OsmSource(path=given.data / SOURCE))
    for km2 in given.sizes:
        source, folder = given.work / f"map-{km2}.parquet", given.work / f"city-{km2}"
        write_map(data, km2, source)
        made, used = alone("--prepare", str(source), str(folder)), alone("--use", str(folder))
        row(
            f"{used['area']:.1f}",
            *(f"{made[key]:.1f}" for key in ("wall", "cpu", "read")),
            f"{made['peak']:.0f}",
            f"{made['read_peak']:.0f}",
            f"{made['peak'] / used['area']:.1f}",
            f"{used['open']:.2f}",
            f"{used['peak']:.0f}",
            f"{used['rate']:,.0f}",
        )


if __name__ == "__main__":
    main()
