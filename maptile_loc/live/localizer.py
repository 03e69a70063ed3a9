"""A vehicle that is localized while it drives: scans and odometry are pushed, fixes come back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from data_prep.city.folder import City
from data_prep.drive import ScanBlock, nanoseconds, time_of
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.progress import Progress, silent
from maptile_loc.arguments import as_city
from maptile_loc.device import all_threads, one_thread, pick_device
from maptile_loc.fuse.gnss import GnssWindow
from maptile_loc.live.gnss_buffer import GnssBuffer
from maptile_loc.live.heading_buffer import HeadingBuffer
from maptile_loc.live.predicted import Known, unknown_estimates
from maptile_loc.live.shared import shared_search
from maptile_loc.live.tracker import Answer, Tracker
from maptile_loc.map_search import MapSearch
from maptile_loc.odometry.pose_buffer import Motion, PoseBuffer
from maptile_loc.odometry.scan_tracker import ScanTracker
from maptile_loc.odometry.sweep import gather, is_planar
from maptile_loc.perceive.scan_buffer import ScanBuffer
from maptile_loc.recipe import LocalizeSettings, load_recipe, with_profile
from maptile_loc.search.engine.area import searched_area
from maptile_loc.types import Fix, HeadingKnowledge, Queries, QueryTile

_LOG = logging.getLogger(__name__)

_PLANAR_NS = 5_000_000_000
"""Without odometry, scans that lie in planes are refused after this time, nanoseconds."""

OdometrySource = Literal["auto", "lidar", "pushed"]
"""Where the odometry of a live vehicle comes from."""


class Localizer:
    """Localizes one vehicle on a city's map, from what came before each scan.

    Push everything in the order of time: odometry (headings and GNSS, where there are any) up to a
    scan, then the scan. Without odometry, the motion is found from the scans. One object serves one
    vehicle and one thread; the map is shared by all vehicles on it. Until ``close``, each
    computation of the process has one thread, for more would wait for each other; a search of the
    whole map has all of them while a push waits for it, or the vehicle is not tracked.

    Args:
        city: A city, or its path.
        heading: "unknown", "known" or "prior:DEG"; the latter two need ``add_heading``.
        method: Search method of the whole map: "match", "mapnet", "cells" or "retrieval".
        model: Folder of a trained model; None: the city's newest one of this method.
        submap_m: Metres of travel that are put together for a query; 0 is one scan.
        every_m: Metres of travel between queries; 0 is a query per scan.
        odometry: "pushed": what is pushed; "lidar": made from the scans; "auto": what is pushed,
            and until the first pose made from the scans.
        prior: Latitude, longitude (degrees) and radius (metres) of the only area to be searched.
        near: Names of streets, squares or buildings, near one of which alone is searched.
        sensor_profile: Folder of a wall detector that ``adapt`` wrote; None: the recipe's.
        labels: Name of the table of the points' labels; None: labels are ignored.
        background: Whether searches of the whole map run beside, so that a push never waits for
            one. With False, the same pushes give the same fixes, to the last bit.
        device: "auto", "cpu" or "cuda".
        seed: Seed of all randomness.
        config: Recipe: a name in ``configs/``, or a YAML file.
        overrides: ``key=value`` strings that override single keys of the recipe.
        progress: Called while a map is made ready, which takes a while where it is large and new.

    Raises:
        MaptileError: Something that is named does not exist or does not fit.
    """

    def __init__(
        self,
        city: City | Path | str,
        *,
        heading: str | HeadingKnowledge = "unknown",
        method: str = "match",
        model: Path | str | None = None,
        submap_m: float = 50.0,
        every_m: float = 20.0,
        odometry: OdometrySource = "auto",
        prior: tuple[float, float, float] | None = None,
        near: Sequence[str] = (),
        sensor_profile: Path | str | None = None,
        labels: str | None = None,
        background: bool = True,
        device: str = "auto",
        seed: int = 0,
        config: Path | str = "localize",
        overrides: Sequence[str] = (),
        progress: Progress = silent,
    ) -> None:
        settings = with_profile(load_recipe(config, overrides), sensor_profile)
        city = as_city(city)
        known = HeadingKnowledge.parse(heading)
        folder = None if model is None else Path(model)
        area = searched_area(city, prior, near, settings.search.near_m)
        engine = shared_search(city, settings, method, area, folder, pick_device(device))
        queries = Queries(submap_m, every_m, True, known, seed, gnss=True)
        self._begin(engine, queries, settings, odometry, labels, background, progress)

    @classmethod
    def on(
        cls,
        engine: MapSearch,
        queries: Queries,
        settings: LocalizeSettings,
        odometry: OdometrySource = "auto",
        labels: str | None = None,
        background: bool = True,
    ) -> Self:
        """A localizer on a map that is ready to be searched; the arguments are as above."""
        new = cls.__new__(cls)
        new._begin(engine, queries, settings, odometry, labels, background, silent)
        return new

    def _begin(
        self,
        engine: MapSearch,
        queries: Queries,
        settings: LocalizeSettings,
        odometry: OdometrySource,
        labels: str | None,
        background: bool,
        progress: Progress,
    ) -> None:
        if odometry not in ("auto", "lidar", "pushed"):
            raise MaptileError(f"odometry {odometry!r}: there are auto, lidar and pushed")
        self._engine, self._settings = engine, settings
        if background:
            engine.fields.expect_all(progress)  # a push does not wait for it
        threads = all_threads()
        self._limit = ExitStack()
        self._limit.enter_context(one_thread())
        self.queries = queries
        """How queries are made."""
        self._always_own = odometry == "lidar"
        self._own = None if odometry == "pushed" else ScanTracker(settings.odometry)
        self._planar_since: int | None = None
        self._poses = PoseBuffer()
        table = settings.submap.labels.get(labels or "")
        self._scans = ScanBuffer(queries.submap_m, settings.submap, settings.query, table)
        self._tracker = Tracker(engine, queries, settings, background, threads)
        self._rng = np.random.default_rng(queries.seed)
        self._headings = HeadingBuffer(engine.raster.convergence)
        self._gnss = GnssBuffer(engine.raster, settings.gnss)
        self._moved: tuple[int, Motion] | None = None
        self._start_m, self._stretch = 0.0, -1
        self._last_ns: int | None = None
        self._sure = False
        self._scan_count = 0
        self._judged: Fix | None = None
        self.answer: Answer | None = None
        """What the last scan's query found; None where the last scan made no query."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def tile(self) -> QueryTile | None:
        """The tile of the last query."""
        return self._tracker.tile

    @property
    def known(self) -> Known | None:
        """What is known between the last query and the next one; None before the first."""
        return self._tracker.known

    def close(self) -> None:
        """Stop what runs beside."""
        self._tracker.close()
        self._limit.close()

    def add_odometry(self, t_ns: int, pose: Array, restart: bool = False) -> None:
        """Push the odometry's pose at a time.

        Args:
            t_ns: Nanoseconds, on the scans' clock; later than that of the pose before.
            pose: (4, 4) vehicle -> any fixed frame, z up, metres.
            restart: Whether the motion since the pose before is unknown, as it is after a gap of
                more than two seconds.

        Raises:
            MaptileError: The time is not later, or the pose is no rigid motion.
        """
        if self._always_own:
            return
        poses = self._poses if self._own is None else PoseBuffer()
        poses.add(nanoseconds(t_ns, "odometry"), pose, restart)
        if self._own is not None:
            self._own, self._poses, self._moved = None, poses, None
            self._gnss.forget_motion()

    def add_heading(self, t_ns: int, heading: float) -> None:
        """Push the vehicle's true heading, for ``heading="known"`` or ``"prior:DEG"``.

        Args:
            t_ns: Nanoseconds; later than that of the heading before.
            heading: Radians, counter-clockwise from true east (not grid east).

        Raises:
            MaptileError: The time is not later, or the heading is not finite.
        """
        self._headings.add(nanoseconds(t_ns, "heading"), float(heading))

    def add_gnss(self, t_ns: int, latitude: float, longitude: float, std_m: float = np.nan) -> None:
        """Push a position that a GNSS receiver measured; it may be wrong, and is used as such.

        Args:
            t_ns: Nanoseconds, on the scans' clock; later than that of the position before.
            latitude: Degrees, WGS 84.
            longitude: Degrees, WGS 84.
            std_m: The standard deviation that the receiver states, metres; NaN where it does not.

        Raises:
            MaptileError: The time is not later, or it is no position.
        """
        position = float(latitude), float(longitude), float(std_m)
        self._gnss.add(nanoseconds(t_ns, "GNSS"), *position)

    def add_scan(self, scan: ScanBlock) -> Fix | None:
        """Push a scan; returns where the vehicle is, as known now.

        Args:
            scan: One scan, such as ``ScanBlock.single`` makes.

        Returns:
            A fix for every scan, predicted by odometry between queries; None before the first
            query.

        Raises:
            MaptileError: It is not one scan, or older than the scan before; or there is no
                odometry, and none can be made of such scans.
        """
        motion = self.push(scan)
        if self.known is None:
            return None
        return self._judged or self._fix(int(scan.t_ns[0]), motion)

    def push(self, scan: ScanBlock) -> Motion | None:
        """Push a scan without making a fix; ``answer`` is what its query found, if it made one.

        Returns:
            The vehicle's motion at the scan; None where it is unknown.
        """
        t_ns = self._check(scan)
        if self._own is not None:
            self._register(scan)
        motion = self._poses.at(t_ns)
        if motion is None and self.queries.submap_m == self.queries.every_m == 0:
            motion = Motion(np.eye(4), 0.0, -self._scan_count)  # a segment of its own
        self.answer = self._judged = None
        if motion is None:
            self._lose(t_ns, "no_odometry")
            return None
        if self._moved is None or motion.segment != self._moved[1].segment:
            self._restart(motion, t_ns)
        self._moved = t_ns, motion
        moving, due = motion.segment >= 0, self._due(motion.travelled)
        new = self._gnss.placed(self._poses, t_ns, moving)
        gnss = None
        if new or due or self._tracker.searching:
            gnss = self._gnss.window(motion, t_ns, moving)
        if new and gnss is not None:
            self._tracker.judge(gnss, motion, t_ns / 1e9)
        if self._tracker.collect(motion, gnss, t_ns / 1e9):
            self._forget()
            self._judge(t_ns, motion)
        if due or self._scans.wants(scan, motion.travelled):
            timed = scan.seconds is not None and moving
            velocity = self._poses.velocity(t_ns, motion.segment) if timed else np.zeros(6)
            self._scans.add(scan, motion.pose, velocity, motion.travelled)
        if due:
            self._query(t_ns, motion, gnss)
        return motion

    def _check(self, scan: ScanBlock) -> int:
        """The time of a scan, nanoseconds."""
        t_ns = time_of(scan)
        if self._last_ns is not None and t_ns < self._last_ns:
            raise MaptileError(f"scan at {t_ns} ns: older than the scan before, {self._last_ns}")
        self._last_ns = t_ns
        self._scan_count += 1
        return t_ns

    def _register(self, scan: ScanBlock) -> None:
        """Extend the odometry that is made from the scans."""
        assert self._own is not None
        t_ns, flat = int(scan.t_ns[0]), is_planar(scan)
        if flat.any() and self._planar_since is None:
            self._planar_since = t_ns
        since = t_ns if self._planar_since is None else self._planar_since
        moving = self.queries.submap_m > 0 or self.queries.every_m > 0
        if t_ns - since > _PLANAR_NS and not self._own.started and moving:
            raise MaptileError(
                "no odometry: push it (add_odometry); none can be made from the scans, for each "
                "lies in a plane"
            )
        settings, segment = self._settings.odometry, self._own.segment
        if t_ns == self._poses.last_ns:
            return
        pose = self._own.add(t_ns, gather(scan, ~flat, settings.min_range_m, settings.max_range_m))
        if pose is not None:
            self._poses.add(t_ns, pose, restart=self._own.segment != segment)

    def _restart(self, motion: Motion, t_ns: int) -> None:
        """Start a segment of the odometry: what came before does not lead to it."""
        if self._sure:
            _LOG.warning("the odometry has a gap: the vehicle is searched on the whole map")
        self._sure = False
        self._scans.clear()
        if self._moved is not None and min(motion.segment, self._moved[1].segment) >= 0:
            before_ns, last = self._moved
            self._tracker.restart(motion, last, (t_ns - before_ns) / 1e9)
        else:
            self._tracker.restart(motion)
        self._start_m, self._stretch = motion.travelled, -1

    def _due(self, travelled: float) -> bool:
        """Whether a scan makes a query: the first one of each stretch of ``every_m`` metres."""
        if self.queries.every_m == 0:
            return True
        stretch = int((travelled - self._start_m) // self.queries.every_m)
        due = stretch > self._stretch
        self._stretch = max(stretch, self._stretch)
        return due

    def _query(self, t_ns: int, motion: Motion, gnss: GnssWindow | None) -> None:
        """Make a tile, search, and update the filter."""
        rotation, now_s = self._rotation(t_ns, motion), t_ns / 1e9
        if rotation is None or not self._scans.has_points:
            self.answer = self._tracker.no_tile(motion, rotation is not None, gnss, now_s)
        else:
            make_tile = partial(self._scans.tile, rotation)
            self.answer = self._tracker.query(make_tile, motion, gnss, now_s)
        self._forget()
        self._judge(t_ns, motion)

    def _forget(self) -> None:
        """Drop the scans of a position that was given up."""
        if self._tracker.contradicted_m is not None:
            _LOG.warning("the vehicle is elsewhere than the odometry says")
            self._scans.forget(self._tracker.contradicted_m)

    def _rotation(self, t_ns: int, motion: Motion) -> float | None:
        """Radians by which the query's cloud is turned; None if the heading is not known now."""
        if self.queries.heading.kind == "unknown":
            return float(self._rng.uniform(-np.pi, np.pi))
        return self._headings.at(t_ns, motion, self._poses)

    def _fix(self, t_ns: int, motion: Motion | None) -> Fix:
        """The fix at a scan."""
        if motion is None or self.known is None:
            one = unknown_estimates(1)
        else:
            one = self.known.estimates([motion], self._engine.raster, self._settings.fuse)
        latitude, longitude = self._engine.raster.projection.inverse(one.poses[0, :2])
        return Fix(
            t_ns,
            float(latitude),
            float(longitude),
            one.poses[0],
            one.covariance[0],
            float(one.score[0]),
            bool(one.localized[0]),
            float(one.protection_m[0]),
            str(one.reason[0]),
            self.answer is not None,
            self._tracker.gnss_state,
        )

    def _judge(self, t_ns: int, motion: Motion) -> None:
        """Log when the vehicle becomes localized, and when it no longer is."""
        self._judged = fix = self._fix(t_ns, motion)
        if fix.localized and not self._sure and self.known is not None:
            self._sure, metres = True, self.known.travelled(motion)
            _LOG.info("localized after %.0f m: %.6f, %.6f", metres, fix.latitude, fix.longitude)
        elif not fix.localized:
            self._lose(t_ns, fix.reason)

    def _lose(self, t_ns: int, reason: str) -> None:
        if self._sure:
            self._sure = False
            _LOG.warning("no longer localized at %d ns: %s", t_ns, reason)
