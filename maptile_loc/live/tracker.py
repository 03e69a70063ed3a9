"""The causal filter of a live vehicle: which part of the map each query searches, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from data_prep.geometry import Array
from maptile_loc.device import torch_threads
from maptile_loc.fuse.certainty import worst_std
from maptile_loc.fuse.filter import Belief, Filter
from maptile_loc.fuse.gnss import GnssWindow, Witness
from maptile_loc.fuse.gnss_windows import stated
from maptile_loc.live.background import BackgroundSearch, Found
from maptile_loc.live.carried import carried, steps_to
from maptile_loc.live.doubt import Doubt
from maptile_loc.live.predicted import Known
from maptile_loc.map_search import HEADING_STDS, NO_FIXES, MapSearch, enough, fix_in_disc, fix_tile
from maptile_loc.odometry.pose_buffer import Motion
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.search.engine.tracked import united
from maptile_loc.types import Candidates, Fixes, Queries, QueryTile

MakeTile = Callable[[float], QueryTile]
"""Makes the tile of the scans of the last metres of travel."""
AWAY_STDS = 3.0
"""A position farther than this many standard deviations from the predicted one contradicts it."""


class Answer(NamedTuple):
    """What a query found.

    Attributes:
        candidates: Before alignment.
        fixes: The same, aligned; none where the tile shows no wall, or while a search runs beside.
        tracked: Whether only the surroundings of the predicted poses, or of GNSS, were searched.
        belief: Of the filter, after the query.
        blind: Whether the scans have no points.
        unturned: Whether the heading is missing.
        gnss: What became of GNSS, as in ``Fix.gnss``.
    """

    candidates: Candidates
    fixes: Fixes
    tracked: bool
    belief: Belief
    blind: bool = False
    unturned: bool = False
    gnss: str = ""


class Tracker:
    """The filter, and the searches that feed it.

    Args:
        engine: The map and the search method.
        queries: What is known of headings, and how far submaps reach.
        settings: The recipe.
        background: Whether searches of the whole map run beside the queries. Their result is used
            by the first call after it is there, carried forward by the odometry.
        threads: Torch's threads for searches of the whole map, while no query is searched beside.
    """

    def __init__(
        self,
        engine: MapSearch,
        queries: Queries,
        settings: LocalizeSettings,
        background: bool,
        threads: int,
    ) -> None:
        self._engine, self._queries, self._settings = engine, queries, settings
        self._filter = Filter(max(engine.search.area_km2 * 1e6, 1.0), settings.fuse, settings.gnss)
        self._background, self._threads = background, threads
        self.background = BackgroundSearch(self._find)
        """Searches that run beside the queries."""
        self._at: Motion | None = None
        self._begun_m = self._fresh_from_m = 0.0
        self._searched_m = -np.inf
        area_km2 = engine.search.area_km2
        self._doubt = Doubt(settings.track, settings.fuse.few_walls_m2, area_km2)
        self.known: Known | None = None
        """What is known since the last query, or the last search that ran beside; None before."""
        self.contradicted_m: float | None = None
        """Metres of travel by whose scans the last call gave up a position; None: it did not."""
        self.tile: QueryTile | None = None
        """The tile of the last query; None if it was not needed."""
        self._has_gnss = False

    @property
    def gnss_state(self) -> str:
        """What becomes of GNSS, as in ``Fix.gnss``."""
        if not self._filter.watch.trusted:
            return "left_out"
        return "used" if self._has_gnss else ""

    @property
    def searching(self) -> bool:
        """Whether a search of the whole map runs beside."""
        return self.background.job is not None

    def restart(self, at: Motion, last: Motion | None = None, seconds: float = np.inf) -> None:
        """Go on at ``at``, ``seconds`` after the last odometry; without that, all is forgotten."""
        if last is not None:
            self._predict(last)
        self._filter.restart(np.inf if last is None else seconds)
        self.background.drop()
        self._at = at
        self._begun_m = at.travelled
        self._fresh_from_m = self._searched_m = -np.inf
        self._doubt.metres = 0.0
        self._hold(at, np.inf)

    def query(
        self,
        make_tile: MakeTile,
        at: Motion,
        gnss: GnssWindow | None = None,
        now_s: float = 0.0,
    ) -> Answer:
        """Search for a tile, and update the filter.

        Args:
            make_tile: Makes the tile of the scans of the last metres of travel.
            at: The vehicle's motion at the query.
            gnss: The GNSS samples before it; None where there are none.
            now_s: Its time, seconds.
        """
        witness = self._stated(gnss)
        metres = 0.0 if self._at is None else at.travelled - self._at.travelled
        self._predict(at)
        self.contradicted_m = None
        found, fixes, tracked = NO_FIXES.candidates, NO_FIXES, False
        near = self._near()
        off_map = near is not None and not self._on_map(near[0])
        if self.searching and (near is None or off_map):
            self.tile = None  # nothing to do before the search has ended
            self._weigh_gnss(witness, now_s)
            return Answer(found, fixes, tracked, self._hold(at), gnss=self.gnss_state)
        self.tile = make_tile(np.inf)
        if near is not None and not off_map:
            found, fixes = self._follow(self.tile, make_tile, near, metres)
            tracked = True
        elif self._doubt.metres > 0:
            self._doubt.metres += metres
        disc = NO_FIXES
        if near is None and witness is not None and self._engine.tracked is not None:
            settings = self._settings
            found, fixes = fix_in_disc(self.tile, witness, self._queries, self._engine, settings)
            disc = fixes
        if enough(disc, self._settings):
            self._searched_m, tracked = at.travelled, True
        elif self._whole_map(tracked, off_map, at):
            doubted = near is not None and self._doubt.searched
            tiles = [self.tile]
            if doubted and self._doubt.metres < self._queries.submap_m:
                # After a jump, only the last metres show where the vehicle is.
                tiles.insert(0, make_tile(self._doubt.metres))
            if self._background:
                self.background.start(tiles, at, doubted, 1 if tracked else self._threads)
                found, fixes = (found, fixes) if tracked else (NO_FIXES.candidates, NO_FIXES)
            else:
                self._searched_m = at.travelled
                used = self._settle((self._search(one, None) for one in tiles), doubted, off_map)
                if used is not None:
                    found, fixes, tracked = *used, False
                if len(disc.candidates.poses):
                    fixes = united(disc, fixes, self._settings.search)
        self._update(fixes, at)
        self._weigh_gnss(witness, now_s)
        belief = self._hold(at, None if fixes is NO_FIXES else fixes.wall_m2)
        return Answer(found, fixes, tracked, belief, gnss=self.gnss_state)

    def no_tile(
        self, at: Motion, blind: bool, gnss: GnssWindow | None = None, now_s: float = 0.0
    ) -> Answer:
        """The answer to a query without a tile.

        Args:
            at: The vehicle's motion at the query.
            blind: Whether the scans have no points; otherwise the heading is missing.
            gnss: The GNSS samples before it; None where there are none.
            now_s: Its time, seconds.
        """
        self.tile = self.contradicted_m = None
        self._predict(at)
        self._weigh_gnss(self._stated(gnss), now_s)
        belief = self._hold(at, 0.0 if blind else None)
        state = self.gnss_state
        return Answer(NO_FIXES.candidates, NO_FIXES, False, belief, blind, not blind, state)

    def collect(self, at: Motion, gnss: GnssWindow | None = None, now_s: float = 0.0) -> bool:
        """Use the result of a search that ran beside, if it is there now; returns whether.

        The arguments are as for ``query``.
        """
        self.contradicted_m = None
        taken = self.background.take()
        if taken is None:
            return False
        job, results = taken
        self._searched_m = job.at.travelled
        self._predict(at)
        steps = steps_to(job.at, [at], self._queries.submap_m, self._settings.fuse)
        near = self._near()
        off_map = near is not None and not self._on_map(near[0])
        everywhere = (
            (found, carried(aligned, steps, self._settings.fuse)) for found, aligned in results
        )
        used = self._settle(everywhere, job.doubted, off_map)
        if used is not None:
            self._update(used[1], at)
            self._weigh_gnss(self._stated(gnss), now_s)
        self._hold(at, None if used is None else used[1].wall_m2)
        return True

    def judge(self, gnss: GnssWindow, at: Motion, now_s: float) -> None:
        """Compare the GNSS samples before a time with the position by the walls, where it is sure.

        Args:
            gnss: The samples.
            at: The vehicle's motion at the time.
            now_s: The time, seconds.
        """
        if self.known is None or self._doubt.suspected:
            return
        known = replace(self.known, held=self._filter.held(by_walls=True))
        self._filter.judge(gnss, known.belief(at, self._settings.fuse), now_s)

    def _stated(self, gnss: GnssWindow | None) -> Witness | None:
        """What GNSS states, as far as it is used."""
        unknown = self._queries.heading.kind == "unknown"
        return stated(gnss, self._settings.gnss, unknown) if self._filter.watch.trusted else None

    def _weigh_gnss(self, witness: Witness | None, now_s: float) -> None:
        self._filter.weigh_gnss(witness, now_s)
        self._has_gnss = witness is not None

    def _hold(self, at: Motion, wall_m2: float | None = None) -> Belief:
        """Keep what the filter holds at ``at``, and return what is most probable.

        A belief that the last queries contradict has a score of ``least_score`` at most. Without
        ``wall_m2``, the wall evidence of the tile before stands; before the first tile, few walls
        are no reason for doubt.
        """
        if wall_m2 is None:
            wall_m2 = np.inf if self.known is None else self.known.wall_m2
        track, held = self._settings.track, self._filter.held()
        if self._doubt.suspected:
            score = min(held.belief.score, track.least_score)
            held = held._replace(belief=held.belief._replace(score=score))
        self.known = Known(at, held, wall_m2, self._begun_m, self._queries.submap_m)
        return held.belief

    def close(self) -> None:
        """Stop the search that runs beside, as soon as it can be."""
        self.background.close()

    def _predict(self, at: Motion) -> None:
        assert self._at is not None
        fuse = self._settings.fuse
        self._filter.predict(steps_to(self._at, [at], self._queries.submap_m, fuse), 0)
        self._at = at

    def _update(self, fixes: Fixes, at: Motion) -> None:
        if len(fixes.candidates.poses) == 0:
            return
        metres = at.travelled - self._fresh_from_m
        length = max(self._queries.submap_m, self._settings.fuse.view_m)
        self._filter.update(fixes, float(np.clip(metres / length, 1e-6, 1.0)))
        self._fresh_from_m = at.travelled

    def _near(self) -> Array | None:
        """(K, 3) predicted poses to search around; None if the vehicle is not tracked now."""
        track, belief = self._settings.track, self._filter.belief()
        if not track.enabled or self._engine.tracked is None:
            return None
        sure = belief.score >= track.least_score
        precise = worst_std(belief.covariance[None])[0] <= track.max_std_m
        near = self._filter.likely(track.least)
        return near if sure and precise and len(near) <= track.most else None

    def _follow(self, tile: QueryTile, make_tile: MakeTile, near: Array, metres: float) -> Found:
        """Search near the predicted poses, and compare what is found with these."""
        found, fixes = self._search(tile, near)
        newest_m = self._doubt.newest_m(metres, self._queries.submap_m)
        newest = self._search(make_tile(newest_m), near)[1] if newest_m > 0 else None
        self._doubt.compare(fixes, newest, self._filter.belief().pose, metres)
        return found, fixes

    def _find(self, tile: QueryTile) -> Found:
        """Search the whole map."""
        return fix_tile(tile, self._queries, self._engine, self._settings)

    def _search(self, tile: QueryTile, near: Array | None) -> Found:
        if near is None:
            with torch_threads(self._threads):
                return self._find(tile)
        std = float(np.sqrt(self._filter.belief().covariance[2, 2]))
        step = np.radians(self._settings.search.heading_step_deg)
        reach = max(HEADING_STDS * std, 1.5 * step)
        return fix_tile(tile, self._queries, self._engine, self._settings, near, reach)

    def _settle(self, everywhere: Iterable[Found], doubted: bool, off_map: bool) -> Found | None:
        """What counts of the searches of the whole map; None if the predicted position stays.

        Args:
            everywhere: What was found with each tile; in doubt, that of the last metres is first.
            doubted: Whether the queries before contradict the predicted position.
            off_map: Whether this position is off the map.
        """
        track = self._settings.track
        likely = track.elsewhere_in_doubt if doubted else track.elsewhere
        std = float(worst_std(self._filter.belief().covariance[None])[0])
        near_m = max(track.near_m, AWAY_STDS * std)
        for number, (found, aligned) in enumerate(everywhere):
            fixes = self._believed(aligned, off_map and not doubted)
            away, probability = self._best(fixes.candidates)
            if away > near_m and probability > likely:
                self._contradict(probability)
            if self.contradicted_m is not None or not doubted:
                return found, fixes
            if number == 0 and away <= near_m:
                # The best position of the whole map would hardly be this one by chance.
                self._doubt.metres = 0.0
                return None
        if self._doubt.metres > track.lost_m:
            self._contradict(1 - track.least_score)
            return found, fixes
        return None

    def _best(self, seen: Candidates) -> tuple[float, float]:
        """Metres from the predicted position to the best candidate, and its probability."""
        belief = self._filter.belief()
        tracked = self._settings.track.enabled and belief.score >= self._settings.track.least_score
        if not tracked or len(seen.poses) == 0:
            return np.nan, 0.0
        best = int(seen.log_scores.argmax())
        away = np.hypot(*(seen.poses[best, :2] - belief.pose[:2]))
        return float(away), float(np.exp(seen.log_scores[best]))

    def _contradict(self, elsewhere: float) -> None:
        """Give up the predicted position: the vehicle is ``elsewhere``, with this probability."""
        self._filter.doubt(min(elsewhere, 1 - self._settings.fuse.miss))
        self.contradicted_m = max(self._doubt.metres, self._settings.track.doubt_m)
        self._doubt.metres = 0.0
        self._fresh_from_m = -np.inf  # what contradicts the old position has not been used yet

    def _on_map(self, pose: Array) -> bool:
        """Whether a pose is where candidates can be."""
        tracked = self._engine.tracked
        assert tracked is not None
        return bool(((pose[:2] >= tracked.low) & (pose[:2] <= tracked.high)).all())

    def _believed(self, fixes: Fixes, off_map: bool) -> Fixes:
        """What a search of the whole map found; nothing doubtful if the vehicle is off the map."""
        seen = fixes.candidates.log_scores
        if off_map and (len(seen) == 0 or np.exp(seen.max()) <= self._settings.track.elsewhere):
            return NO_FIXES._replace(wall_m2=fixes.wall_m2)
        return fixes

    def _whole_map(self, tracked: bool, off_map: bool, at: Motion) -> bool:
        """Whether a query searches the whole map, after what it found near the predictions."""
        track, metres = self._settings.track, at.travelled - self._searched_m
        if not tracked and not off_map:
            return True
        unsure = tracked and self._filter.belief().score < self._settings.fuse.trust
        doubtful = unsure or self._doubt.searched
        usual = track.off_map_m if off_map else track.again_m
        return metres > (track.doubt_m if doubtful else usual)
