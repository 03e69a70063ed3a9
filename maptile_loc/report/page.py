"""The report page: one HTML file that asks the network for nothing.

The map is in it as a PNG, drawn and moved about on a canvas by ``assets/report.js``. Coordinates in
it are metres from the middle of the map raster.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.geometry import Array
from maptile_loc.report.findings import clock, find
from maptile_loc.report.metrics import RECALL_DEG, RECALL_M, chance
from maptile_loc.report.pictures import (
    ERROR_COLOURS,
    INK,
    ellipses,
    map_crop,
    map_view,
    paint,
    png_uri,
    rgb,
    seen_picture,
    tile_on_map,
)
from maptile_loc.types import Localization, QueryTile

ASSETS = Path(__file__).parent / "assets"
MAP_MARGIN_M = 300.0
"""Map kept around the drive where the city is much larger."""


def render(
    result: Localization,
    metrics: dict[str, Any] | None,
    errors: pd.DataFrame | None,
    reason: str | None = None,
) -> str:
    """The page as HTML.

    Args:
        result: The localized drive.
        metrics: ``metrics.json``; None without truth.
        errors: ``errors.csv``; None without truth.
        reason: Why there is no truth.
    """
    truth = None if errors is None else truth_at_queries(errors, result)
    findings = find(result, metrics, errors, reason)
    parts = {
        "title": html.escape(f"{result.drive_name} on {result.city_name}"),
        "lead": _lead(result),
        "cards": _cards(result, metrics),
        "stages": _stage_buttons(result),
        "layers": _layer_boxes(metrics),
        "findings": "\n".join(
            f'<li class="finding {found.kind}">{html.escape(found.text)}</li>' for found in findings
        ),
        "curve_title": "How sure it is along the drive"
        if truth is None
        else "Error along the drive",
        "curve_caption": _curve_caption(truth is not None),
        "recall": "" if metrics is None else _recall(result, metrics),
        "tiles": _tiles(result, truth),
        "settings": _settings(result.record),
        "data": _data(result, metrics, errors),
        "css": (ASSETS / "report.css").read_text(encoding="utf-8"),
        "js": (ASSETS / "report.js").read_text(encoding="utf-8"),
    }
    template = (ASSETS / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def truth_at_queries(errors: pd.DataFrame, result: Localization) -> Array:
    """(Q, 3) east, north, heading (radians); NaN unknown."""
    rows = errors[errors["stage"] == result.final]
    columns = ["truth_east", "truth_north", "truth_heading_deg"]
    return rows[columns].to_numpy(np.float64) * [1, 1, np.pi / 180]


def places_shown(result: Localization, truth: Array | None) -> Array:
    """(N, 2) all places that the map has to show."""
    final = result.stages[result.final]
    places = [final.poses[final.localized, :2]]
    if truth is not None:
        places.append(truth[:, :2])
    stacked = np.concatenate(places)
    return stacked[np.isfinite(stacked).all(axis=1)]


def _data(
    result: Localization,
    metrics: dict[str, Any] | None,
    errors: pd.DataFrame | None,
) -> str:
    """Everything that the page's script draws, as JSON that is safe inside a script element."""
    raster, run = result.raster, result.record
    truth = None if errors is None else truth_at_queries(errors, result)
    counted = None if errors is None else errors["counted"][errors["stage"] == result.final]
    view = map_view(raster, places_shown(result, truth), MAP_MARGIN_M)
    east, north = raster.centre
    stages = {}
    for name, stage in result.stages.items():
        has_pose = np.isfinite(stage.poses[:, 0])
        axes = ellipses(stage.covariance)
        stages[name] = {
            "x": _list(stage.poses[:, 0] - east, 3),
            "y": _list(stage.poses[:, 1] - north, 3),
            "h": _list(np.degrees(stage.poses[:, 2]), 3),
            "ellipse": [None if np.isnan(row[0]) else row for row in axes.round(3).tolist()],
            "score": _list(stage.score, 3),
            "ok": [int(ok) for ok in stage.localized & has_pose],
        }
    known = None
    if truth is not None:
        known = {
            "x": _list(truth[:, 0] - east, 3),
            "y": _list(truth[:, 1] - north, 3),
            "h": _list(np.degrees(truth[:, 2]), 3),
        }
    bias = None if metrics is None else metrics["map_bias_m"]
    content = {
        "map": {
            "src": png_uri(np.moveaxis(view.data, 0, -1)),
            "west": view.west - east,
            "south": view.south - north,
            "east": view.east - east,
            "north": view.north - north,
        },
        "extent": [
            raster.west - east,
            raster.south - north,
            raster.east - east,
            raster.north - north,
        ],
        "final": result.final,
        "stages": stages,
        "truth": known,
        "counted": [] if counted is None else counted.astype(int).tolist(),
        "bias": None if bias is None or bias[0] is None else bias,
        "frame": result.frame.tolist(),
        "t": ((result.t_ns - result.t_ns[:1]) / 1e9).round(2).tolist(),
        "every_m": run.get("every_m") or 0,
        "area_km2": result.search_area_km2,
    }
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _list(values: Array, digits: int) -> list[float | None]:
    return [None if value != value else value for value in values.round(digits).tolist()]


