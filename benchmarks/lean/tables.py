"""The tables of the tasks, beside the published figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stamp import head, row

from lean.grid import PoseGrid
from lean.published import CODE, COUNTS, ERRORS_TABLE, SHARES, TABLE

Results = Mapping[tuple[str, str], Mapping[str, Any]]
"""Results by type of images and training."""


def print_tables(grid: PoseGrid, results: Results) -> None:
    """Print the tables of an area's results; cells are this project's / the paper's figures."""
    area = (round(grid.area_m), round(grid.step_m))
    names = list(dict.fromkeys(images for images, _ in results))
    print(f"{area[0]} m, step {area[1]} m; published: {COUNTS.get(area, 'no')} images\n")
    head("images", "learned", "between", *SHARES)
    for name in names:
        _shares(name, results, TABLE.get((*area, name), {}))
    print("\nmean, median; published for edges+faces\n")
    head("images", "A metres", "A degrees", "C metres", "C degrees")
    for name in names:
        if (name, "correct") in results:
            published = ERRORS_TABLE.get(area, {}) if name == "edges+faces" else {}
            _errors(name, results[name, "correct"], published)
    if any(training == "code" for _, training in results):
        print("\n17-bit codes\n")
        head("images", *CODE)
    for name in names:
        if (name, "code") in results:
            _codes(name, results[name, "code"])


def _shares(name: str, results: Results, published: Mapping[str, str]) -> None:
    correct, shuffled = (results.get((name, one)) for one in ("correct", "shuffled"))
    ours = {}
    if shuffled is not None:
        ours["B 1nn"] = shuffled["memory"]["1nn"]
    if correct is not None:
        ours |= {f"A {one}": correct["memory"][one] for one in ("1nn", "3nn")}
        ours |= {f"C {key}": value for key, value in correct["between_cells"].items()}
    found = correct or shuffled
    counts = ("-", "-") if found is None else (str(found["learned"]), str(found["between"]))
    cells = [
        f"{f'{ours[one]:.2f}' if one in ours else '-'} / {published.get(one, '-')}"
        for one in SHARES
    ]
    row(name, *counts, *cells)


def _errors(name: str, found: Mapping[str, Any], published: Mapping[str, Any]) -> None:
    cells = []
    for task, judged in (("A", "memory"), ("C", "between_cells")):
        for column, unit in enumerate(("metres", "degrees")):
            mean, median = found[judged][unit]
            beside = published[task][column] if published else ("-", "-")
            cells.append(f"{mean:.2f}, {median:.2f} / {beside[0]}, {beside[1]}")
    row(name, *cells)


def _codes(name: str, found: Mapping[str, Any]) -> None:
    cells = found["between_cells"]
    ours = (found["memory"]["code"], cells["4D D<1"], cells["4D D<3"])
    row(name, *(f"{one:.2f} / {other}" for one, other in zip(ours, CODE.values(), strict=True)))
