"""Recipes: YAML files validated into typed settings.

A recipe is a file in ``configs/`` (which travels in the wheel) or one of the user's own. Every room
owns its settings, a subclass of ``data_prep.settings.Settings``; this module only reads the YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from data_prep.errors import MaptileError
from data_prep.files import write_text
from data_prep.settings import Settings

T = TypeVar("T", bound=Settings)


def config_folder() -> Path:
    """The folder of the shipped recipes, in an installed package or in a checkout."""
    installed = Path(__file__).parent / "_configs"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


def load_settings(kind: type[T], config: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read the recipe ``config`` as settings of ``kind``.

    Args:
        kind: The settings class that the recipe must fit.
        config: A name in ``configs/`` (``mapnet``) or the path of a YAML file.
        overrides: ``key.subkey=value`` strings; values are YAML.

    Raises:
        MaptileError: No such recipe; a key that the settings do not know (the nearest right one
            is named); a value of the wrong type or out of range.
    """
    path = find_recipe(config)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(f"{path}: not readable as YAML: {reason}") from None
    if not isinstance(content, dict):
        raise MaptileError(f"{path}: expected keys and values, found {type(content).__name__}")
    for override in overrides:
        _override(content, override)
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        raise MaptileError(f"{path}: {_explain(kind, error)}") from None


def save_settings(settings: Settings, path: Path) -> None:
    """Write what ran beside its results, as a recipe that can be used again."""
    write_text(path, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def find_recipe(config: str | Path) -> Path:
    """The file of a recipe.

    Args:
        config: A name in ``configs/``, or the path of a YAML file.

    Raises:
        MaptileError: There is no such recipe.
    """
    path = Path(config)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise MaptileError(f"{path}: no such recipe file")
        return path
    shipped = config_folder() / f"{config}.yaml"
    if not shipped.is_file():
        names = sorted(file.stem for file in config_folder().glob("*.yaml"))
        near = difflib.get_close_matches(str(config), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
        raise MaptileError(f"no recipe named {str(config)!r}; {hint}")
    return shipped


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise MaptileError(f"--set {override}: expected key=value, as in --set train.batch_size=64")
    *parents, last = key.split(".")
    for parent in parents:
        inner = content.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise MaptileError(f"--set {override}: {parent!r} holds a value, not further keys")
        content = inner
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise MaptileError(f"--set {override}: the value is not readable as YAML") from None


def _explain(kind: type[Settings], error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{where}: {first['msg']} (got {first['input']!r})"
    known = _keys(kind)
    near = difflib.get_close_matches(where, known, 1, cutoff=0.3)
    return f"unknown key {where!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _keys(kind: type[Settings], prefix: str = "") -> list[str]:
    keys = []
    for name, field in kind.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys
