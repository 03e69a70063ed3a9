from __future__ import annotations

import csv
import errno
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from made_scene import found_by
from safetensors.torch import load, load_file
from scipy import ndimage
from small_city import small_city
from torch.utils.data import DataLoader

from data_prep.city.folder import City, open_city
from data_prep.city.raster import BUILDING
from data_prep.errors import MaptileError
from data_prep.geometry import wrap_angle
from maptile_loc.config import load_settings
from maptile_loc.learn import keeper
from maptile_loc.learn.loop import read_checkpoint, train
from maptile_loc.learn.pace import Pace
from maptile_loc.learn.settings import DataSettings, ModelSettings, TrainingSettings
from maptile_loc.models.parts.published import read_model
from maptile_loc.models.parts.resnet import NetworkSettings
from maptile_loc.models.parts.tile_model import Batch, TileModel
from maptile_loc.models.regressor import MapNet
from maptile_loc.render.view import ViewSettings
from maptile_loc.score.map_fields import make_fields
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.search.engine.locator import newest_model
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.mapnet import MapNetLocator, MapNetSettings
from maptile_loc.types import QueryTile

TINY = ModelSettings(
    heading="unknown",
    network=NetworkSettings(width=4, blocks=(1,), features=16),
    data=DataSettings(
        batch_tuples=4,
        worlds=2,
        validation_tuples=8,
        workers=0,
        view=ViewSettings(size_px=16, resolution=6.0, rays=64),
    ),
    training=TrainingSettings(steps=6, epoch_steps=3),
)
NORTH_UP = np.zeros(1)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(city: City) -> Path:
    return train(city, TINY, device="cpu")


def copied(model: Path, to: Path) -> Path:
    return Path(shutil.copytree(model, to))


def query(rotation: float = 0.0, seed: int = 0) -> QueryTile:
    rng = np.random.default_rng(seed)
    wall, ground, observed = (rng.random((3, 256, 256)) < 0.1).astype(np.float32)
    return QueryTile(wall, ground, observed, 0.5, rotation)


# --- Training ----------------------------------------------------------------------------------


def test_a_model_folder_has_weights_card_and_recipe(city: City, trained: Path) -> None:
    assert city.folder is not None
    assert trained == city.folder / "models" / "mapnet"
    card = json.loads((trained / "model.json").read_text())
    assert card["city"]["content_hash"] == city.content_hash
    assert card["city"]["reference"] == city.reference.tolist()
    assert "UTM zone 30N" in card["city"]["crs"]
    assert card["training"]["steps"] == 6
    assert 0 < card["training"]["waiting"] < 1
    assert card["validation"]["tiles"] == 24
    assert 0 < card["validation"]["chance_median_m"] < 200
    assert "OpenStreetMap" in card["attribution"]
    assert card["model"]["heading"] == "unknown"
    assert load_settings(ModelSettings, trained / "config.yaml") == TINY
    assert set(load_file(trained / "model.safetensors")) > {"mean", "deviation", "loss.srq"}


