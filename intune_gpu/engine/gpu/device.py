"""What the executor asks of a device: memory, two streams, launches, and marks to wait for.

Nothing here knows what is computed. Tests give the executor a device that lives in host memory, runs the same kernels
compiled for the CPU, and does what was asked of its streams as late, and in as odd an order, as streams allow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from intune_gpu.engine.gpu.clock import StreamClock
from intune_gpu.engine.stages import StreamTimes
from intune_gpu.kernels.launching import Kernel, grid


class DeviceMemoryError(MemoryError):
    """The device has no room for an allocation.

    Attributes:
        group: the group of features that asked for it; None where a batch as a whole did.
    """

    group: str | None = None


class Mark(Protocol):
    """A moment in the work of a device."""

    def reached(self) -> bool:
        """Whether all work given before it is done."""
        ...

    def wait(self) -> None:
        """Stop the calling thread until it is reached."""
        ...

    def before_current_stream(self) -> None:
        """Let what the caller gives to its own stream from now on begin behind it, without stopping the caller."""
        ...


class Device(Protocol):
    """One device as the executor sees it. Calls of one batch come together, under the executor's lock."""

    @property
    def where(self) -> torch.device:
        """Where its tensors are."""
        ...

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Return (nbytes,) uint8 of page-locked host memory, aligned to 256 bytes."""
        ...

    def empty(self, nbytes: int) -> torch.Tensor:
        """Return (nbytes,) uint8 on the device, aligned to 256 bytes, for work on the transform stream.

        Raises:
            DeviceMemoryError: there is no room.
        """
        ...

    def upload(self, host: torch.Tensor) -> torch.Tensor:
        """Return a copy on the device, complete for all streams; for what is kept, not for what comes with a batch."""
        ...

    def download(self, there: torch.Tensor) -> torch.Tensor:
        """Return a copy in host memory of what is complete; waits for no transform."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy page-locked memory to the device, on the copy stream; what follows on the transform stream waits."""
        ...

    def transform(self, work: Callable[[], object]) -> None:
        """Do torch operations on the transform stream."""
        ...

    def launch(self, kernel: Kernel, rows: int, features: int, *arguments: Any) -> None:
        """Launch a kernel on the transform stream."""
        ...

    def after_current_stream(self) -> None:
        """Let the transform stream wait for what the caller's own stream was given: for tensors that it made."""
        ...

    def mark(self) -> Mark:
        """Return a mark behind everything that was given to both streams."""
        ...

    def used_by_current_stream(self, tensor: torch.Tensor) -> None:
        """Keep a tensor's memory until what the caller's own stream was given so far, when it is let go, is done."""
        ...

    def free_bytes(self) -> int:
        """Bytes that could still be allocated."""
        ...

    def times(self) -> StreamTimes:
        """Return how long each stream worked, of what is done: from a `copy` to the `mark` behind it. Never waits."""
        ...


class CudaMark:
    """A CUDA event."""

    def __init__(self, event: torch.cuda.Event, device: torch.device) -> None:
        self._event, self._device = event, device

    def reached(self) -> bool:
        """Whether all work given before it is done."""
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Stop the calling thread until it is reached."""
        self._event.synchronize()

    def before_current_stream(self) -> None:
        """Let the caller's stream wait."""
        torch.cuda.current_stream(self._device).wait_event(self._event)


