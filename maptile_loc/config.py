"""Recipes: YAML files that are read as typed settings.

A recipe is a file in ``configs/`` (which is part of the wheel) or a file of the user. A recipe in a
folder of ``configs/`` is named with the folder: ``literature/planet``. Each part of the program has
its own settings class, derived from ``data_prep.settings.Settings``.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from data_prep.errors import MaptileError
from data_prep.files import write_text
from data_prep.regular import read_regular_text
from data_prep.settings import Settings

T = TypeVar("T", bound=Settings)


def config_folder() -> Path:
    """Return the folder of the shipped recipes, in an installed package or in a checkout."""
    installed = Path(__file__).parent / "_configs"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


def load_settings(
    kind: type[T], config: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> T:
    """Read the recipe ``config`` as settings of class ``kind``.

    Args:
        kind: The settings class that the recipe must fit.
        config: A name in ``configs/`` (``mapnet``), the path of a YAML file, or the keys and values
            themselves.
        overrides: Strings ``key=value`` or ``key.subkey=value`` that replace values of the recipe,
            or one such string. Values are YAML.

    Raises:
        MaptileError: There is no such recipe, it has a key that the settings do not have (the
            message names the most similar one), or a value of a wrong type or out of range. The
            message begins with the recipe's file, or with the override at fault.
    """
    overrides = (overrides,) if isinstance(overrides, str) else overrides
    if isinstance(config, Mapping):
        source, content = "settings", copy.deepcopy(dict(config))
    else:
        path = find_recipe(config)
        source, content = str(path), _read(path)
    for override in overrides:
        _override(content, override)
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        cause = _override_at(fault["loc"], overrides)
        where = source if cause is None else f"--set {cause} (recipe {source})"
        raise MaptileError(f"{where}: {_explain(kind, fault)}") from None


def save_settings(settings: Settings, path: Path) -> None:
    """Write ``settings`` as a recipe, so that a result can be made again."""
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
        files = (file.relative_to(config_folder()) for file in config_folder().rglob("*.yaml"))
        names = sorted(file.with_suffix("").as_posix() for file in files)
        near = difflib.get_close_matches(str(config), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
        raise MaptileError(f"no recipe named {str(config)!r}; {hint}")
    return shipped


def _read(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file."""
    try:
        content = yaml.safe_load(read_regular_text(path)) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(f"{path}: not readable as YAML: {reason}") from None
    if not isinstance(content, dict):
        raise MaptileError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def _override(content: dict[str, Any], override: str) -> None:
    """Replace one value of a recipe by that of ``key.subkey=value``."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise MaptileError(f"--set {override}: expected key=value, as in --set train.batch_size=64")
    *parents, last = key.split(".")
    for parent in parents:
        inner = content.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise MaptileError(f"--set {override}: {parent!r} is a value, it has no further keys")
        content = inner
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise MaptileError(f"--set {override}: the value is not readable as YAML") from None


def _override_at(location: tuple[int | str, ...], overrides: Sequence[str]) -> str | None:
    """Return the last override that set the value at ``location``, if any."""
    for override in reversed(overrides):
        key = override.partition("=")[0].split(".")
        if [str(part) for part in location[: len(key)]] == key:
            return override
    return None


def _explain(kind: type[Settings], fault: Mapping[str, Any]) -> str:
    """Return pydantic's first error as text, with the most similar key if one is unknown."""
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{where}: {fault['msg']} (got {fault['input']!r})"
    near = difflib.get_close_matches(where, _keys(kind), 1, cutoff=0.3)
    return f"unknown key {where!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _keys(kind: type[Settings], prefix: str = "") -> list[str]:
    """Return all keys of a settings class; a nested ``key`` is followed by its ``key.subkey``."""
    keys = []
    for name, field in kind.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys
