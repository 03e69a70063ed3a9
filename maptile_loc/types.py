"""What travels between the steps of the pipeline, from query tile to trajectory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.geometry import Array

STAGES = ("coarse", "aligned", "fused", "smoothed")
"""Best coarse candidate, the same aligned, the causal filter, the smoother over the whole drive."""


@dataclass(frozen=True)
class QueryTile:
    """What the vehicle saw around it, from above: the look of a map tile.

    Row 0 is the tile's +y side; the reference frame's origin is the tile's centre. Where the
    heading is known the tile is north-up: its axes are the map's east and north.

    Attributes:
        wall: (S, S) float32, 0..1, evidence of a building wall.
        ground: (S, S) float32, 0..1, ground seen (road or other open ground).
        observed: (S, S) float32, 0..1, seen at all: hit, or crossed by a ray. Unobserved is not
            empty.
        resolution: Metres per pixel.
        rotation: Radians by which the vehicle frame was turned counter-clockwise to make the tile:
            the vehicle's heading where that is known, a random angle otherwise.
        path: (P, 2) float32 metres in the tile's frame, where the vehicle drove; in order.
        road: (S, S) float32, -1..1: 1 where the ground is a road's surface, -1 where it is beside
            one, 0 where neither is known; None is 0 everywhere.
    """

    wall: NDArray[np.float32]
    ground: NDArray[np.float32]
    observed: NDArray[np.float32]
    resolution: float
    rotation: float
    path: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    road: NDArray[np.float32] | None = None

    @property
    def size(self) -> int:
        """Pixels along a side."""
        return int(self.wall.shape[0])


@dataclass(frozen=True)
class HeadingKnowledge:
    """What is known of the vehicle's heading.

    Attributes:
        kind: "known"; "prior", known to a standard deviation; or "unknown".
        std_deg: The standard deviation of a prior, degrees.
    """

    kind: Literal["known", "prior", "unknown"] = "known"
    std_deg: float = 0.0

    @classmethod
    def parse(cls, text: str) -> HeadingKnowledge:
        """Read ``known``, ``unknown`` or ``prior:DEG``.

        Raises:
            MaptileError: It is none of these.
        """
        kind, _, degrees = text.partition(":")
        try:
            if kind in ("known", "unknown") and not degrees:
                return cls(kind=kind)  # type: ignore[arg-type]
            if kind == "prior" and 0 < float(degrees) < 180:
                return cls(kind="prior", std_deg=float(degrees))
        except ValueError:
            pass
        raise MaptileError(f"heading {text}: expected known, unknown or prior:DEG, as in prior:10")


@dataclass(frozen=True)
class Queries:
    """Where along a drive queries are made, and what each may use.

    Attributes:
        submap_m: Metres of travel that are put together for a query; 0 is one scan.
        every_m: Metres of travel between queries; 0 is a query per scan.
        online: Use no scan after a query; the trajectory is then the causal filter's.
        heading: What is known of the heading.
        seed: Seed of the random turns that hide an unknown heading.

    Raises:
        MaptileError: A length is negative, or above 100 km.
    """

    submap_m: float = 50.0
    every_m: float = 20.0
    online: bool = False
    heading: HeadingKnowledge = field(default_factory=HeadingKnowledge)
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.submap_m <= 1e5 and 0 <= self.every_m <= 1e5):
            raise MaptileError("--submap and --every are metres of travel: 0 to 100,000")

    @property
    def reach_m(self) -> float:
        """Metres of travel from a query to the ends of its submap."""
        return self.submap_m if self.online else self.submap_m / 2


class Candidates(NamedTuple):
    """Where a query may have been taken, best first: what every search method returns.

    Attributes:
        poses: (K, 3) float64 east, north (metres, map frame), heading (radians from grid east).
        log_scores: (K,) float64, natural logarithm, comparable within one query.
    """

    poses: Array
    log_scores: Array


class Fixes(NamedTuple):
    """The aligned candidates of one query.

    Attributes:
        candidates: K poses with their log-probabilities.
        covariance: (K, 3, 3) float64 of (east, north, heading), m2 and rad2.
    """

    candidates: Candidates
    covariance: Array


@dataclass(frozen=True)
class Estimates:
    """One stage's answer for every query.

    Attributes:
        poses: (Q, 3) float64 east, north, heading; NaN where the stage has no answer.
        covariance: (Q, 3, 3) float64 of (east, north, heading), m2 and rad2; NaN likewise.
        score: (Q,) float64, 0..1: how far to trust the answer.
        localized: (Q,) bool: the answer is to be relied on.
    """

    poses: Array
    covariance: Array
    score: Array
    localized: NDArray[np.bool_]


@dataclass(frozen=True)
class Localization:
    """A localized drive.

    Attributes:
        frame: (Q,) int64, index of the scan at the query.
        t_ns: (Q,) int64, time of the query.
        stages: Estimates by stage, keys as in ``STAGES``.
        final: The stage that is the trajectory: "smoothed", or "fused" when run online.
        search_area_km2: The area that every query was searched in.
        query_seconds: (Q,) time spent per query.
        tiles: Some query tiles for the report, by query number.
        blind: How many queries had not one point.
    """

    frame: NDArray[np.int64]
    t_ns: NDArray[np.int64]
    stages: dict[str, Estimates]
    final: str
    search_area_km2: float
    query_seconds: Array
    tiles: dict[int, QueryTile]
    blind: int = 0
