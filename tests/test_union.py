"""The search with several models."""

from __future__ import annotations

import numpy as np
import pytest
from small_city import small_city
from test_retrieval import RECIPE as RETRIEVAL
from test_train import TINY, query

from data_prep.errors import MaptileError
from maptile_loc.learn.loop import train
from maptile_loc.map_search import fix_tile, heading_turns, prepare_search
from maptile_loc.recipe import load_recipe
from maptile_loc.types import HeadingKnowledge, Queries

CELLS = TINY.model_copy(update={"name": "cells", "kind": "cells", "heading": "known"})
SETTINGS = load_recipe(overrides=["cells.places=6", "retrieval.places=6"])


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """A city with a model of cells and a descriptor, each trained for a few steps."""
    city = small_city(tmp_path_factory.mktemp("union"))
    for recipe in (CELLS, RETRIEVAL):
        train(city, recipe, device="cpu")
    return city


@pytest.mark.parametrize("kind", ["known", "unknown"])
def test_the_positions_of_both_models_are_searched(city, kind) -> None:
    asked = Queries(heading=HeadingKnowledge(kind))
    turns = heading_turns(asked.heading, SETTINGS)
    both, cells, retrieval = (
        prepare_search(city, SETTINGS, name) for name in ("cells+retrieval", "cells", "retrieval")
    )
    parts = [one.search.starts(query(), *turns) for one in (cells, retrieval)]
    assert all(len(part) for part in parts)
    found = both.search.starts(query(), *turns)
    np.testing.assert_array_equal(found, np.concatenate(parts))
    # The best pose of both searches is the better one of each.
    scores = {}
    for name, engine in (("both", both), ("cells", cells), ("retrieval", retrieval)):
        _, fixes = fix_tile(query(), asked, engine, SETTINGS)
        scores[name] = fixes.candidates.poses[:1]
    best = [scores["both"][0, :2], scores["cells"][0, :2], scores["retrieval"][0, :2]]
    assert min(np.hypot(*(best[0] - one)) for one in best[1:]) < 2.0


def test_what_cannot_be_put_together_is_refused(city, tmp_path) -> None:
    with pytest.raises(MaptileError, match=r"cells\+retrieval"):
        prepare_search(city, SETTINGS, "match+cells")
    with pytest.raises(MaptileError, match="newest model of each"):
        prepare_search(city, SETTINGS, "cells+retrieval", model=tmp_path)
    with pytest.raises(MaptileError, match="no method named 'views'"):
        prepare_search(city, SETTINGS, "cells+views")
