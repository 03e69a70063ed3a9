"""The part of a map in which the vehicle is known to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.city.names import named_area
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from maptile_loc.arguments import several
from maptile_loc.score.distance import squared_distance
from maptile_loc.score.fields import LikelihoodFields

QUARTER = 64
"""Segments of a quarter of a circle."""

STRIP = 256
"""Rows of positions near which roads are looked for at a time."""


@dataclass(frozen=True)
class Area:
    """The only part of the map that is searched.

    Attributes:
        shape: A polygon or several, metres, map frame.
    """

    shape: shapely.Geometry

    @classmethod
    def disc(cls, east: float, north: float, radius: float) -> Area:
        """A circle about a position, metres."""
        return cls(shapely.Point(east, north).buffer(radius, quad_segs=QUARTER))

    def within(self, places: Array) -> NDArray[np.bool_]:
        """(N,) whether each of (N, 2) east, north lies in it."""
        shapely.prepare(self.shape)
        inside: NDArray[np.bool_] = shapely.contains_xy(self.shape, places[:, 0], places[:, 1])
        return inside

    def nearest(self, places: Array) -> int:
        """The index of that of (N, 2) east, north that is nearest to it."""
        return int(np.argmin(shapely.distance(self.shape, shapely.points(places))))

    def drawn_in(self, starts: Array) -> Array:
        """Those of (K, 3) east, north, turn that lie in it; if none does, the first, moved in."""
        inside = self.within(starts[:, :2])
        if inside.any() or len(starts) == 0:
            return starts[inside]
        line = shapely.shortest_line(self.shape, shapely.Point(starts[0, :2]))
        return np.array([[*shapely.get_coordinates(line)[0], starts[0, 2]]])


def searched_area(
    city: City,
    prior: tuple[float, float, float] | None,
    near: Sequence[str],
    near_m: float,
) -> Area | None:
    """The area that a user names; None: the whole map.

    Args:
        city: The city.
        prior: Latitude, longitude (degrees) and radius (metres) of a circle, or None.
        near: Names of streets or buildings, as for ``named_area``.
        near_m: Metres around what is named.

    Raises:
        MaptileError: The circle is none or not on the map, a name is unknown or ambiguous, or
            nothing of what is named lies in the circle.
    """
    shapes = []
    if prior is not None:
        latitude, longitude, radius = _circle(prior)
        east, north = city.raster.projection.forward(latitude, longitude)
        if not radius > 0 or not city.raster.inside(np.array([east, north]), -radius):
            raise MaptileError(f"--prior {latitude},{longitude},{radius:g}: not on this city's map")
        shapes.append(Area.disc(float(east), float(north), radius).shape)
    if near:
        shapes.append(named_area(city, several(near), near_m))
    if not shapes:
        return None
    both = shapely.intersection_all(shapes)
    if both.is_empty:
        raise MaptileError("--near and --prior: nothing of what is named lies in the circle")
    return Area(both)


def _circle(prior: Sequence[float]) -> tuple[float, float, float]:
    """Latitude, longitude and radius of a circle; raises ``MaptileError`` if it is none."""
    try:
        latitude, longitude, radius = map(float, prior)
    except (TypeError, ValueError):
        raise MaptileError(
            f"--prior {prior}: expected latitude, longitude (degrees) and a radius (metres)"
        ) from None
    return latitude, longitude, radius


def near_a_road(
    fields: LikelihoodFields,
    step: float,
    rows: tuple[int, int],
    columns: tuple[int, int],
    reach_m: float,
) -> NDArray[np.bool_]:
    """(R, C) which positions of a grid are near a road, or may be on a map without roads.

    Args:
        fields: The map's fields.
        step: Metres between neighbouring positions, a multiple of the fields' cells.
        rows: Range of the positions among the corners of the grid's cells, end excluded.
        columns: Likewise.
        reach_m: Largest distance from a road, metres.
    """
    size, reach = round(step / fields.resolution), reach_m / step
    margin = int(reach) + 1
    first, last = rows[0] - margin, rows[1] + margin
    left, width = (columns[0] - margin) * size, (columns[1] - columns[0] + 2 * margin) * size
    road = np.zeros((last - first, width // size), bool)
    for row in range(0, len(road), STRIP):
        some = min(STRIP, len(road) - row)
        strip = fields.roads((first + row) * size, left, some * size, width)
        road[row : row + some] = strip.reshape(some, size, -1, size).any(axis=(1, 3))
    if not road.any():
        return np.ones((rows[1] - rows[0], columns[1] - columns[0]), bool)
    near = squared_distance(road, margin) <= reach**2
    return near[margin:-margin, margin:-margin]
