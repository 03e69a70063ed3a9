from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import seen_walls
from small_city import small_city
from torch.utils.data import Dataset

from data_prep.city.folder import City
from data_prep.drive import Drive, GnssTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se2_between, se2_compose, wrap_angle
from data_prep.sources import open_drive
from data_prep.standing import kind_of
from maptile_loc import cli
from maptile_loc.config import load_settings
from maptile_loc.learn.adapt import AdaptSettings, adapt, motion_loss, tune
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import DataSettings, ModelSettings, TrainingSettings
from maptile_loc.learn.tile_sequence import TileSequence, positions_at, read_tile_sequence, see
from maptile_loc.models.parts.published import read_model
from maptile_loc.models.parts.resnet import NetworkSettings
from maptile_loc.models.parts.tile_model import Batch, Heading
from maptile_loc.models.posterior import PosteriorMapNet
from maptile_loc.models.regressor import MapNet
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.render.view import ViewSettings
from maptile_loc.types import HeadingKnowledge, Queries

VIEW = ViewSettings(size_px=16, resolution=6.0, rays=64)
TINY = ModelSettings(
    network=NetworkSettings(width=4, blocks=(1,), features=16),
    data=DataSettings(batch_tuples=4, worlds=1, validation_tuples=4, workers=0, view=VIEW),
    training=TrainingSettings(steps=4, epoch_steps=2),
)
SHORT = AdaptSettings(steps=3, tuple_size=3, drive_tuples=2, rendered_tuples=2)
KNOWN, UNKNOWN = HeadingKnowledge(), HeadingKnowledge(kind="unknown")
LOCALIZE = LocalizeSettings()
SCANS, STEP_M, START_NS = 8, 8.0, 1_700_000_000_000_000_000


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(city: City) -> Path:
    return train(city, TINY, device="cpu")


