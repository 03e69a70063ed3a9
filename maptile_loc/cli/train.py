"""Train a model of a city on tiles rendered from its map alone."""

from __future__ import annotations

import os
from pathlib import Path

import click

from maptile_loc.cli.parts import console, options
from maptile_loc.cli.parts.progress import progress_bar


@click.command()
@click.argument("city", type=options.PATH)
@click.argument("others", type=options.PATH, nargs=-1)
@click.option("--minutes", metavar="N", type=options.MINUTES, help="Stop after N minutes.")
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(1),
    default=1,
    help="Processes that share each batch, on the CPU.",
)
@options.device
@options.force
@options.recipe("mapnet")
@options.overrides
def command(
    city: Path,
    others: tuple[Path, ...],
    minutes: float | None,
    processes: int,
    device: str,
    force: bool,
    config: str,
    overrides: tuple[str, ...],
) -> None:
    """Train a model of CITY on tiles rendered from its map alone.

    OTHERS are more cities, for models that are bound to none (--config retrieval). An interrupted
    training is resumed by the same command.
    """
    if processes > 1:
        # Torch would warn that the loss has no unused weights, which it has later.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import maptile_loc as ml
    from data_prep.files import read_json
    from maptile_loc.models.parts.published import CARD

    with progress_bar() as progress:
        folder = ml.train(
            city,
            config=config,
            overrides=overrides,
            minutes=minutes,
            others=others,
            processes=processes,
            device=device,
            force=force,
            progress=progress,
        )
    console.say_recipe(config)
    click.echo(f"{folder}: trained")
    use = ("--method", read_json(folder / CARD)["method"], "--model", folder)
    console.say_next("localize", city, "DRIVE", *use, "--out", "OUT")
