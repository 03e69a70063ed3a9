"""The tasks: a network is trained on images and judged; results are kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from stamp import stamp

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.files import read_json, write_json
from data_prep.geometry import Array
from data_prep.progress import Progress, silent
from lean.grid import PoseGrid
from lean.images import IMAGES, Kept, kept_images
from lean.network import LeanNetwork, codes, numbers_of
from lean.training import BEST, END, RATE, Targets, answers, trained

Training = Literal["correct", "shuffled", "code"]
"""What images are paired with: their poses, other images' poses, or codes."""

TASKS: dict[str, Training] = {"A": "correct", "B": "shuffled", "C": "correct", "code": "code"}
"""The training of each task; A and C share one, as in the paper."""

WITHIN = (1, 3)
"""Limits of D."""

VALIDATION = 0.1
"""Share of the samples that are held out to choose the checkpoint of task C, as in the paper."""


@dataclass(frozen=True)
class Study:
    """An area, and where its images, networks and results are kept.

    Attributes:
        city: The city.
        grid: The poses.
        work: A folder.
        steps: Batches of each training.
        seed: Of weights, shuffles, and of the samples that are held out.
    """

    city: City
    grid: PoseGrid
    work: Path
    steps: int
    seed: int = 0

    def result_file(self, images: str, training: Training) -> Path:
        """Where a result is kept."""
        return self._models / f"{images}_{training}" / "result.json"

    @property
    def _area(self) -> Path:
        grid = self.grid
        centre = np.round([grid.west, grid.south]) + grid.area_m / 2
        where = f"{centre[0]:.0f}_{centre[1]:.0f}"
        return self.work / (
            f"{self.city.name}_{where}_{grid.area_m:g}m_{grid.step_m:g}m_{grid.pitches}pitches"
        )

    @property
    def _models(self) -> Path:
        return self._area / f"{self.steps}steps"

    def images(self, name: str, progress: Progress = silent) -> Kept:
        """The images of a type, rendered where they are missing."""
        source, _ = IMAGES[name]
        grid = self.grid if source == "eye" else level(self.grid)
        return kept_images(self.city, source, grid, self._area / source, progress)

    def result(
        self, images: str, training: Training, progress: Progress = silent
    ) -> dict[str, Any]:
        """Return the result of a training on a type of images; train and judge where it is missing.

        Raises:
            MaptileError: There are no valid images, or the training was interrupted.
        """
        file = self.result_file(images, training)
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            kept = self.images(images, progress)
            write_json(file, self._run(kept, images, training, file.parent))
        return read_json(file)

    def _run(self, kept: Kept, name: str, training: Training, folder: Path) -> dict[str, Any]:
        source, channels = IMAGES[name]
        grid = self.grid if source == "eye" else level(self.grid)
        count, size = len(kept.known.units), kept.known.images.shape[-1]
        if training == "code" and count > 2**17:
            raise MaptileError(f"{count} samples have no code of 17 bits; take fewer pitches")
        rng = np.random.default_rng(self.seed)
        mixed = rng.permutation(count)
        held = np.sort(mixed[: max(1, round(VALIDATION * count))])
        learned = np.setdiff1d(np.arange(count), held)
        paired = rng.permutation(count) if training == "shuffled" else np.arange(count)
        targets = codes(paired) if training == "code" else grid.vectors(kept.known.units)[paired]
        torch.manual_seed(self.seed)
        answer: Literal["pose", "code"] = "code" if training == "code" else "pose"
        network = LeanNetwork(size, len(channels), answer, RATE)

        def some(rows: NDArray[np.int64]) -> Targets:
            return Targets(kept.known.images, channels, targets, rows)

        trained(network, some(learned), some(held), self.steps, folder)
        memory = answers(network, some(learned), folder / END)
        every = np.arange(len(kept.between.units))
        blank = np.zeros((len(every), targets.shape[1]), np.float32)
        new = Targets(kept.between.images, channels, blank, every)
        found: dict[str, Any] = {"known": count, "learned": len(learned), "between": len(every)}
        found |= {"steps": self.steps, "made": stamp()}
        if training == "code":
            between = answers(network, new, folder / END)
            return found | judged_codes(grid, kept, memory, learned, between)
        found["memory"] = judged_memory(grid, kept.known.units, memory, paired[learned])
        if training == "correct":
            between = grid.units(answers(network, new, folder / BEST))
            found["between_cells"] = judged_cells(grid, between, kept.between.units)
        return found


def level(grid: PoseGrid) -> PoseGrid:
    """The grid of map tiles, whose views have no pitch."""
    return PoseGrid(grid.west, grid.south, grid.area_m, grid.step_m, pitches=1)


def judged_memory(
    grid: PoseGrid, known: Array, vectors: NDArray[np.float32], right: NDArray[np.int64]
) -> dict[str, Any]:
    """Return how often the right sample is among the nearest of a regressed pose, and its errors.

    Args:
        grid: The grid.
        known: (K, 4) units of the samples.
        vectors: (N, 6) regressed.
        right: (N,) row of the right sample.
    """
    units = grid.units(vectors)
    hit = grid.nearest(known, units, min(3, len(known))) == right[:, None]
    errors = grid.errors(units, known[right])
    return {"1nn": float(hit[:, 0].mean()), "3nn": float(hit.any(1).mean()), **_summary(errors)}


def judged_cells(grid: PoseGrid, units: Array, true: Array) -> dict[str, Any]:
    """Return the shares of (N, 4) units whose cell is less than 1 or 3 steps off; and errors."""
    apart = grid.apart(units, true)
    return {**_within(apart), **_summary(grid.errors(units, true))}


def judged_codes(
    grid: PoseGrid,
    kept: Kept,
    memory: NDArray[np.float32],
    learned: NDArray[np.int64],
    between: NDArray[np.float32],
) -> dict[str, Any]:
    """Return the share of codes that are right; and of new images, those of the sample answered.

    A new image whose code is no sample's is wrong.

    Args:
        grid: The grid.
        kept: The images.
        memory: (N, 17) logits of the learned images.
        learned: (N,) their numbers.
        between: (M, 17) logits of the new images.
    """
    numbers, count = numbers_of(between), len(kept.known.units)
    apart = grid.apart(kept.known.units[np.minimum(numbers, count - 1)], kept.between.units)
    apart[numbers >= count] = np.iinfo(np.int64).max
    right = float((numbers_of(memory) == learned).mean())
    return {"memory": {"code": right}, "between_cells": _within(apart)}


def _within(apart: NDArray[np.int64]) -> dict[str, float]:
    return {
        f"{space} D<{limit}": float((apart[:, column] < limit).mean())
        for column, space in enumerate(("2D", "4D"))
        for limit in WITHIN
    }


def _summary(errors: Array) -> dict[str, list[float]]:
    """Mean and median of the position's errors, metres, and of the angles', degrees."""
    return {
        name: [float(np.mean(errors[:, column])), float(np.median(errors[:, column]))]
        for column, name in enumerate(("metres", "degrees"))
    }
