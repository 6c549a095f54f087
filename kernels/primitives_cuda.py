"""The CUDA overloads of `primitives` and of `addresses`; imported only where CUDA code is compiled."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.cuda import libdevice
from numba.cuda.extending import overload

from intune_gpu.kernels import addresses_cuda
from intune_gpu.kernels.primitives import bits_float, float_bits, fma, mul

ADDRESSES = addresses_cuda
"""Registered its overloads when it was imported."""


def _all(kind: Any, *arguments: Any) -> bool:
    return all(argument == kind for argument in arguments)


@overload(fma, strict=False)
def _fma_overload(x: Any, y: Any, z: Any) -> Any:
    return (lambda x, y, z: libdevice.fmaf_rn(x, y, z)) if _all(types.float32, x, y, z) else None


@overload(mul, strict=False)
def _mul_overload(x: Any, y: Any) -> Any:
    return (lambda x, y: libdevice.fmul_rn(x, y)) if _all(types.float32, x, y) else None


@overload(float_bits, strict=False)
def _float_bits_overload(x: Any) -> Any:
    return (lambda x: libdevice.float_as_int(x)) if _all(types.float32, x) else None


@overload(bits_float, strict=False)
def _bits_float_overload(bits: Any) -> Any:
    return (lambda bits: libdevice.int_as_float(bits)) if _all(types.int32, bits) else None
