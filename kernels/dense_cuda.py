"""Chains of dense rules on a GPU: one launch over rows × columns, the rules of `numeric`, the same bits as on a CPU.

As on the CPU, a chain is a small generated module. Columns are read four rows at a time; the matrix they become is
stored row by row, so a block collects a tile of it in its shared memory and writes that out in one piece. What a group
of features is stands in a table of int64 words in memory, which is written once:

    group[0]    number of features F
    group[1]    floats of a row of the matrix
    group[2]    1 where the features fill the matrix, in order, else 0
    group[3]    address of (F, 2) int64: the row of `columns` that each feature reads, the column of `out` it writes
    group[4]    address of (F, parameters) float32
    group[5]    address of all borders, float32
    group[6]    address of (F, 2 * spans) int64: first border, number of borders

and further arguments: addresses of `columns` (columns, 4) int64, as `core.columns.Addresses` describes it, and of
`out`; `rows`; `like`, any value of the columns' type. A chain that makes ids, ending in Bucketize, writes to
`out` at `starts` (F,) int64, in values `like` index, 0 for what is missing.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numba import njit

from intune_gpu.kernels import primitives_cuda
from intune_gpu.kernels.addresses import FOUR, load, store, store4
from intune_gpu.kernels.fusing import chain_steps, chain_title, rule_imports
from intune_gpu.kernels.generating import load_module
from intune_gpu.kernels.launching import THREADS, TILE_FEATURES, TILE_PITCH, TILE_ROWS, Kernel

TARGET = primitives_cuda
"""Registered the CUDA overloads when it was imported."""
_F32, _I64 = np.float32(0), np.int64(0)

_MODULE = '''"""The chain {title}, for CUDA. Written by intune_gpu.kernels.dense_cuda; safe to delete."""
import numpy as np
from numba import cuda, float32, njit

from intune_gpu.kernels import numeric
from intune_gpu.kernels.addresses import FOUR, load, sizeof, store
from intune_gpu.kernels.dense_cuda import tile_of, write_tile
from intune_gpu.kernels.launching import THREADS, TILE_FEATURES, TILE_PITCH, TILE_ROWS, tiles_of
from intune_gpu.kernels.quads import missing_four, read_four, write_four

NAN, F32, I64 = np.float32(np.nan), np.float32(0), np.int64(0)
QUADS = TILE_ROWS // FOUR
AT_ONCE = THREADS // QUADS
FLOATS = TILE_FEATURES * TILE_PITCH
canonical_nan_rule = numeric.canonical_nan_rule
{imports}


@njit(nogil=True, cache=True, error_model="numpy")
def chain(x, missing, group, f):
    absent = (missing != 0) | (x != x)
{loads}
{steps}
    return canonical_nan_rule(x)


@njit(nogil=True, cache=True, error_model="numpy")
def fill_tile(group, columns, rows, out, like, t, thread, tile):
    features = load(group, I64)
    first_row, first_feature, width = tile_of(features, t)
    place = thread % QUADS * FOUR
    row = first_row + place
    if row < rows:
        count = min(rows - row, FOUR)
        for c in range(thread // QUADS, width, AT_ONCE):
            f = first_feature + c
            column = columns + 32 * load(load(group + 24, I64) + 16 * f, I64)
            a, b, c2, d = read_four(load(column, I64) + row * sizeof(like), count, like)
            missing = missing_four(load(column + 8, I64), load(column + 16, I64) + row, count)
            at = c * TILE_PITCH + place
            tile[at] = chain(np.float32(a), missing & 1, group, f)
            tile[at + 1] = chain(np.float32(b), missing & 2, group, f)
            tile[at + 2] = chain(np.float32(c2), missing & 4, group, f)
            tile[at + 3] = chain(np.float32(d), missing & 8, group, f)


@njit(nogil=True, cache=True)
def empty_tile(group, columns, rows, out, like, t, thread, tile):
    write_tile(group, rows, out, t, thread, tile)


@cuda.jit(cache=True)
def run(group, columns, rows, out, like):
    tile = cuda.shared.array(FLOATS, float32)
    for t in range(cuda.blockIdx.x, tiles_of(rows, load(group, I64)), cuda.gridDim.x):
        fill_tile(group, columns, rows, out, like, t, cuda.threadIdx.x, tile)
        cuda.syncthreads()
        empty_tile(group, columns, rows, out, like, t, cuda.threadIdx.x, tile)
        cuda.syncthreads()


@njit(nogil=True, cache=True, error_model="numpy")
def ids_body(group, columns, rows, out, starts, like, index, f, thread, threads):
    column = columns + 32 * load(load(group + 24, I64) + 16 * f, I64)
    values, validity, first_bit = load(column, I64), load(column + 8, I64), load(column + 16, I64)
    target = out + load(starts + 8 * f, I64) * sizeof(index)
    for row in range(FOUR * thread, rows, FOUR * threads):
        count = min(rows - row, FOUR)
        a, b, c, d = read_four(values + row * sizeof(like), count, like)
        missing = missing_four(validity, first_bit + row, count)
        write_four(
            target + row * sizeof(index),
            count,
            as_id(chain(np.float32(a), missing & 1, group, f)),
            as_id(chain(np.float32(b), missing & 2, group, f)),
            as_id(chain(np.float32(c), missing & 4, group, f)),
            as_id(chain(np.float32(d), missing & 8, group, f)),
            index,
        )


@njit(nogil=True, cache=True)
def as_id(x):
    return np.int64(x) if x == x else I64


@cuda.jit(cache=True)
def run_ids(group, columns, rows, out, starts, like, index):
    for f in range(cuda.blockIdx.y, load(group, I64), cuda.gridDim.y):
        ids_body(group, columns, rows, out, starts, like, index, f, cuda.grid(1), cuda.gridsize(1))
'''

_lock = threading.Lock()
_loaded: dict[tuple[str, ...], tuple[Kernel, Kernel]] = {}


def dense_kernel(rules: tuple[str, ...]) -> Kernel:
    """Return the kernel of a chain that writes floats; takes (group, columns, rows, out, like)."""
    return _kernels(rules)[0]


def ids_kernel(rules: tuple[str, ...]) -> Kernel:
    """Return the kernel of a chain that writes ids; takes (group, columns, rows, out, starts, like, index)."""
    return _kernels(rules)[1]


def _kernels(rules: tuple[str, ...]) -> tuple[Kernel, Kernel]:
    with _lock:
        if rules not in _loaded:
            name = "_".join(rules) or "convert"
            module = load_module(f"cuda_{name}", dense_cuda_source(rules))
            floats = TILE_FEATURES * TILE_PITCH
            dense = Kernel(f"dense {name}", module.run, (module.fill_tile, module.empty_tile), FOUR, (floats,))
            _loaded[rules] = dense, Kernel(f"ids {name}", module.run_ids, (module.ids_body,), FOUR)
        return _loaded[rules]


def dense_cuda_source(rules: tuple[str, ...]) -> str:
    """Return the module that holds a chain's kernels."""
    parameters, spans, steps = chain_steps(rules)
    loads = [f"p{i} = load(load(group + 32, I64) + 4 * ({parameters} * f + {i}), F32)" for i in range(parameters)]
    loads += ["edges = load(group + 40, I64)"] * (spans > 0)
    for i in range(spans):
        place = f"load(group + 48, I64) + 16 * ({spans} * f + {i})"
        loads.append(f"first{i}, number{i} = load({place}, I64), load({place} + 8, I64)")
    return _MODULE.format(
        title=chain_title(rules),
        imports=rule_imports(rules),
        loads="\n".join(" " * 4 + line for line in loads),
        steps="\n".join(" " * 4 + line for line in steps),
    )


