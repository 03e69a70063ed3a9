"""Lean images: the grid of poses, its measures and codes by hand; the protocol in the small."""

from __future__ import annotations

import math
import signal
import sys
from importlib import import_module

import numpy as np
import pytest
import shapely
import torch
from conftest import ROOT
from small_city import small_city

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from maptile_loc.learn.loop import read_checkpoint
from maptile_loc.render.extruded import blocks, extruded


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def lean(name: str):
    return import_module(f"lean.{name}")


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("lean"))


def grid(pitches: int = 6, step_m: float = 20.0):
    return lean("grid").PoseGrid(1000.0, 2000.0, 400.0, step_m, pitches)


def test_the_grid_has_the_paper_s_steps() -> None:
    """21 x 21 positions, 72 yaws 5 degrees apart, pitches of 0 to 15 degrees; middles between."""
    made = grid()
    samples, middles = made.samples(), made.midpoints()
    assert len(samples) == 21 * 21 * 72 * 6
    assert len(middles) == 20 * 20 * 72 * 5
    poses = made.poses(samples)
    assert np.unique(poses[:, 0]).tolist() == list(range(1000, 1401, 20))
    assert np.unique(poses[:, 1]).tolist() == list(range(2000, 2401, 20))
    np.testing.assert_allclose(np.unique(np.degrees(poses[:, 2])), np.arange(0, 360, 5), atol=1e-9)
    np.testing.assert_allclose(np.unique(np.degrees(poses[:, 3])), np.arange(0, 16, 3), atol=1e-9)
    first = made.poses(middles)[0] * (1, 1, 180 / math.pi, 180 / math.pi)
    np.testing.assert_allclose(first, [1010, 2010, 2.5, 1.5])


def test_level_views_have_no_pitch() -> None:
    assert len(grid(1).samples()) == 21 * 21 * 72
    assert len(grid(1).midpoints()) == 20 * 20 * 72
    assert not grid(1).midpoints()[:, 3].any()


def test_a_pose_vector_is_the_position_and_the_quaternion() -> None:
    """Yaw 90 and pitch 6 degrees, a quarter of the area east of its centre."""
    made = grid()
    unit = np.array([[15.0, 10.0, 18.0, 2.0]])
    vector = made.vectors(unit)[0]
    yaw, pitch = math.radians(45), math.radians(3)  # halves
    expected = [
        math.cos(yaw) * math.cos(pitch),
        math.sin(yaw) * math.sin(pitch),
        -math.cos(yaw) * math.sin(pitch),
        math.sin(yaw) * math.cos(pitch),
    ]
    np.testing.assert_allclose(vector, [0.25, 0.0, *expected], atol=1e-6)


def test_units_come_back_from_vectors_of_any_length() -> None:
    made = grid()
    units = made.samples()[::97]
    vectors = made.vectors(units)
    vectors[:, 2:] *= np.random.default_rng(0).uniform(-2, 2, (len(units), 1))
    off = made.units(vectors) - units
    off[:, 2] = (off[:, 2] + 36) % 72 - 36
    np.testing.assert_allclose(off, 0, atol=2e-4)
    assert np.isfinite(made.units(np.zeros((1, 6), np.float32))).all()


def test_the_nearest_samples_are_those_of_all_distances() -> None:
    """Against all pairs; yaw 71.9 is next to yaw 0."""
    made, rng = grid(), np.random.default_rng(0)
    known = made.samples()[rng.permutation(190512)[:800]]
    units = rng.uniform((-1, -1, 0, -1), (22, 22, 72, 7), (50, 4))
    off = units[:, None] - known[None]
    off[..., 2] = (off[..., 2] + 36) % 72 - 36
    expected = np.argsort((off**2).sum(axis=-1), axis=1)[:, :3]
    assert np.array_equal(made.nearest(known, units, 3), expected)
    known = np.array([[5.0, 5, 0, 1], [5, 5, 60, 1]])
    assert made.nearest(known, np.array([[5.0, 5, 71.9, 1]]), 1).tolist() == [[0]]


