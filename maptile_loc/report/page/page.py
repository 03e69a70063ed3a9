"""The report page, put together from its parts.

The map is embedded as PNG and drawn on a canvas by the scripts in ``assets/``, which play the
drive. Coordinates in the page are metres from the centre of the map raster.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from data_prep.counted import counted
from data_prep.standing import MADE_FROM
from maptile_loc.report.findings import clock, find
from maptile_loc.report.metrics import chance
from maptile_loc.report.number_text import UNKNOWN, number, percent
from maptile_loc.report.page.candidate_chart import candidate_chart
from maptile_loc.report.page.map_data import counted_queries, map_data, truth_at_queries
from maptile_loc.report.page.recall_tables import recall_section
from maptile_loc.report.page.tile_cards import tile_section
from maptile_loc.types import Localization

ASSETS = Path(__file__).parent / "assets"
"""Folder of the page's template, style sheets and scripts."""
STYLES = ("report.css", "replay.css")
"""Style sheets of the page, in their order."""
SCRIPTS = ("data.js", "map.js", "charts.js", "replay.js", "controls.js")
"""Scripts of the page, in their order: each uses only those before it while it is loaded."""
SPEEDS = (0.5, 1, 2, 5, 10, 20, 60)
"""Speeds of the replay, as multiples of real time."""
_FOLDERS = re.compile(r"(?<!\S)(?:/|[A-Za-z]:[\\/])(?:[^\s:;,]*[\\/])")
"""The folders of an absolute path in a sentence."""
CARD_RADIUS_M = 5.0
"""Error within which the first card counts queries, metres."""


