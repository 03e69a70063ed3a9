"""Rings and areas from the ways of buildings, in degrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

TANGLED_CORNERS = 36
"""Outlines of more corners than this are not repaired if they are tangled."""
TANGLED_BOXES = 16.0
"""Mean number of other edges that an edge comes near to, from where on an outline is tangled: its
repair would take minutes."""
SAMPLE = 64
"""Number of edges whose neighbours are counted."""

RIGHT_ANGLE = 0.05
"""Greatest cosine of an angle that counts as a right one."""
SWAPPED_GAIN = 0.3
"""Share of corners that must become right angles for axes to look swapped."""
MAX_CORNERS = 200_000
"""Number of corners that are examined."""


def joined_rings(lines: list[shapely.LineString | None]) -> tuple[list[shapely.Polygon], bool]:
    """Join the member ways of a multipolygon to rings.

    Returns:
        The rings as polygons without holes, and whether they use all the ways.
    """
    known = [line for line in lines if line is not None]
    rings = [ring_of(line) for line in known if line.is_closed]
    open_lines = [line for line in known if not line.is_closed]
    faces, cuts, dangles, invalid = shapely.polygonize_full(open_lines)
    rings += [shapely.Polygon(face.exterior) for face in faces.geoms]
    whole = len(known) == len(lines) and None not in rings
    whole = whole and cuts.is_empty and dangles.is_empty and invalid.is_empty
    found = np.empty(len(rings) - rings.count(None), object)
    found[:] = [ring for ring in rings if ring is not None]
    return list(repaired(found)), whole


def ring_of(line: shapely.LineString) -> shapely.Polygon | None:
    """Return the polygon inside a closed line; None if it has fewer than three corners."""
    return shapely.Polygon(line) if shapely.get_num_points(line) > 3 else None


def assembled(outer: list[shapely.Polygon], inner: list[shapely.Polygon]) -> shapely.Geometry:
    """The area of a multipolygon.

    The even-odd rule is right also for an island in a courtyard, or an inner ring whose role says
    outer. Rings that are there twice count once, rings of a role that overlap are parts of one
    area, and an inner ring that reaches beyond the outer ones adds nothing.
    """
    apart, holes = _apart(outer), np.array(_apart(inner), object)
    whole = shapely.union_all(apart)
    shapely.prepare(whole)
    beyond = ~shapely.covers(whole, holes)
    holes[beyond] = shapely.intersection(holes[beyond], whole)
    return _even_odd(np.array([*apart, *holes], object))


def _even_odd(parts: NDArray[Any]) -> shapely.Geometry:
    """The area that an odd number of (N,) polygons cover.

    Only those that meet are combined, and by pairs: one after the other, thousands of rings would
    take minutes.
    """
    group = _linked(parts, "intersects")
    order = np.argsort(group, kind="stable")
    parts, group = parts[order], group[order]
    while len(parts) > 1:
        rank = np.arange(len(parts)) - np.searchsorted(group, group)
        right = np.flatnonzero(rank % 2 == 1)
        if not len(right):
            break
        parts[right - 1] = shapely.symmetric_difference(parts[right - 1], parts[right])
        parts, group = np.delete(parts, right), np.delete(group, right)
    left = shapely.get_parts(parts)
    left = left[~shapely.is_empty(left)]
    if len(left) == 1:
        return left[0]
    return shapely.multipolygons(left) if len(left) else shapely.Polygon()


def _linked(parts: NDArray[Any], predicate: str) -> NDArray[np.int32]:
    """(N,) group of each of N polygons: those for which ``predicate`` holds are in one group."""
    first, second = shapely.STRtree(parts).query(parts, predicate=predicate)
    links = coo_array((np.ones(len(first)), (first, second)), shape=(len(parts),) * 2)
    group: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return group


def _apart(rings: list[shapely.Polygon]) -> list[shapely.Geometry]:
    """The different ones of some rings, those that overlap as one."""
    once = np.array(list({ring.normalize().wkb: ring for ring in rings}.values()), object)
    if len(once) < 2:
        return list(once)
    group = _linked(once, "overlaps")
    size = np.bincount(group)
    merged = [shapely.union_all(once[group == one]) for one in np.flatnonzero(size > 1)]
    return [*once[size[group] == 1], *merged]


def repaired(geometry: NDArray[Any]) -> NDArray[Any]:
    """Polygons, the invalid ones among them repaired.

    The method "structure" makes no hole where two parts overlap. A polygon whose outline crosses
    itself everywhere, or has no finite coordinates, becomes empty.

    Args:
        geometry: (N,) polygons; changed.
    """
    invalid = ~shapely.is_valid(geometry)
    lost = ~np.isfinite(shapely.bounds(geometry)).all(axis=1)
    lost[invalid] |= np.array([_is_tangled(one) for one in geometry[invalid]], bool)
    geometry[lost] = shapely.Polygon()
    invalid &= ~lost
    geometry[invalid] = shapely.make_valid(
        geometry[invalid], method="structure", keep_collapsed=False
    )
    return geometry


def _is_tangled(polygon: shapely.Geometry) -> bool:
    """Whether a polygon's outline crosses itself so often that it is no building's."""
    points = shapely.get_coordinates(polygon)
    if len(points) <= TANGLED_CORNERS or not np.isfinite(points).all():
        return False
    low, high = np.minimum(points[:-1], points[1:]), np.maximum(points[:-1], points[1:])
    boxes = shapely.box(*low.T, *high.T)
    some = boxes[:: max(len(boxes) // SAMPLE, 1)]
    near, _ = shapely.STRtree(boxes).query(some)
    return bool(len(near) / len(some) > TANGLED_BOXES)


def swapped_axes(geometry: NDArray[Any]) -> bool:
    """Whether latitude and longitude look exchanged, by the corners of buildings.

    Most corners of buildings are right angles on the ground. With the axes exchanged they are not,
    unless the walls run north or east: a degree of longitude is shorter than one of latitude.

    Args:
        geometry: (N,) polygons, degrees (longitude, latitude).
    """
    points, index = shapely.get_coordinates(geometry[:MAX_CORNERS], return_index=True)
    points, index = points[:MAX_CORNERS], index[:MAX_CORNERS]
    if len(points) < 3 or np.abs(points).max() > 90:
        return False
    one_ring = index[:-2] == index[2:]

    def right_angles(latitude: NDArray[np.float64], xy: NDArray[np.float64]) -> float:
        shrink = np.cos(np.radians(latitude[:-1]))
        step = np.diff(xy, axis=0) * np.stack([shrink, np.ones(len(shrink))], -1)
        length = np.hypot(*step.T)
        valid = one_ring & (length[:-1] > 0) & (length[1:] > 0)
        dot = (step[:-1] * step[1:]).sum(axis=1)[valid]
        cosine = dot / (length[:-1] * length[1:])[valid]
        return float(np.mean(np.abs(cosine) < RIGHT_ANGLE)) if len(cosine) else 0.0

    as_stated = right_angles(points[:, 1], points)
    return right_angles(points[:, 0], points[:, ::-1]) - as_stated > SWAPPED_GAIN
