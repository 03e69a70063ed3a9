"""The wall detector: its network, its files, and its fit."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, special

from data_prep.errors import MaptileError
from maptile_loc.learn.walls import (
    NO_WALL,
    UNKNOWN,
    FitSettings,
    Sample,
    fit_detector,
    labelled_samples,
    wall_loss,
)
from maptile_loc.perceive.detector import (
    BUILDING_CLASS,
    CARD,
    CLASSES,
    CLIP,
    DILATIONS,
    SHIPPED,
    WEIGHTS,
    WallDetector,
    make_cells,
    read_detector,
    write_detector,
)
from maptile_loc.perceive.labels import BUILDING, GROUND, UNLABELLED, VEGETATION
from maptile_loc.perceive.query_tile import QuerySettings, survey
from maptile_loc.perceive.submap import Submap
from maptile_loc.perceive.walls import FEATURES

NAMES = ("a", "b", "c")
SIZE = 32


@pytest.fixture
def detector() -> WallDetector:
    torch.manual_seed(3)
    made = WallDetector(3, width=8)
    made.mean.copy_(torch.tensor([0.5, -1.0, 0.0]))
    made.spread.copy_(torch.tensor([2.0, 0.5, 1.0]))
    return made.eval()


def some_cells(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    cell = np.sort(rng.choice(SIZE * SIZE, count, replace=False))
    return cell, rng.normal(0, 1, (count, 3)).astype(np.float32)


def dense(detector: WallDetector, cell: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The same network as masked dense convolutions, by scipy."""
    state = {
        name: value.numpy().astype(np.float64) for name, value in detector.state_dict().items()
    }
    here = np.zeros((SIZE, SIZE), bool)
    here.ravel()[cell] = True
    normal = np.clip((features - state["mean"]) / state["spread"], -CLIP, CLIP)
    hidden = np.zeros((SIZE, SIZE, 8))
    first = np.maximum(normal @ state["first.weight"].T + state["first.bias"], 0)
    hidden.reshape(-1, 8)[cell] = first
    sides = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
    corners = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1]]) / 4
    for number, step in enumerate(DILATIONS):
        weight, bias = state[f"layers.{number}.weight"], state[f"layers.{number}.bias"]
        spread = np.zeros((2 * step + 1, 2 * step + 1))
        parts = [hidden]
        for kernel in (sides, corners):
            spread[::step, ::step] = kernel
            parts.append(ndimage.correlate(hidden, spread[..., None], mode="constant"))
        total = np.concatenate(parts, axis=2) @ weight.T + bias
        hidden = (hidden + np.maximum(total, 0)) * here[..., None]
    odds = hidden.reshape(-1, 8)[cell] @ state["last.weight"].T + state["last.bias"]
    return special.softmax(odds, axis=1)[:, BUILDING_CLASS]


def test_the_network_is_a_masked_convolution(detector: WallDetector) -> None:
    cell, features = some_cells()
    found = detector.building(cell, features, SIZE)
    np.testing.assert_allclose(found, dense(detector, cell, features), atol=1e-5)


def test_cells_far_away_and_the_order_of_cells_do_not_matter(detector: WallDetector) -> None:
    cell, features = some_cells()
    order = np.random.default_rng(1).permutation(len(cell))
    shuffled = detector.building(cell[order], features[order], SIZE)
    np.testing.assert_allclose(shuffled, detector.building(cell, features, SIZE)[order], atol=1e-6)
    # Layers reach 1 + 2 + 4 + 1 = 8 cells.
    row, column = np.divmod(cell, SIZE)
    far = np.maximum(abs(row - 3), abs(column - 3)) > sum(DILATIONS)
    middle = np.flatnonzero(~far)[[np.hypot(row - 3, column - 3)[~far].argmin()]]
    near = np.flatnonzero((abs(row - row[middle]) <= 8) & (abs(column - column[middle]) <= 8))
    alone = detector.building(cell[near], features[near], SIZE)
    whole = detector.building(cell, features, SIZE)
    at = np.flatnonzero(near == middle)
    np.testing.assert_allclose(alone[at], whole[middle], atol=1e-6)