def render(
    found: Localization,
    metrics: dict[str, Any] | None,
    errors: pd.DataFrame | None,
    reason: str | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        found: The localized drive.
        metrics: The content of ``metrics.json``; None without truth.
        errors: The table of ``errors.csv``; None without truth.
        reason: Why there is no truth.
    """
    truth = None if errors is None else truth_at_queries(errors, found)
    shown = None if reason is None else _FOLDERS.sub("", reason)
    findings = find(found, metrics, errors, shown)
    counts = np.zeros(0, bool) if errors is None else counted_queries(errors, found)
    candidates = candidate_chart(found.candidates_alone, truth, counts)
    parts = {
        "title": html.escape(f"{found.drive_name} on {found.city_name}"),
        "lead": _lead(found),
        "cards": _cards(found, metrics),
        "stages": _stage_buttons(found),
        "layers": _layer_boxes(metrics),
        "findings": "\n".join(
            f'<li class="finding {fact.kind}">{html.escape(fact.text)}</li>' for fact in findings
        ),
        "curve_title": "Uncertainty along the drive" if truth is None else "Error along the drive",
        "curve_caption": _curve_caption(truth is not None),
        "recall": "" if metrics is None else recall_section(found, metrics, candidates),
        "tiles": tile_section(found, truth),
        "settings": _settings(found.record),
        "data": map_data(found, metrics, errors),
        "css": "\n".join(_asset(name) for name in STYLES),
        "js": "\n".join(_asset(name) for name in SCRIPTS),
        **_replay_parts(found, truth is not None),
    }
    template = _asset("report.html")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _replay_parts(found: Localization, has_truth: bool) -> dict[str, str]:
    """Return the parts of the replay that depend on the result."""
    numbers = [("query", "Query"), ("error", "Position error"), ("ellipse", "95 % ellipse")]
    numbers += [("level", "Protection level"), ("score", "Score")]
    numbers += [("heading", "Heading"), ("speed", "Speed")]
    believed = [name for name in found.stages if name in ("fused", "smoothed", found.final)]
    return {
        "speeds": "".join(f'<option value="{speed}">{speed:g}×</option>' for speed in SPEEDS),
        "spark": "error" if has_truth else "ellipse",
        "lanes": "\n".join(
            f'<span>{name}</span><div class="strip" data-stage="{name}" '
            f'data-label="{name}: localized or not, along the drive"><div class="head"></div></div>'
            for name in believed
        ),
        "numbers": "\n".join(
            f'<div><dt>{text}</dt><dd id="now-{name}">{UNKNOWN}</dd></div>'
            for name, text in numbers
            if has_truth or name != "error"
        ),
        "belief": "Error" if has_truth else "Score",
    }


def _lead(found: Localization) -> str:
    """Return the sentence below the title."""
    run = found.record
    heading = run.get("heading")
    if isinstance(heading, dict):
        prior = f"prior of {heading.get('std_deg', 0):g} degrees"
        heading = prior if heading.get("kind") == "prior" else heading.get("kind")
    facts = [counted(len(found.t_ns), "query")]
    if len(found.t_ns):
        facts[0] += f" in {clock((found.t_ns[-1] - found.t_ns[0]) / 1e9)} minutes"
    if "method" in run:
        facts.append(f"method {run['method']}")
    if heading:
        facts.append(f"heading {heading}")
    if "submap_m" in run:
        facts.append(f"submaps of {run['submap_m']:g} m" if run["submap_m"] else "single scans")
    facts.append(f"search area {found.search_area_km2:.3g} km²")
    return html.escape(", ".join(facts) + ".")


def _cards(found: Localization, metrics: dict[str, Any] | None) -> str:
    """Return the large numbers at the top of the page."""
    final = found.trajectory
    localized = final.localized & final.has_pose
    total = len(localized)
    if metrics is None:
        std = np.sqrt(final.covariance[localized][:, [0, 1], [0, 1]].sum(axis=1))
        claimed = float(np.median(std)) if len(std) else None
        cards = [("Claimed standard deviation", number(claimed, "m"), "median, of the position")]
    else:
        cards = _error_cards(found, metrics)
    share = f"{100 * localized.mean():.0f} % of all queries" if total else "no query"
    cards.append(("Localized", f"{localized.sum()} of {total}", share))
    cards.append(("Time per query", number(found.seconds_per_query, "s"), "median"))
    return "\n".join(
        f'<div><dt>{html.escape(name)}</dt><dd class="value">{html.escape(value)}</dd>'
        f'<dd class="beside">{html.escape(beside)}</dd></div>'
        for name, value, beside in cards
    )


def _error_cards(found: Localization, metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and remark of the numbers that need the truth."""
    stage, moved = metrics["stages"][found.final], metrics["bias_removed"][found.final]
    by_chance = f"by chance {100 * chance(CARD_RADIUS_M, found.search_area_km2):.2g} %"
    without_shift = within = ""
    if moved["median_m"] is not None:
        without_shift = f"{number(moved['median_m'], 'm')} without the map's shift"
    if stage["heading_recall_1deg"] is not None:
        within = f"{percent(stage['heading_recall_1deg'])} within 1°"
    return [
        (f"Within {CARD_RADIUS_M:g} m of the truth", percent(stage["recall_5m"]), by_chance),
        ("Median error", number(stage["median_m"], "m"), without_shift),
        ("Median heading error", number(stage["median_heading_deg"], "°"), within),
    ]


def _stage_buttons(found: Localization) -> str:
    return "\n".join(
        f'<label><input type="radio" name="stage" value="{name}"'
        f"{' checked' if name == found.final else ''}><span>{name}</span></label>"
        for name in found.stages
    )


def _layer_boxes(metrics: dict[str, Any] | None) -> str:
    boxes = [("tile", "query tile", True), ("candidates", "candidates", True)]
    boxes += [("beliefs", "every stage's position", False), ("marks", "lost and found", True)]
    boxes += [("path", "path", True), ("unsure", "queries not localized", True)]
    boxes.append(("ellipses", "95 % ellipses", False))
    if metrics is not None:
        boxes[:0] = [("truth", "truth", True)]
        boxes.append(("links", "lines from estimate to truth", False))
        if metrics["map_bias_m"][0] is not None:
            boxes.append(("bias", "remove the map's shift", False))
    return "\n".join(
        f'<label><input type="checkbox" name="layer" value="{name}"'
        f"{' checked' if on else ''}>{text}</label>"
        for name, text, on in boxes
    )


def _curve_caption(has_truth: bool) -> str:
    text = "Shaded and hollow: not localized. Point at a query to find it on the map, "
    text += "click to go there and to that time."
    if has_truth:
        text += " Grey line: long half-axis of the claimed 95 % ellipse. Cross: no pose."
    return text


def _name_of(value: Any) -> str:
    """A value as text; of an absolute path only its name, for a page may be passed on."""
    text = str(value)
    return PurePath(text).name if PurePath(text).is_absolute() else text


def _settings(run: Mapping[str, Any]) -> str:
    """Return the rows of the table that shows what ran."""
    rows = []
    for key, value in run.items():
        if key == MADE_FROM:  # full paths: the rows city and drive name the same
            continue
        if isinstance(value, dict):
            text = ", ".join(f"{name} {_name_of(item)}" for name, item in value.items())
        elif isinstance(value, list):
            text = ", ".join(_name_of(item) for item in value)
        else:
            text = UNKNOWN if value is None else _name_of(value)
        rows.append(
            f'<tr><th scope="row">{html.escape(key.replace("_", " "))}</th>'
            f"<td>{html.escape(text)}</td></tr>"
        )
    return "\n".join(rows)