class CudaDevice:
    """An NVIDIA GPU: torch's memory, two streams of the lowest priority, Numba's kernels.

    Args:
        where: a CUDA device.
        stream: handle of somebody else's CUDA stream for transforms, in place of one of its own. Copies from
            page-locked memory stay on one of its own: torch notes the stream of such a copy, and asks it when the
            memory is let go, which may be after the other's end.
    """

    def __init__(self, where: torch.device, stream: int | None = None) -> None:
        from intune_gpu.kernels import cuda_launch  # asks for numba-cuda, which a CPU's user need not have

        index = torch.cuda.current_device() if where == torch.device("cuda") else where.index
        self.where = torch.device("cuda", index)
        # Higher numbers are lower priorities, and 0 is the lowest: training goes first on a stream of -1.
        self._copies = torch.cuda.Stream(self.where, priority=0)  # type: ignore[no-untyped-call]
        if stream is None:
            self._transforms = torch.cuda.Stream(self.where, priority=0)  # type: ignore[no-untyped-call]
        else:
            self._transforms = torch.cuda.ExternalStream(stream, device=self.where)  # type: ignore[no-untyped-call]
        self._launcher = cuda_launch.Launcher(index, self._transforms.cuda_stream)
        self._copy_clock, self._transform_clock = _clock(self._copies), _clock(self._transforms)

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Return (nbytes,) uint8 of page-locked host memory."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def empty(self, nbytes: int) -> torch.Tensor:
        """Return (nbytes,) uint8 on the device."""
        try:
            with torch.cuda.stream(self._transforms):
                return torch.empty(nbytes, dtype=torch.uint8, device=self.where)
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceMemoryError(f"{self.where}: no room for {nbytes} bytes") from error

    def upload(self, host: torch.Tensor) -> torch.Tensor:
        """Return a copy on the device."""
        try:
            with torch.cuda.stream(self._transforms):
                there = host.to(self.where)
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceMemoryError(f"{self.where}: no room for {host.nbytes} bytes") from error
        self._transforms.synchronize()
        return there

    def download(self, there: torch.Tensor) -> torch.Tensor:
        """Return a copy in host memory."""
        with torch.cuda.stream(self._copies):
            return there.cpu()

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy page-locked memory to the device."""
        with torch.cuda.stream(self._copies):
            self._copy_clock.begin()
            target.copy_(source, non_blocking=True)
            self._copy_clock.end()
        self._transforms.wait_stream(self._copies)
        self._transform_clock.begin()  # behind the copy, which is no work of this stream

    def transform(self, work: Callable[[], object]) -> None:
        """Do torch operations on the transform stream."""
        with torch.cuda.stream(self._transforms):
            work()

    def launch(self, kernel: Kernel, rows: int, features: int, *arguments: Any) -> None:
        """Launch a kernel on the transform stream."""
        blocks = grid(kernel, rows, features)
        if torch.cuda.current_device() == self.where.index:
            self._launcher.launch(kernel, blocks, kernel.threads, arguments)
        else:  # a worker thread of a rank that is not the first: its current device is still the first one
            with torch.cuda.device(self.where):
                self._launcher.launch(kernel, blocks, kernel.threads, arguments)

    def after_current_stream(self) -> None:
        """Let the transform stream wait for the caller's."""
        self._transforms.wait_stream(torch.cuda.current_stream(self.where))

    def mark(self) -> CudaMark:
        """Return a mark behind both streams' work: the transform stream waits for every copy."""
        self._transform_clock.end()
        return CudaMark(self._transforms.record_event(), self.where)

    def used_by_current_stream(self, tensor: torch.Tensor) -> None:
        """Tell torch's allocator."""
        tensor.record_stream(torch.cuda.current_stream(self.where))

    def free_bytes(self) -> int:
        """Bytes that are free, or idle in torch's allocator."""
        free, _ = torch.cuda.mem_get_info(self.where)
        return int(free + torch.cuda.memory_reserved(self.where) - torch.cuda.memory_allocated(self.where))

    def times(self) -> StreamTimes:
        """Return the streams' times, by CUDA events."""
        return StreamTimes(self._transform_clock.seconds(), self._copy_clock.seconds())


def _clock(stream: torch.cuda.Stream) -> StreamClock[torch.cuda.Event]:
    def record(event: torch.cuda.Event | None) -> torch.cuda.Event:
        again = torch.cuda.Event(enable_timing=True) if event is None else event  # type: ignore[no-untyped-call]
        stream.record_event(again)
        return again

    return StreamClock(record)
