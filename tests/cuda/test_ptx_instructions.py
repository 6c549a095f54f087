"""Each instruction of the PTX interpreter by itself, against Python's own integers and IEEE floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.cuda import ptx, rounding
from tests.cuda.ptx_memory import Memory
from tests.cuda.ptx_text import PtxError
from tests.cuda.written import INDEX, module


def run(instruction: str, kinds: str, into: str, *inputs: np.ndarray) -> np.ndarray:
    """Run one instruction over arrays: operands are %a, %b, %c and the result %d."""
    names = "abcd"
    each = [*kinds.split(), into]
    declared = [f".reg .{kind} %{name};" for kind, name in zip(each, names[: len(inputs)] + "d", strict=True)]
    body = " ".join([".reg .pred %q<2>;", *declared])
    body += INDEX
    for i, kind in enumerate(each):
        size = np.dtype(f"u{int(kind[1:]) // 8}").itemsize
        body += f"ld.param.u64 %rd{i}, [p{i}]; cvta.to.global.u64 %rd{i}, %rd{i};"
        body += f"mul.wide.u32 %rd{i + 10}, %r23, {size}; add.s64 %rd{i}, %rd{i}, %rd{i + 10};"
    for i, kind in enumerate(each[:-1]):
        body += f"ld.global.{kind} %{names[i]}, [%rd{i}];"
    body += f"{instruction}; st.global.{into} [%rd{len(inputs)}], %d; ret;"
    out = np.zeros(len(inputs[0]), {"f": "f", "s": "i", "u": "u", "b": "u"}[into[0]] + str(int(into[1:]) // 8))
    memory = Memory(sum(i.nbytes + 1024 for i in (*inputs, out)))
    addresses = [memory.put(values) for values in (*inputs, out)]
    ptx.launch(ptx.kernel(module(len(addresses), body)), memory, addresses, (1,), (len(out),))
    return memory.get(addresses[-1], out.dtype, len(out))


def numbers(kind: str, rng: np.random.Generator, count: int = 512) -> np.ndarray:
    bits = int(kind[1:])
    dtype = np.dtype({"s": "i", "u": "u", "b": "u"}[kind[0]] + str(bits // 8))
    info = np.iinfo(dtype)
    random = rng.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
    random[: count // 2] >>= rng.integers(0, bits, count // 2).astype(dtype)
    edge = np.array([0, 1, info.max, info.min, info.max - 1, 2, info.min + 1, 3], dtype)
    random[:8], random[8:16], random[16:24] = edge, edge[::-1], np.roll(edge, 3)
    return random


INTEGERS: list[tuple[str, str, str, Callable[..., int]]] = [
    ("add.{0}", "{0} {0}", "{0}", lambda n, a, b: a + b),
    ("sub.{0}", "{0} {0}", "{0}", lambda n, a, b: a - b),
    ("mul.lo.{0}", "{0} {0}", "{0}", lambda n, a, b: a * b),
    ("mul.hi.{0}", "{0} {0}", "{0}", lambda n, a, b: a * b >> n),
    ("mad.lo.{0}", "{0} {0} {0}", "{0}", lambda n, a, b, c: a * b + c),
    ("min.{0}", "{0} {0}", "{0}", lambda n, a, b: min(a, b)),
    ("max.{0}", "{0} {0}", "{0}", lambda n, a, b: max(a, b)),
    ("shl.b{1}", "{0} u32", "{0}", lambda n, a, b: a << b if b < n else 0),
    ("shr.{0}", "{0} u32", "{0}", lambda n, a, b: a >> min(b, n)),
    ("and.b{1}", "{0} {0}", "{0}", lambda n, a, b: a & b),
    ("or.b{1}", "{0} {0}", "{0}", lambda n, a, b: a | b),
    ("xor.b{1}", "{0} {0}", "{0}", lambda n, a, b: a ^ b),
    ("not.b{1}", "{0}", "{0}", lambda n, a: ~a),
]  # fmt: skip


def _field(bits: int, signed: bool, value: int, position: int, length: int) -> int:
    """`bfe` as the PTX ISA writes it, bit by bit; the highest one fills what is above where the type is signed."""
    top = value >> min(position + length - 1, bits - 1) & 1 if signed and length else 0
    return sum((value >> position + i & 1 if i < length and position + i < bits else top) << i for i in range(bits))


def _inserted(bits: int, a: int, b: int, position: int, length: int) -> int:
    result = b
    for i in range(length):
        if position + i < bits:
            result = result & ~(1 << position + i) | (a >> i & 1) << position + i
    return result


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
@pytest.mark.parametrize(("name", "kinds", "into", "meaning"), INTEGERS, ids=[name for name, *_ in INTEGERS])
def test_integer_instruction(
    name: str, kinds: str, into: str, meaning: Any, kind: str, rng: np.random.Generator
) -> None:
    bits = int(kind[1:])
    listed = kinds.format(kind, bits)
    inputs = [numbers(k, rng) for k in listed.split()]
    if name[:3] in ("shl", "shr"):
        inputs[1:] = [rng.integers(0, 2 * bits, 512).astype(np.uint32) for _ in inputs[1:]]
    operands = ", ".join(f"%{letter}" for letter in "abc"[: len(inputs)])
    found = run(f"{name.format(kind, bits)} %d, {operands}", listed, kind, *inputs)
    for *values, result in zip(*inputs, found, strict=True):
        expected = meaning(bits, *map(int, values)) % 2**bits
        assert int(result) % 2**bits == expected, (name, kind, values)


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_bit_field_extract(kind: str, rng: np.random.Generator) -> None:
    bits = int(kind[1:])
    a, b, c = numbers(kind, rng), *(rng.integers(0, 300, 512).astype(np.uint32) % np.uint32(80) for _ in "bc")
    found = run(f"bfe.{kind} %d, %a, %b, %c", f"{kind} u32 u32", kind, a, b, c)
    expected = [_field(bits, kind[0] == "s", *v) for v in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)]
    assert (found.view(f"u{bits // 8}") == np.array(expected, f"u{bits // 8}")).all()


def test_bit_field_insert(rng: np.random.Generator) -> None:
    for position, length in ((0, 8), (5, 7), (31, 4), (8, 0), (40, 3), (0, 32), (3, 255)):
        a, b = numbers("b32", rng), numbers("b32", rng)
        found = run(f"bfi.b32 %d, %a, %b, {position}, {length}", "b32 b32", "b32", a, b)
        expected = [_inserted(32, int(u), int(v), position, length) % 2**32 for u, v in zip(a, b, strict=True)]
        assert found.tolist() == expected


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_division_is_toward_zero(kind: str, rng: np.random.Generator) -> None:
    a, b = numbers(kind, rng), numbers(kind, rng)
    b[b == 0] = 7
    quotient = run(f"div.{kind} %d, %a, %b", f"{kind} {kind}", kind, a, b)
    rest = run(f"rem.{kind} %d, %a, %b", f"{kind} {kind}", kind, a, b)
    bits = int(kind[1:])
    for x, y, q, r in zip(a.tolist(), b.tolist(), quotient.tolist(), rest.tolist(), strict=True):
        expected = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        assert (q - expected) % 2**bits == 0, (x, y)
        assert (r - (x - expected * y)) % 2**bits == 0, (x, y)


@pytest.mark.parametrize(("kind", "double"), [("s32", "s64"), ("u32", "u64"), ("s16", "s32"), ("u16", "u32")])
def test_wide_products(kind: str, double: str, rng: np.random.Generator) -> None:
    a, b = numbers(kind, rng), numbers(kind, rng)
    found = run(f"mul.wide.{kind} %d, %a, %b", f"{kind} {kind}", double, a, b)
    assert found.tolist() == [x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)]


def test_funnel_shifts_and_permutations(rng: np.random.Generator) -> None:
    a, b, c = (numbers("b32", rng) for _ in range(3))
    for name, meaning in {
        "shf.l.wrap.b32": lambda x, y, n: (y << 32 | x) << n % 32 >> 32,
        "shf.r.wrap.b32": lambda x, y, n: (y << 32 | x) >> n % 32,
        "shf.l.clamp.b32": lambda x, y, n: (y << 32 | x) << min(n, 32) >> 32,
        "shf.r.clamp.b32": lambda x, y, n: (y << 32 | x) >> min(n, 32),
        "prmt.b32": _permuted,
    }.items():
        counts = c if name == "prmt.b32" else c % np.uint32(70)
        found = run(f"{name} %d, %a, %b, %c", "b32 b32 b32", "b32", a, b, counts)
        values = zip(a.tolist(), b.tolist(), counts.tolist(), strict=True)
        assert found.tolist() == [meaning(*v) % 2**32 for v in values], name


def _permuted(a: int, b: int, selector: int) -> int:
    data = (b << 32 | a).to_bytes(8, "little")
    result = 0
    for k in range(4):
        nibble = selector >> 4 * k & 15
        byte = data[nibble & 7]
        result |= (byte if nibble < 8 else 255 * (byte >> 7)) << 8 * k
    return result


@pytest.mark.parametrize("bits", [32, 64])
def test_counting_bits(bits: int, rng: np.random.Generator) -> None:
    a = numbers(f"b{bits}", rng)
    assert run(f"popc.b{bits} %d, %a", f"b{bits}", "u32", a).tolist() == [v.bit_count() for v in a.tolist()]
    assert run(f"clz.b{bits} %d, %a", f"b{bits}", "u32", a).tolist() == [bits - v.bit_length() for v in a.tolist()]
    reversed_bits = [int(f"{v:0{bits}b}"[::-1], 2) for v in a.tolist()]
    assert run(f"brev.b{bits} %d, %a", f"b{bits}", f"b{bits}", a).tolist() == reversed_bits


@pytest.mark.parametrize("to", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("of", ["s16", "u16", "s32", "u32", "s64", "u64"])
def test_integer_conversion_keeps_the_low_bits_and_the_sign(of: str, to: str, rng: np.random.Generator) -> None:
    a = numbers(of, rng)
    register = to if int(to[1:]) >= 16 else to[0] + "32"  # there are no registers of 8 bits
    found = run(f"cvt.{to}.{of} %d, %a", of, register, a)
    assert found.tolist() == a.astype(f"{'i' if to[0] == 's' else 'u'}{int(to[1:]) // 8}").tolist()


FLOATS = np.array(
    [0.0, -0.0, 1e-45, -1e-45, 1.17e-38, 1.0, -1.0, 3e38, -3e38, np.inf, -np.inf, np.nan, 1.5, 1e-30, 7.0, -1e-39],
    np.float32,
)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    a, b = (grid.ravel() for grid in np.meshgrid(FLOATS, FLOATS))
    return a, b


@pytest.mark.parametrize("name", ["add.f32", "add.rn.f32", "sub.f32", "mul.rn.f32", "div.rn.f32"])
def test_float_arithmetic_keeps_denormals_and_has_one_nan(name: str) -> None:
    a, b = pairs()
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[name[:3]]
    with np.errstate(all="ignore"):
        expected = function(a, b)
    found = run(f"{name} %d, %a, %b", "f32 f32", "f32", a, b)
    nan = np.isnan(expected)
    assert (found[~nan].view(np.uint32) == expected[~nan].view(np.uint32)).all()
    assert (found[nan].view(np.uint32) == rounding.NAN).all()
    assert (np.abs(found[~nan]) < 1e-38).any()


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize("unordered", [False, True])
def test_comparisons_of_nan(name: str, unordered: bool) -> None:
    a, b = pairs()
    found = run(f"setp.{name}{'u' * unordered}.f32 %q0, %a, %b; selp.u32 %d, 1, 0, %q0", "f32 f32", "u32", a, b)
    operator = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}[name]
    for x, y, result in zip(a.tolist(), b.tolist(), found.tolist(), strict=True):
        nan = x != x or y != y
        assert result == (unordered if nan else eval(f"x {operator} y")), (x, y)


def test_comparisons_combine_and_tell_nan() -> None:
    a, b = pairs()
    isnan = np.isnan(a) | np.isnan(b)
    assert (run("setp.nan.f32 %q0, %a, %b; selp.u32 %d, 1, 0, %q0", "f32 f32", "u32", a, b) == isnan).all()
    text = "setp.num.f32 %q0, %a, %b; setp.lt.and.f32 %q1, %a, %b, !%q0; selp.u32 %d, 1, 0, %q1"
    with pytest.raises(PtxError, match="operand"):
        run(text, "f32 f32", "u32", a, b)
    found = run(text.replace("!", ""), "f32 f32", "u32", a, b)
    assert (found == (a < b)).all()


def test_least_and_greatest_float() -> None:
    zeros = np.array([0.0, -0.0, np.nan, 1.0, np.nan], np.float32)
    others = np.array([-0.0, 0.0, 2.0, np.nan, np.nan], np.float32)
    least = run("min.f32 %d, %a, %b", "f32 f32", "f32", zeros, others)
    most = run("max.f32 %d, %a, %b", "f32 f32", "f32", zeros, others)
    assert least.view(np.uint32).tolist() == [0x80000000, 0x80000000, 0x40000000, 0x3F800000, 0x7FFFFFFF]
    assert most.view(np.uint32).tolist() == [0, 0, 0x40000000, 0x3F800000, 0x7FFFFFFF]


def test_sign_of_a_float_is_a_bit() -> None:
    nan = np.array([0xFFC12345, 0x80000000, 0x3F800000], np.uint32).view(np.float32)
    assert run("neg.f32 %d, %a", "f32", "f32", nan)[1:].view(np.uint32).tolist() == [0, 0xBF800000]
    assert run("abs.f32 %d, %a", "f32", "f32", nan)[1:].view(np.uint32).tolist() == [0, 0x3F800000]


def test_moves_split_and_join() -> None:
    a = np.array([0x0123456789ABCDEF, 2**63 + 5], np.uint64)
    assert run("mov.b64 {%r0, %r1}, %a; mov.b64 %d, {%r1, %r0}", "b64", "b64", a).tolist() == [
        (v & 0xFFFFFFFF) << 32 | v >> 32 for v in a.tolist()
    ]
    assert run("mov.b32 %d, 0f3F800000", "b32", "f32", np.uint32([1])).tolist() == [1.0]
