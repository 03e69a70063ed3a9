"""Training of a city's model on tiles rendered from the map alone."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from data_prep.city.folder import City
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
from maptile_loc.learn.pace import Pace
from maptile_loc.learn.runtime import disk_errors, has_bf16, quiet, threads
from maptile_loc.learn.settings import Recipe
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

    Returns:
        The model's folder: weights, card, ``config.yaml``, and ``training/`` with the best
        checkpoint and the logs. What a finished training left stays until this one ends.

    Raises:
        MaptileError: The city is a bare raster or has no roads; the folder cannot be written; there
            is no such device; the checkpoint to resume from is damaged; the training was
            interrupted.
    """
    if city.folder is None:
        raise MaptileError(
            f"{city.name}: a bare raster has no folder for a model; make a city of it first: "
            "maptile prepare MAP.tif CITY"
        )
    folder = city.folder / "models" / settings.name
    with locked(folder):
        keep = check_standing(folder, _product([city, *others]), force)
        return _train(city, settings, minutes, device, resume, others, progress, (folder, keep))


def _train(
    city: City,
    settings: Recipe,
    minutes: float | None,
    device: str,
    resume: bool,
    others: Sequence[City],
    progress: Progress,
    target: tuple[Path, Keep],
) -> Path:
    folder, keep = target
    on_gpu = pick_device(device) == "cuda"
    kind, cities = kinds()[settings.kind], [city, *others]
    maps = [supply(each, settings.data) for each in cities]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = make_model(settings, maps[0])
    if others and kind.bound:
        raise MaptileError(f"{settings.name}: a {kind.name} learns one city; train one for each")
    steps, heading = settings.training.epoch_steps, settings.heading
    data = TileDataModule(maps, settings.data, heading, settings.seed, steps, kind.paired)
    state = folder / UNFINISHED
    checkpoint = _prepare(state, cities, settings, resume)
    recipe = settings.training
    pace = Pace(recipe.steps, minutes, recipe.warmup, recipe.learning_rate, progress)
    keeper = Keeper(state / LAST)
    with quiet(), threads(on_gpu, data.workers), disk_errors(folder), keeper.explained():
        model = model.to(memory_format=torch.channels_last)
        trainer = _fit(model, data, state, checkpoint, [pace, keeper], settings, on_gpu)
        facts = _facts(settings, cities, trainer, pace)
        facts["validation"] = _validation(trainer, model, data)
        with swapped_folder(folder, keep) as new:
            save_settings(settings, new / "config.yaml")
            publish(new, model, city, facts)
            link_tree(state, new / "training")
            (new / "training" / LAST).unlink(missing_ok=True)
    return folder


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
    settings: Recipe,
    on_gpu: bool,
) -> pl.Trainer:
    """Train ``model`` and load its best weights; checkpoints and logs are written to ``state``."""
    judged_by, patience = model.judged_by, settings.training.patience
    best = ModelCheckpoint(
        state,
        "best",
        monitor=judged_by,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    trainer = pl.Trainer(
        accelerator="cuda" if on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if has_bf16(on_gpu) else "32-true",
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
