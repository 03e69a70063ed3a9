"""The published figures: Lean Images for Geo-Localization, under review at ICLR 2020."""

from __future__ import annotations

SHARES = ("B 1nn", "A 1nn", "A 3nn", "C 2D D<1", "C 2D D<3", "C 4D D<1", "C 4D D<3")
"""Columns of its tables 1, 3 and 4."""

ERRORS = ("mean", "median")
"""Of the position and of the angles, in its table 2."""

COUNTS = {
    (400, 20): "37K",
    (400, 10): "140K",
    (800, 20): "170K",
    (800, 10): "636K",
    (800, 40): "61K",
    (1600, 20): "666K",
    (1600, 40): "174K",
}
"""Number of images, by the area's side and the step of the grid, metres."""

_ROWS = """\
400 20 edges 0.45 0.97 0.99 0.64 0.82 0.58 0.75
400 20 faces 0.35 0.99 0.99 0.56 0.76 0.51 0.69
400 20 depth 0.23 0.99 0.99 0.61 0.79 0.55 0.72
400 20 edges+faces 0.29 0.98 0.99 0.72 0.88 0.65 0.82
400 20 edges+faces+depth 0.24 0.98 0.99 0.71 0.88 0.64 0.81
400 10 edges 0.11 0.98 0.98 0.85 0.94 0.84 0.93
400 10 faces 0.05 0.97 0.97 0.80 0.90 0.79 0.88
400 10 depth 0.06 0.97 0.97 0.83 0.92 0.82 0.91
400 10 edges+faces 0.09 0.97 0.97 0.88 0.96 0.87 0.95
400 10 edges+faces+depth 0.08 0.94 0.95 0.88 0.96 0.87 0.95
800 20 edges 0.06 0.96 0.96 0.62 0.78 0.59 0.75
800 20 faces 0.01 0.96 0.96 0.51 0.68 0.48 0.65
800 20 depth 0.01 0.96 0.97 0.61 0.77 0.59 0.73
800 20 edges+faces 0.04 0.92 0.93 0.70 0.86 0.67 0.83
800 20 edges+faces+depth 0.03 0.95 0.96 0.70 0.85 0.67 0.81
800 10 edges - 0.82 0.82 0.80 0.92 0.79 0.92
1600 20 edges - 0.58 0.59 0.46 0.69 0.44 0.67
800 40 edges - 0.90 0.96 0.39 0.62 0.30 0.49
800 40 edges+faces - 0.91 0.97 0.48 0.72 0.38 0.59
800 40 edges+faces+depth - 0.96 0.98 0.48 0.72 0.38 0.58
1600 40 edges - 0.89 0.90 0.22 0.39 0.19 0.32
1600 40 edges+faces - 0.94 0.95 0.30 0.50 0.24 0.41
1600 40 edges+faces+depth - 0.94 0.96 0.32 0.51 0.26 0.43
"""
"""Area, step, type of images, and ``SHARES``. Table 1 averages three areas, the others are single
experiments."""

TABLE = {
    (int(area), int(step), images): dict(zip(SHARES, figures, strict=True))
    for area, step, images, *figures in map(str.split, _ROWS.splitlines())
}
"""The shares by area, step and type of images."""

ERRORS_TABLE = {
    (400, 20): {"A": ((3.65, 3.26), (0.84, 0.69)), "C": ((26.30, 11.26), (10.95, 1.84))},
    (400, 10): {"A": ((2.37, 2.10), (0.57, 0.48)), "C": ((7.99, 3.67), (2.65, 0.67))},
    (800, 20): {"A": ((5.43, 4.71), (0.67, 0.54)), "C": ((40.23, 12.28), (9.80, 1.40))},
}
"""Table 2, edges+faces: by task, mean and median of the position's errors, metres, and of the
angles', degrees."""

CODE = {"A": "> 0.97", "C D<1": "< 0.15", "C D<3": "< 0.21"}
"""The 17-bit code, section 6: A at steps of 10 and 20 m, C at 10 m."""
