"""What the label numbers of data sets mean here: building, ground, moving, or anything else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data_prep.settings import Settings

OTHER, BUILDING, GROUND, MOVING, ROAD = range(5)


class LabelTable(Settings):
    """The numbers of one data set; whatever is in none of the lists is something else.

    Attributes:
        building: Walls.
        ground: Pavement, parking, terrain: what is not the road, and low. Where there is no list of
            roads, the road too.
        road: What vehicles drive on, lane markings too.
        moving: What moved when it was seen; left out of submaps.
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
    # Of 32: people and animals (1 to 8), and the vehicle's own body (31).
    "nuscenes": LabelTable(
        building=(28,), ground=(25, 26, 27), road=(24,), moving=(*range(1, 9), 31)
    ),
    "las": LabelTable(building=(6,), ground=(2,), road=(11,)),
}


def kinds(label: NDArray[np.int32], table: LabelTable) -> NDArray[np.uint8]:
    """(N,) OTHER, BUILDING, GROUND, MOVING or ROAD of (N,) label numbers."""
    result = np.full(len(label), OTHER, np.uint8)
    for kind, numbers in (
        (BUILDING, table.building),
        (GROUND, table.ground),
        (ROAD, table.road),
        (MOVING, table.moving),
    ):
        result[np.isin(label, numbers)] = kind
    return result
