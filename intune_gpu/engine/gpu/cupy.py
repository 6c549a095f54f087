"""CuPy beside torch: one pool of memory for both, and the sorted distinct values that fitted ops learn.

Results go to CuPy without a copy as they are: `cupy.from_dlpack(batch.dense)`, or `cupy.asarray(batch.dense)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from intune_gpu.core.packages import need

WHAT_FOR = "CuPy on the memory of torch"


@contextmanager
def torch_memory() -> Iterator[None]:
    """Let CuPy allocate from torch's pool while this lasts, so that neither keeps memory that the other lacks.

    An array that is made within keeps its memory for as long as it lives, also after the end. What CuPy held idle in
    its own pool before is given back to the device first.

    Raises:
        MissingPackageError: CuPy is not installed.
    """
    cupy = need("cupy", WHAT_FOR)
    cuda, before = cupy.cuda, cupy.cuda.get_allocator()
    cupy.get_default_memory_pool().free_all_blocks()
    cuda.set_allocator(cuda.PythonFunctionAllocator(_allocate, _free).malloc)
    try:
        yield
    finally:
        cuda.set_allocator(before)


def _allocate(nbytes: int, device: int) -> int:
    """Return the address of memory on the caller's CuPy stream, which torch then takes for its own."""
    stream = need("cupy", WHAT_FOR).cuda.get_current_stream().ptr
    return int(torch.cuda.caching_allocator_alloc(nbytes, device, stream))


def _free(address: int, device: int) -> None:
    torch.cuda.caching_allocator_delete(address)  # type: ignore[no-untyped-call]


def sorted_uniques(values: Any, counts: bool = False) -> Any:
    """Return the distinct values of a column on a CUDA device, in ascending order.

    Args:
        values: (rows,) numbers on the device: a CuPy array, a torch tensor, or whatever else speaks DLPack.
        counts: whether to return how often each occurs, too.

    Returns:
        (distinct,) CuPy array of the same dtype; with `counts` a pair of it and (distinct,) int64.

    Raises:
        MissingPackageError: CuPy is not installed.
        ValueError: there is more than one value a row.
    """
    cupy = need("cupy", "sorted distinct values on a GPU")
    column = cupy.from_dlpack(values)
    if column.ndim != 1:
        raise ValueError(f"values: expected one a row, found an array of shape {column.shape}; flatten lists first")
    with torch_memory():
        return cupy.unique(column, return_counts=counts)
