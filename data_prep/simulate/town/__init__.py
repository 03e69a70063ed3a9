"""A small made-up town of about 1 km2 as an OSM XML file, for the demo and the tests.

Curved streets form a warped grid that a winding avenue crosses. Closed blocks with courtyards stand
in the middle, terraces around them and detached houses outside, besides a park, a church, a school,
a factory and a round hall. No two blocks are alike, so that every position can be recognised by the
buildings around it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.errors import MaptileError
from data_prep.files import atomic_file
from data_prep.regular import open_regular
from data_prep.simulate.town.blocks import fill_blocks
from data_prep.simulate.town.osm_xml import GENERATOR, osm_xml
from data_prep.simulate.town.streets import lay_streets
from data_prep.simulate.town.town_plan import TownPlan


def is_town(path: Path) -> bool:
    """Whether a file is a made-up town, by its first bytes."""
    try:
        with open_regular(path) as file:
            return GENERATOR.encode("ascii") in file.read(200)
    except (OSError, MaptileError):
        return False


def write_town(path: Path, seed: int = 0) -> None:
    """Write the made-up town as an OSM XML file.

    Args:
        path: The ``.osm`` file to write; it appears whole or not at all.
        seed: Seed of all random draws; the same seed gives the same bytes.

    Raises:
        MaptileError: The file cannot be written.
    """
    plan = TownPlan(np.random.default_rng(seed))
    lay_streets(plan)
    fill_blocks(plan)
    text = osm_xml(plan)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
