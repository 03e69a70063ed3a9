"""The picture of a drive that ``maptile inspect`` draws."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.drive import Drive, PoseTrack, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array, rotate, se2_from_se3
from maptile_loc.perceive.ground import height_above_ground
from maptile_loc.perceive.plan import QueryPlan, plan_queries
from maptile_loc.perceive.query_tile import QuerySettings, make_tile
from maptile_loc.perceive.submap import Submap, SubmapSettings, build_submap
from maptile_loc.report.inspect.contents import scan_gap_s, start_of
from maptile_loc.report.marks import (
    BLUE,
    DOTS_PER_INCH,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    draw_north,
    draw_scale,
    draw_vehicle,
    halo,
    title,
)
from maptile_loc.report.pictures import INK, SEEN_COLOURS, seen_picture
from maptile_loc.types import Queries, QueryTile

BOTTOM_M, TOP_M = -2.0, 8.0
"""Heights above the ground that are told apart; what is higher has one colour."""

_CLOUD_PIXELS = 512
_LINE_POINTS = 4000
_MARKED_GAPS = 500


@dataclass(frozen=True)
class Look:
    """One moment of a drive.

    Attributes:
        plan: Every scan of the drive as a query.
        centre: The scan of the moment.
        submap_m: Metres of travel put together; 0 is one scan.
        heading: True heading, radians; None where it is not known.
        submap: The cloud; None where there is none.
        tile: The query tile; None where there is none.
        trouble: Why there is none.
    """

    plan: QueryPlan
    centre: int
    submap_m: float
    heading: float | None
    submap: Submap | None = None
    tile: QueryTile | None = None
    trouble: str = ""

    @property
    def rotation(self) -> float:
        """Radians by which the vehicle frame is turned: north up, or else ahead up."""
        return np.pi / 2 if self.heading is None else self.heading


def draw_drive(drive: Drive, submap_m: float, at_s: float | None = None) -> Figure:
    """Draw a drive: a submap, the query tile made of it, the tracks over time, and the path.

    Args:
        drive: Any drive with at least one scan; of its truth only the times are looked at.
        submap_m: Metres of travel in the submap; 0 is one scan.
        at_s: Seconds from the first scan to the tile; by default where half is travelled.
    """
    look = look_at(drive, submap_m, at_s)
    figure = Figure(figsize=(13, 10.6), dpi=DOTS_PER_INCH)
    title(figure, drive.name, _facts(drive))
    above = figure.add_gridspec(1, 2, left=0.025, right=0.985, bottom=0.34, top=0.9, wspace=0.03)
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
    _draw_cloud(figure, figure.add_subplot(above[0]), look, drive)
    _draw_tile(figure.add_subplot(above[1]), look)
    speed = figure.add_subplot(below[0, 0])
    _draw_speed(speed, drive, look)
    _draw_tracks(figure.add_subplot(below[1, 0], sharex=speed), drive, look)
    _draw_path(figure.add_subplot(below[:, 1]), drive, look)
    return figure


def look_at(drive: Drive, submap_m: float, at_s: float | None = None) -> Look:
    """Put together the submap and the query tile of one moment; arguments as ``draw_drive``."""
    drive = drive.without_truth()
    plan = plan_queries(drive, Queries(submap_m=0.0, every_m=0.0))
    t_ns = drive.scans.t_ns
    centre = _scan_at(t_ns, plan, at_s)
    heading = None
    if drive.heading is not None:
        known = float(drive.heading.at(t_ns[centre : centre + 1])[0])
        heading = None if np.isnan(known) else known
    look = Look(plan, centre, submap_m if plan.segment[centre] >= 0 else 0.0, heading)
    with tqdm(total=2, desc="query tile", leave=False, disable=None) as progress:
        try:
            submap = build_submap(
                drive, plan, centre, Queries(submap_m=look.submap_m), SubmapSettings()
            )
        except MaptileError as error:
            return replace(look, trouble=str(error))
        progress.update()
        if not len(submap.points):
            return replace(look, trouble="no usable points here")
        tile = make_tile(submap, look.rotation, QuerySettings())
        progress.update()
    return replace(look, submap=submap, tile=tile)


def _scan_at(t_ns: Times, plan: QueryPlan, at_s: float | None) -> int:
    if at_s is not None:
        return int(np.abs((t_ns - t_ns[0]) / 1e9 - at_s).argmin())
    usable = np.flatnonzero(plan.segment >= 0)
    if not len(usable):
        return len(t_ns) // 2
    travelled = plan.travelled[usable]
    if travelled[-1] == travelled[0]:
        return int(usable[len(usable) // 2])
    return int(usable[np.searchsorted(travelled, (travelled[0] + travelled[-1]) / 2)])


def _facts(drive: Drive) -> list[str]:
    t_ns = drive.scans.t_ns
    facts = [
        drive.format,
        start_of(t_ns),
        f"{len(t_ns):,} scan{'s' if len(t_ns) > 1 else ''} of {', '.join(drive.scans.sensors)}",
        f"{(t_ns[-1] - t_ns[0]) / 1e9:,.1f} s",
    ]
    if drive.odometry is not None:
        facts.append(f"{drive.odometry.travelled()[-1]:,.0f} m")
    return facts


# --- one moment from above -----------------------------------------------------------------------


def _draw_cloud(figure: Figure, axes: Any, look: Look, drive: Drive) -> None:
    half = QuerySettings().size_m / 2
    seconds = (drive.scans.t_ns[look.centre] - drive.scans.t_ns[0]) / 1e9
    what = f"{look.submap_m:g} m of scans" if look.submap_m > 0 else "one scan"
    axes.set_title(f"Cloud from above: {what}, {seconds:.1f} s after the start", loc="left")
    axes.set_facecolor("#11151c")
    if look.submap is not None:
        points = look.submap.points.copy()
        points[:, :2] = rotate(points[:, :2], look.rotation)
        height = height_above_ground(points, np.zeros(2, np.float32), QuerySettings().ground_cell_m)
        image = axes.imshow(
            tops(points[:, :2], height, half),
            extent=(-half, half, -half, half),
            cmap="viridis",
            vmin=BOTTOM_M,
            vmax=TOP_M,
            interpolation="nearest",
        )
        _draw_heights(figure, axes, image)
    _finish(axes, look, half, "white")


def _draw_heights(figure: Figure, axes: Any, image: Any) -> None:
    inset = axes.inset_axes((0.66, 0.03, 0.3, 0.02))
    ticks = [BOTTOM_M, 0.0, TOP_M / 2, TOP_M]
    bar = figure.colorbar(image, cax=inset, orientation="horizontal", ticks=ticks)
    inset.set_xticklabels([*(f"{tick:g}" for tick in ticks[:-1]), f"{TOP_M:g}+"])
    inset.tick_params(length=0, pad=2, labeltop=True, labelbottom=False)
    inset.set_title("metres above the ground", pad=4)
    for text in (inset.title, *inset.get_xticklabels()):
        text.set(fontsize=9, color="white", path_effects=halo("white"))
    bar.outline.set_edgecolor("white")


def tops(xy: NDArray[np.floating], height: NDArray[np.float32], half: float) -> NDArray[np.float32]:
    """(512, 512) height of the highest point in each pixel, NaN without one; row 0 is +y.

    Args:
        xy: (N, 2) metres from the middle.
        height: (N,) metres.
        half: Metres from the middle to the edges.
    """
    step = 2 * half / _CLOUD_PIXELS
    column = np.floor((xy[:, 0] + half) / step).astype(np.int64)
    row = np.floor((half - xy[:, 1]) / step).astype(np.int64)
    inside = (row >= 0) & (row < _CLOUD_PIXELS) & (column >= 0) & (column < _CLOUD_PIXELS)
    top = np.full(_CLOUD_PIXELS**2, -np.inf, np.float32)
    np.maximum.at(top, (row * _CLOUD_PIXELS + column)[inside], height[inside])
    top[np.isinf(top)] = np.nan
    return top.reshape(_CLOUD_PIXELS, _CLOUD_PIXELS)


def _draw_tile(axes: Any, look: Look) -> None:
    side = QuerySettings().size_m
    axes.set_title(f"Query tile, {side:g} x {side:g} m: looked for on the map", loc="left")
    axes.set_facecolor(SEEN_COLOURS["not seen"])
    if look.tile is not None:
        axes.imshow(
            seen_picture(look.tile),
            extent=(-side / 2, side / 2, -side / 2, side / 2),
            interpolation="nearest",
        )
        swatches = [
            Patch(facecolor=colour, edgecolor=GREY, linewidth=0.6, label=label)
            for label, colour in SEEN_COLOURS.items()
        ]
        axes.legend(
            handles=swatches,
            loc="lower right",
            fontsize=9,
            ncols=5,
            framealpha=0.9,
            columnspacing=0.9,
            handlelength=1.3,
            handletextpad=0.5,
        )
    _finish(axes, look, side / 2, INK)


def _finish(axes: Any, look: Look, half: float, colour: str) -> None:
    """What both views of the moment share: the vehicle, the scale and where north is."""
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xticks=[], yticks=[])
    if look.submap is None:
        trouble = textwrap.fill(look.trouble, 60)
        axes.text(0, 0, trouble, ha="center", color=colour, parse_math=False)
        return
    draw_vehicle(axes, look.rotation)
    draw_scale(axes, colour)
    if look.heading is not None:
        draw_north(axes, colour)
    else:
        axes.annotate(
            "up is ahead; north is not known",
            (0, 1),
            (8, -8),
            "axes fraction",
            "offset points",
            va="top",
            color=colour,
            path_effects=halo(colour),
        )


# --- the whole drive -----------------------------------------------------------------------------


def speed_of(drive: Drive, seconds: Array) -> Array:
    """(N,) metres per second, a mean over two seconds, at ``seconds`` from the first scan.

    NaN where the odometry does not say.
    """
    track = drive.odometry
    if track is None:
        return np.full(len(seconds), np.nan)
    start = drive.scans.t_ns[0]
    query = start + np.round(seconds * 1e9).astype(np.int64)
    clock, pieces = (track.t_ns - start) / 1e9, (_pieces(track) - start) / 1e9
    piece = np.searchsorted(pieces[:, 0], seconds, side="right").clip(1) - 1
    begin = np.maximum(seconds - 1.0, pieces[piece, 0])
    end = np.minimum(seconds + 1.0, pieces[piece, 1])
    length = np.interp(end, clock, track.travelled()) - np.interp(begin, clock, track.travelled())
    known = (track.segment_at(query) >= 0) & (end > begin)
    return np.where(known, length / np.where(known, end - begin, 1.0), np.nan)


def _draw_speed(axes: Any, drive: Drive, look: Look) -> None:
    t_ns = drive.scans.t_ns
    lasts = _lasts(t_ns)
    seconds = np.linspace(0, lasts, 1500)
    speed = speed_of(drive, seconds)
    axes.set_title("Speed, and what there is when", loc="left")
    if np.isfinite(speed).any():
        axes.plot(seconds, speed, color=BLUE, linewidth=1.2)
        axes.fill_between(seconds, speed, color=BLUE, alpha=0.15, linewidth=0)
        axes.set_ylim(0, max(1.0, 1.15 * float(np.nanmax(speed))))
    else:
        axes.set_yticks([])
        _say(axes, "the speed is not known")
    axes.set_ylabel("m/s")
    axes.set_xlim(-0.01 * lasts, 1.01 * lasts)
    axes.tick_params(labelbottom=False)
    axes.grid(alpha=0.25)
    clock = (t_ns - t_ns[0]) / 1e9
    gaps = _gaps(t_ns)
    for number, at in enumerate(gaps[:_MARKED_GAPS]):
        axes.axvspan(
            *clock[at : at + 2],
            color=ORANGE,
            alpha=0.25,
            linewidth=0,
            label=f"no scans ({len(gaps)})" if number == 0 else None,
        )
    axes.axvline(clock[look.centre], color=INK, linewidth=1.2, linestyle="--", label="the tile")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, frameon=False)


def _draw_tracks(axes: Any, drive: Drive, look: Look) -> None:
    t_ns = drive.scans.t_ns
    lasts = _lasts(t_ns)
    odometry, heading, truth = drive.odometry, drive.heading, drive.truth
    rows = (
        ("scans", INK, _stretches(t_ns, _gaps(t_ns))),
        ("odometry", BLUE, None if odometry is None else _pieces(odometry)),
        ("heading", GREEN, None if heading is None else _stretches(heading.t_ns)),
        ("truth", PURPLE, None if truth is None else _stretches(truth.t_ns)),
    )
    for row, (_, colour, stretches) in enumerate(rows):
        seconds = np.zeros((0, 2)) if stretches is None else (stretches - t_ns[0]) / 1e9
        seconds = seconds[(seconds[:, 1] >= 0) & (seconds[:, 0] <= lasts)].clip(0, lasts)
        if not len(seconds):
            none = "none" if stretches is None else "none at these times"
            axes.text(lasts / 2, row, none, ha="center", va="center", color=GREY, fontsize=9)
            continue
        begin, end = seconds.T
        bars = np.stack([begin, np.maximum(end - begin, lasts / 300)], axis=1)
        axes.broken_barh(bars.tolist(), (row - 0.32, 0.64), facecolor=colour, linewidth=0)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("seconds after the first scan", labelpad=1)
    axes.axvline((t_ns[look.centre] - t_ns[0]) / 1e9, color=ORANGE, linewidth=1.2, linestyle="--")


def _lasts(t_ns: Times) -> float:
    """Seconds from the first scan to the last; a moment where there is but one."""
    return max(float(t_ns[-1] - t_ns[0]) / 1e9, 1e-3)


def _gaps(t_ns: Times) -> NDArray[np.int64]:
    """Which scans are the last ones before a gap."""
    return np.flatnonzero(np.diff(t_ns) > scan_gap_s(t_ns) * 1e9)


def _stretches(t_ns: Times, breaks: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """(K, 2) first and last times of what lies between ``breaks``: by default two seconds."""
    if breaks is None:
        breaks = np.flatnonzero(np.diff(t_ns) > 2_000_000_000)
    first, last = np.append(0, breaks + 1), np.append(breaks, len(t_ns) - 1)
    return np.stack([t_ns[first], t_ns[last]], axis=1)


def _pieces(track: PoseTrack) -> NDArray[np.int64]:
    """(K, 2) first and last times of the odometry's pieces."""
    return _stretches(track.t_ns, np.flatnonzero(np.diff(track.segment)))