def _lead(result: Localization) -> str:
    run = result.record
    heading = run.get("heading")
    if isinstance(heading, dict):
        prior = f"prior of {heading.get('std_deg', 0):g} degrees"
        heading = prior if heading.get("kind") == "prior" else heading.get("kind")
    facts = [f"{len(result.t_ns)} queries"]
    if len(result.t_ns):
        facts[0] += f" in {clock((result.t_ns[-1] - result.t_ns[0]) / 1e9)} minutes"
    if "method" in run:
        facts.append(f"method {run['method']}")
    if heading:
        facts.append(f"heading {heading}")
    if "submap_m" in run:
        facts.append(f"submaps of {run['submap_m']:g} m" if run["submap_m"] else "single scans")
    facts.append(f"searched in {result.search_area_km2:.3g} km²")
    return html.escape(", ".join(facts) + ".")


def _cards(result: Localization, metrics: dict[str, Any] | None) -> str:
    final = result.stages[result.final]
    localized = final.localized & np.isfinite(final.poses[:, 0])
    total = len(localized)
    cards = []
    if metrics is not None:
        figures, fair = metrics["stages"][result.final], metrics["bias_removed"][result.final]
        by_chance = f"by chance {100 * chance(5.0, result.search_area_km2):.2g} %"
        cards += [
            ("Within 5 m of the truth", percent(figures["recall_5m"]), by_chance),
            (
                "Median error",
                number(figures["median_m"], "m"),
                ""
                if fair["median_m"] is None
                else f"{number(fair['median_m'], 'm')} with the map's shift taken out",
            ),
            (
                "Median heading error",
                number(figures["median_heading_deg"], "°"),
                ""
                if figures["heading_recall_1deg"] is None
                else f"{percent(figures['heading_recall_1deg'])} within 1°",
            ),
        ]
    else:
        std = np.sqrt(final.covariance[localized][:, [0, 1], [0, 1]].sum(axis=1))
        claimed = float(np.median(std)) if len(std) else None
        cards.append(("Claimed standard deviation", number(claimed, "m"), "median, in the plane"))
    share = f"{100 * localized.mean():.0f} % of all queries" if total else "no query"
    cards.append(("Localized", f"{localized.sum()} of {total}", share))
    cards.append(("Time per query", number(result.seconds_per_query, "s"), "median"))
    return "\n".join(
        f'<div><dt>{html.escape(name)}</dt><dd class="value">{html.escape(value)}</dd>'
        f'<dd class="beside">{html.escape(beside)}</dd></div>'
        for name, value, beside in cards
    )


def _stage_buttons(result: Localization) -> str:
    return "\n".join(
        f'<label><input type="radio" name="stage" value="{name}"'
        f"{' checked' if name == result.final else ''}><span>{name}</span></label>"
        for name in result.stages
    )


