from __future__ import annotations

import numpy as np
import pytest
import torch
from made_scene import found_by
from test_match import ALL_ROUND, FIELDS, KNOWN, QUERY, RASTER, places, tile_at

from data_prep.geometry import wrap_angle
from maptile_loc.score.evidence import make_evidence, turned
from maptile_loc.score.likelihood import coarser
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.match import Matcher

SETTINGS = SearchSettings()
NEAR = NearSearch(FIELDS, QUERY.size_m, SETTINGS)
EVERYWHERE = Matcher(FIELDS, QUERY.size_m, SETTINGS)
SPAN = RASTER.height * RASTER.resolution


def at(place):
    """A start pose at ``place``, with heading 0."""
    return np.array([[*place, 0.0]])


@pytest.mark.parametrize("turns", [KNOWN, ALL_ROUND], ids=["known", "unknown"])
def test_it_agrees_with_the_search_of_the_whole_map(turns) -> None:
    """Squares that cover the map give its best pose, with its probability."""
    west, south = RASTER.west + 25, RASTER.south + 25
    across, up = np.meshgrid(*(np.arange(20, size - 25, 40.0) for size in (SPAN, SPAN)))
    grid = np.column_stack([west + across.ravel(), south + up.ravel(), 0 * up.ravel()])
    for place in places(3, 4):
        rotation = None if turns is KNOWN else 0.9
        tile = tile_at(place, 0.3, rotation=rotation)
        all_over = found_by(EVERYWHERE, tile, *turns)
        near = found_by(NEAR, tile, grid, *turns)
        np.testing.assert_allclose(near.poses[0], all_over.poses[0], atol=1e-9)
        assert near.log_scores[0] == pytest.approx(all_over.log_scores[0], abs=0.5)


def test_candidates_are_inside_the_square() -> None:
    (place,) = places(3, 1)
    found = found_by(NEAR, tile_at(place), at(place) + [40.0, 0.0, 0.0], *KNOWN)
    east, north = np.abs(found.poses[:, :2] - place - [40.0, 0.0]).T
    assert (east <= 20.5).all()
    assert (north <= 20.5).all()


def test_overlapping_squares_give_a_candidate_once() -> None:
    (place,) = places(3, 1)
    tile = tile_at(place)
    once = found_by(NEAR, tile, at(place), *KNOWN)
    thrice = found_by(
        NEAR, tile, at(place) + np.array([[0.0, 0, 0], [3, 1, 0], [-2, 4, 0]]), *KNOWN
    )
    np.testing.assert_allclose(thrice.poses[0], once.poses[0])
    gap = np.hypot(*(thrice.poses[:, None, :2] - thrice.poses[:, :2]).T)
    assert (gap[np.triu_indices(len(gap), 1)] > 2.9).all()


def test_squares_across_the_edge_of_the_map_are_searched() -> None:
    corner = np.array([[FIELDS.west + 2, FIELDS.north - 2, 0.0]])
    found = found_by(NEAR, tile_at(places(3, 1)[0]), corner, *KNOWN)
    assert np.isfinite(found.poses).all()
    assert np.isfinite(found.log_scores).all()


def test_a_turned_tile_gives_the_same_pose() -> None:
    (place,) = places(5, 1)
    plain = found_by(NEAR, tile_at(place, 0.3, rotation=0.3), at(place), *ALL_ROUND)
    turned = found_by(NEAR, tile_at(place, 0.3, rotation=2.0), at(place), *ALL_ROUND)
    assert np.hypot(*(plain.poses[0, :2] - turned.poses[0, :2])) < 1.5
    assert abs(wrap_angle(plain.poses[0, 2] - turned.poses[0, 2])) < np.radians(4.1)


def test_turns_far_from_the_start_are_not_tried() -> None:
    (place,) = places(5, 1)
    tile = tile_at(place, 0.0, rotation=0.0)
    start = np.array([[*place, 2.0]])
    found = found_by(NEAR, tile, start, *ALL_ROUND, reach_rad=np.radians(10.0))
    assert abs(wrap_angle(found.poses[0, 2] - 2.0)) < np.radians(10 + 2 * 2 + 0.1)
    start[0, 2] = 0.1
    found = found_by(NEAR, tile, start, *ALL_ROUND, reach_rad=np.radians(10.0))
    assert np.hypot(*(found.poses[0, :2] - place)) < 2.0


def test_squares_with_turns_of_their_own_score_as_each_alone() -> None:
    """Squares are correlated together where the same turns are tried, else by themselves."""
    first, second, third = places(5, 3)
    starts = np.array([[*first, 0.0], [*second, 0.0], [*third, 2.0], [*first, -1.0]])
    tile = tile_at(first, 0.0, rotation=0.0)
    evidence = make_evidence(tile, FIELDS.resolution)
    reach = np.radians(10.0)
    together = NEAR.squares(evidence, starts, *ALL_ROUND, reach)
    for number, start in enumerate(starts):
        alone = NEAR.squares(evidence, start[None], *ALL_ROUND, reach)
        np.testing.assert_allclose(together.scores[number], alone.scores[0], atol=1e-3)
        assert (together.turn[number] == alone.turn[0]).mean() > 0.99


@pytest.mark.parametrize("wide", [False, True])
def test_scores_of_a_square_are_sums_of_products(wide) -> None:
    """The transforms, against the plain sum of images times fields at some positions."""
    (place,) = places(5, 1)
    turns, log_prior = ALL_ROUND if wide else KNOWN
    evidence = make_evidence(tile_at(place, 0.0, rotation=0.0), FIELDS.resolution)
    edge = [FIELDS.west + 5.0, FIELDS.north - 40.0, 0.0]
    starts = np.array([[*place, 0.0], edge])
    found = NEAR.squares(evidence, starts, turns, log_prior, 0.0)
    fields = coarser(FIELDS, SETTINGS.coarser) if wide else FIELDS
    image = turned(evidence, np.zeros(1), fields.resolution, torch.device("cpu"))[0].numpy()
    side = image.shape[1]
    margin = [(0, 0), (side, side), (side, side)]
    padded = np.pad(fields.channels, margin).astype(np.float64)
    for square, row, column in ((0, 0, 0), (0, 7, 3), (1, 2, 15), (1, 20, 0)):
        top, left = found.first[square] + [row, column] - side // 2 + side
        part = padded[:, top : top + side, left : left + side]
        expected = (part * image).sum() + log_prior[0]
        assert found.scores[square, row, column] == pytest.approx(expected, abs=2e-3)
