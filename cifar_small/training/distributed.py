"""One run over several processes, started by torchrun: which rank this is, and what ranks exchange.

Without torchrun there is one rank and nothing here does anything. The run is the one its config describes: rank r takes the
r-th share of every global batch. Rank 0 alone writes, and its BatchNorm statistics are the ones that count.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

# Before there is a group: its default arguments keep the group of the time when it is imported, which DistributedDataParallel
# does, and a group that is never freed has threads that are still there when the interpreter ends.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from cifar_small.environment import usable_cores
from cifar_small.errors import ConfigError, UserError


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Is this the rank that writes files and prints?"""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Our part of `count` things that every rank has; the parts differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def first_then_all(self, check: Callable[[], bool]) -> bool:
        """The answer of rank 0's `check`, on every rank. An error of the user (UserError) there is raised on all."""
        answer, refused = torch.zeros(2, dtype=torch.int64), None
        if self.first:
            try:
                answer[0] = check()
            except UserError as error:
                refused, answer[1] = error, 1
        self.broadcast(answer)
        if refused is not None:
            raise refused
        if answer[1]:
            raise UserError("rank 0 rejected this run; see its error")
        return bool(answer[0])

    def require_same(self, facts: str, what: str, advice: str) -> None:
        """Raise UserError on every rank where rank 0 has other facts; processes of different runs must not be mixed."""
        ours = torch.tensor(list(hashlib.sha256(facts.encode()).digest()), dtype=torch.int64)
        theirs = ours.clone()
        self.broadcast(theirs)
        if not torch.equal(ours, theirs):
            raise UserError(f"rank {self.rank} has a different {what} from rank 0; {advice}")

    def any(self, here: bool, device: torch.device) -> bool:
        """Is `here` true on any rank? Every rank must ask; waits for the device."""
        if self.size == 1:
            return here
        return bool(self.sum(torch.tensor([float(here)], device=device)).item())

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def collect(self, tensor: Tensor) -> None:
        """Let rank 0 hold the sum over ranks, the others zeros, in place."""
        if self.size > 1:
            self.sum(tensor)
            tensor *= self.first

    def broadcast(self, *tensors: Tensor) -> None:
        """Give every rank the values of rank 0, in place."""
        for tensor in tensors if self.size > 1 else ():
            if dist.get_backend() == "nccl" and not tensor.is_cuda:
                moved = tensor.cuda()
                dist.broadcast(moved, 0)
                tensor.copy_(moved)
            else:
                dist.broadcast(tensor, 0)

    def gather(self, part: Tensor, count: int) -> Tensor:
        """All parts of `count` rows, of which `part` is our `share`, in order."""
        if self.size == 1:
            return part
        longest = -(-count // self.size)
        padded = part.new_zeros(longest, *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        lengths = [World(rank, self.size).share(count) for rank in range(self.size)]
        return torch.cat([rows[: share.stop - share.start] for rows, share in zip(parts, lengths, strict=True)])


SINGLE_PROCESS = World()
LET_GO = 1.0  # seconds, for what takes microseconds on an idle machine


def share_batch(batch_size: int, micro_batch_size: int | None, size: int, *, synced: bool = False) -> int:
    """Images that go through the net at once in each of `size` processes.

    synced: do the processes share BatchNorm's statistics? Raises ConfigError when the processes, or the micro-batches of each,
    do not divide the batch, or where each is left a single image.
    """
    share, rest = divmod(batch_size, max(1, size))
    micro = micro_batch_size or share
    if rest or not micro or share % micro:
        what = f" in slices of engine.micro_batch_size {micro}" if micro_batch_size else ""
        raise ConfigError(
            f"batch_size {batch_size} cannot be shared by {size} processes{what}; use another number of processes, or a "
            f"batch_size that is a multiple of {size * (micro_batch_size or 1)}"
        )
    if micro < 2 and not synced:
        raise ConfigError(
            f"batch_size {batch_size} leaves each of {size} processes a single image, of which BatchNorm has no statistics; "
            f"expected at least two: use a batch_size of {2 * size} or more, fewer processes, or engine.sync_batchnorm: true"
        )
    return micro


def refuse_one_gpu(device_name: str, size: int) -> None:
    """Raise UserError if several processes were given one GPU by its number."""
    if size > 1 and device_name.startswith("cuda:"):
        raise UserError(f"engine.device is {device_name}, one GPU, but {size} processes need one each; use cuda or auto")


@contextmanager
def joined(device_name: str) -> Iterator[World]:
    """Join the processes torchrun started (RANK, WORLD_SIZE ... in the environment), or be alone; leave in the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    keys = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [key for key in keys if key not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} but {', '.join(missing)} is not set; start the processes by torchrun, "
            "or unset WORLD_SIZE to train in this one"
        )
    world = World(*(int(os.environ[key]) for key in keys[:4]))
    refuse_one_gpu(device_name, world.size)
    on_gpu = device_name != "cpu" and torch.cuda.is_available()
    if on_gpu:
        if world.local_size > torch.cuda.device_count():
            raise UserError(
                f"{world.local_size} processes on a machine with {torch.cuda.device_count()} GPUs; expected at most one "
                "process per GPU: start fewer, or set engine.device to cpu"
            )
        torch.cuda.set_device(world.local_rank)
    else:
        # torchrun gives each process one thread; share the cores that this job may use instead.
        torch.set_num_threads(max(1, usable_cores() // world.local_size))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield world
    finally:
        # Gloo's threads let go of a tensor a moment after its collective is done, and need the interpreter's lock for it. Who
        # frees the group holds that lock while waiting for them, and so does an interpreter that ends: let them have it before.
        time.sleep(LET_GO)
        dist.destroy_process_group()


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose training statistics are those of the images of all ranks, on any device (torch's own wants a GPU).

    The mean is exchanged before the squares are taken, so nothing cancels; gradients flow through both exchanges.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        count = torch.tensor([x.numel() / x.shape[1]], device=x.device)
        totals = _sum_over_ranks(torch.cat((x.sum((0, 2, 3)), count)))
        mean, number = totals[:-1] / totals[-1], totals[-1].detach()
        centered = x - mean.view(1, -1, 1, 1)
        variance = _sum_over_ranks((centered**2).sum((0, 2, 3))) / number
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum  # None: the plain mean
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (number / (number - 1)), share)
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (centered * scale.view(1, -1, 1, 1)).to(input.dtype)
        scale = self.weight * scale
        return (centered * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(input.dtype)


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks; each rank's loss depends on every rank's part, so the gradient is a sum over ranks too."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        """Sum tensors of one shape."""
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Sum the ranks' gradients."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_ranks(part: Tensor) -> Tensor:
    summed: Tensor = _SumOverRanks.apply(part)  # type: ignore[no-untyped-call]
    return summed


def average_gradients(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The net with its gradients averaged over ranks in every backward pass; BatchNorm statistics stay each rank's own."""
    # Newer torch has another name for the same switch and warns of the old one.
    newer = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    own_statistics = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, **own_statistics)  # type: ignore[arg-type]


def synchronize_batchnorm(model: nn.Module) -> None:
    """Let every BatchNorm of the net see the images of all ranks, in place; its parameters and names stay.

    Raises ConfigError for a net with other kinds of BatchNorm, such as timm's, which has the activation in it, or that of
    vectors, and for one whose BatchNorm keeps no running statistics.
    """
    made: dict[nn.Module, nn.Module] = {}  # one for each, at all the places where it stands
    for place, child in list(model.named_modules(remove_duplicate=False)):
        if isinstance(child, _BatchNorm) and child.running_mean is None:
            raise ConfigError(
                f"engine.sync_batchnorm needs running statistics, and {place} of this net keeps none "
                "(track_running_stats=False); set it to false, or let the layer keep them"
            )
        if type(child) is nn.BatchNorm2d and place:
            parent, _, name = place.rpartition(".")
            if child not in made:
                made[child] = _synced(child)
            setattr(model.get_submodule(parent), name, made[child])
        elif isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
            raise ConfigError(
                f"engine.sync_batchnorm cannot synchronize the {type(child).__name__} of this net; set it to "
                "false, so that each process has its own statistics"
            )


def _synced(norm: nn.BatchNorm2d) -> nn.Module:
    assert norm.running_mean is not None
    device = norm.running_mean.device
    kind = nn.SyncBatchNorm if device.type == "cuda" else SyncedBatchNorm2d
    synced = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, device=device)
    synced.weight, synced.bias = norm.weight, norm.bias
    synced.load_state_dict(norm.state_dict())
    return synced
