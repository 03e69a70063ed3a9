"""MapNet+: a city's model adapted to what a drive observes, without the drive's truth.

After MapNet+ (Brahmbhatt et al., CVPR 2018, section 3.2): a trained model is tuned on rendered
tuples, whose poses are known, mixed with tuples of the drive's query tiles, of which only the
motion between them is known. As published, the motion is compared in the frame of an earlier pose
and weighted as the relative term; Adam runs without weight decay; gradients are clipped.
Different: the frame is that of the tuple's first pose, tuples are longer, steps are larger, and
the layers' normalisation statistics stay as trained.
"""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_prep.city.folder import City
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.files import ensure_folder, swapped_folder
from data_prep.locks import locked
from data_prep.progress import Progress, silent
from data_prep.settings import Positive, Settings
from data_prep.standing import MADE_FROM, Keep, Product, check_standing
from maptile_loc.arguments import made_from
from maptile_loc.config import load_settings, save_settings
from maptile_loc.device import pick_device
from maptile_loc.fuse.gnss_windows import with_asked_gnss
from maptile_loc.learn.pace import seconds_of
from maptile_loc.learn.runtime import quiet_worker
from maptile_loc.learn.settings import ModelSettings, Recipe
from maptile_loc.learn.tile_sequence import TileSequence, see
from maptile_loc.learn.tiles.supply import JUDGED_STREAM, LABELLED_STREAM, batches, supply
from maptile_loc.models.parts.published import CARD, WEIGHTS, publish, read_model
from maptile_loc.models.parts.rotation import angle_of_cosine_sine, cosine_sine
from maptile_loc.models.parts.tile_model import Batch
from maptile_loc.models.regressor import MapNet, weighted
from maptile_loc.odometry.stored import ODOMETRY_FILE, with_lidar_odometry
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.render.look import card_of_look, look_of_card
from maptile_loc.types import Queries

OWN = (CARD, WEIGHTS, "config.yaml", "adapt.yaml")
"""The entries of the new model's folder that are replaced."""
JUDGED_BATCHES = 20
"""Batches of rendered tuples that measure the error."""
WARMUP_STEPS = 10
"""Steps during which the learning rate rises to its peak."""
PERCENT = 100
"""Parts that the progress is reported in."""


class AdaptSettings(Settings):
    """How a model is adapted."""

    steps: int = Field(1000, ge=1)
    """Batches, unless the minutes are over earlier."""
    learning_rate: Positive = 3e-4
    """Peak rate of Adam; a cosine takes it down to zero. Published: 1e-5, which is slower here."""
    clip: Positive = 5.0
    """Norm that the gradient is clipped to."""
    tuple_size: int = Field(7, ge=2)
    """Consecutive tiles of the drive in a tuple. Published: 3, which constrain the poses less."""
    drive_tuples: int = Field(4, ge=1)
    """Tuples of the drive in a batch."""
    rendered_tuples: int = Field(10, ge=1)
    """Tuples of rendered tiles in a batch."""
    seed: int = Field(0, ge=0)
    """Of all randomness."""


def adapt(
    city: City,
    model_folder: Path,
    drive: Drive,
    queries: Queries,
    settings: AdaptSettings,
    localize: LocalizeSettings,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress = silent,
    force: bool = False,
) -> Path:
    """Adapt a published model to a drive, and publish the result beside it.

    Args:
        city: The model's city.
        model_folder: A mapnet or posterior model; it is not changed.
        drive: Scans and odometry; its truth is not used.
        queries: The query tiles; the heading known or unknown, as the model was trained. With
            ``gnss``, the translations are those of the drive's GNSS, as in the published variant.
        settings: The recipe.
        localize: How submaps and tiles are made.
        minutes: Stop after this much tuning.
        device: auto, cpu or cuda.
        progress: Is called after each tile, and with the percentage of the tuning that is done.
        force: Replace whatever stands at the new model's folder.

    Returns:
        The folder of the new model, ``<model>-<drive>``.

    Raises:
        MaptileError: There is no such model, its loss has no relative term, or it was trained for
            the other kind of heading; the drive lacks scans or headings; the folder cannot be
            written.
    """
    seconds_of(minutes)  # refuses what is no time before anything is made
    recipe = _recipe(model_folder, city)
    if queries.heading.kind != recipe.heading:
        raise MaptileError(
            f"{model_folder}: trained for --heading {recipe.heading}, not {queries.heading.kind}"
        )
    drive = with_asked_gnss(drive, queries.gnss)
    folder = _folder(model_folder, drive.name)
    about = {"drive": drive.name, "submap_m": queries.submap_m, "every_m": queries.every_m}
    about |= {"gnss": True} if queries.gnss else {}
    product = Product(CARD, made_from(city, drive), lambda name: name not in OWN, (ODOMETRY_FILE,))
    with locked(folder):
        keep = check_standing(folder, product, force)
        if drive.odometry is None:
            ensure_folder(folder)
            drive = with_lidar_odometry(drive, localize.odometry, folder)
        tiles = drive_tiles(city, drive, queries, localize)
        where = city.raster.projection if queries.gnss else None
        sequence = see(tiles, recipe.data.look, progress, where)
        facts = about | {MADE_FROM: product.made_from}
        how = settings, minutes, device, progress, keep
        return adapt_to(city, model_folder, sequence, facts, *how)


