"""One moment of a drive: its submap and the query tile made of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from data_prep.drive import Drive, Times
from data_prep.errors import MaptileError
from data_prep.progress import Progress, silent
from maptile_loc.perceive.plan import QueryPlan, plan_queries
from maptile_loc.perceive.query_tile import QuerySettings, make_tile
from maptile_loc.perceive.submap import Submap, SubmapSettings, build_submap
from maptile_loc.types import Queries, QueryTile


class TileRecipe(NamedTuple):
    """The sections of a localization recipe that determine a query tile."""

    submap: SubmapSettings = SubmapSettings()
    query: QuerySettings = QuerySettings()


@dataclass(frozen=True)
class Moment:
    """One moment of a drive.

    Attributes:
        plan: Every scan of the drive as a query.
        scan: Index of the scan at this moment.
        submap_m: Metres of travel in the submap; 0 is one scan.
        heading: True heading, radians counter-clockwise from east; None if unknown.
        submap: The submap; None if it could not be built or has no points.
        tile: The query tile; None likewise.
        trouble: The reason why there is no submap.
    """

    plan: QueryPlan
    scan: int
    submap_m: float
    heading: float | None
    submap: Submap | None = None
    tile: QueryTile | None = None
    trouble: str = ""

    @property
    def rotation(self) -> float:
        """Radians by which the vehicle frame is turned: north is up, or ahead if it is unknown."""
        return np.pi / 2 if self.heading is None else self.heading


def view_moment(
    drive: Drive,
    submap_m: float,
    at_s: float | None = None,
    recipe: TileRecipe | None = None,
    progress: Progress = silent,
) -> Moment:
    """Build the submap and the query tile of one moment. The drive's truth is not read.

    Args:
        drive: Any drive with at least one scan.
        submap_m: Metres of travel in the submap; 0 is one scan.
        at_s: Seconds from the first scan; by default where half of the path is travelled.
        recipe: How the submap and the tile are made; defaults if None.
        progress: Called after each of the two.
    """
    recipe = TileRecipe() if recipe is None else recipe
    drive = drive.without_truth()
    plan = plan_queries(drive, Queries(submap_m=0.0, every_m=0.0))
    t_ns = drive.scans.t_ns
    scan = _scan_at(t_ns, plan, at_s)
    heading = None
    if drive.heading is not None:
        known = float(drive.heading.at(t_ns[scan : scan + 1])[0])
        heading = None if np.isnan(known) else known
    moment = Moment(plan, scan, submap_m if plan.segment[scan] >= 0 else 0.0, heading)
    progress("query tile", 0, 2)
    try:
        queries = Queries(submap_m=moment.submap_m)
        submap = build_submap(drive, plan, scan, queries, recipe.submap)
    except MaptileError as error:
        return replace(moment, trouble=str(error))
    progress("query tile", 1, 2)
    if not len(submap.points):
        return replace(moment, trouble="no usable points here")
    tile = make_tile(submap, moment.rotation, recipe.query)
    progress("query tile", 2, 2)
    return replace(moment, submap=submap, tile=tile)


def _scan_at(t_ns: Times, plan: QueryPlan, at_s: float | None) -> int:
    """Return the index of the scan nearest to ``at_s``, or of that half-way along the path.

    Args:
        t_ns: (S,) time of each scan.
        plan: The travel and segment of each scan.
        at_s: Seconds from the first scan; None for half-way.
    """
    if at_s is not None:
        return int(np.abs((t_ns - t_ns[0]) / 1e9 - at_s).argmin())
    usable = np.flatnonzero(plan.segment >= 0)
    if not len(usable):
        return len(t_ns) // 2
    travelled = plan.travelled[usable]
    if travelled[-1] == travelled[0]:
        return int(usable[len(usable) // 2])
    return int(usable[np.searchsorted(travelled, (travelled[0] + travelled[-1]) / 2)])
