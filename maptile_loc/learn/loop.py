"""Training of a city's model on tiles rendered from the map alone."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from data_prep.city.folder import City, open_city
from data_prep.errors import MaptileError
from data_prep.files import link_tree, read_json, swapped_folder, write_json
from data_prep.geometry import Array
from data_prep.locks import locked
from data_prep.progress import Progress, silent
from data_prep.standing import MADE_FROM, Keep, Product, check_standing, known_as
from maptile_loc.config import save_settings
from maptile_loc.device import pick_device
from maptile_loc.learn.data import TileDataModule
from maptile_loc.learn.keeper import Keeper
from maptile_loc.learn.pace import Pace, seconds_of
from maptile_loc.learn.processes import READY, Team, beside, with_shared_norms
from maptile_loc.learn.runtime import disk_errors, has_bf16, quiet, threads
from maptile_loc.learn.settings import ModelSettings, Recipe
from maptile_loc.learn.tiles.supply import Supply, supply
from maptile_loc.models import kinds
from maptile_loc.models.parts.kind import Blueprint
from maptile_loc.models.parts.published import CARD, WEIGHTS, publish
from maptile_loc.models.parts.tile_model import LOG_EVERY, TileModel
from maptile_loc.render.look import card_of_look

UNFINISHED = "unfinished"
"""Folder of a training that runs or was interrupted; it replaces ``training`` when it ends."""

OWN = (CARD, WEIGHTS, "config.yaml", "training", UNFINISHED)
"""The entries of a model's folder that a training replaces."""

LEAST_DEVIATION_M = 1.0
"""Lower bound of the deviations by which offsets are normalised."""

LAST = "last.ckpt"
"""Name of the checkpoint that an interrupted training resumes from."""


def train(
    city: City,
    settings: Recipe,
    minutes: float | None = None,
    device: str = "auto",
    resume: bool = True,
    others: Sequence[City] = (),
    progress: Progress = silent,
    force: bool = False,
    processes: int = 1,
) -> Path:
    """Train a model and publish it in the city's folder.

    Args:
        city: A city folder.
        settings: The recipe, a ``ModelSettings``.
        minutes: Stop after this much training; the learning rate falls accordingly.
        device: auto, cpu or cuda.
        resume: Continue an interrupted training of the same recipe.
        others: More cities to train on; only for kinds of models that are bound to no city.
        progress: Is called with the percentage that is done.
        force: Replace whatever stands at the model's folder.
        processes: Processes of this machine that share each batch, on the CPU.

    Returns:
        The model's folder: weights, card, ``config.yaml``, and ``training/`` with the best
        checkpoint and the logs. What a finished training left stays until this one ends.

    Raises:
        MaptileError: The city is a bare raster or has no roads; the folder cannot be written; there
            is no such device; the checkpoint to resume from is damaged; the training was
            interrupted; it cannot be shared among processes.
    """
    if city.folder is None:
        raise MaptileError(
            f"{city.name}: a bare raster has no folder for a model; make a city of it first: "
            "maptile prepare MAP.tif CITY"
        )
    folder = city.folder / "models" / settings.name
    on_gpu = pick_device(device) == "cuda"
    task = Task([city, *others], settings, minutes, on_gpu, has_bf16(on_gpu))
    _check(task, processes)
    with locked(folder):
        keep = check_standing(folder, _product(task.cities), force)
        return _train(task, folder, keep, resume, progress, processes)


class Task(NamedTuple):
    """What is trained.

    Attributes:
        cities: The cities; the first one holds the model.
        settings: The recipe.
        minutes: Stop after this much training.
        on_gpu: Whether it is trained on a GPU.
        bf16: Whether it is trained in bfloat16.
    """

    cities: list[City]
    settings: Recipe
    minutes: float | None
    on_gpu: bool
    bf16: bool


