"""Positions of a GNSS receiver, simulated from the truth of a drive, with errors of their own.

Run: python benchmarks/degraded.py DRIVE FILE [--kind KIND] [--seed SEED]

FILE is a gnss.csv: t_ns, latitude, longitude, std_m. All kinds but "anywhere" have noise (1.5 m,
white) and an error that moves slowly (2 m, 40 s); the receiver states 2 m, whatever its error is.

good: nothing else. outliers: 30 % of the samples are 50 m off, each in a direction of its own.
outage: nothing for 60 seconds in the middle. bias: 20 m in one direction. all: these three.
spoofed: 20 m in one direction, from 40 % to 70 % of the drive. dragged: the same, but the 20 m are
reached at 1 m/s. anywhere: a position 300 m off that moves as the vehicle does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from data_prep.drive import GnssTrack, TruthTrack
from data_prep.files import write_text
from data_prep.geometry import Array
from data_prep.simulate.navigation import correlated
from data_prep.sources import open_drive

KINDS = ("good", "outliers", "outage", "bias", "all", "spoofed", "dragged", "anywhere")
"""Kinds of errors."""

RATE_HZ = 5.0
"""Samples per second."""

NOISE_M, WANDER_M, WANDER_S, STATED_M = 1.5, 2.0, 40.0, 2.0
OUTLIER_SHARE, OUTLIER_M, OUTAGE_S, BIAS_M, SPOOFED_M, FAR_M = 0.3, 50.0, 60.0, 20.0, 20.0, 300.0
SPOOFED = 0.4, 0.7
"""Parts of a drive's time between which it is spoofed."""

METRES_PER_DEGREE = 111_320.0
"""Length of a degree of latitude, metres."""


def degraded(truth: TruthTrack, kind: str, seed: int, rate_hz: float = RATE_HZ) -> GnssTrack:
    """The positions of a receiver with errors of one of ``KINDS``."""
    rng = np.random.default_rng([seed, *kind.encode()])
    t_ns = np.arange(truth.t_ns[0], truth.t_ns[-1], round(1e9 / rate_hz))
    latitude, longitude, _ = truth.at(t_ns)
    seconds = (t_ns - t_ns[0]) / 1e9
    error = NOISE_M * rng.normal(size=(len(t_ns), 2))
    error += WANDER_M * correlated(seconds, WANDER_S, 2, rng)
    if kind in ("outliers", "all"):
        out = rng.random(len(t_ns)) < OUTLIER_SHARE
        error[out] += OUTLIER_M * _directions(rng, int(out.sum()))
    if kind in ("bias", "all"):
        error += BIAS_M * _directions(rng, 1)
    if kind in ("spoofed", "dragged"):
        begin, end = np.array(SPOOFED) * seconds[-1]
        spoofed = (seconds >= begin) & (seconds < end)
        metres = np.full(len(t_ns), SPOOFED_M)
        if kind == "dragged":
            metres = np.clip(seconds - begin, 0, SPOOFED_M)
        error[spoofed] += metres[spoofed, None] * _directions(rng, 1)
    if kind == "anywhere":
        error += FAR_M * _directions(rng, 1)
    kept = np.isfinite(latitude)
    if kind in ("outage", "all"):
        kept &= np.abs(seconds - seconds[-1] / 2) > OUTAGE_S / 2
    east = METRES_PER_DEGREE * np.cos(np.radians(latitude))
    return GnssTrack(
        t_ns[kept],
        (latitude + error[:, 1] / METRES_PER_DEGREE)[kept],
        (longitude + error[:, 0] / east)[kept],
        np.full(int(kept.sum()), STATED_M),
    )


def spoofed_ns(truth: TruthTrack) -> tuple[int, int]:
    """Times at which the kinds "spoofed" and "dragged" begin and end to be so, nanoseconds."""
    begin, end = (round(part * int(np.ptp(truth.t_ns))) for part in SPOOFED)
    return int(truth.t_ns[0]) + begin, int(truth.t_ns[0]) + end


def _directions(rng: np.random.Generator, count: int) -> Array:
    """(N, 2) unit vectors."""
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("drive", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="good")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    truth = open_drive(given.drive).truth
    assert truth is not None, "the drive has no truth"
    track = degraded(truth, given.kind, given.seed)
    columns = track.t_ns.tolist(), track.latitude, track.longitude, track.std_m
    rows = [f"{t},{a:.9f},{o:.9f},{s:g}" for t, a, o, s in zip(*columns, strict=True)]
    write_text(given.file, "\n".join(["t_ns,latitude,longitude,std_m", *rows]) + "\n")


if __name__ == "__main__":
    main()