def adapt_to(
    city: City,
    model_folder: Path,
    sequence: TileSequence,
    about: dict[str, Any],
    settings: AdaptSettings,
    minutes: float | None = None,
    device: str = "auto",
    progress: Progress = silent,
    keep: Keep = lambda name: name not in OWN,
) -> Path:
    """As ``adapt``, with the drive's tiles made before, in the look that the model was trained on.

    ``about`` is for the card: the name of the ``drive``, how the tiles were made, and optionally
    what the model is made from. An older model of this name is replaced; what ``keep`` says stays.
    """
    about = dict(about)
    origin = about.pop(MADE_FROM, {})
    on = pick_device(device)
    recipe = _recipe(model_folder, city)
    model, card = read_model(model_folder, city, MapNet)
    data = recipe.data.model_copy(update={"batch_tuples": settings.rendered_tuples})
    source = supply(city, data)
    rendered, judged = (
        batches(source, data, recipe.heading, settings.seed, stream)
        for stream in (LABELLED_STREAM, JUDGED_STREAM)
    )
    model = model.to(device=on, memory_format=torch.channels_last)
    before = on_renders(model, judged)
    workers = recipe.data.processes()
    steps = tune(model, sequence, rendered, settings, minutes, workers, progress)
    folder = _folder(model_folder, about["drive"])
    facts: dict[str, Any] = {
        "name": folder.name,
        **card_of_look(look_of_card(card)),
        "validation": on_renders(model, judged),
        "training": card["training"],
        MADE_FROM: origin,
        "adapted": about
        | {
            "from": model_folder.name,
            "from_sha256": card["weights"]["sha256"],
            "validation_before": before,
            "tiles": len(sequence.tiles),
            "steps": steps,
        },
    }
    with swapped_folder(folder, keep) as new:
        save_settings(recipe.model_copy(update={"name": folder.name}), new / "config.yaml")
        save_settings(settings, new / "adapt.yaml")
        publish(new, model, city, facts)
    return folder


def _tuples(sequence: TileSequence, settings: AdaptSettings) -> NDArray[np.int_]:
    """The tuples of consecutive tiles of a drive, as ``TileSequence.tuples`` returns them."""
    tuples = sequence.tuples(settings.tuple_size)
    if len(tuples) == 0:
        raise MaptileError(
            f"the drive has no stretch of {settings.tuple_size} tiles connected by odometry"
            f"{' and with GNSS' if sequence.measured is not None else ''}: "
            "lower tuple_size or --every"
        )
    return tuples