def test_no_cells_give_no_probabilities(detector: WallDetector) -> None:
    assert detector.building(np.zeros(0, np.int64), np.zeros((0, 3)), SIZE).shape == (0,)


def test_files_give_the_same_detector(tmp_path: Path, detector: WallDetector) -> None:
    write_detector(tmp_path / "new" / "profile", detector, NAMES, {"drive": "some"})
    again = read_detector(tmp_path / "new" / "profile", NAMES)
    cell, features = some_cells()
    np.testing.assert_array_equal(
        again.building(cell, features, SIZE), detector.building(cell, features, SIZE)
    )
    card = json.loads((tmp_path / "new" / "profile" / CARD).read_text())
    assert card["drive"] == "some"
    assert card["features"] == list(NAMES)


def test_what_is_wrong_with_a_profile_is_one_clear_line(
    tmp_path: Path, detector: WallDetector
) -> None:
    def refused(match: str, names: tuple[str, ...] = NAMES) -> None:
        with pytest.raises(MaptileError, match=match) as caught:
            read_detector(tmp_path, names)
        assert "\n" not in str(caught.value)

    refused(r"no detector\.json in it")
    write_detector(tmp_path, detector, NAMES, {})
    refused("other features", ("a", "b", "d"))
    weights = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(weights[:-1])
    refused(r"does not belong to detector\.json")
    (tmp_path / WEIGHTS).unlink()
    refused("cannot be read")
    (tmp_path / WEIGHTS).write_bytes(weights)
    card = json.loads((tmp_path / CARD).read_text())
    for change, match in (
        ({"version": 99}, "newer"),
        ({"format": "other"}, "not the card"),
        ({"width": -1}, "damaged"),
        ({"width": 7}, "cannot be read"),
    ):
        (tmp_path / CARD).write_text(json.dumps(card | change))
        refused(match)


def test_the_detector_of_the_package_is_small_and_fitted_to_simulation() -> None:
    detector = read_detector(SHIPPED, FEATURES)
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 5e6
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    assert "no recorded drive" in json.loads((SHIPPED / CARD).read_text())["fitted_to"]


# --- Loss and fit ---------------------------------------------------------------------------------


def test_the_loss_of_classes_of_no_walls_and_of_unknown_cells() -> None:
    odds = torch.tensor(np.random.default_rng(0).normal(0, 2, (4, len(CLASSES))))
    p = special.softmax(odds.numpy(), axis=1)
    target = torch.tensor([BUILDING_CLASS, 2, NO_WALL, UNKNOWN])
    expected = -np.log([p[0, BUILDING_CLASS], p[1, 2], 1 - p[2, BUILDING_CLASS]]).mean()
    assert wall_loss(odds, target).item() == pytest.approx(expected)


def striped(rng: np.random.Generator) -> Sample:
    """Cells in rows; two of every four of them are walls, which a cell alone does not show."""
    cell = np.flatnonzero(np.add.outer(np.arange(SIZE), np.zeros(SIZE, int)) % 2 == 0)
    row = cell // SIZE
    wall = row % 8 < 4
    features = rng.normal(np.where(wall, 0.7, -0.7)[:, None], 1.0, (len(cell), 3))
    target = np.where(wall, BUILDING_CLASS, 0)
    target[rng.random(len(cell)) < 0.1] = UNKNOWN
    return Sample(cell, features.astype(np.float32), target)


