"""Settings of every search: the ``search`` section of a localization recipe."""

from __future__ import annotations

from data_prep.settings import Count, Fraction, NotNegative, Positive, Settings


class SearchSettings(Settings):
    """How candidates are found and scored, whatever the method.

    Attributes:
        resolution: Metres per cell of the likelihood fields, and of the fine grid of positions.
        coarser: Factor by which the wide grid is coarser; it is used where many headings are tried.
        heading_step_deg: Step between the headings that are tried, degrees.
        few_turns: Up to this number of headings, the fine grid is searched at once.
        refined: Number of positions of the wide grid that are searched again on the fine one.
        candidates: Candidates that are returned, at most.
        distinct_m: Side of the squares that yield one candidate each at most, metres. Candidates
            closer than 0.75 of it differ in heading by 15 degrees or more.
        hopeless: Log-likelihood ratio to the best position beyond which a local maximum of the
            wide grid is dropped.
        margin_m: Positions nearer to the map's edge are not searched: half of what is seen from
            there lies off the map, so almost any tile fits.
        radius_m: Half the side of the square that is searched around a candidate of a model.
        chance: Share of the map's squares (``distinct_m`` wide) that exceed the score which a tile
            is said to reach by chance.
        nowhere_log_odds: Prior log-odds that a tile is nowhere on the map.
        nowhere_by_chance: Log-odds that are added per unit of the score that the tile reaches by
            chance.
        nowhere_per_wall_m2: Log-odds that are added per square metre of observed wall: walls come
            in rows, and rows fit in many positions.
        nowhere_per_free_m2: Log-odds that are added per square metre of observed free space.
        nowhere_per_road_m2: Log-odds that are added per square metre of observed road surface.
    """

    resolution: Positive = 1.0
    coarser: Count = 2
    heading_step_deg: Positive = 4.0
    few_turns: Count = 4
    refined: Count = 64
    candidates: Count = 8
    distinct_m: Positive = 4.0
    hopeless: Positive = 30.0
    margin_m: NotNegative = 25.0
    radius_m: Positive = 20.0
    chance: Fraction = 0.001
    nowhere_log_odds: float = -4.0
    nowhere_by_chance: float = 0.62
    nowhere_per_wall_m2: float = 0.35
    nowhere_per_free_m2: float = 0.0022
    nowhere_per_road_m2: float = 0.02
