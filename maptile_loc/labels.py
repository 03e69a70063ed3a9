"""What the label numbers of data sets mean here: building, ground, moving, or anything else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data_prep.settings import Settings

OTHER, BUILDING, GROUND, MOVING = range(4)


class LabelTable(Settings):
    """The numbers of one data set; whatever is in none of the lists is something else.

    Attributes:
        building: Walls.
        ground: Road, pavement, parking, terrain: what a vehicle or a person walks on.
        moving: What moved when it was seen; left out of submaps.
    """

    building: tuple[int, ...]
    ground: tuple[int, ...]
    moving: tuple[int, ...] = ()


LABELS: Mapping[str, LabelTable] = {
    "semantickitti": LabelTable(
        building=(50,), ground=(40, 44, 48, 49, 60, 72), moving=tuple(range(252, 260))
    ),
    "kitti360": LabelTable(building=(11,), ground=(6, 7, 8, 9, 10, 22)),
    # Of 32: people and animals (1 to 8), and the vehicle's own body (31).
    "nuscenes": LabelTable(building=(28,), ground=(24, 25, 26, 27), moving=(*range(1, 9), 31)),
    "las": LabelTable(building=(6,), ground=(2, 11)),
}


def kinds(label: NDArray[np.int32], table: LabelTable) -> NDArray[np.uint8]:
    """(N,) OTHER, BUILDING, GROUND or MOVING of (N,) label numbers."""
    result = np.full(len(label), OTHER, np.uint8)
    for kind, numbers in (
        (BUILDING, table.building),
        (GROUND, table.ground),
        (MOVING, table.moving),
    ):
        result[np.isin(label, numbers)] = kind
    return result
