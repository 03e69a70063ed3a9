"""Fit the profiles of the localization score to simulated drives; prints them for the config.

Run: python benchmarks/fit_score.py [DATA] [--work FOLDER] [--metres M] [--tiles N] [--penalty P]

In each city, vehicles with each sensor are simulated on a route of M metres, and N query tiles are
made along it, every second one with the heading unknown. Of all places (and headings), the true
one shall be the most probable: a conditional logit (McFadden 1974) over the truth's neighbourhood,
the best places that the present score finds and places by chance, each weighted by the area and the
headings it stands for. As in alignment, the map's own shift there (``align.map_std_m``) is not the
score's to explain. Tiles are kept in FOLDER until what makes them changes.

``surface``, ``beside``, ``path`` and ``course`` stay as they are: simulated routes run along the
middle of the map's roads, real ones beside it. How smooth the profiles shall be is told, or chosen
with each city left out in turn. Oxford and Karlsruhe are not among the cities: what is measured
there is measured on places never seen.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from engine import MAKERS_TEXT
from fit_walls import CITIES, ROOT, drive_in
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import logsumexp
from stamp import stamp

from data_prep.city.folder import open_city
from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.drive import Drive
from data_prep.files import atomic_file
from data_prep.geometry import Array, wrap_angle
from maptile_loc.config import load_settings
from maptile_loc.perceive.query_tile import make_tile
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.submap import build_submap
from maptile_loc.pipeline import LocalizeSettings
from maptile_loc.score.evidence import Points, make_evidence, points
from maptile_loc.score.likelihood import LikelihoodSettings, Surroundings, make_fields, surroundings
from maptile_loc.search.match import Matcher
from maptile_loc.types import Queries, QueryTile

F32 = NDArray[np.float32]
SENSORS = {"hdl64": (0.0, 50.0), "robotcar": (50.0,)}
"""The lengths of submaps, metres, that each sensor's tiles are made of."""
EVERY_M = 20.0
PROFILES = {
    **dict.fromkeys(("wall", "facing", "line", "free"), "edge_m"),
    **dict.fromkeys(("ground", "surface", "beside", "path"), "road_m"),
}
"""The terms of the score, each with its knots; ``course`` comes after them."""
ROADS = ("surface", "beside")
FROZEN = (*ROADS, "path", "course")
NEAR_M, NEAR_STEP_M, NEAR_DRAWS = 4.0, 0.4, 2
PEAKS, CHANCE = 80, 500
TURNS = 24
"""So many headings are searched where the heading is unknown."""
SAME_M, SAME_TURN = 6.0, np.radians(6.0)
"""What is nearer to the truth than that is in its neighbourhood already."""
KNOWN_STD, TURN_REACH = np.radians(1.0), np.radians(2.0)
OUTLIERS, ANYWHERE = 0.03, -14.0
"""So many tiles are of no use; log-density of a place by chance, per m2: 1 of 1.2 km2."""
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
RIDGE = 0.01
"""What bends (squared second differences) cost, and what part of that the values' squares do."""


# --- Tiles ---------------------------------------------------------------------------------------


class Example(NamedTuple):
    """A query tile, where it was taken, and whether its heading counts as known."""

    tile: QueryTile
    truth: Array
    known: bool


def examples(
    drive: Drive, raster: MapRaster, submap_m: float, count: int, kept: Path, s: LocalizeSettings
) -> Iterator[Example]:
    """``count`` tiles spread over a drive; from the folder ``kept`` where they are there."""
    assert drive.truth is not None
    plan = plan_queries(drive, Queries(submap_m=submap_m, every_m=EVERY_M))
    latitude, longitude, heading = drive.truth.at(drive.scans.t_ns[plan.scan])
    grid_heading = wrap_angle(heading + raster.convergence)
    truth = np.column_stack([raster.projection.forward(latitude, longitude), grid_heading])
    inside = np.flatnonzero(raster.inside(truth[:, :2], 30.0))
    chosen = inside[np.unique(np.linspace(0, len(inside) - 1, count).astype(int))]
    turned = np.random.default_rng(0).uniform(-np.pi, np.pi, len(truth))
    for number, query in enumerate(chosen):
        known, file = number % 2 == 0, kept / f"{query}.npz"
        if not file.exists():
            submap = build_submap(drive, plan, query, Queries(submap_m=submap_m), s.submap)
            rotation = float((truth[:, 2] if known else turned)[query])
            tile = make_tile(submap, rotation, s.query)
            kept.mkdir(parents=True, exist_ok=True)
            with atomic_file(file) as temporary, temporary.open("wb") as out:
                np.savez_compressed(out, **asdict(tile))
        with np.load(file) as z:
            parts: dict[str, Any] = {name: z[name] for name in z.files}
        tile = QueryTile(**parts | {n: float(parts[n]) for n in ("resolution", "rotation")})
        yield Example(tile, truth[query], known)


