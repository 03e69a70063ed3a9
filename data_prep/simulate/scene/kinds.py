"""What simulated worlds are made of, and how much of it: kinds of things, labels, settings."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pydantic

from data_prep.settings import Settings

_LABELS = {
    "ground": 72,
    "road": 40,
    "building": 50,
    "inside": 99,
    "car": 10,
    "glass": 10,
    "trunk": 71,
    "leaf": 70,
    "pole": 80,
    "fence": 51,
    "person": 30,
}
KINDS = tuple(_LABELS)
GROUND, ROAD, BUILDING, INSIDE, CAR, GLASS, TRUNK, LEAF, POLE, FENCE, PERSON = range(len(KINDS))

LABEL = np.array(list(_LABELS.values()), "<u4")
"""SemanticKITTI's number of each of ``KINDS``; what lies behind windows is "other object"."""

REFLECTANCE = {
    GROUND: 0.22,
    ROAD: 0.18,
    GLASS: 0.1,
    TRUNK: 0.35,
    LEAF: 0.4,
    POLE: 0.4,
    FENCE: 0.3,
    PERSON: 0.4,
}
"""Of kinds of which all things are alike."""

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Amount = Annotated[float, pydantic.Field(ge=0)]


class WorldSettings(Settings):
    """How far the world is from the map; zeros make it the map.

    Numbers of things are per 100 m of road; trees, shrubs and people also stand along paths.

    Attributes:
        shift_m: Standard deviation of each building's displacement, east and north alike.
        missing: Share of the map's buildings that do not stand.
        new: Buildings that the map lacks, as a share of those it has.
        road_shift_m: Standard deviation of each road's and path's displacement, east and north.
        road_width: And of the logarithm of how much wider it is than on the map.
        height_m: Buildings whose height the map does not tell are between these, metres.
        relief_m: How deep windows and doors lie in the walls, metres, on average.
        glass: Share of the windows that beams go through: half of the beams never come back.
        bays_per_100m: Bays and balconies per 100 m of wall.
        eaves_m: How far roofs stand out over the walls.
        roof_deg: Slope of the gabled roofs of buildings that are nearly rectangles.
        slope: Root mean square of the ground's slope (0.02: 2 %), over hundreds of metres.
        kerb_m: How far roads lie below what is beside them.
        cars_per_100m: Parked cars, mostly in rows; some are vans and trucks.
        trees_per_100m: Along roads and in gardens.
        hedges_per_100m, shrubs_per_100m: Hedges along and across the road, shrubs in groups; a
            third of the shrubs stands before walls.
        leaves_per_m: Leaf area in a tree's crown, as the beams that are stopped: the share
            exp(-leaves_per_m) goes on after a metre. Shrubs are four, hedges eight times as dense.
        fences_per_100m: Garden walls and, half of them, slats with gaps between.
        poles_per_100m, people_per_100m: Posts, lamps and signs; people standing about.
    """

    shift_m: Amount = 0.7
    missing: Share = 0.03
    new: Share = 0.03
    road_shift_m: Amount = 0.7
    road_width: Amount = 0.15
    height_m: tuple[float, float] = (3.0, 15.0)
    relief_m: Amount = 0.3
    glass: Share = 0.3
    bays_per_100m: Amount = 1.2
    eaves_m: Amount = 0.3
    roof_deg: float = pydantic.Field(default=35.0, ge=0, lt=80)
    slope: Amount = 0.02
    kerb_m: Amount = 0.1
    cars_per_100m: Amount = 7.0
    trees_per_100m: Amount = 3.5
    hedges_per_100m: Amount = 2.5
    shrubs_per_100m: Amount = 8.0
    leaves_per_m: Amount = 0.9
    fences_per_100m: Amount = 1.5
    poles_per_100m: Amount = 4.0
    people_per_100m: Amount = 2.0
