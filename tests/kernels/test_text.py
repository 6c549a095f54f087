"""Rules and loops that read text: against Python's own readers, and against one byte at a time."""

from __future__ import annotations

import importlib.util
import random
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intune_gpu.kernels import text, text_columns, text_float, text_index
from intune_gpu.kernels.text import hex32_from_strings
from intune_gpu.kernels.text_index import FIELD_COUNT, NO_FAULT, PADDING, SLACK, UNCLOSED_QUOTE

HEX = b"0123456789abcdefABCDEF"


def strings(elements: list[bytes | None], lead: int = 0) -> tuple[Any, Any, Any, int]:
    """Arrow-like buffers; `lead` bits stand before the first element's."""
    offsets = np.cumsum([0, *(len(e or b"") for e in elements)]).astype(np.int64)
    present = np.array([False] * lead + [e is not None for e in elements])
    bits = None if None not in elements else np.packbits(present, bitorder="little")
    return np.frombuffer(b"".join(e or b"" for e in elements), np.uint8), offsets, bits, lead


def words(field: bytes) -> tuple[np.uint64, int]:
    """A field as its rule gets it, with other bytes behind it."""
    return np.uint64(int.from_bytes((field + b"9a\xffz\t\n09")[:8], "little")), len(field)


# --- hex ids ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("place", [0, -1])
def test_every_byte_as_a_hex_digit(length: int, place: int) -> None:
    for byte in range(256):
        field = bytearray(b"3" * length)
        field[place] = byte
        value, wrong = text.parse_hex32_rule(*words(bytes(field)))
        assert (wrong == 0) == (byte in HEX)
        if byte in HEX:
            assert value == int(field, 16)


def test_hex_strings_edges() -> None:
    elements = [b"68fd1e64", b"ABCDEF01", b"0", None, b"", b"123456789", b"12g", b"ffffffff", b"x"]
    ids, bits, bad = hex32_from_strings(*strings(elements, lead=5))
    assert ids.dtype == np.uint32
    assert ids[[0, 1, 2, 7]].tolist() == [0x68FD1E64, 0xABCDEF01, 0, 0xFFFFFFFF]
    assert bits is not None
    present = np.unpackbits(bits, count=len(elements), bitorder="little").tolist()
    assert present == [1, 1, 1, 0, 0, 1, 1, 1, 1]
    assert bad.dtype == np.int64
    assert bad.tolist() == [5, 6, 8]
    ids, bits, bad = hex32_from_strings(*strings([]))
    assert (len(ids), bits, len(bad)) == (0, None, 0)


@given(
    st.lists(st.none() | st.binary(max_size=10) | st.integers(0, 2**32 - 1).map(lambda v: b"%x" % v), max_size=20),
    st.sampled_from([0, 1, 255, 256, 257, 600]),
    st.integers(0, 9),
)
def test_hex_strings_equal_python(some: list[bytes | None], full: int, lead: int) -> None:
    elements = [b"%08x" % (i * 2654435761 % 2**32) for i in range(full)] + some  # whole blocks of 8 digits first
    ids, bits, bad = hex32_from_strings(*strings(elements, lead))
    good = [e is not None and len(e) <= 8 and all(c in HEX for c in e) for e in elements]
    assert bad.tolist() == [i for i, (e, g) in enumerate(zip(elements, good, strict=True)) if e and not g]
    assert [int(v) for v, e, g in zip(ids, elements, good, strict=True) if e and g] == [
        int(e, 16) for e, g in zip(elements, good, strict=True) if e and g
    ]
    present = (
        [1] * len(elements) if bits is None else np.unpackbits(bits, count=len(elements), bitorder="little").tolist()
    )
    assert present == [int(bool(e)) for e in elements]
    assert (bits is None) == all(present)


def test_hex_strings_of_a_slice() -> None:
    values, offsets, _, _ = strings([b"1", b"22", b"333", b"4444"])
    ids, _, _ = hex32_from_strings(values, offsets[1:])
    assert ids.tolist() == [0x22, 0x333, 0x4444]