# --- Places --------------------------------------------------------------------------------------


class Samples(NamedTuple):
    """Poses that stand for all.

    Attributes:
        poses: (P, 3) east, north, heading.
        log_weight: (P,) log of the m2 that each stands for, times its share of the headings' prior.
        log_truth: (P,) the same times the density of the truth being there on the map, given the
            map's own shift; -inf beyond the truth's neighbourhood.
    """

    poses: Array
    log_weight: Array
    log_truth: Array


class Sampler:
    """Draws places of one map: those that the present score likes, and any others."""

    def __init__(self, raster: MapRaster, size_m: float, settings: LocalizeSettings) -> None:
        match = settings.match.model_copy(update={"candidates": PEAKS, "refined": PEAKS})
        self.map_std = settings.align.map_std_m
        fields = make_fields(raster, match.resolution, settings.likelihood)
        self.matcher = Matcher(fields, size_m, match)
        self.west, self.north, self.step = fields.west, fields.north, fields.resolution
        # By how likely a vehicle is there at all: places off the roads hardly count.
        top, bottom, left, right = (self.matcher.box / self.step).astype(int)
        chance = np.zeros(fields.channels.shape[1:])
        road = surroundings(*_shares(raster, self.step), self.step).road[top:bottom, left:right]
        chance[top:bottom, left:right] = np.exp(
            np.interp(road, settings.likelihood.road_m, settings.likelihood.path)
        )
        self.chance = chance / chance.sum()

    def draw(self, example: Example, rng: np.random.Generator) -> Samples:
        """Samples for a tile."""
        truth, known = example.truth, example.known
        steps = np.arange(-NEAR_M, NEAR_M + NEAR_STEP_M / 2, NEAR_STEP_M)
        near = np.zeros((len(steps) ** 2 * NEAR_DRAWS, 3)) + truth
        shift = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        near[:, :2] += np.tile(shift, (NEAR_DRAWS, 1))
        near[:, 2] += self._jitter(known, len(near), rng)
        near_weight = NEAR_STEP_M**2 / NEAR_DRAWS * (1 if known else TURN_REACH / np.pi)

        turns = np.zeros(1)
        if not known:
            turns = (np.arange(TURNS) + rng.random()) * 2 * np.pi / TURNS
        prior = np.full(len(turns), -np.log(len(turns)))
        peaks = self.matcher.candidates(example.tile, turns, prior).poses
        peaks = peaks[~_same(peaks, truth)]
        around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [0]), -1).reshape(-1, 3)
        many = (peaks[:, None] + around * self.step).reshape(-1, 3)
        if not known:
            many[:, 2] += self._jitter(known, len(many), rng)
        peak_weight = self.step**2 / len(turns)

        cell = rng.choice(self.chance.size, CHANCE, p=self.chance.ravel())
        row, column = np.divmod(cell, self.chance.shape[1])
        heading = np.full(CHANCE, truth[2]) if known else rng.uniform(-np.pi, np.pi, CHANCE)
        drawn = np.column_stack(
            [self.west + column * self.step, self.north - row * self.step, heading]
        )
        drawn_weight = self.step**2 / (CHANCE * self.chance.ravel()[cell])
        other = ~_same(drawn, truth)
        weights = np.full(len(near), near_weight), np.full(len(many), peak_weight)
        log_weight = np.log(np.concatenate([*weights, drawn_weight[other]]))
        density = -0.5 * (shift**2).sum(axis=1) / self.map_std**2
        density -= logsumexp(density) + np.log(NEAR_STEP_M**2)
        log_truth = np.full(len(log_weight), -np.inf)
        log_truth[: len(near)] = np.tile(density, NEAR_DRAWS) + log_weight[: len(near)]
        return Samples(np.concatenate([near, many, drawn[other]]), log_weight, log_truth)

    @staticmethod
    def _jitter(known: bool, count: int, rng: np.random.Generator) -> Array:
        if known:
            return rng.normal(0, KNOWN_STD, count)
        return rng.uniform(-TURN_REACH, TURN_REACH, count)


