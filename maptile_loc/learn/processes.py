"""A training that several processes of this machine share: each learns from a part of each batch.

The processes are Lightning's, by ``DistributedDataParallel`` on gloo. Batches, and what batch norms
measure of them, do not depend on the number of processes; so weights differ by rounding only.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from data_prep.errors import MaptileError
from maptile_loc.models.parts.tile_model import Batch

FOLLOW = "from maptile_loc.learn.loop import follow; follow()"
"""The program of each process besides the first."""
READY = "ready"
"""The line that such a process writes when it can begin."""
ENDS_S = 0.5
"""Seconds after which a process that lost its connections has ended."""
ADDRESS = "127.0.0.1"
"""The processes are on this machine."""


class Team(NamedTuple):
    """The processes of a training, and which of them this one is.

    Attributes:
        rank: The number of this process, from 0.
        size: Number of processes.
        port: The port of the first one's address.
    """

    rank: int = 0
    size: int = 1
    port: int = 0

    def strategy(self) -> Any:
        """The argument of the same name of a Lightning ``Trainer``."""
        if self.size == 1:
            return "auto"
        environment = _Environment(self)
        return DDPStrategy(
            cluster_environment=environment,
            process_group_backend="gloo",
            find_unused_parameters=True,  # MapNet's relative term counts later
        )


class _Environment(LightningEnvironment):
    """States to Lightning which process this is; all of them were started by ``beside``."""

    def __init__(self, team: Team) -> None:
        super().__init__()
        self._team = team

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return ADDRESS

    @property
    def main_port(self) -> int:
        return self._team.port

    def local_rank(self) -> int:
        return self._team.rank


@contextmanager
def beside(count: int, job: dict[str, Any]) -> Iterator[Team]:
    """The processes of a training, all but this one started; they end with the context.

    Args:
        count: Number of processes.
        job: What ``loop.follow`` needs, as JSON holds it.

    Raises:
        MaptileError: One of them does not start, or ends before this one.
    """
    if count == 1:
        yield Team()
        return
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        port: int = free.getsockname()[1]
    others = [_start(job | {"team": [rank, count, port]}) for rank in range(1, count)]
    try:
        for process in others:
            assert process.stdout is not None
            with process.stdout:
                said = process.stdout.readline().strip()
            if said != READY:
                raise MaptileError(f"--processes {count}: one does not start: {said or 'killed'}")
        yield Team(0, count, port)
    except RuntimeError as error:
        time.sleep(ENDS_S)
        if all(process.poll() is None for process in others):
            raise
        raise MaptileError(
            f"--processes {count}: one of them ended; the same command continues from the last "
            "checkpoint"
        ) from error
    finally:
        for process in others:
            process.kill()
            process.wait()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _start(job: dict[str, Any]) -> subprocess.Popen[str]:
    """A process that follows. Ctrl-C is not sent to it, so the first process decides what ends."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", FOLLOW]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, **pipes, stderr=quiet, text=True, start_new_session=True)
    assert process.stdin is not None
    json.dump(job, process.stdin)
    process.stdin.close()
    return process


class SharedBatches:
    """The batches of an epoch, a part of each in each process.

    The processes take turns to make the batches: each makes whole ones.

    Args:
        own: The batches that this process makes.
        first: Returns the number of the epoch's first batch.
        batches: Batches per epoch.
        team: The processes.
    """

    def __init__(self, own: DataLoader[Batch], first: Any, batches: int, team: Team) -> None:
        self.own, self.first, self.batches, self.team = own, first, batches, team

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        first, own = self.first(), iter(self.own)
        for number in range(first, first + self.batches):
            maker = number % self.team.size
            parts: list[Batch] | None = None
            if maker == self.team.rank:
                parts = parts_of(Batch(*next(own)), self.team.size)
            mine: list[Any] = [None]
            distributed.scatter_object_list(mine, parts, src=maker)
            yield mine[0]


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """The batch in ``count`` equal parts of its tuples."""
    parts = zip(*(values.chunk(count) for values in batch), strict=True)
    return [Batch(*(values.clone() for values in part)) for part in parts]


class SharedNorm(_BatchNorm):
    """A batch norm that measures mean and variance over the parts of all processes.

    Torch's ``SyncBatchNorm`` does so on a GPU only.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same, normalised per channel."""
        if not self.training:
            return super().forward(input)
        input = input.float()
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        mean = _mean(input.mean(axes))
        centred = input - mean.view(shape)
        variance = _mean(centred.square().mean(axes))
        values = input.numel() // input.shape[1] * distributed.get_world_size()
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * (values / (values - 1)), self.momentum or 0.0)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(shape) + self.bias.view(shape)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _mean(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes."""
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


def with_shared_norms(module: nn.Module) -> None:
    """Replace the batch norms in a module; names and values of its weights stay."""
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            shared = SharedNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared)
        else:
            with_shared_norms(child)
