"""The plan of the made-up town: its streets, paths, areas and buildings."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from data_prep.geometry import Array

TOWN_SIZE_M = 1000.0
"""Side of the square that the street grid fills, metres."""

STREET_WIDTH_M = {"secondary": 10.0, "tertiary": 8.0, "residential": 6.0, "living_street": 5.0}
"""Width of a street, metres, by its value of the OSM tag ``highway``."""

_SMALLEST_BUILDING_M2 = 12.0
"""Smaller pieces of a building's shape are dropped, square metres."""

_LEVELS_SHARE = 0.6
"""Share of buildings that are tagged with their levels."""

_LEVELS_OR_HEIGHT_SHARE = 0.75
"""Share of buildings that are tagged with their levels or their height."""


@dataclass
class TownPlan:
    """The parts of the town so far, in metres east and north of its centre.

    Attributes:
        rng: Source of all random draws; the order of the draws decides the town.
        streets: Centre lines of the streets with their OSM tags.
        paths: Centre lines of footways and paths with their OSM tags.
        areas: Polygons that houses keep clear of; those with tags are written to the file.
        buildings: Footprints.
        tags: OSM tags of each building.
    """

    rng: np.random.Generator
    streets: list[tuple[LineString, dict[str, str]]] = field(default_factory=list)
    paths: list[tuple[LineString, dict[str, str]]] = field(default_factory=list)
    areas: list[tuple[Polygon, dict[str, str]]] = field(default_factory=list)
    buildings: list[Polygon] = field(default_factory=list)
    tags: list[dict[str, str]] = field(default_factory=list)

    def build(self, shape: BaseGeometry, building: str, levels: int | None = None) -> None:
        """Add the polygons of ``shape`` as buildings, without the pieces that are too small.

        Args:
            shape: Polygon, MultiPolygon or collection, metres from the town's centre.
            building: Value of the OSM tag ``building``.
            levels: Number of storeys; None draws 1 to 4.
        """
        for part in polygons_of(shape.simplify(0.2)):
            if part.area < _SMALLEST_BUILDING_M2:
                continue
            tags = {"building": building}
            draw = self.rng.random()
            storeys = levels or int(self.rng.integers(1, 5))
            if draw < _LEVELS_SHARE:
                tags["building:levels"] = str(storeys)
            elif draw < _LEVELS_OR_HEIGHT_SHARE:
                tags["height"] = f"{storeys * 3 + self.rng.uniform(0, 2):.1f}"
            self.buildings.append(part)
            self.tags.append(tags)


def polygons_of(shape: BaseGeometry) -> list[Polygon]:
    """Return the polygons of a geometry, without its points and lines."""
    return [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]


def rectangle(
    centre: tuple[float, float] | Array, width: float, depth: float, turn: float
) -> Polygon:
    """Return a rectangle turned counter-clockwise by ``turn`` radians.

    Args:
        centre: (2,) east, north, metres.
        width: Side along the x axis before the turn, metres.
        depth: Side along the y axis before the turn, metres.
        turn: Radians counter-clockwise.
    """
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, depth / 2)
    c, s = np.cos(turn), np.sin(turn)
    return Polygon(corners @ np.array([[c, s], [-s, c]]) + np.asarray(centre))