def _same(poses: Array, truth: Array) -> NDArray[np.bool_]:
    gap = poses - truth
    near = np.hypot(gap[:, 0], gap[:, 1]) < SAME_M
    return np.asarray(near & (np.abs(wrap_angle(gap[:, 2])) < SAME_TURN))


def _shares(raster: MapRaster, resolution: float) -> tuple[F32, F32]:
    return raster.coverage(BUILDING, resolution), raster.coverage(ROAD, resolution)


# --- Features: the score is linear in its profiles -----------------------------------------------


@dataclass(frozen=True)
class Basis:
    """What each knot of the profiles has to do with each cell of a map.

    Attributes:
        edge: (H * W, K) float32, how far the edge distance of each cell is that of knot k.
        road: (H * W, R) float32, likewise of the road distance.
        around: (H, W) each.
        west, north: Outer corner of cell (0, 0), metres.
        resolution: Metres per cell.
    """

    edge: F32
    road: F32
    around: Surroundings
    west: float
    north: float
    resolution: float


def make_basis(raster: MapRaster, resolution: float, settings: LikelihoodSettings) -> Basis:
    """Of a map, at the knots of ``settings``."""
    around = surroundings(*_shares(raster, resolution), resolution)
    edge, road = (
        np.stack([np.interp(at.ravel(), knots, one) for one in np.eye(len(knots))], -1)
        for at, knots in ((around.edge, settings.edge_m), (around.road, settings.road_m))
    )
    west, north = raster.west, raster.north
    return Basis(edge.astype(np.float32), road.astype(np.float32), around, west, north, resolution)


def features(poses: Array, evidence: list[Points], rotation: float, basis: Basis) -> F32:
    """(P, F): their product with ``pack(settings)`` is the ``log_likelihood`` of (P, 3) poses."""
    turn = (poses[:, 2] - rotation).astype(np.float32)[:, None]
    around = basis.around
    found: list[F32] = []
    for group in evidence:
        cell, share = _corners(poses, turn, group.xy, basis)
        hats = basis.road if group.first >= 6 else basis.edge
        value = np.tile(group.values, (4, 1)).T

        def total(weight: F32, hats: F32 = hats, cell: NDArray[np.int32] = cell) -> F32:
            rows = np.arange(len(cell) + 1) * cell.shape[1]
            shape = len(cell), len(hats)
            weights = sparse.csr_array((weight.ravel(), cell.ravel(), rows), shape=shape)
            return np.asarray(weights @ hats)

        def agreement(
            spin: int, a: F32, b: F32, cos: F32, sin: F32, cell: NDArray[np.int32] = cell
        ) -> F32:
            c, s = np.cos(spin * turn), np.sin(spin * turn)
            first, second = np.take(cos, cell), np.take(sin, cell)
            return np.asarray((c * a - s * b) * first + (s * a + c * b) * second)

        # As the fields' means: what falls off the map tells nothing.
        plain = share * value[0]
        mean = hats.mean(axis=0, dtype=np.float64).astype(np.float32)
        found.append(total(plain) - plain.sum(axis=1, keepdims=True) * mean)
        if group.first == 0:
            east, north = around.east, around.north
            found.append(total(share * agreement(1, value[1], value[2], east, north)))
            twice = east**2 - north**2, 2 * east * north
            found.append(total(share * agreement(2, value[3], value[4], *twice)))
        if len(value) == 3:
            along = agreement(2, value[1], value[2], around.course_cos, around.course_sin)
            found.append((share * along).sum(axis=1, keepdims=True))
    return np.hstack(found)


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
    """(F,) values of all profiles."""
    values = [getattr(settings, name) for name in PROFILES]
    return np.concatenate([*values, [settings.course]])


