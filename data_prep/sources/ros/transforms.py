"""The static transforms of a bag (``tf_static``): where frames are in each other."""

from __future__ import annotations

from collections import deque

import numpy as np

from data_prep.geometry import Array


class FrameTree:
    """Frames and the fixed transforms between them."""

    def __init__(self) -> None:
        self._edges: dict[str, dict[str, Array]] = {}

    def add(self, parent: str, child: str, pose: Array) -> None:
        """Add the (4, 4) pose of frame ``child`` in frame ``parent``."""
        parent, child = plain(parent), plain(child)
        self._edges.setdefault(parent, {})[child] = pose
        back = np.asarray(np.linalg.inv(pose), np.float64)
        self._edges.setdefault(child, {})[parent] = back

    def __contains__(self, frame: str) -> bool:
        return plain(frame) in self._edges

    def pose(self, frame: str, base: str) -> Array | None:
        """The (4, 4) pose of ``frame`` in ``base``; None where no transforms connect them."""
        frame, base = plain(frame), plain(base)
        known: dict[str, Array] = {base: np.eye(4)}
        queue = deque([base])
        while queue and frame not in known:
            at = queue.popleft()
            for other, step in self._edges.get(at, {}).items():
                if other not in known:
                    known[other] = known[at] @ step
                    queue.append(other)
        return known.get(frame)


def plain(frame: str) -> str:
    """A frame's name without the slash that old ROS writes before it."""
    return frame.lstrip("/")
