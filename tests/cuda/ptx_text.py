"""PTX text as a program: parameters, registers, variables, and basic blocks of instructions.

The PTX ISA 9.x, chapters 4 (syntax) and 5 (variables), as far as NVVM writes it: one entry, no calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}
_TYPE = re.compile(r"([bsuf])(8|16|32|64)$")
_VARIABLE = re.compile(
    r"\.(?P<space>global|const|shared|local)\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+"
    r"(?P<name>[\w$]+)\s*(?P<array>\[(?P<count>\d*)\])?\s*(?:=\s*\{?(?P<values>[^}]*)\}?)?$"
)
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.+)$")
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\.ptr\s*[^\s]*\s+(?:\.align\s+\d+\s+)?)?([\w$]+)(?:\[(\d+)\])?$"
)
_HEAD = re.compile(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)$", re.DOTALL)
_SCOPELESS = (".reg", ".pragma", ".loc", ".local", ".shared")


class PtxError(Exception):
    """PTX that cannot be read, or that does what the interpreter must not guess."""


@dataclass(frozen=True)
class Register:
    """`%f1`, or a special one such as `%tid.x`."""

    name: str


@dataclass(frozen=True)
class Immediate:
    """A constant: an integer, or the bits of a float (`0f3F800000`: 4 bytes, `0d...`: 8)."""

    value: int
    float_bytes: int = 0


@dataclass(frozen=True)
class Address:
    """`[%rd1+8]`, `[name+4]`; also a bare name, whose address is meant."""

    base: str | None
    offset: int = 0


@dataclass(frozen=True)
class Vector:
    """`{%f1, %f2}`."""

    parts: tuple[Register | Immediate, ...]


Operand = Register | Immediate | Address | Vector


@dataclass(frozen=True)
class Instruction:
    """One instruction without its predicate.

    Attributes:
        opcode: all before the first dot.
        modifiers: what stands between the dots behind it, in order.
        operands: in order.
        text: as it was written, for errors.
    """

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    text: str


@dataclass(frozen=True)
class Jump:
    """How a block ends.

    Attributes:
        target: block that is gone to; -1 leaves the kernel.
        predicate: register that decides; None: always.
        negated: go where the predicate is false.
        barrier: go to the target once all threads of the thread block are here.
    """

    target: int
    predicate: str | None = None
    negated: bool = False
    barrier: bool = False


@dataclass(frozen=True)
class Block:
    """Instructions without a branch, then a jump, or the next block."""

    instructions: tuple[Instruction, ...]
    jump: Jump | None


@dataclass(frozen=True)
class Variable:
    """A variable of the module or of the entry; `data` holds its bytes, zeros where it has no initial value."""

    name: str
    space: str
    align: int
    data: bytes


@dataclass(frozen=True)
class Program:
    """One entry of a PTX module.

    Attributes:
        name: of the entry, mangled.
        parameters: name → (offset, bytes) in the parameter space, in order.
        widths: register → bytes; 0 for predicates.
        variables: by name; `.shared` and `.local` ones are zeros.
        blocks: the first is where all threads begin.
    """

    name: str
    parameters: dict[str, tuple[int, int]]
    widths: dict[str, int]
    variables: dict[str, Variable]
    blocks: tuple[Block, ...]


def type_bytes(name: str) -> int:
    """Return the bytes of a PTX type; 0 for `pred`."""
    found = _TYPE.match(name)
    if found is None and name != "pred":
        raise PtxError(
            f"PTX type: expected b, s, u or f with 8 to 64 bits, or pred; found {name!r}; add it to ptx_text"
        )
    return BYTES[found[2]] if found else 0


def parse(ptx: str, entry: str | None = None) -> Program:
    """Read one entry of a PTX module.

    Args:
        ptx: the module.
        entry: part of the entry's name; None where there is one entry only.

    Raises:
        PtxError: no such entry, several, or PTX beyond the subset.
    """
    text = re.sub(r"//[^\n]*", "", ptx.replace("\0", ""))
    entries = [found for found in re.finditer(r"\.entry\s+([\w$]+)\s*", text) if entry is None or entry in found[1]]
    if len(entries) != 1:
        named = "" if entry is None else f" with {entry!r} in its name"
        raise PtxError(f"PTX module: expected one entry{named}, found {len(entries)}; name the one that is meant")
    # Parameters are named after the entry, and that after how much was compiled before: no part of the code.
    parameters, body = _entry_parts(text[entries[0].end() :].replace(f"{entries[0][1]}_param_", "param_"))
    variables = {v.name: v for v in _variables(text[: entries[0].start()].split(";"))}
    statements = list(_statements(body))
    variables |= {v.name: v for v in _variables(statements)}
    return Program(
        entries[0][1],
        _parameters(parameters),
        _registers(statements),
        variables,
        _blocks([s for s in statements if not s.startswith(_SCOPELESS)]),
    )


def _entry_parts(text: str) -> tuple[str, str]:
    """Return what stands in the parentheses and in the braces of an entry."""
    parameters = ""
    if text.startswith("("):
        parameters = text[1 : text.index(")")]
    start = text.index("{")
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return parameters, text[start + 1 : position]
    raise PtxError("PTX entry: expected a closing brace, found the end of the text; was it cut off?")


def _statements(body: str) -> Iterator[str]:
    for piece in body.split(";"):
        statement = piece.strip()
        while found := re.match(r"([\w$]+:|[{}])\s*", statement):  # neither a label nor a scope ends in a semicolon
            if found[1] not in "{}":
                yield found[1]
            statement = statement[found.end() :]
        if statement:
            yield statement


def _parameters(text: str) -> dict[str, tuple[int, int]]:
    parameters: dict[str, tuple[int, int]] = {}
    offset = 0
    for piece in filter(None, map(str.strip, text.split(","))):
        found = _PARAMETER.match(piece)
        if found is None:
            raise PtxError(f"PTX parameter: expected '.param .type name', found {piece!r}; add it to ptx_text")
        each = type_bytes(found[1])
        offset = -(-offset // 8) * 8
        parameters[found[2]] = (offset, each * int(found[3] or 1))
        offset += parameters[found[2]][1]
    return parameters


def _registers(statements: Iterable[str]) -> dict[str, int]:
    """Return registers and their bytes. Those of a scope count as the entry's: each is written before it is read."""
    widths: dict[str, int] = {}
    for statement in statements:
        if not statement.startswith(".reg"):
            continue
        found = _REGISTERS.match(statement)
        if found is None:
            raise PtxError(f"PTX registers: expected '.reg .type names', found {statement!r}; add it to ptx_text")
        for name in re.split(r",\s*", found[2]):
            stem, _, count = name.rstrip(">").partition("<")
            for each in [f"{stem}{i}" for i in range(int(count))] if count else [stem]:
                if widths.setdefault(each, type_bytes(found[1])) != type_bytes(found[1]):
                    raise PtxError(f"PTX register {each}: expected one width in all scopes, found two; rename them")
    return widths


