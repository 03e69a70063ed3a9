"""Settings of every search: the ``search`` section of a localization recipe."""

from __future__ import annotations

from data_prep.settings import Count, Fraction, NotNegative, Positive, Settings


class SearchSettings(Settings):
    """How candidates are found and scored, whatever the method.

    Attributes:
        resolution: Metres per cell of the likelihood fields, and of the fine grid of positions.
        coarser: Factor by which the wide grid is coarser; it is used where many headings are tried.
        coarsest: Factor by which the grid is coarser on which a large area is searched first, with
            every second of many headings.
        exhaustive_km2: Up to this area, all positions of the finer grids are scored at once.
        near_roads_m: In larger areas, positions are searched up to this far from a road, metres;
            0: anywhere.
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
        near_m: How far from the streets and buildings that a user names the vehicle may be, metres.
        elsewhere_m: Distance from the best position beyond which a tile matches by chance, metres.
            Nearer, walls that are right may match with a shift along the street.
        chance: Share of the map's squares (``distinct_m`` wide) whose scores a tile is said to
            reach by chance.
        chance_squares: Smallest number of these squares.
        scale_per_root_wall: How far scores reached by chance spread, per square root of the square
            metres of observed wall, as it is expected before the map is searched.
        scale_squares: Number of squares as much as which this expectation counts.
        temper: Scores are divided by their spread by chance and multiplied by this. 1 would make
            scores by chance fall off as exp(-score).
        per_wall_m2: Score per square metre of observed wall that a tile reaches at its true
            position, on average.
        per_wall_std: Its standard deviation, over tiles, sensors and cities.
        nowhere_log_odds: Log-odds that a tile is nowhere on the map rather than at one of the
            squares that match by chance.
        cache_gb: Largest size of the files that keep a map's fields for the next run, in the city's
            folder ``cache`` or, where that cannot be written, in the user's cache; GB. 0: none.
    """

    resolution: Positive = 1.0
    coarser: Count = 2
    coarsest: Count = 4
    exhaustive_km2: NotNegative = 1.0
    near_roads_m: NotNegative = 50.0
    heading_step_deg: Positive = 4.0
    few_turns: Count = 4
    refined: Count = 64
    candidates: Count = 8
    distinct_m: Positive = 4.0
    hopeless: Positive = 30.0
    margin_m: NotNegative = 25.0
    radius_m: Positive = 20.0
    near_m: Positive = 75.0
    elsewhere_m: NotNegative = 64.0
    chance: Fraction = 0.0003
    chance_squares: Count = 20
    scale_per_root_wall: Positive = 0.35
    scale_squares: Positive = 20.0
    temper: Fraction = 0.85
    per_wall_m2: float = 1.2
    per_wall_std: Positive = 0.25
    nowhere_log_odds: float = 0.5
    cache_gb: NotNegative = 4.0


class TrackSettings(Settings):
    """When a live vehicle is searched near its predicted poses, and when on the whole map.

    Attributes:
        enabled: Whether a vehicle is tracked at all; otherwise every query searches the whole map.
        least_score: Smallest probability of the position of a vehicle that is tracked.
        max_std_m: Largest standard deviation of a predicted position that is tracked, metres.
        least: Hypotheses of at least this probability are searched around.
        most: Largest number of hypotheses that are searched around.
        doubt: A query is in doubt if the probability that the vehicle is not at the predicted
            position is higher than this, by the query alone.
        doubt_newest: The same, by the newest scans of a long submap alone, on a map of 1 km2; on
            larger ones, by chance alone, a position is less probable in proportion.
        agrees: The queries after one in doubt are in doubt, too, until one gives the predicted
            position this probability.
        near_m: Candidates this near to the predicted position agree with it, metres.
        suspect_m: Metres of travel with queries in doubt after which the vehicle is no longer
            localized, until a query agrees again.
        doubt_m: Metres of travel with queries in doubt after which the whole map is searched. While
            the vehicle is not localized, that far apart are the searches of the whole map.
        elsewhere: If one of these searches finds another position with this probability, by the
            query alone, the vehicle is at the predicted one only with what this leaves over.
        elsewhere_in_doubt: The same, where the queries before are in doubt.
        lost_m: Metres of travel with queries in doubt after which the predicted position is given
            up, even if no query finds another one by itself.
        off_map_m: Metres of travel between searches of the whole map while the predicted position
            is off it, or too near to its edge.
        again_m: Metres of travel after which the whole map is searched in any case.
    """

    enabled: bool = True
    least_score: Fraction = 0.5
    max_std_m: Positive = 5.0
    least: Fraction = 0.001
    most: Count = 8
    doubt: Fraction = 0.999
    doubt_newest: Fraction = 0.99999
    agrees: Fraction = 0.01
    near_m: Positive = 10.0
    suspect_m: NotNegative = 0.0
    doubt_m: NotNegative = 15.0
    elsewhere: Fraction = 0.9
    elsewhere_in_doubt: Fraction = 0.5
    lost_m: NotNegative = 30.0
    off_map_m: NotNegative = 100.0
    again_m: Positive = 1000.0
