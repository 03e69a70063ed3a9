"""MapNet+: a city's model made used to what a drive really sees, without its truth.

After MapNet (Brahmbhatt et al., CVPR 2018): a trained model is tuned on rendered tuples, whose
poses are known, mixed with tuples of the drive's own query tiles, of which only the motion between
them is known. As published: the motion is matched in the frame of the tuple's first pose and
weighed by the learned uncertainties of the relative term; Adam without weight decay; gradients
clipped. Unlike it: tuples are longer and steps larger, and the layers' normalisation stays as it
was trained.
"""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data_prep.city.folder import City
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.settings import Positive, Settings
from maptile_loc.config import load_settings, save_settings
from maptile_loc.device import pick_device
from maptile_loc.learn.data import Batch, RenderedBatches, training_ground
from maptile_loc.learn.drive_tiles import Sequence, see
from maptile_loc.models.base import angle_of_log_quaternion, log_quaternion
from maptile_loc.models.posterior import PosteriorMapNet
from maptile_loc.models.published import publish, read_model
from maptile_loc.models.regressor import MapNet
from maptile_loc.models.settings import ModelSettings
from maptile_loc.odometry.stored import with_lidar_odometry
from maptile_loc.pipeline import LocalizeSettings, drive_tiles
from maptile_loc.types import Queries

_LABELLED, _JUDGED = 2, 3  # streams of rendered tuples that training never enters
_JUDGED_BATCHES = 20
_WARMUP_STEPS = 10


class AdaptSettings(Settings):
    """How a model is adapted.

    Attributes:
        steps: Batches, unless the minutes are up earlier.
        learning_rate: Of Adam at its peak; a cosine takes it down. With the published 1e-5 the
            error on the drive falls several times more slowly.
        clip: Norm that the gradient is cut to.
        tuple_size: Tiles of the drive in a row; the published 3 say less.
        drive_tuples: Of the drive in a batch.
        rendered_tuples: Of rendered tiles in a batch.
        seed: Of all randomness.
    """

    steps: int = Field(1000, ge=1)
    learning_rate: Positive = 3e-4
    clip: Positive = 5.0
    tuple_size: int = Field(7, ge=2)
    drive_tuples: int = Field(4, ge=1)
    rendered_tuples: int = Field(10, ge=1)
    seed: int = Field(0, ge=0)


def adapt(
    city: City,
    model_folder: Path,
    drive: Drive,
    queries: Queries,
    settings: AdaptSettings,
    localize: LocalizeSettings,
    minutes: float | None = None,
    device: str = "auto",
) -> Path:
    """Adapt a published model to a drive, and publish the result beside it.

    Args:
        city: The city of the model.
        model_folder: A MapNet, or a MapNet over a posterior; it stays as it is.
        drive: Scans and odometry; its truth is never read.
        queries: How query tiles are made; the heading known or unknown, as the model was trained.
        settings: The recipe.
        localize: How submaps and tiles are made.
        minutes: Stop after this many minutes.
        device: "auto", "cpu" or "cuda".

    Returns:
        The folder of the new model, ``<model>-<drive>``.

    Raises:
        MaptileError: There is no such model, it has no relative term, or was trained for the other
            kind of heading; the drive lacks something; nothing can be written.
    """
    recipe = _recipe(model_folder, city)
    if queries.heading.kind != recipe.heading:
        raise MaptileError(
            f"{model_folder}: trained for --heading {recipe.heading}, not {queries.heading.kind}"
        )
    if drive.odometry is None:
        drive = with_lidar_odometry(drive, localize.odometry, _folder(model_folder, drive.name))
    sequence = see(drive_tiles(city, drive, queries, localize), recipe.data.view)
    about = {"drive": drive.name, "submap_m": queries.submap_m, "every_m": queries.every_m}
    return adapt_to(city, model_folder, sequence, about, settings, minutes, device)


def adapt_to(
    city: City,
    model_folder: Path,
    sequence: Sequence,
    about: dict[str, Any],
    settings: AdaptSettings,
    minutes: float | None = None,
    device: str = "auto",
) -> Path:
    """As ``adapt``, to the tiles of ``sequence``, made before in the view that the model knows.

    ``about`` is for the card: the ``drive``'s name, and how the tiles were made.
    """
    on = pick_device(device)
    recipe = _recipe(model_folder, city)
    model, card = read_model(model_folder, city, MapNet)
    ground = training_ground(city)
    data = recipe.data.model_copy(update={"batch_tuples": settings.rendered_tuples})
    rendered, judged = (
        RenderedBatches(ground, data, recipe.heading, settings.seed, stream)
        for stream in (_LABELLED, _JUDGED)
    )
    model = model.to(device=on, memory_format=torch.channels_last)
    before = on_renders(model, judged)
    steps = tune(model, sequence, rendered, settings, minutes, recipe.data.processes())
    folder = _folder(model_folder, about["drive"])
    facts: dict[str, Any] = {
        "name": folder.name,
        "view": card["view"],
        "validation": on_renders(model, judged),
        "training": card["training"],
        "adapted": about
        | {
            "from": model_folder.name,
            "from_sha256": card["weights"]["sha256"],
            "validation_before": before,
            "tiles": len(sequence.tiles),
            "steps": steps,
        },
    }
    save_settings(recipe.model_copy(update={"name": folder.name}), folder / "config.yaml")
    save_settings(settings, folder / "adapt.yaml")
    publish(folder, model, city, facts)
    return folder