@pytest.mark.parametrize(
    ("pose", "apart"),
    [
        ((3.5, 4.5, 0.5, 2.5), [0, 0]),
        ((3.01, 4.99, 0.99, 2.01), [0, 0]),
        ((2.99, 4.5, 0.5, 2.5), [1, 1]),
        ((5.5, 3.5, 0.5, 2.5), [3, 3]),
        ((3.5, 4.5, 71.5, 2.5), [0, 1]),
        ((3.5, 4.5, 70.2, 0.5), [0, 4]),
        ((-0.5, 4.5, 36.5, -0.5), [4, 43]),
    ],
)
def test_d_counts_the_cells_between(pose, apart) -> None:
    """From the cell (3, 4, 0, 2); yaw repeats after 72 steps."""
    made = grid()
    assert made.apart(np.array([pose]), np.array([[3.5, 4.5, 0.5, 2.5]])).tolist() == [apart]


def test_level_cells_have_no_pitch() -> None:
    one, other = np.array([[3.5, 4.5, 1.5, -9.0]]), np.array([[3.5, 4.5, 0.5, 0.0]])
    assert grid(pitches=1).apart(one, other).tolist() == [[0, 1]]


def test_errors_are_in_metres_and_degrees() -> None:
    """3 and 4 m; 5 degrees across north and 3 of pitch."""
    made = grid()
    errors = made.errors(np.array([[1.15, 2.2, 71.5, 1.0]]), np.array([[1.0, 2.0, 0.5, 2.0]]))
    np.testing.assert_allclose(errors, [[5.0, math.hypot(5, 3)]])


def test_nearest_shares_by_hand() -> None:
    """Of four poses, two are nearest to their own sample, one is second, one is fourth."""
    made, protocol = grid(), lean("protocol")
    known = np.array([[4.0, 4, 9, 1], [5, 4, 9, 1], [6, 4, 9, 1], [9, 4, 9, 1]])
    found = np.array([[4.2, 4, 9, 1], [5.1, 4, 9, 1], [5.2, 4, 9, 1], [4.1, 4, 9, 1]])
    judged = protocol.judged_memory(made, known, made.vectors(found), np.arange(4))
    assert (judged["1nn"], judged["3nn"]) == (0.5, 0.75)
    np.testing.assert_allclose(judged["metres"], [20 * 6.0 / 4, 20 * 0.5], rtol=1e-4)
    np.testing.assert_allclose(judged["degrees"], 0, atol=1e-3)


def test_codes_are_the_bits_of_17_bit_numbers() -> None:
    network = lean("network")
    numbers = np.array([0, 5, 131071])
    bits = network.codes(numbers)
    assert bits[1].tolist() == [1, 0, 1] + [0] * 14
    assert np.array_equal(network.numbers_of(bits - 0.5), numbers)


def test_new_images_with_no_sample_s_code_are_wrong() -> None:
    made, protocol, images = grid(), lean("protocol"), lean("images")
    network = lean("network")
    known = images.ImageSet(np.zeros(0), np.array([[4.0, 4, 9, 1], [5, 4, 9, 1]]))
    between = images.ImageSet(np.zeros(0), np.array([[4.5, 4.5, 9.5, 1.5]] * 2))
    logits = network.codes(np.array([0, 2])) - 0.5
    memory = network.codes(np.array([0, 0])) - 0.5
    judged = protocol.judged_codes(made, images.Kept(known, between), memory, np.arange(2), logits)
    assert judged["memory"] == {"code": 0.5}
    assert judged["between_cells"] == dict.fromkeys(judged["between_cells"], 0.5)


def test_the_loss_is_the_sum_of_two_norms() -> None:
    network = lean("network")
    answers = torch.tensor([[0.3, 0.4, 1.0, 0, 0, 0], [0.0, 0, 0, 0, 0, 0]])
    targets = torch.tensor([[0.0, 0, 1.0, 0, 0, 0], [0.0, 0, 0.6, 0, 0.8, 0]])
    assert network.pose_loss(answers, targets).item() == pytest.approx((0.5 + 1.0) / 2)


def test_lean_views_show_the_box_and_follow_the_discard_rules() -> None:
    """A box 20 m ahead has 4 edges; three in a row have 12. A high wall hides the sky."""
    images = lean("images")

    def seen(*boxes):
        shapes = np.array([shapely.box(*box[:4]) for box in boxes], object)
        world = blocks(shapes, np.array([box[4] for box in boxes]), np.zeros(2))
        pictures, kept = images.lean_views(world)(np.zeros((1, 4)))
        return pictures[0], bool(kept[0])

    pictures, kept = seen((20, -4, 30, 4, 6))
    assert not kept
    assert pictures.shape == (3, 48, 48)
    middle = pictures[:, 24, 24].tolist()
    assert middle == [0, 255, math.floor(255 * 0.8)]
    assert pictures[:, 0, 0].tolist() == [0, 0, 0]
    three = [(20, y - 1, 30, y + 1, 6) for y in (-5, 0, 5)]
    assert seen(*three)[1]
    assert not seen(*three, (60, -200, 61, 200, 60))[1]


