"""Findings about a localized drive, as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.counted import counted
from data_prep.geometry import Array
from maptile_loc.report.metrics import chance
from maptile_loc.report.trajectory import stretches
from maptile_loc.types import Estimates, Localization

CHI2_95 = 5.991
"""95 % quantile of the chi-squared distribution with two degrees of freedom."""
FAR_M = 10.0
"""A localized query farther from the truth than this is wrong, metres."""
GOOD_SHARE = 0.9
"""Share of localized queries from which on a drive is well localized."""
GAPS_LISTED = 3
"""Number of stretches without a position that are listed, the longest ones."""
BIAS_M = 0.5
"""Shifts of the map smaller than this are not reported, metres."""
CALIBRATION_QUERIES = 10
"""Fewest localized queries by which the claimed uncertainty is judged."""
TOO_SURE = 0.85
"""The uncertainty is too small if fewer queries than this share lie within their 95 % ellipse."""
FAR_TOO_SURE = 0.7
"""Below this share, that is a bad finding."""
CAUTIOUS = 0.99
"""The uncertainty is cautious if more queries than this share lie within their 95 % ellipse."""


REASON_TEXT = {
    "few_walls": "too few walls in sight",
    "straight_street": "the position along the street is open",
    "look_alikes": "other positions look alike",
    "too_short": "too little was seen so far to be sure",
    "off_map": "the scans do not fit the map",
    "no_odometry": "the motion is unknown",
    "drift": "the odometry from the last query has drifted",
}
"""The reasons why a query is not localized, in words."""


ADVICE = {
    "few_walls": "a longer --submap, such as 100, or a drive between houses",
    "straight_street": "a longer drive, with turns",
    "look_alikes": "a longer drive, or --prior or --near to search only where it can be",
    "too_short": "a longer drive, a longer --submap, or a smaller --every",
    "off_map": "another city or a larger map (wrong city?), and maptile inspect to see what the "
    "scans show",
    "no_odometry": "--odometry lidar",
}
"""What a user may try, by the reason why nothing is localized."""


class Finding(NamedTuple):
    """One fact about a localized drive.

    Attributes:
        kind: good, bad, or note (neither).
        text: One or two sentences.
    """

    kind: Literal["good", "bad", "note"]
    text: str


def find(
    found: Localization,
    metrics: dict[str, Any] | None,
    errors: pd.DataFrame | None,
    reason: str | None = None,
) -> list[Finding]:
    """Return the findings about a localized drive.

    Args:
        found: The localized drive.
        metrics: As in ``metrics.json``; None without truth.
        errors: As in ``errors.csv``; None without truth.
        reason: Why there is no truth.
    """
    if not len(found.t_ns):
        return [Finding("bad", "The drive gave no query: it may be shorter than one submap.")]
    final = found.trajectory
    localized = final.localized & final.has_pose
    findings = [_share(localized), *gaps(localized, found.t_ns)]
    if metrics is None or errors is None:
        text = f"Errors are unknown without truth: {reason or 'none was given'}."
        return [*findings, Finding("note", text)]
    rows = errors[errors["stage"] == found.final]
    truth = rows[["truth_east", "truth_north"]].to_numpy(np.float64)
    counted = rows["counted"].to_numpy(np.bool_)
    findings += _outside(metrics)
    if counted.any():
        metres = rows["error_m"].to_numpy(np.float64)
        findings += _wrong(metres, counted & localized, found.frame)
        findings += _bias(metrics, found.final)
        findings += _calibration(final, truth + _shift(metrics), counted & localized)
        findings += _chance(metrics)
    return findings + [Finding("note", f"{note}.") for note in metrics["notes"]]


def outcome_notes(found: Localization) -> tuple[str, ...]:
    """Return lines for the user about queries that are not localized, and the likely reasons."""
    localized = found.trajectory.localized
    notes = [gap.text for gap in gaps(localized, found.t_ns)]
    counts = reason_counts(found.trajectory)
    if counts:
        words = [f"{REASON_TEXT[name]} ({number})" for name, number in counts.items()]
        notes.append(f"queries are not localized because: {', '.join(words)}")
    if found.blind:
        verb = "query has" if found.blind == 1 else "queries have"
        notes.append(f"{found.blind} {verb} no points; see maptile inspect")
    if not localized.any():
        text = "nothing was localized; is the drive on this map?"
        alone = int(found.stages.get("aligned", found.trajectory).localized.sum())
        if alone:
            be = "was" if alone == 1 else "were"
            text += f" {counted(alone, 'query')} {be}, each by itself: the drive is too short to "
            text += "confirm them"
        notes.append(text)
    return tuple(notes)


def why_nothing(found: Localization) -> str:
    """Return why no query is localized, by the most frequent reason, and what to try."""
    total = len(found.t_ns)
    if not total:
        return "the drive gave no query; try a shorter --submap"
    if found.blind >= total:
        return "the scans have no points; see maptile inspect"
    counts = reason_counts(found.trajectory)
    if not counts:
        return "no query fits the map; try another city, and maptile inspect"
    reason = next(iter(counts))
    if total == 1 and reason == "too_short":
        return "one query by itself confirms no position; try more scans, as a drive"
    share = f"{counts[reason]} of {counted(total, 'query')}"
    advice = f"{REASON_TEXT[reason]} ({share}); try {ADVICE[reason]}"
    heading = found.record.get("heading")
    if isinstance(heading, Mapping) and heading.get("kind") != "unknown":
        advice += ", or --heading unknown, as wrong headings look like a wrong map"
    return advice


def said_of_bias(metrics: dict[str, Any], stage: str) -> list[str]:
    """Return a line on a constant shift between map and truth; none if it is small."""
    return [finding.text for finding in _bias(metrics, stage)]


def reason_counts(stage: Estimates) -> dict[str, int]:
    """Return how many queries are not localized for each reason, the most frequent one first."""
    names, counts = np.unique(stage.reason[stage.reason != ""], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(names[i]): int(counts[i]) for i in order}


def gaps(localized: NDArray[np.bool_], t_ns: NDArray[np.int64]) -> list[Finding]:
    """Return a finding about the stretches of queries that are not localized.

    Args:
        localized: (Q,) bool.
        t_ns: (Q,) times of the queries, nanoseconds.

    Returns:
        One finding; none if all queries are localized or no query is.
    """
    lost = sorted(stretches(~localized), key=lambda gap: gap.start - gap.stop)
    if not localized.any() or not lost:
        return []
    seconds = (t_ns - t_ns[0]) / 1e9
    shown = [
        f"{clock(seconds[gap.start])} to {clock(seconds[gap.stop - 1])} "
        f"({_count(gap.stop - gap.start, 'query', 'queries')})"
        for gap in sorted(lost[:GAPS_LISTED], key=lambda gap: gap.start)
    ]
    more = "" if len(lost) <= GAPS_LISTED else f"; {len(lost) - GAPS_LISTED} shorter"
    name = _count(len(lost), "stretch", "stretches")
    text = f"{name} without a position, in minutes from the start: {', '.join(shown)}{more}."
    return [Finding("note", text)]


def clock(seconds: float) -> str:
    """Return seconds as minutes and seconds, 75 as 1:15."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _share(localized: NDArray[np.bool_]) -> Finding:
    count, total = int(localized.sum()), len(localized)
    text = f"{count} of {_count(total, 'query', 'queries')} localized ({_percent(count / total)})."
    if count == 0:
        text += " No query matches the map: the drive may be outside it."
    return Finding("good" if count >= GOOD_SHARE * total else "bad", text)


