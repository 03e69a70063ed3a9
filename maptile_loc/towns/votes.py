"""Votes for towns: similar views of a drive's tiles that agree with the drive's odometry.

Each similar view states where the vehicle was and what its heading was. By odometry, that is a
statement about the pose at the middle of the drive, too. The views that agree about it are added
up: a town that is not the right one has views that look alike, but not in the right arrangement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array, se2_compose, wrap_angle
from data_prep.settings import Count, NotNegative, Positive, Settings


class VoteSettings(Settings):
    """Which similar views agree, and what they are worth.

    Attributes:
        temperature: Difference of the similarity that makes a view e times as probable.
        near_m: Two views agree if their positions do to this distance, metres,
        drift: and this share of the distance travelled between them,
        turn_deg: and if their headings agree to this angle, degrees.
        most: Views of one town that are compared, at most.
    """

    temperature: Positive = 0.05
    near_m: Positive = 15.0
    drift: NotNegative = 0.1
    turn_deg: Positive = 15.0
    most: Count = 1500


@dataclass(frozen=True)
class SimilarViews:
    """Views that are similar to the tiles of a drive; all arrays have a row per view.

    Attributes:
        query: (H,) number of the tile.
        town: (H,) number of the view's town.
        place: (H, 2) east, north of the view, metres from the town's reference.
        heading: (H,) of the vehicle, if this is where the tile was made, radians from grid east.
        similarity: (H,) above that of the least similar view that is listed for the tile.
    """

    query: NDArray[np.int64]
    town: NDArray[np.int64]
    place: Array
    heading: Array
    similarity: Array

    def of_town(self, town: int, most: int) -> SimilarViews:
        """The most similar views of one town, at most ``most``, in the order of the tiles."""
        index = np.flatnonzero(self.town == town)
        index = np.sort(index[np.argsort(-self.similarity[index], kind="stable")[:most]])
        return SimilarViews(
            self.query[index],
            self.town[index],
            self.place[index],
            self.heading[index],
            self.similarity[index],
        )


@dataclass(frozen=True)
class Vote:
    """What the views of one town say.

    Attributes:
        town: Number of the town.
        score: Logarithm of how much more probable the town is than one without a similar view.
        places: (Q, 2) east, north of each tile, metres from the town's reference; NaN in pieces of
            the odometry for which the town has no view.
    """

    town: int
    score: float
    places: Array


def count_votes(
    views: SimilarViews, motion: Array, segment: NDArray[np.int64], settings: VoteSettings
) -> list[Vote]:
    """The votes for each town that has a similar view, best first.

    Args:
        views: Similar views of the drive's tiles, in the order of the tiles.
        motion: (Q, 3) x, y, heading of the vehicle at each tile, in the odometry's frame.
        segment: (Q,) piece of the odometry of each tile; what lies between pieces is unknown.
        settings: Which views agree.
    """
    found = [
        _vote(int(town), views.of_town(int(town), settings.most), motion, segment, settings)
        for town in np.unique(views.town)
    ]
    return sorted(found, key=lambda vote: -vote.score)


def _vote(
    town: int,
    views: SimilarViews,
    motion: Array,
    segment: NDArray[np.int64],
    settings: VoteSettings,
) -> Vote:
    """The votes for one town: the best agreement of each piece of the odometry, added up."""
    score, places = 0.0, np.full((len(motion), 2), np.nan)
    for piece in np.unique(segment[views.query]):
        own = np.flatnonzero(segment[views.query] == piece)
        gain = _agreement(views, own, motion, settings)
        best = int(gain.argmax())
        score += float(gain[best])
        where = np.flatnonzero(segment == piece)
        places[where] = _placed(views, own[best : best + 1], motion, motion[where])[0]
    return Vote(town, score, places)


def _agreement(
    views: SimilarViews, own: NDArray[np.int64], motion: Array, settings: VoteSettings
) -> Array:
    """(n,) sum over the tiles of the best view that agrees with each of the n views ``own``."""
    query, place = views.query[own], views.place[own]
    at = motion[query]
    turn = views.heading[own] - at[:, 2]
    gap = np.linalg.norm(_placed(views, own, motion, at) - place, axis=-1)
    far = np.linalg.norm(at[None, :, :2] - at[:, None, :2], axis=-1)
    agree = gap <= settings.near_m + settings.drift * far
    agree &= np.abs(wrap_angle(turn[:, None] - turn[None])) <= np.radians(settings.turn_deg)
    gain = np.where(agree, views.similarity[own] / settings.temperature, 0.0)
    first = np.flatnonzero(np.diff(query, prepend=-1))
    return np.asarray(np.maximum.reduceat(gain, first, axis=1).sum(axis=1))


def _placed(views: SimilarViews, own: NDArray[np.int64], motion: Array, poses: Array) -> Array:
    """(n, m, 2) positions of (m, 3) poses of the odometry, if view i of ``own`` is right."""
    at = motion[views.query[own]]
    turn = views.heading[own] - at[:, 2]
    frame = np.column_stack([views.place[own], turn])[:, None]
    moved = poses[None, :, :2] - at[:, None, :2]
    return se2_compose(frame, np.concatenate([moved, np.zeros_like(moved[..., :1])], -1))[..., :2]
