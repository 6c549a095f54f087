"""Where training runs: the device, and the ranks that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from intune_gpu.core.gpu import find_driver
from intune_gpu.train.device import GpuReport, choose, look


@dataclass(frozen=True)
class Place:
    """One process among those that train together.

    Attributes:
        device: of the model.
        rank: of this process, from 0.
        world_size: number of processes.
        local_world_size: of them on this machine.
        placement: share of the preprocessing that the GPU does, 0 to 1.
        notes: lines for the user on how the device was chosen.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    placement: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The device, in words."""
        if self.device.type == "cpu":
            return "cpu"
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    def any(self, flag: int) -> int:
        """Return the largest value among all ranks; a collective call."""
        return int(self._reduced(flag, dist.ReduceOp.MAX))

    def sum(self, value: int) -> int:
        """Return the sum over all ranks; a collective call."""
        return int(self._reduced(value, dist.ReduceOp.SUM))

    def wait(self) -> None:
        """Wait for all ranks; a collective call."""
        self.sum(0)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of all ranks, one behind the other; a collective call.

        Args:
            values: (N,) on any device, N free to differ by rank.
        """
        if self.world_size == 1:
            return values
        longest = self.any(len(values))
        padded = values.new_zeros(longest, device=self.device)
        padded[: len(values)] = values
        lengths = [self.sum(len(values) if rank == self.rank else 0) for rank in range(self.world_size)]
        everyone = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(everyone, padded)
        return torch.cat([part[:length] for part, length in zip(everyone, lengths, strict=True)])

    def _reduced(self, value: int, op: dist.ReduceOp.RedOpType) -> int:
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.int64, device=self.device)
        dist.all_reduce(tensor, op)
        return int(tensor.item())


@contextmanager
def joined(device: str, placement: float | None = None) -> Iterator[Place]:
    """Join the ranks that torchrun started, or be the only one.

    Args:
        device: `"auto"`, `"cpu"` or `"cuda"`.
        placement: share of the preprocessing that the GPU is to do; None takes all of it where there is one.

    Raises:
        UsageError: what was asked for cannot be had here; the sentence says what is missing.
    """
    rank, world_size, local_rank, local_world_size = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )

    def looked(compiles: bool) -> GpuReport:
        return look(find_driver(), compiles=compiles, ranks=local_world_size, local_rank=local_rank)

    choice = choose(device, placement, looked)
    where = torch.device("cpu")
    if choice.kind == "cuda":
        where = torch.device("cuda", local_rank)
        torch.cuda.set_device(where)
    backend = "nccl" if choice.kind == "cuda" else "gloo"
    if world_size > 1:
        dist.init_process_group(backend)
    else:
        # One process needs no network: no port that could be taken, no host name that could be unknown.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        yield Place(where, rank, world_size, local_world_size, choice.placement, choice.notes)
    finally:
        dist.destroy_process_group()
