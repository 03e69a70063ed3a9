"""Which town a drive was recorded in: votes, the index, and the whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_city import small_city
from test_retrieval import RECIPE

import maptile_loc as ml
from data_prep.city.folder import City, open_city
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se2_compose, wrap_angle
from maptile_loc.cli import app
from maptile_loc.learn.loop import train
from maptile_loc.models.descriptor import DescriptorModel
from maptile_loc.models.parts.describer import Describer
from maptile_loc.models.parts.published import read_model
from maptile_loc.render.view import ViewSettings
from maptile_loc.towns import index as towns_index
from maptile_loc.towns.compared import NOWHERE, Look, compare
from maptile_loc.towns.index import TownIndex, kept_index, make_index
from maptile_loc.towns.votes import (
    Arrangement,
    SimilarViews,
    Vote,
    VoteSettings,
    arrangements,
    best_of_towns,
)

faiss = pytest.importorskip("faiss")
SETTINGS = VoteSettings()
QUERIES = 12


def drive(seed: int = 0) -> Array:
    """(Q, 3) poses of a drive with turns, 40 m apart."""
    rng = np.random.default_rng(seed)
    heading = np.cumsum(rng.choice([0.0, np.pi / 2, -np.pi / 2], QUERIES, p=[0.6, 0.2, 0.2]))
    steps = 40 * np.column_stack([np.cos(heading), np.sin(heading)])
    return np.column_stack([np.cumsum(steps, axis=0), heading])


def count_votes(
    views: SimilarViews, motion: Array, segment: NDArray[np.int64], settings: VoteSettings
) -> list[Vote]:
    """The votes for each town alone, without a comparison."""
    arranged = arrangements(views, motion, segment, settings)
    return best_of_towns(arranged, np.array([one.votes for one in arranged]))


def views_of(
    motion: Array, frame: Array, town: int, similarity: float, query: Array
) -> list[tuple]:
    poses = se2_compose(frame, motion[query])
    return [(number, town, *pose, similarity) for number, pose in zip(query, poses, strict=True)]


def as_views(rows: list[tuple]) -> SimilarViews:
    table = np.array(sorted(rows))
    return SimilarViews(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        table[:, 2:4],
        wrap_angle(table[:, 4]),
        table[:, 5],
    )


def scattered(town: int, count: int, similarity: float, seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    return [
        (
            int(rng.integers(QUERIES)),
            town,
            *rng.uniform(-1500, 1500, 2),
            rng.uniform(-3, 3),
            similarity,
        )
        for _ in range(count)
    ]


def test_views_in_the_right_arrangement_win_over_more_similar_ones() -> None:
    motion, segment = drive(), np.zeros(QUERIES, np.int64)
    frame = np.array([300.0, -200.0, 2.1])
    rows = views_of(motion, frame, 0, 0.2, np.arange(0, QUERIES, 2))
    for town in range(1, 20):
        rows += scattered(town, 60, 0.3, town)
    first, second, *_ = count_votes(as_views(rows), motion, segment, SETTINGS)
    assert first.town == 0
    # Six tiles, each with one view that agrees: exp(0.2 / 0.05) each.
    assert first.score == pytest.approx(6 * 0.2 / SETTINGS.temperature)
    assert second.score < first.score
    np.testing.assert_allclose(first.places, se2_compose(frame, motion)[:, :2], atol=1e-6)


@given(st.floats(-3, 3), st.floats(-500, 500), st.floats(-500, 500))
def test_votes_do_not_depend_on_the_odometrys_frame(turn: float, x: float, y: float) -> None:
    motion, segment = drive(1), np.zeros(QUERIES, np.int64)
    rows = views_of(motion, np.array([10.0, 20.0, 0.3]), 0, 0.2, np.arange(5))
    views = as_views(rows + scattered(0, 40, 0.1, 3) + scattered(1, 40, 0.15, 4))
    moved = se2_compose(np.array([x, y, turn]), motion)
    for one, other in zip(
        count_votes(views, motion, segment, SETTINGS),
        count_votes(views, moved, segment, SETTINGS),
        strict=True,
    ):
        assert one.town == other.town
        assert one.score == pytest.approx(other.score)
        np.testing.assert_allclose(one.places, other.places, atol=1e-5)


def test_pieces_of_the_odometry_vote_by_themselves() -> None:
    """Between two pieces the motion is unknown, so a jump between them costs nothing."""
    motion = drive(2)
    segment = np.repeat([0, 1], QUERIES // 2).astype(np.int64)
    rows = views_of(motion, np.array([0.0, 0.0, 0.5]), 0, 0.2, np.arange(6))
    rows += views_of(motion, np.array([400.0, 900.0, -1.0]), 0, 0.2, np.arange(6, 12))
    apart = count_votes(as_views(rows), motion, segment, SETTINGS)[0]
    joined = count_votes(as_views(rows), motion, np.zeros(QUERIES, np.int64), SETTINGS)[0]
    assert apart.score == pytest.approx(12 * 0.2 / SETTINGS.temperature)
    assert joined.score == pytest.approx(6 * 0.2 / SETTINGS.temperature)


def test_only_the_most_similar_views_of_a_town_are_compared() -> None:
    motion, segment = drive(), np.zeros(QUERIES, np.int64)
    rows = views_of(motion, np.zeros(3), 0, 0.2, np.arange(QUERIES)) + scattered(0, 500, 0.01, 5)
    few = VoteSettings(most=QUERIES)
    assert count_votes(as_views(rows), motion, segment, few)[0].score == pytest.approx(
        QUERIES * 0.2 / few.temperature
    )


def test_arrangements_of_a_town_differ() -> None:
    motion, segment = drive(3), np.zeros(QUERIES, np.int64)
    rows = []
    for number, frame in enumerate([(0.0, 0.0, 0.4), (500.0, 0.0, 0.4), (0.0, 0.0, 2.4)]):
        rows += views_of(motion, np.array(frame), 0, 0.2 - 0.05 * number, np.arange(QUERIES))
        rows += views_of(motion, np.add(frame, [3.0, 2.0, 0.01]), 0, 0.02, np.arange(QUERIES))
    found = arrangements(as_views(rows), motion, segment, SETTINGS)
    expected = QUERIES * np.array([0.2, 0.15, 0.1]) / SETTINGS.temperature
    np.testing.assert_allclose([one.votes for one in found[:3]], expected)
    np.testing.assert_allclose(found[1].poses[:, 2], motion[:, 2] + 0.4, atol=1e-6)


# --- Comparison ----------------------------------------------------------------------------------


def made_index(places: Array, town: Array, seed: int = 0) -> TownIndex:
    """An index of views with random descriptors."""
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(len(places), 64)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    index = faiss.index_factory(64, "Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(descriptors)
    return TownIndex(index, town.astype(np.int32), places.astype(np.float32))


def test_a_town_is_as_probable_as_its_views_are_similar_where_the_tiles_are() -> None:
    """Two towns have views at the same positions; the tiles are the views of the first one."""
    motion = drive(4)
    places = np.concatenate([motion[:, :2] + 2.0] * 2)
    index = made_index(places, np.repeat([0, 1], QUERIES))
    turns = np.radians(np.arange(0, 360, 10))
    views = index.descriptors(np.arange(QUERIES))
    rng = np.random.default_rng(1)
    looks = []
    for query in range(QUERIES):
        other = rng.normal(size=(len(turns), 64))
        tile = other / np.linalg.norm(other, axis=1, keepdims=True)
        tile[abs(wrap_angle(turns - motion[query, 2])).argmin()] = views[query]
        looks.append(Look(query, tile.astype(np.float32), turns))
    right, wrong = Arrangement(0, 0, 1.0, motion), Arrangement(1, 0, 9.0, motion)
    away = Arrangement(0, 0, 9.0, motion + [5000.0, 0.0, 0.0])
    turned = Arrangement(0, 0, 9.0, motion + [0.0, 0.0, 1.5])
    scores = compare([right, wrong, away, turned], looks, index, SETTINGS)
    # Random unit vectors of 64 numbers: their products have a standard deviation of 1/8.
    assert scores[0] == pytest.approx(SETTINGS.per_std * QUERIES * 8, rel=0.1)
    assert scores[[1, 3]].max() < 0.4 * scores[0]
    assert scores[2] == pytest.approx(SETTINGS.per_std * QUERIES * NOWHERE)
    assert best_of_towns([right, wrong, away, turned], scores)[0].town == 0


def test_tiles_of_other_pieces_do_not_count() -> None:
    motion = drive(5)
    index = made_index(motion[:, :2], np.zeros(QUERIES))
    views = index.descriptors(np.arange(QUERIES))
    looks = [Look(query, views[query][None], motion[query, 2:]) for query in range(QUERIES)]
    halves = []
    for piece, part in enumerate((slice(0, 6), slice(6, 12))):
        poses = np.full((QUERIES, 3), np.nan)
        poses[part] = motion[part]
        halves.append(Arrangement(0, piece, 1.0, poses))
    whole = Arrangement(0, 0, 1.0, motion)
    near = SETTINGS.model_copy(update={"drift": 0.0})
    scores = compare([*halves, whole], looks, index, near)
    assert scores[:2].sum() == pytest.approx(scores[2])
    (joined,) = best_of_towns(halves, scores[:2])
    np.testing.assert_array_equal(joined.places, motion[:, :2])


# --- The index ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> list[City]:
    return [small_city(tmp_path_factory.mktemp(f"town{seed}"), seed=seed) for seed in (0, 7)]


@pytest.fixture(scope="module")
def model(cities: list[City]) -> Path:
    return train(cities[0], RECIPE, device="cpu")


@pytest.fixture(scope="module")
def describer(cities: list[City], model: Path) -> Describer:
    network, card = read_model(model, cities[0], DescriptorModel)
    return Describer(network, ViewSettings.model_validate(card["view"]), card, 10.0)


def by_hand(cities: list[City], describer: Describer) -> Array:
    return np.concatenate([describer.of_map(city)["descriptors"].numpy() for city in cities])


@pytest.mark.parametrize("lists", [False, True])
def test_the_index_finds_what_a_comparison_with_all_views_finds(
    cities: list[City], describer: Describer, lists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lists:
        monkeypatch.setattr(towns_index, "VIEWS_FROM", 10)
        monkeypatch.setattr(towns_index, "LISTS_PER_ROOT", 0.4)
    index = make_index(cities, describer)
    every = by_hand(cities, describer)
    assert len(index.town) == len(every) == index.faiss.ntotal
    assert np.bincount(index.town).tolist() == [
        len(describer.of_map(city)["places"]) for city in cities
    ]
    asked = every[::7]
    similarity, view = index.similar(asked, 5)
    exact = asked @ every.T
    np.testing.assert_allclose(similarity[:, 0], exact.max(axis=1), atol=0.02)
    found = np.take_along_axis(exact, view, axis=1)
    np.testing.assert_allclose(found, similarity, atol=0.02)
    np.testing.assert_allclose(index.descriptors(np.arange(0, len(every), 7)), asked, atol=0.02)


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_index_is_kept_until_cities_change_or_it_is_damaged(
    cities: list[City], describer: Describer, tmp_path: Path
) -> None:
    made = kept_index(tmp_path / "i", cities, describer)
    before = files(tmp_path / "i")
    again = kept_index(tmp_path / "i", cities, describer)
    assert files(tmp_path / "i") == before
    asked = by_hand(cities, describer)[:3]
    for one, other in zip(made.similar(asked, 4), again.similar(asked, 4), strict=True):
        np.testing.assert_array_equal(one, other)
    content = (tmp_path / "i" / "index.faiss").read_bytes()
    (tmp_path / "i" / "index.faiss").write_bytes(content[:-20] + bytes(20))
    mended: TownIndex = kept_index(tmp_path / "i", cities, describer)
    stated = json.loads((tmp_path / "i" / "towns.json").read_text())
    for files_of in (None, [], "both", 2):
        (tmp_path / "i" / "towns.json").write_text(json.dumps(stated | {"files": files_of}))
        mended = kept_index(tmp_path / "i", cities, describer)
    np.testing.assert_array_equal(mended.similar(asked, 4)[1], made.similar(asked, 4)[1])
    fewer = kept_index(tmp_path / "i", cities[:1], describer)
    assert set(fewer.town) == {0}
    assert json.loads((tmp_path / "i" / "towns.json").read_text())["names"] == [cities[0].name]


def test_an_index_replaces_nothing_else(
    cities: list[City], describer: Describer, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(MaptileError, match="--force"):
        kept_index(tmp_path / "notes", cities, describer)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"


# --- The whole ---------------------------------------------------------------------------------


def test_a_drive_is_found_in_its_town(
    cities: list[City], model: Path, town_city: Path, town_drive: Path
) -> None:
    """With a descriptor that has learned next to nothing, the search decides."""
    wide = ["around_m=3000", "enough=1.0"]
    located = ml.locate([*cities, town_city], town_drive, model=model, every_m=60, overrides=wide)
    assert located.city is not None
    assert located.found is not None
    assert located.city.content_hash == open_city(town_city).content_hash
    assert sum(town.probability for town in located.towns) == pytest.approx(1)
    truth = ml.open_drive(town_drive).truth
    assert truth is not None
    stage = located.found.evaluate(truth)["stages"]["smoothed"]
    assert stage["recall_5m"] > 0.8
    assert [town["name"] for town in located.found.record["towns"]] == [
        town.city.name for town in located.towns
    ]


def test_scans_that_have_nothing_to_do_with_each_other_are_looked_up_one_by_one(
    cities: list[City], model: Path, town_drive: Path
) -> None:
    few = ml.open_drive(town_drive).between(0.0, 0.2)
    located = ml.locate(cities, replace(few, odometry=None, apart=True), model=model)
    assert sum(town.probability for town in located.towns) == pytest.approx(1)


def test_the_command_says_that_a_drive_is_in_none_of_the_towns(
    cities: list[City], model: Path, town_drive: Path, tmp_path: Path
) -> None:
    folders = [str(city.folder) for city in cities]
    words = ["--model", str(model), "--out", str(tmp_path / "o"), "--every", "60"]
    done = CliRunner().invoke(app, ["locate", *folders, str(town_drive), *words])
    assert done.exit_code == 3, done.output
    assert "nothing localized" in done.output
    assert not (tmp_path / "o" / "run.json").exists()
