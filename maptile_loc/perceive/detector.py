"""The wall detector: a small network that classifies the cells of a query tile.

It works on the cells with upright points alone, by their features (``walls.FEATURES``) and those of
the cells around them: submanifold sparse convolutions (Graham, Engelcke and van der Maaten, CVPR
2018) with residual connections and several dilations. A filter treats all four sides of a cell
alike, and all four corners, so that a tile that is turned by a quarter, or mirrored, gives the same
probabilities.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pydantic
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load as tensors_of
from torch import nn

from data_prep.errors import MaptileError
from data_prep.files import check_version, read_json, write_error, write_json
from data_prep.regular import read_regular
from maptile_loc.perceive.labels import (
    BUILDING,
    CAR,
    FENCE,
    FREE_WALL,
    GATE,
    TRUCK,
    VEGETATION,
)
from maptile_loc.weights import save_weights

F32 = NDArray[np.float32]

CLASSES = ("other", "building", "vegetation", "barrier", "vehicle")
"""Classes of cells, in the order of the network's outputs."""

CLASS_OF_KIND = {
    BUILDING: 1,
    VEGETATION: 2,
    FENCE: 3,
    FREE_WALL: 3,
    GATE: 3,
    CAR: 4,
    TRUCK: 4,
}
"""Index of the class of each kind of points (``labels``); all other kinds are 0, other."""

BUILDING_CLASS = CLASSES.index("building")
"""Index of the class of buildings."""

DILATIONS = (1, 2, 4, 1)
"""Distance, in cells, to the eight neighbours that each layer looks at."""

RING = (((-1, 0), (0, -1), (0, 1), (1, 0)), ((-1, -1), (-1, 1), (1, -1), (1, 1)))
"""Rows and columns to the neighbours of a cell: at its sides, and at its corners."""

CLIP = 4.0
"""Normalised features are clipped to this, so that no outlier decides alone."""

CARD = "detector.json"
"""Name of the card in a detector's folder."""

WEIGHTS = "detector.safetensors"
"""Name of the weights in a detector's folder."""

FORMAT = "maptile-wall-detector"
"""Value of a card's ``format``."""

FORMAT_VERSION = 1
"""The ``version`` of the cards that this code reads and writes."""

SHIPPED = Path(__file__).parent / "weights"
"""Folder of the detector that is part of the package, fitted to simulated drives alone."""


class Cells(NamedTuple):
    """The cells of one or more tiles that a network looks at.

    Attributes:
        features: (M, F) float32 features.
        around: For each of ``DILATIONS``, (M, 2, 4) int64 indices of the neighbours of ``RING``; M
            where there is no cell.
    """

    features: torch.Tensor
    around: dict[int, torch.Tensor]


def make_cells(cell: NDArray[np.int64], features: NDArray[np.floating], size: int) -> Cells:
    """Cells of one tile.

    Args:
        cell: (M,) flat indices in a tile of ``size`` pixels along a side.
        features: (M, F) their features.
        size: Pixels along a side.
    """
    margin = max(DILATIONS)
    number = np.full((size + 2 * margin,) * 2, len(cell), np.int64)
    row, column = (index + margin for index in np.divmod(cell, size))
    number[row, column] = np.arange(len(cell))
    around = {
        step: torch.from_numpy(
            np.stack(
                [
                    np.stack([number[row + i * step, column + j * step] for i, j in part], axis=1)
                    for part in RING
                ],
                axis=1,
            )
        )
        for step in set(DILATIONS)
    }
    return Cells(torch.from_numpy(features.astype(np.float32)), around)


