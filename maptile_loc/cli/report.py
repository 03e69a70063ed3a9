"""Draw a localized drive as one page that needs no network."""

from __future__ import annotations

from pathlib import Path

import click

from maptile_loc.cli.parts import options


@click.command()
@click.argument("out", type=options.PATH)
def command(out: Path) -> None:
    """Draw the result in OUT as one page, OUT/report.html, that needs no network."""
    from maptile_loc.report.page.html_report import write_report

    click.echo(f"{write_report(out)}: open it in a browser")
