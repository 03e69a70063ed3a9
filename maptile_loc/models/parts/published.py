"""Published models: weights as safetensors, and a JSON card with all that is needed to use them."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import safetensors
from safetensors.torch import load as tensors_of

from data_prep.city.folder import City
from data_prep.city.raster import ATTRIBUTION
from data_prep.errors import MaptileError
from data_prep.files import check_version, read_json, write_json
from data_prep.regular import read_regular
from maptile_loc.models import kind_of, kinds
from maptile_loc.models.parts.kind import ModelKind
from maptile_loc.models.parts.tile_model import TileModel
from maptile_loc.render.view import ViewSettings
from maptile_loc.render.window import MapWindowSettings
from maptile_loc.weights import save_weights

CARD = "model.json"
"""Name of the card in a model's folder."""
WEIGHTS = "model.safetensors"
"""Name of the weights in a model's folder."""
FORMAT = "maptile-model"
"""Value of a card's ``format``."""
FORMAT_VERSION = 2
"""The ``version`` of the cards that this code reads and writes."""

M = TypeVar("M", bound=TileModel)


class _CityOfCard(pydantic.BaseModel):
    """The keys of a card's ``city`` that reading a model needs."""

    name: str
    content_hash: str


class _Card(pydantic.BaseModel):
    """The keys of a card that using a model needs."""

    kind: str = "mapnet"
    city: _CityOfCard
    view: ViewSettings | None = None
    windows: MapWindowSettings | None = None
    model: dict[str, Any]


def publish(folder: Path, model: TileModel, city: City, facts: dict[str, Any]) -> None:
    """Write a model for use: first ``model.safetensors``, then ``model.json``.

    Args:
        folder: Where to write.
        model: The trained model.
        city: The city that it was trained for; a bound model is valid for its content only.
        facts: More for the card (name, view, validation, ...); plain values only.
    """
    digest = save_weights(folder / WEIGHTS, model)
    kind = kind_of(model)
    card = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "method": kind.method,
        "kind": kind.name,
        "city": {
            "name": city.name,
            "content_hash": city.content_hash,
            "crs": city.raster.crs.to_wkt(),
            "reference": city.reference.tolist(),
        },
        "model": dict(model.hparams),
        "weights": {"file": WEIGHTS, "sha256": digest},
        "attribution": ATTRIBUTION,
        "made_by": f"maptile-loc {version('maptile-loc')}",
    }
    write_json(folder / CARD, card | facts)


def read_model(folder: Path, city: City, expected: type[M]) -> tuple[M, dict[str, Any]]:
    """A published model in evaluation mode, and its card.

    Args:
        folder: Where it was published.
        city: The city that it is to be used for.
        expected: The class that it has to be, or be derived from.

    Raises:
        MaptileError: The folder holds no model, or a damaged one, one of another format version or
            of another method, or one that was trained for another city.
    """
    card = _read_card(folder)
    kind = _fitting_kind(folder, card, city, expected)
    path = folder / WEIGHTS
    damaged = MaptileError(f"{path}: missing, damaged or not the weights of {CARD}; train again")
    try:
        content = read_regular(path)
        if hashlib.sha256(content).hexdigest() != card["weights"]["sha256"]:
            raise damaged
        model: Any = kind.network(**card["model"])
        model.load_state_dict(tensors_of(content))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged from error
    except safetensors.SafetensorError as error:
        raise damaged from error
    return model.eval(), card


def _read_card(folder: Path) -> dict[str, Any]:
    """The card of the model in ``folder``, whose format and needed keys are checked."""
    if not (folder / CARD).is_file():
        raise MaptileError(f"{folder}: no model there ({CARD} is missing); see maptile train")
    card = read_json(folder / CARD)
    if card.get("format") != FORMAT:
        raise MaptileError(f"{folder / CARD}: not the card of a model")
    check_version(folder, card.get("version"), FORMAT_VERSION, "train again")
    try:
        read = _Card.model_validate(card)
        key = "" if read.view or read.windows else "view"
    except pydantic.ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
    if key:
        raise MaptileError(
            f"{folder / CARD}: damaged, {key!r} is missing or wrong; train again"
        ) from None
    return card


def _fitting_kind(
    folder: Path, card: dict[str, Any], city: City, expected: type[TileModel]
) -> ModelKind[Any]:
    """The kind of the model with this card, checked to be ``expected`` and to fit the city."""
    kind, trained_for = kinds().get(card.get("kind", "mapnet")), card["city"]
    if kind is None:
        raise MaptileError(f"{folder}: of a kind that this maptile-loc does not know; update")
    if not issubclass(kind.network, expected):
        raise MaptileError(f"{folder}: a model for --method {kind.method}, not this one")
    if kind.bound and trained_for["content_hash"] != city.content_hash:
        same_name = trained_for["name"] == city.name
        other = "another state of it" if same_name else f"the city {trained_for['name']!r}"
        raise MaptileError(
            f"{folder}: trained for {other} ({trained_for['content_hash'][:12]}), not for "
            f"{city.name!r} ({city.content_hash[:12]}); train again: maptile train "
            f"{city.folder or 'CITY'}"
        )
    return kind
