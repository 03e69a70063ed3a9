"""The section of the page that shows query tiles beside the map."""

from __future__ import annotations

import numpy as np

from data_prep.geometry import Array
from maptile_loc.report.findings import REASON_TEXT
from maptile_loc.report.number_text import length
from maptile_loc.report.pictures import (
    ERROR_COLOURS,
    INK,
    WALL_CONTRAST,
    map_crop,
    paint,
    png_uri,
    rgb,
    seen_picture,
    tile_on_map,
)
from maptile_loc.types import Localization, QueryTile

MAP_COLOURS = ("#f4f5f7", "#ebe7db", "#dfe3ea", "#aab3c1")
"""Colours of background, paths, roads and buildings."""
WALL_COLOUR = ERROR_COLOURS[4]
"""Colour of observed walls on the map."""
TRUTH_COLOUR = "#005a9c"
"""Colour of the cross at the true position."""


def tile_section(found: Localization, truth: Array | None) -> str:
    """Return the section as HTML; empty if the result keeps no tiles.

    Args:
        found: The localized drive.
        truth: (Q, 3) true east, north, heading; None without truth.
    """
    if not found.tiles:
        return ""
    cards = "\n".join(
        _card(found, truth, query, found.tiles[query]) for query in sorted(found.tiles)
    )
    return (
        '<section aria-labelledby="tiles-title"><h2 id="tiles-title">Query tiles on the map</h2>'
        "<p>Left: the query tile, with walls (dark), road surface (blue), other ground (green), "
        "free space (white) and unobserved space (grey). Right: the same walls (orange) on the map "
        "at the estimated pose; the arrow is the vehicle"
        f"{'' if truth is None else ', the blue cross the true position'}.</p>"
        f'<div class="tiles">\n{cards}\n</div></section>'
    )


def _card(found: Localization, truth: Array | None, query: int, tile: QueryTile) -> str:
    """Return the tile of one query and, if it has a pose, the map there."""
    final = found.trajectory
    pose = final.poses[query]
    beside, caption = "", "no pose"
    if np.isfinite(pose).all():
        error = None
        if truth is not None and np.isfinite(truth[query, :2]).all():
            error = truth[query, :2] - pose[:2]
        beside = _on_map(found, query, tile, error)
        caption = REASON_TEXT.get(str(final.reason[query]), "")
        caption = f"not localized: {caption}" if caption else ""
        if error is not None:
            caption = f"error {length(float(np.hypot(*error)))}" + (f", {caption}" * bool(caption))
        caption = caption or "localized"
    return (
        f'<figure class="tile"><div class="pair">{_seen(query, tile)}{beside}</div><figcaption>'
        f"<span><strong>Query {query}</strong> {caption}, score {final.score[query]:.2f}</span>"
        f'<button type="button" data-query="{query}" aria-label="Show query {query} on the map">'
        "on the map</button></figcaption></figure>"
    )


def _seen(query: int, tile: QueryTile) -> str:
    """Return the query tile as SVG."""
    box, place = _frame(tile)
    return (
        f'<svg {box} aria-label="Tile of query {query}">'
        f'<image href="{png_uri(seen_picture(tile))}" {place}/>'
        f"{_arrow(tile.rotation)}{_scale_bar(tile)}</svg>"
    )


def _on_map(found: Localization, query: int, tile: QueryTile, error: Array | None) -> str:
    """Return the map around a query's estimated pose as SVG, with the walls of its tile.

    The map is north-up. An arrow is the estimate, a cross the true position if it is in view.

    Args:
        found: The localized drive.
        query: Number of the query.
        tile: Its tile.
        error: (2,) metres east, north from the estimate to the truth; None if unknown.
    """
    pose = found.trajectory.poses[query]
    data = map_crop(found.raster, pose[:2, None, None], tile.size, tile.resolution)
    picture = paint(data, *MAP_COLOURS).astype(np.float32)
    evidence = tile_on_map(tile, pose[2])[..., None]
    picture += np.minimum(evidence * WALL_CONTRAST, 1.0) * (rgb(WALL_COLOUR) - picture)
    box, place = _frame(tile)
    cross = ""
    if error is not None and np.abs(error).max() < tile.size * tile.resolution / 2:
        cross = (
            f'<path d="M{error[0] - 4:.2f} {-error[1]:.2f}h8m-4 -4v8" stroke="{TRUTH_COLOUR}" '
            'stroke-width="1.4" fill="none"/>'
        )
    return (
        f'<svg {box} aria-label="Map at query {query} with the observed walls">'
        f'<image href="{png_uri(picture.round().astype(np.uint8))}" {place}/>'
        f"{_arrow(pose[2])}{cross}{_scale_bar(tile)}</svg>"
    )


def _frame(tile: QueryTile) -> tuple[str, str]:
    """Return the attributes of an SVG in metres from the tile's centre, and of its image."""
    half = tile.size * tile.resolution / 2
    return (
        f'viewBox="{-half:g} {-half:g} {2 * half:g} {2 * half:g}" role="img"',
        f'x="{-half:g}" y="{-half:g}" width="{2 * half:g}" height="{2 * half:g}"',
    )


def _arrow(heading: float) -> str:
    """Return the vehicle as an SVG path: an arrow at (0, 0).

    Args:
        heading: Its direction, radians counter-clockwise from x.
    """
    return (
        f'<path d="M5 0L-3.5 3.2L-2 0L-3.5 -3.2Z" fill="{INK}" stroke="#fff" stroke-width=".8"'
        f' transform="rotate({-np.degrees(heading):.1f})"/>'
    )


def _scale_bar(tile: QueryTile) -> str:
    half = tile.size * tile.resolution / 2
    return (
        f'<path d="M{4 - half:g} {half - 4:g}h25" stroke="{INK}" stroke-width="1.2"/>'
        f'<text x="{4 - half:g}" y="{half - 6:g}" font-size="7" fill="{INK}">25 m</text>'
    )
