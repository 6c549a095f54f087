"""What DALI calls to make a batch of packed rows: in host memory, or on a GPU with kernels on DALI's own stream.

DALI is given back eight bytes; the batch goes beside it. DALI would copy it into memory of its own, with Python's
interpreter held meanwhile, and hand on no more than that copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from nvidia.dali import fn, ops
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined]

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.errors import RecipeError
from intune_gpu.dali.packing import Bytes, Memory, Packed, number_of, unpack, unpack_at
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.gpu.device import CudaDevice, Device, Mark
from intune_gpu.engine.gpu.masks import without_cuda
from intune_gpu.engine.gpu.program import GpuProgram, OnDevice
from intune_gpu.engine.program import Program
from intune_gpu.kernels.denormals import denormals_kept

NUMBER_BYTES = 8
Opened = Callable[[torch.device, int], Device]
Ahead = Mapping[int, Packed]
"""Number of a sample → what of it is not bytes, in the order in which DALI was given them."""


class Stage(Protocol):
    """Makes batches inside DALI. It must not lead to the pipeline: Python's collector does not see DALI's references.

    Attributes:
        device_id: of the pipeline; None for host memory.
        memory: where raw rows are packed.
    """

    @property
    def device_id(self) -> int | None:
        """Of the pipeline; None for host memory."""
        ...

    @property
    def memory(self) -> Memory:
        """Where raw rows are packed."""
        ...

    def operator(self, raw: Any, ahead: Ahead) -> Any:
        """Add what makes batches to the pipeline that is being defined; return a node that is ready when they are.

        Args:
            raw: node of packed rows, (bytes,) uint8, a batch a sample.
            ahead: of these rows.
        """
        ...

    def stream(self) -> Any:
        """Return the caller's stream, which waits for outputs in place of the caller; None where there is none."""
        ...

    def take(self, number: int, packed: Packed) -> Batch | Exception:
        """Return the batch that was made of a sample, for the caller's stream, or what went wrong with it."""
        ...

    def clear(self) -> None:
        """Forget what nobody took, once DALI has ended the epoch."""
        ...


def current_stream() -> int:
    """Return the handle of the stream on which DALI runs the operator that calls this."""
    return int(ops.PythonFunction.current_stream().ptr or 0)  # type: ignore[attr-defined]


class HostStage:
    """Makes batches in host memory, in a thread of DALI's.

    Args:
        program: of the recipe.
        pool: where raw rows are packed.
    """

    device_id = None

    def __init__(self, program: Program, pool: BufferPool) -> None:
        self.memory: Memory = pool
        self._program = program
        self._made: dict[int, Batch | Exception] = {}
        self._ahead: Ahead = {}

    def operator(self, raw: Any, ahead: Ahead) -> Any:
        """Add a Python operator."""
        self._ahead = ahead
        return fn.python_function(raw, function=self.run)

    def run(self, buffer: Bytes) -> Bytes:
        """Make a batch of a sample; return its number."""
        number = number_of(buffer)
        try:
            with denormals_kept():
                self._made[number] = self._program.run(unpack(buffer, self._ahead[number]))
        except Exception as error:  # raised in place of its batch; inside DALI it would end those before it, too
            self._made[number] = error
        return buffer[:NUMBER_BYTES]

    def stream(self) -> None:
        """There is none."""
        return

    def take(self, number: int, packed: Packed) -> Batch | Exception:
        """Return what was made."""
        return self._made.pop(number)

    def clear(self) -> None:
        """Forget what nobody took."""
        self._made.clear()


class DeviceStage:
    """Makes batches on a GPU: launches go to DALI's stream, behind DALI's copy of the packed rows, and nobody waits.

    Args:
        program: of the recipe.
        device_id: of the GPU.
        slots: batches that are on their way at once; where the GPU is further behind, the oldest is waited for.
        opened: makes the device that works on a stream, of where that is and the stream's handle.

    Raises:
        RecipeError: the recipe has an op without a CUDA form.
    """

    backend = "gpu"

    def __init__(self, program: Program, device_id: int, slots: int, opened: Opened = CudaDevice) -> None:
        on_cpu = without_cuda(program)
        if on_cpu:
            raise RecipeError(
                f"recipe: expected ops that a GPU can do, since inside DALI a batch is made in one place, found the "
                f"group {min(on_cpu)!r}, which only the CPU can make; use device_id=None"
            )
        self.device_id: int | None = device_id
        self.memory: Memory = PageLocked()
        self._program, self._slots = program, slots
        self._opened = opened
        self._programs: dict[int, GpuProgram] = {}
        self._made: dict[int, tuple[OnDevice, Device] | Exception] = {}
        self._read: deque[tuple[Mark, Packed]] = deque()
        self._failed: list[Packed] = []
        self._ahead: Ahead = {}
        self._number = 0

    def operator(self, raw: Any, ahead: Ahead) -> Any:
        """Add a copy to the GPU, and a Python operator that is given memory there and does not wait for it."""
        self._ahead = ahead
        there = raw.gpu() if self.backend == "gpu" else raw
        return fn.dl_tensor_python_function(
            there, function=self.run, device=self.backend, synchronize_stream=False, batch_processing=True
        )

    def run(self, samples: Sequence[Any]) -> list[Any]:
        """Launch what makes batches of the samples, DLPack capsules; return the first bytes of each as another one."""
        return [self._launched(from_dlpack(sample)) for sample in samples]

    def _launched(self, there: torch.Tensor) -> Any:
        self._number += 1  # samples come in the order in which DALI was given them; their numbers stand on the GPU
        number = self._number
        try:
            program = self._program_on(current_stream(), there.device)
            self._made[number] = program.run_at(unpack_at(self._ahead[number], there.data_ptr())), program.device
        except Exception as error:  # raised in place of its batch
            self._made[number] = error
        return to_dlpack(there[:NUMBER_BYTES])

    def stream(self) -> Any:
        """Return torch's current stream."""
        return torch.cuda.current_stream(self.device_id)

    def take(self, number: int, packed: Packed) -> Batch | Exception:
        """Return the batch, for the caller's stream."""
        made = self._made.pop(number)
        while self._read and self._read[0][0].reached():
            self._read.popleft()
        if isinstance(made, Exception):
            self._failed.append(packed)
            return made
        done, device = made
        self._read.append((done.mark, packed))  # DALI may still be copying it
        done.mark.before_current_stream()
        for tensor in (done.batch.label, done.batch.sparse.lengths()):
            device.used_by_current_stream(tensor)  # a batch is one piece of memory, shared lengths another
        return done.batch

    def clear(self) -> None:
        """Forget what nobody took; wait until what was taken is made, so that raw rows may go."""
        for mark, _ in self._read:
            mark.wait()
        self._read.clear()
        self._made.clear()
        self._failed.clear()

    def _program_on(self, stream: int, where: torch.device) -> GpuProgram:
        program = self._programs.get(stream)
        if program is None:
            device = self._opened(where, stream)
            program = self._programs[stream] = GpuProgram(self._program, device, slots=self._slots)
        return program


class PageLocked:
    """Page-locked memory, from which a GPU copies while the host goes on; torch keeps what is let go for the next."""

    def take(self, nbytes: int) -> Bytes:
        """Return (nbytes,) uint8 with unspecified content."""
        memory: Bytes = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
        return memory
