"""Options that several commands have, and types of their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from data_prep.errors import MaptileError

PATH = click.Path(path_type=Path)
"""A file or folder."""

MINUTES = click.FloatRange(0, min_open=True)
"""A length of time, minutes."""

Decorator = Callable[[Any], Any]


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas.

    Args:
        names: What they are, as ``LAT,LON``; there are as many as names, or any number of
            positive ones where the names end in ``...``.
    """

    name = "numbers"

    def __init__(self, names: str) -> None:
        self.names = names

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the numbers in a text such as "51.7,-1.2,300"; any other text is a usage error."""
        if isinstance(value, tuple):
            return value
        count = self.names.count(",") + 1
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if self.names.endswith("..."):
            if not numbers or not all(0 < number < float("inf") for number in numbers):
                self.fail(f"{value}: expected positive numbers, {self.names}", param, ctx)
        elif len(numbers) != count:
            self.fail(f"{value}: expected {count} numbers, {self.names}", param, ctx)
        return numbers

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names of the numbers."""
        return self.names


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, *_: Any) -> tuple[str, ...]:
        """Return the names in a text such as "/points,/odom"."""
        return (
            value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))
        )


class Heading(click.ParamType):  # type: ignore[type-arg]
    """``known``, ``unknown`` or ``prior:DEG``."""

    name = "heading"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the ``HeadingKnowledge`` that a text names; any other text is a usage error."""
        from maptile_loc.types import HeadingKnowledge

        try:
            return HeadingKnowledge.parse(value)
        except MaptileError as error:
            self.fail(str(error), param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The possible values."""
        return "known|prior:DEG|unknown"


overrides = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override one key of the recipe; repeatable.",
)

no_cache = click.option(
    "--no-cache",
    is_flag=True,
    help="Do not keep what is computed of the map in CITY/cache for the next run.",
)

sensor_profile = click.option(
    "--sensor-profile",
    type=PATH,
    show_default="the detector of the package",
    help="Folder of a wall detector adapted to the sensor (maptile adapt --walls).",
)

force = click.option("--force", is_flag=True, help="Replace whatever stands at the output's name.")

device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where to compute; auto: on a GPU if there is one.",
)

cluster = click.option(
    "--cluster",
    metavar="local:N|ADDRESS",
    show_default="in this process",
    help="Share the work among N processes, or among the workers of a Dask scheduler.",
)

seed = click.option("--seed", type=click.IntRange(0), default=0, help="Seed of all random numbers.")

submap = click.option(
    "--submap",
    metavar="M",
    type=click.FloatRange(0),
    default=50.0,
    help="Metres of travel per query; 0: one scan.",
)

every = click.option(
    "--every",
    metavar="M",
    type=click.FloatRange(0),
    default=20.0,
    help="Metres of travel between queries; 0: every scan.",
)

columns = click.option(
    "--columns",
    metavar="x,y,z,...",
    type=Names(),
    show_default="by their contents",
    help="Columns of .bin clouds, such as x,y,z,intensity,ring,time; _: of no use.",
)


def with_cache(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a command, with ``--no-cache`` as an override of the recipe."""
    rest = {name: value for name, value in options.items() if name != "no_cache"}
    if options["no_cache"]:
        rest["overrides"] = (*rest["overrides"], "search.cache_gb=0")
    return rest


def recipe(default: str) -> Decorator:
    """The option that names a recipe."""
    return click.option(
        "--config",
        metavar="NAME",
        default=default,
        help="Recipe: a name in configs/, or a YAML file.",
    )


def drive(command: Any) -> Any:
    """The options that state what a drive is, where its files do not show it."""
    from data_prep.sources import SOURCES

    for option in (
        columns,
        click.option(
            "--sensors",
            "--topics",
            metavar="NAME,...",
            type=Names(),
            show_default="the format's",
            help="Sensors to use; of a bag, its topics.",
        ),
        click.option(
            "--format",
            type=click.Choice(["auto", *SOURCES.names()]),
            default="auto",
            help="Format of the drive; auto: recognised by its files.",
        ),
    ):
        command = option(command)
    return command