def _draw_path(axes: Any, drive: Drive, look: Look) -> None:
    track, t_ns = drive.odometry, drive.scans.t_ns
    if track is None:
        axes.set(xticks=[], yticks=[])
        _say(axes, "no odometry, so the path is not known")
        return
    here = se2_from_se3(track.at(t_ns[look.centre : look.centre + 1]))[0]

    def places(when: Times) -> NDArray[np.floating]:
        return rotate(track.at(when)[:, :2, 3] - here[:2], look.rotation - here[2])

    for begin, end in _pieces(track):
        inside = track.t_ns[(track.t_ns >= begin) & (track.t_ns <= end)]
        thin = inside[:: len(inside) // _LINE_POINTS + 1]
        axes.plot(*places(np.append(thin, end)).T, color=BLUE, linewidth=1.6)
    breaks = np.flatnonzero(np.diff(track.segment))
    for at in _gaps(t_ns)[:_MARKED_GAPS]:
        span = np.linspace(t_ns[at], t_ns[at + 1], 20).astype(np.int64)
        line = np.where((track.segment_at(span) >= 0)[:, None], places(span), np.nan)
        axes.plot(*line.T, color=ORANGE, linewidth=4, alpha=0.6, solid_capstyle="butt")
    marks = (
        ("o", "white", BLUE, track.t_ns[:1], "start"),
        ("s", BLUE, BLUE, track.t_ns[-1:], "end"),
        ("x", ORANGE, ORANGE, track.t_ns[np.concatenate([breaks, breaks + 1])], "motion unknown"),
    )
    for marker, face, edge, when, label in marks:
        if len(when):
            axes.plot(
                *places(when).T,
                marker,
                markerfacecolor=face,
                markeredgecolor=edge,
                markersize=8,
                markeredgewidth=1.8,
                label=label,
            )
    draw_vehicle(axes, look.rotation, 12)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("Path", loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=9, frameon=False)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("metres from the tile, as the odometry has it", labelpad=1)


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
