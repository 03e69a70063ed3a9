"""Heads and losses of published methods, against values of their equations worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import i0
from scipy.stats import vonmises

from data_prep.errors import MaptileError
from maptile_loc.models.heads.intersections import cells_of, intersect, scores
from maptile_loc.models.heads.mixture import CircleMixture, PlaneMixture
from maptile_loc.models.heads.netvlad import SECOND, NetVLAD
from maptile_loc.models.heads.pooled import GlobalPool
from maptile_loc.models.heads.transport import FeatureTransport, sinkhorn, transported
from maptile_loc.models.losses.pose import BetaLoss
from maptile_loc.models.losses.triplet import distances, margin_triplet, soft_margin_triplet
from maptile_loc.models.parts.partition import Cells, PartitionSettings, make_cells
from maptile_loc.models.parts.plain import Plain
from maptile_loc.models.parts.resnet import NetworkSettings
from maptile_loc.models.parts.two_branch import TwoBranch
from maptile_loc.models.vlocnet import PairLoss

# --- CrossLocate -------------------------------------------------------------------------------


def test_the_pool_takes_the_maximum_of_normalised_features() -> None:
    """Two positions with features (3, 4) and (0, -2): normalised (.6, .8) and (0, -1)."""
    maps = torch.tensor([[[[3.0, 0.0]], [[4.0, -2.0]]]])
    assert GlobalPool("max")(maps)[0].tolist() == pytest.approx([0.6, 0.8])
    summed = np.array([0.6, -0.2])
    expected = summed / np.linalg.norm(summed)
    assert GlobalPool("sum")(maps)[0].tolist() == pytest.approx(expected.tolist())


def test_the_plain_network_has_no_norm_and_may_answer_below_zero() -> None:
    torch.manual_seed(0)
    network = Plain(64, NetworkSettings(backbone="plain", width=4, blocks=(2, 2, 3, 3, 3)), 3)
    kinds = [type(layer).__name__ for layer in network.stages]
    assert kinds.count("Conv2d") == 13
    assert kinds.count("ReLU") == 12
    assert kinds.count("MaxPool2d") == 4
    assert kinds[-1] == "Conv2d"
    maps = network.stages(torch.rand(2, 3, 64, 64))
    assert maps.shape == (2, 64, 4, 4) == (2, network.channels, network.side, network.side)
    assert maps.min() < 0 < maps.max()
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 1024)


# --- Triplet losses ----------------------------------------------------------------------------


def on_circle(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([torch.cos(angle), torch.sin(angle)], 1)


SEEN, SHOWN = on_circle(0.0, 90.0, 180.0), on_circle(10.0, 60.0, 150.0)
NEGATIVE = torch.tensor([[False, True, True], [True, False, False], [True, True, False]])


def chord(degrees: float) -> float:
    return 2 * math.sin(math.radians(abs(degrees)) / 2)


def test_distances_are_the_chords() -> None:
    expected = [[chord(a - b) for b in (10, 60, 150)] for a in (0, 90, 180)]
    np.testing.assert_allclose(distances(SEEN, SHOWN), expected, atol=1e-4)


def test_the_margin_loss_is_the_mean_over_the_hardest_negatives() -> None:
    """Query 0: negatives 60 and 150 degrees away; query 1: 80; query 2: 170 and 120."""
    positive, m = (chord(10), chord(30), chord(30)), 1.2
    short = [
        [max(0, m + positive[0] - chord(60)), max(0, m + positive[0] - chord(150))],
        [max(0, m + positive[1] - chord(80))],
        [max(0, m + positive[2] - chord(170)), max(0, m + positive[2] - chord(120))],
    ]
    assert [len([v for v in row if v > 0]) for row in short] == [1, 1, 0]
    every = margin_triplet(SEEN, SHOWN, NEGATIVE, m, 10, squared=False)
    assert every.item() == pytest.approx(
        np.mean([value for row in short for value in row]), rel=1e-4
    )
    hardest = margin_triplet(SEEN, SHOWN, NEGATIVE, m, 1, squared=False)
    assert hardest.item() == pytest.approx(np.mean([max(row) for row in short]), rel=1e-4)


def test_squared_distances_are_those_of_netvlad() -> None:
    gap = 0.1 + chord(30) ** 2 - chord(80) ** 2
    only = torch.zeros(3, 3, dtype=torch.bool)
    only[1, 0] = True
    loss = margin_triplet(SEEN, SHOWN, only, 1.5, 10, squared=True).item()
    assert loss == pytest.approx(1.4 + gap, rel=1e-4)


def test_the_soft_margin_is_that_of_cvft() -> None:
    gaps = [(10, 60), (10, 150), (30, 80), (30, 170), (30, 120)]
    terms = [math.log(1 + math.exp(10 * (chord(p) - chord(n)))) for p, n in gaps]
    loss = soft_margin_triplet(SEEN, SHOWN, NEGATIVE, 10.0)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_without_negatives_there_is_no_loss_and_a_finite_gradient() -> None:
    none = torch.zeros(3, 3, dtype=torch.bool)
    assert margin_triplet(SEEN, SHOWN, none, 0.1, 5, squared=False).item() == 0
    assert soft_margin_triplet(SEEN, SHOWN, none, 10.0).item() == 0
    same = SEEN.clone().requires_grad_()
    margin_triplet(same, SEEN, NEGATIVE, 5.0, 5, squared=False).backward()
    assert torch.isfinite(same.grad).all()


# --- NetVLAD -----------------------------------------------------------------------------------


def test_the_assignment_falls_with_the_squared_distance_to_the_centres() -> None:
    layer = NetVLAD(2, 2)
    with torch.no_grad():
        layer.centres.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        layer.alpha.fill_(0.7)
        found = layer.assignment(torch.tensor([[[0.6, 0.8]]]))[0, 0]
    squared = np.array([0.4**2 + 0.8**2, 0.6**2 + 1.2**2])
    expected = np.exp(-0.7 * squared) / np.exp(-0.7 * squared).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_residuals_are_normalised_per_cluster_and_together() -> None:
    torch.manual_seed(0)
    layer, maps = NetVLAD(3, 2), torch.rand(1, 3, 2, 2)
    with torch.no_grad():
        found = layer(maps).view(2, 3).numpy()
        vectors = maps[0].flatten(1).T.numpy()
        centres, alpha = layer.centres.numpy(), float(layer.alpha)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    weight = np.exp(-alpha * np.square(vectors[:, None] - centres).sum(2))
    weight /= weight.sum(1, keepdims=True)
    residual = np.einsum("nk,nkc->kc", weight, vectors[:, None] - centres)
    residual /= np.linalg.norm(residual, axis=1, keepdims=True)
    np.testing.assert_allclose(found, residual / np.linalg.norm(residual), atol=1e-5)


def test_the_centres_start_at_those_of_k_means() -> None:
    """Three bundles of directions: each centre is the mean of one."""
    torch.manual_seed(0)
    axes = torch.eye(3).repeat_interleave(40, 0)
    points = torch.nn.functional.normalize(axes + 0.05 * torch.randn(120, 3), dim=1)
    layer = NetVLAD(3, 3)
    assert not layer.started
    layer.start(points.T.reshape(1, 3, 12, 10))
    assert layer.started
    means = torch.stack([points[40 * k : 40 * k + 40].mean(0) for k in range(3)])
    order = layer.centres.detach().argmax(1)
    np.testing.assert_allclose(layer.centres.detach(), means[order], atol=1e-4)
    share = layer.assignment(points[None])[0].detach()
    second = share.topk(2, 1).values
    ratio = (second[:, 1] / second[:, 0]).log().mean().exp()  # the mean gap is of logarithms
    assert ratio.item() == pytest.approx(SECOND, rel=1e-3)
    assert "started" in layer.state_dict()  # a resumed training does not start again


# --- CVFT --------------------------------------------------------------------------------------


def test_a_transport_of_two_positions_is_known_in_closed_form() -> None:
    """P = [[p, 1 - p], [1 - p, p]] with p / (1 - p) = exp(-lambda (a + d - b - c) / 2)."""
    cost = torch.tensor([[[0.3, 0.9], [0.5, 0.2]]])
    ratio = math.exp(-2.0 * (0.3 + 0.2 - 0.9 - 0.5) / 2)
    p = ratio / (1 + ratio)
    found = sinkhorn(cost, sharpness=2.0, steps=50)[0]
    np.testing.assert_allclose(found, [[p, 1 - p], [1 - p, p]], atol=1e-6)


def test_a_transport_is_doubly_stochastic_and_avoids_costs() -> None:
    generator = torch.Generator().manual_seed(0)
    plan = sinkhorn(torch.rand(3, 9, 9, generator=generator), steps=200)
    np.testing.assert_allclose(plan.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(plan.sum(2), 1, atol=1e-3)
    swap = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    np.testing.assert_allclose(sinkhorn(swap), [[[0.0, 1.0], [1.0, 0.0]]], atol=1e-3)


def test_features_move_from_rows_to_columns() -> None:
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    plan = torch.tensor([[[0.25, 0.75], [0.75, 0.25]]])
    moved = transported(maps, plan)[0, :, 0]
    np.testing.assert_allclose(moved, [[0.25 + 1.5, 0.75 + 0.5], [0.75 + 3, 2.25 + 1]])
    layer = FeatureTransport(5, 4)
    assert layer(torch.rand(2, 5, 4, 4)).shape == (2, 5, 4, 4)


# --- Regression --------------------------------------------------------------------------------

PREDICTED = torch.tensor([[[0.03, 0.02, 0.6, 0.8], [0.0, 0.0, 0.0, 1.0]]])
TARGET = torch.tensor([[[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]])


def test_posenets_first_loss_is_metres_plus_beta_times_the_rotation() -> None:
    loss = BetaLoss(500.0, torch.tensor([100.0, 200.0]), rotation=True)
    metres, rotation = math.hypot(3, 4), math.hypot(0.4, 0.8)
    expected = metres / 2 + 500 * rotation / 2
    assert loss(PREDICTED, TARGET).item() == pytest.approx(expected, rel=1e-5)
    plain = BetaLoss(500.0, torch.tensor([100.0, 200.0]), rotation=False)
    assert plain(PREDICTED[..., :2], TARGET[..., :2]).item() == pytest.approx(metres / 2)
    assert not list(loss.parameters())


def test_vlocnets_relative_loss_has_weights_of_its_own() -> None:
    """|x| = (5 + 0) / 2 and |dx| = 5, |q| = .1 / 2 and |dq| = .1, each with its own weight."""
    predicted = torch.tensor([[[3.0, 4.0, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    loss = PairLoss(True, own=True)
    weights = {"sx": 0.5, "dx": 1.5, "sq": -1.0, "dq": -2.0, "mx": 0.0, "mq": 0.0}
    loss.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    expected = 2.5 * math.exp(-0.5) + 0.5 + 5 * math.exp(-1.5) + 1.5
    expected += 0.05 * math.exp(1) - 1 + 0.1 * math.exp(2) - 2
    target = torch.zeros(1, 2, 4)
    assert loss.poses(predicted, target).item() == pytest.approx(expected, rel=1e-5)
    alone = 2.5 * math.exp(-0.5) + 0.5 + 0.05 * math.exp(1) - 1
    assert loss.poses(predicted, target, relative=False).item() == pytest.approx(alone, rel=1e-5)


def test_the_mixture_on_the_plane_is_one_of_gaussians() -> None:
    mixture = PlaneMixture(2)
    mixture.start.copy_(torch.tensor([[0.0, 0.0], [30.0, 0.0]]))
    mixture.width.copy_(torch.tensor([10.0, 5.0]))
    found = mixture.log_density(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[[6.0, 8.0]]]))
    one = 0.25 * math.exp(-100 / 200) / (2 * math.pi * 100)
    two = 0.75 * math.exp(-(24**2 + 8**2) / 50) / (2 * math.pi * 25)
    assert found.item() == pytest.approx(math.log(one + two), rel=1e-5)


def test_the_gaussian_is_the_density_on_a_large_sphere() -> None:
    """The von Mises-Fisher density k / (2 pi (1 - exp(-2k))) exp(k (cos - 1)) per R squared."""
    radius, width, away = 6.4e6, 50.0, 200.0
    kappa = (radius / width) ** 2
    on_sphere = math.log(kappa / (2 * math.pi) / radius**2)
    on_sphere -= 2 * kappa * math.sin(away / radius / 2) ** 2  # cos x - 1
    mixture = PlaneMixture(1)
    mixture.width.fill_(width)
    found = mixture.log_density(torch.zeros(1, 1), torch.tensor([[[away, 0.0]]]))
    assert found.item() == pytest.approx(on_sphere, rel=1e-6)


def test_the_mixture_on_the_circle_is_one_of_von_mises() -> None:
    mixture = CircleMixture(3)
    with torch.no_grad():
        mixture.log_kappa.copy_(torch.tensor([0.5, 3.0, 6.0]).log())
    weight, at = np.array([0.2, 0.3, 0.5]), np.array([-2.0, 0.1, 3.0])
    found = mixture.log_density(
        torch.from_numpy(weight).float().log()[None], torch.from_numpy(at).float()[None]
    )
    means = np.arange(3) * 2 * np.pi / 3
    expected = sum(
        w * vonmises.pdf(at, k, loc=m) for w, k, m in zip(weight, (0.5, 3, 6), means, strict=True)
    )
    np.testing.assert_allclose(found[0].detach().exp(), expected, rtol=1e-4)
    hand = math.exp(6 * math.cos(0.1 - means[2])) / (2 * math.pi * i0(6))
    assert vonmises.pdf(0.1, 6, loc=means[2]) == pytest.approx(hand)


# --- Classification ----------------------------------------------------------------------------


def test_planet_splits_above_t1_and_drops_below_t2() -> None:
    """Ten of 16 positions lie in one cell of 8 m, five in another quarter, one is alone."""
    at = np.array([[1.0, 1.0]] * 10 + [[9.0, 1.0]] * 5 + [[33.0, 33.0]])
    settings = PartitionSettings(partitions=1, least_m=8.0, levels=4, share=0.5, drop=0.1)
    cells = make_cells(at, np.ones(16), settings)
    # 64, 32 and 16 m: above a half, split; 8 m: the smallest.
    assert sorted(map(tuple, cells.centre)) == [(4.0, 4.0), (12.0, 4.0)]
    assert cells.side.tolist() == [8.0, 8.0]
    with pytest.raises(MaptileError, match=r"cells\.drop"):
        make_cells(at, np.ones(16), settings.model_copy(update={"drop": 0.7}))


def test_partitions_may_grow_and_share_their_borders() -> None:
    at = np.random.default_rng(0).uniform(0, 400, (500, 2))
    settings = PartitionSettings(
        partitions=3, growth=4.0, shifted=False, least_m=8.0, levels=1, share=1.0
    )
    cells = make_cells(at, np.ones(500), settings)
    assert [set(cells.side[cells.partition == k]) for k in range(3)] == [{8.0}, {32.0}, {128.0}]
    both = intersect(cells, at, np.ones(500))
    # Nested: each of the finest cells is in one cell of each other partition.
    assert len(both.member) == (cells.partition == 0).sum()


TWO = Cells(
    np.array([[5.0, 5.0], [15.0, 5.0], [2.0, 5.0], [12.0, 5.0]]),
    np.full(4, 10.0),
    np.array([0, 0, 1, 1]),
)
"""Two partitions of a strip: [0, 10), [10, 20) and [-3, 7), [7, 17)."""


def test_positions_are_in_one_cell_of_each_partition_or_in_none() -> None:
    at = torch.tensor([[1.0, 5.0], [8.0, 5.0], [10.0, 5.0], [18.0, 5.0], [1.0, 11.0]])
    centre, side = torch.from_numpy(TWO.centre), torch.from_numpy(TWO.side)
    expected = [[0, 2], [0, 3], [1, 3], [1, -1], [-1, -1]]
    assert cells_of(at.double(), centre, side, [2, 2]).tolist() == expected


def test_cplanet_sums_and_isn_multiplies_on_intersections() -> None:
    """Two partitions of two cells make three intersections that hold positions."""
    at = np.array([[1.0, 5.0], [3.0, 5.0], [8.0, 4.0], [12.0, 5.0], [18.0, 5.0]])
    both = intersect(TWO, at, np.array([1.0, 3.0, 1.0, 1.0, 1.0]))
    assert both.member.tolist() == [[0, 2], [0, 3], [1, 3]]
    np.testing.assert_allclose(both.mean, [[2.5, 5.0], [8.0, 4.0], [12.0, 5.0]])
    p = np.array([[0.6, 0.4, 0.3, 0.7]])
    log_p, member = torch.from_numpy(p).log(), torch.from_numpy(both.member)
    summed = scores(log_p, member, "sum").exp()[0]
    np.testing.assert_allclose(summed, [0.6 + 0.3, 0.6 + 0.7, 0.4 + 0.7])
    multiplied = scores(log_p, member, "product").exp()[0]
    np.testing.assert_allclose(multiplied, [0.6 * 0.3, 0.6 * 0.7, 0.4 * 0.7])


# --- Two branches ------------------------------------------------------------------------------


def two_branch(layers: int = 2) -> TwoBranch:
    torch.manual_seed(0)
    settings = NetworkSettings(backbone="two_branch", width=8, blocks=(layers,), features=16)
    return TwoBranch(16, settings, 3).eval()


def test_the_class_tokens_are_summed_after_each_layer_but_the_last() -> None:
    network, tiles = two_branch(), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        one, two = network.evidence.tokens(tiles[:, :1]), network.semantics.tokens(tiles[:, 1:])
        one, two = network.evidence.layers[0](one), network.semantics.layers[0](two)
        joint = one[:, :1] + two[:, :1]
        one = network.evidence.layers[1](torch.cat([joint, one[:, 1:]], 1))
        two = network.semantics.layers[1](torch.cat([joint, two[:, 1:]], 1))
        a, b, weight = network.tokens(tiles)
        weighted = torch.cat([weight[:, :1] * one[:, 0], weight[:, 1:] * two[:, 0]], 1)
        expected = torch.relu(network.features(weighted))
        np.testing.assert_allclose(network(tiles), expected, atol=1e-6)
    np.testing.assert_allclose(a, one, atol=1e-6)
    np.testing.assert_allclose(b, two, atol=1e-6)
    np.testing.assert_allclose(weight.sum(1), 1, atol=1e-6)


def test_the_branches_see_different_channels_and_meet_in_the_class_token() -> None:
    network, tiles = two_branch(3), torch.rand(1, 3, 16, 16)
    changed = tiles.clone()
    changed[:, 1:] = 0
    with torch.no_grad():
        np.testing.assert_array_equal(
            network.evidence.tokens(tiles[:, :1]), network.evidence.tokens(changed[:, :1])
        )
        # From the second layer on, evidence knows of semantics.
        assert (network.tokens(tiles)[0] - network.tokens(changed)[0]).abs().max() > 1e-4
    maps = network.stages(tiles)
    assert maps.shape == (1, 16, 2, 2) == (1, network.channels, network.side, network.side)


@pytest.mark.parametrize("fault", [(20, 3, 8), (16, 1, 8), (16, 3, 6)])
def test_tiles_that_do_not_fit_two_branches_are_refused(fault: tuple[int, int, int]) -> None:
    size, channels, width = fault
    with pytest.raises(MaptileError, match="two_branch"):
        TwoBranch(size, NetworkSettings(width=width), channels)
