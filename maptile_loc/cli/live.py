"""Localize a vehicle live, from the scans that a recorder writes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_prep.counted import counted
from maptile_loc.cli.parts import console, options
from maptile_loc.cli.parts.output import writing
from maptile_loc.cli.parts.progress import progress_bar

if TYPE_CHECKING:
    from maptile_loc.live.localizer import Localizer
    from maptile_loc.types import Fix

COLUMNS = (
    *("t_ns", "latitude", "longitude", "east", "north", "heading_deg"),
    *("std_east", "std_north", "std_heading_deg"),
    *("score", "localized", "protection_m", "reason", "is_query", "gnss"),
)
"""Columns of ``fixes.csv``: as in ``trajectory.csv``, whether the scan made a query, and GNSS."""


@click.command()
@click.argument("city", type=options.PATH)
@click.argument("folder", type=options.PATH)
@click.option("--out", type=options.PATH, help="CSV file to write a row per scan to.")
@options.submap
@options.every
@options.force
@click.option(
    "--idle",
    metavar="S",
    type=click.FloatRange(0, min_open=True),
    help="End after S seconds without a scan.  [default: end with Ctrl-C]",
    show_default=False,
)
@click.option("--gnss", is_flag=True, help="Use gnss.csv, which grows, as a witness that may lie.")
@options.columns
@options.sensor_profile
@options.device
@options.seed
@options.recipe("localize")
@options.overrides
@options.no_cache
def command(
    city: Path,
    folder: Path,
    out: Path | None,
    force: bool,
    submap: float,
    every: float,
    idle: float | None,
    gnss: bool,
    columns: tuple[str, ...] | None,
    **how: Any,
) -> None:
    """Localize a vehicle live on the map of CITY.

    FOLDER is where a recorder writes: clouds/, each cloud named by its time in nanoseconds, and
    optionally odometry.tum and gnss.csv, which grow. Without odometry, the motion is found from the
    scans. The heading is unknown.
    """
    import maptile_loc as ml
    from maptile_loc.arguments import check_order

    check_order(city, folder)
    if out is not None and out.exists() and not (force and out.is_file()):
        raise ml.MaptileError(
            f"{out}: exists already; name another file, or replace it with --force"
        )
    with writing(out) if out is not None else nullcontext():
        how = options.with_cache(how)
        with progress_bar() as progress:
            localizer = ml.Localizer(city, submap_m=submap, every_m=every, progress=progress, **how)
        scans, sure, why = _follow(localizer, folder, out, idle, gnss, columns)
    click.echo(f"{folder}: {sure} of {counted(scans, 'scan')} localized")
    if not sure:
        console.end_with_nothing(f"{why}; see maptile inspect {folder}")


def _follow(
    localizer: Localizer,
    folder: Path,
    out: Path | None,
    idle: float | None,
    gnss: bool,
    columns: tuple[str, ...] | None,
) -> tuple[int, int, str]:
    """Localize the scans that arrive until Ctrl-C, or ``idle`` seconds without one.

    Returns:
        The numbers of all scans and of those localized, and why the last one was not.
    """
    import logging

    from maptile_loc.live.watch import GnssTail, OdometryTail, arriving
    from maptile_loc.report.findings import REASON_TEXT

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    odometry, positions = OdometryTail(folder / "odometry.tum"), GnssTail(folder / "gnss.csv")
    scans, sure, why = 0, 0, "no scan came"
    try:
        if out is not None:
            out.write_text(",".join(COLUMNS) + "\n", encoding="ascii")
        for scan in arriving(folder, idle, columns):
            for t_ns, pose, restart in odometry.new():
                localizer.add_odometry(t_ns, pose, restart)
            for position in positions.new() if gnss else ():
                localizer.add_gnss(*position)
            fix = localizer.add_scan(scan)
            scans += 1
            if fix is None:
                continue
            sure += fix.localized
            why = REASON_TEXT.get(fix.reason, fix.reason)
            if fix.is_query:
                click.echo(in_words(fix))
            if out is not None:
                with out.open("a", encoding="ascii") as file:
                    file.write(row(fix) + "\n")
    except KeyboardInterrupt:
        click.echo("")
    finally:
        localizer.close()
    return scans, sure, why


def in_words(fix: Fix) -> str:
    """A fix as a line of the terminal."""
    head = f"{fix.t_ns / 1e9:.3f} s"
    if fix.latitude != fix.latitude:
        return f"{head}  no position yet: {fix.reason}"
    at = f"{head}  {fix.latitude:.6f}, {fix.longitude:.6f}  heading {fix.heading_deg:.1f} deg"
    note = "  (GNSS is left out)" if fix.gnss == "left_out" else ""
    if fix.localized:
        return f"{at}  localized, within {fix.protection_m:.1f} m{note}"
    return f"{at}  not sure: {fix.reason}{note}"


def row(fix: Fix) -> str:
    """A fix as a row of ``fixes.csv``."""
    import numpy as np

    std = np.sqrt(np.diag(fix.covariance))
    numbers = [
        *(f"{value:.8f}" for value in (fix.latitude, fix.longitude)),
        *(f"{value:.3f}" for value in (*fix.pose[:2], fix.heading_deg)),
        *(f"{value:.3f}" for value in (*std[:2], np.degrees(std[2]))),
        f"{fix.score:.4f}",
        str(fix.localized),
        f"{fix.protection_m:.2f}",
    ]
    blank = ["" if text in ("nan", "inf") else text for text in numbers]
    return ",".join([str(fix.t_ns), *blank, fix.reason, str(fix.is_query), fix.gnss])
