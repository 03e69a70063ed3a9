"""The search near predicted poses, against the search of the whole map."""

from __future__ import annotations

import numpy as np
import pytest
from made_scene import found_by
from test_match import ALL_ROUND, FIELDS, KNOWN, QUERY, RASTER, places, tile_at

from data_prep.geometry import wrap_angle
from maptile_loc.score.fields import FieldArrays
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.engine.tracked import RADIUS_M, TrackedSearch
from maptile_loc.search.match import Matcher

SETTINGS = SearchSettings()
EVERYWHERE = Matcher(FIELDS, QUERY.size_m, SETTINGS)
TRACKED = TrackedSearch(FIELDS, QUERY.size_m, EVERYWHERE.area_km2, SETTINGS)
REACH = np.radians(6.0)


def tracked(tile, predicted, turns):
    return found_by(TRACKED, tile, np.atleast_2d(predicted), *turns, reach_rad=REACH)


@pytest.mark.parametrize("turns", [KNOWN, ALL_ROUND], ids=["known", "unknown"])
def test_it_finds_what_the_search_of_the_whole_map_finds(turns) -> None:
    """The same poses, from predictions 6 m off; with similar probabilities, by the samples."""
    probability = []
    for place in places(3, 8):
        tile = tile_at(place, 0.3, rotation=None if turns is KNOWN else 0.9)
        everywhere = found_by(EVERYWHERE, tile, *turns)
        found = tracked(tile, [*place + [4.0, -4.5], 0.32], turns)
        np.testing.assert_allclose(found.poses[0], everywhere.poses[0], atol=1e-9)
        probability.append(np.exp([found.log_scores[0], everywhere.log_scores[0]]))
    near, whole = np.mean(probability, axis=0)
    # On this map of parallel walls, tiles match by chance with the headings that are tried near the
    # prediction only: extrapolated to all headings, a single tile is less sure.
    assert whole - (0.25 if turns is KNOWN else 0.6) < near < whole + 0.25


def test_at_a_wrong_prediction_no_candidate_is_probable() -> None:
    for place, other in zip(places(3, 4), places(7, 4), strict=True):
        if np.hypot(*(place - other)) > 2 * RADIUS_M:
            found = tracked(tile_at(place, 0.3), [*other, 0.3], KNOWN)
            assert np.exp(found.log_scores).sum() < 0.05


def test_several_predictions_are_compared() -> None:
    place, other = places(3, 2)
    found = tracked(tile_at(place, 0.3), [[*other, 0.3], [*place, 0.3]], KNOWN)
    assert np.hypot(*(found.poses[0, :2] - place)) < 1.5


def test_the_probabilities_are_at_most_one() -> None:
    """Overlapping squares find the same peak, which counts once."""
    (place,) = places(3, 1)
    predicted = np.array([[*place, 0.3], [*place + 3.0, 0.3], [*place - 5.0, 0.3]])
    found = tracked(tile_at(place, 0.3), predicted, KNOWN)
    assert np.exp(found.log_scores).sum() <= 1 + 1e-9
    gap = np.hypot(*(found.poses[:, None, :2] - found.poses[:, :2]).T)
    assert (gap[np.triu_indices(len(gap), 1)] > 2.9).all()


def test_only_headings_near_the_predicted_one_are_tried() -> None:
    (place,) = places(5, 1)
    found = tracked(tile_at(place, 0.0, rotation=0.4), [*place, 1.5], ALL_ROUND)
    assert np.abs(wrap_angle(found.poses[:, 2] - 1.5)).max() < REACH + np.radians(4 + 0.1)


def test_off_the_map_there_is_no_candidate() -> None:
    west = [RASTER.west - 200.0, RASTER.north - 100.0, 0.0]
    assert len(tracked(tile_at(places(3, 1)[0]), west, KNOWN).poses) == 0


def test_too_near_to_the_edge_there_is_no_candidate() -> None:
    """As in the search of the whole map, candidates keep their distance from the edge."""
    corner = [RASTER.west + 30.0, RASTER.north - 30.0, 0.0]
    found = tracked(tile_at(places(3, 1)[0]), corner, KNOWN)
    assert (found.poses[:, 0] >= RASTER.west + SETTINGS.margin_m - 1e-6).all()
    assert (found.poses[:, 1] <= RASTER.north - SETTINGS.margin_m + 1e-6).all()


def test_a_map_as_small_as_the_surroundings_is_searched() -> None:
    size = 160
    small = FieldArrays(
        np.ascontiguousarray(FIELDS.channels[:, :size, :size]),
        FIELDS.west,
        FIELDS.north,
        FIELDS.resolution,
        FIELDS.building[:size, :size],
    )
    search = TrackedSearch(small, QUERY.size_m, 0.01, SETTINGS)
    centre = np.array([[FIELDS.west + 80, FIELDS.north - 80, 0.3]])
    found = found_by(search, tile_at(centre[0, :2], 0.3), centre, *KNOWN, reach_rad=REACH)
    assert np.isfinite(found.log_scores).all() and len(found.poses)
