"""Numbers as text for tables and captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.counted import counted
from maptile_loc.report.metrics import ALONE, MARGIN_M, RECALL_DEG, RIGHT_M, chance

UNKNOWN = "–"
"""Text of an unknown number."""


def percent(value: float | None) -> str:
    """Return a share, 0..1, in percent."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def number(value: float | None, unit: str) -> str:
    """Return a number with its unit."""
    return UNKNOWN if value is None else f"{value:.2f}{'' if unit == '°' else ' '}{unit}"


def length(metres: float) -> str:
    """Return a length in metres or kilometres."""
    return f"{metres:.1f} m" if metres < 1000 else f"{metres / 1000:.1f} km"


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Return the content of ``metrics.json`` as lines of text, with the recall by chance."""
    radii = metrics["radii_m"]
    header = ["", "frames", "localized", *(f"<={r:g}m %" for r in radii)]
    header += ["median m", "mean m", "p95 m", *(f"<={a}deg %" for a in RECALL_DEG), "median deg"]
    dense, unbiased = (
        {"every scan": metrics[key]} if metrics.get(key) else {}
        for key in ("dense", "dense_bias_removed")
    )
    rows = [_row(name, stage, radii) for name, stage in (metrics["stages"] | dense).items()]
    chances = [f"{100 * chance(r, metrics['search_area_km2']):.2g}" for r in radii]
    rows.append(["chance", "", "", *chances, *[""] * 6])
    rows.append(["map bias removed", *[""] * (len(header) - 1)])
    without = metrics["bias_removed"] | unbiased
    rows += [_row(name, stage, radii) for name, stage in without.items()]
    shares = {stage["tracked"] for stage in metrics["stages"].values() if "tracked" in stage}
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in [header, *rows]
    ]
    east, north = metrics["map_bias_m"]
    seconds = metrics["query_seconds_median"]
    facts = [f"search area {metrics['search_area_km2']:.3g} km2"]
    if east is not None:
        facts.append(f"map - truth {east:+.2f} m east, {north:+.2f} m north")
    if seconds is not None:
        facts.append(f"{seconds:.3g} s per query")
    outside = (
        f"{counted(metrics['outside_queries'], 'query')} outside the map or less than "
        f"{MARGIN_M:.0f} m inside it, {metrics['outside_localized']} of them called localized"
    )
    alone = [
        f"{' and '.join(ALONE)} are tracked ({share:.0%} of the queries): not each by itself"
        for share in shares
    ]
    best = ", ".join(
        f"{n}: {share[f'recall_{RIGHT_M:g}m']:.1%}" for n, share in metrics["recall_at_n"].items()
    )
    named = [f"a candidate within {RIGHT_M:g} m among the best {best}"] if best else []
    return "\n".join([*lines, "", "; ".join(facts), outside, *named, *alone, *metrics["notes"]])


def _row(name: str, stage: Mapping[str, Any], radii_m: Sequence[float]) -> list[str]:
    """Return the cells of one stage."""

    def cell(key: str, scale: float, digits: int) -> str:
        value = stage[key]
        return "-" if value is None else f"{scale * value:.{digits}f}"

    return [
        name,
        str(stage["frames"]),
        str(stage["localized"]),
        *(cell(f"recall_{r:g}m", 100, 1) for r in radii_m),
        *(cell(key, 1, 2) for key in ("median_m", "mean_m", "p95_m")),
        *(cell(f"heading_recall_{a}deg", 100, 1) for a in RECALL_DEG),
        cell("median_heading_deg", 1, 2),
    ]
