"""The benchmark of published methods: its baselines, figures, tables, and that it resumes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from small_city import small_city

from data_prep.city.folder import City, open_city
from data_prep.errors import MaptileError
from data_prep.files import read_json, write_json
from maptile_loc.config import load_settings
from maptile_loc.learn.loop import make_model, train
from maptile_loc.learn.settings import ModelSettings, Recipe, TrainingSettings
from maptile_loc.learn.tiles.supply import supply
from maptile_loc.models.descriptor import DescriptorModel
from maptile_loc.models.geocells import GeoCellsModel
from maptile_loc.models.mvmf import MixtureModel
from maptile_loc.models.parts.published import read_model
from maptile_loc.models.parts.tile_model import TileModel
from maptile_loc.render.map_views import along_roads, on_grid
from maptile_loc.render.vector_map import vector_map
from maptile_loc.render.view import ViewSettings


@pytest.fixture
def literature(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("literature")


@pytest.fixture
def handmade(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("handmade")


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("literature_page")


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("literature"))


RECIPES = sorted(path.stem for path in (ROOT / "configs" / "literature").glob("*.yaml"))


def tiny(name: str) -> Recipe:
    """A recipe of the literature with small tiles, a narrow network and three steps."""
    found = name if name == "panorama" else f"literature/{name}"
    recipe = load_settings(ModelSettings, found)
    data = recipe.data.model_copy(
        update={
            "batch_tuples": 4,
            "worlds": 1,
            "validation_tuples": 4,
            "workers": 0,
            "view": ViewSettings(size_px=32, resolution=3.0, rays=64),
        }
    )
    network = recipe.network.model_copy(update={"width": 4, "features": 16})
    training = TrainingSettings(steps=3, epoch_steps=3, relative_from=0.0)
    return recipe.model_copy(update={"data": data, "network": network, "training": training})


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_is_trained_published_and_read_again(name: str, city: City) -> None:
    recipe = tiny(name)
    folder = train(city, recipe, device="cpu")
    model, card = read_model(folder, city, TileModel)
    assert card["kind"] == recipe.kind
    assert card["training"]["steps"] == 3
    tiles = (torch.rand(3, 3, 32, 32) < 0.3).float()
    with torch.inference_mode():
        if isinstance(model, DescriptorModel):
            for described in (model(tiles), model.of_map(tiles)):
                np.testing.assert_allclose(described.norm(dim=1), 1, rtol=1e-4)
        else:
            offset, angle = model.pose(tiles)
            assert offset.shape == (3, 2) and angle.shape == (3,)
            assert torch.isfinite(offset).all()


def made(name: str, city: City) -> TileModel:
    torch.manual_seed(0)
    recipe = tiny(name)
    return make_model(recipe, supply(city, recipe.data)).eval()


def test_the_best_positions_are_ranked(city: City) -> None:
    tiles = (torch.rand(2, 3, 32, 32) < 0.3).float()
    for name in ("planet", "cplanet", "isn", "mvmf"):
        model = made(name, city)
        assert isinstance(model, (GeoCellsModel, MixtureModel))
        with torch.inference_mode():
            places, scores, *_ = model.top(tiles, 5)
        assert places.shape == (2, 5, 2) and scores.shape == (2, 5)
        assert (scores.diff(dim=1) <= 0).all()
        assert torch.cdist(places, places)[0].fill_diagonal_(1).min() > 0


def test_planet_answers_with_centres_and_the_others_with_means(city: City) -> None:
    planet, cplanet = made("planet", city), made("cplanet", city)
    assert isinstance(planet, GeoCellsModel) and isinstance(cplanet, GeoCellsModel)
    assert torch.equal(planet.answers, planet.centre[planet.member[:, 0]])
    inside = (cplanet.answers - cplanet.centre[cplanet.member[:, 0]]).abs()
    assert (inside <= cplanet.side[cplanet.member[:, 0], None] / 2 + 1e-3).all()
    assert inside.max() > 0.1


def test_a_fixed_weight_and_the_relative_term_do_not_go_together() -> None:
    recipe = load_settings(ModelSettings, "literature/posenet_beta", ["relative=true"])
    with pytest.raises(MaptileError, match="learned weights only"):
        make_model(recipe, _Anywhere())


class _Anywhere:
    """A supply of training tiles with one position."""

    def positions(self):
        return np.zeros((1, 2)), np.ones(1)


def test_databases_lie_along_roads_or_on_a_grid(city: City) -> None:
    city_map = vector_map(city)
    world = city_map.exact_world()
    roads = along_roads(city_map, 10.0, 50.0)
    length = float(city_map.roads.length().sum()) / 2
    assert len(roads.centre) == pytest.approx(length / 10.0, abs=2)
    grid = on_grid(city_map, world, 10.0, 50.0)
    compact = on_grid(city_map, world, 10.0, 50.0, near_m=12.0)
    assert len(compact.centre) < len(grid.centre)
    gap = torch.pdist(grid.centre).min()
    assert gap.item() == pytest.approx(10.0, abs=1e-3)
    apart = torch.cdist(compact.centre, torch.from_numpy(city_map.roads.middle()).float())
    assert apart.min(1).values.max() <= 12.0
    # Paths are straight, as long as asked for, about the positions and parallel to a street.
    ends = compact.paths[:, -1] - compact.paths[:, 0]
    np.testing.assert_allclose(ends.norm(dim=1), 50.0, rtol=1e-4)
    np.testing.assert_allclose(compact.paths[:, 1], compact.centre, atol=1e-4)
    which = torch.zeros(len(grid.centre), dtype=torch.int64)
    assert world.free(which, grid.centre[:, None]).all()
    with pytest.raises(MaptileError, match="finer"):
        on_grid(city_map, world, 1000.0, 50.0, near_m=0.1)


def test_a_bare_raster_has_as_many_views_as_its_road_table(city: City) -> None:
    """Its lines overlap; the views are counted per metre of road all the same."""
    bare = replace(city, folder=None)
    assert not len(bare.roads())
    by_table = along_roads(vector_map(city), 5.0, 50.0)
    by_raster = along_roads(vector_map(bare), 5.0, 50.0)
    assert len(by_raster.centre) == pytest.approx(len(by_table.centre), rel=0.4)


# --- Hand-made descriptors ---------------------------------------------------------------------


def test_a_local_descriptor_holds_the_direction_of_an_edge(handmade) -> None:
    """An edge that rises to the north has gradients in bin 2 of 8: 90 degrees."""
    tile = torch.zeros(1, 3, 16, 16)
    tile[:, 0, :8] = 1
    (found,) = handmade.local_descriptors(tile)
    assert found.shape == (1, 128)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    by_direction = found.reshape(8, 16).sum(1)
    assert by_direction.argmax() == 2
    np.testing.assert_allclose(np.delete(by_direction, 2), 0, atol=1e-5)
    (turned,) = handmade.local_descriptors(tile.rot90(-1, (2, 3)))  # clockwise: rises to the east
    assert turned.reshape(8, 16).sum(1).argmax() == 0
    assert handmade.local_descriptors(torch.zeros(1, 3, 16, 16))[0].shape == (0, 128)


def test_vlad_by_hand(handmade) -> None:
    """Two residuals at the first centre, (1, 0) and (1, 2); one at the second, (0, -3)."""
    method = handmade.Vlad(np.array([[0.0, 0.0], [10.0, 0.0]], np.float32))
    points = np.array([[1.0, 0.0], [1.0, 2.0], [10.0, -3.0]], np.float32)
    found = method.describe([points, points[:0]])
    expected = np.array([2, 2, 0, 0]) / np.sqrt(8) + np.array([0, 0, 0, -1])
    np.testing.assert_allclose(found[0], expected / np.sqrt(2), rtol=1e-5)
    assert not found[1].any()
    assert method.similarity(found[:1], found[:1])[0, 0] == pytest.approx(1)


def test_a_vocabulary_tree_by_hand(handmade) -> None:
    """Four bundles in two pairs: two branches, two levels."""
    rng = np.random.default_rng(0)
    middle = np.array([[0, 0], [0, 4], [40, 0], [40, 4]], float)
    views = [
        (middle[list(bundles)] + rng.normal(0, 0.1, (len(bundles), 2))).astype(np.float32)
        for bundles in ([0, 0, 1], [0, 2], [2, 3], [3, 3, 1], [0, 0, 0, 1])
    ]
    tree = handmade.VocabularyTree(views, branches=2, levels=2)
    counts = tree._counts(views)
    assert counts.shape == (5, 6)
    leaves = {  # by the bundle that passes through it
        bundle: next(
            node
            for node, centre in enumerate(tree.centres)
            if np.hypot(*(centre - middle[bundle])) < 1
        )
        for bundle in range(4)
    }
    of_leaf = counts[:, [leaves[bundle] for bundle in range(4)]]
    expected = [[2, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 2], [3, 1, 0, 0]]
    assert of_leaf.tolist() == expected
    used = (np.array(expected) > 0).sum(0)
    np.testing.assert_allclose(tree.weight[[leaves[b] for b in range(4)]], np.log(5 / used))
    vectors = tree.describe(views)
    np.testing.assert_allclose(vectors.sum(1), 1)
    similar = tree.similarity(vectors, vectors)
    assert similar[0].argsort()[-2:].tolist() == [4, 0]  # itself, and the view most like it


# --- Figures and tables ------------------------------------------------------------------------


def test_recalls_and_errors_by_hand(literature) -> None:
    truth = np.zeros((3, 3))
    found = [
        np.array([[30.0, 0, 0.2], [3.0, 0, 3.0], [0, 20.0, 0.1]]),
        np.array([[0.0, 4.0, np.radians(31)]]),
        np.zeros((0, 3)),
    ]
    got = literature.figures(found, truth)
    third = pytest.approx(1 / 3)
    assert got["n"] == 3
    assert got["recall"]["1"] == {"5": third, "25": third, "100": pytest.approx(2 / 3)}
    assert got["recall"]["100"] == dict.fromkeys(("5", "25", "100"), pytest.approx(2 / 3))
    assert got["recall_heading"]["1"] == {"5": 0, "25": 0, "100": third}
    assert got["recall_heading"]["100"] == {"5": 0, "25": third, "100": third}
    assert got["median_m"] == pytest.approx(30.0)
    assert got["mean_m"] is None  # one query has no answer
    without = literature.figures([pose * (1, 1, np.nan) for pose in found], truth)
    assert without["recall_heading"] is None


def test_chance_is_that_of_independent_draws(literature) -> None:
    got = literature.by_chance(1.0, np.array([[0.0, 0, 0], [3.0, 4.0, 0], [0.0, 0, 0]]))
    one = np.pi * 25**2 / 1e6
    assert got["recall"]["1"]["25"] == pytest.approx(one)
    assert got["recall"]["100"]["25"] == pytest.approx(1 - (1 - one) ** 100)
    assert (got["median_m"], got["mean_m"]) == (0.0, pytest.approx(5 / 3))


def test_tables_hold_what_was_run_and_say_what_was_not(page, tmp_path: Path) -> None:
    recall = {"1": {"5": 0.1, "25": 0.2, "100": 0.3}, "100": {"5": 0.4, "25": 0.5, "100": 0.6}}
    result = {
        "row": "PlaNet",
        "drive": "oxford",
        "n": 7,
        "made": "today",
        "recall": recall,
        "recall_heading": None,
        "median_m": 12.34,
        "mean_m": None,
        "training": {"steps": 9, "seconds": 60.2},
    }
    file = tmp_path / "page.md"
    file.write_text(f"before\n{page.BEGIN}outdated\n{page.END}after\n")
    page.write_page(file, {("PlaNet", "oxford"): result}, 20.0, "unknown")
    text = file.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "outdated" not in text
    row = "| PlaNet | 9 steps, 60 s | 7 | 0.100 | 0.200 | 0.300 | 0.400 | 0.500 | 0.600 | - | - |"
    assert f"{row} 12.3 | - |" in text
    assert "not run yet: chance, search, CrossLocate," in text
    assert text.count("Not run yet") == 1  # of the other drive
    again = file.read_text()
    page.write_page(file, {("PlaNet", "oxford"): result}, 20.0, "unknown")
    assert file.read_text() == again
    (tmp_path / "bare.md").write_text("nothing\n")
    with pytest.raises(MaptileError, match="lacks the lines"):
        page.write_page(tmp_path / "bare.md", {}, 20.0, "unknown")


def test_the_page_of_the_project_has_a_row_of_each_recipe(literature) -> None:
    rows = {row.config for row in literature.ROWS} - {None}
    assert rows == {"panorama", *(f"literature/{name}" for name in RECIPES)}
    assert len({row.slug for row in literature.ROWS}) == len(literature.ROWS)
    text = (ROOT / "docs" / "literature.md").read_text()
    assert all(f"| {row.name} |" in text for row in literature.ROWS)


def test_what_is_done_is_not_done_again(literature, city: City, tmp_path, monkeypatch) -> None:
    case = literature.Case(city.folder, tmp_path / "drive", 0.0, 0.0)
    runs: list[str] = []

    def run(row, name, case, budget, work):
        runs.append(row.name)
        return {"row": row.name, "drive": name, "recall": {}}

    monkeypatch.setattr(literature, "run", run)
    monkeypatch.setattr(literature, "make_cases", lambda data, work: {"oxford": lambda: case})
    arguments = ["literature.py", "--work", str(tmp_path), "--only", "chance", "planet"]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", arguments)
        literature.main()
    assert runs == ["chance", "PlaNet"]
    done = literature.results(tmp_path, literature.Budget(20.0, "unknown", None))
    assert set(done) == {("chance", "oxford"), ("PlaNet", "oxford")}
    other = literature.results(tmp_path, literature.Budget(1.0, "unknown", None))
    assert not other


def test_a_model_is_trained_once_per_budget(literature, city: City, monkeypatch) -> None:
    calls: list[tuple[str, float]] = []

    def fake(where, settings, minutes):
        calls.append((settings.name, minutes))
        write_json(where.folder / "models" / settings.name / "model.json", {"name": settings.name})

    monkeypatch.setattr(literature, "train", fake)
    rows = {row.name: row for row in literature.ROWS}
    where = open_city(city.folder)
    budget = literature.Budget(0.5, "unknown", None)
    folders = [
        literature.trained(rows[name], where, budget)
        for name in ("PlaNet", "CrossLocate", "CrossLocate, uniform grid", "PlaNet")
    ]
    assert calls == [("planet_unknown_0.5min", 0.5), ("crosslocate_known_0.5min", 0.5)]
    assert [method for _, method in folders] == ["cells", "retrieval", "retrieval", "cells"]
    assert read_json(folders[0][0] / "model.json")["name"] == "planet_unknown_0.5min"


# --- The whole way, on a small town --------------------------------------------------------------


@pytest.fixture(scope="module")
def town(town_city: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that models may be written to."""
    return Path(shutil.copytree(town_city, tmp_path_factory.mktemp("town") / "town"))


