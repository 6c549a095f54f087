"""A table in memory to one batch on a device; columns may be on the device already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.dlpack import from_dlpack

from intune_gpu.core.arrow import columns_from_mapping
from intune_gpu.core.errors import BadRowError, DataError
from intune_gpu.core.placement import ALL_ON_GPU
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.program import GpuProgram
from intune_gpu.engine.transform import Prepared, prepare
from intune_gpu.kernels.denormals import denormals_kept
from intune_gpu.recipe import Recipe

_CUDA = 2  # kDLCUDA of DLPack
_HELD = {
    torch.bool: np.uint8,
    torch.float16: np.float32,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.uint8: np.uint8,
    torch.uint16: np.uint16,
    torch.uint32: np.uint32,
    torch.uint64: np.uint64,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
}


def is_there(values: Any) -> bool:
    """Whether an array, such as CuPy's or torch's, is in the memory of a CUDA device."""
    if hasattr(values, "__cuda_array_interface__"):
        return True
    return hasattr(values, "__dlpack_device__") and int(values.__dlpack_device__()[0]) == _CUDA


def transform_on(
    device: Device, table: pa.Table | pa.RecordBatch | Mapping[str, Any], recipe: Recipe, index_dtype: str = "int64"
) -> Batch:
    """Turn a table into one batch on a device.

    Args:
        device: where the batch comes to stand.
        table: as `engine.transform.transform` takes it; of a mapping, arrays that are on the device stay there.
        recipe: what to compute.
        index_dtype: "int64" or "int32".

    Raises:
        RecipeError: the recipe does not fit the table.
        DataError: a column is missing, or of a type that cannot be used.
        BadRowError: a label is missing or not finite, or an id is not 1 to 8 hex digits.
        DeviceMemoryError: the device has no room.
    """
    resident: dict[str, torch.Tensor] = {}
    if isinstance(table, Mapping):
        resident = {name: _tensor(name, values) for name, values in table.items() if is_there(values)}
        stand_ins = {name: np.zeros(len(tensor), _HELD[tensor.dtype]) for name, tensor in resident.items()}
        table = columns_from_mapping({**table, **stand_ins})  # memory that nobody touches costs nothing
    prepared = prepare(table, recipe, index_dtype)
    resident = {name: _as_flat(tensor, name, recipe) for name, tensor in resident.items() if name in recipe.columns}
    _check_label(resident.get(recipe.label), recipe.label)
    return _run(device, prepared, resident)


def _run(device: Device, prepared: Prepared, resident: Mapping[str, torch.Tensor]) -> Batch:
    program = GpuProgram(prepared.program, device, ALL_ON_GPU, slots=1)
    with denormals_kept():
        made = program.run(prepared.raw, resident)
    made.mark.before_current_stream()
    for tensor in (made.batch.label, made.batch.sparse.lengths()):
        device.used_by_current_stream(tensor)
    made.mark.wait()  # what the columns on the device are read from may go when this returns
    return made.batch


def _tensor(name: str, values: Any) -> torch.Tensor:
    tensor = from_dlpack(values) if not isinstance(values, torch.Tensor) else values
    if tensor.ndim != 1 or tensor.dtype not in _HELD:
        raise DataError(
            f"column {name!r}: expected one number or boolean a row on the device, found {tuple(tensor.shape)} of "
            f"{tensor.dtype}; give lists and strings in host memory, as an Arrow array"
        )
    return tensor.detach().contiguous()


def _as_flat(tensor: torch.Tensor, name: str, recipe: Recipe) -> torch.Tensor:
    """Return a column as its flat type: booleans as bytes, halves as float32, ids declared hex32 modulo 2**32."""
    if recipe.types.get(name) == "hex32":
        return tensor.to(torch.int64).bitwise_and(0xFFFFFFFF).to(torch.uint32)
    if tensor.dtype == torch.bool:
        return tensor.view(torch.uint8)
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _check_label(label: torch.Tensor | None, name: str) -> None:
    if label is None or not label.is_floating_point():
        return
    wrong = ~label.isfinite()
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise BadRowError(
            f"table: row {row}, column {name!r}: expected a finite label, found {float(label[row])} "
            f"({int(wrong.sum())} such rows); mend or drop it before the transform"
        )
