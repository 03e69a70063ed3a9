"""What makes a wall of a simulated building more than a plane: windows, doors, plinths, pilasters.

The ray caster knows plane walls only. Where a ray has met one, the wall's own pattern says how it
goes on: into an opening down to its pane, to the side of the opening, or on into the house.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.simulate.scene.kinds import BUILDING, INSIDE

Floats = NDArray[np.floating]

_STEEPEST = 0.03
_BEFORE_M = 0.5
_PATCH_M = 0.3
_UNEVEN, _SECTION = 0.1, 0.3
"""Patches of walls, so large, and whole fields stand out or back by up to these shares of
``Style.depth``."""


@dataclass(frozen=True)
class Style:
    """How the facades of N buildings are laid out; (N,) float32 each, metres.

    Attributes:
        bay: Width of a field, about: one window wide.
        storey: Height of a storey.
        raised: Height of the ground floor above the ground.
        width: Width of a window.
        sill, head: Heights of its lower and upper edge above the floor.
        depth: How deep it lies in the wall.
        share: Of the fields that have a window at all.
        shop: 1 where the ground floor has a shop window or an open arcade in each field, else 0.
        plinth, pilaster: How far the wall stands out below the ground floor, and between fields.
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
    def drawn(cls, count: int, relief_m: float, rng: np.random.Generator) -> Style:
        """The styles of ``count`` buildings; ``relief_m`` is the mean depth of their windows."""

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

    def of(self, building: NDArray[np.integer]) -> Style:
        """The styles of the (M,) numbered buildings."""
        return Style(**{name: values[building] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Facades:
    """The walls of a world and their patterns.

    Attributes:
        a: (W, 2) float32, where each begins, in the scene's coordinates.
        along: (W, 2) unit vectors from there to its end; the outside is on the right.
        length, base, height: (W,) metres: its length, its foot, and its height above that.
        style: Of each wall.
        glass: Share of the windows that beams go through.
    """

    a: NDArray[np.float32]
    along: NDArray[np.float32]
    length: NDArray[np.float32]
    base: NDArray[np.float32]
    height: NDArray[np.float32]
    style: Style
    glass: float

    def meet(
        self,
        wall: NDArray[np.int32],
        point: NDArray[np.float32],
        direction: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """How rays that meet walls go on.

        Args:
            wall: (N,) the wall that each ray meets.
            point: (N, 3) where it meets the wall's plane.
            direction: (N, 3) its unit direction.

        Returns:
            (N,) metres that the ray goes on, infinite where nothing comes back, negative where
            something stands out of the wall; and (N,) what it meets there, ``BUILDING`` or
            ``INSIDE``.
        """
        along, length, height = self.along[wall], self.length[wall], self.height[wall]
        u = np.einsum("ni,ni->n", point[:, :2] - self.a[wall], along)
        v = point[:, 2] - self.base[wall]
        du = np.einsum("ni,ni->n", direction[:, :2], along)
        dv = direction[:, 2]
        inward = along[:, 0] * direction[:, 1] - along[:, 1] * direction[:, 0]
        further = np.zeros(len(wall), np.float32)
        kind = np.full(len(wall), BUILDING, np.uint8)
        ahead = np.flatnonzero(inward > _STEEPEST)
        part = self._openings(wall[ahead], u[ahead], v[ahead], length[ahead], height[ahead])
        inward, style = inward[ahead], self.style.of(wall[ahead])
        patch = _hash(wall[ahead], u[ahead] // _PATCH_M, v[ahead] // _PATCH_M, 7)
        stands_out = np.where(part.low, style.plinth, np.where(part.between, style.pilaster, 0))
        uneven = _UNEVEN * (2 * patch - 1) + _SECTION * (2 * part.section - 1)
        stands_out = stands_out + style.depth * uneven
        further[ahead] = -np.clip(stands_out / inward, -_BEFORE_M, _BEFORE_M)

        hit = np.flatnonzero(part.inside)
        at, inward, part, patch = ahead[hit], inward[hit], part.of(hit), patch[hit]
        with np.errstate(divide="ignore", invalid="ignore"):
            to_side = (part.u + np.copysign(part.half_u, du[at]) - u[at]) / du[at]
            to_edge = (part.v + np.copysign(part.half_v, dv[at]) - v[at]) / dv[at]
        to_pane = part.depth / inward
        to_frame = np.fmin(to_side, to_edge)
        through = (to_pane < to_frame) & (part.draw < self.glass)
        nothing = through & (patch < 0.5)
        room = 0.3 + 8 * (patch - 0.5)  # 0.3 to 4.3 m behind the pane
        curtain = np.where(part.draw > 0.7, 0.5 * part.depth, 0)
        uneven = (curtain + _UNEVEN * part.depth * patch) / inward
        further[at] = np.where(
            through, to_pane + room / inward, np.minimum(to_pane + uneven, to_frame)
        )
        further[at[nothing]] = np.inf
        kind[at[through]] = INSIDE
        return further, kind

    def _openings(
        self, wall: NDArray[np.int32], u: Floats, v: Floats, length: Floats, height: Floats
    ) -> _Openings:
        """The opening of the field that each of (N,) places on walls is in."""
        style = self.style.of(wall)
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
        return _Openings(
            inside=inside,
            u=centre,
            v=(low + high) / 2,
            half_u=half_u,
            half_v=(high - low) / 2,
            depth=depth,
            draw=draws[3],
            section=draws[4],
            low=v < style.raised,
            between=edge < 0.15,
        )


@dataclass(frozen=True)
class _Openings:
    """What is at N places of walls.

    Attributes:
        inside: (N,) whether a place is inside an opening.
        u, v, half_u, half_v, depth: (N,) metres, of the opening of its field.
        draw, section: (N,) random numbers of that opening and that field, 0 to 1.
        low: (N,) whether the place is below the ground floor.
        between: (N,) whether it is on the edge of two fields.
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

    def of(self, chosen: NDArray[np.int64]) -> _Openings:
        """Those of (M,) chosen places."""
        return _Openings(**{name: values[chosen] for name, values in vars(self).items()})


def _hash(wall: NDArray[np.int32], column: Floats, row: Floats, salt: int) -> NDArray[np.float32]:
    """(N,) numbers from 0 to 1 that look random, the same for the same field."""
    key = wall.astype(np.uint32) * np.uint32(0x9E3779B1)
    key ^= column.astype(np.int32).astype(np.uint32) * np.uint32(0x85EBCA77)
    key ^= row.astype(np.int32).astype(np.uint32) * np.uint32(0xC2B2AE3D)
    key += np.uint32(salt * 0x27D4EB2F & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        key ^= key >> np.uint32(shift)
        key *= np.uint32(factor)
    key ^= key >> np.uint32(16)
    return (key >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)
