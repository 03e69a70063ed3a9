"""The picture of a drive that ``maptile inspect`` draws."""

from __future__ import annotations

from matplotlib.figure import Figure

from data_prep.drive import Drive
from data_prep.progress import Progress, silent
from maptile_loc.report.inspect.drive_text import start_time
from maptile_loc.report.inspect.drive_views import draw_path, draw_speed, draw_tracks
from maptile_loc.report.inspect.moment import Moment, TileRecipe, view_moment
from maptile_loc.report.inspect.moment_views import draw_cloud, draw_tile
from maptile_loc.report.marks import DOTS_PER_INCH, title


def draw_drive(
    drive: Drive,
    submap_m: float,
    at_s: float | None = None,
    recipe: TileRecipe | None = None,
    progress: Progress = silent,
) -> Figure:
    """Return a figure of a submap, its query tile, the speed and tracks over time, and the path.

    Of a lone scan, only the submap and the tile.

    Args:
        drive: Any drive with at least one scan; of its truth only the times are read.
        submap_m: Metres of travel in the submap; 0 is one scan.
        at_s: Seconds from the first scan to the tile; by default where half of the path is
            travelled.
        recipe: How the submap and the tile are made; defaults if None.
        progress: Called while they are made.
    """
    recipe = TileRecipe() if recipe is None else recipe
    moment = view_moment(drive, submap_m, at_s, recipe, progress)
    alone = len(drive.scans.t_ns) == 1 and drive.odometry is None
    figure = Figure(figsize=(13, 7.6 if alone else 10.6), dpi=DOTS_PER_INCH)
    title(figure, drive.name, _facts(drive))
    bottom, top = (0.04, 0.86) if alone else (0.34, 0.9)
    above = figure.add_gridspec(1, 2, left=0.025, right=0.985, bottom=bottom, top=top, wspace=0.03)
    draw_cloud(figure, figure.add_subplot(above[0]), moment, drive, recipe.query)
    draw_tile(figure.add_subplot(above[1]), moment, recipe.query.size_m)
    if not alone:
        _draw_below(figure, drive, moment)
    return figure


def _draw_below(figure: Figure, drive: Drive, moment: Moment) -> None:
    """Draw the speed and the tracks over time, and the path."""
    below = figure.add_gridspec(
        2,
        2,
        left=0.075,
        right=0.985,
        bottom=0.05,
        top=0.3,
        width_ratios=[1.75, 1],
        height_ratios=[1.5, 1],
        wspace=0.1,
        hspace=0.1,
    )
    speed = figure.add_subplot(below[0, 0])
    draw_speed(speed, drive, moment)
    draw_tracks(figure.add_subplot(below[1, 0], sharex=speed), drive, moment)
    draw_path(figure.add_subplot(below[:, 1]), drive, moment)


def _facts(drive: Drive) -> list[str]:
    """Return the facts below the picture's title."""
    t_ns = drive.scans.t_ns
    facts = [
        drive.format,
        start_time(t_ns),
        f"{len(t_ns):,} scan{'s' if len(t_ns) > 1 else ''} of {', '.join(drive.scans.sensors)}",
    ]
    if len(t_ns) > 1:
        facts.append(f"{(t_ns[-1] - t_ns[0]) / 1e9:,.1f} s")
    if drive.odometry is not None:
        facts.append(f"{drive.odometry.travelled()[-1]:,.0f} m")
    return facts
