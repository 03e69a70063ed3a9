"""Settings of simulated worlds: how far a world differs from the map."""

from __future__ import annotations

from typing import Annotated

import pydantic

from data_prep.settings import NotNegative, Settings

Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
"""A share from 0 to 1, both included."""


class WorldSettings(Settings):
    """How far the world differs from the map; with zeros it is the map.

    Counts are per 100 m of road. Trees, shrubs and people also stand along paths, whose length then
    counts as well.

    Attributes:
        shift_m: Standard deviation of each building's displacement, east and north alike, metres.
        missing: Share of the map's buildings that do not exist in the world.
        new: Number of buildings that the map lacks, as a share of the buildings on the map.
        road_shift_m: Standard deviation of each road's and path's displacement, east and north
            alike, metres.
        road_width: Standard deviation of the logarithm of each road's width, relative to the map.
        height_m: Least and largest height of buildings without a height on the map, metres; garages
            and sheds are lower.
        relief_m: Mean depth of windows and doors in the walls, metres.
        glass: Share of the windows that beams pass; half of those beams never return. Most windows
            have blinds, curtains or frames right behind the glass.
        dark: Share of the windows that return nothing: their panes mirror the beams away, and the
            room behind is dark.
        bays_per_100m: Number of bays and balconies per 100 m of wall.
        eaves_m: Overhang of roofs beyond the walls, metres.
        roof_deg: Slope of the gabled roofs on nearly rectangular buildings, degrees.
        slope: Root mean square of the ground's slope (0.02: 2 %), over hundreds of metres.
        garden_slope: The same of the ground of gardens, over some metres: lawns and beds are not
            graded, unlike roads. Gardens are not lower than the street, which drains them.
        kerb_m: Height of the ground beside a road above the road's edge, metres.
        camber: Slope of roads from their crown to their edges; guides for the design of urban roads
            ask for 2.5 %, for drainage.
        cars_per_100m: Parked cars, mostly in rows; some are vans and trucks.
        trees_per_100m: Trees along roads and in gardens. Their crowns then cover about 5 % of the
            ground beside roads; those of towns cover more.
        hedges_per_100m: Hedges along and across the road.
        shrubs_per_100m: Shrubs in groups; a third of them stands in front of walls.
        thickets_per_100m: Thickets: rows of high bushes that grow into each other.
        leaves_per_m: Extinction coefficient of a tree's crown, per metre: the share
            exp(-leaves_per_m) of the beams passes one metre of it (Beer-Lambert law). Shrubs are
            four times, hedges eight times as dense.
        fences_per_100m: Garden walls, fences with slats, and gates.
        poles_per_100m: Posts, lamps and signs.
        people_per_100m: People who stand beside roads and paths.
    """

    shift_m: NotNegative = 0.7
    missing: Fraction = 0.03
    new: Fraction = 0.03
    road_shift_m: NotNegative = 0.7
    road_width: NotNegative = 0.15
    height_m: tuple[float, float] = (2.6, 15.0)
    relief_m: NotNegative = 0.3
    glass: Fraction = 0.2
    dark: Fraction = 0.1
    bays_per_100m: NotNegative = 1.2
    eaves_m: NotNegative = 0.3
    roof_deg: float = pydantic.Field(default=35.0, ge=0, lt=80)
    slope: NotNegative = 0.02
    garden_slope: NotNegative = 0.05
    kerb_m: NotNegative = 0.1
    camber: NotNegative = 0.025
    cars_per_100m: NotNegative = 7.0
    trees_per_100m: NotNegative = 16.0
    hedges_per_100m: NotNegative = 6.0
    shrubs_per_100m: NotNegative = 16.0
    thickets_per_100m: NotNegative = 2.0
    leaves_per_m: NotNegative = 0.9
    fences_per_100m: NotNegative = 4.0
    poles_per_100m: NotNegative = 4.0
    people_per_100m: NotNegative = 2.0
