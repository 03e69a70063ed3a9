"""Parts that figures share: title, scale bar, north arrow, vehicle; and saving a figure."""

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

from data_prep.city.raster import ATTRIBUTION
from data_prep.files import atomic_file
from maptile_loc.report.pictures import INK

BLUE = "#0072b2"
"""Blue of Okabe and Ito's palette, whose colours colour-blind readers can distinguish."""
ORANGE = "#d55e00"
"""Vermillion of the same palette."""
GREEN = "#009e73"
"""Bluish green of the same palette."""
PURPLE = "#cc79a7"
"""Reddish purple of the same palette."""
GREY = "#5c6675"
"""Colour of secondary text."""
DOTS_PER_INCH = 125
"""Resolution of saved figures."""
DOT = "  \N{MIDDLE DOT}  "
"""Separator of the facts below a title."""
CREDIT = ATTRIBUTION.replace("(c)", "\N{COPYRIGHT SIGN}")
"""Attribution of the map's data."""
ROUND_STEPS = (1, 2, 5)
"""Lengths of a scale bar are one of these times a power of ten."""

_ARROW = Outline([(0, 1), (-0.62, -0.8), (0, -0.4), (0.62, -0.8), (0, 1)], closed=True)


def save(figure: Figure, path: Path, shows: str = "") -> Path:
    """Write a figure as PNG, whole or not at all; returns ``path``.

    Args:
        figure: The figure.
        path: The file.
        shows: A text on what it shows, which the file keeps.

    Raises:
        MaptileError: It cannot be written.
    """
    with atomic_file(path) as temporary, warnings.catch_warnings():
        # A name may be in a script that the font lacks; its letters are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, metadata={"Description": shows} if shows else None)
    return path


def title(figure: Figure, name: str, facts: list[str]) -> None:
    """Draw a title in the upper left corner, and facts on one line below it."""
    inches = float(figure.get_figheight())
    # Names are not formulas, even if they contain dollar signs.
    plain: dict[str, Any] = {"va": "top", "parse_math": False}
    figure.text(0.025, 1 - 0.16 / inches, name, fontsize=15, weight="bold", color=INK, **plain)
    figure.text(0.025, 1 - 0.5 / inches, DOT.join(facts), fontsize=10, color=GREY, **plain)


def halo(colour: str, width: float = 2.5) -> list[Any]:
    """Return a contrasting edge for text and lines of ``colour``, readable on any background."""
    return [withStroke(linewidth=width, foreground="black" if colour == "white" else "white")]


def draw_scale(axes: Any, colour: str = INK) -> None:
    """Draw a scale bar of round length, at most a fifth of the axes wide."""
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
    """Return the largest of 1, 2 and 5 times powers of ten that is at most ``width_m`` / 5."""
    power = 10.0 ** np.floor(np.log10(width_m / 5))
    return float(max(step * power for step in ROUND_STEPS if step * power <= width_m / 5))


def draw_north(axes: Any, colour: str = INK) -> None:
    """Draw an arrow in the upper left corner that shows that north is up."""
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
    """Draw an arrow head at the origin.

    Args:
        axes: Axes whose x points right and y up.
        heading: Direction of the arrow, radians counter-clockwise from x.
        size: Length of the arrow, points.
    """
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
