"""How each method finds its candidates: parts of ``configs/localize.yaml``."""

from __future__ import annotations

from data_prep.settings import Count, NotNegative, Positive, Settings


class MatchSettings(Settings):
    """How the search runs.

    Attributes:
        resolution: Metres per cell of the search grid where the heading is known, and of the
            fields.
        coarser: So many times wider is the grid where many headings are tried; the best places
            found are then searched as finely as where the heading is known.
        heading_step_deg: Step between the headings that are tried.
        refined: So many places are searched again.
        candidates: How many are kept.
        distinct_m: Two candidates are at least this far apart.
        margin_m: Places nearer to the map's edge are left out: half of what is seen from there is
            not on the map, so almost any tile fits.
        nowhere_log_odds: Log-odds, before anything is seen, that a tile is nowhere on the map, ...
        nowhere_by_chance: ... the share of what it scores by chance that is added to them, ...
        nowhere_per_wall_m2, nowhere_per_free_m2: ... and what each square metre adds that was seen
            to be a wall, or free: walls are in rows, and rows fit somewhere, the better the more
            there are.
        nowhere_per_road_m2: ... or to be a road's surface, which fits on any road.
        exact: Where many headings are tried, search on until no place can be better than the best
            found. It takes seconds for each square kilometre.
        radius_m: How far around the places that a model names is searched.
    """

    resolution: Positive = 1.0
    coarser: Count = 2
    heading_step_deg: Positive = 4.0
    refined: Count = 64
    candidates: Count = 8
    distinct_m: Positive = 4.0
    margin_m: NotNegative = 25.0
    nowhere_log_odds: float = -4.0
    nowhere_by_chance: float = 0.62
    nowhere_per_wall_m2: float = 0.35
    nowhere_per_free_m2: float = 0.0022
    nowhere_per_road_m2: float = 0.02
    exact: bool = False
    radius_m: Positive = 20.0


class MapNetSettings(Settings):
    """How a regressor's answer, which may be off by tens of metres, is used.

    Attributes:
        squares: So many squares on each side, each searched as about the places of other models,
            with the answer in the middle.
        heading_deg: How far from the heading that it gives, where the heading is not known.
    """

    squares: Count = 5
    heading_deg: Positive = 30.0


class CellsSettings(Settings):
    """How a model's answers are used.

    Attributes:
        heading_step_deg: Step between the headings at which a tile is shown to it, where the
            heading is not known.
        places: So many of its likeliest places are searched.
    """

    heading_step_deg: Positive = 5.0
    places: Count = 96


class RetrievalSettings(Settings):
    """How the map's views are kept and asked for.

    Attributes:
        every_m: Metres of road between the places of the database, which lie on both its sides.
        heading_step_deg: Step between the headings at which a tile is looked up, where the heading
            is not known.
        places: So many of the most similar places are searched.
        apart_m: ... no two of them nearer than that.
    """

    every_m: Positive = 2.5
    heading_step_deg: Positive = 10.0
    places: Count = 96
    apart_m: Positive = 10.0
