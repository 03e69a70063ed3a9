from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_scene import found_by
from small_city import small_city
from test_train import TINY

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from maptile_loc.learn.data import SeveralCities
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import DataSettings
from maptile_loc.learn.tiles.rendered import PairedBatches, RenderedBatches
from maptile_loc.models.descriptor import SAME_M, DescriptorModel
from maptile_loc.models.parts.describer import describe
from maptile_loc.models.parts.tile_model import Batch
from maptile_loc.render.vector_map import vector_map
from maptile_loc.render.view import ViewSettings
from maptile_loc.score.map_fields import make_fields
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.retrieval import RetrievalLocator, RetrievalSettings
from maptile_loc.types import QueryTile

KNOWN = np.zeros(1), np.zeros(1)
RECIPE = TINY.model_copy(
    update={
        "name": "retrieval",
        "kind": "retrieval",
        "heading": "known",
        "data": TINY.data.model_copy(update={"tuple_size": 2, "spacing_m": (0.0, 4.0)}),
    }
)


def make_model(head: str = "layout", memory: int = 16) -> DescriptorModel:
    torch.manual_seed(0)
    return DescriptorModel(
        head=head,
        length=8,
        temperature=0.1,
        memory=memory,
        size=16,
        network={"width": 4, "blocks": [1], "features": 16},
        heading="known",
        mean=[0.0, 0.0],
        deviation=[1.0, 1.0],
        learning_rate=1e-3,
        weight_decay=0.0,
    )


def make_batch(count: int = 6, apart: float = 100.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    tiles = (torch.rand(count, 2, 3, 16, 16, generator=generator) < 0.3).float()
    offset = torch.arange(count)[:, None, None] * torch.tensor([apart, 0.0]).repeat(1, 2, 1)
    return Batch(tiles, offset.contiguous(), torch.zeros(count, 2))


@pytest.mark.parametrize("head", ["layout", "max", "netvlad"])
def test_descriptors_have_unit_length(head: str) -> None:
    described = make_model(head).eval()(make_batch().tiles[:, 0])
    np.testing.assert_allclose(described.norm(dim=1).detach(), 1, rtol=1e-5)


def test_max_and_netvlad_are_invariant_to_a_shift() -> None:
    tile = torch.zeros(1, 3, 64, 64)
    tile[0, 0, 20:36, 20:36] = 1
    moved = tile.roll((8, -4), (2, 3))
    for head, same in (("max", True), ("netvlad", True), ("layout", False)):
        model = DescriptorModel(
            **{**dict(make_model(head).hparams), "size": 64, "memory": 4}
        ).eval()
        with torch.no_grad():
            gap = float((model(tile) - model(moved)).norm())
        assert (gap < 1e-3) == same, head


def test_nearby_positions_are_no_negative_examples() -> None:
    """A batch of nearly equal positions has no negative example, so its loss is zero."""
    apart = make_model().objective(make_batch(apart=100.0))
    together = make_model().objective(make_batch(apart=SAME_M / 100))
    assert apart > 0.1
    assert together.item() == pytest.approx(0, abs=1e-6)


def test_the_memory_holds_the_last_map_views() -> None:
    model, batch = make_model(memory=16), make_batch()
    for _ in range(4):
        model.objective(batch)
    assert torch.isfinite(model.kept_at).all()
    with torch.no_grad():
        moved = batch._replace(offset=batch.offset + 1e5)
        alone = make_model().objective(moved)
        remembered = model.objective(moved)
    assert remembered > alone  # there are more negative examples
    assert "kept" not in model.state_dict()


# --- Data --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("data"))


DATA = DataSettings(
    tuple_size=2,
    spacing_m=(0.0, 4.0),
    batch_tuples=8,
    worlds=1,
    view=ViewSettings(size_px=32, resolution=3.0, rays=256),
)


def test_a_pair_is_a_vehicles_view_and_the_maps_view_nearby(city: City) -> None:
    city_map = vector_map(city)
    batch = PairedBatches(city_map, DATA, "unknown", 0, 0)[0]
    plain = RenderedBatches(city_map, DATA, "unknown", 0, 0)[0]
    assert batch.tiles.shape == (8, 2, 3, 32, 32)
    assert (batch.offset[:, 0] - batch.offset[:, 1]).norm(dim=1).max() <= 4.01
    assert torch.equal(batch.offset, plain.offset)
    assert batch.angle[:, 1].abs().max() == 0  # the map's own view is north-up
    assert batch.angle[:, 0].abs().min() > 0
    # The map's view has no noise, so it shows more walls.
    assert batch.tiles[:, 1, 0].mean() > plain.tiles[:, :, 0].mean()


def test_batches_alternate_between_cities(city: City) -> None:
    city_map = vector_map(city)
    one, two = (RenderedBatches(city_map, DATA, "known", seed, 0) for seed in (0, 1))
    several = SeveralCities([one, two])
    for number, (part, turn) in enumerate([(one, 0), (two, 0), (one, 1), (two, 1)]):
        assert torch.equal(several[number].offset, part[turn].offset)


# --- In a city ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(city: City) -> Path:
    return train(city, RECIPE, device="cpu")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("other"), seed=7)


