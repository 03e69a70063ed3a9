"""Compare simulated LMS-151 and HDL-32E scans with real ones, beam by beam; prints two tables.

Run: python benchmarks/realism_beams.py [DATA] [--worlds NUMBER] [--set KEY=VALUE ...]

DATA is the folder of real data (default: ../shared/data). The HDL-32E scans of Radar RobotCar are
compared with scans simulated at the same poses on the same map. The LMS-151 scans of RobotCar were
made outside all maps at hand; they are compared with scans along routes through Oxford, so that
only what does not depend on the street can agree. ``--set`` changes the recipe
configs/simulate.yaml. Figures are means over scans, in brackets the middle 80 % of the scans.

A beam's neighbours are the two beside it in the same plane or ring. "Off the chord" is a point's
distance from the line through its neighbours, where neither step is larger than STEP_M: millimetres
on walls and roads, centimetres in plants. A straight point is less than STRAIGHT_M off, as are the
RUN points around it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from doubt_real import matched_truth
from inputs import city as prepared
from scipy.ndimage import minimum_filter1d
from stamp import head, row, stamp

from data_prep.city.folder import open_city
from data_prep.geometry import Array
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_drive, trajectory_from_route
from data_prep.sources import open_drive
from maptile_loc.config import load_settings

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

LMS = Path("robotcar_lms/2014-12-12-10-45-15/lms_rear")
"""The real scans of the LMS-151 in the data folder."""

RADAR = Path("radar_robotcar")
"""The folder of Radar RobotCar in the data folder."""

HDL32 = RADAR / "2019-01-10-14-36-48-radar-oxford-10k-partial"
"""The drive with the real scans of the HDL-32E."""

LMS_STEP_DEG = 0.5
"""Angle between two beams of an LMS-151, degrees."""

REAL_FIRINGS = 1082
"""Firings of the real HDL-32E in a revolution, by its angles; it turns 20 times a second."""

SIMULATED_FIRINGS = 2170
"""Firings of the simulated one, which turns 10 times a second."""

STEP_M = 0.5
"""Largest step of range between neighbours on one surface, metres."""

STRAIGHT_M = 0.03
"""Largest distance of a straight point from its neighbours' chord, metres."""

RUN = 11
"""Number of points that are straight around a straight point."""

SCANS = 60
"""Scans that are compared, evenly spaced."""

ROUTE_M = 150.0
"""Length of each simulated route, metres."""

JUMPS_M = (0.5, 2.0)
"""Steps of range between neighbours that are counted, metres."""

NEAR_M = 30.0
"""Range of the statistics of neighbours, metres."""


def lms_beams(file: Path) -> Array:
    """(1, 541, 2) points of a scan, metres, in its plane; NaN without a return."""
    points = np.fromfile(file, "<f8").reshape(-1, 3)[:, :2]
    points = points[points.any(axis=1)]
    angle = np.degrees(np.arctan2(points[:, 1], points[:, 0]))
    grid = np.full((1, round(270 / LMS_STEP_DEG) + 1, 2), np.nan)
    grid[0, np.round((angle + 135) / LMS_STEP_DEG).astype(int) % grid.shape[1]] = points
    return grid


def hdl32_beams(file: Path, firings: int, every: int = 1) -> Array:
    """(32, F, 2) points of each beam on the ground plane, metres; NaN without a return.

    Args:
        file: The scan.
        firings: Firings in a revolution.
        every: 2 keeps every other firing.
    """
    points = np.fromfile(file, "<f4").reshape(4, -1)[:3].T.astype(np.float64)
    points = points[points.any(axis=1)]
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    ring = np.round(31 * (elevation - elevation.min()) / np.ptp(elevation)).astype(int)
    turned = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi)
    grid = np.full((32, firings, 2), np.nan)
    grid[ring, np.floor(turned * firings).astype(int) % firings] = points[:, :2]
    return grid[:, ::every]


