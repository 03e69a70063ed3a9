"""What went well and what went wrong in a drive, in plain words."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.geometry import Array
from maptile_loc.report.metrics import chance
from maptile_loc.report.trajectory import stretches
from maptile_loc.types import Estimates, Localization

CHI2_95 = 5.991
"""95 % of a normal distribution in the plane lie within this squared Mahalanobis distance."""
FAR_M = 10.0
"""An answer called localized and farther off than this is called wrong."""


class Finding(NamedTuple):
    """One thing worth telling.

    Attributes:
        kind: good, bad, or note (neither).
        text: A sentence or two.
    """

    kind: Literal["good", "bad", "note"]
    text: str


def find(
    result: Localization,
    metrics: dict[str, Any] | None,
    errors: pd.DataFrame | None,
    reason: str | None = None,
) -> list[Finding]:
    """The findings about a drive.

    Args:
        result: The localized drive.
        metrics: As in ``metrics.json``, None without truth.
        errors: As in ``errors.csv``, None without truth.
        reason: Why there is no truth.
    """
    if not len(result.t_ns):
        return [Finding("bad", "The drive gave no query: it may be shorter than one submap.")]
    final = result.stages[result.final]
    localized = final.localized & np.isfinite(final.poses[:, 0])
    findings = [_share(localized), *gaps(localized, result.t_ns)]
    if metrics is None or errors is None:
        text = f"No errors are shown, for want of a truth: {reason or 'none was given'}."
        return [*findings, Finding("note", text)]
    rows = errors[errors["stage"] == result.final]
    truth = rows[["truth_east", "truth_north"]].to_numpy(np.float64)
    counted = rows["counted"].to_numpy(np.bool_)
    findings += _outside(metrics)
    if counted.any():
        metres = rows["error_m"].to_numpy(np.float64)
        findings += _wrong(metres, counted & localized, result.frame)
        findings += _bias(metrics, result.final)
        findings += _calibration(final, truth + _shift(metrics), counted & localized)
        findings += _chance(metrics)
    return findings + [Finding("note", f"{note}.") for note in metrics["notes"]]


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, 75 -> 1:15."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _share(localized: NDArray[np.bool_]) -> Finding:
    count, total = int(localized.sum()), len(localized)
    text = f"{count} of {_count(total, 'query', 'queries')} localized ({_percent(count / total)})."
    if count == 0:
        text += " Nothing was recognised: the drive may not be on this map."
    return Finding("good" if count >= 0.9 * total else "bad", text)


def gaps(localized: NDArray[np.bool_], t_ns: NDArray[np.int64]) -> list[Finding]:
    """Where a drive lost its track: the stretches of (Q,) queries that are not ``localized``.

    None where nothing is localized: then that is what is to be said.
    """
    lost = sorted(stretches(~localized), key=lambda gap: gap.start - gap.stop)
    if not localized.any() or not lost:
        return []
    seconds = (t_ns - t_ns[0]) / 1e9
    shown = [
        f"{clock(seconds[gap.start])} to {clock(seconds[gap.stop - 1])} "
        f"({_count(gap.stop - gap.start, 'query', 'queries')})"
        for gap in sorted(lost[:3], key=lambda gap: gap.start)
    ]
    more = "" if len(lost) <= 3 else f"; {len(lost) - 3} shorter"
    name = _count(len(lost), "stretch", "stretches")
    text = f"{name} without a position, in minutes from the start: {', '.join(shown)}{more}."
    return [Finding("note", text)]


def _outside(metrics: dict[str, Any]) -> list[Finding]:
    outside, called = metrics["outside_queries"], metrics["outside_localized"]
    if not outside:
        return []
    text = f"{_count(outside, 'query lies', 'queries lie')} outside the map or at its very edge; "
    text += "none of them was" if not called else f"{called} of them nevertheless"
    return [Finding("bad" if called else "good", f"{text} called localized.")]


def _wrong(metres: Array, judged: NDArray[np.bool_], frame: NDArray[np.int64]) -> list[Finding]:
    if not judged.any():
        return []
    wrong = judged & ~(metres <= FAR_M)
    if not wrong.any():
        text = f"Every query called localized is within {FAR_M:.0f} m of the truth."
        return [Finding("good", text)]
    worst = int(np.nanargmax(np.where(wrong, metres, -1.0)))
    return [
        Finding(
            "bad",
            f"{_count(int(wrong.sum()), 'query was', 'queries were')} called localized and "
            f"{'is' if wrong.sum() == 1 else 'are'} more than {FAR_M:.0f} m off; the worst by "
            f"{metres[worst]:.0f} m, at frame {frame[worst]}.",
        )
    ]


def _bias(metrics: dict[str, Any], stage: str) -> list[Finding]:
    shift = _shift(metrics)
    size = float(np.linalg.norm(shift))
    before, after = (metrics[key][stage]["median_m"] for key in ("stages", "bias_removed"))
    if size < 0.5 or before is None or after is None:
        return []
    east = f"{abs(shift[0]):.1f} m {'east' if shift[0] > 0 else 'west'}"
    north = f"{abs(shift[1]):.1f} m {'north' if shift[1] > 0 else 'south'}"
    text = f"The map lies {east} and {north} of the truth on the whole; with this constant shift "
    return [Finding("note", f"{text}taken out the median is {after:.2f} m, not {before:.2f} m.")]


def _calibration(final: Estimates, truth: Array, judged: NDArray[np.bool_]) -> list[Finding]:
    covariance = final.covariance[:, :2, :2]
    judged = judged & np.isfinite(covariance).all(axis=(1, 2))
    judged = judged & (np.linalg.det(np.where(judged[:, None, None], covariance, 0.0)) > 0)
    if judged.sum() < 10:
        return []
    difference = final.poses[judged, :2] - truth[judged]
    solved = np.linalg.solve(covariance[judged], difference[..., None])[..., 0]
    share = float(((difference * solved).sum(axis=1) <= CHI2_95).mean())
    honest = "about right"
    if share < 0.85:
        honest = "too small: the method is surer than it should be"
    elif share > 0.99:
        honest = "cautious"
    text = f"{_percent(share)} of the localized queries lie within their 95 % ellipse (the map's "
    text += f"shift taken out): the uncertainty is {honest}."
    return [Finding("bad" if share < 0.7 else "note", text)]


def _chance(metrics: dict[str, Any]) -> list[Finding]:
    """Stage aligned is what the alignment alone achieves, before the drive as a whole helps."""
    stage = "aligned" if "aligned" in metrics["stages"] else next(iter(metrics["stages"]))
    recall = metrics["stages"][stage]["recall_5m"]
    level = chance(5.0, metrics["search_area_km2"])
    text = (
        f"Query by query (stage {stage}) {_percent(recall)} are within 5 m; a random place on the "
    )
    return [Finding("note", f"{text}map would be with a probability of {100 * level:.2g} %.")]


def _shift(metrics: dict[str, Any]) -> Array:
    return np.array([0.0 if value is None else value for value in metrics["map_bias_m"]])


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def outcome_notes(found: Localization) -> tuple[str, ...]:
    """Lines for the user about queries that were not localized."""
    localized = found.trajectory.localized
    notes = [gap.text for gap in gaps(localized, found.t_ns)]
    if found.blind:
        notes.append(f"queries without one point: {found.blind}; see maptile inspect")
    if not localized.any():
        text = "nothing was localized; is the drive on this map?"
        alone = int(found.stages["aligned"].localized.sum())
        if alone:
            text += f" {alone} queries were, each by itself: the drive is too short to confirm them"
        notes.append(text)
    return tuple(notes)