def tune(
    model: MapNet,
    sequence: TileSequence,
    rendered: Dataset[Batch],
    settings: AdaptSettings,
    minutes: float | None,
    workers: int,
    progress: Progress = silent,
) -> int:
    """Tune a model in place; it stays in evaluation mode, so that its statistics do not change.

    Args:
        model: An adaptable one.
        sequence: The drive's tiles.
        rendered: Labelled tuples: a batch per step.
        settings: The recipe.
        minutes: Stop after this many; None: no limit.
        workers: Processes that render.
        progress: Is called with the percentage that is done.

    Returns:
        The number of steps taken.

    Raises:
        MaptileError: No tuple of the drive lies within one segment of the odometry.
    """
    tuples = _tuples(sequence, settings)
    rng = np.random.default_rng(settings.seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    numbers = range(settings.steps)
    loader = DataLoader(
        rendered,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        worker_init_fn=quiet_worker,
    )
    model.eval()
    seconds, begun = seconds_of(minutes), time.monotonic()
    step, share = 0, 0.0
    progress("adapt", 0, PERCENT)
    for batch in loader:
        chosen = tuples[rng.integers(len(tuples), size=settings.drive_tuples)]
        tiles = torch.from_numpy(sequence.tiles[chosen])
        motion = torch.from_numpy(sequence.motion(chosen[:, :-1], chosen[:, 1:])).float()
        in_map = sequence.measured is not None
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _rate(step, share)
        loss = model.objective(Batch(*(part.to(model.device) for part in batch)))
        loss = loss + motion_loss(model, tiles.to(model.device), motion.to(model.device), in_map)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        step += 1
        share = max(step / settings.steps, (time.monotonic() - begun) / seconds)
        progress("adapt", int(PERCENT * min(share, 1)), PERCENT)
        if share >= 1:
            break
    return step


def motion_loss(model: MapNet, tiles: Tensor, motion: Tensor, in_map: bool = False) -> Tensor:
    """The error of the motion between the regressed poses, weighted as MapNet's relative term.

    The motions are those of consecutive pairs, each in the frame of the pair's earlier pose
    (Brahmbhatt et al. 2018, section 3.2, and the code of MapNet+). Without a rotation, that frame
    has the map's axes, and translations are normalised per axis; with one, by the mean deviation of
    both axes.

    Args:
        model: An adaptable one.
        tiles: (B, T, C, S, S).
        motion: (B, T - 1, 3) metres and radians, each later tile in the frame of the one before.
        in_map: The translations are in the map's axes, as GNSS gives them.
    """
    poses = model.expectation(tiles.flatten(0, 1)).view(*tiles.shape[:2], -1)
    moved = poses[..., :2].diff(dim=1)
    srx = model.loss.get_parameter("srx")
    if model.rotation is None:
        return weighted(moved - motion[..., :2] / model.deviation, srx)
    angle = angle_of_cosine_sine(poses[..., 2:])
    moved = moved * model.deviation
    if not in_map:
        c, s = torch.cos(angle[:, :-1]), torch.sin(angle[:, :-1])
        east, north = moved.unbind(-1)
        moved = torch.stack([c * east + s * north, c * north - s * east], -1)
    off = (moved - motion[..., :2]) / model.deviation.mean()
    turned = cosine_sine(angle.diff(dim=1)) - cosine_sine(motion[..., 2])
    return weighted(off, srx) + weighted(turned, model.loss.get_parameter("srq"))


def on_renders(model: MapNet, batches: Dataset[Batch]) -> dict[str, float]:
    """The position errors on rendered tiles: ``median_m``, ``mean_m`` and the number of tiles."""
    errors = []
    with torch.inference_mode():
        for number in range(JUDGED_BATCHES):
            batch = batches[number]
            offset, _ = model.pose(batch.tiles.flatten(0, 1).to(model.device))
            errors.append((offset.cpu() - batch.offset.flatten(0, 1)).norm(dim=1))
    error = torch.cat(errors)
    return {"median_m": float(error.median()), "mean_m": float(error.mean()), "tiles": len(error)}


def _rate(step: int, share: float) -> float:
    """The learning rate of a step as a share of its peak: a short linear rise, then a cosine."""
    return min((step + 1) / WARMUP_STEPS, (1 + math.cos(math.pi * share)) / 2)


def _recipe(model_folder: Path, city: City) -> Recipe:
    """The recipe of the model in this folder, which has to be adaptable."""
    model, _ = read_model(model_folder, city, MapNet)
    if not model.adaptable:
        raise MaptileError(f"{model_folder}: has no relative term; adapt a mapnet or a posterior")
    return load_settings(ModelSettings, model_folder / "config.yaml")


def _folder(model_folder: Path, drive: str) -> Path:
    """The folder of the model adapted to the drive of this name."""
    return model_folder.parent / re.sub(r"[^\w.-]+", "_", f"{model_folder.name}-{drive}")