@pytest.mark.parametrize(
    "row", ["chance", "search", "CrossLocate", "depth panoramas", "VLAD", "MvMF", "PlaNet"]
)
def test_each_family_is_judged_on_a_drive(row, literature, town, town_drive, tmp_path, monkeypatch):
    monkeypatch.setattr(literature, "load_settings", lambda kind, name: tiny(name.split("/")[-1]))
    monkeypatch.setattr(literature, "EVERY_M", 20.0)
    rows = {one.name: one for one in literature.ROWS}
    # Two queries in a regular town: only the search with a known heading is sure.
    case = literature.Case(town, town_drive, 50.0, 20.0)
    heading = "known" if row == "search" else "unknown"
    budget = literature.Budget(0.1, heading, 2)
    got = literature.run(rows[row], "town", case, budget, tmp_path)
    assert (got["row"], got["drive"], got["n"], got["minutes"]) == (row, "town", 2, 0.1)
    assert got["recall"]["1"]["25"] <= got["recall"]["100"]["25"] <= 1
    assert got["recall"]["100"]["5"] <= got["recall"]["100"]["100"]
    assert ("training" in got) == (rows[row].config is not None)
    assert (got["recall_heading"] is None) == (row in ("chance", "PlaNet"))
    if row == "search":
        assert got["recall_heading"]["100"]["5"] == 1.0
    write_json(tmp_path / "result.json", got)  # plain values only
