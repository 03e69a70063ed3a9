"""The relief of the walls of simulated buildings: windows, doors, plinths and pilasters.

The ray caster knows walls as planes only. Where a ray meets such a plane, the pattern of the wall
decides whether the ray ends before the plane, at a pane, at the side of an opening, or inside the
building.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.simulate.scene.surfaces import Surface

Floats = NDArray[np.floating]

_SMALLEST_COSINE = 0.03
"""Rays that meet a wall at a smaller cosine of incidence end on its plane."""

_MOST_RELIEF_M = 0.5
"""Relief lengthens or shortens a ray outside openings by at most this, metres."""

_PATCH_M = 0.3
"""Side of the patches of a wall that have an unevenness of their own, metres."""

_PATCH_RELIEF = 0.1
"""Largest unevenness of a patch, as a share of the depth of the windows."""

_FIELD_RELIEF = 0.3
"""Largest displacement of a field, as a share of the depth of the windows."""

_FRAME_M = 0.15
"""A pilaster reaches this far into the fields on both of its sides, metres."""

_LOWBIAS32 = ((16, 0x7FEB352D), (15, 0x846CA68B))
"""Shifts and factors of the hash function lowbias32 (C. Wellons, hash-prospector, 2018)."""


@dataclass(frozen=True)
class FacadeStyle:
    """The layout of the facades of N buildings; each attribute is (N,) float32.

    A wall is divided into fields, one window wide and one storey high.

    Attributes:
        bay: Approximate width of a field, metres.
        storey: Height of a storey, metres.
        raised: Height of the ground floor above the ground, metres.
        width: Width of a window, metres.
        sill: Height of a window's lower edge above the floor, metres.
        head: Height of a window's upper edge above the floor, metres.
        depth: Depth of a window in the wall, metres.
        share: Share of the fields that have a window.
        shop: 1 where each field of the ground floor is a shop window or an open arcade, else 0.
        plinth: How far the wall stands out below the ground floor, metres.
        pilaster: How far the wall stands out between fields, metres.
    """

    bay: NDArray[np.float32]
    storey: NDArray[np.float32]
    raised: NDArray[np.float32]
    width: NDArray[np.float32]
    sill: NDArray[np.float32]
    head: NDArray[np.float32]
    depth: NDArray[np.float32]
    share: NDArray[np.float32]
    shop: NDArray[np.float32]
    plinth: NDArray[np.float32]
    pilaster: NDArray[np.float32]

    @classmethod
    def drawn(cls, count: int, relief_m: float, rng: np.random.Generator) -> FacadeStyle:
        """Return random styles.

        Args:
            count: Number of buildings.
            relief_m: Mean depth of their windows, metres.
            rng: Draws the styles.
        """

        def between(low: float, high: float) -> NDArray[np.float32]:
            return rng.uniform(low, high, count).astype(np.float32)

        return cls(
            bay=between(1.6, 3.6),
            storey=between(2.7, 3.7),
            raised=between(0, 1) * (rng.random(count) < 0.7),
            width=between(1.0, 1.8),
            sill=between(0.4, 1.0),
            head=between(2.1, 2.5),
            depth=relief_m * between(0.5, 1.5),
            share=between(0.6, 1.0),
            shop=(rng.random(count) < 0.2).astype(np.float32),
            plinth=relief_m * between(0, 0.4) * (rng.random(count) < 0.6),
            pilaster=relief_m * between(0, 0.6) * (rng.random(count) < 0.4),
        )

    def rows(self, building: NDArray[np.integer]) -> FacadeStyle:
        """Return the styles of the buildings with the (M,) given indices."""
        return FacadeStyle(**{name: values[building] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Facades:
    """The W walls of a world and their patterns, in the coordinates of the ray casting scene.

    Attributes:
        a: (W, 2) float32, one end of each wall, metres.
        along: (W, 2) float32 unit vectors from there to the other end; outside is on the right.
        length: (W,) float32, metres.
        base: (W,) float32, height of the wall's foot, metres.
        height: (W,) float32, height of the wall above its foot, metres.
        style: The style of each wall.
        glass: Share of the windows that beams pass.
        dark: Share of the windows that return nothing.
    """

    a: NDArray[np.float32]
    along: NDArray[np.float32]
    length: NDArray[np.float32]
    base: NDArray[np.float32]
    height: NDArray[np.float32]
    style: FacadeStyle
    glass: float
    dark: float

    def meet(
        self,
        wall: NDArray[np.int32],
        point: NDArray[np.float32],
        direction: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return where rays that meet the plane of a wall end, and on what.

        Args:
            wall: (N,) row of the wall that each ray meets.
            point: (N, 3) where it meets the wall's plane, metres, scene coordinates.
            direction: (N, 3) unit vector of the ray.

        Returns:
            (N,) float32 metres along the ray from the plane to its end: positive behind the plane,
            negative in front of it, infinite where nothing returns. And (N,) uint8, what the ray
            meets: ``Surface.BUILDING``, or ``Surface.INSIDE`` behind the glass of a window.
        """
        along, length, height = self.along[wall], self.length[wall], self.height[wall]
        u = np.einsum("ni,ni->n", point[:, :2] - self.a[wall], along)
        v = point[:, 2] - self.base[wall]
        du = np.einsum("ni,ni->n", direction[:, :2], along)
        dv = direction[:, 2]
        inward = along[:, 0] * direction[:, 1] - along[:, 1] * direction[:, 0]
        further = np.zeros(len(wall), np.float32)
        kind = np.full(len(wall), Surface.BUILDING, np.uint8)
        ahead = np.flatnonzero(inward > _SMALLEST_COSINE)
        field = self._fields(wall[ahead], u[ahead], v[ahead], length[ahead], height[ahead])
        inward, style = inward[ahead], self.style.rows(wall[ahead])
        patch = _hash(wall[ahead], u[ahead] // _PATCH_M, v[ahead] // _PATCH_M, 7)
        further[ahead] = self._relief(field, style, patch, inward)
        hit = np.flatnonzero(field.inside)
        at = ahead[hit]
        further[at], through = self._through_openings(
            field.rows(hit), patch[hit], (u[at], v[at]), (du[at], dv[at]), inward[hit]
        )
        kind[at[through]] = Surface.INSIDE
        return further, kind

    def _relief(
        self, field: _Fields, style: FacadeStyle, patch: NDArray[np.float32], inward: Floats
    ) -> Floats:
        """Return (N,) metres from the plane to the end of rays outside openings, negative before.

        Args:
            field: (N,) the fields that the rays meet.
            style: (N,) the styles of the walls.
            patch: (N,) random numbers of the patches, 0 to 1.
            inward: (N,) cosines of incidence.
        """
        stands_out = np.where(field.low, style.plinth, np.where(field.between, style.pilaster, 0))
        uneven = _PATCH_RELIEF * (2 * patch - 1) + _FIELD_RELIEF * (2 * field.section - 1)
        stands_out = stands_out + style.depth * uneven
        return -np.clip(stands_out / inward, -_MOST_RELIEF_M, _MOST_RELIEF_M)

    def _through_openings(
        self,
        field: _Fields,
        patch: NDArray[np.float32],
        position: tuple[Floats, Floats],
        direction: tuple[Floats, Floats],
        inward: Floats,
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Return where rays that meet an opening end, and which of them pass its glass.

        Args:
            field: (N,) the fields of the openings.
            patch: (N,) random numbers of the patches, 0 to 1.
            position: Two (N,), along the wall and above its foot, metres.
            direction: Two (N,), parts of the rays' unit vectors along the wall and up.
            inward: (N,) cosines of incidence.

        Returns:
            (N,) metres behind the plane, infinite where nothing returns; and (N,) bool.
        """
        (u, v), (du, dv) = position, direction
        with np.errstate(divide="ignore", invalid="ignore"):
            to_side = (field.u + np.copysign(field.half_u, du) - u) / du
            to_edge = (field.v + np.copysign(field.half_v, dv) - v) / dv
        to_pane = field.depth / inward
        to_frame = np.fmin(to_side, to_edge)
        through = (to_pane < to_frame) & (field.draw < self.glass)
        room = 0.3 + 8 * (patch - 0.5)  # 0.3 to 4.3 m behind the pane
        curtain = np.where(field.draw > 0.7, 0.5 * field.depth, 0)
        uneven = (curtain + _PATCH_RELIEF * field.depth * patch) / inward
        further = np.where(through, to_pane + room / inward, np.minimum(to_pane + uneven, to_frame))
        further[through & (patch < 0.5)] = np.inf
        mirrors = (field.draw >= self.glass) & (field.draw < self.glass + self.dark)
        further[mirrors & (to_pane < to_frame)] = np.inf
        return further, through

    def _fields(
        self, wall: NDArray[np.int32], u: Floats, v: Floats, length: Floats, height: Floats
    ) -> _Fields:
        """Return the field, with its opening, at each of N positions on walls.

        Args:
            wall: (N,) row of the wall.
            u: (N,) metres along the wall from its first end.
            v: (N,) metres above its foot.
            length: (N,) its length, metres.
            height: (N,) its height, metres.
        """
        style = self.style.rows(wall)
        fields = np.maximum(np.floor(length / style.bay), 1)
        width = length / fields
        column = np.clip(np.floor(u / width), 0, fields - 1)
        row = np.floor((v - style.raised) / style.storey)
        floor = style.raised + np.maximum(row, 0) * style.storey
        draws = [_hash(wall, column, row, salt) for salt in range(5)]
        ground = row <= 0
        shop = ground & (style.shop > 0)
        door = ground & ~shop & (draws[0] < 0.15)
        half_u = np.where(shop, 0.43 * width, np.minimum(0.4 * width, style.width / 2))
        sill = np.where(shop, 0.3 * draws[2], np.where(door, -style.raised, style.sill))
        head = np.where(shop | door, 2.6, style.head)
        depth = style.depth * (0.6 + 0.8 * draws[2])
        depth = depth * np.where(shop, 1 + 2 * (draws[0] < 0.3), np.where(door, 1.5, 1.0))
        low, high = floor + sill, np.minimum(floor + head, height - 0.3)
        centre = (column + 0.5) * width
        inside = (np.abs(u - centre) < half_u) & (v > low) & (v < high) & (depth > 0)
        inside &= shop | door | (draws[1] < style.share)
        edge = np.minimum(u - column * width, (column + 1) * width - u)
        return _Fields(
            inside=inside,
            u=centre,
            v=(low + high) / 2,
            half_u=half_u,
            half_v=(high - low) / 2,
            depth=depth,
            draw=draws[3],
            section=draws[4],
            low=v < style.raised,
            between=edge < _FRAME_M,
        )


@dataclass(frozen=True)
class _Fields:
    """The fields, with their openings, at N positions on walls; all attributes are (N,).

    Attributes:
        inside: Whether the position is inside the opening.
        u: Centre of the opening along the wall, metres.
        v: Centre of the opening above the wall's foot, metres.
        half_u: Half of the opening's width, metres.
        half_v: Half of the opening's height, metres.
        depth: Depth of the opening, metres.
        draw: Random number of the opening, 0 to 1.
        section: Random number of the field, 0 to 1.
        low: Whether the position is below the ground floor.
        between: Whether the position is at the edge of two fields.
    """

    inside: NDArray[np.bool_]
    u: Floats
    v: Floats
    half_u: Floats
    half_v: Floats
    depth: Floats
    draw: Floats
    section: Floats
    low: NDArray[np.bool_]
    between: NDArray[np.bool_]

    def rows(self, chosen: NDArray[np.int64]) -> _Fields:
        """Return those at the positions with the (M,) given indices."""
        return _Fields(**{name: values[chosen] for name, values in vars(self).items()})


def _hash(wall: NDArray[np.int32], column: Floats, row: Floats, salt: int) -> NDArray[np.float32]:
    """Return (N,) pseudo-random numbers from 0 to 1, a function of the arguments alone.

    The arguments are mixed with the primes of xxHash32, then hashed with lowbias32.
    """
    key = wall.astype(np.uint32) * np.uint32(0x9E3779B1)
    key ^= column.astype(np.int32).astype(np.uint32) * np.uint32(0x85EBCA77)
    key ^= row.astype(np.int32).astype(np.uint32) * np.uint32(0xC2B2AE3D)
    key += np.uint32(salt * 0x27D4EB2F & 0xFFFFFFFF)
    for shift, factor in _LOWBIAS32:
        key ^= key >> np.uint32(shift)
        key *= np.uint32(factor)
    key ^= key >> np.uint32(16)
    return (key >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)
