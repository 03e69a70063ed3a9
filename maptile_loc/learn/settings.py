"""The recipe of a model: what is trained, on which data, for how long."""

from __future__ import annotations

import os
from typing import Any

import pydantic
from pydantic import Field

from data_prep.settings import Settings
from maptile_loc.models import kinds
from maptile_loc.models.parts.resnet import NetworkSettings
from maptile_loc.models.parts.tile_model import Heading
from maptile_loc.render.disguise import DisguiseSettings
from maptile_loc.render.look import Look
from maptile_loc.render.routes import BESIDE_M
from maptile_loc.render.view import ViewSettings
from maptile_loc.render.window import MapWindowSettings


class DataSettings(Settings):
    """The training tiles."""

    tuple_size: int = Field(3, ge=1)
    """Tiles per tuple, one after the other along a route."""
    spacing_m: tuple[float, float] = (4.0, 16.0)
    """Least and greatest distance along the road between the tiles of a tuple."""
    beside_m: float = Field(BESIDE_M, ge=0)
    """How far beyond a road's half width vehicles may be: lanes, and errors of the map."""
    yards: float = Field(0.0, ge=0, le=1)
    """Share of tuples that are drawn up to ``yard_m`` beyond the road: yards and car parks."""
    yard_m: float = Field(30.0, ge=0)
    """How far beyond a road's half width tuples in yards may be."""
    batch_tuples: int = Field(20, ge=1)
    """Tuples per batch."""
    worlds: int = Field(8, ge=1)
    """Variants of the city in use at a time; fewer where they would take too much memory."""
    batches_per_world: int = Field(100, ge=1)
    """Batches after which one of the variants is replaced by a new one."""
    validation_tuples: int = Field(300, ge=1)
    """Tuples of the validation, rounded up to whole batches."""
    workers: int | None = Field(None, ge=0)
    """Processes that render; by default one per two cores, none on a single core."""
    view: ViewSettings = ViewSettings()
    """What a tile shows, and its noise."""
    disguise: DisguiseSettings = DisguiseSettings()
    """How the variants of the city differ from the map."""
    windows: MapWindowSettings | None = None
    """Tiles are windows of the map raster, in place of views rendered from the map."""

    @property
    def look(self) -> Look:
        """What the tiles show."""
        return self.windows or self.view

    def processes(self) -> int:
        """The number of processes that render."""
        return (os.cpu_count() or 1) // 2 if self.workers is None else self.workers


class TrainingSettings(Settings):
    """The length and the pace of a training."""

    steps: int = Field(20_000, ge=1)
    """Batches, unless the minutes are over earlier."""
    epoch_steps: int = Field(250, ge=1)
    """Batches between validations; each validation saves a checkpoint to resume from."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak rate: reached after ``warmup`` of the training, followed by a cosine down to zero."""
    warmup: float = Field(0.02, ge=0, lt=1)
    """Share of the training during which the rate rises."""
    weight_decay: float = Field(1e-2, ge=0)
    """Of AdamW."""
    relative_from: float = Field(0.5, ge=0, le=1)
    """Share of the training after which MapNet's relative term counts."""
    patience: int = Field(40, ge=1)
    """Validations without a better result after which training stops early."""


class Recipe(Settings):
    """The keys that the recipes of all kinds of models have."""

    name: str = Field("mapnet", pattern=r"^[\w.-]+$")
    """The model's folder in the city's ``models/``."""
    kind: str = "mapnet"
    """The kind of model: the name of one of ``maptile_loc.models.kinds()``."""
    heading: Heading = "known"
    """known: tiles are north-up; unknown: they are turned by random angles."""
    seed: int = Field(0, ge=0)
    """Of all randomness."""
    network: NetworkSettings = NetworkSettings()
    """The backbone."""
    data: DataSettings = DataSettings()
    """The training tiles."""
    training: TrainingSettings = TrainingSettings()
    """The length and the pace."""

    @pydantic.field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in kinds():
            raise ValueError(f"there are {', '.join(sorted(kinds()))}")
        return kind

    def own(self) -> Settings:
        """The keys of the recipe's kind, as its ``ModelKind.recipe``."""
        own = kinds()[self.kind].recipe
        return own.model_validate({key: getattr(self, key) for key in own.model_fields})


def _keys_of_kinds() -> dict[str, Any]:
    """Type and default of the keys that the kinds add to a recipe."""
    recipes = [kind.recipe for kind in kinds().values()]
    return {
        key: (field.annotation, field)
        for recipe in recipes
        for key, field in recipe.model_fields.items()
    }


ModelSettings: type[Recipe] = pydantic.create_model(
    "ModelSettings",
    __base__=Recipe,
    __module__=__name__,
    __doc__="A model's recipe: the keys of ``Recipe``, and those of all kinds of models.",
    **_keys_of_kinds(),
)
"""A model's recipe with all its keys; a recipe of one kind may have the keys of the others, too."""