def _check(task: Task, processes: int) -> None:
    """Check that a model can learn from these cities, in this time and number of processes."""
    seconds_of(task.minutes)
    name, kind = task.settings.name, kinds()[task.settings.kind]
    if len(task.cities) > 1 and kind.bound:
        raise MaptileError(f"{name}: a {kind.name} learns one city; train one for each")
    tuples = task.settings.data.batch_tuples
    if processes > 1 and kind.paired:
        raise MaptileError(
            f"--processes {processes}: a {kind.name} compares all pairs of a batch; leave it out"
        )
    if processes > 1 and task.on_gpu:
        raise MaptileError(f"--processes {processes}: is for the CPU; add --device cpu")
    if processes < 1 or tuples % processes:
        raise MaptileError(
            f"--processes {processes}: {tuples} tuples per batch are not a multiple of it "
            "(data.batch_tuples)"
        )


def _train(
    task: Task, folder: Path, keep: Keep, resume: bool, progress: Progress, processes: int
) -> Path:
    cities, settings = task.cities, task.settings
    state = folder / UNFINISHED
    made = _made(task)
    checkpoint = _prepare(state, cities, settings, resume)
    job = {
        "cities": [str(city.path) for city in cities],
        "settings": settings.model_dump(mode="json"),
        "minutes": task.minutes,
        "bf16": task.bf16,
        "state": str(state),
        "checkpoint": None if checkpoint is None else str(checkpoint),
    }
    with quiet(), disk_errors(folder), beside(processes, job) as team:
        model, facts = _learn(task, made, state, checkpoint, team, progress)
        with swapped_folder(folder, keep) as new:
            save_settings(settings, new / "config.yaml")
            publish(new, model, cities[0], facts)
            link_tree(state, new / "training")
            (new / "training" / LAST).unlink(missing_ok=True)
    return folder


def _made(task: Task) -> tuple[list[Supply], TileModel]:
    """The cities' maps, and an untrained model."""
    maps = [supply(each, task.settings.data) for each in task.cities]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.settings.seed)
        return maps, make_model(task.settings, maps[0])


def _learn(
    task: Task,
    made: tuple[list[Supply], TileModel],
    state: Path,
    checkpoint: Path | None,
    team: Team,
    progress: Progress,
) -> tuple[TileModel, dict[str, Any]]:
    """Train a model; returns it with its best weights, and what its card says of the training."""
    (maps, model), settings = made, task.settings
    steps, heading = settings.training.epoch_steps, settings.heading
    paired = kinds()[settings.kind].paired
    data = TileDataModule(maps, settings.data, heading, settings.seed, steps, paired, team)
    recipe = settings.training
    pace = Pace(recipe.steps, task.minutes, recipe.warmup, recipe.learning_rate, progress)
    keeper = Keeper(state / LAST)
    with threads(task.on_gpu, data.workers, team.size), keeper.explained():
        model = model.to(memory_format=torch.channels_last)
        if team.size > 1:
            with_shared_norms(model)
        trainer = _fit(model, data, state, checkpoint, [pace, keeper], task, team)
        facts = _facts(settings, task.cities, trainer, pace)
        facts["validation"] = _validation(trainer, model, data)
    return model, facts


def follow() -> None:
    """Share a training that another process leads; the job is read from standard input."""
    job = json.load(sys.stdin)
    settings = ModelSettings.model_validate(job["settings"])
    cities = [open_city(path) for path in job["cities"]]
    task = Task(cities, settings, job["minutes"], False, job["bf16"])
    made = _made(task)
    checkpoint = None if job["checkpoint"] is None else Path(job["checkpoint"])
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    with quiet():
        _learn(task, made, Path(job["state"]), checkpoint, Team(*job["team"]), silent)


def _product(cities: Sequence[City]) -> Product:
    """A model of cities, the first of which holds it."""
    names = [known_as(city.path, city.content_hash) for city in cities]
    others = ", ".join(one[0] for one in names[1:]) or "none"
    return Product(
        CARD, {"city": names[0], "others": [others]}, lambda name: name not in OWN, (UNFINISHED,)
    )