def test_a_fit_uses_the_cells_around_and_the_seed_decides_it() -> None:
    rng = np.random.default_rng(0)
    samples = [striped(rng) for _ in range(16)]
    settings = FitSettings(width=8, epochs=60, batch=4)
    fitted = fit_detector(samples, SIZE, settings)
    test = striped(rng)
    found = fitted.building(test.cell, test.features, SIZE) > 0.5
    wall = (test.cell // SIZE) % 8 < 4
    alone = test.features.sum(axis=1) > 0  # the best rule for one cell
    assert (found == wall).mean() > 0.97 > 0.92 > (alone == wall).mean()
    again = fit_detector(samples, SIZE, settings)
    for one, other in zip(fitted.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_fit_continues_from_a_detector_and_leaves_it_as_it_is() -> None:
    rng = np.random.default_rng(0)
    samples = [striped(rng) for _ in range(4)]
    start = fit_detector(samples, SIZE, FitSettings(width=8, epochs=2, batch=4))
    before = [parameter.clone() for parameter in start.parameters()]
    tiny = FitSettings(epochs=1, batch=4, learning_rate=1e-9)
    adapted = fit_detector(samples, SIZE, tiny, start)
    for old, kept, new in zip(before, start.parameters(), adapted.parameters(), strict=True):
        assert torch.equal(old, kept)
        torch.testing.assert_close(old, new, atol=1e-6, rtol=0)


def test_targets_are_the_labels_of_upright_points() -> None:
    rng = np.random.default_rng(0)

    def block(x: float, y: float, count: int) -> np.ndarray:
        """Upright points within one cell."""
        return rng.uniform((x + 0.05, y + 0.05, 1.2), (x + 0.45, y + 0.45, 4.0), (count, 3))

    ground = np.column_stack([rng.uniform(-15, 15, (6000, 2)), np.zeros(6000)])
    parts = [
        (ground, GROUND),
        (block(5, 5, 40), VEGETATION),
        (block(-5, 5, 39), VEGETATION),
        (block(-5, 5, 1), BUILDING),
        (block(5, -5, 10), UNLABELLED),
        (block(5, -5, 3), VEGETATION),
    ]
    points = np.concatenate([xyz for xyz, _ in parts]).astype(np.float32)
    kind = np.concatenate([np.full(len(xyz), one, np.uint8) for xyz, one in parts])
    origin = np.array([[0, 0, 1.8]], np.float32)
    cloud = Submap(points, np.zeros(len(points), np.int32), origin, kind)
    settings = QuerySettings(size_m=64.0)
    (sample,) = labelled_samples(survey(cloud, 0.0, settings), settings)
    target = dict(zip(sample.cell.tolist(), sample.target.tolist(), strict=True))
    at = {(x, y): (127 - (64 + 2 * y)) * 128 + 64 + 2 * x for x in (-5, 5) for y in (-5, 5)}
    assert target[at[5, 5]] == CLASSES.index("vegetation")
    assert target[at[-5, 5]] == BUILDING_CLASS
    assert target[at[5, -5]] == UNKNOWN
    assert len(target) == 3


def test_the_neighbours_of_a_cell() -> None:
    cells = make_cells(np.array([0, 1, 33, 70]), np.zeros((4, 1)), SIZE)
    nothing = 4
    assert cells.around[1][0].tolist() == [[nothing, nothing, 1, nothing], [nothing] * 3 + [2]]
    assert cells.around[1][2].tolist() == [[1, *[nothing] * 3], [0, *[nothing] * 3]]
    assert cells.around[2][0].tolist() == [[nothing] * 4] * 2


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_and_mirrored_tiles_give_the_same(
    detector: WallDetector, turns: int, mirrored: bool
) -> None:
    cell, features = some_cells()
    number = np.full(SIZE * SIZE, -1)
    number[cell] = np.arange(len(cell))
    grid = np.rot90(number.reshape(SIZE, SIZE), turns)
    grid = (grid[:, ::-1] if mirrored else grid).ravel()
    there = np.flatnonzero(grid >= 0)
    found = detector.building(there, features[grid[there]], SIZE)
    expected = detector.building(cell, features, SIZE)[grid[there]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_interrupted_fit_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("maptile_loc.learn.walls.wall_loss", interrupted)
    samples = [striped(np.random.default_rng(0)) for _ in range(4)]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit_detector(samples, SIZE, FitSettings(width=8, epochs=2, batch=4))
    assert signal.getsignal(signal.SIGINT) is before
