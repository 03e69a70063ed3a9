"""A training that two processes share gives the weights of one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_city import small_city

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.files import read_json
from maptile_loc.learn.loop import train
from maptile_loc.learn.processes import parts_of
from maptile_loc.learn.settings import DataSettings, ModelSettings, Recipe, TrainingSettings
from maptile_loc.models.parts.published import CARD, WEIGHTS
from maptile_loc.models.parts.resnet import NetworkSettings
from maptile_loc.models.parts.tile_model import Batch
from maptile_loc.render.view import ViewSettings


def recipe(name: str, batch_tuples: int = 4, seed: int = 0) -> Recipe:
    """A small MapNet; the relative term counts in the second half of its six steps."""
    data = DataSettings(
        batch_tuples=batch_tuples,
        worlds=2,
        validation_tuples=8,
        workers=0,
        view=ViewSettings(size_px=16, resolution=6.0, rays=64),
    )
    return ModelSettings(
        name=name,
        seed=seed,
        heading="unknown",
        network=NetworkSettings(width=4, blocks=(1,), features=16),
        data=data,
        training=TrainingSettings(steps=6, epoch_steps=3, learning_rate=1e-4),
    )


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("data"))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in load_file(model / WEIGHTS).items()
        if value.is_floating_point()
    }


def test_two_processes_learn_what_one_learns(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maptile_loc.learn.loop.has_bf16", lambda on_gpu: False)  # rounds less
    alone = train(city, recipe("alone"), device="cpu")
    shared = train(city, recipe("shared"), device="cpu", processes=2)
    other = train(city, recipe("other", seed=1), device="cpu")
    one, two, different = weights(alone), weights(shared), weights(other)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    assert any((one[name] - different[name]).abs().max() > 0.01 for name in one)
    cards = [read_json(model / CARD) for model in (alone, shared)]
    assert cards[0]["training"]["steps"] == cards[1]["training"]["steps"] == 6
    assert cards[0]["validation"] == pytest.approx(cards[1]["validation"], rel=1e-4)


def children() -> set[int]:
    """Numbers of the processes that this one started."""
    threads = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(number) for path in threads for number in path.read_text().split()}


def test_a_process_that_is_killed_ends_the_training_in_one_line(city: City) -> None:
    before, killed = children(), set[int]()

    def kill_one(step: str, done: int, total: int) -> None:
        if done and not killed:
            killed.update(children() - before)
            for number in killed:
                os.kill(number, signal.SIGKILL)

    with pytest.raises(MaptileError, match="one of them ended") as caught:
        train(city, recipe("killed"), device="cpu", processes=2, progress=kill_one)
    assert killed
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "processes", "message"),
    [
        (recipe("odd", batch_tuples=3), 2, "data.batch_tuples"),
        (recipe("none"), 0, "data.batch_tuples"),
        (recipe("pairs").model_copy(update={"kind": "retrieval"}), 2, "compares all pairs"),
    ],
)
def test_what_cannot_be_shared(settings: Recipe, processes: int, message: str, city: City) -> None:
    with pytest.raises(MaptileError, match=message):
        train(city, settings, device="cpu", processes=processes)


def test_a_batch_is_cut_into_equal_parts() -> None:
    batch = Batch(torch.rand(4, 3, 2, 8, 8), torch.rand(4, 3, 2), torch.rand(4, 3))
    first, second = parts_of(batch, 2)
    for whole, one, two in zip(batch, first, second, strict=True):
        assert torch.equal(torch.cat([one, two]), whole)
        assert one.untyped_storage().nbytes() == whole.untyped_storage().nbytes() / 2
