"""Compare a localized drive with its truth."""

from __future__ import annotations

from pathlib import Path

import click

from maptile_loc.cli.parts import console, options


@click.command()
@click.argument("out", type=options.PATH)
@click.option(
    "--radii", type=options.Numbers("M,..."), default=(), help="More errors to give recall for."
)
def command(out: Path, radii: tuple[float, ...]) -> None:
    """Compare the result in OUT with the drive's truth, and write OUT/metrics.json."""
    from maptile_loc.report.files import evaluate_run

    click.echo(str(evaluate_run(out, radii)))
    console.say_next("report", out)