def _variables(statements: Iterable[str]) -> Iterator[Variable]:
    for statement in statements:
        found = _VARIABLE.search(statement.strip())
        if found is None or ".common" in statement:  # Numba's environments, which kernels never touch
            continue
        each = type_bytes(found["type"])
        count = int(found["count"] or 0) if found["array"] else 1
        data = np.zeros(count * each, np.uint8)
        if found["values"]:
            values = [_immediate(v.strip()) for v in found["values"].split(",")]
            if not all(isinstance(value, Immediate) for value in values):
                raise PtxError(f"PTX variable {found['name']}: expected numbers, found {found['values'][:60]!r}")
            raw = b"".join((value.value % 2 ** (8 * each)).to_bytes(each, "little") for value in values)
            data[: len(raw)] = np.frombuffer(raw, np.uint8)
        yield Variable(found["name"], found["space"], int(found["align"] or each), data.tobytes())


# --------------------------------------------------------------------------------------------------------- instructions


def _immediate(text: str) -> Immediate | None:
    if found := re.match(r"0[fF]([0-9a-fA-F]{8})$", text):
        return Immediate(int(found[1], 16), 4)
    if found := re.match(r"0[dD]([0-9a-fA-F]{16})$", text):
        return Immediate(int(found[1], 16), 8)
    if found := re.match(r"(-?(?:0[xX][0-9a-fA-F]+|\d+))U?$", text):
        return Immediate(int(found[1], 0))
    return None


def _operand(text: str) -> Operand:
    if text.startswith("["):
        base, sign, offset = re.match(r"([^+-]+)([+-]*)(.*)$", text.strip("[]").replace(" ", "")).groups()  # type: ignore[union-attr]
        number = int(offset, 0) if offset else 0
        return Address(base, -number if sign in ("-", "+-") else number)
    if text.startswith("{"):
        parts = tuple(_operand(part.strip()) for part in text.strip("{}").split(","))
        return Vector(parts)  # type: ignore[arg-type]
    if text.startswith("%"):
        return Register(text)
    immediate = _immediate(text)
    if immediate is not None:
        return immediate
    if re.match(r"[\w$]+$", text):
        return Address(text)
    raise PtxError(f"PTX operand: expected a register, number, address or vector, found {text!r}; add it to ptx_text")


def _operands(text: str) -> tuple[Operand, ...]:
    return tuple(_operand(part.strip()) for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", text))


def _blocks(statements: list[str]) -> tuple[Block, ...]:
    """Cut at labels, branches and predicates: what is predicated is a block of its own, gone around where false."""
    blocks: list[tuple[list[Instruction], tuple[str | int | None, str | None, bool, bool] | None]] = [([], None)]
    labels: dict[str, int] = {}

    def close(target: str | int | None, predicate: str | None = None, negated: bool = False, bar: bool = False) -> None:
        blocks[-1] = (blocks[-1][0], (target, predicate, negated, bar))
        blocks.append(([], None))

    for statement in statements:
        if statement.endswith(":"):
            if blocks[-1][0]:
                blocks.append(([], None))
            labels[statement[:-1]] = len(blocks) - 1
            continue
        negated, predicate, full, rest = _HEAD.match(statement).groups()  # type: ignore[union-attr]
        opcode, *modifiers = full.split(".")
        if opcode == "bra":
            close(rest.strip(), predicate, bool(negated))
        elif opcode in ("ret", "exit"):
            close(-1, predicate, bool(negated))
        elif opcode in ("bar", "barrier"):
            if predicate or rest.strip() != "0":
                raise PtxError(f"PTX barrier: expected number 0 without a predicate, found {statement!r}")
            close(len(blocks), bar=True)
        else:
            instruction = Instruction(opcode, tuple(modifiers), _operands(rest), statement)
            if predicate:
                close(len(blocks) + 1, predicate, not negated)
            blocks[-1][0].append(instruction)
            if predicate:
                blocks.append(([], None))
    close(-1)
    return tuple(Block(tuple(body), _jump(jump, labels)) for body, jump in blocks[:-1])


def _jump(jump: tuple[str | int | None, str | None, bool, bool] | None, labels: dict[str, int]) -> Jump | None:
    if jump is None:
        return None
    target, predicate, negated, barrier = jump
    if isinstance(target, str) and target not in labels:
        raise PtxError(f"PTX branch: expected one of {len(labels)} labels, found {target!r}")
    return Jump(labels[target] if isinstance(target, str) else target, predicate, negated, barrier)  # type: ignore[arg-type]
