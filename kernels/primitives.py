"""The four operations that a CPU and a GPU would otherwise do differently.

A compiler may fuse `x * y + z` on one device and not on the other; the last bit then differs. So rules never use `*`
on floats: they say `fma` (one rounding, on both) or `mul` (never fused into what follows, on both). The bit casts
complete what a float rule needs. Overloads take float32 and int32 only, so a value that was promoted by accident
does not compile. The CUDA overloads of the same four names stand in `primitives_cuda`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

_F32 = ir.FloatType()
_I32 = ir.IntType(32)


def fma(x: np.float32, y: np.float32, z: np.float32) -> np.float32:
    """`x * y + z` with one rounding. Outside compiled code: through float64, good to the last bit but one."""
    return np.float32(np.float64(x) * np.float64(y) + np.float64(z))


def mul(x: np.float32, y: np.float32) -> np.float32:
    """`x * y`, rounded, and never fused with what follows."""
    return np.float32(x) * np.float32(y)


def float_bits(x: np.float32) -> np.int32:
    """The bits of a float32 as int32."""
    return np.float32(x).view(np.int32)


def bits_float(bits: np.int32) -> np.float32:
    """The float32 that has these bits."""
    return np.int32(bits).view(np.float32)


@intrinsic
def _fma_cpu(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), codegen


@intrinsic
def _mul_cpu(typingctx: Any, x: Any, y: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(*args)  # no fast-math flag: LLVM may not contract it

    return types.float32(types.float32, types.float32), codegen


def _cast(source: Any, target: Any, llvm_target: Any) -> Callable[..., Any]:
    def typer(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], llvm_target)

        return target(source), codegen

    return typer


_float_bits_cpu = intrinsic(_cast(types.float32, types.int32, _I32))
_bits_float_cpu = intrinsic(_cast(types.int32, types.float32, _F32))


def _all(kind: Any, *arguments: Any) -> bool:
    return all(argument == kind for argument in arguments)


@overload(fma, target="cpu", strict=False)
def _fma_overload(x: Any, y: Any, z: Any) -> Any:
    if _all(types.float32, x, y, z):
        return lambda x, y, z: _fma_cpu(x, y, z)
    return None


@overload(mul, target="cpu", strict=False)
def _mul_overload(x: Any, y: Any) -> Any:
    if _all(types.float32, x, y):
        return lambda x, y: _mul_cpu(x, y)
    return None


@overload(float_bits, target="cpu", strict=False)
def _float_bits_overload(x: Any) -> Any:
    return (lambda x: _float_bits_cpu(x)) if _all(types.float32, x) else None


@overload(bits_float, target="cpu", strict=False)
def _bits_float_overload(bits: Any) -> Any:
    return (lambda bits: _bits_float_cpu(bits)) if _all(types.int32, bits) else None
