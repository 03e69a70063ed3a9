from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scene import found_by
from small_city import small_city
from test_train import TINY

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from maptile_loc.learn.loop import train
from maptile_loc.models.classifier import SOFT_M, TARGETS, CellsModel
from maptile_loc.models.parts.partition import PartitionSettings, make_cells
from maptile_loc.models.parts.tile_model import Batch
from maptile_loc.score.map_fields import make_fields
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.search.cells import CellsLocator, CellsSettings
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.types import QueryTile

KNOWN = np.zeros(1), np.zeros(1)


# --- Partitions --------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), partitions=st.integers(1, 3), share=st.floats(0.001, 0.5))
def test_every_position_is_in_one_cell_of_each_partition(seed, partitions, share) -> None:
    places = np.random.default_rng(seed).normal(0, 100, (200, 2))
    recipe = PartitionSettings(partitions=partitions, share=share)
    cells = make_cells(places, np.ones(200), recipe)
    away = np.abs(places[:, None] - cells.centre)
    inside = (away < cells.side[:, None] / 2).all(axis=2)
    for number in range(partitions):
        np.testing.assert_array_equal(inside[:, cells.partition == number].sum(axis=1), 1)


def test_cells_are_small_where_positions_are_dense() -> None:
    rng = np.random.default_rng(0)
    dense, sparse = rng.uniform(0, 128, (900, 2)), rng.uniform(512, 640, (20, 2))
    recipe = PartitionSettings(partitions=1, least_m=16.0, levels=3, share=0.01)
    cells = make_cells(np.concatenate([dense, sparse]), np.ones(920), recipe)
    near = (cells.centre < 200).all(axis=1)
    assert (cells.side[near] == 16).any()
    assert (cells.side[~near] >= 32).all()


def test_a_position_without_weight_has_no_cell() -> None:
    places = np.array([[8.0, 8.0], [500.0, 500.0]])
    cells = make_cells(places, np.array([1.0, 0.0]), PartitionSettings(partitions=1))
    np.testing.assert_allclose(cells.centre, [[8.0, 8.0]])


# --- The model ---------------------------------------------------------------------------------