# --- integers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("place", [0, -1])
def test_every_byte_as_a_digit(length: int, place: int) -> None:
    for byte in range(256):
        field = bytearray(b"3" * length)
        field[place] = byte
        value, wrong = text.parse_int64_rule(*words(bytes(field)))
        signed = length > 1 and place == 0 and byte in b"+-"
        assert (wrong == 0) == (byte in b"0123456789" or signed)
        if wrong == 0:
            assert value == int(field)


def long_rule(field: bytes) -> tuple[int, int]:
    buffer = np.frombuffer(field + b"12345678", np.uint8)
    value, wrong = text.parse_long_int64_rule(buffer.ctypes.data, len(field))
    return int(value), int(wrong)


@given(st.integers(-(2**64), 2**64) | st.integers(-(10**9), 10**9), st.integers(0, 25), st.booleans())
def test_integers_of_any_length(value: int, zeros: int, plus: bool) -> None:
    field = (("-" if value < 0 else "+" if plus else "") + "0" * zeros + str(abs(value))).encode()
    found, wrong = long_rule(field)
    if -(2**63) <= value < 2**63:
        assert (found, wrong) == (value, 0)
    else:
        assert wrong != 0
    if len(field) <= 8:
        assert tuple(map(int, text.parse_int64_rule(*words(field)))) == (value, 0)
    else:
        assert text.parse_int64_rule(*words(field))[1] != 0


@given(st.text("0123456789+-x. ", min_size=1, max_size=24))
def test_what_is_no_integer(field: str) -> None:
    try:
        value: int | None = int(field) if field == field.strip() else None
    except ValueError:
        value = None
    _, wrong = long_rule(field.encode())
    assert (wrong == 0) == (value is not None and -(2**63) <= value < 2**63)


# --- decimal numbers -------------------------------------------------------------------------------------------------


def float_rule(field: str) -> tuple[float, int]:
    buffer = np.frombuffer(field.encode() + b"12345678", np.uint8)
    value, status = text_float.parse_float64_rule(buffer.ctypes.data, len(field))
    return float(value), int(status)


def check_float(field: str) -> int:
    value, status = float_rule(field)
    assert status in (text_float.READ, text_float.LATER), field
    if status == text_float.READ:
        assert struct.pack("d", value) == struct.pack("d", float(field)), field
    return status


@given(st.floats(allow_nan=False))
def test_floats_as_python_writes_them(value: float) -> None:
    check_float(repr(value))
    check_float(f"{value:.17e}")


@given(st.integers(0, 2**64 - 1), st.integers(-360, 330))
def test_floats_of_any_scale(mantissa: int, exponent: int) -> None:
    check_float(f"{mantissa}e{exponent}")


def test_many_floats() -> None:
    draw = random.Random(0)
    later = 0
    for _ in range(30_000):
        value = struct.unpack("d", struct.pack("Q", draw.getrandbits(64)))[0]
        if value == value:
            later += check_float(repr(value)) == text_float.LATER
        later += check_float(repr(draw.uniform(-1e6, 1e6))) == text_float.LATER
        # Half way between two floats, and just beside it.
        odd = draw.getrandbits(53) * 2 + (1 << 54) + 1
        later += check_float(f"{odd + draw.randint(-1, 1)}e{draw.randint(-3, 3)}") == text_float.LATER
    assert later < 100  # Python's own reader is for the few


@given(st.text("0123456789+-.eE_xinfa ", max_size=12))
def test_what_is_no_float(field: str) -> None:
    try:
        float(field)
        ok = field == field.strip() and "_" not in field
    except ValueError:
        ok = False
    assert (float_rule(field)[1] != text_float.WRONG) == ok


# --- rows and fields -------------------------------------------------------------------------------------------------


def padded(content: bytes, fields: int = 0) -> npt.NDArray[np.uint8]:
    # What stands behind the text looks like rows, and must not count.
    return np.frombuffer(content + b'\n\t\n"\r' * (PADDING + fields), np.uint8)


