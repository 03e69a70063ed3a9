"""The map as teacher: labels, poses that teach, guards, and the sensor profile."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made import UTM, blocks_raster, seen_walls, straight_drive
from small_city import small_city

import maptile_loc as ml
from data_prep.city.folder import City, open_city
from data_prep.city.raster import MapRaster
from data_prep.errors import MaptileError
from data_prep.geometry import rotate
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_route
from maptile_loc import cli
from maptile_loc.config import load_settings
from maptile_loc.fuse.motion import FuseSettings, make_steps
from maptile_loc.learn.sensor_profile import RECIPE, adapt_detector, check_out
from maptile_loc.learn.teacher import (
    SHIFTS,
    TeachSettings,
    cell_positions,
    edge_distances,
    edge_shares,
    left_out_poses,
    make_lesson,
    make_lessons,
    map_targets,
    sure_poses,
)
from maptile_loc.learn.walls import (
    NO_WALL,
    UNKNOWN,
    FitSettings,
    LabelNoise,
    Sample,
    fit_detector,
    labelled_samples,
    wall_loss,
)
from maptile_loc.map_search import prepare_search
from maptile_loc.perceive.detector import (
    BUILDING_CLASS,
    CARD,
    CLASSES,
    SHIPPED,
    WEIGHTS,
    WallDetector,
    read_detector,
    write_detector,
)
from maptile_loc.perceive.labels import LABELS
from maptile_loc.perceive.query_tile import survey
from maptile_loc.perceive.submap import SubmapSettings
from maptile_loc.perceive.walls import FEATURES
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.types import Candidates, Estimates, Fixes, Queries

RASTER = blocks_raster(side_m=280.0)
START, STEP_M, SCANS = RASTER.centre - [50.0, 7.0], 4.0, 26
SINGLE = Queries(0.0, 0.0)
KEYS = {"block_m": 20.0, "least_m": 60.0, "fit.epochs": 3, "fit.batch": 4}
"""Keys of the recipe for a drive of 100 m."""


# --- A drive through blocks, and a detector -----------------------------------------------------


def clutter(here, rng):
    """(N, 3) points of round bushes at fixed positions, in the frame of a vehicle that faces east.

    They stand at least 3 m away from every building.
    """
    fixed = np.random.default_rng(9)
    centres = START + fixed.uniform([-40, -60], [140, 60], (400, 2))
    clear = edge_distances(RASTER, centres, np.zeros((1, 2)), 6.0)[0] > 4.5
    outside = RASTER.data[0][tuple(np.floor(RASTER.pixel_from_world(centres)).astype(int).T)] == 0
    near = centres[clear & outside] - here
    near = near[np.hypot(*near.T) < 40]
    points = np.repeat(near, 40, axis=0) + rng.normal(0, 0.5, (40 * len(near), 2))
    return np.column_stack([points, rng.uniform(0.5, 3.0, len(points))])


def clouds_along(start, count, seed=0):
    """Clouds of a vehicle that drives east, and its positions."""
    here = start + np.column_stack([np.arange(count) * STEP_M, np.zeros(count)])
    rngs = [np.random.default_rng([seed, i]) for i in range(count)]
    return [
        np.vstack([seen_walls(RASTER, at, 0.0, rng), clutter(at, rng)])
        for at, rng in zip(here, rngs, strict=True)
    ], here


def lessons_at(detector, clouds, here, localize):
    drive = straight_drive(clouds, STEP_M, -RASTER.convergence)
    tiles = drive_tiles(open_map(), drive, SINGLE, localize)
    poses = np.column_stack([here, np.zeros(len(here))])
    return [
        make_lesson(tiles, i, i // 5, pose, RASTER, detector, TeachSettings())
        for i, pose in enumerate(poses)
    ]


def open_map(raster=RASTER):
    return City(None, "blocks", raster, raster.centre, "made", None, ())


@pytest.fixture(scope="module", autouse=True)
def package_detector(tmp_path_factory):
    """The folder of a detector that is used as that of the package: roughly right."""
    folder = tmp_path_factory.mktemp("package") / "weights"
    nothing = WallDetector(len(FEATURES), 8).eval()
    lessons = lessons_at(nothing, *clouds_along(START + [3.0, 2.0], 8, 1), LocalizeSettings())
    samples = [sample for lesson in lessons for sample in lesson.samples]
    detector = fit_detector(samples, 256, FitSettings(width=8, epochs=15, batch=2))
    write_detector(folder, detector, FEATURES, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maptile_loc.perceive.walls.SHIPPED", folder)
        patch.setattr("maptile_loc.learn.sensor_profile.SHIPPED", folder)
        yield folder


@pytest.fixture(scope="module")
def drive_folder(tmp_path_factory):
    """The drive in files, with its truth; the map lies beside it."""
    folder = tmp_path_factory.mktemp("drives") / "a drive"
    (folder / "clouds").mkdir(parents=True)
    clouds, here = clouds_along(START, SCANS)
    t_ns = 1_700_000_000_000_000_000 + np.arange(SCANS) * 1_000_000_000
    for t, points in zip(t_ns, clouds, strict=True):
        rows = np.column_stack([points, np.zeros(len(points))])
        rows.astype("<f4").tofile(folder / "clouds" / f"{t}.bin")
    still = {"y": 0.0, "z": 0.0, "qx": 0.0, "qy": 0.0, "qz": 0.0, "qw": 1.0}
    latitude, longitude = RASTER.projection.inverse(here)
    heading = -RASTER.convergence
    for name, columns in {
        "odometry": {"x": STEP_M * np.arange(SCANS), **still},
        "heading": {"heading": heading},
        "truth": {"latitude": latitude, "longitude": longitude, "heading": heading},
    }.items():
        pd.DataFrame({"t_ns": t_ns, **columns}).to_csv(folder / f"{name}.csv", index=False)
    RASTER.write(folder.parent / "blocks.tif")
    return folder


def taught(drive, out, city=None, **keys):
    city = drive.parent / "blocks.tif" if city is None else city
    overrides = [f"{key}={value}" for key, value in (KEYS | keys).items()]
    return ml.adapt(
        city, drive, what="walls", out=out, submap_m=0, every_m=0, overrides=overrides, device="cpu"
    )


@pytest.fixture(scope="module")
def profile(drive_folder, tmp_path_factory):
    return taught(drive_folder, tmp_path_factory.mktemp("profiles") / "mine")


# --- Labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("heading", [0.0, 0.7, -2.5])
@pytest.mark.parametrize("rotation", [0.0, 1.1])
def test_cells_are_labelled_by_their_distance_from_a_square_house(heading, rotation):
    data = np.zeros((3, 400, 400), np.uint8)
    data[0, 190:210, 180:220] = 255  # 20 m wide, 10 m high
    raster = MapRaster(data, 1000.0, 5200.0, 0.5, UTM)
    pose = np.array([1100.3, 5107.9, heading])
    size, rng = 256, np.random.default_rng(0)
    cell = rng.choice(size * size, 4000, replace=False)
    # In the vehicle's frame first, then on the map: the turn of the tile has no effect.
    row, column = np.divmod(cell, size)
    xy = np.column_stack([column + 0.5 - size / 2, size / 2 - row - 0.5]) * 0.5
    expected = pose[:2] + rotate(rotate(xy, -rotation), heading)
    found = cell_positions(cell, size, 0.5, rotation, pose)
    np.testing.assert_allclose(found, expected, atol=1e-9)

    beyond = np.abs(expected - [1100.0, 5100.0]) - [10.0, 5.0]
    outside = np.hypot(*np.maximum(beyond, 0).T)
    distance = np.where((beyond > 0).any(axis=1), outside, -beyond.max(axis=1))
    clipped = np.minimum(distance, 3.5)
    seen = edge_distances(raster, found, np.zeros((1, 2)), 3.5)[0]
    inside = raster.inside(found, 3.5)
    assert np.isnan(seen[~inside]).all()
    np.testing.assert_allclose(seen[inside], clipped[inside], atol=0.3)
    target = map_targets(seen, TeachSettings())
    sure = inside & (np.abs(distance - 1) > 0.3) & (np.abs(distance - 3) > 0.3)
    right = np.where(distance < 1, BUILDING_CLASS, np.where(distance > 3, NO_WALL, UNKNOWN))
    assert (target[sure] == right[sure]).all()
    assert (target[~inside] == UNKNOWN).all()
    assert (target == BUILDING_CLASS).sum() > 10


def test_displacements_move_all_cells():
    xy = RASTER.centre + np.random.default_rng(0).uniform(-30, 30, (50, 2))
    together = edge_distances(RASTER, xy, SHIFTS, 3.5)
    for shift, row in zip(SHIFTS, together, strict=True):
        alone = edge_distances(RASTER, xy + shift, np.zeros((1, 2)), 3.5)[0]
        np.testing.assert_allclose(row, alone, atol=1e-6)


def test_the_loss_compares_noisy_probabilities_with_the_labels():
    torch.manual_seed(0)
    odds = torch.randn(200, len(CLASSES), dtype=torch.float64)
    target = torch.from_numpy(np.random.default_rng(0).choice([-2, -1, 1], 200))
    wall = torch.softmax(odds, 1)[:, BUILDING_CLASS].numpy()
    labelled = 0.9 * wall + 0.2 * (1 - wall)
    expected = -np.log(np.where(target == BUILDING_CLASS, labelled, 1 - labelled))
    known = target.numpy() != UNKNOWN
    found = wall_loss(odds, target, LabelNoise(missed=0.1, invented=0.2))
    assert float(found) == pytest.approx(expected[known].mean(), rel=1e-6)
    plain = -np.log(np.where(target == BUILDING_CLASS, wall, 1 - wall))[known].mean()
    assert float(wall_loss(odds, target)) == pytest.approx(plain, rel=1e-9)


def test_an_anchor_keeps_the_weights_near_the_start(package_detector):
    start = read_detector(package_detector, FEATURES)
    rng = np.random.default_rng(0)
    cell = np.sort(rng.choice(256 * 256, 500, replace=False))
    features = rng.normal(0, 1, (500, len(FEATURES))).astype(np.float32)
    samples = [Sample(cell, features, rng.choice([NO_WALL, BUILDING_CLASS], 500))]

    def moved(anchor: float) -> float:
        settings = FitSettings(epochs=20, weight_decay=0.0, anchor=anchor)
        found = fit_detector(samples, 256, settings, start)
        pairs = zip(found.parameters(), start.parameters(), strict=True)
        return sum(float((a - b).square().sum()) for a, b in pairs)

    assert moved(100.0) < 0.3 * moved(0.0)


# --- Poses that teach ---------------------------------------------------------------------------


def made_fixes(count, at=None):
    """Fixes on a straight line, 5 m apart; those that ``at`` selects are moved."""
    fixes = []
    for i in range(count):
        pose = np.array([[5.0 * i, 0.3 * np.sin(i), 0.0]])
        if at is not None and at[i]:
            pose += [0.9, -1.3, 0.01]
        covariance = np.diag([0.3, 0.3, 1e-4])[None]
        fixes.append(Fixes(Candidates(pose, np.array([-1e-6])), covariance))
    return fixes


def test_the_evidence_of_a_block_does_not_reach_its_own_poses():
    count = 24
    track = np.column_stack([5.0 * np.arange(count), np.zeros((count, 2))])
    steps = make_steps(track, np.zeros(count, np.int32), track[:, 0], 10.0, FuseSettings())
    blocks = np.arange(count) // 6
    arguments = steps, blocks, 10.0, 1e6, FuseSettings()
    before = left_out_poses(made_fixes(count), *arguments)
    assert before.localized.all()
    assert np.abs(before.poses - track)[:, :2].max() < 1.0
    # Submaps of 10 m: the neighbours of a block have scans in common with it.
    number = np.arange(count)
    for changed in (blocks == 1, (number >= 5) & (number < 13)):
        after = left_out_poses(made_fixes(count, changed), *arguments)
        for name in ("poses", "covariance", "score", "localized"):
            same = getattr(before, name)[blocks == 1], getattr(after, name)[blocks == 1]
            np.testing.assert_array_equal(*same)
        assert np.abs(after.poses - before.poses)[blocks == 2, :2].max() > 0.01


def test_only_sure_poses_teach():
    covariance = np.tile(np.diag([0.25, 0.25, 1e-4]), (5, 1, 1))
    covariance[1, 0, 0] = 1.1
    covariance[2, :2, :2] = [[0.7, 0.5], [0.5, 0.7]]  # 1.1 m in its worst direction
    covariance[3, 2, 2] = np.radians(1.2) ** 2
    localized = np.array([True] * 4 + [False])
    found = Estimates(
        np.zeros((5, 3)), covariance, np.ones(5), localized, np.zeros(5), np.full(5, "")
    )
    assert sure_poses(found, TeachSettings()).tolist() == [True] + [False] * 4
    nothing = replace(found, covariance=covariance * np.nan, poses=covariance[:, 0] * np.nan)
    assert not sure_poses(nothing, TeachSettings()).any()


# --- The profile --------------------------------------------------------------------------------


def test_a_profile_is_written_and_read(profile, drive_folder, package_detector):
    detector = read_detector(profile, FEATURES)
    start = read_detector(package_detector, FEATURES)
    assert not torch.equal(detector.last.weight, start.last.weight)
    card = json.loads((profile / CARD).read_text())
    assert "OpenStreetMap" in card["attribution"]
    assert "licence of the drive" in card["licence"]
    about = card["adapted"]
    assert (about["drive"], about["format"], about["city"]) == ("a drive", "clouds", "blocks")
    assert about["queries"] == len(about["positions"]) >= 20
    assert 0 < about["walls"] < about["cells"]
    loss = about["log_loss_held_out"]
    assert loss["after"] < loss["before"]
    positions = RASTER.projection.forward(*np.array(about["positions"]).T)
    assert np.abs(positions[:, 1] - START[1]).max() < 1.5
    settings = load_settings(TeachSettings, profile / RECIPE)
    assert (settings.block_m, settings.fit.epochs) == (20.0, 3)


def test_the_truth_changes_no_weight(profile, drive_folder, tmp_path):
    gone = Path(shutil.copytree(drive_folder, tmp_path / "a drive"))
    (gone / "truth.csv").unlink()
    again = taught(gone, tmp_path / "again", drive_folder.parent / "blocks.tif")
    assert (again / WEIGHTS).read_bytes() == (profile / WEIGHTS).read_bytes()
    cards = [json.loads((folder / CARD).read_text()) for folder in (again, profile)]
    assert cards[0].pop("made_from") != cards[1].pop("made_from")  # the paths of the drives
    assert cards[0] == cards[1]


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["maptile", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = capsys.readouterr()
    return stopped.value.code or 0, printed.out, printed.err


def test_the_command_writes_what_the_api_writes(
    profile, drive_folder, tmp_path, monkeypatch, capsys
):
    out, city = tmp_path / "mine", drive_folder.parent / "blocks.tif"
    sets = [f"--set={key}={value}" for key, value in KEYS.items()]
    options = "--walls", "--submap", 0, "--every", 0, "--device", "cpu", *sets
    adapt = ["adapt", city, drive_folder, "--out", out, *options]
    status, printed, error = run_command(monkeypatch, capsys, *adapt)
    assert status == 0, error
    assert f"--sensor-profile {out} --out OUT" in printed.splitlines()[-1]
    for name in (CARD, WEIGHTS, RECIPE):
        assert (out / name).read_bytes() == (profile / name).read_bytes()
    # An older profile is replaced; other files in it stay.
    (out / "notes.txt").write_text("mine")
    assert run_command(monkeypatch, capsys, *adapt)[0] == 0
    assert (out / "notes.txt").read_text() == "mine"

    localize = "localize", city, drive_folder, "--submap", 0, "--every", 16, "--out"
    given = run_command(
        monkeypatch, capsys, *localize, tmp_path / "a", "--sensor-profile", out, "--device", "cpu"
    )
    key = f"query.wall.profile={out}"
    set_ = run_command(
        monkeypatch, capsys, *localize, tmp_path / "b", "--set", key, "--device", "cpu"
    )
    assert given[0] == set_[0] == 0, given[2] + set_[2]
    for name in ("stages.csv", "settings.yaml", "run.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    run = json.loads((tmp_path / "a" / "run.json").read_text())
    assert run["sensor_profile"] == str(out.resolve())


def test_a_profile_that_is_absent_or_damaged_is_one_clear_line(profile, drive_folder, tmp_path):
    city = drive_folder.parent / "blocks.tif"
    with pytest.raises(MaptileError, match=r"no detector\.json in it"):
        ml.localize(city, "no drive", sensor_profile=tmp_path / "none")
    damaged = Path(shutil.copytree(profile, tmp_path / "damaged"))
    content = bytearray((damaged / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (damaged / WEIGHTS).write_bytes(content)
    with pytest.raises(MaptileError, match="does not belong to"):
        ml.localize(city, "no drive", overrides=[f"query.wall.profile={damaged}"])
    with pytest.raises(MaptileError, match="give one of both"):
        key = f"query.wall.profile={damaged}"
        ml.localize(city, "no drive", sensor_profile=profile, overrides=[key])


# --- A simulated drive --------------------------------------------------------------------------


@pytest.mark.skipif(not (SHIPPED / CARD).is_file(), reason="the package has no detector here")
def test_buildings_that_are_missing_or_shifted_on_the_map_do_not_ruin_the_detector(tmp_path):
    """An HDL-64E in a world with a fifth more houses than its map, shifted, in dense gardens."""
    city = small_city(tmp_path, seed=3)
    keys = ["world.shift_m=1.0", "world.new=0.2", "every_m=7"]
    keys += ["world.shrubs_per_100m=30", "world.trees_per_100m=5", "world.thickets_per_100m=0"]
    how = load_settings(SimulateSettings, "simulate", [*keys, "labels=all"])
    for seed in (1, 2):
        route = trajectory_from_route(city, 170.0, seed)
        simulate(city, route, tmp_path / str(seed), "hdl64", how.model_copy(update={"seed": seed}))
    start = read_detector(SHIPPED, FEATURES)
    localize = load_recipe(overrides=["submap.labels={}", f"query.wall.profile={SHIPPED}"])
    settings = TeachSettings(block_m=30)
    tiles = drive_tiles(city, ml.open_drive(tmp_path / "1"), SINGLE, localize)
    lessons = make_lessons(tiles, prepare_search(city, localize), start, settings, localize)
    assert len(lessons) >= 15
    adapted, _ = adapt_detector(start, lessons, 256, settings)
    submap = SubmapSettings(labels={"simulated": LABELS["semantickitti"]})
    localize = LocalizeSettings(submap=submap)
    tiles = drive_tiles(city, ml.open_drive(tmp_path / "2"), SINGLE, localize)
    samples: list[Sample] = []
    for query, rotation in enumerate(tiles.rotation.tolist()):
        seen = survey(tiles.submap(query), rotation, localize.query)
        samples += labelled_samples(seen, localize.query)
    before, after = (average_precision(detector, samples) for detector in (start, adapted))
    assert after > before - 0.002


def average_precision(detector, samples):
    """Mean precision at the walls among the cells with a label, the surest first."""
    known = [sample.target != UNKNOWN for sample in samples]
    pairs = list(zip(samples, known, strict=True))
    score = np.concatenate([detector.building(s.cell, s.features, 256)[k] for s, k in pairs])
    wall = np.concatenate([s.target[k] == BUILDING_CLASS for s, k in pairs])
    wall = wall[np.argsort(-score, kind="stable")]
    return (np.cumsum(wall) / np.arange(1, len(wall) + 1))[wall].mean()


# --- Guards -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"least_queries": 50}, "poses are sure enough to teach"),
        ({"least_m": 500}, r"on 100 m; 10 on 500 m are needed"),
        ({"max_std_m": 0.01}, r"0 of 26 poses are sure"),
        ({"fit.learning_rate": 30.0, "fit.anchor": 0.0}, "explains the map no better"),
        ({"block_m": 1000.0}, "poses are sure enough to teach"),
    ],
)
def test_nothing_is_written_where_the_drive_does_not_teach(drive_folder, tmp_path, keys, message):
    with pytest.raises(MaptileError, match=message):
        taught(drive_folder, tmp_path / "out", **keys)
    assert list(tmp_path.iterdir()) == []


def test_a_map_that_fits_better_beside_the_poses_is_refused(package_detector):
    """The same with the poses 30 m off, and with another city's map."""
    detector = read_detector(package_detector, FEATURES)
    clouds, here = clouds_along(START, 6)
    fits = edge_shares(lessons_at(detector, clouds, here, LocalizeSettings()))
    assert fits[0] > 2 * fits[1:].max()
    for angle in (0.3, 2.0, 4.4):
        moved = here + 30 * np.array([np.cos(angle), np.sin(angle)])
        shares = edge_shares(lessons_at(detector, clouds, moved, LocalizeSettings()))
        assert shares[0] < TeachSettings().clear * shares[1:].max()


def test_the_wrong_city_is_refused(drive_folder, tmp_path):
    blocks_raster(seed=5, side_m=280.0).write(tmp_path / "other.tif")
    with pytest.raises(MaptileError, match=r"sure enough to teach|does not fit its poses"):
        taught(drive_folder, tmp_path / "out", tmp_path / "other.tif")
    # Even if doubtful poses teach.
    keys = {"max_std_m": 100.0, "max_std_deg": 100.0, "least_queries": 1, "least_m": 1.0}
    with pytest.raises(MaptileError, match=r"sure enough to teach|does not fit its poses"):
        taught(drive_folder, tmp_path / "out", tmp_path / "other.tif", **keys)
    assert not (tmp_path / "out").exists()


def test_what_is_no_profile_is_never_replaced(town_city, package_detector, tmp_path):
    city = open_city(town_city)
    for inside in (town_city, town_city / "profile", town_city / "models" / ".." / "profile"):
        with pytest.raises(MaptileError, match="not to a city"):
            check_out(inside, city)
    (tmp_path / "mine").mkdir()
    check_out(tmp_path / "mine", city)
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for folder in (tmp_path / "mine", package_detector):
        with pytest.raises(MaptileError, match="no sensor profile"):
            check_out(folder, city)
    with pytest.raises(MaptileError, match="cannot write"):
        check_out(tmp_path / "mine" / "thesis.tex", city)


def test_options_that_do_not_fit_are_refused(drive_folder, tmp_path, monkeypatch, capsys):
    pair = drive_folder.parent / "blocks.tif", drive_folder
    for options in (["--walls"], ["--out", tmp_path], ["--walls", "--out", "x", "--minutes", 3]):
        status, _, error = run_command(monkeypatch, capsys, "adapt", *pair, *options)
        assert status == 2
        assert len(error.strip().splitlines()) == 1
    with pytest.raises(MaptileError, match="out folder"):
        ml.adapt(*pair, what="walls")


def test_the_shipped_recipe_states_the_defaults():
    assert load_settings(TeachSettings, "adapt_walls") == TeachSettings()