def _layer_boxes(metrics: dict[str, Any] | None) -> str:
    boxes = [("path", "path", True), ("unsure", "queries it is not sure of", True)]
    boxes.append(("ellipses", "95 % ellipses", False))
    if metrics is not None:
        boxes[:0] = [("truth", "truth", True)]
        boxes.append(("links", "lines from estimate to truth", False))
        if metrics["map_bias_m"][0] is not None:
            boxes.append(("bias", "take the map's shift out", False))
    return "\n".join(
        f'<label><input type="checkbox" name="layer" value="{name}"'
        f"{' checked' if on else ''}>{text}</label>"
        for name, text, on in boxes
    )


def _curve_caption(has_truth: bool) -> str:
    text = "Shaded and hollow: not localized. Point at a query to find it on the map, "
    text += "click to go there."
    if has_truth:
        text += " Grey line: the long half-axis of the 95 % ellipse that it claims. Cross: no pose."
    return text


def _recall(result: Localization, metrics: dict[str, Any]) -> str:
    position = [*(f"≤ {r} m" for r in RECALL_M), "median", "mean", "95 % ≤"]
    heading = [*(f"≤ {a}°" for a in RECALL_DEG), "median"]
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(names)}"><span>{title}</span></th>'
        for title, names in (("position error", position), ("heading error", heading))
    )
    names = ["Stage", "queries", "localized", *position, *heading]
    columns = "".join(f'<th scope="col">{name}</th>' for name in names)
    head = f'<thead><tr><td colspan="3"></td>{groups}</tr><tr>{columns}</tr></thead>'
    tables = []
    for key, caption in (
        ("stages", "Against the truth as it is. Every query counts, localized or not."),
        ("bias_removed", f"With the map's constant shift taken out{_shift_text(metrics)}."),
    ):
        rows = [_recall_row(result, name, row) for name, row in metrics[key].items()]
        chances = (f"{100 * chance(r, metrics['search_area_km2']):.2g} %" for r in RECALL_M)
        rows.append(_row("chance", ["", "", *chances, *[""] * 6], "chance"))
        tables.append(
            f'<div class="scroll"><table><caption>{caption}</caption>{head}'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    return (
        '<section aria-labelledby="recall-title"><h2 id="recall-title">Recall</h2>'
        '<div class="two"><figure class="chart"><div id="chart-recall"></div>'
        '<figcaption><ul class="legend" id="recall-legend"></ul></figcaption></figure>'
        f"{''.join(tables)}</div></section>"
    )


def _shift_text(metrics: dict[str, Any]) -> str:
    east, north = metrics["map_bias_m"]
    return " (unknown here)" if east is None else f" ({east:+.2f} m east, {north:+.2f} m north)"


def _recall_row(result: Localization, name: str, figures: dict[str, Any]) -> str:
    cells = [str(figures["frames"]), str(figures["localized"])]
    cells += [percent(figures[f"recall_{r}m"]) for r in RECALL_M]
    cells += [number(figures[key], "m") for key in ("median_m", "mean_m", "p95_m")]
    cells += [percent(figures[f"heading_recall_{a}deg"]) for a in RECALL_DEG]
    cells.append(number(figures["median_heading_deg"], "°"))
    return _row(name, cells, "final" if name == result.final else "")


def _row(name: str, cells: Iterable[str], kind: str) -> str:
    inner = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{html.escape(name)}</th>{inner}</tr>'


def _tiles(result: Localization, truth: Array | None) -> str:
    if not result.tiles:
        return ""
    cards = "\n".join(
        _tile_card(result, truth, query, result.tiles[query]) for query in sorted(result.tiles)
    )
    return (
        '<section aria-labelledby="tiles-title"><h2 id="tiles-title">What the vehicle saw, and '
        "where it was put on the map</h2><p>Left: walls (dark), ground in sight (green), seen "
        "to be free (white), not seen (grey). Right: the same walls (orange) on the map at the "
        "estimated pose; the arrow is the vehicle"
        f"{'' if truth is None else ', the blue cross the truth'}.</p>"
        f'<div class="tiles">\n{cards}\n</div></section>'
    )


def _tile_card(result: Localization, truth: Array | None, query: int, tile: QueryTile) -> str:
    final = result.stages[result.final]
    pose = final.poses[query]
    localized = bool(final.localized[query])
    half = tile.size * tile.resolution / 2
    box = f'viewBox="{-half:g} {-half:g} {2 * half:g} {2 * half:g}" role="img"'
    place = f'x="{-half:g}" y="{-half:g}" width="{2 * half:g}" height="{2 * half:g}"'
    arrow = f'<path d="M5 0L-3.5 3.2L-2 0L-3.5 -3.2Z" fill="{INK}" stroke="#fff" stroke-width=".8"'
    bar = (
        f'<path d="M{4 - half:g} {half - 4:g}h25" stroke="{INK}" stroke-width="1.2"/>'
        f'<text x="{4 - half:g}" y="{half - 6:g}" font-size="7" fill="{INK}">25 m</text>'
    )
    seen = (
        f'<svg {box} aria-label="What was seen at query {query}">'
        f'<image href="{png_uri(seen_picture(tile))}" {place}/>'
        f'{arrow} transform="rotate({-np.degrees(tile.rotation):.1f})"/>{bar}</svg>'
    )
    beside = ""
    caption = "no pose"
    if np.isfinite(pose).all():
        data = map_crop(result.raster, pose[:2, None, None], tile.size, tile.resolution)
        picture = paint(data, "#f4f5f7", "#ebe7db", "#dfe3ea", "#aab3c1").astype(np.float32)
        evidence = tile_on_map(tile, pose[2])[..., None]
        picture += np.minimum(evidence * 1.5, 1.0) * (rgb(ERROR_COLOURS[4]) - picture)
        cross = ""
        caption = "localized" if localized else "not sure"
        if truth is not None and np.isfinite(truth[query, :2]).all():
            east, north = truth[query, :2] - pose[:2]
            off = float(np.hypot(east, north))
            caption = f"{_length(off)} off" + ("" if localized else ", not sure")
            if max(abs(east), abs(north)) < half:
                cross = (
                    f'<path d="M{east - 4:.2f} {-north:.2f}h8m-4 -4v8" stroke="#005a9c" '
                    'stroke-width="1.4" fill="none"/>'
                )
        beside = (
            f'<svg {box} aria-label="The map at query {query} with the walls seen">'
            f'<image href="{png_uri(picture.round().astype(np.uint8))}" {place}/>'
            f'{arrow} transform="rotate({-np.degrees(pose[2]):.1f})"/>{cross}{bar}</svg>'
        )
    return (
        f'<figure class="tile"><div class="pair">{seen}{beside}</div><figcaption><span>'
        f"<strong>Query {query}</strong> {caption}, score {final.score[query]:.2f}</span>"
        f'<button type="button" data-query="{query}" aria-label="Show query {query} on the map">'
        "on the map</button></figcaption></figure>"
    )


def _settings(run: Mapping[str, Any]) -> str:
    rows = []
    for key, value in run.items():
        if isinstance(value, dict):
            text = ", ".join(f"{name} {item}" for name, item in value.items())
        elif isinstance(value, list):
            text = ", ".join(str(item) for item in value)
        else:
            text = "–" if value is None else str(value)
        rows.append(
            f'<tr><th scope="row">{html.escape(key.replace("_", " "))}</th>'
            f"<td>{html.escape(text)}</td></tr>"
        )
    return "\n".join(rows)


def percent(value: float | None) -> str:
    """A share for people; a dash where it is unknown."""
    return "–" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, unit: str) -> str:
    """A figure with its unit for people; a dash where it is unknown."""
    return "–" if value is None else f"{value:.2f}{'' if unit == '°' else ' '}{unit}"


def _length(metres: float) -> str:
    return f"{metres:.1f} m" if metres < 1000 else f"{metres / 1000:.1f} km"
