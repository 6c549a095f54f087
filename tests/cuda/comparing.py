"""Kernels run by the PTX interpreter, and the CPU's own loops over the same values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from intune_gpu.kernels import fusing, hashing
from tests.cuda import compiling, ptx
from tests.cuda.compiling import CAPABILITIES, Capability
from tests.cuda.kernels import Kernel
from tests.cuda.ptx_memory import Memory

THREADS = 256


@cache
def interpreted(kernel: Kernel, capability: Capability) -> ptx.Kernel:
    """Return the PTX that the machine code of a kernel is made from, ready to run."""
    return ptx.kernel(compiling.running(kernel.function, kernel.signature, capability).ptx)


@cache
def distinct(kernel: Kernel) -> tuple[Capability, ...]:
    """Return the capabilities whose PTX differs in more than its header: the others need not be run again."""
    bodies: dict[tuple[Any, ...], Capability] = {}
    for capability in CAPABILITIES:
        bodies.setdefault(interpreted(kernel, capability).program.blocks, capability)
    return tuple(bodies.values())


@dataclass(frozen=True)
class Pointer:
    """An array whose address alone is an argument."""

    array: np.ndarray


def launched(kernel: Kernel, capability: Capability, *arguments: np.ndarray | Pointer | int) -> np.ndarray:
    """Run a kernel of one value a thread; the first argument is its values, the last one the array that it fills.

    Returns:
        What the last one holds afterwards; the array itself is left as it is.
    """
    arrays = [a.array if isinstance(a, Pointer) else a for a in arguments if not isinstance(a, int)]
    memory = Memory(sum(array.nbytes + 1024 for array in arrays))
    passed: list[int] = []
    for argument in arguments:
        if isinstance(argument, Pointer):
            passed.append(memory.put(argument.array))
        else:
            passed += [argument] if isinstance(argument, int) else memory.argument(argument)
    blocks, out = max(1, -(-len(arrays[0]) // THREADS)), arrays[-1]
    ptx.launch(interpreted(kernel, capability), memory, passed, (blocks,), (THREADS,))
    return memory.get(passed[-3], out.dtype, out.size)  # behind it: its shape and strides


def column(values: np.ndarray, missing: np.ndarray | None = None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the (1, 4) table row of a column, as `core.columns.Addresses` describes it, and what it points to."""
    kept = [values]
    validity = 0
    if missing is not None:
        kept.append(np.append(np.packbits(missing == 0, bitorder="little"), np.zeros(8, np.uint8)))
        validity = kept[1].ctypes.data
    return np.array([[values.ctypes.data, validity, 0, 0]], np.int64), kept


def dense_cpu(
    rules: tuple[str, ...], values: np.ndarray, missing: np.ndarray, parameters: np.ndarray, borders: np.ndarray
) -> np.ndarray:
    """Return what the CPU's loop of a chain makes of values: (rows,) float32.

    Args:
        rules: as `fusing.dense_loop` takes them; a chain has one Bucketize at most.
        values: (rows,) of any number.
        missing: (rows,) uint8, 1 where missing.
        parameters: (parameters,) float32.
        borders: (borders,) float32.
    """
    table, kept = column(values, missing)
    out = np.empty((len(values), 1), np.float32)
    spans = np.array([[0, len(borders)]], np.int64)
    run = fusing.dense_loop(rules, values.itemsize)
    run(table, np.zeros((1, 2), np.int64), parameters[None], borders, spans, len(values), values[:0], out)
    del kept  # the table held its address
    return out[:, 0]


def hashes_cpu(values: np.ndarray, seed: int, buckets: int, reserved: int) -> np.ndarray:
    """Return the buckets that the CPU gives integers: (rows,) int64."""
    table, kept = column(values)
    out = np.empty(len(values), np.int64)
    parameters = np.array([[seed, buckets - reserved, reserved]], np.uint64)
    zero = np.zeros(1, np.int64)
    hashing.hash_ints_cpu(table, zero, parameters, len(values), values[:0], out, zero)
    del kept
    return out


def modulo_cpu(values: np.ndarray, divisor: int) -> np.ndarray:
    """Return integers modulo a divisor of their own type, as the CPU computes it: (rows,) int64."""
    table, kept = column(values)
    out = np.empty(len(values), np.int64)
    zero = np.zeros(1, np.int64)
    hashing.modulo_cpu(table, zero, np.array([divisor], values.dtype), len(values), values[:0], out, zero)
    del kept
    return out


def id64_cpu(values: np.ndarray) -> np.ndarray:
    """Return id64 of integers with seed 0, as the CPU computes it: (rows,) uint64."""
    table, kept = column(values)
    out = np.empty(len(values), np.uint64)
    hashing.id64_ints_cpu(table[0], len(values), values[:0], out)
    del kept
    return out
