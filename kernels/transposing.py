"""Columns to rows, eight by eight: what a dense chain leaves in cache goes to the matrix in whole vectors."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from intune_gpu.kernels.loading import njit

TILE = 8
"""Rows and columns of a tile: eight float32 are a vector of AVX2."""

_EIGHT = ir.VectorType(ir.FloatType(), TILE)


@intrinsic
def _tile(typingctx: Any, source: Any, step: Any, target: Any, stride: Any) -> Any:
    """Write eight columns of eight float32, `step` bytes apart, as eight rows, `stride` bytes apart."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, step, target, stride = args
        rows = [_place(builder, source, step, i) for i in range(TILE)]
        rows = [builder.load(place, align=4) for place in rows]
        for distance in (1, 2, 4):  # swap across the diagonal: lanes, pairs of lanes, halves
            rows = _swapped(builder, rows, distance)
        for i, row in enumerate(rows):
            builder.store(row, _place(builder, target, stride, i), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


def _place(builder: Any, address: Any, step: Any, i: int) -> Any:
    here = builder.add(address, builder.mul(step, ir.Constant(ir.IntType(64), i)))
    return builder.inttoptr(here, _EIGHT.as_pointer())


def _swapped(builder: Any, rows: list[Any], distance: int) -> list[Any]:
    out = list(rows)
    for i in range(TILE):
        if i & distance:
            continue
        upper = [lane if not lane & distance else TILE + lane - distance for lane in range(TILE)]
        lower = [lane + distance if not lane & distance else TILE + lane for lane in range(TILE)]
        pair = rows[i], rows[i + distance]
        for row, lanes in ((i, upper), (i + distance, lower)):
            order = ir.Constant(ir.VectorType(ir.IntType(32), TILE), lanes)
            out[row] = builder.shuffle_vector(*pair, order)
    return out


@njit(nogil=True, cache=True)
def rows_of_columns(block: Any, size: Any, flat: Any, first: Any, width: Any, count: Any) -> Any:
    """Write the first rows of a block to a matrix; return how many: a multiple of 8, the others are left to the caller.

    Args:
        block: (width rounded up to 8, rows) float32, columns one after another.
        size: rows of the block that are filled.
        flat: (count * width,) float32, the matrix.
        first: row of the matrix that the block begins with.
        width: columns of the matrix, all of which are in the block.
        count: rows of the matrix.
    """
    tiles = size // TILE
    step, stride = 4 * block.shape[1], 4 * width
    last = (width - 1) // TILE * TILE
    source, target = block.ctypes.data, flat.ctypes.data + first * stride
    for t in range(tiles):
        behind = (count - first - TILE * (t + 1)) * width
        if behind < TILE:
            return t * TILE
        # The last columns' vectors reach over the end of their row, into what is written after them.
        for c in range(last, -1, -TILE):
            _tile(source + c * step + t * 4 * TILE, step, target + t * TILE * stride + 4 * c, stride)
    return tiles * TILE
