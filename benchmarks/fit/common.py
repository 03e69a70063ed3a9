"""What both fits share: command-line options, trials of recipe keys, and tables.

The scripts of this folder find the modules of ``benchmarks/`` through this one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

sys.path.append(str(Path(__file__).parents[1]))

from kept_tiles import KeptTiles, tile_folder
from stamp import head, row, stamp

from data_prep.errors import MaptileError
from maptile_loc.recipe import LocalizeSettings, load_recipe

__all__ = [
    "ROOT",
    "KeptTiles",
    "Trial",
    "head",
    "make_parser",
    "make_trials",
    "read_trials",
    "row",
    "stamp",
    "tile_folder",
]

ROOT = Path(__file__).parents[2]
"""Root of the repository."""


class Trial(NamedTuple):
    """One value of one recipe key.

    Attributes:
        key: The key, as in ``evidence.path_m``; "" for the recipe as it is.
        value: The value, as text.
        settings: The recipe with this value.
    """

    key: str
    value: str
    settings: LocalizeSettings


def make_parser(description: str, work: str, metres: float) -> argparse.ArgumentParser:
    """The parser with the options that both fits have.

    Args:
        description: Help text of the script.
        work: Name of the default work folder in ``runs/``.
        metres: Default length of the simulated routes, metres.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = ROOT.parent / "shared" / "data"
    parser.add_argument("data", type=Path, nargs="?", default=data, help="folder of real data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / work, metavar="FOLDER")
    parser.add_argument("--metres", type=float, default=metres, metavar="M", help="of each route")
    parser.add_argument(
        *("--try", "-t"),
        dest="trials",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help="score the recipe with each of these values instead of fitting; repeatable",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe first"
    )
    return parser


def read_trials(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[Trial]:
    """The trials that ``--try`` and ``--set`` ask for; ends with a message if a key is wrong."""
    try:
        return make_trials(given.trials, given.set)
    except MaptileError as error:
        parser.error(str(error))


def make_trials(asked: Sequence[str], overrides: Sequence[str] = ()) -> list[Trial]:
    """The recipe as it is, then with each value of each key; one key is changed at a time.

    Args:
        asked: ``KEY=V1,V2`` strings; a value is YAML, so that a list is ``[1, 2, 3]``.
        overrides: ``KEY=VALUE`` strings that change the recipe in all trials.

    Raises:
        MaptileError: No such key, or a value that does not fit.
    """
    trials = [Trial("", "", load_recipe(overrides=overrides))]
    for text in asked:
        key, _, values = text.partition("=")
        try:
            parsed = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            parsed = []
        if not key or not parsed:
            raise MaptileError(f"--try {text}: expected KEY=V1,V2, as in evidence.path_m=40,60")
        for value in map(json.dumps, parsed):
            settings = load_recipe(overrides=[*overrides, f"{key}={value}"])
            trials.append(Trial(key, value, settings))
    return trials