@pytest.fixture(scope="module")
def drive_folder(city: City, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clouds along a street, an odometry in its own frame, headings, and the truth."""
    folder = tmp_path_factory.mktemp("drives") / "a drive"
    (folder / "clouds").mkdir(parents=True)
    t_ns = START_NS + np.arange(SCANS) * 1_000_000_000
    position = np.column_stack([620_030.0 + np.arange(SCANS) * STEP_M, np.full(SCANS, 5_735_560.0)])
    for number, (t, here) in enumerate(zip(t_ns, position, strict=True)):
        points = seen_walls(city.raster, here, 0.0, np.random.default_rng(number))
        row = np.column_stack([points, np.zeros(len(points), np.float32)])
        row.astype("<f4").tofile(folder / "clouds" / f"{t}.bin")
    turned = {"x": 0.0, "y": STEP_M * np.arange(SCANS), "z": 0.0, "qx": 0.0, "qy": 0.0}
    turned |= {"qz": np.sin(np.pi / 4), "qw": np.cos(np.pi / 4)}
    heading = -city.raster.convergence
    latitude, longitude = city.raster.projection.inverse(position)
    truth = {"latitude": latitude, "longitude": longitude, "heading": heading}
    for name, columns in {
        "odometry": turned,
        "heading": {"heading": heading},
        "truth": truth,
    }.items():
        pd.DataFrame({"t_ns": t_ns, **columns}).to_csv(folder / f"{name}.csv", index=False)
    return folder


def run(
    city: City, model: Path, drive: Drive, heading: HeadingKnowledge = KNOWN, **more: Any
) -> Path:
    queries = Queries(0.0, 0.0, heading=heading, seed=SHORT.seed)
    return adapt(city, model, drive, queries, SHORT, LOCALIZE, device="cpu", **more)


# --- The tiles of a drive -----------------------------------------------------------------------


def made_sequence(turned: bool, count: int = 9, seed: int = 0) -> tuple[TileSequence, Array]:
    """Tiles of a drive with random motion, and the (Q, 3) positions and directions of the tiles."""
    rng = np.random.default_rng(seed)
    poses = np.cumsum(rng.normal(0, 1, (count, 3)) * [20, 20, 1], axis=0)
    rotation = rng.uniform(-3, 3, count) if turned else poses[:, 2].copy()
    tiles = (rng.random((count, 3, 32, 32)) < 0.3).astype(np.float32)
    odometry = se2_compose([3.0, 4.0, 1.0], se2_between(poses[0], poses))
    segment = np.zeros(count, np.int32)
    axes = np.column_stack([poses[:, :2], wrap_angle(poses[:, 2] - rotation)])
    return TileSequence(tiles, rotation, odometry, segment, np.arange(count)), axes


@pytest.mark.parametrize("turned", [False, True])
def test_motion_is_the_pose_of_the_second_tile_in_the_frame_of_the_first(turned: bool) -> None:
    sequence, axes = made_sequence(turned)
    first, second = np.array([[0], [3]]), np.array([[1, 2], [0, 8]])
    found = sequence.motion(first, second)
    expected = se2_between(np.broadcast_to(axes[first], (2, 2, 3)), axes[second])
    np.testing.assert_allclose(found[..., :2], expected[..., :2], atol=1e-9)
    np.testing.assert_allclose(wrap_angle(found[..., 2] - expected[..., 2]), 0, atol=1e-9)
    if not turned:
        plain = axes[second][..., :2] - axes[first][..., :2]  # north-up tiles: the map's axes
        np.testing.assert_allclose(found[..., :2], plain, atol=1e-9)


def test_tuples_do_not_cross_gaps_of_the_odometry() -> None:
    segment = np.array([0, 0, 0, 1, 1, -1, -1, -1, 2], np.int32)
    sequence = replace(made_sequence(False)[0], segment=segment)
    assert sequence.tuples(3).tolist() == [[0, 1, 2]]
    assert sequence.tuples(2).tolist() == [[0, 1], [1, 2], [3, 4]]
    assert len(sequence.tuples(20)) == 0


def test_a_saved_sequence_is_read_again(tmp_path: Path) -> None:
    sequence, _ = made_sequence(True)
    sequence.save(tmp_path / "tiles.npz")
    again = read_tile_sequence(tmp_path / "tiles.npz")
    for name, value in vars(sequence).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_walls_move_through_the_tiles_as_the_vehicle_moves(city: City, drive_folder: Path) -> None:
    drive = open_drive(drive_folder)
    fine = ViewSettings(size_px=64, resolution=1.0)
    found = see(drive_tiles(city, drive, Queries(0.0, 0.0), LOCALIZE), fine)
    assert found.tiles.shape == (SCANS, 3, 64, 64)
    np.testing.assert_allclose(found.rotation, 0, atol=1e-9)
    moved = found.motion(np.zeros(1, np.int64), np.arange(SCANS))
    np.testing.assert_allclose(moved[:, 0], STEP_M * np.arange(SCANS), atol=1e-6)
    np.testing.assert_allclose(moved[:, 1], 0, atol=1e-6)
    # Between two tiles, walls move by 8 m, which are 8 pixels.
    first, second = found.tiles[2:4, 0]
    assert (first[:, 8:] * second[:, :-8]).sum() > 2 * (first * second).sum()


# --- The loss ---------------------------------------------------------------------------------


def make_model(heading: Heading, kind: type[MapNet] = MapNet) -> MapNet:
    torch.manual_seed(0)
    arguments = {
        "size": 32,
        "network": {"width": 8, "blocks": [1, 1], "features": 32},
        "heading": heading,
        "relative": True,
        "relative_from": 0.5,
        "mean": [10.0, -20.0],
        "deviation": [100.0, 200.0],
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
    }
    if kind is not PosteriorMapNet:
        return kind(**arguments).eval()
    model = PosteriorMapNet(places=50, **arguments).eval()
    model.grid.copy_(torch.randn(50, 2) * 100)
    return model


def tuples_of(sequence: TileSequence, size: int = 4) -> tuple[torch.Tensor, Array]:
    chosen = sequence.tuples(size)[:2]
    motion = sequence.motion(chosen[:, :-1], chosen[:, 1:])
    return torch.from_numpy(sequence.tiles[chosen]), motion


@pytest.mark.parametrize("kind", [MapNet, PosteriorMapNet])
def test_the_loss_compares_motions_in_the_frame_of_the_earlier_pose(kind: type[MapNet]) -> None:
    model = make_model("unknown", kind)
    model.loss.get_parameter("srx").data.fill_(0.3)
    model.loss.get_parameter("srq").data.fill_(-1.2)
    tiles, motion = tuples_of(made_sequence(True)[0])
    with torch.no_grad():
        loss = motion_loss(model, tiles, torch.from_numpy(motion).float())
        raw = model.expectation(tiles.flatten(0, 1)).double().numpy().reshape(2, 4, 4)
    angle = np.arctan2(raw[..., 3], raw[..., 2])
    poses = np.dstack([raw[..., :2] * [100.0, 200.0] + [10.0, -20.0], angle])
    moved = se2_between(poses[:, :-1], poses[:, 1:])
    off = moved - motion
    turned = np.exp(1j * moved[..., 2]) - np.exp(1j * motion[..., 2])
    expected = np.exp(-0.3) * np.abs(off[..., :2] / 150).mean() + 0.3
    expected += np.exp(1.2) * np.abs([turned.real, turned.imag]).mean() - 1.2
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_north_up_tiles_are_compared_in_the_maps_axes() -> None:
    model = make_model("known")
    tiles, motion = tuples_of(made_sequence(False)[0])
    with torch.no_grad():
        loss = motion_loss(model, tiles, torch.from_numpy(motion).float())
        raw = model(tiles.flatten(0, 1)).double().numpy().reshape(2, 4, 2)
    off = np.diff(raw, axis=1) - motion[..., :2] / [100.0, 200.0]
    assert loss.item() == pytest.approx(np.abs(off).mean(), rel=1e-4)  # srx starts at 0


def test_the_loss_uses_the_expectation_of_a_posterior() -> None:
    model = make_model("known", PosteriorMapNet)
    assert isinstance(model, PosteriorMapNet)
    tiles = torch.from_numpy(made_sequence(False)[0].tiles)
    with torch.no_grad():
        share = model.posterior(tiles)[0].exp().double().numpy()
        expected = (share @ model.grid.double().numpy() - [10.0, -20.0]) / [100.0, 200.0]
        np.testing.assert_allclose(model.expectation(tiles).numpy(), expected, atol=1e-5)


# --- GNSS -------------------------------------------------------------------------------------


def test_positions_of_a_receiver_are_those_of_the_map(city: City) -> None:
    projection = city.raster.projection
    line = np.array([[620_030.0 + 2 * k, 5_735_560.0 - k] for k in range(6)])
    latitude, longitude = projection.inverse(line)
    t_ns = START_NS + 10**9 * np.array([0, 1, 2, 3, 8, 9])
    track = GnssTrack(t_ns, latitude, longitude, np.full(6, 2.0))
    query = START_NS + np.array([-1, 500_000_000, 2 * 10**9, 5 * 10**9, 9 * 10**9, 10**10])
    found = positions_at(track, query, projection)
    expected = np.array([[np.nan] * 2, line[0] + [1.0, -0.5], line[2], [np.nan] * 2, line[5]])
    np.testing.assert_allclose(found[:5], expected, atol=1e-3)
    assert np.isnan(found[5]).all()


@pytest.mark.parametrize("turned", [False, True])
def test_with_gnss_translations_are_the_receivers_and_its_bias_does_not_matter(
    turned: bool,
) -> None:
    sequence, axes = made_sequence(turned)
    measured = axes[:, :2] + [30.0, -20.0]
    measured[5] = np.nan
    drifting = sequence.odometry * [1.3, 0.7, 1.0]
    asked = replace(sequence, odometry=drifting, measured=measured)
    assert asked.tuples(4).tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]
    chosen = asked.tuples(4)
    motion = asked.motion(chosen[:, :-1], chosen[:, 1:])
    np.testing.assert_allclose(motion[..., :2], np.diff(axes[chosen, :2], axis=1))
    np.testing.assert_allclose(
        motion[..., 2], sequence.motion(chosen[:, :-1], chosen[:, 1:])[..., 2]
    )


def test_the_loss_compares_the_receivers_motions_in_the_maps_axes() -> None:
    model = make_model("unknown")
    sequence, axes = made_sequence(True)
    tiles, motion = tuples_of(replace(sequence, measured=axes[:, :2]))
    with torch.no_grad():
        loss = motion_loss(model, tiles, torch.from_numpy(motion).float(), in_map=True)
        raw = model.expectation(tiles.flatten(0, 1)).double().numpy().reshape(2, 4, 4)
    moved = np.diff(raw[..., :2] * [100.0, 200.0], axis=1)
    angle = np.diff(np.arctan2(raw[..., 3], raw[..., 2]), axis=1)
    turned = np.exp(1j * angle) - np.exp(1j * motion[..., 2])
    srx, srq = (model.loss.get_parameter(name).item() for name in ("srx", "srq"))
    expected = np.exp(-srx) * np.abs((moved - motion[..., :2]) / 150).mean() + srx
    expected += np.exp(-srq) * np.abs([turned.real, turned.imag]).mean() + srq
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_gnss_that_a_drive_lacks_is_one_clear_error(
    city: City, trained: Path, drive_folder: Path
) -> None:
    queries = Queries(0.0, 0.0, heading=KNOWN, seed=SHORT.seed, gnss=True)
    with pytest.raises(MaptileError, match="no GNSS in it; leave --gnss out"):
        adapt(city, trained, open_drive(drive_folder), queries, SHORT, LOCALIZE, device="cpu")


# --- Refusals ---------------------------------------------------------------------------------


def test_an_adapted_model_is_not_replaced_by_one_of_another_drive(
    city: City, trained: Path, drive_folder: Path, tmp_path: Path
) -> None:
    first = run(city, trained, open_drive(drive_folder))
    weights = (first / "model.safetensors").read_bytes()
    run(city, trained, open_drive(drive_folder))  # of the same drive: without asking
    other = tmp_path / drive_folder.name
    shutil.copytree(drive_folder, other)
    min(other.glob("clouds/*.bin")).unlink()  # a copy would be the same drive
    with pytest.raises(MaptileError, match=f"made from .*{drive_folder}.*--force"):
        run(city, trained, open_drive(other))
    assert (first / "model.safetensors").read_bytes() == weights


def test_by_force_an_adapted_model_replaces_what_stood_there(
    city: City, trained: Path, drive_folder: Path
) -> None:
    folder = run(city, trained, open_drive(drive_folder))
    (folder / "model.json").unlink()
    (folder / "run.json").write_text(json.dumps({"final": "smoothed"}))
    (folder / "trajectory.csv").write_text("of another thing")
    assert kind_of(folder) is not None
    run(city, trained, open_drive(drive_folder), force=True)
    assert kind_of(folder)[0] == "model.json"
    assert not (folder / "trajectory.csv").exists()
    run(city, trained, open_drive(drive_folder))


# --- Tuning -----------------------------------------------------------------------------------


@dataclass
class Always(Dataset[Batch]):
    """The same labelled tuples at every step."""

    batch: Batch

    def __getitem__(self, number: int) -> Batch:
        return self.batch


def test_tuning_reduces_the_error_on_the_drive_and_keeps_the_map() -> None:
    # The drive has the labelled positions, but its evidence is weaker, and half of it is missing.
    sequence, axes = made_sequence(False)
    labelled = (
        torch.from_numpy(sequence.tiles)[None],
        torch.from_numpy(axes[None, :, :2]).float(),
    )
    batch = Batch(labelled[0], labelled[1], torch.zeros(1, len(axes)))
    model = make_model("known")
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(150):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 150)
        optimiser.zero_grad()
        model.objective(batch).backward()
        optimiser.step()
    rng = np.random.default_rng(0)
    seen = sequence.tiles * (rng.random(sequence.tiles.shape) < 0.5) * 0.8
    drive = replace(sequence, tiles=seen.astype(np.float32))

    @torch.no_grad()
    def errors(tiles: np.ndarray) -> float:
        offset, _ = model.pose(torch.from_numpy(tiles))
        return float((offset - labelled[1][0]).norm(dim=1).mean())

    before, statistics = errors(drive.tiles), model.backbone.state_dict()["stages.0.1.running_mean"]
    statistics = statistics.clone()
    settings = AdaptSettings(steps=150, learning_rate=1e-3, tuple_size=5, drive_tuples=3)
    done: list[int] = []
    steps = tune(
        model, drive, Always(batch), settings, None, 0, lambda step, part, total: done.append(part)
    )
    assert steps == 150
    assert (done[0], done[-1], done) == (0, 100, sorted(done))
    assert errors(drive.tiles) < 0.7 * before
    assert errors(sequence.tiles) < 0.3 * before
    assert torch.equal(model.backbone.state_dict()["stages.0.1.running_mean"], statistics)


def test_minutes_end_the_tuning() -> None:
    sequence, axes = made_sequence(False)
    offset = torch.from_numpy(axes[None, :3, :2]).float()
    batch = Batch(torch.from_numpy(sequence.tiles[None, :3]), offset, torch.zeros(1, 3))
    endless = AdaptSettings(steps=10_000_000, tuple_size=3)
    assert 0 < tune(make_model("known"), sequence, Always(batch), endless, 0.005, 0) < 10_000


def test_moving_the_truth_away_changes_no_weight(
    city: City, trained: Path, drive_folder: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(drive_folder, tmp_path / drive_folder.name))
    truth = pd.read_csv(moved / "truth.csv", dtype={"t_ns": np.int64})
    truth[["latitude", "longitude", "heading"]] += 0.5
    truth.to_csv(moved / "truth.csv", index=False)
    gone = Path(shutil.copytree(drive_folder, tmp_path / "gone" / drive_folder.name))
    (gone / "truth.csv").unlink()
    other = Path(shutil.copytree(drive_folder, tmp_path / "other" / drive_folder.name))
    odometry = pd.read_csv(other / "odometry.csv")
    odometry["y"] *= 1.5
    odometry.to_csv(other / "odometry.csv", index=False)
    weights = []
    for folder in (drive_folder, moved, gone, other):
        found = run(city, trained, open_drive(folder))
        weights.append((found / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]
    assert weights[3] != weights[0]


def test_the_adapted_model_is_published_beside_the_old_one(
    city: City, trained: Path, drive_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = (trained / "model.safetensors").read_bytes()
    assert city.folder is not None
    sets = [f"--set={key}={value}" for key, value in SHORT.model_dump().items()]
    arguments = [str(city.folder), str(drive_folder), "--model", str(trained), *sets]
    cli.app(["adapt", *arguments, "--submap", "0", "--every", "0"], standalone_mode=False)
    folder = trained.parent / "mapnet-a_drive"
    assert str(folder) in capsys.readouterr().out
    assert (trained / "model.safetensors").read_bytes() == old
    model, card = read_model(folder, city, MapNet)
    assert not model.training
    assert card["name"] == "mapnet-a_drive"
    adapted = card["adapted"]
    assert (adapted["from"], adapted["drive"]) == ("mapnet", "a drive")
    source = json.loads((trained / "model.json").read_text())
    assert adapted["from_sha256"] == source["weights"]["sha256"]
    assert (adapted["tiles"], adapted["steps"]) == (SCANS, 3)
    assert card["weights"]["sha256"] != source["weights"]["sha256"]
    assert load_settings(AdaptSettings, folder / "adapt.yaml") == SHORT
    assert load_settings(ModelSettings, folder / "config.yaml").data == TINY.data


def test_the_shipped_recipe_states_the_defaults() -> None:
    assert load_settings(AdaptSettings, "mapnet_plus") == AdaptSettings()


def test_a_model_or_drive_that_does_not_fit_is_one_clear_error(
    city: City, trained: Path, drive_folder: Path
) -> None:
    drive = open_drive(drive_folder)
    with pytest.raises(MaptileError, match="trained for --heading known, not unknown"):
        run(city, trained, drive, UNKNOWN)
    with pytest.raises(MaptileError, match="no headings in it"):
        run(city, trained, replace(drive, heading=None))
    plain = TINY.model_copy(update={"name": "plain", "relative": False})
    with pytest.raises(MaptileError, match="has no relative term"):
        run(city, train(city, plain, device="cpu"), drive)
    with pytest.raises(MaptileError, match="no stretch of 3 tiles"):
        run(city, trained, open_drive(drive_folder, end=1.5))