def test_map_tiles_are_turned_with_the_view(city: City) -> None:
    """Seen eastwards, what lies ahead is at the top: the tile seen northwards, turned."""
    images = lean("images")
    at = city.raster.centre
    north, east = images.map_tiles(city)(np.array([[*at, np.pi / 2, 0], [*at, 0, 0]]))[0]
    assert north.any()
    # Pixels of the map that lie on the edges of a tile's pixels may be on either side.
    assert (np.rot90(north, 1, (1, 2)) == east).mean() > 0.97
    assert (north == east).mean() < 0.9


def study(city: City, folder, steps: int = 40, pitches: int = 1):
    west, south = city.raster.centre - 30
    made = lean("grid").PoseGrid(float(west), float(south), 60.0, 30.0, pitches)
    return lean("protocol").Study(city, made, folder, steps)


def test_images_are_outside_buildings_and_kept(city: City, tmp_path) -> None:
    made = study(city, tmp_path, pitches=2)
    kept = made.images("edges")
    poses = made.grid.poses(kept.known.units)
    world = extruded(city, 0)
    assert world.free(poses[:, :2]).all()
    assert not world.free(made.grid.poses(made.grid.samples())[:, :2]).all()
    again, _ = lean("images").lean_views(world)(poses[5:6])
    assert np.array_equal(again[0], kept.known.images[5])
    files = sorted(path for path in tmp_path.rglob("*.raw"))
    times = [path.stat().st_mtime_ns for path in files]
    made.images("depth")
    assert [path.stat().st_mtime_ns for path in files] == times


def test_poses_of_map_tiles_are_learned_better_than_shuffled_ones(city: City, tmp_path) -> None:
    """A result that is kept needs no training."""
    made = study(city, tmp_path, steps=80)
    correct, shuffled = (made.result("tiles", one) for one in ("correct", "shuffled"))
    assert correct["steps"] == 80
    assert correct["memory"]["1nn"] > 1.3 * shuffled["memory"]["1nn"]
    assert correct["memory"]["degrees"][1] < 0.7 * shuffled["memory"]["degrees"][1]
    assert set(correct["between_cells"]) >= {"2D D<1", "2D D<3", "4D D<1", "4D D<3"}
    (made.result_file("tiles", "correct").parent / "end.ckpt").unlink()
    assert made.result("tiles", "correct") == correct


def test_an_interrupted_training_goes_on(city: City, tmp_path, monkeypatch) -> None:
    """Ctrl-C at the 40th batch; the next call learns the few that are left."""
    targets = lean("training").Targets
    read, count = targets.__getitem__, 0

    def counted(self, chosen):
        nonlocal count
        count += 1
        if count == 40:
            signal.raise_signal(signal.SIGINT)
        return read(self, chosen)

    monkeypatch.setattr(targets, "__getitem__", counted)
    with pytest.raises(MaptileError, match="interrupted; the same command continues"):
        study(city, tmp_path, steps=60).result("tiles", "correct")
    last = next(tmp_path.rglob("last.ckpt"))
    before, count = read_checkpoint(last)["global_step"], 40
    assert before > 20
    study(city, tmp_path, steps=60).result("tiles", "correct")
    assert read_checkpoint(last.with_name("end.ckpt"))["global_step"] == 60
    assert count - 40 < 60


def test_the_command_prints_the_tables(city: City, tmp_path, monkeypatch, capsys) -> None:
    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["lean_images.py", str(city.folder), *words])
        import_module("lean_images").main()

    words = ["--work", str(tmp_path), "--area", "60", "--grid", "30", "--pitches", "2"]
    call(*words, "--steps", "4", "--images", "edges+faces", "--task", "A", "code")
    shown = capsys.readouterr().out
    assert "| edges+faces |" in shown
    assert "17-bit codes" in shown
    with pytest.raises(SystemExit, match=r"^error: --grid 7: "):
        call(*words, "--grid", "7")


def test_published_figures_stand_beside() -> None:
    published = lean("published")
    assert published.TABLE[400, 20, "edges"]["A 1nn"] == "0.97"
    assert {len(one) for one in published.TABLE.values()} == {7}
    assert {one[:2] for one in published.TABLE} == set(published.COUNTS)
    assert set(lean("images").IMAGES) >= {one[2] for one in published.TABLE}