def unpack(values: Array, settings: LikelihoodSettings) -> LikelihoodSettings:
    """``settings`` with the profiles' values of ``pack``."""
    profiles = {
        name: tuple(round(float(v), 4) for v in values[part])
        for name, part in _parts(settings).items()
        if name not in FROZEN
    }
    return settings.model_copy(update=profiles)


def _parts(settings: LikelihoodSettings) -> dict[str, slice]:
    """Where in ``pack``'s values each profile is."""
    ends = np.cumsum([0] + [len(getattr(settings, name)) for name in PROFILES])
    return {name: slice(a, b) for name, a, b in zip(PROFILES, ends[:-1], ends[1:], strict=True)}


# --- The fit -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Tiles with their samples, and padding.

    Attributes:
        features: (Q, P, F) float32.
        log_weight, log_truth: (Q, P) float32, as of ``Samples``; -inf for the padding.
    """

    features: torch.Tensor
    log_weight: torch.Tensor
    log_truth: torch.Tensor

    @classmethod
    def of(cls, tiles: list[tuple[F32, Array, Array]]) -> Problem:
        """From the features, log-weights and ``log_truth`` of each tile."""
        longest = max(len(weight) for _, weight, _ in tiles)
        shape = len(tiles), longest
        found = torch.zeros(*shape, tiles[0][0].shape[1])
        weight, truth = torch.full((2, *shape), -torch.inf)
        for number, parts in enumerate(tiles):
            some, its_weight, its_truth = (torch.from_numpy(part) for part in parts)
            found[number, : len(some)] = some
            weight[number, : len(some)], truth[number, : len(some)] = its_weight, its_truth
        return cls(found, weight, truth)

    def some(self, which: NDArray[np.bool_]) -> Problem:
        """Some of the tiles."""
        chosen = torch.from_numpy(which)
        return Problem(self.features[chosen], self.log_weight[chosen], self.log_truth[chosen])

    def surprise(self, values: torch.Tensor) -> torch.Tensor:
        """(Q,) minus log of the posterior density of the truth, per m2, given (F,) ``values``."""
        scores = self.features @ values
        everywhere = torch.logsumexp(scores + self.log_weight, 1)
        return everywhere - torch.logsumexp(scores + self.log_truth, 1)


def robust(surprise: torch.Tensor) -> torch.Tensor:
    """The same where some tiles may be anywhere."""
    anywhere = torch.full_like(surprise, np.log(OUTLIERS) + ANYWHERE)
    return -torch.logaddexp(np.log(1 - OUTLIERS) - surprise, anywhere)


def fit(problem: Problem, settings: LikelihoodSettings, penalty: float) -> Array:
    """(F,) values that make the truth likeliest, the frozen ones as in ``settings``.

    Args:
        problem: Tiles.
        settings: Where to start.
        penalty: Of bends.
    """
    parts = {n: part for n, part in _parts(settings).items() if n not in FROZEN}
    free = torch.from_numpy(np.r_[tuple(parts.values())])
    start = torch.tensor(pack(settings), dtype=torch.float32)
    moving = start[free].requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [moving],
        max_iter=150,
        history_size=30,
        tolerance_change=1e-6,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        values = start.index_put((free,), moving)
        bends = sum(torch.diff(values[part], n=2).square().sum() for part in parts.values())
        total = robust(problem.surprise(values)).mean()
        total = total + penalty * (bends + RIDGE * moving.square().sum())
        total.backward()
        return total

    optimizer.step(loss)
    return start.index_put((free,), moving).detach().numpy().astype(np.float64)


def left_out(
    problem: Problem, city: NDArray[np.str_], settings: LikelihoodSettings, penalty: float
) -> Array:
    """(Q,) robust surprise of each tile, fitted to the other cities."""
    found = np.zeros(len(city))
    for name in np.unique(city):
        values = fit(problem.some(city != name), settings, penalty)
        found[city == name] = _measure(problem.some(city == name), values)
    return found


def _measure(problem: Problem, values: Array) -> Array:
    surprise = problem.surprise(torch.tensor(values, dtype=torch.float32))
    return robust(surprise).numpy().astype(np.float64)


# --- All of it -----------------------------------------------------------------------------------


def _yaml(settings: LikelihoodSettings) -> str:
    lines = ["likelihood:"]
    for name in ("edge_m", "wall", "facing", "line", "free", "road_m", "ground", *ROADS, "path"):
        form = {"edge_m": "g", "road_m": "g", "free": ".4f", "path": "g"}
        form |= dict.fromkeys(("ground", *ROADS), ".4f")
        values = ", ".join(format(v, form.get(name, ".3f")) for v in getattr(settings, name))
        lines.append(f"  {name}: [{values}]")
    return "\n".join([*lines, f"  course: {settings.course:g}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "fit")
    parser.add_argument("--metres", type=float, default=1200.0)
    parser.add_argument("--tiles", type=int, default=30)
    parser.add_argument("--penalty", type=float, help="of bends, not the best of the first table")
    given = parser.parse_args()
    settings = load_recipe()
    likelihood = settings.likelihood
    made_by = MAKERS_TEXT + settings.query.model_dump_json() + settings.submap.model_dump_json()
    kept = given.work / f"tiles_{hashlib.sha256(made_by.encode()).hexdigest()[:12]}"
    rng = np.random.default_rng(0)
    tiles: list[tuple[F32, Array, Array]] = []
    labels: list[tuple[str, str, str]] = []
    for source in CITIES:
        name = source.split(".")[0]
        drives = {
            sensor: drive_in(given.data / "cities" / source, sensor, given.metres, given.work)
            for sensor in SENSORS
        }
        raster = open_city(given.work / name).raster
        sampler = Sampler(raster, settings.query.size_m, settings)
        basis = make_basis(raster, settings.search.resolution, likelihood)
        for sensor, lengths in SENSORS.items():
            for submap_m in lengths:
                folder = kept / f"{name}_{sensor}_{submap_m:g}"
                for example in examples(
                    drives[sensor], raster, submap_m, given.tiles, folder, settings
                ):
                    samples = sampler.draw(example, rng)
                    evidence = make_evidence(example.tile, settings.search.resolution).points
                    rotation = example.tile.rotation
                    found = features(samples.poses, evidence, rotation, basis)
                    tiles.append((found, samples.log_weight, samples.log_truth))
                    heading = "known" if example.known else "unknown"
                    labels.append((name, f"{sensor}, {submap_m:g} m", heading))
    problem = Problem.of(tiles)
    city, sensor, heading = np.array(labels).T
    print(stamp(), end="\n\n")
    names = np.unique(city)
    print("Minus log-posterior of the truth, per m2, by penalty, fitted to the other cities:\n")
    print(f"| penalty | all | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    outside = {}
    for penalty in PENALTIES:
        outside[penalty] = off = left_out(problem, city, likelihood, penalty)
        each = " | ".join(f"{off[city == name].mean():.3f}" for name in names)
        print(f"| {penalty:g} | {off.mean():.3f} | {each} |", flush=True)
    best = given.penalty or min(outside, key=lambda penalty: float(outside[penalty].mean()))
    if best not in outside:
        outside[best] = left_out(problem, city, likelihood, best)
    fitted = unpack(fit(problem, likelihood, best), likelihood)
    columns = (_measure(problem, pack(likelihood)), outside[best], _measure(problem, pack(fitted)))
    print(f"\nThe same with penalty {best:g}, before and after:\n")
    print("| city | tiles | heading | n | now | fitted to others | fitted |")
    print("|---|---|---|---|---|---|---|")
    for row in [*sorted(set(labels)), ("all", "", "")]:
        these = np.array([row[0] == "all" or label == row for label in labels])
        means = " | ".join(f"{column[these].mean():.2f}" for column in columns)
        print(f"| {' | '.join(row)} | {these.sum()} | {means} |")
    print(f"\n{_yaml(fitted)}")


if __name__ == "__main__":
    main()
