"""Kinds of points, and the label numbers of data sets that stand for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data_prep.settings import Settings

OTHER = 0
"""Kind of points with any other label."""

BUILDING = 1
"""Kind of points on the walls of buildings."""

GROUND = 2
"""Kind of points on open ground that is no road."""

MOVING = 3
"""Kind of points on objects that moved."""

ROAD = 4
"""Kind of points on the surface of roads."""


class LabelTable(Settings):
    """Label numbers of one data set by kind; numbers in no list are ``OTHER``.

    Attributes:
        building: Walls of buildings.
        ground: Low surfaces that are no road: pavement, parking, terrain. With ``road`` empty, the
            roads as well.
        road: Roads, lane markings included.
        moving: Objects that moved during the recording; submaps leave them out.
    """

    building: tuple[int, ...]
    ground: tuple[int, ...]
    road: tuple[int, ...] = ()
    moving: tuple[int, ...] = ()


LABELS: Mapping[str, LabelTable] = {
    "semantickitti": LabelTable(
        building=(50,), ground=(44, 48, 49, 72), road=(40, 60), moving=tuple(range(252, 260))
    ),
    "kitti360": LabelTable(building=(11,), ground=(6, 8, 9, 10, 22), road=(7,)),
    # Moving, of the 32 classes of lidarseg: people and animals (1 to 8), the ego vehicle (31).
    "nuscenes": LabelTable(
        building=(28,), ground=(25, 26, 27), road=(24,), moving=(*range(1, 9), 31)
    ),
    "las": LabelTable(building=(6,), ground=(2,), road=(11,)),
}
"""Tables of the data sets whose readers give labels, by the name in ``Drive.labels``."""


def kinds(label: NDArray[np.int32], table: LabelTable) -> NDArray[np.uint8]:
    """(N,) kind (``OTHER``, ``BUILDING``, ...) of each of (N,) label numbers, by ``table``."""
    result = np.full(len(label), OTHER, np.uint8)
    for kind, numbers in (
        (BUILDING, table.building),
        (GROUND, table.ground),
        (ROAD, table.road),
        (MOVING, table.moving),
    ):
        result[np.isin(label, numbers)] = kind
    return result
