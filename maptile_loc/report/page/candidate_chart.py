"""The chart of the page that shows recall over the number of candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array
from maptile_loc.report.pictures import ERROR_COLOURS
from maptile_loc.report.recall import WITHIN_M, nearest_of_best

SIZE = (720, 240)
"""Width and height of the chart, CSS pixels; it is scaled to the page."""

AXES = (44, 24, 700, 200)
"""Left, top, right and bottom edge of the axes."""

LEFT, TOP, RIGHT, BOTTOM = AXES


def candidate_chart(
    candidates: Array | None, truth: Array | None, counted: NDArray[np.bool_]
) -> str:
    """Return the chart as HTML; "" where the candidates are unknown or no query counts.

    Args:
        candidates: (Q, K, 4) as in ``Localization``.
        truth: (Q, 3) true poses, or None.
        counted: (Q,) queries that count.
    """
    if candidates is None or truth is None or not counted.any() or candidates.shape[1] == 0:
        return ""
    nearest = nearest_of_best(candidates[counted], truth[counted])
    most = nearest.shape[1]
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{_y(v):g}" y2="{_y(v):g}"/>'
        f'<text x="{LEFT - 8}" y="{_y(v) + 4:g}" text-anchor="end">{100 * v:g}</text>'
        for v in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts += [
        f'<text x="{_x(n, most):g}" y="{BOTTOM + 16}" text-anchor="middle">{n}</text>'
        for n in range(1, most + 1)
    ]
    parts.append('<text class="label" x="0" y="12">queries with a candidate this near, %</text>')
    parts.append(
        f'<text class="label" x="{(LEFT + RIGHT) / 2:g}" y="{BOTTOM + 34}" text-anchor="middle">'
        "of the best N candidates</text>"
    )
    legend = []
    for metres, colour in zip(WITHIN_M, ERROR_COLOURS, strict=True):
        share = (nearest <= metres).mean(axis=0)
        points = " ".join(f"{_x(n + 1, most):.1f},{_y(v):.1f}" for n, v in enumerate(share))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
        parts += [
            f'<circle cx="{_x(n + 1, most):.1f}" cy="{_y(v):.1f}" r="3" fill="{colour}"/>'
            for n, v in enumerate(share)
        ]
        legend.append(
            '<li><svg width="34" height="10" aria-hidden="true"><path d="M1 5H33" '
            f'stroke="{colour}" stroke-width="2.5"/></svg>within {metres} m</li>'
        )
    return (
        '<figure class="chart"><div>'
        f'<svg viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="img" aria-label="Share of the queries with '
        f'one of the best N candidates near the truth">{"".join(parts)}</svg></div>'
        f'<figcaption><ul class="legend">{"".join(legend)}</ul>'
        "The candidates of each query by itself.</figcaption></figure>"
    )


def _x(n: int, most: int) -> float:
    """The horizontal coordinate of N of ``most`` candidates."""
    return LEFT + 10 + (RIGHT - LEFT - 20) * ((n - 1) / max(most - 1, 1))


def _y(share: float) -> float:
    return BOTTOM + float(share) * (TOP - BOTTOM)
