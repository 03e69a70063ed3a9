"""What pictures of maps and tiles have in common: scale bar, north, vehicle, and their saving."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2D

from data_prep.files import atomic_file
from maptile_loc.report.pictures import INK

BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
"""Of Okabe and Ito's palette, told apart by colour-blind eyes."""
GREY = "#5c6675"
DOTS_PER_INCH = 125
DOT = "  \N{MIDDLE DOT}  "

_ARROW = Outline([(0, 1), (-0.62, -0.8), (0, -0.4), (0.62, -0.8), (0, 1)], closed=True)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises:
        MaptileError: It cannot be written.
    """
    with atomic_file(path) as temporary, warnings.catch_warnings():
        # A name may be in a script that the font lacks; it is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary)
    return path


def title(figure: Figure, name: str, facts: list[str]) -> None:
    """A heading and, under it, facts in one line, in the upper left corner."""
    inches = float(figure.get_figheight())
    # Names are not formulas, whatever dollar signs are in them.
    plain: dict[str, Any] = {"va": "top", "parse_math": False}
    figure.text(0.025, 1 - 0.16 / inches, name, fontsize=15, weight="bold", color=INK, **plain)
    figure.text(0.025, 1 - 0.5 / inches, DOT.join(facts), fontsize=10, color=GREY, **plain)


def halo(colour: str, width: float = 2.5) -> list[Any]:
    """An edge around text and lines of ``colour``, so that they can be read on anything."""
    return [withStroke(linewidth=width, foreground="black" if colour == "white" else "white")]


def draw_scale(axes: Any, colour: str = INK) -> None:
    """A bar of 1, 2 or 5 times a power of ten metres, up to a fifth of the picture wide."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    metres = scale_metres(right - left)
    x, y = left + 0.03 * (right - left), bottom + 0.03 * (top - bottom)
    axes.plot(
        [x, x + metres],
        [y, y],
        color=colour,
        linewidth=3,
        solid_capstyle="butt",
        path_effects=halo(colour, 5.5),
    )
    label = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    axes.annotate(
        label,
        (x, y),
        (0, 5),
        textcoords="offset points",
        color=colour,
        fontsize=9,
        path_effects=halo(colour),
    )


def scale_metres(width_m: float) -> float:
    """The largest of 1, 2 and 5 times powers of ten that is at most a fifth of ``width_m``."""
    power = 10.0 ** np.floor(np.log10(width_m / 5))
    return float(max(step * power for step in (1, 2, 5) if step * power <= width_m / 5))


def draw_north(axes: Any, colour: str = INK) -> None:
    """A mark in the upper left corner that says that north is up."""
    axes.annotate(
        "\N{BLACK UP-POINTING TRIANGLE}\nN",
        (0, 1),
        (18, -8),
        "axes fraction",
        "offset points",
        ha="center",
        va="top",
        fontsize=14,
        weight="bold",
        linespacing=0.9,
        color=colour,
        path_effects=halo(colour, 4),
    )


def draw_vehicle(axes: Any, heading: float, size: float = 15) -> None:
    """An arrow head at the origin that points ``heading`` radians counter-clockwise from x."""
    marker = MarkerStyle(_ARROW, transform=Affine2D().rotate(heading - np.pi / 2))
    axes.plot(
        0,
        0,
        marker=marker,
        markersize=size,
        color=ORANGE,
        markeredgecolor="white",
        markeredgewidth=1.2,
        zorder=5,
    )