def _outside(metrics: dict[str, Any]) -> list[Finding]:
    outside, wrong = metrics["outside_queries"], metrics["outside_localized"]
    if not outside:
        return []
    text = f"{_count(outside, 'query is', 'queries are')} outside the map or close to its edge; "
    text += f"{wrong or 'none'} of them {'is' if wrong == 1 else 'are'} called localized."
    return [Finding("bad" if wrong else "good", text)]


def _wrong(metres: Array, judged: NDArray[np.bool_], frame: NDArray[np.int64]) -> list[Finding]:
    if not judged.any():
        return []
    wrong = judged & ~(metres <= FAR_M)
    if not wrong.any():
        return [Finding("good", f"Every localized query is within {FAR_M:.0f} m of the truth.")]
    worst = int(np.nanargmax(np.where(wrong, metres, -1.0)))
    text = (
        f"{_count(int(wrong.sum()), 'localized query is', 'localized queries are')} more than "
        f"{FAR_M:.0f} m from the truth; the largest error is {metres[worst]:.0f} m, "
        f"at frame {frame[worst]}."
    )
    return [Finding("bad", text)]


def _bias(metrics: dict[str, Any], stage: str) -> list[Finding]:
    shift = _shift(metrics)
    before, after = (metrics[key][stage]["median_m"] for key in ("stages", "bias_removed"))
    if float(np.linalg.norm(shift)) < BIAS_M or before is None or after is None:
        return []
    east = f"{abs(shift[0]):.1f} m {'east' if shift[0] > 0 else 'west'}"
    north = f"{abs(shift[1]):.1f} m {'north' if shift[1] > 0 else 'south'}"
    text = f"Map and truth (GPS) disagree by a constant shift: the map lies {east} and {north} of "
    text += f"the truth. Without it, the median error is {after:.2f} m, not {before:.2f} m."
    return [Finding("note", text)]


def _calibration(final: Estimates, truth: Array, judged: NDArray[np.bool_]) -> list[Finding]:
    covariance = final.covariance[:, :2, :2]
    judged = judged & np.isfinite(covariance).all(axis=(1, 2))
    judged = judged & (np.linalg.det(np.where(judged[:, None, None], covariance, 0.0)) > 0)
    if judged.sum() < CALIBRATION_QUERIES:
        return []
    difference = final.poses[judged, :2] - truth[judged]
    solved = np.linalg.solve(covariance[judged], difference[..., None])[..., 0]
    share = float(((difference * solved).sum(axis=1) <= CHI2_95).mean())
    verdict = "about right"
    if share < TOO_SURE:
        verdict = "too small"
    elif share > CAUTIOUS:
        verdict = "cautious"
    text = f"{_percent(share)} of the localized queries lie within their 95 % ellipse (without the "
    text += f"map's shift): the claimed uncertainty is {verdict}."
    return [Finding("bad" if share < FAR_TOO_SURE else "note", text)]


def _chance(metrics: dict[str, Any]) -> list[Finding]:
    """Compare stage aligned, in which each query stands alone, with a random position."""
    stage = "aligned" if "aligned" in metrics["stages"] else next(iter(metrics["stages"]))
    recall = metrics["stages"][stage]["recall_5m"]
    level = chance(5.0, metrics["search_area_km2"])
    text = f"Each query by itself (stage {stage}): {_percent(recall)} within 5 m of the truth; a "
    return [Finding("note", f"{text}random position on the map would be with {100 * level:.2g} %.")]


def _shift(metrics: dict[str, Any]) -> Array:
    return np.array([0.0 if value is None else value for value in metrics["map_bias_m"]])


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
