"""A model's recipe: what is learned, from what, how long."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_prep.settings import Settings
from maptile_loc.learn.data import DataSettings, Heading
from maptile_loc.models.partition import PartitionSettings
from maptile_loc.models.resnet import NetworkSettings

Kind = Literal["mapnet", "posterior", "cells", "retrieval", "vlocnet"]


class RetrievalSettings(Settings):
    """What a descriptor is made of, and what it is told from."""

    head: Literal["layout", "max", "netvlad"] = "layout"
    """layout keeps where in the tile a thing is; max and netvlad do not."""
    length: int = Field(256, ge=2)
    temperature: float = Field(0.05, gt=0)
    memory: int = Field(4096, ge=1)
    """Map views of the last batches that a seen tile is told from."""


class TrainingSettings(Settings):
    """How long and how fast to learn."""

    steps: int = Field(20_000, ge=1)
    """Batches, unless the minutes are up earlier."""
    epoch_steps: int = Field(250, ge=1)
    """Batches between validations, each of which leaves a checkpoint to resume from."""
    learning_rate: float = Field(2e-3, gt=0)
    """At its peak; it rises for ``warmup`` of the training, and falls as a cosine to nothing."""
    warmup: float = Field(0.02, ge=0, lt=1)
    weight_decay: float = Field(1e-2, ge=0)
    relative_from: float = Field(0.5, ge=0, le=1)
    """Share of the training after which MapNet's relative term counts."""
    patience: int = Field(40, ge=1)
    """Validations without a better median after which training stops early."""


class ModelSettings(Settings):
    """A model's recipe."""

    name: str = Field("mapnet", pattern=r"^[\w.-]+$")
    """The model's folder in the city's ``models/``."""
    kind: Kind = "mapnet"
    """What is learned; see ``kinds.py``."""
    relative: bool = True
    """MapNet's relative term; without it, it is PoseNet."""
    heading: Heading = "known"
    seed: int = Field(0, ge=0)
    network: NetworkSettings = NetworkSettings()
    cells: PartitionSettings = PartitionSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    grid_m: float = Field(10.0, gt=0)
    """Spacing of the places that ``posterior`` tells apart."""
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