def locator(folder: Path, city: City, **settings: float) -> RetrievalLocator:
    fields = make_fields(city.raster, 1.0, LikelihoodSettings())
    chosen = RetrievalSettings.model_validate({"places": 5} | settings)
    return RetrievalLocator(folder, city, NearSearch(fields, 96.0, SearchSettings()), chosen)


def query(seed: int = 0) -> QueryTile:
    rng = np.random.default_rng(seed)
    wall, ground, observed = (rng.random((3, 192, 192)) < 0.1).astype(np.float32)
    return QueryTile(wall, ground, observed, 0.5, 0.0)


def test_a_model_is_valid_in_another_city(other: City, trained: Path) -> None:
    card = json.loads((trained / "model.json").read_text())
    assert card["method"] == "retrieval"
    found = locator(trained, other)
    centres = found.starts(query(), *KNOWN)[:, :2]
    assert centres.shape == (5, 2)
    gap = np.hypot(*(centres[:, None] - centres).T)
    assert gap[np.triu_indices(5, 1)].min() >= 10.0
    candidates = found_by(found, query(), *KNOWN)
    away = np.abs(candidates.poses[:, None, :2] - centres).max(axis=2).min(axis=1)
    assert (away <= 20.5).all()


def test_descriptors_are_kept_and_read_again(other: City, trained: Path) -> None:
    first = locator(trained, other, every_m=7.0).starts(query(), *KNOWN)
    assert other.folder is not None
    (kept,) = (other.folder / "descriptors").glob("*-7.safetensors")
    before = kept.stat().st_mtime_ns
    np.testing.assert_array_equal(
        locator(trained, other, every_m=7.0).starts(query(), *KNOWN), first
    )
    assert kept.stat().st_mtime_ns == before


def test_the_descriptors_of_a_city_cover_its_roads_and_are_reproducible(city: City) -> None:
    view = RECIPE.data.view
    model = make_model().eval()
    database = describe(model, view, city, 20.0)
    length = float(vector_map(city).roads.length().sum()) / 2
    assert len(database["places"]) == pytest.approx(length / 20.0, abs=2)
    np.testing.assert_allclose(database["descriptors"].norm(dim=1), 1, rtol=1e-5)
    calls: list[tuple[str, int, int]] = []
    again = describe(model, view, city, 20.0, lambda *call: calls.append(call))
    assert calls == [("describe the map", part, 1) for part in (0, 1)]
    assert torch.equal(again["descriptors"], database["descriptors"])


def test_only_models_bound_to_no_city_are_trained_on_several(city: City, other: City) -> None:
    train(city, RECIPE.model_copy(update={"name": "both"}), device="cpu", others=[other])
    with pytest.raises(MaptileError, match="learns one city"):
        train(city, TINY.model_copy(update={"name": "no"}), device="cpu", others=[other])
