"""The score as a product: features of a pose times the values of the likelihood's profiles."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.geometry import Array
from maptile_loc.score.evidence import Points
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.score.surroundings import Surroundings, surroundings

F32 = NDArray[np.float32]
"""An array of float32."""

PROFILES = {
    **dict.fromkeys(("wall", "facing", "line", "free"), "edge_m"),
    **dict.fromkeys(("ground", "surface", "beside", "path"), "road_m"),
}
"""The profiles, each with the name of its knots, in the order of ``pack``."""

COURSE = "course"
"""The one term that is no profile but a factor; it comes last in ``pack``."""

FITTED = ("wall", "facing", "line", "free", "ground")
"""Terms that are fitted by default."""

DIRECTIONS: dict[str, tuple[str, Callable[[Surroundings], tuple[F32, F32]]]] = {
    "facing_east": ("facing", lambda at: (at.east, at.north)),
    "line_cos": ("line", lambda at: (at.east**2 - at.north**2, 2 * at.east * at.north)),
    "course_cos": (COURSE, lambda at: (at.course_cos, at.course_sin)),
}
"""Term, and the map's cosine and sine, of each direction, by the channel of its cosine."""


@dataclass(frozen=True)
class Basis:
    """The share of each knot of the profiles in each cell of a map.

    Attributes:
        edge: (H * W, K) float32, 1 where a cell's distance from an edge is that of knot k, falling
            linearly to 0 at the neighbouring knots.
        road: (H * W, R) float32, the same for distances from roads.
        around: The map's surroundings, (H, W) each.
        west: East coordinate of the outer corner of cell (0, 0), metres.
        north: North coordinate of that corner, metres.
        resolution: Metres per cell.
    """

    edge: F32
    road: F32
    around: Surroundings
    west: float
    north: float
    resolution: float

    def knots(self, term: str) -> F32:
        """``edge`` or ``road``, whichever the profile ``term`` depends on."""
        return self.edge if PROFILES[term] == "edge_m" else self.road


def make_basis(raster: MapRaster, resolution: float, settings: LikelihoodSettings) -> Basis:
    """The basis of a map, at the knots of ``settings``."""
    coverage = (raster.coverage(band, resolution) for band in (BUILDING, ROAD))
    around = surroundings(*coverage, resolution, settings)
    edge, road = (
        np.stack([np.interp(at.ravel(), knots, one) for one in np.eye(len(knots))], -1)
        for at, knots in ((around.edge, settings.edge_m), (around.road, settings.road_m))
    )
    west, north = raster.west, raster.north
    return Basis(edge.astype(np.float32), road.astype(np.float32), around, west, north, resolution)


def features(poses: Array, evidence: Sequence[Points], rotation: float, basis: Basis) -> F32:
    """(P, F) float32: times ``pack(settings)``, they are the log-likelihood ratios of the poses.

    Args:
        poses: (P, 3) east, north (metres, map frame), heading (radians).
        evidence: The tile's, as ``Evidence.points`` gives it.
        rotation: The tile's ``rotation``, radians.
        basis: The map's.
    """
    turn = (poses[:, 2] - rotation).astype(np.float32)[:, None]
    found: list[F32] = []
    for points in evidence:
        cell, share = _corners(poses, turn, points.xy, basis)
        values = np.tile(points.values, (4, 1)).T
        plain = share * values[0]
        knots = basis.knots(points.group.channels[0].name)
        # Fields have the mean 0, so that evidence off the map adds nothing.
        mean = knots.mean(axis=0, dtype=np.float64).astype(np.float32)
        found.append(_total(plain, cell, knots) - plain.sum(axis=1, keepdims=True) * mean)
        for first, second, spin in points.group.spins:
            term, direction = DIRECTIONS[points.group.channels[first].name]
            a, b = values[first], values[second]
            cos, sin = (np.take(part, cell) for part in direction(basis.around))
            c, s = np.cos(spin * turn), np.sin(spin * turn)
            agreement = share * np.asarray((c * a - s * b) * cos + (s * a + c * b) * sin)
            if term == COURSE:
                found.append(agreement.sum(axis=1, keepdims=True))
            else:
                found.append(_total(agreement, cell, basis.knots(term)))
    return np.hstack(found)


def _total(weight: F32, cell: NDArray[np.int32], knots: F32) -> F32:
    """(P, K) sums of the knots' shares in (P, N) cells, times (P, N) weights."""
    rows = np.arange(len(cell) + 1) * cell.shape[1]
    shape = len(cell), len(knots)
    weights = sparse.csr_array((weight.ravel(), cell.ravel(), rows), shape=shape)
    return np.asarray(weights @ knots)


def _corners(poses: Array, turn: F32, xy: F32, basis: Basis) -> tuple[NDArray[np.int32], F32]:
    """(P, 4 N) cells around the points (N, 2) ``xy`` at the poses, and the share of each."""
    c, s = np.cos(turn), np.sin(turn)
    east = (poses[:, :1] - basis.west).astype(np.float32) + c * xy[:, 0] - s * xy[:, 1]
    south = (basis.north - poses[:, 1:2]).astype(np.float32) - s * xy[:, 0] - c * xy[:, 1]
    across, down = east / basis.resolution - 0.5, south / basis.resolution - 0.5
    left, top = np.floor(across), np.floor(down)
    right_share, below_share = across - left, down - top
    height, width = basis.around.edge.shape
    cells, shares = [], []
    for below in (0, 1):
        for right in (0, 1):
            row, column = top + below, left + right
            share = np.abs(1 - right - right_share) * np.abs(1 - below - below_share)
            on = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            shares.append(np.where(on, share, 0))
            row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
            cells.append(row.astype(np.int32) * width + column.astype(np.int32))
    return np.hstack(cells), np.hstack(shares).astype(np.float32)


def pack(settings: LikelihoodSettings) -> Array:
    """(F,) values of all profiles, and ``course``."""
    values = [getattr(settings, name) for name in PROFILES]
    return np.concatenate([*values, [settings.course]])


def parts(settings: LikelihoodSettings) -> dict[str, slice]:
    """The position of each term in the values of ``pack``."""
    ends = np.cumsum([0] + [len(getattr(settings, name)) for name in PROFILES]).tolist()
    ends.append(ends[-1] + 1)
    names = [*PROFILES, COURSE]
    return {name: slice(a, b) for name, a, b in zip(names, ends[:-1], ends[1:], strict=True)}


def unpack(
    values: Array, settings: LikelihoodSettings, free: Collection[str] = FITTED
) -> LikelihoodSettings:
    """``settings`` with the terms ``free`` as in (F,) ``values``, rounded to four decimals."""
    changed: dict[str, float | tuple[float, ...]] = {}
    for name, part in parts(settings).items():
        rounded = tuple(round(float(value), 4) for value in values[part])
        if name in free:
            changed[name] = rounded[0] if name == COURSE else rounded
    return settings.model_copy(update=changed)


def as_yaml(settings: LikelihoodSettings) -> str:
    """The section ``likelihood`` of a recipe."""
    lines = ["likelihood:"]
    for knots in ("edge_m", "road_m"):
        lines.append(f"  {knots}: [{', '.join(f'{at:g}' for at in getattr(settings, knots))}]")
        for name in (name for name, its_knots in PROFILES.items() if its_knots == knots):
            form = {"wall": ".3f", "facing": ".3f", "line": ".3f", "path": "g"}.get(name, ".4f")
            values = ", ".join(format(value, form) for value in getattr(settings, name))
            lines.append(f"  {name}: [{values}]")
    return "\n".join([*lines, f"  {COURSE}: {settings.course:g}"])
