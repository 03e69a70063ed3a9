"""Searches of the whole map in the background, one at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from maptile_loc.device import torch_threads
from maptile_loc.odometry.pose_buffer import Motion
from maptile_loc.types import Candidates, Fixes, QueryTile

_LOG = logging.getLogger(__name__)

Found = tuple[Candidates, Fixes]
"""The candidates of a tile, and the same aligned."""


class Job(NamedTuple):
    """A search that runs.

    Attributes:
        found: What was found with each tile.
        at: The vehicle's motion at the query.
        doubted: Whether the queries before contradict the predicted position.
    """

    found: Future[list[Found]]
    at: Motion
    doubted: bool


class BackgroundSearch:
    """Searches for tiles in a thread of its own.

    Args:
        search: Searches the whole map for a tile.

    Attributes:
        job: What runs, or has ended and was not taken yet.
    """

    def __init__(self, search: Callable[[QueryTile], Found]) -> None:
        self._search = search
        self._executor: ThreadPoolExecutor | None = None
        self.job: Job | None = None

    def start(self, tiles: list[QueryTile], at: Motion, doubted: bool, threads: int) -> None:
        """Start a search, unless one runs; ``threads`` are torch's."""
        if self.job is not None:
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "map search", _one_thread)
            if at.segment < 0:
                _LOG.warning(
                    "no odometry: what a search finds for one scan says nothing of the next one; "
                    "push odometry, or wait for each search (background=False)"
                )

        def work() -> list[Found]:
            with torch_threads(threads):
                return [self._search(one) for one in tiles]

        self.job = Job(self._executor.submit(work), at, doubted)

    def take(self) -> tuple[Job, list[Found]] | None:
        """A search that has ended, and what it found; None if none has."""
        if self.job is None or not self.job.found.done():
            return None
        job, self.job = self.job, None
        return job, job.found.result()

    def drop(self) -> None:
        """Forget what runs; it does not begin if it has not begun."""
        if self.job is not None:
            self.job.found.cancel()
            self.job = None

    def close(self) -> None:
        """End as soon as what runs has ended."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    """Leave the other cores to the queries."""
    torch.set_num_threads(1)
