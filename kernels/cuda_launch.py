"""Launching with little work of the host: a compiled kernel's handle, and its arguments in memory that stays.

Numba's own launch looks up the types of the arguments and makes new objects for each of them, every time. Here a kernel
is compiled for its argument types once; what is left of a launch is to write the arguments and to call the driver.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda, types

from intune_gpu.kernels.launching import Kernel

_CTYPES = {
    np.dtype(name): getattr(ctypes, f"c_{name}")
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
} | {np.dtype("float32"): ctypes.c_float, np.dtype("float64"): ctypes.c_double}


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A kernel of certain argument types, ready for one thread to launch."""

    function: Any
    values: tuple[Any, ...]
    pointers: Any


class Launcher:
    """Launches kernels on one stream of one device.

    Args:
        device: its number.
        stream: handle of a CUDA stream.
    """

    def __init__(self, device: int, stream: int) -> None:
        from cuda.bindings import driver  # comes with numba-cuda

        self._driver = driver
        self._device = device
        self._stream = driver.CUstream(stream)
        self._own = threading.local()  # two threads must not write into the same arguments

    def launch(self, kernel: Kernel, blocks: tuple[int, int], threads: int, arguments: tuple[Any, ...]) -> None:
        """Launch a kernel.

        Args:
            kernel: what to launch.
            blocks: of the grid's two dimensions.
            threads: of a block.
            arguments: Python ints, as int64, and NumPy scalars.

        Raises:
            RuntimeError: the driver refuses.
        """
        kinds = tuple(_kind(argument) for argument in arguments)
        known = self._own.__dict__.setdefault("prepared", {})
        prepared = known.get((kernel, kinds))
        if prepared is None:
            prepared = known[kernel, kinds] = self._prepare(kernel, kinds)
        for value, argument in zip(prepared.values, arguments, strict=True):
            value.value = argument
        (error,) = self._driver.cuLaunchKernel(
            prepared.function, *blocks, 1, threads, 1, 1, 0, self._stream, ctypes.addressof(prepared.pointers), 0
        )
        if error != self._driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"kernel {kernel.name}: the CUDA driver refused the launch with {error}")

    def _prepare(self, kernel: Kernel, kinds: tuple[np.dtype[Any], ...]) -> _Prepared:
        with cuda.gpus[self._device]:
            compiled = kernel.cuda.compile(tuple(getattr(types, kind.name) for kind in kinds))
            function = self._driver.CUfunction(int(compiled._codelibrary.get_cufunc().handle))
        values = tuple(_CTYPES[kind]() for kind in kinds)
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        return _Prepared(function, values, pointers)


_INT64 = np.dtype(np.int64)


def _kind(argument: Any) -> np.dtype[Any]:
    return _INT64 if isinstance(argument, int) else argument.dtype
