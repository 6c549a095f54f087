"""A recipe as a node over columns on the GPU: kernels go to DALI's stream, and the host waits for nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali import fn
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined]

from intune_gpu.core.columns import Addresses, ColumnType, RawBatch
from intune_gpu.core.errors import BadRowError, RecipeError
from intune_gpu.dali.stages import Opened, current_stream
from intune_gpu.engine.gpu.device import CudaDevice, Device, Mark
from intune_gpu.engine.gpu.masks import without_cuda
from intune_gpu.engine.gpu.program import GpuProgram
from intune_gpu.engine.program import Program
from intune_gpu.kernels.packing import ALIGNMENT
from intune_gpu.recipe import Recipe

SLOTS = 8
"""Batches that are on their way at once; where the GPU is further behind, the oldest is waited for."""
_PHYSICAL = {getattr(torch, n): n for n in ("int8", "int16", "int32", "int64", "uint8", "float32", "float64")}
_PHYSICAL |= {getattr(torch, name): name for name in ("uint16", "uint32", "uint64")} | {torch.bool: "uint8"}


class DeviceNode:
    """What DALI calls with the samples of each column, as DLPack capsules.

    Args:
        names: of the columns.
        recipe: what to compute.
        index_dtype: of the ids.
        opened: makes the device that works on a stream, of where that is and the stream's handle.
    """

    backend = "gpu"

    def __init__(
        self,
        names: Sequence[str],
        recipe: Recipe,
        index_dtype: str,
        opened: Opened = CudaDevice,
    ) -> None:
        self._names, self._recipe, self._index_dtype = tuple(names), recipe, index_dtype
        self._opened = opened
        self._devices: dict[int, Device] = {}
        self._programs: dict[Any, GpuProgram] = {}
        self._checks: deque[_Check] = deque()
        self._batches = 0

    def operator(self, nodes: Sequence[Any]) -> tuple[Any, ...]:
        """Add a Python operator that does not wait for its input; return dense, ids and label."""
        made: Any = fn.dl_tensor_python_function(
            *nodes,
            function=self.run,
            num_outputs=3,
            device=self.backend,
            synchronize_stream=False,
            batch_processing=True,
        )
        return tuple(made)

    def run(self, *inputs: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Return dense, ids and label, each with a capsule a sample."""
        self._look()
        samples = {name: [from_dlpack(one) for one in column] for name, column in zip(self._names, inputs, strict=True)}
        first, stream = samples[self._names[0]], current_stream()
        shapes = [sample.shape for sample in first]
        device = self._devices.get(stream)
        if device is None:
            device = self._devices[stream] = self._opened(first[0].device, stream)
        columns = {name: _joined(name, own, device) for name, own in samples.items()}
        dense, ids, label = self._made(columns, device, stream)
        if len(shapes) == 1:
            parts = [[dense], [ids], [label]]
        else:
            rows = [shape.numel() for shape in shapes]
            parts = [list(torch.split(tensor, rows)) for tensor in (dense, ids, label)]
        if shapes[0] == torch.Size([]):
            parts = [[one[0] for one in part] for part in parts]
        dense_parts, id_parts, label_parts = ([to_dlpack(one) for one in part] for part in parts)
        return dense_parts, id_parts, label_parts

    def _made(self, columns: dict[str, torch.Tensor], device: Device, stream: int) -> tuple[torch.Tensor, ...]:
        """Return dense (rows, D), ids (rows, F) and label (rows,), in memory of the device's stream."""
        label = columns.get(self._recipe.label)
        rows = len(next(iter(columns.values())))
        if label is None:
            label = device.empty(max(1, 4 * rows))[: 4 * rows].view(torch.float32)
            device.transform(partial(label.fill_, float("nan")))
        elif label.is_floating_point():
            self._check_later(label, device)
        columns = {**columns, self._recipe.label: label}
        program = self._program(columns, device, stream)
        table = np.zeros((len(columns), 4), np.int64)
        table[:, 0] = [tensor.data_ptr() for tensor in columns.values()]
        dtypes = tuple(np.dtype(program.program.physical[name]) for name in columns)
        step = np.zeros_like(table)
        step[:, 0] = [dtype.itemsize for dtype in dtypes]
        batch = program.run_at(RawBatch({}, rows, Addresses(tuple(columns), table, step, dtypes))).batch
        features = len(self._recipe.sparse_names)
        ids = device.empty(max(1, batch.sparse.values().nbytes))[: batch.sparse.values().nbytes]
        ids = ids.view(batch.sparse.values().dtype).view(rows, features)
        device.transform(lambda: ids.copy_(batch.sparse.values().view(features, rows).t()))
        return batch.dense, ids, batch.label

    def _program(self, columns: dict[str, torch.Tensor], device: Device, stream: int) -> GpuProgram:
        """Return the recipe compiled for columns of these types."""
        schema = {name: self._type(name, tensor.dtype) for name, tensor in columns.items()}
        key = stream, tuple(schema.items())
        known = self._programs.get(key)
        if known is None:
            program = Program(self._recipe, schema, self._index_dtype)
            on_cpu = without_cuda(program)
            if on_cpu:
                raise RecipeError(
                    f"recipe: expected ops that a GPU can do for columns on the GPU, found the group {min(on_cpu)!r}, "
                    "which only the CPU can make; give the columns on the CPU"
                )
            known = self._programs[key] = GpuProgram(program, device, slots=SLOTS)
        return known

    def _type(self, name: str, dtype: torch.dtype) -> ColumnType:
        physical, declared = _PHYSICAL.get(dtype), self._recipe.types.get(name)
        if declared == "hex32" and physical in ("int32", "uint32"):
            return ColumnType("uint32", nullable=False, hex32=True)
        if physical is None or declared == "hex32":
            wanted = (
                "int32 or uint32, since it is declared hex32" if declared == "hex32" else ", ".join(_PHYSICAL.values())
            )
            raise RecipeError(
                f"column {name!r}: expected {wanted}, found {dtype} on the GPU; cast it with nvidia.dali.fn.cast"
            )
        return ColumnType(physical, nullable=False)

    def _check_later(self, label: torch.Tensor, device: Device) -> None:
        """Ask the device whether all labels are finite, without waiting for the answer."""
        finite = device.empty(1)
        device.transform(lambda: finite.view(torch.bool).copy_(torch.isfinite(label).all()))
        self._checks.append(_Check(self._batches, finite, device.mark(), device))
        self._batches += 1

    def _look(self) -> None:
        """Look at the answers that have come.

        Raises:
            BadRowError: there was a label that is not finite.
        """
        while self._checks and self._checks[0].mark.reached():
            check = self._checks.popleft()
            if not bool(check.device.download(check.finite)[0]):
                raise BadRowError(
                    f"column {self._recipe.label!r}: expected finite labels, found one that is not in batch "
                    f"{check.batch} (from 0), which was given out already; mend or drop its row before the transform"
                )


class _Check(NamedTuple):
    """Whether the labels of a batch were finite: (1,) uint8 on the device, as soon as the mark is reached."""

    batch: int
    finite: torch.Tensor
    mark: Mark
    device: Device


def _joined(name: str, samples: Sequence[torch.Tensor], device: Device) -> torch.Tensor:
    """Return the numbers of all samples, (rows,): a sample that is alone stays where it is."""
    wrong = [tuple(sample.shape) for sample in samples if sample.ndim > 1]
    if wrong:
        raise RecipeError(
            f"column {name!r}: expected samples of one number or of (n,) numbers, found one of {wrong[0]}"
        )
    flat = [sample.reshape(-1) for sample in samples]
    if len(flat) == 1 and flat[0].is_contiguous() and flat[0].data_ptr() % ALIGNMENT == 0:
        return flat[0]
    nbytes = sum(sample.nbytes for sample in flat)
    out = device.empty(max(1, nbytes))[:nbytes].view(flat[0].dtype)
    device.transform(lambda: torch.cat(flat, out=out))
    return out
