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

QUARTER = 64
"""Segments of a quarter of a circle."""


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
