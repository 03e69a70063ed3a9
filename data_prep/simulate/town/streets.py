"""The streets of the made-up town: a warped grid with gaps, crossed by a winding avenue."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import shapely
from shapely import LineString

from data_prep.geometry import Array
from data_prep.simulate.town.town_plan import STREET_WIDTH_M, TOWN_SIZE_M, TownPlan

_BLOCK_M = (85, 165)
"""Least and largest distance of two neighbouring grid lines before scaling, metres."""

_WARP_WAVELENGTH_M = (500, 1100)
"""Least and largest wavelength of the warp that bends the grid, metres."""

_WARP_AMPLITUDE_M = (8, 20)
"""Least and largest amplitude of each wave of the warp, metres."""

_CORNER_EVERY_M = 18
"""A street between two junctions has a vertex about every 18 m."""

_GAP_SHARE = 0.16
"""Share of the inner residential streets that are left out; half of them become footways."""

_LIVING_STREET_SHARE = 0.08
"""Share of the grid's streets that are living streets."""

_AVENUE_SWING_M = 90
"""Amplitude of the avenue's bends, metres."""


def lay_streets(plan: TownPlan) -> None:
    """Draw the street grid and the avenue, split them at their junctions and add them to ``plan``.

    Streets get a name and, some of them, the tag ``width`` or ``lanes``.
    """
    rng = plan.rng
    half = TOWN_SIZE_M / 2
    u, v = (_grid_lines(rng, half) for _ in range(2))
    warp = _Warp.drawn(rng)
    lines, classes = _grid_streets(plan, u, v, warp)
    bend = np.linspace(0, 1, 40)
    swing = _AVENUE_SWING_M * np.sin(2 * np.pi * bend + rng.uniform(0, 2 * np.pi))
    diagonal = np.stack(
        [-half + TOWN_SIZE_M * bend, swing + (bend - 0.5) * rng.uniform(300, 700)], 1
    )
    lines.append(LineString(warp(diagonal)))
    classes.append("secondary")

    tree = shapely.STRtree(lines)
    for piece in shapely.get_parts(shapely.unary_union(lines, grid_size=0.01)):
        source = int(tree.nearest(piece.interpolate(0.5, normalized=True)))
        highway = classes[source]
        tags = {"highway": highway, "name": f"{highway.replace('_', ' ').title()} {source + 1}"}
        if rng.random() < 0.3:
            tags["width"] = f"{STREET_WIDTH_M[highway]:g}"
        elif rng.random() < 0.5:
            tags["lanes"] = "3" if highway == "secondary" else "2"
        plan.streets.append((piece, tags))


class _Warp:
    """A smooth displacement of the plane: per axis a sum of three sine waves along the other."""

    def __init__(self, wavelength: Array, phase: Array, amplitude: Array) -> None:
        """Take the waves of the east (row 0) and of the north displacement (row 1), three of each.

        Args:
            wavelength: (2, 3) metres.
            phase: (2, 3) radians.
            amplitude: (2, 3) metres.
        """
        self._wavelength, self._phase, self._amplitude = wavelength, phase, amplitude

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> _Warp:
        """Return a warp with random waves."""
        wavelength = rng.uniform(*_WARP_WAVELENGTH_M, (2, 3))
        phase = rng.uniform(0, 2 * np.pi, (2, 3))
        return cls(wavelength, phase, rng.uniform(*_WARP_AMPLITUDE_M, (2, 3)))

    def __call__(self, points: Array) -> Array:
        """Return (N, 2) displaced points, metres."""
        angles = points[:, None, ::-1] / self._wavelength.T + self._phase.T / (2 * np.pi)
        angles = 2 * np.pi * angles
        return points + np.einsum("nkc,ck->nc", np.sin(angles), self._amplitude)

    def street(self, a: tuple[float, float], b: tuple[float, float]) -> LineString:
        """Return the straight line from ``a`` to ``b`` (east, north, metres) after the warp."""
        steps = max(2, int(np.hypot(b[0] - a[0], b[1] - a[1]) / _CORNER_EVERY_M))
        return LineString(self(np.linspace(a, b, steps + 1)))


def _grid_streets(
    plan: TownPlan, u: Array, v: Array, warp: _Warp
) -> tuple[list[LineString], list[str]]:
    """Return the streets between neighbouring junctions and their ``highway`` tags.

    Args:
        plan: The town; footways that replace some of the missing streets are added to it.
        u: (n,) east coordinates of the grid lines that run north, metres.
        v: (m,) north coordinates of the grid lines that run east, metres.
        warp: Bends the grid.
    """
    rng = plan.rng
    lines: list[LineString] = []
    classes: list[str] = []
    for along, across, flip in ((u, v, False), (v, u, True)):
        for i, fixed in enumerate(along):
            outer = i in (0, len(along) - 1)
            highway = "tertiary" if i == len(along) // 2 else "residential"
            for start, end in pairwise(across):
                a, b = ((start, fixed), (end, fixed)) if flip else ((fixed, start), (fixed, end))
                if not outer and highway == "residential" and rng.random() < _GAP_SHARE:
                    if rng.random() < 0.5:
                        plan.paths.append((warp.street(a, b), {"highway": "footway"}))
                    continue
                lines.append(warp.street(a, b))
                classes.append("living_street" if rng.random() < _LIVING_STREET_SHARE else highway)
    return lines, classes


def _grid_lines(rng: np.random.Generator, half: float) -> Array:
    """Return the coordinates of parallel grid lines from ``-half`` to ``half``, metres."""
    gaps = rng.uniform(*_BLOCK_M, 12)
    lines = np.cumsum(gaps) - gaps[0]
    count = int(np.searchsorted(lines, 2 * half - 60))
    return lines[:count] * (2 * half / lines[count - 1]) - half
