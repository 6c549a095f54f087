"""How PTX instructions read their operands from a frame, and write what they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.cuda.ptx_text import Address, Immediate, Instruction, Operand, PtxError, Register, type_bytes

Action = Callable[[Any], None]
_NUMPY = {"b": "u", "u": "u", "s": "i", "f": "f"}
BOOL = np.dtype(bool)


def dtype_of(kind: str) -> np.dtype:
    """Return the NumPy type of a PTX type; bits are unsigned, a predicate is bool."""
    return BOOL if kind == "pred" else np.dtype(f"{_NUMPY[kind[0]]}{type_bytes(kind)}")


def reader(operand: Operand, dtype: np.dtype) -> Callable[[Any], Any]:
    """Return a function that reads an operand of a frame as `dtype`: the lowest bits of a wider register."""
    size = dtype.itemsize
    if isinstance(operand, Immediate):
        return _constant(operand, dtype)
    if isinstance(operand, Address):
        assert operand.base is not None
        return lambda frame: np.uint64(frame.address_of(operand.base) + operand.offset).astype(f"u{size}").view(dtype)
    assert isinstance(operand, Register)
    name, unsigned = operand.name, np.dtype(f"u{size}")

    def read(frame: Any) -> Any:
        bits = frame.read(name)
        if BOOL in (bits.dtype, dtype):
            if bits.dtype != dtype:
                raise PtxError(f"register {name}: expected {dtype}, found {bits.dtype}")
            return bits
        if bits.dtype.itemsize < size:
            raise PtxError(f"register {name}: expected {size} bytes or more, found {bits.dtype.itemsize}")
        return (bits if bits.dtype == unsigned else bits.astype(unsigned)).view(dtype)

    return read


def _constant(operand: Immediate, dtype: np.dtype) -> Callable[[Any], Any]:
    if dtype == BOOL:
        value: Any = np.bool_(operand.value)
    elif operand.float_bytes and operand.float_bytes != dtype.itemsize:
        raise ValueError(f"a float of {operand.float_bytes} bytes as {dtype}")
    elif dtype.kind == "f" and not operand.float_bytes:
        raise ValueError(f"an integer as {dtype}")
    else:
        value = np.array(operand.value % 2 ** (8 * dtype.itemsize), f"u{dtype.itemsize}").view(dtype)[()]
    return lambda frame: value


def writer(operand: Operand, widths: dict[str, int]) -> Callable[[Any, Any], None]:
    """Return a function that writes values to a register, extended to its width by their own sign."""
    if not isinstance(operand, Register):
        raise ValueError(f"the target {operand}")
    name, width = operand.name, widths[operand.name]

    def write(frame: Any, values: Any) -> None:
        if values.dtype == BOOL:
            frame.write(name, values)
            return
        size = values.dtype.itemsize
        if size > width:
            raise PtxError(f"register {name} of {width} bytes: expected no more, found {values.dtype}")
        if size < width:
            values = values.view(f"{'i' if values.dtype.kind == 'i' else 'u'}{size}").astype(
                f"{'i' if values.dtype.kind == 'i' else 'u'}{width}"
            )
        frame.write(name, values.view(f"u{width}"))

    return write


def only(instruction: Instruction, *allowed: str) -> str:
    """Return the type, the last modifier; all before it must be allowed."""
    *before, kind = instruction.modifiers
    unknown = [m for m in before if m not in allowed]
    if unknown:
        raise ValueError(f"modifier {unknown[0]!r}")
    dtype_of(kind)
    return kind


def compute(instruction: Instruction, widths: dict[str, int], function: Callable[..., Any], *kinds: str) -> Action:
    """Return the action `target = function(operands)`, each operand read as its kind."""
    target, *operands = instruction.operands
    readers = [reader(o, dtype_of(k)) for o, k in zip(operands, kinds, strict=True)]
    write = writer(target, widths)
    return lambda frame: write(frame, function(*[read(frame) for read in readers]))
