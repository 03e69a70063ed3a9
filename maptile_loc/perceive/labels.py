"""Kinds of points, and the label numbers of data sets that stand for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data_prep.settings import Settings

OTHER = 0
"""Kind of points with any other label."""

BUILDING = 1
"""Kind of points on the walls of buildings, garages included."""

GROUND = 2
"""Kind of points on open ground that is no road."""

MOVING = 3
"""Kind of points on objects that moved."""

ROAD = 4
"""Kind of points on the surface of roads."""

VEGETATION = 5
"""Kind of points on trees, bushes and hedges, trunks aside."""

FENCE = 6
"""Kind of points on fences, guard rails and barriers."""

FREE_WALL = 7
"""Kind of points on free-standing walls."""

GATE = 8
"""Kind of points on gates."""

POLE = 9
"""Kind of points on trunks, poles, lamps and signs."""

CAR = 10
"""Kind of points on cars, motorcycles and bicycles."""

TRUCK = 11
"""Kind of points on trucks, buses, trailers, caravans and trains."""

PERSON = 12
"""Kind of points on people and riders."""

UNLABELLED = 13
"""Kind of points without a label, or with one that stands for none."""

KINDS: Mapping[str, int] = {
    "vegetation": VEGETATION,
    "fence": FENCE,
    "free_wall": FREE_WALL,
    "gate": GATE,
    "pole": POLE,
    "car": CAR,
    "truck": TRUCK,
    "person": PERSON,
    "unlabelled": UNLABELLED,
    "building": BUILDING,
    "ground": GROUND,
    "road": ROAD,
    "moving": MOVING,
}
"""Kinds by their fields of ``LabelTable``; a number in several fields has the kind of the last."""


class LabelTable(Settings):
    """Label numbers of one data set by kind; numbers in no list are ``OTHER``.

    Localization uses the first four fields. The others say what the wall evidence of unlabelled
    scans is measured against.

    Attributes:
        building: Walls of buildings, garages included.
        ground: Low surfaces that are no road: pavement, parking, terrain. With ``road`` empty, the
            roads as well.
        road: Roads, lane markings included.
        moving: Objects that moved during the recording; submaps leave them out.
        vegetation: Trees, bushes and hedges, trunks aside.
        fence: Fences, guard rails and barriers.
        free_wall: Free-standing walls.
        gate: Gates.
        pole: Trunks, poles, lamps and signs.
        car: Cars, motorcycles and bicycles.
        truck: Trucks, buses, trailers, caravans and trains.
        person: People and riders.
        unlabelled: Points without a label, noise included.
    """

    building: tuple[int, ...]
    ground: tuple[int, ...]
    road: tuple[int, ...] = ()
    moving: tuple[int, ...] = ()
    vegetation: tuple[int, ...] = ()
    fence: tuple[int, ...] = ()
    free_wall: tuple[int, ...] = ()
    gate: tuple[int, ...] = ()
    pole: tuple[int, ...] = ()
    car: tuple[int, ...] = ()
    truck: tuple[int, ...] = ()
    person: tuple[int, ...] = ()
    unlabelled: tuple[int, ...] = ()


LABELS: Mapping[str, LabelTable] = {
    # "Other vehicles" (20) are mostly trailers and caravans.
    "semantickitti": LabelTable(
        building=(50,),
        ground=(44, 48, 49, 72),
        road=(40, 60),
        moving=tuple(range(252, 260)),
        vegetation=(70,),
        fence=(51,),
        pole=(71, 80, 81),
        car=(10, 11, 15),
        truck=(13, 16, 18, 20),
        person=(30, 31, 32),
        unlabelled=(0, 1),
    ),
    "kitti360": LabelTable(
        building=(11, 34),
        ground=(6, 8, 9, 10, 22),
        road=(7,),
        vegetation=(21,),
        fence=(13, 14),
        free_wall=(12,),
        gate=(35,),
        pole=(17, 18, 19, 20, 37, 38),
        car=(26, 32, 33),
        truck=(27, 28, 29, 30, 31, 43),
        person=(24, 25),
        unlabelled=(0, 1, 2, 3),
    ),
    # Moving, of the 32 classes of lidarseg: people and animals (1 to 8), the ego vehicle (31).
    "nuscenes": LabelTable(
        building=(28,),
        ground=(25, 26, 27),
        road=(24,),
        moving=(*range(1, 9), 31),
        vegetation=(30,),
        fence=(9,),
        car=(14, 17, 20, 21),
        truck=(15, 16, 18, 19, 22, 23),
        unlabelled=(0,),
    ),
    "las": LabelTable(
        building=(6,),
        ground=(2,),
        road=(11,),
        vegetation=(3, 4, 5),
        pole=(15,),
        unlabelled=(0, 1, 7, 18),
    ),
}
"""Tables of the data sets whose readers give labels, by the name in ``Drive.labels``."""


def kinds(label: NDArray[np.int32], table: LabelTable) -> NDArray[np.uint8]:
    """(N,) kind (``OTHER``, ``BUILDING``, ...) of each of (N,) label numbers, by ``table``."""
    result = np.full(len(label), OTHER, np.uint8)
    for field, kind in KINDS.items():
        result[np.isin(label, getattr(table, field))] = kind
    return result
