"""The kinds of models: which there are, and how one is made for a city."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from data_prep.geometry import Array
from maptile_loc.learn.data import Ground
from maptile_loc.models.base import TileModel
from maptile_loc.models.classifier import CellsModel
from maptile_loc.models.descriptor import DescriptorModel
from maptile_loc.models.partition import make_cells
from maptile_loc.models.posterior import PosteriorMapNet
from maptile_loc.models.regressor import MapNet
from maptile_loc.models.settings import Kind, ModelSettings
from maptile_loc.models.vlocnet import VLocNet

KINDS: dict[Kind, type[TileModel]] = {
    "mapnet": MapNet,
    "posterior": PosteriorMapNet,
    "cells": CellsModel,
    "retrieval": DescriptorModel,
    "vlocnet": VLocNet,
}


def make_model(settings: ModelSettings, ground: Ground) -> TileModel:
    """A new model for a city, its weights drawn from torch's random numbers."""
    mean, deviation = ground.mean_and_deviation()
    common: dict[str, Any] = {
        "size": settings.data.view.size_px,
        "network": settings.network.model_dump(mode="json"),
        "heading": settings.heading,
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "learning_rate": settings.training.learning_rate,
        "weight_decay": settings.training.weight_decay,
    }
    if settings.kind == "retrieval":
        return DescriptorModel(**settings.retrieval.model_dump(mode="json"), **common)
    places = ((ground.roads.start + ground.roads.end) / 2).double().numpy()
    weights = ground.weights.double().numpy()
    if settings.kind == "cells":
        cells = make_cells(places, weights, settings.cells)
        model = CellsModel(counts=np.bincount(cells.partition).tolist(), **common)
        model.centre.copy_(torch.from_numpy(cells.centre))
        model.side.copy_(torch.from_numpy(cells.side))
        return model
    published: dict[str, Any] = {
        "relative": settings.relative,
        "relative_from": settings.training.relative_from,
    }
    if settings.kind == "posterior":
        grid = _grid(places[weights > 0], settings.grid_m)
        posterior = PosteriorMapNet(places=len(grid), **published, **common)
        posterior.grid.copy_(torch.from_numpy(grid))
        return posterior
    kind = VLocNet if settings.kind == "vlocnet" else MapNet
    return kind(**published, **common)


def _grid(places: Array, spacing: float) -> Array:
    """(N, 2) points of a square grid, those that are nearest to one of the (P, 2) places."""
    index: Array = np.unique(np.round(places / spacing), axis=0)
    return index * spacing
