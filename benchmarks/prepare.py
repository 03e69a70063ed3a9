"""The time and memory to prepare a city, and to read windows of its map; prints a markdown table.

Run: python benchmarks/prepare.py [DATA]

DATA is the folder of real data (default: ../shared/data). Each city is prepared in a process of its
own, whose peak memory is reported. Then random windows of the map raster are read on one core.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stamp import peak_mb, stamp

CITIES = ("oxford/oxford.osm", "cities/north-bayreuth.osm.gz")
"""OpenStreetMap files below DATA."""

WINDOW = 128
"""Side of a window, pixels."""

WINDOWS = 50_000
"""Windows that are read in a round."""

ROUNDS = 5
"""Rounds, of which the fastest counts."""


def prepare(source: Path) -> dict[str, float]:
    """Prepare one city in this process, then read windows of it on one core.

    Returns:
        ``area`` (km2), ``wall``, ``cpu`` and ``open`` (seconds), ``peak`` (GB), ``rate`` (windows
        per second).
    """
    import numpy as np

    from data_prep.city.folder import CitySettings, open_city, prepare_city
    from data_prep.osm.source import OsmSource

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "city"
        wall, cpu = time.perf_counter(), time.process_time()
        city = prepare_city(OsmSource(path=source), folder, CitySettings())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = peak_mb() / 1e3
        area = city.raster.area_km2
        del city
        opened = time.perf_counter()
        raster = open_city(folder).raster
        opened = time.perf_counter() - opened
    rng = np.random.default_rng(0)
    rows = rng.integers(0, raster.height - WINDOW, WINDOWS).tolist()
    columns = rng.integers(0, raster.width - WINDOW, WINDOWS).tolist()
    batch = np.empty((256, 3, WINDOW, WINDOW), np.uint8)
    rates = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
            batch[index % 256] = raster.window(row, column, WINDOW, WINDOW)
        rates.append(WINDOWS / (time.process_time() - began))
    rate = max(rates)
    return {
        "area": area,
        "wall": wall,
        "cpu": cpu,
        "peak": peak,
        "open": opened,
        "rate": rate,
    }


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(prepare(Path(sys.argv[2]))))
        return
    root = Path(__file__).parent.parent
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else root.parent / "shared" / "data"
    print(stamp(), end="\n\n")
    print("| city | km2 | prepare, s (wall) | s (CPU) | peak, GB | open, s | 128x128x3 windows/s |")
    print("|---|---|---|---|---|---|---|")
    for city in CITIES:
        # In one process, the peak would be that of the largest city.
        run = subprocess.run(
            [sys.executable, __file__, "--one", str(data / city)],
            capture_output=True,
            text=True,
            check=True,
        )
        cost = json.loads(run.stdout)
        print(
            f"| {Path(city).name} | {cost['area']:.1f} | {cost['wall']:.2f} | {cost['cpu']:.2f} | "
            f"{cost['peak']:.2f} | {cost['open']:.2f} | {cost['rate']:,.0f} |"
        )


if __name__ == "__main__":
    main()