def tune(
    model: MapNet,
    sequence: Sequence,
    rendered: Dataset[Batch],
    settings: AdaptSettings,
    minutes: float | None,
    workers: int,
) -> int:
    """Tune a model in place; it stays in evaluation mode, so that its layers' statistics stay too.

    Args:
        model: With a relative term.
        sequence: Of the drive.
        rendered: Batch number n of labelled tuples, for every step.
        settings: The recipe.
        minutes: Stop after so many.
        workers: Processes that render.

    Returns:
        The steps taken.

    Raises:
        MaptileError: No tuple of the sequence is connected by odometry.
    """
    tuples = sequence.tuples(settings.tuple_size)
    if len(tuples) == 0:
        raise MaptileError(
            f"not one stretch of {settings.tuple_size} tiles that odometry connects: "
            "lower tuple_size or --every"
        )
    rng = np.random.default_rng(settings.seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    batches = DataLoader(
        rendered,
        batch_size=None,
        sampler=range(settings.steps),
        num_workers=workers,
    )
    model.eval()
    seconds, begun = math.inf if minutes is None else minutes * 60, time.monotonic()
    step, progress = 0, 0.0
    for batch in tqdm(batches, desc="adapt", unit="step", disable=None):
        chosen = tuples[rng.integers(len(tuples), size=settings.drive_tuples)]
        tiles = torch.from_numpy(sequence.tiles[chosen])
        motion = torch.from_numpy(sequence.motion(chosen[:, :1], chosen[:, 1:])).float()
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _share(step, progress)
        loss = model.objective(Batch(*(part.to(model.device) for part in batch)))
        loss = loss + motion_loss(model, tiles.to(model.device), motion.to(model.device))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        step += 1
        progress = max(step / settings.steps, (time.monotonic() - begun) / seconds)
        if progress >= 1:
            break
    return step


def motion_loss(model: MapNet, tiles: Tensor, motion: Tensor) -> Tensor:
    """How far the poses of tuples are from a known motion, weighed as the relative term is.

    Args:
        model: With a relative term.
        tiles: (B, T, 3, S, S).
        motion: (B, T - 1, 3) metres and radians, each later tile in the frame of the first.
    """
    poses = regressed(model, tiles.flatten(0, 1)).view(*tiles.shape[:2], -1)
    moved = poses[:, 1:, :2] - poses[:, :1, :2]
    srx = model.loss.get_parameter("srx")
    if model.rotation is None:
        return _weighed(moved - motion[..., :2] / model.deviation, srx)
    # In the frame of the first pose; its axes are not the offsets', which may differ in scale.
    angle = angle_of_log_quaternion(poses[..., 2])
    c, s = torch.cos(angle[:, :1]), torch.sin(angle[:, :1])
    east, north = (moved * model.deviation).unbind(-1)
    moved = torch.stack([c * east + s * north, c * north - s * east], -1)
    off = (moved - motion[..., :2]) / model.deviation.mean()
    turned = log_quaternion(angle[:, 1:] - angle[:, :1] - motion[..., 2])
    return _weighed(off, srx) + _weighed(turned, model.loss.get_parameter("srq"))


def regressed(model: MapNet, tiles: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, 2 or 3) normalised poses, as the training's loss takes them.

    Of a posterior it is the expectation over all places: that tells two places apart by moving
    probability from one to the other.
    """
    if not isinstance(model, PosteriorMapNet):
        poses: Tensor = model(tiles)
        return poses
    log_p, rotation = model.posterior(tiles)
    offset = (log_p.exp() @ model.grid - model.mean) / model.deviation
    return offset if rotation is None else torch.cat([offset, rotation], 1)


def on_renders(model: MapNet, batches: Dataset[Batch]) -> dict[str, float]:
    """The errors on rendered tiles."""
    errors = []
    with torch.inference_mode():
        for number in range(_JUDGED_BATCHES):
            batch = batches[number]
            offset, _ = model.pose(batch.tiles.flatten(0, 1).to(model.device))
            errors.append((offset.cpu() - batch.offset.flatten(0, 1)).norm(dim=1))
    error = torch.cat(errors)
    return {"median_m": float(error.median()), "mean_m": float(error.mean()), "tiles": len(error)}


def _share(step: int, progress: float) -> float:
    """The share of the learning rate that a step takes: a short rise, and a cosine down."""
    return min((step + 1) / _WARMUP_STEPS, (1 + math.cos(math.pi * progress)) / 2)


def _recipe(model_folder: Path, city: City) -> ModelSettings:
    """The recipe of a model that can be adapted."""
    read_model(model_folder, city, MapNet)
    recipe = load_settings(ModelSettings, model_folder / "config.yaml")
    if recipe.kind not in ("mapnet", "posterior") or not recipe.relative:
        raise MaptileError(f"{model_folder}: has no relative term; adapt a mapnet or a posterior")
    return recipe


def _folder(model_folder: Path, drive: str) -> Path:
    """Where the model adapted to the drive of this name lies."""
    return model_folder.parent / re.sub(r"[^\w.-]+", "_", f"{model_folder.name}-{drive}")


def _weighed(error: Tensor, log_scale: Tensor) -> Tensor:
    return torch.exp(-log_scale) * error.abs().mean() + log_scale