@njit(nogil=True)
def tile_of(features: Any, t: Any) -> Any:
    """Return a tile's first row, its first feature and how many features it has."""
    across = (features + TILE_FEATURES - 1) // TILE_FEATURES
    first = t % across * TILE_FEATURES
    return t // across * TILE_ROWS, first, min(features - first, TILE_FEATURES)


@njit(nogil=True)
def write_tile(group: Any, rows: Any, out: Any, t: Any, thread: Any, tile: Any) -> None:
    """Write a block's tile into the matrix, row by row: neighbouring threads write neighbouring numbers.

    Args:
        group: address of what the module's head describes.
        rows: of the batch.
        out: address of the matrix.
        t: number of the tile.
        thread: number of the thread in its block of `THREADS`.
        tile: (TILE_FEATURES * TILE_PITCH,) float32, feature by feature.
    """
    first_row, first_feature, width = tile_of(load(group, _I64), t)
    stride, whole = load(group + 8, _I64), load(group + 16, _I64)
    total = min(rows - first_row, TILE_ROWS) * width
    if whole != 0 and width == stride:  # one piece of memory, and its start a multiple of 16: of 256 rows
        target = out + 4 * first_row * stride
        done = total & ~3
        for k in range(FOUR * thread, done, FOUR * THREADS):
            r, c = _row_of(k, width), _column_of(k, width)
            x0 = tile[c * TILE_PITCH + r]
            r, c = _next(r, c, width)
            x1 = tile[c * TILE_PITCH + r]
            r, c = _next(r, c, width)
            x2 = tile[c * TILE_PITCH + r]
            r, c = _next(r, c, width)
            store4(target + 4 * k, x0, x1, x2, tile[c * TILE_PITCH + r], _F32)
        for k in range(done + thread, total, THREADS):
            store(target + 4 * k, tile[_column_of(k, width) * TILE_PITCH + _row_of(k, width)], _F32)
    else:
        for k in range(thread, total, THREADS):
            r, c = _row_of(k, width), _column_of(k, width)
            place = load(load(group + 24, _I64) + 16 * (first_feature + c) + 8, _I64)
            store(out + 4 * ((first_row + r) * stride + place), tile[c * TILE_PITCH + r], _F32)


@njit(nogil=True)
def _row_of(k: Any, width: Any) -> Any:
    return np.int64(np.uint32(k) // np.uint32(width))  # division of 32 bits: of 64 it takes a GPU ten times as long


@njit(nogil=True)
def _column_of(k: Any, width: Any) -> Any:
    return np.int64(np.uint32(k) % np.uint32(width))


@njit(nogil=True)
def _next(r: Any, c: Any, width: Any) -> Any:
    last = c + 1 == width
    return (r + 1, np.int64(0)) if last else (r, c + 1)
