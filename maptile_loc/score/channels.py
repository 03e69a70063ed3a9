"""The table of evidence channels: what a query tile shows, and what the map says of it.

A row (``Channel``) pairs an image of the tile with a field of the map. The score of a pose is the
sum over all channels of image times field. Search, alignment and the proof of the best pose iterate
over this table, so a new kind of evidence is one more row, with its profile in the settings.

Directions are cosine and sine of one or two times an angle (a Fourier series in the angle between
tile and map), so that the score stays a correlation. Such a pair turns with the tile: its ``spin``
is the multiple of the tile's turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maptile_loc.score.distance import Codes
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.score.surroundings import Surroundings

F32 = NDArray[np.float32]
Values = NDArray[Any]


class TileCells(NamedTuple):
    """A query tile's cells, as the channels read them; all arrays (S, S) float32.

    Attributes:
        wall: Weight of the wall evidence, 0..1.
        east: East component of the wall's unit normal, on the side that was seen free; 0 where
            neither side was.
        north: North component of the normal.
        straight: 0..1, how straight the wall is in the neighbourhood.
        free: 0..1, observed and not a wall.
        ground: 0..1, ground.
        road: -1..1, 1 on a road's surface, -1 beside a road, 0 unknown.
    """

    wall: F32
    east: F32
    north: F32
    straight: F32
    free: F32
    ground: F32
    road: F32


class PathPoints(NamedTuple):
    """The points of a tile's trajectory, as the channels read them; all arrays (P,) float64.

    Attributes:
        weight: 1 for every point.
        course_cos: Cosine of twice the course; 0 where the vehicle stands.
        course_sin: Sine of twice the course; 0 where the vehicle stands.
    """

    weight: Values
    course_cos: Values
    course_sin: Values


class Profiles:
    """The likelihood's profiles at every cell of a map, each computed when it is first asked for.

    Args:
        around: The map's surroundings.
        settings: The profiles.
    """

    def __init__(self, around: Surroundings, settings: LikelihoodSettings) -> None:
        self.around, self.settings = around, settings
        self._made: dict[str, F32] = {}

    def by_edge(self, name: str) -> F32:
        """(H, W) float32 profile ``name`` at the distance from the nearest building edge."""
        around = self.around
        return self._at(name, around.edge_number, around.scale.edge_m, self.settings.edge_m)

    def by_road(self, name: str) -> F32:
        """(H, W) float32 profile ``name`` at the distance from the nearest road."""
        around = self.around
        return self._at(name, around.road_number, around.scale.road_m, self.settings.road_m)

    def _at(self, name: str, number: Codes, metres: F32, knots: tuple[float, ...]) -> F32:
        if name not in self._made:
            values = np.interp(metres, knots, getattr(self.settings, name))
            self._made[name] = values.astype(np.float32)[number]
        return self._made[name]


@dataclass(frozen=True)
class Channel:
    """One row of the table.

    Attributes:
        name: Unique name.
        source: The channel's image, from ``TileCells`` (or ``PathPoints`` for the trajectory).
        profile: The channel's field, (H, W) float32: what one unit of the image adds to the score.
        spin: Multiple of the tile's turn by which a direction turns: 1, 2, or 0 for no direction.
        partner: Name of the sine's channel, in the row of the cosine; None elsewhere.
    """

    name: str
    source: Callable[[Any], Values]
    profile: Callable[[Profiles], F32]
    spin: int = 0
    partner: str | None = None

    @property
    def centred(self) -> bool:
        """Whether the field's mean is removed, so that evidence off the map adds nothing."""
        return self.spin == 0


