"""GNSS in bags: ``sensor_msgs/NavSatFix``, and NMEA sentences in ``nmea_msgs/Sentence``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_prep.drive import GnssTrack
from data_prep.sources.formats.nmea import Position, parse, track
from data_prep.sources.ros.bag import Bag, Topic, stamps

FIX = "sensor_msgs/msg/NavSatFix"
"""Type of positions."""
SENTENCE = "nmea_msgs/msg/Sentence"
"""Type of NMEA sentences."""
_NO_FIX = -1
"""``status.status`` of a receiver without a position."""


def read_topics(
    bag: Bag, used: Iterable[Topic], every: Iterable[Topic], notes: list[str]
) -> GnssTrack | None:
    """The GNSS of a bag; None where it has none.

    Args:
        bag: The open bag.
        used: Topics that the user names; of these, else of ``every``, one is read: positions before
            sentences, then the topic with the most messages.
        every: All topics.
        notes: Lines on the choice, and on messages that are left out, are appended.

    Raises:
        MaptileError: A message is damaged.
    """
    named = [topic for topic in used if topic.type in (FIX, SENTENCE)]
    topics = named or [topic for topic in every if topic.type in (FIX, SENTENCE)]
    if not topics:
        return None
    best = max(topics, key=lambda topic: (topic.type == FIX, topic.messages))
    rest = [topic.name for topic in topics if topic is not best]
    if rest:
        notes.append(f"GNSS of {best.name}; others are {', '.join(rest)}")
    times: list[int] = []
    found: list[Position] = []
    for message in bag.messages([best.name]):
        content = bag.decode(message, best.type)
        one = position_of(content) if best.type == FIX else parse(str(content.sentence))
        if one is not None:
            times.append(stamps(content.header.stamp) or message.record_ns)
            found.append(one)
    return track(times, found, best.name, notes)


def position_of(fix: Any) -> Position:
    """The position of a decoded NavSatFix; NaN where the receiver has none."""
    latitude, longitude = float(fix.latitude), float(fix.longitude)
    inside = abs(latitude) <= 90 and abs(longitude) <= 180
    if int(fix.status.status) == _NO_FIX or not inside:
        latitude = longitude = math.nan
    variance = np.asarray(fix.position_covariance, np.float64)[[0, 4]].mean()
    known = int(fix.position_covariance_type) != int(fix.COVARIANCE_TYPE_UNKNOWN)
    std_m = math.sqrt(variance) if known and 0 < variance < math.inf else math.nan
    return Position(0, None, latitude, longitude, std_m, "NavSatFix")
