"""Every kernel whose CUDA code is checked without a GPU: one line each in `KERNELS`.

A kernel is a plain function or a `cuda.jit` dispatcher. Those of `LAUNCHED` are the product's; the others are wrappers
around the rules, one value a thread.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: nothing is compiled for CUDA here", allow_module_level=True)

from numba import cuda, njit, types
from numba.core.typing import Signature

from intune_gpu.kernels import dense_cuda, hashing_cuda, jagged_cuda, launching, numeric, rows_cuda, text_cuda, xxh64

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
_NAN = np.float32(np.nan)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_U64, _I64 = types.uint64[::1], types.int64[::1]
_F32 = types.float32[::1]


@dataclass(frozen=True)
class Kernel:
    """One kernel that is compiled for every architecture and checked.

    Attributes:
        name: shown in tests and in docs/cuda_kernels.md.
        function: plain function, or `cuda.jit` dispatcher.
        signature: Numba's, void.
        stack_bytes: local memory that a thread may use.
        float64_column: whether it reads one, and so may load and compare float64, and convert it to float32.
        computes_float64: whether it is meant to compute with float64.
        rules: of a dense chain, as `fusing.dense_loop` takes them, which it is run against; else None.
    """

    name: str
    function: Any
    signature: Signature
    stack_bytes: int = 0
    float64_column: bool = False
    computes_float64: bool = False
    rules: tuple[str, ...] | None = None


# ------------------------------------------------------------------------------------- dense chains, one value a thread


def _nothing(x, absent, p, borders, count):
    return x


def _fill_missing(x, absent, p, borders, count):
    return numeric.fill_missing_rule(x, absent, p[0])


def _missing_flag(x, absent, p, borders, count):
    return numeric.missing_flag_rule(x, absent)


def _clip_min(x, absent, p, borders, count):
    return numeric.clip_min_rule(x, p[0])


def _clip_max(x, absent, p, borders, count):
    return numeric.clip_max_rule(x, p[0])


def _scale(x, absent, p, borders, count):
    return numeric.scale_rule(x, p[0], p[1])


def _log1p(x, absent, p, borders, count):
    return numeric.log1p_rule(x)


def _bucketize(x, absent, p, borders, count):
    return numeric.bucketize_rule(x, borders, 0, count)


def _fill_clip_log1p(x, absent, p, borders, count):
    x = numeric.fill_missing_rule(x, absent, p[0])
    return numeric.log1p_rule(numeric.clip_min_rule(x, p[1]))


def _fill_clip_clip_scale_log1p(x, absent, p, borders, count):
    x = numeric.fill_missing_rule(x, absent, p[0])
    x = numeric.clip_max_rule(numeric.clip_min_rule(x, p[1]), p[2])
    return numeric.log1p_rule(numeric.scale_rule(x, p[3], p[4]))


def _log1p_scale_bucketize(x, absent, p, borders, count):
    x = numeric.scale_rule(numeric.log1p_rule(x), p[0], p[1])
    return numeric.bucketize_rule(x, borders, 0, count)


def _scale_scale_clip(x, absent, p, borders, count):
    x = numeric.scale_rule(numeric.scale_rule(x, p[0], p[1]), p[2], p[3])
    return numeric.clip_max_rule(x, p[4])


def _dense(chain: Callable[..., Any], *rules: str, source: str = "float32") -> Kernel:
    """Return the kernel of a chain: what `fusing` writes for the CPU, one value a thread."""
    rule = njit(chain)
    fills = bool({"fill_missing", "missing_flag"} & set(rules))

    def kernel(
        values,  # (rows,) of the source's dtype
        missing,  # (rows,) u8
        p,  # (parameters,) f32
        borders,  # address of (count,) f32
        count,  # borders
        out,  # (rows,) f32
    ):
        i = cuda.grid(1)
        if i < len(values):
            x = np.float32(values[i])
            absent = (missing[i] != 0) | (x != x)
            y = rule(x, absent, p, borders, count)
            if not fills:
                y = _NAN if absent else y
            out[i] = numeric.canonical_nan_rule(y)

    name = "_".join((*rules, *[source] * (source != "float32"))) if rules else f"{source}_to_float32"
    signature = types.void(getattr(types, source)[::1], types.uint8[::1], _F32, types.int64, types.int64, _F32)
    return Kernel(name, kernel, signature, float64_column=source == "float64", rules=rules)


# ----------------------------------------------------------------------------------------- integers, one value a thread


def _id64(values, out):
    i = cuda.grid(1)
    if i < len(values):
        out[i] = xxh64.id64_int_rule(np.uint64(np.int64(values[i])), _ZERO)


def _hash_bucket(
    values,  # (rows,) of any integer
    parameters,  # (3,) u64: seed, buckets less reserved, reserved
    out,  # (rows,) i64
):
    i = cuda.grid(1)
    if i < len(values):
        h = xxh64.id64_int_rule(np.uint64(np.int64(values[i])), parameters[0])
        out[i] = parameters[2] + xxh64.bucket_rule(h, parameters[1])


def _cross(
    a,  # (rows,) u64: id64 of the first
    b,  # (rows,) u64: id64 of the second
    out,  # (rows,) u64
):
    i = cuda.grid(1)
    if i < len(a):
        out[i] = xxh64.xxh64_avalanche(xxh64.xxh64_word(xxh64.xxh64_merge(a[i], b[i]), b[i] + _ONE))


def _modulo(values, divisor, out):
    i = cuda.grid(1)
    if i < len(values):
        out[i] = xxh64.modulo_rule(values[i], divisor[0])


DENSE: tuple[Kernel, ...] = (
    _dense(_nothing),
    *(_dense(_nothing, source=name) for name in INTEGERS),
    _dense(_nothing, source="float64"),
    _dense(_fill_missing, "fill_missing"),
    _dense(_missing_flag, "missing_flag"),
    _dense(_clip_min, "clip_min"),
    _dense(_clip_max, "clip_max"),
    _dense(_scale, "scale"),
    _dense(_log1p, "log1p"),
    _dense(_bucketize, "bucketize"),
    _dense(_fill_clip_log1p, "fill_missing", "clip_min", "log1p"),
    _dense(_fill_clip_clip_scale_log1p, "fill_missing", "clip_min", "clip_max", "scale", "log1p"),
    _dense(_log1p_scale_bucketize, "log1p", "scale", "bucketize"),
    _dense(_scale_scale_clip, "scale", "scale", "clip_max"),
    _dense(_log1p, "log1p", source="float64"),
    _dense(_fill_clip_log1p, "fill_missing", "clip_min", "log1p", source="float64"),
)
"""Dense chains; the first ones only convert to float32 and map NaN to one."""

HASHES: dict[str, Kernel] = {
    name: Kernel(f"hash_bucket_{name}", _hash_bucket, types.void(getattr(types, name)[::1], _U64, _I64))
    for name in INTEGERS
}
ID64 = Kernel("id64_int64", _id64, types.void(_I64, _U64))
CROSS = Kernel("cross_parts", _cross, types.void(_U64, _U64, _U64))
MODULO_SIGNED = Kernel("modulo_int64", _modulo, types.void(_I64, _I64, _I64))
MODULO_UNSIGNED = Kernel("modulo_uint64", _modulo, types.void(_U64, _U64, _U64))

# ----------------------------------------------------------------------------------------------------- what is launched


def _launched(kernel: launching.Kernel, addresses: int, *kinds: str) -> Kernel:
    """Return a kernel of `kernels/`: so many int64 arguments, then values of these types."""
    signature = types.void(*[types.int64] * addresses, *(getattr(types, kind) for kind in kinds))
    name = "_".join([kernel.name.replace(" ", "_"), *kinds])
    return Kernel(name, kernel.cuda, signature, float64_column="float64" in kinds)


_CRITEO = ("fill_missing", "clip_min", "log1p")
LAUNCHED: tuple[Kernel, ...] = (
    *(_launched(dense_cuda.dense_kernel(_CRITEO), 4, kind) for kind in ("int32", "float32", "float64")),
    _launched(dense_cuda.dense_kernel(("fill_missing", "clip_min", "clip_max", "scale", "log1p")), 4, "float32"),
    _launched(dense_cuda.ids_kernel(("bucketize",)), 5, "float32", "int64"),
    _launched(hashing_cuda.HASH_INTS, 5, "int32", "int64"),
    _launched(hashing_cuda.HASH_INTS, 5, "int64", "int64"),
    _launched(hashing_cuda.MODULO, 5, "int64", "int64", "int64"),
    _launched(hashing_cuda.MODULO, 5, "uint64", "uint64", "int64"),
    _launched(hashing_cuda.HASH_STRINGS, 5, "int64"),
    _launched(hashing_cuda.ID64_INTS, 5, "int64"),
    _launched(hashing_cuda.ID64_STRINGS, 5),
    _launched(hashing_cuda.GATHER, 6, "int64"),
    _launched(hashing_cuda.CROSS, 5, "int64"),
    _launched(jagged_cuda.LENGTHS, 4),
    _launched(jagged_cuda.LIST_INTS, 7, "int64", "int64"),
    _launched(jagged_cuda.LIST_MODULO, 7, "int64", "int64", "int64"),
    _launched(jagged_cuda.LIST_STRINGS, 7, "int64"),
    *(_launched(kernel, 2) for kernel in (text_cuda.COUNT_LINES, text_cuda.PLACE_ROWS, text_cuda.PARSE_ROWS)),
    replace(_launched(text_cuda.PARSE_FLOATS, 2), computes_float64=True),
    *(_launched(kernel, 2) for kernel in (text_cuda.PACK_BITS, text_cuda.LIST_FLAGGED, rows_cuda.MOVE_ROWS)),
)
"""Kernels of `kernels/*_cuda.py`, for the types that most columns have."""

KERNELS: tuple[Kernel, ...] = (
    *LAUNCHED,
    *DENSE,
    *HASHES.values(),
    ID64,
    CROSS,
    MODULO_SIGNED,
    MODULO_UNSIGNED,
)
"""All that is compiled, assembled and listed in docs/cuda_kernels.md."""
