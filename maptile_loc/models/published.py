"""Published models: weights as safetensors, and a card that says all that using them needs."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import safetensors
from safetensors.torch import load as tensors_of
from safetensors.torch import save_file

from data_prep.city.folder import City
from data_prep.city.raster import ATTRIBUTION
from data_prep.errors import MaptileError
from data_prep.files import atomic_file, check_version, read_json, write_error, write_json
from maptile_loc.models.base import TileModel
from maptile_loc.models.kinds import KINDS

CARD, WEIGHTS = "model.json", "model.safetensors"
FORMAT, FORMAT_VERSION = "maptile-model", 1


M = TypeVar("M", bound=TileModel)


def publish(folder: Path, model: TileModel, city: City, facts: dict[str, Any]) -> None:
    """Write a model for use: ``model.safetensors`` and, once that is whole, ``model.json``.

    Args:
        folder: Where to.
        model: What was trained.
        city: What it was trained for; the model is bound to its content.
        facts: More for the card (name, view, validation, ...); plain values only.
    """
    weights = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    with atomic_file(folder / WEIGHTS) as path:
        try:
            save_file(weights, path)
        except safetensors.SafetensorError as error:  # how it reports a full disk
            raise write_error(folder / WEIGHTS, OSError(str(error))) from error
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "method": model.method,
        "kind": next(kind for kind, known in KINDS.items() if type(model) is known),
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
    """Read a published model of ``city``, ready for use, and its card.

    Args:
        folder: Where it was published.
        city: What it is to be used for.
        expected: The class that it has to be, or be derived from.

    Raises:
        MaptileError: No model there, damaged, of another format version, of another method, or
            trained for another city.
    """
    if not (folder / CARD).is_file():
        raise MaptileError(f"{folder}: no model there ({CARD} is missing); see maptile train")
    card = read_json(folder / CARD)
    if card.get("format") != FORMAT:
        raise MaptileError(f"{folder / CARD}: not the card of a model")
    check_version(folder, card.get("version"), FORMAT_VERSION, "train again")
    if not {"city", "view", "model"} <= set(card):
        raise MaptileError(f"{folder / CARD}: damaged, keys are missing; train again")
    kind, trained_for = KINDS.get(card.get("kind", "mapnet")), card["city"]
    if kind is None:
        raise MaptileError(f"{folder}: of a kind that this maptile-loc does not know; update")
    if not issubclass(kind, expected):
        raise MaptileError(f"{folder}: a model for --method {kind.method}, not this one")
    if kind.bound and trained_for["content_hash"] != city.content_hash:
        same_name = trained_for["name"] == city.name
        other = "another state of it" if same_name else f"the city {trained_for['name']!r}"
        raise MaptileError(
            f"{folder}: trained for {other} ({trained_for['content_hash'][:12]}), not for "
            f"{city.name!r} ({city.content_hash[:12]}); train again: maptile train "
            f"{city.folder or 'CITY'}"
        )
    path = folder / WEIGHTS
    damaged = MaptileError(f"{path}: missing, damaged or not the weights of {CARD}; train again")
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != card["weights"]["sha256"]:
            raise damaged
        model = kind(**card["model"])
        model.load_state_dict(tensors_of(content))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged from error
    except safetensors.SafetensorError as error:
        raise damaged from error
    return model.eval(), card