def made_model(log_p: list[list[float]], places: list[list[float]]) -> CellsModel:
    """A model with one answer for all tiles: log-probabilities per partition, cells of 16 m."""
    model = CellsModel(
        counts=[len(part) for part in log_p],
        size=16,
        network={"width": 4, "blocks": [1], "features": 8},
        heading="known",
        mean=[0.0, 0.0],
        deviation=[1.0, 1.0],
        learning_rate=1e-3,
        weight_decay=0.0,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.logits.bias.copy_(torch.tensor(log_p).flatten())
        model.centre.copy_(torch.tensor(places))
        model.side.fill_(16.0)
    return model


def test_the_densities_of_the_partitions_are_multiplied() -> None:
    """Each partition has two probable positions; only one position is probable in both."""
    model = made_model(
        [[2.0, 2.0, 0.0], [2.0, 0.0, 2.0]],
        [[0, 0], [100, 0], [200, 0], [4, 0], [104, 0], [204, 0]],
    )
    places, scores = model.top(torch.zeros(1, 3, 16, 16), 3)
    assert places[0, 0, 0].item() in (0.0, 4.0)
    assert 0 > scores[0, 0] > scores[0, 1] + 0.5
    assert torch.cdist(places[0], places[0])[0, 1:].min() > 2 * SOFT_M


def test_the_offset_moves_the_answer_within_its_cell() -> None:
    model = made_model([[0.0]], [[50.0, 20.0]])
    with torch.no_grad():
        model.within[1].bias.copy_(torch.tensor([0.25, -0.5]))
    offset, angle = model.pose(torch.zeros(2, 3, 16, 16))
    assert offset.tolist() == [[54.0, 12.0]] * 2
    assert angle.tolist() == [0.0, 0.0]


def test_the_sparse_objective_is_that_over_all_cells() -> None:
    """By the definition, in double precision, over a city of many cells."""
    rng = np.random.default_rng(0)
    cells = make_cells(
        rng.uniform(0, 900, (4000, 2)), np.ones(4000), PartitionSettings(partitions=2, share=0.002)
    )
    torch.manual_seed(0)
    counts = np.bincount(cells.partition).tolist()
    assert min(counts) > 4 * TARGETS
    shape = {"size": 16, "network": {"width": 4, "blocks": [1], "features": 8}}
    scale = {"mean": [0.0, 0.0], "deviation": [1.0, 1.0]}
    pace = {"learning_rate": 1e-3, "weight_decay": 0.0}
    model = CellsModel(counts=counts, heading="known", **shape, **scale, **pace).eval()
    model.centre.copy_(torch.from_numpy(cells.centre))
    model.side.copy_(torch.from_numpy(cells.side))
    tiles = (torch.rand(6, 1, 3, 16, 16) < 0.3).float()
    truth = torch.from_numpy(rng.uniform(0, 900, (6, 1, 2))).float()
    found = model.objective(Batch(tiles, truth, torch.zeros(6, 1))).item()
    with torch.no_grad():
        log_p, hidden = model(tiles[:, 0])
        within = model.within[1](hidden).double().numpy().reshape(6, -1, 2)
    position = cells.centre + within * cells.side[:, None]
    off = position - truth.double().numpy()
    outside = np.maximum(np.abs(cells.centre - truth.double().numpy()) - cells.side[:, None] / 2, 0)
    closeness = np.exp(-np.square(outside).sum(2) / (2 * SOFT_M**2))
    expected = 0.0
    for part in range(2):
        mine = cells.partition == part
        target = closeness[:, mine] / closeness[:, mine].sum(1, keepdims=True)
        error = np.abs(off[:, mine]).sum(2) / SOFT_M
        expected += (target * (error - log_p.double().numpy()[:, mine])).sum(1).mean() / 2
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_few_tiles_are_fitted() -> None:
    torch.manual_seed(0)
    model = made_model([[0.0] * 4], [[0, 0], [64, 0], [0, 64], [64, 64]])
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.train()
    tiles = (torch.rand(8, 1, 3, 16, 16) < 0.3).float()
    truth = model.centre.repeat(2, 1)[:, None] + torch.rand(8, 1, 2) * 12 - 6
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(250):
        optimiser.zero_grad()
        model.objective(Batch(tiles, truth, torch.zeros(8, 1))).backward()
        optimiser.step()
    offset, _ = model.pose(tiles[:, 0])
    assert (offset - truth[:, 0]).norm(dim=1).median() < 3.0


# --- In a city ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(city: City) -> Path:
    recipe = TINY.model_copy(update={"name": "cells", "kind": "cells", "heading": "known"})
    return train(city, recipe, device="cpu")


def locator(folder: Path, city: City, places: int = 5) -> CellsLocator:
    fields = make_fields(city.raster, 1.0, LikelihoodSettings())
    search = NearSearch(fields, 96.0, SearchSettings())
    return CellsLocator(folder, city, search, CellsSettings(places=places))


def query(seed: int = 0) -> QueryTile:
    rng = np.random.default_rng(seed)
    wall, ground, observed = (rng.random((3, 192, 192)) < 0.1).astype(np.float32)
    return QueryTile(wall, ground, observed, 0.5, 0.0)


def test_candidates_are_near_the_models_positions(city: City, trained: Path) -> None:
    card = json.loads((trained / "model.json").read_text())
    assert (card["method"], card["kind"]) == ("cells", "cells")
    found = locator(trained, city)
    centres = found.starts(query(), *KNOWN)[:, :2]
    assert centres.shape == (5, 2)
    candidates = found_by(found, query(), *KNOWN)
    away = np.abs(candidates.poses[:, None, :2] - centres).max(axis=2).min(axis=1)
    assert (away <= 20.5).all()
    assert np.exp(candidates.log_scores).sum() <= 1


def test_with_an_unknown_heading_the_tile_is_turned(city: City, trained: Path) -> None:
    turns = np.radians(np.arange(0, 360, 4.0))
    starts = locator(trained, city).starts(query(), turns, np.full(90, -np.log(90)))
    assert starts.shape == (5, 3)
    assert set(starts[:, 2]) <= set(turns)


def test_another_methods_model_is_refused(city: City) -> None:
    folder = train(city, TINY, device="cpu")
    with pytest.raises(MaptileError, match="--method mapnet"):
        locator(folder, city)
