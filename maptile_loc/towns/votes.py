"""Votes for towns: similar views of a drive's tiles that agree with the drive's odometry.

Each similar view states where the vehicle was and what its heading was. By odometry, that is a
statement about the pose at the middle of the drive, too. The views that agree about it are added
up: a town that is not the right one has views that look alike, but not in the right arrangement.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        arrangements: Arrangements of the drive's tiles in one town that are compared with its map.
        towns: Towns in which they are, those with most votes.
        per_std: Logarithm of how much more probable a town is for each standard deviation by which
            a tile is more similar to its views there than to an average view.
    """

    temperature: Positive = 0.05
    near_m: Positive = 15.0
    drift: NotNegative = 0.1
    turn_deg: Positive = 15.0
    most: Count = 1500
    arrangements: Count = 20
    towns: Count = 200
    per_std: Positive = 0.2


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
    """How well a drive fits one town.

    Attributes:
        town: Number of the town.
        score: Logarithm of how probable it is, but for a constant.
        places: (Q, 2) east, north of each tile, metres from the town's reference; NaN in pieces of
            the odometry for which the town has no similar view.
    """

    town: int
    score: float
    places: Array


@dataclass(frozen=True)
class Arrangement:
    """Where the tiles of one piece of the odometry are in a town, by views that agree about it.

    Attributes:
        town: Number of the town.
        piece: Number of the piece.
        votes: Sum over the tiles of the similarity of the best view that agrees, in units of
            ``temperature``.
        poses: (Q, 3) east, north (metres from the town's reference) and heading (radians) at each
            tile; NaN at tiles of other pieces.
    """

    town: int
    piece: int
    votes: float
    poses: Array


def arrangements(
    views: SimilarViews, motion: Array, segment: NDArray[np.int64], settings: VoteSettings
) -> list[Arrangement]:
    """What the views of each town say, the most votes first.

    Args:
        views: Similar views of the drive's tiles, in the order of the tiles.
        motion: (Q, 3) x, y, heading of the vehicle at each tile, in the odometry's frame.
        segment: (Q,) piece of the odometry of each tile; what lies between pieces is unknown.
        settings: Which views agree, and how many arrangements of a piece in a town there are.
    """
    found = []
    for town in np.unique(views.town):
        own = views.of_town(int(town), settings.most)
        for piece in np.unique(segment[own.query]):
            where = np.flatnonzero(segment == piece)
            part = np.flatnonzero(segment[own.query] == piece)
            found += _of_piece(int(town), int(piece), own, part, motion, where, settings)
    return sorted(found, key=lambda one: -one.votes)


def best_of_towns(arranged: Sequence[Arrangement], scores: Array) -> list[Vote]:
    """The best arrangement of each piece of the odometry in each town, added up, best first.

    Args:
        arranged: M arrangements.
        scores: (M,) of each.
    """
    best: dict[int, dict[int, int]] = {}
    for number in np.argsort(scores, kind="stable").tolist():
        best.setdefault(arranged[number].town, {})[arranged[number].piece] = number
    found = []
    for town, pieces in best.items():
        chosen = list(pieces.values())
        places = np.stack([arranged[number].poses[:, :2] for number in chosen])
        known = np.isfinite(places[..., 0])
        where = np.where(known.any(axis=0), known.argmax(axis=0), 0)
        place = places[where, np.arange(places.shape[1])]
        found.append(Vote(town, float(scores[chosen].sum()), place))
    return sorted(found, key=lambda vote: -vote.score)


def _of_piece(
    town: int,
    piece: int,
    views: SimilarViews,
    own: NDArray[np.int64],
    motion: Array,
    where: NDArray[np.int64],
    settings: VoteSettings,
) -> list[Arrangement]:
    """The arrangements of one piece in one town that have most votes and differ.

    Args:
        town: Number of the town.
        piece: Number of the piece.
        views: The town's.
        own: Which of them are similar to tiles of the piece.
        motion: As for ``arrangements``.
        where: The piece's tiles.
        settings: As for ``arrangements``.
    """
    gain = _agreement(views, own, motion, settings)
    middle = where[len(where) // 2]
    stated = _placed(views, own, motion, motion[middle][None])[:, 0]
    kept: list[int] = []
    for index in np.argsort(-gain, kind="stable").tolist():
        gap = stated[kept] - stated[index]
        near = np.hypot(gap[:, 0], gap[:, 1]) <= settings.near_m
        same = near & (np.abs(wrap_angle(gap[:, 2])) <= np.radians(settings.turn_deg))
        if not same.any():
            kept.append(index)
        if len(kept) == settings.arrangements:
            break
    result = []
    for index, moved in zip(kept, _placed(views, own[kept], motion, motion[where]), strict=True):
        poses = np.full((len(motion), 3), np.nan)
        poses[where] = moved
        result.append(Arrangement(town, piece, float(gain[index]), poses))
    return result


def _agreement(
    views: SimilarViews, own: NDArray[np.int64], motion: Array, settings: VoteSettings
) -> Array:
    """(n,) sum over the tiles of the best view that agrees with each of the n views ``own``."""
    query, place = views.query[own], views.place[own]
    at = motion[query]
    turn = views.heading[own] - at[:, 2]
    gap = np.linalg.norm(_placed(views, own, motion, at)[..., :2] - place, axis=-1)
    far = np.linalg.norm(at[None, :, :2] - at[:, None, :2], axis=-1)
    agree = gap <= settings.near_m + settings.drift * far
    agree &= np.abs(wrap_angle(turn[:, None] - turn[None])) <= np.radians(settings.turn_deg)
    gain = np.where(agree, views.similarity[own] / settings.temperature, 0.0)
    first = np.flatnonzero(np.diff(query, prepend=-1))
    return np.asarray(np.maximum.reduceat(gain, first, axis=1).sum(axis=1))


def _placed(views: SimilarViews, own: NDArray[np.int64], motion: Array, poses: Array) -> Array:
    """(n, m, 3) the (m, 3) poses of the odometry in the town, if view i of ``own`` is right."""
    at = motion[views.query[own]]
    turn = views.heading[own] - at[:, 2]
    frame = np.column_stack([views.place[own], turn])[:, None]
    moved = poses[None, :, :2] - at[:, None, :2]
    heading = np.broadcast_to(poses[:, 2:], (len(own), len(poses), 1))
    return se2_compose(frame, np.concatenate([moved, heading], -1))
