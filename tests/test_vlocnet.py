from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from small_city import small_city

from data_prep.geometry import se2_between
from maptile_loc.config import load_settings
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import DataSettings, ModelSettings, TrainingSettings
from maptile_loc.learn.tile_sequence import TileSequence
from maptile_loc.models.parts.published import read_model
from maptile_loc.models.parts.resnet import NetworkSettings
from maptile_loc.models.parts.tile_model import Batch, Heading
from maptile_loc.models.vlocnet import MOTION_M, PairLoss, VLocNet
from maptile_loc.render.view import ViewSettings


def make_model(heading: Heading = "unknown", **change: Any) -> VLocNet:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "size": 32,
        "network": {"width": 8, "blocks": [1, 1], "features": 64},
        "heading": heading,
        "relative": True,
        "relative_from": 0.0,
        "mean": [10.0, -20.0],
        "deviation": [100.0, 200.0],
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
    }
    return VLocNet(**(arguments | change))


def make_batch(tuples: int = 4, length: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    tiles = (torch.rand(tuples, length, 3, 32, 32, generator=generator) < 0.3).float()
    offset = torch.randn(tuples, length, 2, generator=generator) * 100
    angle = (torch.rand(tuples, length, generator=generator) * 2 - 1) * math.pi
    return Batch(tiles, offset, angle)


PREDICTED = torch.tensor([[[3.0, 4.0, 0.1], [0.0, 0.0, 0.3]]])
TARGET = torch.tensor([[[0.0, 0.0, 0.0], [6.0, -8.0, 0.1]]])
# By hand: |x| = (5 + 10) / 2, |q| = (.1 + .2) / 2; the pair moves (-3, -4, .2) instead of
# (6, -8, .1), off by (-9, 4, .1).
X, Q, DX, DQ = 7.5, 0.15, math.hypot(9, 4), 0.1


def test_the_loss_of_poses_is_the_published_one() -> None:
    loss = PairLoss(True)
    expected = X + DX + math.exp(3) * (Q + DQ) - 3
    assert loss.poses(PREDICTED, TARGET).item() == pytest.approx(expected, rel=1e-5)
    weights = {"sx": 0.4, "sq": -1.0, "mx": 2.0, "mq": 3.0}
    loss.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    expected = math.exp(-0.4) * (X + DX) + 0.4 + math.exp(1) * (Q + DQ) - 1
    assert loss.poses(PREDICTED, TARGET).item() == pytest.approx(expected, rel=1e-5)
    expected = math.exp(-2) * X + 2 + math.exp(-3) * Q + 3
    assert loss.motions(PREDICTED[0], TARGET[0]).item() == pytest.approx(expected, rel=1e-5)


def test_without_rotation_or_pairs_the_loss_has_fewer_terms() -> None:
    loss = PairLoss(False)
    assert set(dict(loss.named_parameters())) == {"sx", "mx"}
    assert loss.poses(PREDICTED[..., :2], TARGET[..., :2]).item() == pytest.approx(X + DX)
    alone = PREDICTED[:, :1, :2], TARGET[:, :1, :2]
    assert loss.poses(*alone).item() == pytest.approx(5.0)


def test_motions_are_those_between_the_tiles_frames() -> None:
    model, batch = make_model(), make_batch()
    poses = torch.cat([batch.offset, batch.angle[..., None]], -1).double().numpy()
    expected = se2_between(poses[:, :-1], poses[:, 1:])
    found = model.motion_target(batch).double().numpy()
    np.testing.assert_allclose(found[..., :2] * MOTION_M, expected[..., :2], atol=1e-3)
    turn = found[..., 2] + 1j * found[..., 3]
    np.testing.assert_allclose(turn, np.exp(1j * expected[..., 2]), atol=1e-5)


@pytest.mark.parametrize("heading", ["known", "unknown"])
def test_a_tile_is_localized_with_and_without_a_predecessor(heading: Heading) -> None:
    model = make_model(heading).eval()
    tiles = make_batch().tiles.flatten(0, 1)
    with torch.no_grad():
        alone, angle = model.pose(tiles)
        after, _ = model.pose_after(tiles, tiles.roll(1, 0))
        other, _ = model.pose_after(tiles, tiles.roll(2, 0))
    assert alone.shape == (12, 2)
    assert angle.shape == (12,)
    assert (angle.abs().max() == 0) == (heading == "known")
    for one, two in ((alone, after), (after, other)):
        assert (one - two).norm(dim=1).min() > 0


def test_the_first_tile_of_a_tuple_has_no_predecessor() -> None:
    model, batch = make_model().eval(), make_batch()
    with torch.no_grad():
        first = model.objective(Batch(*(part[:, :1] for part in batch)))
        seen = model.shared_features(batch.tiles[:, 0])
        poses = model.regress(seen, torch.zeros_like(seen))
        expected = model.pair_loss.poses(poses[:, None], model.target(batch)[:, :1])
    assert first.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_consistency_counts_from_its_share_of_the_training() -> None:
    batch = make_batch()
    late, plain = make_model(relative_from=0.5), make_model(relative=False)
    plain.load_state_dict(late.state_dict())
    early = late.training_step(batch, 1).item()
    assert early == plain.training_step(batch, 1).item()
    late.trained_share = 0.5
    assert late.training_step(batch, 1).item() > early + 1


def test_every_parameter_has_a_gradient() -> None:
    model = make_model()
    model.training_step(make_batch(), 1).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_predecessor_is_used() -> None:
    # All second tiles are equal, so only their predecessors distinguish their positions.
    model, batch = make_model("known"), make_batch(8, 2)
    batch.tiles[:, 1] = batch.tiles[0, 1]
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
        after, _ = model.pose_after(batch.tiles[:, 1], batch.tiles[:, 0])
        alone, _ = model.pose(batch.tiles[:, 1])
    assert (after - batch.offset[:, 1]).norm(dim=1).median() < 10
    assert (alone - batch.offset[:, 1]).norm(dim=1).median() > 40


def test_the_description_of_a_model_is_plain_json() -> None:
    model = make_model()
    again = VLocNet(**json.loads(json.dumps(dict(model.hparams))))
    again.load_state_dict(model.state_dict())
    tiles = make_batch().tiles.flatten(0, 1)
    assert torch.equal(model.eval().pose(tiles)[0], again.eval().pose(tiles)[0])


def test_the_shipped_recipe_is_trained_published_and_read(tmp_path: Path) -> None:
    recipe = load_settings(ModelSettings, "vlocnet")
    assert recipe.kind == "vlocnet"
    tiny = recipe.model_copy(
        update={
            "network": NetworkSettings(width=4, blocks=(1, 1), features=16),
            "data": DataSettings(
                batch_tuples=4,
                worlds=1,
                validation_tuples=4,
                workers=0,
                view=ViewSettings(size_px=16, resolution=6.0, rays=64),
            ),
            "training": TrainingSettings(steps=2, epoch_steps=1),
        }
    )
    city = small_city(tmp_path)
    model, card = read_model(train(city, tiny, device="cpu"), city, VLocNet)
    assert isinstance(model, VLocNet)
    assert card["kind"] == "vlocnet"
    assert card["method"] == "mapnet"


def test_the_benchmark_uses_predecessors_within_a_segment_of_the_odometry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    family = import_module("family")
    model = make_model("unknown").eval()
    tiles = make_batch().tiles.flatten(0, 1)[:4]
    segment = np.array([0, 0, 1, 1], np.int32)
    rotation = np.array([0.0, 0.5, -1.0, 3.0])
    sequence = TileSequence(tiles.numpy(), rotation, np.zeros((4, 3)), segment, np.arange(4))
    reference = np.array([620_000.0, 5_735_000.0])
    with torch.no_grad():
        alone, _ = model.pose(tiles)
        after, turn = model.pose_after(tiles[[1, 3]], tiles[[0, 2]])
    found = family.regress(model, sequence, reference)
    expected = torch.stack([alone[0], after[0], alone[2], after[1]]).double().numpy()
    np.testing.assert_allclose(found[:, :2], reference + expected, atol=1e-4)
    headings = rotation[[1, 3]] + turn.numpy()
    np.testing.assert_allclose(np.exp(1j * found[[1, 3], 2]), np.exp(1j * headings), atol=1e-5)
    texts = family.figures(np.array([[3.0, 4.0], [6.0, 8.0], [0.0, 30.0]]))
    assert texts == ["3", "10.0", "15.0", "28.0", "33.3%", "66.7%", "66.7%"]
