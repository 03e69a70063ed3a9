from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_city import small_city

from maptile_loc.config import load_settings
from maptile_loc.learn.loop import make_model
from maptile_loc.learn.settings import ModelSettings
from maptile_loc.models.parts.tile_model import Batch, Heading
from maptile_loc.models.posterior import DECIDED_M, SOFT_M, PosteriorMapNet
from maptile_loc.render.vector_map import vector_map

GRID = torch.cartesian_prod(torch.arange(-60.0, 61.0, 10.0), torch.arange(-60.0, 61.0, 10.0))


def make(heading: Heading = "known", **change: Any) -> PosteriorMapNet:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "places": len(GRID),
        "size": 32,
        "network": {"width": 8, "blocks": [1, 1], "features": 64},
        "heading": heading,
        "relative": True,
        "relative_from": 0.0,
        "mean": [1.0, -2.0],
        "deviation": [30.0, 60.0],
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
    }
    model = PosteriorMapNet(**(arguments | change))
    model.grid.copy_(GRID)
    return model


def make_batch(tuples: int = 4, length: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    tiles = (torch.rand(tuples, length, 3, 32, 32, generator=generator) < 0.3).float()
    offset = (torch.rand(tuples, length, 2, generator=generator) * 2 - 1) * 55
    angle = (torch.rand(tuples, length, generator=generator) * 2 - 1) * math.pi
    return Batch(tiles, offset, angle)


def saying(model: PosteriorMapNet, log_p: torch.Tensor) -> PosteriorMapNet:
    """The model, changed to return one posterior (N,) for every tile."""
    with torch.no_grad():
        model.logits.weight.zero_()
        model.logits.bias.copy_(log_p)
    return model.eval()


def peaks(*shares: tuple[float, float, float], width: float = 4.0) -> torch.Tensor:
    """(N,) log of a density with Gaussian peaks, each given as east, north and its share."""
    parts = [
        math.log(share) - (GRID - torch.tensor([east, north])).square().sum(1) / (2 * width**2)
        for east, north, share in shares
    ]
    return torch.stack(parts).logsumexp(0)


def test_a_posterior_sums_to_one() -> None:
    model = make().eval()
    log_p, rotation = model.posterior(make_batch().tiles.flatten(0, 1))
    assert log_p.shape == (12, len(GRID))
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(12))
    assert rotation is None
    _, rotation = make("unknown").eval().posterior(make_batch().tiles.flatten(0, 1))
    assert rotation is not None
    assert rotation.shape == (12, 2)


def test_of_two_peaks_the_more_probable_one_is_the_answer() -> None:
    model = saying(make(), peaks((-40, 0, 0.45), (42, 10, 0.55)))
    offset, _ = model.pose(make_batch().tiles[:1, 0])
    assert (offset[0] - torch.tensor([42.0, 10.0])).norm() < 1.0


def test_the_answer_is_finer_than_the_grid() -> None:
    for east, north in ((3.0, -4.0), (-21.0, 38.0)):
        model = saying(make(), peaks((east, north, 1.0), width=8.0))
        offset, _ = model.pose(make_batch().tiles[:1, 0])
        assert (offset[0] - torch.tensor([east, north])).norm() < 1.5


def test_a_distant_peak_does_not_change_the_answer() -> None:
    alone = saying(make(), peaks((-40, 0, 1.0)))
    both = saying(make(), peaks((-40, 0, 0.6), (-40 + 2 * DECIDED_M, 0, 0.4)))
    tile = make_batch().tiles[:1, 0]
    torch.testing.assert_close(alone.pose(tile)[0], both.pose(tile)[0], atol=0.2, rtol=0)


@pytest.mark.parametrize("heading", ["known", "unknown"])
def test_the_loss_is_cross_entropy_and_the_pose_loss_of_the_expectation(
    heading: Heading,
) -> None:
    log_p = peaks((-40, 0, 0.5), (40, 0, 0.5)).log_softmax(0)
    model, batch = saying(make(heading), log_p), make_batch(2, 2)
    if model.rotation is not None:
        with torch.no_grad():
            model.rotation.weight.zero_()
            model.rotation.bias.copy_(torch.tensor([0.9, 0.2]))
    found = model.objective(batch).item()
    expected = (log_p.exp() @ GRID - torch.tensor([1.0, -2.0])) / torch.tensor([30.0, 60.0])
    answers = expected if heading == "known" else torch.cat([expected, torch.tensor([0.9, 0.2])])
    pose = model.loss(answers.expand(2, 2, -1), model.target(batch)).item()
    nats = []
    for truth in batch.offset.flatten(0, 1).double().numpy():
        closeness = -np.square(GRID.double().numpy() - truth).sum(1) / (2 * SOFT_M**2)
        target = np.exp(closeness) / np.exp(closeness).sum()
        nats.append(-(target * log_p.double().numpy()).sum())
    assert found == pytest.approx(pose + np.mean(nats), rel=1e-5)