def statistics(beams: Array) -> dict[str, float]:
    """All statistics of a scan, by name.

    Args:
        beams: (R, B, 2) points of R planes or rings, metres; NaN without a return.
    """
    distance = np.linalg.norm(beams, axis=-1)
    seen = np.isfinite(distance)
    result = {"beams with a return, %": 100 * float(seen.mean())}
    for q in (10, 50, 90):
        result[f"range, {q} % quantile, m"] = float(np.percentile(distance[seen], q))
    step = np.abs(np.diff(distance, axis=1))
    near = np.isfinite(step) & (np.minimum(distance[:, 1:], distance[:, :-1]) < NEAR_M)
    for jump in JUMPS_M:
        result[f"steps above {jump:g} m, %"] = 100 * float((step[near] > jump).mean())
    gone = seen[:, 1:] != seen[:, :-1]
    result["returns that begin or end, % of the beams"] = 100 * float(gone.mean())
    off = off_the_chord(beams)
    joined = near[:, 1:] & near[:, :-1] & (step[:, 1:] < STEP_M) & (step[:, :-1] < STEP_M)
    values = off[joined]
    result["off the chord, median, mm"] = 1000 * float(np.median(values))
    result["off the chord, 90 % quantile, mm"] = 1000 * float(np.percentile(values, 90))
    straight = minimum_filter1d((joined & (off < STRAIGHT_M)).astype(np.uint8), RUN, axis=1)
    reached = distance[:, 1:-1] < NEAR_M
    result["straight points, %"] = 100 * float(straight[reached].mean())
    return result


def off_the_chord(beams: Array) -> Array:
    """(R, B - 2) distance of each inner point from the line through its neighbours, metres."""
    chord = beams[:, 2:] - beams[:, :-2]
    to = beams[:, 1:-1] - beams[:, :-2]
    length = np.maximum(np.linalg.norm(chord, axis=-1), 1e-9)
    return np.asarray(np.abs(chord[..., 0] * to[..., 1] - chord[..., 1] * to[..., 0]) / length)


def compare(name: str, real: list[dict[str, float]], made: list[dict[str, float]]) -> None:
    """Print the statistics of the real and of the simulated scans of one sensor."""
    print()
    head(name, "real", "simulated")
    for key in real[0]:
        row(key, *(spread(np.array([scan[key] for scan in scans])) for scans in (real, made)))


def of_all(files: list[Path], read: Callable[[Path], Array]) -> list[dict[str, float]]:
    """The statistics of ``SCANS`` scans, evenly spaced."""
    return [statistics(read(files[k])) for k in np.linspace(0, len(files) - 1, SCANS).astype(int)]


def spread(values: Array) -> str:
    """The mean, and the middle 80 %, in words."""
    low, high = np.percentile(values, (10, 90))
    return f"{values.mean():.3g} ({low:.3g} to {high:.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--worlds", type=int, default=3, help="number of worlds and routes")
    parser.add_argument("--set", action="append", default=[], help="as for maptile simulate")
    given = parser.parse_args()
    drive = open_drive(given.data / RADAR)
    drive = replace(drive, truth=matched_truth(given.data / RADAR / "poses_mapmatched.csv"))
    files: dict[str, list[Path]] = {"hdl32": [], "robotcar": []}
    with tempfile.TemporaryDirectory() as work:
        city = open_city(prepared(given.data / "oxford" / "oxford.osm", Path(work) / "oxford"))
        for seed in range(given.worlds):
            recipe = [f"seed={seed}", "every_m=1", *given.set]
            made = load_settings(SimulateSettings, "simulate", recipe)
            paths = {
                "hdl32": trajectory_from_drive(drive, city),
                "robotcar": trajectory_from_route(city, ROUTE_M, seed),
            }
            for sensor, path in paths.items():
                folder = Path(work) / f"{sensor}{seed}"
                simulate(city, path, folder, sensor, made)
                scans = folder / {"hdl32": "velodyne_left", "robotcar": "lms_rear"}[sensor]
                files[sensor] += sorted(scans.glob("*.bin"))
        print(stamp())
        real = sorted((given.data / HDL32 / "velodyne_left").glob("*.bin"))
        compare(
            "HDL-32E",
            of_all(real, partial(hdl32_beams, firings=REAL_FIRINGS)),
            of_all(files["hdl32"], partial(hdl32_beams, firings=SIMULATED_FIRINGS, every=2)),
        )
        real = sorted((given.data / LMS).glob("*.bin"))
        compare("LMS-151", of_all(real, lms_beams), of_all(files["robotcar"], lms_beams))


if __name__ == "__main__":
    main()
