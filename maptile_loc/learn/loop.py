"""Training a city's model on tiles rendered from its map alone."""

from __future__ import annotations

import logging
import math
import os
import pickle
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from tqdm import tqdm

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.files import read_json, write_error, write_json
from maptile_loc.config import save_settings
from maptile_loc.device import pick_device
from maptile_loc.learn.data import TileDataModule, training_ground
from maptile_loc.models.base import TileModel
from maptile_loc.models.kinds import make_model
from maptile_loc.models.published import publish
from maptile_loc.models.settings import ModelSettings, TrainingSettings

__all__ = ["ModelSettings", "Pace", "TrainingSettings", "read_checkpoint", "train"]


def train(
    city: City,
    settings: ModelSettings,
    minutes: float | None = None,
    device: str = "auto",
    resume: bool = True,
    others: Sequence[City] = (),
) -> Path:
    """Train a model and publish it in the city's folder.

    Args:
        city: A city folder.
        settings: The recipe.
        minutes: Stop after so much training; the learning rate falls accordingly.
        device: auto, cpu or cuda.
        resume: Go on with an interrupted training of the same recipe.
        others: More cities to learn from; only models that are bound to no city can.

    Returns:
        The model's folder: weights, card, ``config.yaml``, and ``training/`` with the checkpoint
        and the logs.

    Raises:
        MaptileError: The city is a bare raster, has no roads, or nothing can be written; no such
            device; the checkpoint to resume from is damaged; the training was interrupted.
    """
    if city.folder is None:
        raise MaptileError(
            f"{city.name}: a bare raster has no folder for a model; make a city of it first: "
            "maptile prepare MAP.tif CITY"
        )
    on_gpu = pick_device(device) == "cuda"
    folder = city.folder / "models" / settings.name
    state = folder / "training"
    ground, *more = (training_ground(each) for each in (city, *others))
    recipe = settings.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = make_model(settings, ground)
    if others and model.bound:
        raise MaptileError(f"{settings.name}: learns one city; train one for each")
    data = TileDataModule(
        [ground, *more],
        settings.data,
        settings.heading,
        settings.seed,
        recipe.epoch_steps,
        paired=settings.kind == "retrieval",
    )
    checkpoint = _prepare(state, [city, *others], settings, resume)
    pace = Pace(recipe.steps, minutes, recipe.warmup, recipe.learning_rate)
    best = ModelCheckpoint(
        state,
        "best",
        monitor=model.judged_by,
        save_last=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    with _quiet(), _threads(on_gpu, data.workers), _disk_errors(folder):
        trainer = pl.Trainer(
            accelerator="cuda" if on_gpu else "cpu",
            devices=1,
            precision="bf16-mixed" if _has_bf16(on_gpu) else "32-true",
            max_epochs=-1,
            num_sanity_val_steps=0,
            log_every_n_steps=20,
            logger=[CSVLogger(state, "csv"), TensorBoardLogger(state, "tensorboard")],
            callbacks=[
                pace,
                EarlyStopping(model.judged_by, patience=recipe.patience, check_finite=True),
                best,
            ],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=state,
        )
        model = model.to(memory_format=torch.channels_last)
        try:
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise MaptileError(
                f"{folder}: interrupted; the same command goes on from the last checkpoint"
            ) from None
        model.load_state_dict(read_checkpoint(Path(best.best_model_path))["state_dict"])
        facts = {
            "name": settings.name,
            "view": settings.data.view.model_dump(mode="json"),
            "cities": [each.name for each in (city, *others)],
            "validation": _validation(trainer, model, data),
            "training": {
                "steps": trainer.global_step,
                "seconds": round(pace.elapsed, 1),
                "waiting": round(pace.waited / max(pace.elapsed, 1e-9), 4),
            },
        }
        save_settings(settings, folder / "config.yaml")
        publish(folder, model, city, facts)
        (state / "last.ckpt").unlink()
    return folder


class Pace(pl.Callback):
    """The learning rate, and the end: by steps, or by minutes where those are up earlier.

    Attributes:
        elapsed: Seconds trained so far, those before an interrupt included.
        waited: Seconds of them in which there was no batch to learn from.
    """

    def __init__(self, steps: int, minutes: float | None, warmup: float, peak: float) -> None:
        self.steps, self.seconds = steps, math.inf if minutes is None else minutes * 60
        self.warmup, self.peak = warmup, peak
        self.elapsed = self.waited = 0.0
        self._since = self._idle_since = 0.0
        self._bar: tqdm[Any] | None = None

    def progress(self, step: int) -> float:
        """The share of the training that is done after ``step`` steps and ``elapsed`` seconds."""
        return min(1.0, max(step / self.steps, self.elapsed / self.seconds))

    def rate(self, progress: float) -> float:
        """The learning rate at ``progress``."""
        if progress < self.warmup:
            return self.peak * (0.01 + 0.99 * progress / self.warmup)
        return self.peak * (1 + math.cos(math.pi * progress)) / 2

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {"elapsed": self.elapsed, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.elapsed, self.waited = float(state_dict["elapsed"]), float(state_dict["waited"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic() - self.elapsed
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self._bar = tqdm(
            total=1.0, desc="train", file=sys.stderr, disable=None, bar_format=form, leave=False
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start waiting for a batch."""
        self._idle_since = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate."""
        now = time.monotonic()
        self.elapsed = now - self._since
        self.waited += now - self._idle_since
        progress = self.progress(trainer.global_step)
        assert isinstance(pl_module, TileModel)
        pl_module.progress = progress
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rate(progress)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop when the time has come."""
        progress = self.progress(trainer.global_step)
        trainer.should_stop = trainer.should_stop or progress >= 1
        if self._bar is not None:
            self._bar.update(progress - self._bar.n)
        self._idle_since = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the error."""
        if self._bar is not None:
            error = float(trainer.callback_metrics["val_median_m"])
            self._bar.set_postfix_str(f"median {error:.1f} m")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the bar away."""
        if self._bar is not None:
            self._bar.close()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is ever run.

    Raises:
        MaptileError: Damaged, or not a checkpoint of plain values and tensors.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise MaptileError(
            f"{path}: damaged or no checkpoint; delete it to start afresh"
        ) from error
    return content


def _prepare(state: Path, cities: list[City], settings: ModelSettings, resume: bool) -> Path | None:
    """Make the folder of a training ready; the checkpoint to go on from, or None."""
    last, described = state / "last.ckpt", state / "recipe.json"
    names = [city.content_hash for city in cities]
    recipe = {"cities": names, "settings": settings.model_dump(mode="json")}
    if resume and last.is_file() and described.is_file() and read_json(described) == recipe:
        read_checkpoint(last)
        return last
    shutil.rmtree(state, ignore_errors=True)
    write_json(described, recipe)
    return None


def _validation(trainer: pl.Trainer, model: TileModel, data: TileDataModule) -> dict[str, float]:
    """The errors of the published weights, beside those of the best constant answer."""
    metrics = trainer.validate(model, data, verbose=False)[0]
    places = torch.cat([batch.offset.flatten(0, 1) for batch in data.validation()])
    chance = (places - places.median(dim=0).values).norm(dim=1)
    return {
        "median_m": metrics["val_median_m"],
        "mean_m": metrics["val_mean_m"],
        "chance_median_m": float(chance.median()),
        "chance_mean_m": float(chance.mean()),
        "tiles": len(places),
    }


def _has_bf16(on_gpu: bool) -> bool:
    """Whether the processor computes in bfloat16; where it only imitates it, float32 is faster."""
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


@contextmanager
def _threads(on_gpu: bool, workers: int) -> Iterator[None]:
    """Leave the processes that render a core each: threads that wait for one stall all others."""
    before = torch.get_num_threads()
    if not on_gpu:
        torch.set_num_threads(max(1, min(before, (os.cpu_count() or 1) - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's remarks about its own settings from the user."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """A full disk is the user's to mend: one line."""
    try:
        yield
    except OSError as error:
        raise write_error(folder, error) from error