def test_logs_are_csv_and_tensorboard(trained: Path) -> None:
    (path,) = (trained / "training" / "csv").glob("*/metrics.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    medians = [float(row["val_median_m"]) for row in rows if row["val_median_m"]]
    assert len(medians) >= 2
    assert list((trained / "training" / "tensorboard").glob("*/events.out.tfevents.*"))


def test_the_card_has_the_error_of_the_published_weights(city: City, trained: Path) -> None:
    (path,) = (trained / "training" / "csv").glob("*/metrics.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    best = min(float(row["val_median_m"]) for row in rows if row["val_median_m"])
    card = json.loads((trained / "model.json").read_text())
    assert card["validation"]["median_m"] == pytest.approx(best, rel=1e-5)


def test_a_checkpoint_holds_only_plain_values_and_tensors(trained: Path) -> None:
    checkpoint = read_checkpoint(trained / "training" / "best.ckpt")
    json.dumps(checkpoint["hyper_parameters"])
    assert not list(trained.rglob("last.ckpt"))  # nothing to resume
    assert not (trained / "unfinished").exists()


def test_the_same_seed_gives_the_same_weights(city: City, trained: Path) -> None:
    again = train(city, TINY.model_copy(update={"name": "again"}), device="cpu")
    other = train(city, TINY.model_copy(update={"name": "other", "seed": 1}), device="cpu")
    first = load_file(trained / "model.safetensors")
    second = load_file(again / "model.safetensors")
    third = load_file(other / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_training_reports_its_progress_and_prints_nothing(
    city: City, capfd: pytest.CaptureFixture[str]
) -> None:
    reported: list[tuple[str, int, int]] = []

    def note(step: str, done: int, total: int) -> None:
        reported.append((step, done, total))

    settings = TINY.model_copy(update={"name": "reported"})
    train(city, settings, device="cpu", progress=note)
    assert {(step, total) for step, _, total in reported} == {("train", 100)}
    done = [part for _, part, _ in reported]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 100)
    assert capfd.readouterr() == ("", "")


def test_an_interruption_before_the_first_batch_is_one_line(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(loader: DataLoader[Any]) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(DataLoader, "__iter__", interrupted)
    with pytest.raises(MaptileError, match="starts again: nothing was kept"):
        train(city, TINY.model_copy(update={"name": "early"}), device="cpu")
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_before_the_first_batch_is_the_one_that_is_raised(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(loader: DataLoader[Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DataLoader, "__iter__", failing)
    with pytest.raises(MaptileError, match="No space left on device"):
        train(city, TINY.model_copy(update={"name": "full"}), device="cpu")


def test_an_interruption_while_the_model_is_judged_is_one_line(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        monkeypatch.setattr(TileModel, "validation_step", raising)
        validate(trainer, *_, **__)

    def raising(*_: Any) -> None:
        raise KeyboardInterrupt

    validate = pl.Trainer.validate
    monkeypatch.setattr(pl.Trainer, "validate", interrupted)
    with pytest.raises(MaptileError, match="interrupted; the same command"):
        train(city, TINY.model_copy(update={"name": "late"}), device="cpu")


LONG = TINY.model_copy(
    update={"name": "long", "training": TrainingSettings(steps=120, epoch_steps=12, patience=99)}
)


@pytest.fixture(scope="module")
def straight(city: City) -> dict[str, torch.Tensor]:
    """The weights of a training without an interruption."""
    return load_file(train(city, LONG, device="cpu") / "model.safetensors")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, city: City, straight: dict[str, torch.Tensor], name: str
) -> None:
    """It is stopped in the middle of an epoch; killed, it loses what is not kept yet."""
    assert city.folder is not None
    interrupted = open_city(Path(shutil.copytree(city.folder, tmp_path / "interrupted")))
    assert interrupted.folder is not None
    model = interrupted.folder / "models" / "long"
    shutil.rmtree(model, ignore_errors=True)
    code = (
        "import signal, sys, torch; from pathlib import Path\n"
        "from data_prep.city.folder import open_city\n"
        "from data_prep.errors import MaptileError\n"
        "from maptile_loc.learn import keeper\n"
        "from maptile_loc.learn.loop import train\n"
        "from maptile_loc.learn.settings import ModelSettings\n"
        "from maptile_loc.models.regressor import MapNet\n"
        # Background jobs of a shell ignore SIGINT, and their children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "settings = ModelSettings.model_validate_json(sys.argv[2])\n"
        "learn, keep = MapNet.training_step, keeper.Keeper.on_train_batch_start\n"
        "def step(model, batch, number):\n"
        f"    if model.global_step == 65: signal.raise_signal(signal.{name})\n"
        "    return learn(model, batch, number)\n"
        "def kept(one, trainer, *rest):\n"
        "    keeper.KEEP_EVERY_S = 0.0 if trainer.global_step == 55 else 1e9\n"
        "    keep(one, trainer, *rest)\n"
        "MapNet.training_step, keeper.Keeper.on_train_batch_start = step, kept\n"
        "try: train(open_city(Path(sys.argv[1])), settings, device='cpu')\n"
        "except MaptileError as error: sys.exit(f'error: {error}')\n"
    )
    command = [sys.executable, "-c", code, str(interrupted.folder), LONG.model_dump_json()]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == (-9 if name == "SIGKILL" else 1)
    assert ("interrupted; the same command continues" in child.stderr) == (name != "SIGKILL")
    assert not (model / "model.json").exists()
    kept = read_checkpoint(model / "unfinished" / "last.ckpt")["global_step"]
    assert kept == (55 if name == "SIGKILL" else 66)  # 5 epochs of 12 batches, and some

    train(interrupted, LONG, device="cpu")
    resumed = load_file(model / "model.safetensors")
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    logs = list((model / "training" / "csv").glob("*/metrics.csv"))
    assert len(logs) == 2  # one per part: the second did not start afresh


def test_a_checkpoint_of_another_recipe_is_not_resumed(
    tmp_path: Path, city: City, trained: Path
) -> None:
    assert city.folder is not None
    folder = Path(shutil.copytree(city.folder, tmp_path / "city"))
    model = folder / "models" / "mapnet"
    state = Path(shutil.copytree(model / "training", model / "unfinished"))
    shutil.copy(state / "best.ckpt", state / "last.ckpt")
    changed = TINY.model_copy(update={"training": TrainingSettings(steps=4, epoch_steps=2)})
    train(open_city(folder), changed, device="cpu")
    card = json.loads((folder / "models" / "mapnet" / "model.json").read_text())
    assert card["training"]["steps"] == 4


def test_signals_are_handled_as_before_after_a_training(
    tmp_path: Path, city: City, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert city.folder is not None
    where = open_city(Path(shutil.copytree(city.folder, tmp_path / "city")))
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    train(where, TINY, device="cpu")
    assert [signal.getsignal(number) for number in numbers] == before

    def fail(self: MapNet, batch: Batch, number: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(MapNet, "training_step", fail)
    with pytest.raises(ZeroDivisionError):
        train(where, TINY, device="cpu")
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_retraining_leaves_what_a_finished_one_left_until_it_ends(
    tmp_path: Path, city: City, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert city.folder is not None
    folder = Path(shutil.copytree(city.folder, tmp_path / "city"))
    model = folder / "models" / "mapnet"
    files = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    other = TINY.model_copy(update={"seed": 5})

    def stop(self: MapNet, batch: Batch, number: int) -> None:
        raise keeper.Stopped

    with monkeypatch.context() as patch:
        patch.setattr(MapNet, "training_step", stop)
        with pytest.raises(MaptileError, match="starts again: nothing was kept"):
            train(open_city(folder), other, device="cpu")
    assert all(path.read_bytes() == content for path, content in files.items())
    train(open_city(folder), other, device="cpu")
    assert (model / "model.safetensors").read_bytes() != files[model / "model.safetensors"]
    assert not (model / "unfinished").exists()


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path, city: City, trained: Path) -> None:
    assert city.folder is not None
    folder = Path(shutil.copytree(city.folder, tmp_path / "city"))
    model = folder / "models" / "mapnet"
    state = Path(shutil.copytree(model / "training", model / "unfinished"))
    content = (state / "best.ckpt").read_bytes()
    (state / "last.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(MaptileError, match=r"last\.ckpt: damaged"):
        train(open_city(folder), TINY, device="cpu")


def test_a_pickled_object_is_never_loaded(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("/")}, tmp_path / "last.ckpt")
    with pytest.raises(MaptileError, match="no checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_minutes_end_the_training(city: City) -> None:
    endless = TrainingSettings(steps=10_000_000, epoch_steps=5)
    settings = TINY.model_copy(update={"name": "timed", "training": endless})
    folder = train(city, settings, minutes=0.02, device="cpu")
    card = json.loads((folder / "model.json").read_text())
    assert 0 < card["training"]["steps"] < 10_000
    assert card["training"]["seconds"] >= 1.2


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_a_training_needs_time(city: City, minutes: float) -> None:
    settings = TINY.model_copy(update={"name": "no_time"})
    with pytest.raises(MaptileError, match=f"minutes={minutes}: expected more than 0"):
        train(city, settings, minutes=minutes, device="cpu")
    assert not (city.path / "models" / "no_time").exists()


def test_training_stops_early_when_nothing_improves(city: City) -> None:
    stuck = TrainingSettings(steps=2000, epoch_steps=1, patience=3, learning_rate=1e-12)
    settings = TINY.model_copy(update={"name": "stuck", "training": stuck})
    card = json.loads((train(city, settings, device="cpu") / "model.json").read_text())
    assert card["training"]["steps"] < 100


def test_the_pace_is_a_warm_up_and_a_cosine() -> None:
    pace = Pace(steps=1000, minutes=10.0, warmup=0.1, peak=2.0)
    assert pace.share(500) == 0.5
    pace.elapsed = 540.0
    assert pace.share(500) == 0.9
    pace.load_state_dict({"elapsed": 6000.0, "waited": 0.0})
    assert pace.share(0) == 1.0
    assert pace.rate(0.0) == pytest.approx(0.02)
    assert pace.rate(0.05) == pytest.approx(1.01)
    assert pace.rate(0.5) == pytest.approx(1.0)
    assert pace.rate(1.0) == pytest.approx(0.0)
    rates = [pace.rate(share) for share in np.linspace(0.1, 1, 50)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("name", "relative"), [("mapnet", True), ("posenet", False)])
def test_shipped_recipes_are_valid(name: str, relative: bool) -> None:
    settings = load_settings(ModelSettings, name)
    assert settings.name == name
    assert settings.relative == relative
    assert settings.heading == "known"


def test_a_bare_raster_and_an_unknown_device_are_one_clear_error(city: City) -> None:
    assert city.folder is not None
    bare = open_city(city.folder / "map.tif")
    with pytest.raises(MaptileError, match="bare raster"):
        train(bare, TINY)
    with pytest.raises(MaptileError, match="--device tpu"):
        train(city, TINY, device="tpu")


# --- Using a model -----------------------------------------------------------------------------


def locator(folder: Path, city: City) -> MapNetLocator:
    fields = make_fields(city.raster, 1.0, LikelihoodSettings())
    search = NearSearch(fields, 128.0, SearchSettings())
    return MapNetLocator(folder, city, search, MapNetSettings(squares=3))


def test_squares_around_the_networks_answer_are_searched(city: City, trained: Path) -> None:
    found = locator(trained, city)
    assert found.area_km2 == city.raster.area_km2
    turns, log_prior = np.radians(np.arange(0, 360, 5.0)), np.full(72, -np.log(72))
    starts = found.starts(query(0.7), turns, log_prior)
    model, _ = read_model(trained, city, MapNet)
    channels = np.stack([query().wall, query().ground, np.zeros_like(query().wall)])  # no roads
    blocks = channels[:, 32:-32, 32:-32].reshape(3, 16, 12, 16, 12)  # the middle 96 m, in 6 m
    seen = blocks.max(axis=(2, 4))
    seen[1] *= 1 - seen[0]  # no ground where a wall is
    with torch.no_grad():
        offset, angle = model.pose(torch.from_numpy(seen)[None])
    answer = city.reference + offset[0].numpy()
    np.testing.assert_allclose(starts[4, :2], answer, atol=1e-3)
    np.testing.assert_allclose(np.ptp(starts[:, :2], axis=0), 80.0)
    np.testing.assert_allclose(starts[:, 2], float(angle[0]), atol=1e-5)
    candidates = found_by(found, query(0.7), turns, log_prior)
    assert 1 <= len(candidates.poses) <= 9
    assert (np.abs(candidates.poses[:, :2] - answer) < 60 + 3).all()
    off = wrap_angle(candidates.poses[:, 2] - 0.7 - starts[0, 2])
    assert (np.abs(np.degrees(off)) < 30 + 5).all()
    assert np.exp(candidates.log_scores).sum() <= 1


def test_a_vehicle_tens_of_metres_from_the_networks_answer_is_found(
    city: City, trained: Path
) -> None:
    """The tile is the map's own view, 35 m from the network's answer."""
    found = locator(trained, city)
    north = np.zeros(1)
    answer = found.starts(query(), north, north)[4, :2]
    middle = city.raster.centre
    with torch.no_grad():  # now the network answers 35 m beside the middle
        found.model.mean += torch.from_numpy(middle + [35.0, 0.0] - answer)
    seen = city.raster.coverage(BUILDING, 0.5) >= 0.5
    row, column = np.round(city.raster.pixel_from_world(middle)).astype(int)
    part = seen[row - 128 : row + 128, column - 128 : column + 128]
    wall = (part & ~ndimage.binary_erosion(part)).astype(np.float32)
    tile = QueryTile(wall, np.zeros_like(wall), np.zeros_like(wall), 0.5, 0.0)
    best = found_by(found, tile, north, north)
    assert np.hypot(*(best.poses[best.log_scores.argmax(), :2] - middle)) < 2.0


def test_a_model_for_known_headings_keeps_the_heading_and_refuses_unknown_ones(city: City) -> None:
    settings = TINY.model_copy(update={"name": "north-up", "heading": "known"})
    known = locator(train(city, settings, device="cpu"), city)
    found = found_by(known, query(1.2), NORTH_UP, NORTH_UP)
    np.testing.assert_allclose(found.poses[:, 2], 1.2)
    about = known.starts(query(1.2), np.radians([-10.0, 0.0, 10.0]), np.array([-2.0, 0, -2]))
    np.testing.assert_array_equal(about[:, 2], 0.0)
    with pytest.raises(MaptileError, match="--heading known"):
        found_by(known, query(), np.radians(np.arange(0, 360, 5.0)), np.zeros(72))


def test_a_model_of_another_city_is_refused(tmp_path: Path, trained: Path) -> None:
    other = replace(small_city(tmp_path, seed=1), name="elsewhere")
    with pytest.raises(MaptileError, match=r"trained for the city 'city'.*not for 'elsewhere'"):
        locator(trained, other)


def test_a_model_of_another_state_of_the_city_is_refused(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(MaptileError, match="another state of it"):
        locator(trained, small_city(tmp_path, seed=1))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "pickle"])
def test_damaged_weights_are_one_clear_error(
    tmp_path: Path, city: City, trained: Path, damage: str
) -> None:
    model = copied(trained, tmp_path / "model")
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        torch.save(load(bytes(content)), path)
        card = json.loads((model / "model.json").read_text())
        card["weights"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (model / "model.json").write_text(json.dumps(card))
    with pytest.raises(MaptileError, match=r"model\.safetensors: .*damaged"):
        locator(model, city)


WRONG_KIND = (
    '{"format": "maptile-model", "version": 2, "kind": ["mapnet"], "view": {}, "model": {}, '
    '"city": {"name": "city", "content_hash": "0"}}'
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("{}", "not the card of a model"),
        ('{"format": "maptile-model", "version": 99}', "newer maptile-loc.*update"),
        ('{"format": "maptile-model", "version": 0}', "older maptile-loc.*train again"),
        ('{"format": "maptile-model", "version": "one"}', "damaged"),
        ('{"format": "maptile-model", "version": 2, "city": "here"}', "damaged"),
        (WRONG_KIND, "damaged"),
        (WRONG_KIND.replace('["mapnet"]', '"mapnext"'), "kind that this maptile-loc does not know"),
        (WRONG_KIND.replace('["mapnet"]', '"mapnet"').replace("{}", '{"rays": "few"}'), "damaged"),
    ],
)
def test_a_wrong_card_is_one_clear_error(
    tmp_path: Path, city: City, content: str, message: str
) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(MaptileError, match=message):
        locator(tmp_path, city)


def test_the_newest_model_is_the_default(tmp_path: Path, city: City, trained: Path) -> None:
    assert city.folder is not None
    folder = Path(shutil.copytree(city.folder, tmp_path / "city"))
    shutil.rmtree(folder / "models")
    copied(trained, folder / "models" / "older")
    newer = copied(trained, folder / "models" / "a-newer")
    (newer / "model.json").touch()
    (folder / "models" / "unfinished").mkdir()
    assert newest_model(open_city(folder), "mapnet") == newer
    with pytest.raises(MaptileError, match="no trained model for --method cells"):
        newest_model(open_city(folder), "cells")
    shutil.rmtree(folder / "models")
    with pytest.raises(MaptileError, match="maptile train"):
        newest_model(open_city(folder), "mapnet")
    with pytest.raises(MaptileError, match="no model there"):
        locator(folder / "models" / "mapnet", city)
