"""What travels between the steps of the pipeline, from query tile to trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.counted import counted
from data_prep.errors import MaptileError
from data_prep.geometry import Array

if TYPE_CHECKING:
    import geopandas as gpd
    from matplotlib.figure import Figure

    from data_prep.city.raster import MapRaster
    from data_prep.drive import TruthTrack
    from data_prep.settings import Settings
    from maptile_loc.report.metrics import Metrics
    from maptile_loc.small_tiles import SmallTiles

STAGES = ("coarse", "aligned", "fused", "smoothed")
"""Best coarse candidate, the same aligned, the causal filter, the smoother over the whole drive."""

REASONS = (
    *("few_walls", "straight_street", "look_alikes", "too_short", "off_map"),
    *("no_odometry", "drift"),
)
"""Why a fix is not localized: the tile shows too few walls; the walls leave the position along the
street open; the vehicle may as well be at another position; too little was seen so far; the tile
fits nowhere, or the position is off the map; the motion up to the scan is unknown; the queries
around the scan are localized, but the odometry's drift from them is too large."""


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
    def parse(cls, given: str | HeadingKnowledge) -> HeadingKnowledge:
        """Read ``known``, ``unknown`` or ``prior:DEG``; what is read already stays as it is.

        Raises:
            MaptileError: It is none of these.
        """
        if isinstance(given, HeadingKnowledge):
            return given
        kind, _, degrees = str(given).partition(":")
        try:
            if kind in ("known", "unknown") and not degrees:
                return cls(kind=kind)  # type: ignore[arg-type]
            if kind == "prior" and 0 < float(degrees) < 180:
                return cls(kind="prior", std_deg=float(degrees))
        except ValueError:
            pass
        raise MaptileError(f"heading {given}: expected known, unknown or prior:DEG, as in prior:10")


