"""Work that is shared among the workers of a cluster (Dask), processes with one thread each.

The cluster is trusted: Dask sends Python objects as pickles between its processes. A worker that
dies costs the part that it was at: another one does it again.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from data_prep.errors import MaptileError

LOCAL = "local"
"""The name of a cluster of processes on this machine."""
AHEAD = 3
"""Parts per worker that are sent before the first of them is back."""
CONNECT_S = 15
"""Seconds after which a cluster counts as not there."""

Shared = TypeVar("Shared")
Part = TypeVar("Part")
Result = TypeVar("Result")


class Workers:
    """The workers of a cluster, or this process alone; ``connected`` returns them.

    Args:
        cluster: The cluster as the user names it, for messages; None: this process.
        distributed: Dask's library.
        client: Its client; None: this process.

    Attributes:
        count: Number of workers when the cluster was connected.
        threads: Threads of each worker; 0: as many as there are cores.
    """

    def __init__(
        self, cluster: str | None = None, distributed: Any = None, client: Any = None
    ) -> None:
        self._cluster, self._distributed, self._client = cluster, distributed, client
        self.count = 1 if client is None else len(client.nthreads())
        self.threads = 0 if client is None else 1

    @property
    def alone(self) -> bool:
        """Whether there is no cluster: all work is done in this process."""
        return self._client is None

    def each(
        self, work: Callable[[Shared, Part], Result], shared: Shared, parts: Iterable[Part]
    ) -> Iterator[Result]:
        """The results of ``work(shared, part)`` for all parts, in their order.

        At most ``AHEAD`` parts and results per worker are held at a time.

        Args:
            work: A function of a module. Its result depends on its arguments only.
            shared: What all parts need; it is sent to each worker once.
            parts: The parts.

        Raises:
            MaptileError: A part ended several workers, or a worker raises it.
        """
        if self.alone:
            yield from (work(shared, part) for part in parts)
            return
        kept = self._client.submit(_itself, shared, pure=False)
        waiting: deque[Any] = deque()
        for part in parts:
            waiting.append(self._client.submit(work, kept, part, pure=False))
            if len(waiting) >= AHEAD * self.count:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def _result(self, future: Any) -> Any:
        try:
            return future.result()
        except self._distributed.KilledWorker:
            raise MaptileError(
                f"--cluster {self._cluster}: a part of the work ended several workers; is their "
                "memory enough?"
            ) from None


def _itself(value: Shared) -> Shared:
    """The argument: a result that Dask makes again where a worker that held it died."""
    return value


@contextmanager
def connected(cluster: str | None) -> Iterator[Workers]:
    """The workers of a cluster; a local one ends with the context.

    Args:
        cluster: "local", "local:N" for N processes on this machine, or the address of a scheduler
            of Dask (tcp://host:8786). None: the work is done in this process.

    Raises:
        MaptileError: Dask is not installed, there is no such cluster, or it has no workers.
    """
    if cluster is None:
        yield Workers()
        return
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise MaptileError("--cluster needs Dask: pip install 'maptile-loc[cluster]'") from None
    dask: Any = importlib.import_module("dask")
    large = dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})
    with large, _client(cluster, distributed) as client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError:
            raise MaptileError(
                f"--cluster {cluster}: no worker is connected to the scheduler; start one with: "
                f"dask worker {cluster} --nthreads 1"
            ) from None
        yield Workers(cluster, distributed, client)


@contextmanager
def _client(cluster: str, distributed: Any) -> Iterator[Any]:
    """A client of a cluster."""
    name, _, number = cluster.partition(":")
    if name == LOCAL:
        made = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.ERROR}
        try:
            here = distributed.LocalCluster(n_workers=_count(cluster, number), **made)
        except RuntimeError as error:
            raise MaptileError(
                f"--cluster {cluster}: its processes do not start ({error}); a script needs "
                'if __name__ == "__main__": around its work'
            ) from None
        with here, distributed.Client(here) as client:
            yield client
        return
    try:
        client = distributed.Client(cluster, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise MaptileError(
            f"--cluster {cluster}: no scheduler of Dask answers there ({error}); give local:N, or "
            "the address that dask scheduler prints"
        ) from None
    with client:
        yield client


def _count(cluster: str, number: str) -> int | None:
    """The number of processes of a local cluster; None: as many as there are cores."""
    if not number:
        return None
    if not number.isdecimal() or int(number) < 1:
        raise MaptileError(f"--cluster {cluster}: give local, local:N or an address")
    return int(number)