@given(st.text('\n\r\t"a', max_size=400), st.integers(1, 130), st.booleans())
def test_rows_in_pieces_equal_rows_at_once(content: str, step: int, quoted: bool) -> None:
    data = content.encode()
    quote = ord('"') if quoted else 0
    whole, state = np.zeros(5, np.int64), np.array(text_index.QUOTE_STATE)
    text_index.find_rows_cpu(padded(data), len(data), ord("\t"), quote, state, whole)
    part, carried = np.zeros(5, np.int64), np.array(text_index.QUOTE_STATE)
    ends, first, last, lines, to_first = 0, -1, -1, 0, 0
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        text_index.find_rows_cpu(padded(piece), len(piece), ord("\t"), quote, carried, part)
        if part[0]:
            if first < 0:
                first, to_first = part[1] + start, lines + part[3]
            last = part[2] + start
        ends, lines = ends + part[0], lines + part[4]
    assert whole.tolist() == [ends, first, last, to_first, lines]
    assert lines == content.count("\n")
    if not quoted:
        assert (ends, first, last) == (lines, content.find("\n"), content.rfind("\n"))


def locate(content: bytes, fields: int, rows: int, quote: int = 0) -> tuple[int, list[list[bytes]], list[int]]:
    buffer = padded(content, fields)
    table = np.full((rows + 1 + SLACK, fields + 1), -7, np.int32)
    faults = np.full(rows, NO_FAULT, np.int32)
    columns, missing = np.empty((0, 4), np.int64), np.empty(0, np.int64)
    found, _ = text_columns.parse_rows_cpu(buffer, len(content), ord("\t"), quote, table, faults, columns, missing)
    cells = [[buffer[row[f] + 1 : row[f + 1]].tobytes() for f in range(fields)] for row in table[:rows]]
    return found, cells, faults.tolist()


def test_fields_of_rows() -> None:
    assert locate(b"a\tb\n\tcc\r\nd\t", 2, 3) == (3, [[b"a", b"b"], [b"", b"cc"], [b"d", b""]], [NO_FAULT] * 3)
    assert locate(b"", 2, 0)[0] == 0
    long = b"\t".join(b"%d" % i for i in range(500))
    assert locate(long + b"\n" + long, 500, 2)[1] == [long.split(b"\t")] * 2


def test_rows_of_another_width_get_empty_fields() -> None:
    found, cells, faults = locate(b"a\tb\n" + b"\t" * 1000 + b"\n\nc\td\n" + b"\t" * 200, 2, 5)
    assert found == 5
    assert cells == [[b"a", b"b"], [b"", b""], [b"", b""], [b"c", b"d"], [b"", b""]]
    assert faults == [NO_FAULT, FIELD_COUNT, FIELD_COUNT, NO_FAULT, FIELD_COUNT]


def test_more_rows_than_expected_are_told() -> None:
    for content in (b"a\nb\n", b"a\nb", b"a\n" * 300, b"\n" * 200):
        assert locate(content, 1, 1)[0] == -1
    assert locate(b"a\n", 1, 2)[0] == 1


def test_quotes_hide_delimiters_and_newlines() -> None:
    content = b'"a\t\n""b"\tc"\n' + b'"' + b"\n\t" * 100 + b'"\t"x"y\n"\t\n'
    found, cells, faults = locate(content, 2, 3, ord('"'))
    assert found == 3
    assert cells[:2] == [[b'"a\t\n""b"', b'c"'], [b'"' + b"\n\t" * 100 + b'"', b'"x"y']]
    assert faults == [NO_FAULT, NO_FAULT, UNCLOSED_QUOTE]


# --- CUDA ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
@pytest.mark.parametrize("rule", ["parse_hex32_rule", "parse_digits_rule", "parse_int64_rule"])
def test_word_rules_compile_for_cuda(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    from numba import cuda, types
    from numba.cuda import dispatcher

    compiled = getattr(text, rule)

    def kernel(words: Any, lengths: Any, out: Any) -> None:
        i = cuda.grid(1)
        if i < len(words):
            value, wrong = compiled(words[i], lengths[i])
            out[i] = np.int64(value) if wrong == 0 else -1

    monkeypatch.setattr(dispatcher, "get_current_device", lambda: type("Device", (), {"compute_capability": (9, 0)}))
    ptx, _ = cuda.compile_ptx(kernel, types.void(types.uint64[::1], types.int64[::1], types.int64[::1]), cc=(9, 0))
    assert ".local" not in ptx
    assert ".f64" not in ptx
