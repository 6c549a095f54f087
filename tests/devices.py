"""A device in host memory, for the executor: the same kernels, compiled for the CPU, on streams that do nothing yet.

What is given to a stream is kept, and done only when somebody waits: in an order that is drawn anew each time among all
those that two streams allow. So an event that is missing, or a slot that is written too early, shows as wrong bytes.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from intune_gpu.engine.gpu.clock import StreamClock
from intune_gpu.engine.gpu.device import DeviceMemoryError
from intune_gpu.engine.stages import StreamTimes
from intune_gpu.kernels.launching import THREADS, Kernel, grid, tiles_of

EMULATED_THREADS = 3
"""Of a launch over rows and features: enough to see that threads share the rows."""


def emulate(kernel: Kernel, blocks: tuple[int, int], arguments: Sequence[Any]) -> None:
    """Run a kernel's phases on the CPU, thread by thread."""
    arguments = tuple(np.int64(a) if isinstance(a, int) else a for a in arguments)
    if kernel.tile:
        features = int(np.ctypeslib.as_array((np.ctypeslib.ctypes.c_int64 * 1).from_address(int(arguments[0])))[0])
        tile = np.empty(kernel.tile, np.float32)
        for t in range(tiles_of(int(arguments[2]), features)):
            tile.fill(np.nan)
            for phase in kernel.phases:
                for thread in range(THREADS):
                    phase(*arguments, t, thread, tile)
        return
    for f in range(blocks[1]):
        for thread in range(EMULATED_THREADS):
            for phase in kernel.phases:
                phase(*arguments, f, thread, EMULATED_THREADS)


class HostEvent:
    """A timed moment on a stream of a `HostDevice`, whose clock goes on by a millisecond with each piece of work."""

    def __init__(self) -> None:
        self.at_ms: int | None = None

    def query(self) -> bool:
        return self.at_ms is not None

    def elapsed_time(self, end: HostEvent, /) -> float:
        assert self.at_ms is not None
        assert end.at_ms is not None
        return float(end.at_ms - self.at_ms)


class HostMark:
    """A moment on the transform stream of a `HostDevice`."""

    def __init__(self, device: HostDevice, place: int) -> None:
        self._device, self._place = device, place

    def reached(self) -> bool:
        return self._device.done >= self._place

    def wait(self) -> None:
        self._device.work_until(self._place)

    def before_current_stream(self) -> None:
        self._device.work_until(self._place)  # the caller's "stream" does at once what it is given


class HostDevice:
    """Implements `engine.gpu.device.Device`.

    Args:
        seed: of the order in which streams work.
        room_bytes: of device memory; None for as much as there is.
        eager: whether work is done at once.
    """

    def __init__(self, seed: int = 0, room_bytes: int | None = None, eager: bool = False) -> None:
        self.where = torch.device("cpu")
        self.launches: list[tuple[str, tuple[int, int]]] = []
        self.copies = 0
        self.given = self.done = 0
        self._room_bytes, self._eager, self._random = room_bytes, eager, random.Random(seed)
        self._copies: deque[Callable[[], Any]] = deque()
        self._transforms: deque[tuple[int, Callable[[], Any]]] = deque()  # with the copies that must have been done
        self._copied = self._copies_given = 0
        self._held: list[torch.Tensor] = []
        self._lock = threading.RLock()
        self.copied_ms = self.transformed_ms = 0
        self._copy_clock, self._transform_clock = StreamClock(self._time_copies), StreamClock(self._time_transforms)

    def pinned(self, nbytes: int) -> torch.Tensor:
        return _aligned(nbytes)

    def empty(self, nbytes: int) -> torch.Tensor:
        if self._room_bytes is not None and nbytes > self._room_bytes:
            raise DeviceMemoryError(f"{self.where}: no room for {nbytes} bytes")
        memory = _aligned(nbytes)
        memory.fill_(0xA5)  # what nobody wrote is nothing that could be right
        self._held.append(memory)  # torch frees what is let go behind the stream's work; here it is never free
        return memory

    def upload(self, host: torch.Tensor) -> torch.Tensor:
        there = self.empty(host.nbytes).view(host.dtype)
        return there.copy_(host.reshape(-1)).view(host.shape)

    def download(self, there: torch.Tensor) -> torch.Tensor:
        return there.clone()

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        def work() -> None:
            target.copy_(source)
            self.copied_ms += 1

        self._copy_clock.begin()
        with self._lock:
            self.copies += 1
            self._give_copies(work)
        self._copy_clock.end()
        self._transform_clock.begin()
        self._maybe_work()

    def transform(self, work: Callable[[], object]) -> None:
        def timed() -> None:
            work()
            self.transformed_ms += 1

        self._give_transforms(timed)
        self._maybe_work()

    def launch(self, kernel: Kernel, rows: int, features: int, *arguments: Any) -> None:
        blocks = grid(kernel, rows, features)
        self.launches.append((kernel.name, blocks))
        self.transform(lambda: emulate(kernel, blocks, arguments))

    def after_current_stream(self) -> None:
        """The caller's own stream has done everything."""

    def mark(self) -> HostMark:
        self._transform_clock.end()
        return HostMark(self, self.given)

    def used_by_current_stream(self, tensor: torch.Tensor) -> None:
        """Memory here lives as long as a tensor refers to it."""

    def free_bytes(self) -> int:
        return self._room_bytes or 1 << 40

    def times(self) -> StreamTimes:
        return StreamTimes(self._transform_clock.seconds(), self._copy_clock.seconds())

    def _time_copies(self, used: HostEvent | None) -> HostEvent:
        event = _again(used)
        self._give_copies(lambda: setattr(event, "at_ms", self.copied_ms))
        return event

    def _time_transforms(self, used: HostEvent | None) -> HostEvent:
        event = _again(used)
        self._give_transforms(lambda: setattr(event, "at_ms", self.transformed_ms))
        return event

    def _give_copies(self, work: Callable[[], Any]) -> None:
        with self._lock:
            self._copies_given += 1
            self._copies.append(work)

    def _give_transforms(self, work: Callable[[], Any]) -> None:
        with self._lock:
            self.given += 1
            self._transforms.append((self._copies_given, work))

    def work_until(self, place: int) -> None:
        """Let both streams work, in some order, until the transform stream has done so much."""
        with self._lock:
            while self.done < place:
                self._step()

    def _maybe_work(self) -> None:
        with self._lock:
            if self._eager:
                self.work_until(self.given)
            elif self._random.random() < 0.2:
                self._step()

    def _step(self) -> None:
        may_transform = bool(self._transforms) and self._transforms[0][0] <= self._copied
        if self._copies and (not may_transform or self._random.random() < 0.5):
            self._copies.popleft()()
            self._copied += 1
        elif may_transform:
            self._transforms.popleft()[1]()
            self.done += 1


def _again(used: HostEvent | None) -> HostEvent:
    event = HostEvent() if used is None else used
    event.at_ms = None
    return event


def _aligned(nbytes: int) -> torch.Tensor:
    memory = torch.empty(nbytes + 256, dtype=torch.uint8)
    begin = -memory.data_ptr() % 256
    return memory[begin : begin + nbytes]
