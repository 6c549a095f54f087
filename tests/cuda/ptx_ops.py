"""What each PTX instruction does, over NumPy arrays of one value a thread.

`action` turns an instruction into a function of a frame once; the function then runs for every group of threads. An
instruction, type or modifier that is not listed is an error that names it: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.cuda import ptx_integers, ptx_moving, rounding
from tests.cuda.ptx_operands import Action, compute, only
from tests.cuda.ptx_text import Instruction, PtxError, type_bytes


class UnknownInstructionError(PtxError):
    """An instruction beyond the subset."""


def action(instruction: Instruction, widths: dict[str, int]) -> Action:
    """Return what an instruction does to a frame.

    Args:
        instruction: any.
        widths: register → bytes.

    Raises:
        UnknownInstructionError: an instruction that this file does not know, or not with these modifiers.
    """
    maker = _MAKERS.get(instruction.opcode)
    try:
        if maker is None:
            raise KeyError(instruction.opcode)
        return maker(instruction, widths)
    except (KeyError, ValueError, IndexError) as error:
        raise UnknownInstructionError(
            f"PTX instruction {instruction.text!r}: not in the interpreter's subset ({error}); add it to ptx_ops"
        ) from error


# ----------------------------------------------------------------------------------------------------------- arithmetic


def _add(instruction: Instruction, widths: dict[str, int]) -> Action:
    function = np.add if instruction.opcode == "add" else np.subtract
    kind = only(instruction, "rn")
    if kind[0] == "f":
        return compute(instruction, widths, lambda x, y: rounding.canonical(function(x, y)), "f32", _f32(kind))
    return compute(instruction, widths, function, kind, kind)


def _f32(kind: str) -> str:
    if kind != "f32":
        raise ValueError(f"arithmetic in {kind}")
    return kind


def _half(instruction: Instruction) -> tuple[str, str]:
    """Return which part of a product is meant, and the type; a float product must say that it is not fused."""
    *before, kind = instruction.modifiers
    allowed = ("rn",) if kind[0] == "f" else ("lo", "hi", "wide")
    if len(before) != 1 or before[0] not in allowed:
        raise ValueError(f"expected one of {', '.join(allowed)}; a float product without .rn may be fused, or not")
    return before[0], kind


def _multiply(instruction: Instruction, widths: dict[str, int]) -> Action:
    part, kind = _half(instruction)
    if part == "rn":
        return compute(instruction, widths, lambda x, y: rounding.canonical(x * y), "f32", _f32(kind))
    return compute(instruction, widths, _PRODUCTS[part], kind, kind)


def _multiply_add(instruction: Instruction, widths: dict[str, int]) -> Action:
    part, kind = _half(instruction)
    product = _PRODUCTS[part]
    third = f"{kind[0]}{2 * 8 * type_bytes(kind)}" if part == "wide" else kind
    return compute(instruction, widths, lambda x, y, z: product(x, y) + z, kind, kind, third)


def _fma(instruction: Instruction, widths: dict[str, int]) -> Action:
    if instruction.modifiers != ("rn", "f32"):
        raise ValueError("expected fma.rn.f32")
    return compute(instruction, widths, rounding.fma, "f32", "f32", "f32")


def _divide(instruction: Instruction, widths: dict[str, int]) -> Action:
    if instruction.modifiers == ("rn", "f32"):
        return compute(instruction, widths, lambda x, y: rounding.canonical(np.divide(x, y)), "f32", "f32")
    (kind,) = instruction.modifiers
    if kind[0] == "f":
        raise ValueError("a division that is not rounded correctly")
    return compute(instruction, widths, ptx_integers.divide, kind, kind)


def _remainder(instruction: Instruction, widths: dict[str, int]) -> Action:
    kind = only(instruction)
    return compute(instruction, widths, ptx_integers.remainder, kind, kind)


def _sign(instruction: Instruction, widths: dict[str, int]) -> Action:
    kind = only(instruction)
    function: Any = {"neg": np.negative, "abs": np.abs}[instruction.opcode]
    return compute(instruction, widths, function, kind)


def _extremum(instruction: Instruction, widths: dict[str, int]) -> Action:
    kind = only(instruction)
    least = instruction.opcode == "min"
    if kind[0] != "f":
        return compute(instruction, widths, np.minimum if least else np.maximum, kind, kind)

    def function(x: Any, y: Any) -> Any:  # -0 is below +0, and NaN loses against a number
        zeros = (x == 0) & (y == 0)
        picked = np.where((x < y) == least, x, y)
        picked = np.where(zeros, np.where(np.signbit(x) == least, x, y), picked)
        picked = np.where(x != x, y, np.where(y != y, x, picked)).astype(np.float32)
        return rounding.canonical(picked)

    return compute(instruction, widths, function, "f32", _f32(kind))


_PRODUCTS: dict[str, Callable[[Any, Any], Any]] = {
    "lo": np.multiply,
    "hi": ptx_integers.multiply_high,
    "wide": lambda x, y: ptx_integers.wide(x) * ptx_integers.wide(y),
}


# ------------------------------------------------------------------------------------------ comparing, choosing, moving


def _ordered(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda x, y: function(x, y) & (x == x) & (y == y)


def _unordered(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda x, y: function(x, y) | (x != x) | (y != y)


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal,
    "ne": _ordered(np.not_equal),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_COMPARE |= {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
_COMPARE_FLOATS = _COMPARE | {f"{name}u": _unordered(_COMPARE[name]) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_COMPARE_FLOATS |= {"num": lambda x, y: (x == x) & (y == y), "nan": lambda x, y: (x != x) | (y != y)}
_LOGIC: dict[str, Callable[[Any, Any], Any]] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def _set_predicate(instruction: Instruction, widths: dict[str, int]) -> Action:
    comparison, *combine, kind = instruction.modifiers
    compare = (_COMPARE_FLOATS if kind[0] == "f" else _COMPARE)[comparison]
    if not combine:
        return compute(instruction, widths, compare, kind, kind)
    (logic,) = combine
    return compute(instruction, widths, lambda x, y, p: _LOGIC[logic](compare(x, y), p), kind, kind, "pred")


def _select(instruction: Instruction, widths: dict[str, int]) -> Action:
    kind = only(instruction)
    bits = f"b{8 * type_bytes(kind)}"
    return compute(instruction, widths, lambda x, y, p: np.where(p, x, y), bits, bits, "pred")


def _logic(instruction: Instruction, widths: dict[str, int]) -> Action:
    kind = only(instruction)
    return compute(instruction, widths, _LOGIC[instruction.opcode], kind, kind)


def _not(instruction: Instruction, widths: dict[str, int]) -> Action:
    return compute(instruction, widths, np.invert, only(instruction))


def _shift(instruction: Instruction, widths: dict[str, int]) -> Action:
    kind = only(instruction)
    function = ptx_integers.shift_left if instruction.opcode == "shl" else ptx_integers.shift_right
    return compute(instruction, widths, function, kind, "u32")


def _funnel(instruction: Instruction, widths: dict[str, int]) -> Action:
    side, mode, _ = instruction.modifiers
    function = ptx_integers.funnel({"l": True, "r": False}[side], {"wrap": True, "clamp": False}[mode])
    return compute(instruction, widths, function, "b32", "b32", "u32")


def _bits(function: Callable[..., Any], *more: str, values: int = 1) -> Callable[..., Action]:
    """Return the maker of an instruction of one bit type, `values` operands of it and then those of `more`."""

    def make(instruction: Instruction, widths: dict[str, int]) -> Action:
        return compute(instruction, widths, function, *[only(instruction)] * values, *more)

    return make


_MAKERS: dict[str, Callable[[Instruction, dict[str, int]], Action]] = {
    **dict.fromkeys(("add", "sub"), _add),
    **dict.fromkeys(("neg", "abs"), _sign),
    **dict.fromkeys(("min", "max"), _extremum),
    **dict.fromkeys(("and", "or", "xor"), _logic),
    **dict.fromkeys(("shl", "shr"), _shift),
    "mul": _multiply,
    "mad": _multiply_add,
    "fma": _fma,
    "div": _divide,
    "rem": _remainder,
    "not": _not,
    "shf": _funnel,
    "prmt": _bits(ptx_integers.permute, values=3),
    "bfe": _bits(ptx_integers.extract, "u32", "u32"),
    "bfi": _bits(ptx_integers.insert, "u32", "u32", values=2),
    "clz": _bits(ptx_integers.leading_zeros),
    "popc": _bits(lambda x: np.bitwise_count(x).astype(np.uint32)),
    "brev": _bits(ptx_integers.reverse_bits),
    "setp": _set_predicate,
    "selp": _select,
    "mov": ptx_moving.move,
    "cvt": ptx_moving.convert,
    "cvta": ptx_moving.convert_address,
    "ld": ptx_moving.load_values,
    "ldu": ptx_moving.load_values,
    "st": ptx_moving.store_values,
}