def test_the_soft_target_minimises_the_loss() -> None:
    truth = torch.tensor([12.0, -17.0])
    batch = Batch(make_batch().tiles[:1, :1], truth.expand(1, 1, 2), torch.zeros(1, 1))
    right = saying(make(), peaks((12, -17, 1.0), width=SOFT_M)).objective(batch).item()
    for wrong in (
        peaks((12, -17, 1.0), width=SOFT_M / 2),
        peaks((12, -17, 1.0), width=2 * SOFT_M),
        peaks((22, -17, 1.0), width=SOFT_M),
    ):
        assert saying(make(), wrong).objective(batch).item() > right + 0.01


def test_the_relative_term_counts_from_its_share_of_the_training() -> None:
    model, batch = make(relative_from=0.5).eval(), make_batch()
    early = model.objective(batch).item()
    model.trained_share = 0.5
    with torch.no_grad():
        log_p, _ = model.posterior(batch.tiles.flatten(0, 1))
        moved = ((log_p.exp() @ GRID) / model.deviation).view(4, 3, 2).diff(dim=1)
        off = moved - (batch.offset / model.deviation).diff(dim=1)
    assert model.objective(batch).item() - early == pytest.approx(off.abs().mean().item(), rel=1e-4)


def test_a_few_tiles_are_fitted() -> None:
    model, batch = make("unknown"), make_batch()
    optimiser = model.configure_optimizers()
    for step in range(150):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / 150)
        loss = model.training_step(batch, 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        offset, angle = model.pose(batch.tiles.flatten(0, 1))
    turn = torch.remainder(angle - batch.angle.flatten() + math.pi, 2 * math.pi) - math.pi
    assert (offset - batch.offset.flatten(0, 1)).norm(dim=1).median() < 5
    assert turn.abs().median() < 0.15


def test_the_description_of_a_model_is_plain_json_and_its_grid_a_weight() -> None:
    model = make()
    again = PosteriorMapNet(**json.loads(json.dumps(dict(model.hparams))))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.grid, GRID)
    tiles = make_batch().tiles.flatten(0, 1)
    assert torch.equal(model.eval()(tiles), again.eval()(tiles))


def test_the_grid_of_a_city_follows_its_roads(tmp_path: Path) -> None:
    recipe = load_settings(ModelSettings, "posterior")
    city_map = vector_map(small_city(tmp_path))
    model = make_model(recipe, city_map)
    assert isinstance(model, PosteriorMapNet)
    roads = ((city_map.roads.start + city_map.roads.end) / 2)[city_map.weights > 0]
    apart = torch.cdist(roads, model.grid)
    half_diagonal = recipe.grid_m / math.sqrt(2)
    assert apart.min(dim=1).values.max() <= half_diagonal + 1e-3  # every position has a grid point
    reach = max(half_diagonal, recipe.reach_m)
    assert apart.min(dim=0).values.max() <= reach + 1e-3  # and every grid point a position nearby
    east, north = torch.meshgrid(
        torch.arange(-9, 10) * 10.0, torch.arange(-9, 10) * 10.0, indexing="ij"
    )
    lattice = torch.stack([east, north], -1).view(-1, 2)
    near = lattice[torch.cdist(lattice, roads).min(dim=1).values < recipe.reach_m - 1e-3]
    assert torch.cdist(near, model.grid).min(dim=1).values.max() < 1e-3  # and all of these
    spacing = torch.cdist(model.grid, model.grid).fill_diagonal_(math.inf)
    assert spacing.min() == pytest.approx(recipe.grid_m)


def test_the_answer_has_the_moments_near_the_most_probable_position() -> None:
    """Of two peaks, the higher one counts; the other lowers the probability."""
    log_p = peaks((20.0, -10.0, 0.7), (-40.0, 30.0, 0.3), width=9.0)
    with torch.inference_mode():
        answer = saying(make(), log_p).answer(torch.zeros(2, 3, 32, 32))
    share, grid = np.exp(log_p.double().numpy()), GRID.double().numpy()
    share /= share.sum()
    near = np.hypot(*(grid - [20.0, -10.0]).T) < DECIDED_M
    weight = share[near] / share[near].sum()
    mean = weight @ grid[near]
    off = grid[near] - mean
    covariance = (weight[:, None] * off).T @ off + 10.0**2 / 12 * np.eye(2)
    np.testing.assert_allclose(answer.offset[0], mean, atol=1e-3)
    np.testing.assert_allclose(answer.covariance[1], covariance, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(answer.probability, share[near].sum(), rtol=1e-5)