def make_model(settings: Recipe, city_map: Supply) -> TileModel:
    """An untrained model for a city; its weights are drawn from torch's random numbers."""
    positions, weights = city_map.positions()
    mean, deviation = mean_and_deviation(positions, weights)
    look = settings.data.look
    common: dict[str, Any] = {
        "size": look.size_px,
        "channels": len(look.channels),
        "network": settings.network.model_dump(mode="json"),
        "heading": settings.heading,
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "learning_rate": settings.training.learning_rate,
        "weight_decay": settings.training.weight_decay,
    }
    blueprint = Blueprint(positions, weights, common, settings.training.relative_from)
    return kinds()[settings.kind].make(settings.own(), blueprint)


def mean_and_deviation(positions: Array, weights: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of positions, (2,) each, by which offsets are normalised."""
    share = (weights / weights.sum())[:, None]
    mean = (share * positions).sum(0)
    deviation = np.sqrt((share * (positions - mean) ** 2).sum(0))
    return mean, np.maximum(deviation, LEAST_DEVIATION_M)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are loaded, no code is run.

    Raises:
        MaptileError: The file is damaged, or no checkpoint of plain values and tensors.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise MaptileError(
            f"{path}: damaged or no checkpoint; delete it to start afresh"
        ) from error
    return content


def _fit(
    model: TileModel,
    data: TileDataModule,
    state: Path,
    checkpoint: Path | None,
    own: list[pl.Callback],
    task: Task,
    team: Team,
) -> pl.Trainer:
    """Train ``model`` and load its best weights; checkpoints and logs are written to ``state``."""
    judged_by, patience = model.judged_by, task.settings.training.patience
    best = ModelCheckpoint(
        state,
        "best",
        monitor=judged_by,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    trainer = pl.Trainer(
        accelerator="cuda" if task.on_gpu else "cpu",
        devices=team.size,
        strategy=team.strategy(),
        use_distributed_sampler=False,
        precision="bf16-mixed" if task.bf16 else "32-true",
        max_epochs=-1,
        num_sanity_val_steps=0,
        log_every_n_steps=LOG_EVERY,
        logger=[CSVLogger(state, "csv"), TensorBoardLogger(state, "tensorboard")],
        callbacks=[
            *own,
            EarlyStopping(judged_by, patience=patience, check_finite=True),
            best,
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=state,
    )
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    model.load_state_dict(read_checkpoint(Path(best.best_model_path))["state_dict"])
    return trainer


def _prepare(state: Path, cities: list[City], settings: Recipe, resume: bool) -> Path | None:
    """Prepare the folder of a training; returns the checkpoint to resume from, or None."""
    last, described = state / LAST, state / "recipe.json"
    names = [city.content_hash for city in cities]
    recipe = {"cities": names, "settings": settings.model_dump(mode="json")}
    if resume and last.is_file() and described.is_file() and read_json(described) == recipe:
        read_checkpoint(last)
        return last
    shutil.rmtree(state, ignore_errors=True)
    write_json(described, recipe)
    return None


def _facts(settings: Recipe, cities: list[City], trainer: pl.Trainer, pace: Pace) -> dict[str, Any]:
    """What the card of a model says of its training."""
    return {
        "name": settings.name,
        **card_of_look(settings.data.look),
        "cities": [each.name for each in cities],
        MADE_FROM: _product(cities).made_from,
        "training": {
            "steps": trainer.global_step,
            "seconds": round(pace.elapsed, 1),
            "waiting": round(pace.waited / max(pace.elapsed, 1e-9), 4),
        },
    }


def _validation(trainer: pl.Trainer, model: TileModel, data: TileDataModule) -> dict[str, float]:
    """Return the position errors of ``model`` and those of the best constant answer (``chance``).

    Keys: ``median_m``, ``mean_m``, ``chance_median_m``, ``chance_mean_m`` (metres), and ``tiles``,
    the number of validation tiles.
    """
    metrics = trainer.validate(model, data, verbose=False)[0]
    positions = torch.cat([batch.offset.flatten(0, 1) for batch in data.validation()])
    chance = (positions - positions.median(dim=0).values).norm(dim=1)
    return {
        "median_m": metrics["val_median_m"],
        "mean_m": metrics["val_mean_m"],
        "chance_median_m": float(chance.median()),
        "chance_mean_m": float(chance.mean()),
        "tiles": len(positions),
    }