@dataclass(frozen=True)
class Group:
    """Channels that share their cells or points; the first has no direction.

    Attributes:
        name: Unique name.
        channels: Rows of the table.
        block: Cells along a side that are summed when the evidence is listed as points; None for
            evidence that comes as points, such as the trajectory.
        sectors: Whether the proof of the best pose bounds the directions sector by sector.
    """

    name: str
    channels: tuple[Channel, ...]
    block: int | None
    sectors: bool = False

    @property
    def first(self) -> int:
        """Index of the group's first channel in ``CHANNELS``."""
        return index(self.channels[0].name)

    @property
    def span(self) -> slice:
        """The group's channels in ``CHANNELS``."""
        return slice(self.first, self.first + len(self.channels))

    @cached_property
    def spins(self) -> tuple[tuple[int, int, int], ...]:
        """Index of the cosine, of the sine (both within the group), and spin of each direction."""
        names = [channel.name for channel in self.channels]
        return tuple(
            (number, names.index(channel.partner), channel.spin)
            for number, channel in enumerate(self.channels)
            if channel.partner is not None
        )


GROUPS = (
    Group(
        "wall",
        (
            Channel("wall", lambda tile: tile.wall, lambda field: field.by_edge("wall")),
            Channel(
                "facing_east",
                lambda tile: tile.wall * tile.east,
                lambda field: field.by_edge("facing") * field.around.east,
                spin=1,
                partner="facing_north",
            ),
            Channel(
                "facing_north",
                lambda tile: tile.wall * tile.north,
                lambda field: field.by_edge("facing") * field.around.north,
                spin=1,
            ),
            Channel(
                "line_cos",
                lambda tile: tile.wall * tile.straight * (tile.east**2 - tile.north**2),
                lambda field: (
                    field.by_edge("line") * (field.around.east**2 - field.around.north**2)
                ),
                spin=2,
                partner="line_sin",
            ),
            Channel(
                "line_sin",
                lambda tile: tile.wall * tile.straight * 2 * tile.east * tile.north,
                lambda field: field.by_edge("line") * 2 * field.around.east * field.around.north,
                spin=2,
            ),
        ),
        block=1,
        sectors=True,
    ),
    Group(
        "free",
        (Channel("free", lambda tile: tile.free, lambda field: field.by_edge("free")),),
        block=4,
    ),
    Group(
        "ground",
        (Channel("ground", lambda tile: tile.ground, lambda field: field.by_road("ground")),),
        block=4,
    ),
    Group(
        "surface",
        (
            Channel(
                "surface",
                lambda tile: np.maximum(tile.road, 0),
                lambda field: field.by_road("surface"),
            ),
        ),
        block=2,
    ),
    Group(
        "beside",
        (
            Channel(
                "beside",
                lambda tile: np.maximum(-tile.road, 0),
                lambda field: field.by_road("beside"),
            ),
        ),
        block=2,
    ),
    Group(
        "path",
        (
            Channel("path", lambda path: path.weight, lambda field: field.by_road("path")),
            Channel(
                "course_cos",
                lambda path: path.course_cos,
                lambda field: field.settings.course * field.around.course_cos,
                spin=2,
                partner="course_sin",
            ),
            Channel(
                "course_sin",
                lambda path: path.course_sin,
                lambda field: field.settings.course * field.around.course_sin,
                spin=2,
            ),
        ),
        block=None,
    ),
)
"""The table. Groups of cells come first, those of points last."""

CHANNELS = tuple(channel for group in GROUPS for channel in group.channels)
"""All rows, in the order of the fields' and the evidence's arrays."""

CELL_GROUPS = tuple(group for group in GROUPS if group.block is not None)
"""The groups whose evidence lies in the tile's cells."""

CELL_CHANNELS = tuple(channel for group in CELL_GROUPS for channel in group.channels)
"""Their rows: the first of ``CHANNELS``."""

PATH_GROUP = next(group for group in GROUPS if group.block is None)
"""The group of the trajectory, whose evidence comes as points."""


def index(name: str) -> int:
    """The position of channel ``name`` in ``CHANNELS``."""
    return [channel.name for channel in CHANNELS].index(name)


SPINS = tuple(
    (group.first + cos, group.first + sin, spin)
    for group in GROUPS
    for cos, sin, spin in group.spins
)
"""Index of the cosine and of the sine in ``CHANNELS``, and spin, of every direction."""