class WallDetector(nn.Module):
    """Log-odds of ``CLASSES`` for each cell.

    Args:
        features: Number of features, F.
        width: Channels of the hidden layers.
    """

    def __init__(self, features: int, width: int = 32) -> None:
        super().__init__()
        self.features, self.width = features, width
        self.mean = nn.Buffer(torch.zeros(features))
        self.spread = nn.Buffer(torch.ones(features))
        self.first = nn.Linear(features, width)
        self.layers = nn.ModuleList(nn.Linear(3 * width, width) for _ in DILATIONS)
        self.last = nn.Linear(width, len(CLASSES))

    def forward(self, cells: Cells) -> torch.Tensor:
        """(M, len(CLASSES)) log-odds of (M,) cells; their softmax are probabilities."""
        normal = ((cells.features - self.mean) / self.spread).clamp(-CLIP, CLIP)
        hidden = torch.relu(self.first(normal))
        nothing = hidden.new_zeros(1, self.width)
        for step, layer in zip(DILATIONS, self.layers, strict=True):
            around = cells.around[step].flatten(0, 1)
            ring = nn.functional.embedding_bag(around, torch.cat([hidden, nothing]), mode="mean")
            both = ring.reshape(len(hidden), 2 * self.width)
            hidden = hidden + torch.relu(layer(torch.cat([hidden, both], 1)))
        logits: torch.Tensor = self.last(hidden)
        return logits

    def building(self, cell: NDArray[np.int64], features: NDArray[np.floating], size: int) -> F32:
        """(M,) probability of a building's wall in each cell; arguments as in ``make_cells``."""
        if not len(cell):
            return np.zeros(0, np.float32)
        with torch.inference_mode():
            odds = self(make_cells(cell, features, size))
            return torch.softmax(odds, 1)[:, BUILDING_CLASS].numpy()


class _Card(pydantic.BaseModel):
    """The keys of a card that using a detector needs."""

    classes: list[str]
    features: list[str]
    width: pydantic.PositiveInt
    sha256: str
    kind: Literal["sparse"] = "sparse"


def write_detector(
    folder: Path, detector: WallDetector, features: tuple[str, ...], facts: dict[str, Any]
) -> None:
    """Write a detector: first ``detector.safetensors``, then ``detector.json``.

    Args:
        folder: Where to write; it is made where it is missing.
        detector: The detector.
        features: Names of its features.
        facts: More for the card, such as what it was fitted to; plain values only.

    Raises:
        MaptileError: The files cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    digest = save_weights(folder / WEIGHTS, detector)
    card = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "kind": "sparse",
        "classes": list(CLASSES),
        "features": list(features),
        "width": detector.width,
        "sha256": digest,
        **facts,
    }
    write_json(folder / CARD, card)


def read_detector(folder: Path, features: tuple[str, ...]) -> WallDetector:
    """Read a detector.

    Args:
        folder: Where ``write_detector`` wrote it.
        features: Names of the features that it will be given.

    Raises:
        MaptileError: There is no detector in ``folder``; it is damaged, of a newer version, or made
            for other features.
    """
    card_file, file = folder / CARD, folder / WEIGHTS
    if not card_file.is_file():
        raise MaptileError(f"{folder}: no {CARD} in it; maptile adapt --walls makes such a folder")
    raw = read_json(card_file)
    if raw.get("format") != FORMAT:
        raise MaptileError(f"{card_file}: not the card of a wall detector")
    check_version(card_file, raw.get("version"), FORMAT_VERSION, "make the folder again")
    try:
        card = _Card.model_validate(raw)
    except pydantic.ValidationError as error:
        raise MaptileError(f"{card_file}: damaged ({error.errors()[0]['loc'][0]})") from error
    if card.features != list(features) or card.classes != list(CLASSES):
        raise MaptileError(
            f"{folder}: made for other features or classes than this version of maptile-loc has; "
            "make it again"
        )
    detector = WallDetector(len(features), card.width)
    try:
        content = read_regular(file)
        if hashlib.sha256(content).hexdigest() != card.sha256:
            raise MaptileError(f"{file}: does not belong to {CARD}; make the folder again")
        detector.load_state_dict(tensors_of(content))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise MaptileError(f"{file}: cannot be read ({reason}); make the folder again") from error
    return detector.eval().requires_grad_(False)


@cache
def cached_detector(folder: Path, features: tuple[str, ...]) -> WallDetector:
    """``read_detector``, read once per process."""
    return read_detector(folder, features)
