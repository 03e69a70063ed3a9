"""The section of the page that shows recall: charts and tables."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from maptile_loc.report.metrics import RECALL_DEG, RECALL_M, chance
from maptile_loc.report.number_text import number, percent
from maptile_loc.types import Localization


def recall_section(found: Localization, metrics: dict[str, Any], candidates: str) -> str:
    """Return the section as HTML; the script draws the chart of errors.

    Args:
        found: The localized drive.
        metrics: The content of ``metrics.json``.
        candidates: The chart of the candidates.
    """
    captions = (
        ("stages", "Against the truth as it is. Every query counts, localized or not."),
        ("bias_removed", f"Without the map's constant shift{_shift_text(metrics)}."),
    )
    tables = [_table(found, metrics, key, caption) for key, caption in captions]
    return (
        '<section aria-labelledby="recall-title"><h2 id="recall-title">Recall</h2>'
        '<div class="two"><figure class="chart"><div id="chart-recall"></div>'
        '<figcaption><ul class="legend" id="recall-legend"></ul></figcaption></figure>'
        f"{''.join(tables)}{candidates}</div></section>"
    )


def _table(found: Localization, metrics: dict[str, Any], key: str, caption: str) -> str:
    """Return one table: a row per stage, and the recall by chance."""
    position = [*(f"≤ {r} m" for r in RECALL_M), "median", "mean", "95 % ≤"]
    heading = [*(f"≤ {a}°" for a in RECALL_DEG), "median"]
    groups = "".join(
        f'<th scope="colgroup" colspan="{len(names)}"><span>{title}</span></th>'
        for title, names in (("position error", position), ("heading error", heading))
    )
    names = ["Stage", "queries", "localized", *position, *heading]
    columns = "".join(f'<th scope="col">{name}</th>' for name in names)
    head = f'<thead><tr><td colspan="3"></td>{groups}</tr><tr>{columns}</tr></thead>'
    rows = [_stage_row(found, name, stage) for name, stage in metrics[key].items()]
    chances = (f"{100 * chance(r, metrics['search_area_km2']):.2g} %" for r in RECALL_M)
    rows.append(_row("chance", ["", "", *chances, *[""] * 6], "chance"))
    return (
        f'<div class="scroll"><table><caption>{caption}</caption>{head}'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _shift_text(metrics: dict[str, Any]) -> str:
    east, north = metrics["map_bias_m"]
    return " (unknown here)" if east is None else f" ({east:+.2f} m east, {north:+.2f} m north)"


def _stage_row(found: Localization, name: str, stage: dict[str, Any]) -> str:
    cells = [str(stage["frames"]), str(stage["localized"])]
    cells += [percent(stage[f"recall_{r}m"]) for r in RECALL_M]
    cells += [number(stage[key], "m") for key in ("median_m", "mean_m", "p95_m")]
    cells += [percent(stage[f"heading_recall_{a}deg"]) for a in RECALL_DEG]
    cells.append(number(stage["median_heading_deg"], "°"))
    return _row(name, cells, "final" if name == found.final else "")


def _row(name: str, cells: Iterable[str], kind: str) -> str:
    inner = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{html.escape(name)}</th>{inner}</tr>'