@dataclass(frozen=True)
class Queries:
    """Where along a drive queries are made, and what each may use.

    Attributes:
        submap_m: Metres of travel that are put together for a query; 0 is one scan.
        every_m: Metres of travel between queries; 0 is a query per scan.
        online: Use no scan after a query; the trajectory is then the causal filter's.
        heading: What is known of the heading.
        seed: Seed of the random turns that hide an unknown heading.
        gnss: Whether the drive's GNSS is used.

    Raises:
        MaptileError: A length is negative, above 100 km or no number; or the seed is none.
    """

    submap_m: float = 50.0
    every_m: float = 20.0
    online: bool = False
    heading: HeadingKnowledge = field(default_factory=HeadingKnowledge)
    seed: int = 0
    gnss: bool = False

    def __post_init__(self) -> None:
        lengths = self.submap_m, self.every_m
        if not all(isinstance(one, Real) and 0 <= one <= 1e5 for one in lengths):
            raise MaptileError("--submap and --every are metres of travel: 0 or more")
        if not (isinstance(self.seed, Integral) and self.seed >= 0):
            raise MaptileError(f"seed {self.seed!r}: expected a whole number, 0 or more")

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
        wall_m2: Wall evidence of the query's tile, square metres.
    """

    candidates: Candidates
    covariance: Array
    wall_m2: float = 0.0


@dataclass(frozen=True)
class Estimates:
    """One stage's answer for every query.

    Attributes:
        poses: (Q, 3) float64 east, north, heading; NaN where the stage has no answer.
        covariance: (Q, 3, 3) float64 of (east, north, heading), m2 and rad2; NaN likewise.
        score: (Q,) float64, 0..1: how far to trust the answer.
        localized: (Q,) bool: the answer is to be relied on.
        protection_m: (Q,) float64: protection level, the radius in metres that the position's error
            exceeds with a probability of 0.1 %; inf where the score is too low for one.
        reason: (Q,) str: why the answer is not localized, one of ``REASONS``; "" where it is.
    """

    poses: Array
    covariance: Array
    score: Array
    localized: NDArray[np.bool_]
    protection_m: Array
    reason: NDArray[np.str_]

    @property
    def has_pose(self) -> NDArray[np.bool_]:
        """(Q,) bool: whether the stage has a pose for each query, rather than NaN."""
        return np.isfinite(self.poses[:, 0])


@dataclass(frozen=True)
class ScanPoses(Estimates):
    """A pose per scan: ``Estimates`` of all S scans of a drive, odometry between the queries.

    Attributes:
        frame: (S,) int64, index of each scan in the drive.
        t_ns: (S,) int64, time of each scan, nanoseconds.
        query: (S,) int32, number of the query that the scan made; -1 where it made none.
    """

    frame: NDArray[np.int64]
    t_ns: NDArray[np.int64]
    query: NDArray[np.int32]


@dataclass(frozen=True)
class Fix:
    """Where a live vehicle is, as known at one scan.

    Attributes:
        t_ns: Time of the scan, nanoseconds.
        latitude, longitude: Degrees, WGS 84; NaN while nothing is known.
        pose: (3,) float64 east, north (metres, map frame), heading (radians from grid east).
        covariance: (3, 3) float64 of the pose, m2 and rad2.
        score: 0..1: probability of the position.
        localized: Whether the fix is to be relied on.
        protection_m: Radius in metres that the position's error exceeds with a probability of
            0.1 %; inf where the score is too low for one.
        reason: Why it is not localized, one of ``REASONS``; "" if it is.
        is_query: Whether the scan made a query; the pose of other scans is predicted by odometry.
        gnss: What becomes of GNSS: "used"; "left_out" while it contradicts the walls; "" without.
    """

    t_ns: int
    latitude: float
    longitude: float
    pose: Array
    covariance: Array
    score: float
    localized: bool
    protection_m: float
    reason: str
    is_query: bool
    gnss: str = ""

    @property
    def heading_deg(self) -> float:
        """Heading in degrees, counter-clockwise from grid east."""
        return float(np.degrees(self.pose[2]))


@dataclass(frozen=True, eq=False, repr=False)
class Localization:
    """A localized drive: poses and covariances of every stage, with the map and what ran.

    Attributes:
        frame: (Q,) int64, index of each query's scan in the drive.
        t_ns: (Q,) int64, time of each query, nanoseconds.
        stages: Estimates by stage, keys as in ``STAGES``; before them "regressed", the pose that a
            model gave before the map was searched, and "pgo", the same optimised with the odometry.
        final: The stage that is the trajectory: "smoothed", "fused" when run online, or "regressed"
            or "pgo" where the map was not searched.
        search_area_km2: Area that each query was searched in, square kilometres.
        query_seconds: (Q,) float64, seconds spent on each query; 0 where a query was skipped
            because its submap has no points or its heading is missing. Online, these are the
            seconds of the push that makes the query, and of no push are they 0.
        tiles: Query tiles kept for the report, by query number.
        raster: The map that the drive was localized on.
        record: What ran, as plain values for ``run.json``: ``city`` and ``drive`` (paths),
            ``city_content_hash``, ``format``, ``sensors``, ``method``, ...
        tracked: (Q,) bool: the query was searched near its predicted pose, or GNSS, only; None:
            none was.
        blind: Number of queries whose submap has no points.
        candidates: (Q, K, 4) float64, the aligned candidates of each query by itself, as from
            ``fuse.alone.candidate_table``; None if unknown.
        settings: Settings of the run, written as ``settings.yaml``; None if unknown.
        notes: Lines that the user should read, about the drive and the run.
        dense: A pose per scan of the final stage; None in results of earlier versions.
        small_tiles: Small pictures of the query tiles, for the replay; None if unknown.
    """

    frame: NDArray[np.int64]
    t_ns: NDArray[np.int64]
    stages: dict[str, Estimates]
    final: str
    search_area_km2: float
    query_seconds: Array
    tiles: dict[int, QueryTile]
    raster: MapRaster
    record: Mapping[str, Any] = field(default_factory=dict)
    tracked: NDArray[np.bool_] | None = None
    blind: int = 0
    candidates: Array | None = None
    settings: Settings | None = None
    notes: tuple[str, ...] = ()
    dense: ScanPoses | None = None
    small_tiles: SmallTiles | None = None

    @property
    def trajectory(self) -> Estimates:
        """Estimates of the final stage."""
        return self.stages[self.final]

    @property
    def drive_name(self) -> str:
        """Name of the drive: the last part of its path, or "drive" if the path is unknown."""
        return Path(str(self.record.get("drive") or "drive")).name

    @property
    def city_name(self) -> str:
        """Name of the city: the last part of its path, or "city" if the path is unknown."""
        path = Path(str(self.record.get("city") or "city"))
        return path.stem if path.suffix.lower() in {".tif", ".tiff"} else path.name

    @property
    def candidates_alone(self) -> Array | None:
        """``candidates``; None where some queries were searched near their predicted pose only."""
        return None if self.tracked is not None and self.tracked.any() else self.candidates

    @property
    def seconds_per_query(self) -> float | None:
        """Median seconds per query that was not skipped; None if there is none."""
        spent = self.query_seconds[self.query_seconds > 0]
        return float(np.median(spent)) if len(spent) else None

    def __repr__(self) -> str:
        final = self.trajectory
        localized = int((final.localized & final.has_pose).sum())
        facts = [
            f"{self.drive_name} on {self.city_name}, stage {self.final}",
            f"{localized} of {counted(len(self.t_ns), 'query')} localized",
            f"searched {self.search_area_km2:.3g} km2",
        ]
        if self.seconds_per_query is not None:
            facts.append(f"{self.seconds_per_query:.2g} s per query")
        return f"<Localization: {'; '.join(facts)}>"

    def plot(self) -> Figure:
        """Draw the trajectory with its uncertainty on the map; returns a matplotlib Figure.

        Localized queries are filled, the others hollow; ellipses hold 95 % of each position's
        probability. The figure shows itself as the last value of a notebook cell.
        """
        from maptile_loc.report.trajectory_figure import draw_trajectory

        return draw_trajectory(self)

    def to_geodataframe(self, stage: str | None = None, dense: bool = False) -> gpd.GeoDataFrame:
        """Return one stage as a table in EPSG:4326, one row per query or per scan.

        Args:
            stage: A key of ``stages``; the final stage by default.
            dense: A row per scan, of the final stage only.

        Returns:
            Columns as in ``queries.csv``, or dense in ``trajectory.csv`` (degrees, metres), and
            ``geometry``: a Point (longitude, latitude), None where there is no pose.

        Raises:
            MaptileError: The result has no such stage, or no poses per scan of it.
        """
        from maptile_loc.report.trajectory import trajectory_points

        return trajectory_points(self, stage, dense)

    def evaluate(self, truth: TruthTrack | None) -> Metrics:
        """Compare every stage with ``truth``; returns the metrics, which print as a table.

        Args:
            truth: The drive's truth, as in ``drive.truth``.

        Raises:
            MaptileError: ``truth`` is None: the drive has none.
        """
        from maptile_loc.report.metrics import evaluate

        return evaluate(self, truth)

    def save(
        self, folder: Path | str, truth: TruthTrack | None = None, force: bool = False
    ) -> Metrics | None:
        """Write all files of the result to ``folder``, in one swap: all of them or none.

        Args:
            folder: Made if missing. An older result in it, and what was derived from it, is
                replaced; other files in it stay.
            truth: If given, ``metrics.json`` and ``errors.csv`` are written too.
            force: Replace whatever stands there, such as the result of another drive.

        Returns:
            The metrics, or None without ``truth``.

        Raises:
            MaptileError: Something else stands there; the folder cannot be written; an older
                result is left as it was.
        """
        from maptile_loc.report.files import write_result

        return write_result(self, Path(folder), truth, force)
