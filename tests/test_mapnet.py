from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from maptile_loc.models.parts.resnet import Block, NetworkSettings, ResNet
from maptile_loc.models.parts.rotation import angle_of_cosine_sine, cosine_sine
from maptile_loc.models.parts.tile_model import Batch, Heading
from maptile_loc.models.regressor import MapNet, PoseLoss


def make_model(heading: Heading = "unknown", relative: bool = True, **change: Any) -> MapNet:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "size": 32,
        "network": {"width": 8, "blocks": [1, 1], "features": 64},
        "heading": heading,
        "relative": relative,
        "relative_from": 0.0,
        "mean": [10.0, -20.0],
        "deviation": [100.0, 200.0],
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
    }
    return MapNet(**(arguments | change))


def make_batch(tuples: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tiles = (torch.rand(tuples, 3, 3, 32, 32, generator=generator) < 0.3).float()
    offset = torch.randn(tuples, 3, 2, generator=generator) * 100
    angle = (torch.rand(tuples, 3, generator=generator) * 2 - 1) * math.pi
    return Batch(tiles, offset, angle)


# East, north, cosine, sine.
PREDICTED = torch.tensor([[[0.5, 1.0, 0.9, 0.1], [0.0, 2.0, 0.8, 0.3], [1.0, 1.0, 1.0, -0.2]]])
TARGET = torch.tensor([[[0.0, 1.5, 1.0, 0.0], [0.5, 1.0, 0.8, 0.6], [0.0, 0.0, 0.8, 0.6]]])
# By hand: |t| = (.5 + .5 + .5 + 1 + 1 + 1) / 6, |q| = (.1 + .1 + 0 + .3 + .2 + .8) / 6;
# motion of the prediction (-.5, 1, -.1, .2), (1, -1, .2, -.5), of the target (.5, -.5, -.2, .6),
# (-.5, -1, 0, 0): |dt| = (1 + 1.5 + 1.5 + 0) / 4, |dq| = (.1 + .4 + .2 + .5) / 4.
T, Q, DT, DQ = 4.5 / 6, 1.5 / 6, 4.0 / 4, 1.2 / 4


def test_the_loss_at_the_start_is_the_published_one() -> None:
    expected = T + math.exp(3) * Q - 3 + DT + math.exp(3) * DQ - 3
    assert PoseLoss(True, True)(PREDICTED, TARGET).item() == pytest.approx(expected, rel=1e-6)


def test_the_loss_with_other_weights() -> None:
    loss = PoseLoss(True, True)
    weights = {"sx": 0.4, "sq": -1.0, "srx": -0.7, "srq": 0.2}
    loss.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    terms = {"sx": T, "sq": Q, "srx": DT, "srq": DQ}
    expected = sum(math.exp(-s) * terms[name] + s for name, s in weights.items())
    assert loss(PREDICTED, TARGET).item() == pytest.approx(expected, rel=1e-6)


def test_posenet_is_the_same_without_the_relative_term() -> None:
    posenet = PoseLoss(False, True)
    expected = T + math.exp(3) * Q - 3
    assert posenet(PREDICTED, TARGET).item() == pytest.approx(expected, rel=1e-6)
    assert PoseLoss(True, True)(PREDICTED, TARGET, relative=False).item() == pytest.approx(expected)
    assert set(dict(posenet.named_parameters())) == {"sx", "sq"}


def test_with_a_known_heading_the_loss_has_no_rotation() -> None:
    loss = PoseLoss(True, False)
    assert set(dict(loss.named_parameters())) == {"sx", "srx"}
    assert loss(PREDICTED[..., :2], TARGET[..., :2]).item() == pytest.approx(T + DT)


def test_the_weights_are_learned() -> None:
    loss = PoseLoss(True, True)
    loss(PREDICTED, TARGET).backward()
    by_hand = {"sx": 1 - T, "sq": 1 - math.exp(3) * Q, "srx": 1 - DT, "srq": 1 - math.exp(3) * DQ}
    for name, gradient in by_hand.items():
        parameter = loss.get_parameter(name)
        assert parameter.grad is not None
        assert parameter.grad.item() == pytest.approx(gradient, rel=1e-5, abs=1e-6)


def test_the_optimiser_has_the_weights_of_the_loss() -> None:
    model = make_model()
    optimiser = model.configure_optimizers()
    given = {id(p): g for g in optimiser.param_groups for p in g["params"]}
    assert len(given) == len(list(model.parameters()))
    for parameter in model.loss.parameters():
        assert given[id(parameter)]["weight_decay"] == 0


def test_rotations_agree_with_scipy_and_do_not_jump() -> None:
    angle = np.linspace(-9, 9, 41)
    expected = Rotation.from_euler("z", angle[:, None]).as_matrix()[:, :2, 0]
    pair = cosine_sine(torch.from_numpy(angle))
    np.testing.assert_allclose(pair.numpy(), expected, atol=1e-12)
    back = angle_of_cosine_sine(3 * pair).numpy()
    np.testing.assert_allclose(np.exp(1j * back), np.exp(1j * angle), atol=1e-12)
    across = cosine_sine(torch.tensor([math.pi - 0.01, math.pi + 0.01]))
    assert float((across[1] - across[0]).norm()) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("heading", ["known", "unknown"])
def test_poses_are_denormalised_outputs(heading: Heading) -> None:
    model = make_model(heading).eval()
    batch = make_batch()
    with torch.no_grad():
        raw = model(batch.tiles.flatten(0, 1))
        offset, angle = model.pose(batch.tiles.flatten(0, 1))
    assert raw.shape == (12, 4 if heading == "unknown" else 2)
    torch.testing.assert_close(offset[:, 0], raw[:, 0] * 100 + 10)
    torch.testing.assert_close(offset[:, 1], raw[:, 1] * 200 - 20)
    if heading == "known":
        assert angle.abs().max() == 0
    else:
        length = raw[:, 2:].norm(dim=1)
        torch.testing.assert_close(length * torch.cos(angle), raw[:, 2])
        torch.testing.assert_close(length * torch.sin(angle), raw[:, 3])


def test_the_relative_term_counts_from_its_share_of_the_training() -> None:
    model = make_model(relative_from=0.5)
    batch = make_batch()
    early = model.training_step(batch, 1)
    early.backward()
    assert model.loss.srx.grad is None
    model.trained_share = 0.5
    late = model.training_step(batch, 1)
    late.backward()
    assert model.loss.srx.grad is not None
    assert model.loss.srx.grad.item() != 0
    assert late.item() != early.item()


@pytest.mark.parametrize("relative", [True, False])
def test_a_few_tiles_are_fitted(relative: bool) -> None:
    model = make_model("unknown", relative)
    batch = make_batch()
    optimiser = model.configure_optimizers()
    first = last = math.inf
    for step in range(200):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / 200)
        loss = model.training_step(batch, 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    model.eval()
    with torch.no_grad():
        offset, angle = model.pose(batch.tiles.flatten(0, 1))
    assert last < first - 3
    error = (offset - batch.offset.flatten(0, 1)).norm(dim=1)
    turn = torch.remainder(angle - batch.angle.flatten() + math.pi, 2 * math.pi) - math.pi
    assert error.median() < 8  # the positions spread over 100 m
    assert turn.abs().median() < 0.1


def test_the_description_of_a_model_is_plain_json() -> None:
    model = make_model()
    again = MapNet(**json.loads(json.dumps(dict(model.hparams))))
    again.load_state_dict(model.state_dict())
    tiles = make_batch().tiles.flatten(0, 1)
    assert torch.equal(model.eval()(tiles), again.eval()(tiles))


@pytest.mark.parametrize("size", [16, 30, 64])
def test_the_backbone_takes_any_size(size: int) -> None:
    network = ResNet(size, NetworkSettings(width=4, blocks=(1, 2, 1), features=10))
    assert network(torch.rand(2, 3, size, size)).shape == (2, 10)


def test_the_backbone_distinguishes_left_and_right() -> None:
    torch.manual_seed(0)
    network = ResNet(32, NetworkSettings(width=4, blocks=(1, 1), features=32)).eval()
    tile = torch.zeros(1, 3, 32, 32)
    tile[..., 8:24, 2:6] = 1
    moved = torch.roll(tile, 20, dims=-1)
    assert not torch.allclose(network(tile), network(moved), atol=1e-3)


def test_a_narrow_block_has_the_gradients_of_double_precision() -> None:
    """Of fewer than 16 channels, oneDNN's strided 1x1 convolution is wrong; float64 avoids it."""
    torch.manual_seed(0)
    single = Block(4, 8, 2).to(memory_format=torch.channels_last)
    double = copy.deepcopy(single).double()
    tiles = torch.rand(3, 4, 17, 17).contiguous(memory_format=torch.channels_last)
    for block, seen in ((single, tiles), (double, tiles.double())):
        torch.autograd.backward(block(seen).square().sum())
    for one, two in zip(single.parameters(), double.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad.float(), rtol=1e-3, atol=1e-3)
