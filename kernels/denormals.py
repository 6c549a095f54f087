"""Denormals are kept: a CPU that flushes them to zero would give other bits than a GPU.

`torch.set_flush_denormal(True)` sets the flag for its thread, and threads started later inherit it. So workers clear
it once, and a one-shot transform clears it and restores what it found.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from intune_gpu.kernels.loading import njit

_X86 = platform.machine() in ("x86_64", "AMD64")
# x86: MXCSR, flush-to-zero is bit 15, denormals-are-zero bit 6. aarch64: FPCR, FZ is bit 24.
_FLUSH_BITS = 0x8040 if _X86 else 1 << 24


@intrinsic
def _read_control(typingctx: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _X86:
            kind = ir.FunctionType(ir.IntType(64), [])
            return builder.asm(kind, "mrs $0, fpcr", "=r", [], True)
        place = builder.alloca(ir.IntType(32))
        byte_place = builder.bitcast(place, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse.stmxcsr", (), kind), [byte_place])
        return builder.zext(builder.load(place), ir.IntType(64))

    return types.int64(), codegen


@intrinsic
def _write_control(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _X86:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
            builder.asm(kind, "msr fpcr, $0", "r", [args[0]], True)
            return context.get_dummy_value()
        place = builder.alloca(ir.IntType(32))
        builder.store(builder.trunc(args[0], ir.IntType(32)), place)
        byte_place = builder.bitcast(place, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse.ldmxcsr", (), kind), [byte_place])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@njit(cache=True)
def _get_control() -> Any:
    return _read_control()


@njit(cache=True)
def _set_control(value: Any) -> None:
    _write_control(value)


def clear_flush_to_zero() -> int:
    """Make this thread keep denormals; return the control register as it was."""
    before = int(_get_control())
    if before & _FLUSH_BITS:
        _set_control(before & ~_FLUSH_BITS)
    return before


@contextmanager
def denormals_kept() -> Iterator[None]:
    """Keep denormals in this thread inside the block, and restore the flag behind it."""
    before = clear_flush_to_zero()
    try:
        yield
    finally:
        if before & _FLUSH_BITS:
            _set_control(before)
