"""Compare a localized drive with its truth."""

from __future__ import annotations

from pathlib import Path

import click

from maptile_loc.cli.parts import console, options


@click.command()
@click.argument("out", type=options.PATH)
def command(out: Path) -> None:
    """Compare the result in OUT with the drive's truth, and write OUT/metrics.json."""
    from maptile_loc.report.files import evaluate_run

    click.echo(str(evaluate_run(out)))
    console.say_next("report", out)
