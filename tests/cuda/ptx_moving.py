"""What PTX instructions do that move values: registers, conversions, loads and stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.cuda import rounding
from tests.cuda.ptx_memory import load, store
from tests.cuda.ptx_operands import Action, compute, dtype_of, only, reader, writer
from tests.cuda.ptx_text import Address, Instruction, Operand, Register, Vector, type_bytes

_CACHING = {"nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "volatile", "relaxed", "weak", "gpu", "cta", "sys"}
_SPACES = {"global", "shared", "local", "param", "const"}


def move(instruction: Instruction, widths: dict[str, int]) -> Action:
    kind = only(instruction)
    target, source = instruction.operands
    if isinstance(source, Vector) or isinstance(target, Vector):
        return _pack(target, source, type_bytes(kind), widths)
    bits = kind if kind == "pred" else f"b{8 * type_bytes(kind)}"
    return compute(instruction, widths, np.array, bits)


def _pack(target: Operand, source: Operand, size: int, widths: dict[str, int]) -> Action:
    if isinstance(source, Vector):
        part = size // len(source.parts)
        readers = [reader(p, np.dtype(f"u{part}")) for p in source.parts]
        write = writer(target, widths)

        def join(frame: Any) -> None:
            shifted = [r(frame).astype(f"u{size}") << np.array(8 * part * k, f"u{size}") for k, r in enumerate(readers)]
            write(frame, np.bitwise_or.reduce(np.broadcast_arrays(*shifted), axis=0))

        return join
    assert isinstance(target, Vector)
    part = size // len(target.parts)
    read = reader(source, np.dtype(f"u{size}"))
    writers = [writer(p, widths) for p in target.parts]

    def split(frame: Any) -> None:
        values = read(frame)
        for k, write in enumerate(writers):
            write(frame, (values >> np.array(8 * part * k, f"u{size}")).astype(f"u{part}"))

    return split


def convert(instruction: Instruction, widths: dict[str, int]) -> Action:
    *modes, to, of = instruction.modifiers
    into, source = dtype_of(to), dtype_of(of)
    kinds = (into.kind in "iu", source.kind in "iu")
    if kinds == (True, True) and not modes:
        return compute(instruction, widths, lambda x: np.array(x.astype(into)), of)
    if kinds == (False, True) and modes == ["rn"] and to == "f32":
        return compute(instruction, widths, rounding.int_to_float, of)
    if kinds == (True, False) and modes == ["rzi"]:
        return compute(instruction, widths, lambda x: rounding.float_to_int(x, into), of)
    if kinds == (False, False) and modes in (["rn"], []) and {to, of} <= {"f32", "f64"}:
        return compute(instruction, widths, lambda x: x.astype(into), of)
    raise ValueError(f"conversion from {of} to {to} with {modes}")


def convert_address(instruction: Instruction, widths: dict[str, int]) -> Action:
    *to, space, _ = instruction.modifiers
    target, source = instruction.operands
    read, write = reader(source, np.dtype(np.uint64)), writer(target, widths)
    sign = -1 if to else 1
    return lambda frame: write(frame, np.array(read(frame) + np.uint64(sign * frame.window(space) % 2**64)))


def _access(instruction: Instruction) -> tuple[str, int, str]:
    """Return the space, the values a thread and the type of a load or store."""
    *before, kind = instruction.modifiers
    space, count = "generic", 1
    for modifier in before:
        if modifier.split("::")[0] in _SPACES:
            space = modifier.split("::")[0]
        elif modifier in ("v2", "v4", "v8"):
            count = int(modifier[1:])
        elif modifier not in _CACHING and not modifier.startswith(("L1::", "L2::")):
            raise ValueError(f"modifier {modifier!r}")
    dtype_of(kind)
    return space, count, kind


def _addresses(operand: Operand) -> Callable[[Any], Any]:
    if not isinstance(operand, Address) or operand.base is None:
        raise ValueError(f"the address {operand}")
    if not operand.base.startswith("%"):
        return lambda frame: np.uint64(frame.address_of(operand.base) + operand.offset)
    read, offset = reader(Register(operand.base), np.dtype(np.uint64)), np.uint64(operand.offset % 2**64)
    return lambda frame: read(frame) + offset


def _parts(operand: Operand, count: int) -> list[Operand]:
    parts: list[Operand] = list(operand.parts) if isinstance(operand, Vector) else [operand]
    if len(parts) != count:
        raise ValueError(f"{len(parts)} registers for {count} values")
    return parts


def load_values(instruction: Instruction, widths: dict[str, int]) -> Action:
    space, count, kind = _access(instruction)
    target, source = instruction.operands
    size, dtype = type_bytes(kind), dtype_of(kind)
    writers = [writer(p, widths) for p in _parts(target, count)]
    addresses = _addresses(source)

    def run(frame: Any) -> None:
        memory, offsets = frame.locate(space, addresses(frame), size * count, instruction.text)
        for k, write in enumerate(writers):
            write(frame, load(memory, offsets + np.uint64(k * size), size).view(dtype))

    return run


def store_values(instruction: Instruction, widths: dict[str, int]) -> Action:
    space, count, kind = _access(instruction)
    target, source = instruction.operands
    size = type_bytes(kind)
    readers = [reader(p, np.dtype(f"u{size}")) for p in _parts(source, count)]
    addresses = _addresses(target)

    def run(frame: Any) -> None:
        memory, offsets = frame.locate(space, addresses(frame), size * count, instruction.text)
        for k, read in enumerate(readers):
            store(memory, offsets + np.uint64(k * size), np.asarray(read(frame)))

    return run
