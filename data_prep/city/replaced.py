"""The city that stands in a folder before another one replaces it."""

from __future__ import annotations

from pathlib import Path

from data_prep.files import ensure_replaceable, finish_swap
from data_prep.osm.source import OsmSource
from data_prep.standing import Keep, Origin, Product, check_standing, kind_of, known_as

MODELS = "models"
"""Folder of a city's models."""


def origin_of(source: OsmSource) -> Origin:
    """What a city is made from: a file, or an area; its date is a setting."""
    if source.path is not None:
        return {"source": known_as(source.path)}
    area = source.place or source.bbox or (source.point, source.radius_m)
    return {"source": [str(area)]}


def check_city_folder(folder: Path, source: OsmSource, keep: Keep, force: bool) -> Keep:
    """Check that a city may be written to ``folder``; returns which entries of it stay.

    Raises:
        MaptileError: As ``check_standing`` and ``ensure_replaceable``.
    """
    finish_swap(folder)
    kept = check_standing(folder, Product("city.json", origin_of(source), keep), force)
    ensure_replaceable(folder)
    return kept


def models_left(folder: Path, content_hash: str) -> tuple[str, ...]:
    """A note on the models of the city in ``folder`` if its content is about to change.

    Args:
        folder: The city's folder, which need not exist.
        content_hash: Hash of the new content.
    """
    found = kind_of(folder) if folder.is_dir() else None
    home = folder / MODELS
    if found is None or found[1].get("content_hash") == content_hash or not home.is_dir():
        return ()
    names = sorted(entry.name for entry in home.iterdir() if (entry / "model.json").is_file())
    if not names:
        return ()
    text = f"the map changed; models of the one before are kept in {home}: {', '.join(names)}; "
    return (f"{text}train those again that are bound to it",)
