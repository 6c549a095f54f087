"""Text files: rows, bad rows with their reasons and lines, chunks, compression, the index on disk."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from intune_gpu.core.columns import BadRow, Chunk, ColumnType, FlatColumn
from intune_gpu.core.errors import DataError, RecipeError
from intune_gpu.sources import text_index
from intune_gpu.sources.text import TextFormat, TextSource
from intune_gpu.sources.text_format import read_head
from tests.shared_data import CRITEO_TINY, needs

CSV = TextFormat(",", quoted=True)
TSV = TextFormat()
TYPES = {"h": "hex32", "i": "int64", "f": "float64", "s": "string"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def source(
    path: Path | str, text_format: TextFormat = TSV, types: Mapping[str, str] = TYPES, **more: Any
) -> TextSource:
    if not text_format.header:
        more.setdefault("columns", list(types))
    more.setdefault("needed", list(types))
    return TextSource([str(path)], text_format=text_format, types=types, **more)


def values(column: FlatColumn) -> list[Any]:
    """One column as Python values, None where missing."""
    if column.offsets is None:
        found: list[Any] = column.values.tolist()
    else:
        data = column.values.tobytes()
        found = [data[a:b] for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]
    if column.validity is None:
        return found
    present = np.unpackbits(column.validity, count=len(found), bitorder="little")
    return [value if there else None for value, there in zip(found, present, strict=True)]


def good_rows(chunks: Sequence[Chunk], names: Sequence[str]) -> list[tuple[Any, ...]]:
    found = []
    for chunk in chunks:
        bad = {row.row for row in chunk.bad}
        rows = list(zip(*(values(chunk.columns[name]) for name in names), strict=True))
        assert len(rows) == chunk.rows
        found += [row for number, row in enumerate(rows) if number not in bad]
    return found


def read_all(text: TextSource) -> list[Chunk]:
    return [text.read(i) for i in range(len(text.chunks))]


def write(folder: Path, content: bytes, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# --- fields ----------------------------------------------------------------------------------------------------------

UGLY: dict[str, list[tuple[bytes, Any]]] = {
    # field as written -> its value, or the reason why it has none
    "hex32": [
        (b"0", 0),
        (b"00000000", 0),
        (b"68fd1e64", 0x68FD1E64),
        (b"FfFfFfFf", 0xFFFFFFFF),
        (b"aBc", 0xABC),
        (b"", None),
        (b"123456789", "expected at most 8 hex digits, found '123456789'"),
        (b"0x1", "expected hex digits, found '0x1'"),
        (b"-1", "expected hex digits, found '-1'"),
        (b"g", "expected hex digits, found 'g'"),
        (b"1 ", "expected hex digits, found '1 '"),
        (b"12\x0034", "expected hex digits, found '12\\x0034'"),
        (b"\xb0\xb1", "expected hex digits, found '\\\\xb0\\\\xb1'"),
    ],
    "int64": [
        (b"0", 0),
        (b"-0", 0),
        (b"+5", 5),
        (b"-5", -5),
        (b"12345678", 12345678),
        (b"-1234567", -1234567),
        (b"-12345678", -12345678),
        (b"123456789", 123456789),
        (b"1234567890123456", 1234567890123456),
        (b"-12345678901234567", -12345678901234567),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"0000000000000000000000000000042", 42),
        (b"", None),
        (b"9223372036854775808", "expected an integer within int64, found '9223372036854775808'"),
        (b"-9223372036854775809", "expected an integer within int64, found '-9223372036854775809'"),
        (b"99999999999999999999", "expected an integer within int64, found '99999999999999999999'"),
        (b"18446744073709551617", "expected an integer within int64, found '18446744073709551617'"),
        (b"-", "expected an integer, found '-'"),
        (b"+", "expected an integer, found '+'"),
        (b"--1", "expected an integer, found '--1'"),
        (b"1-", "expected an integer, found '1-'"),
        (b"1.0", "expected an integer, found '1.0'"),
        (b"1e3", "expected an integer, found '1e3'"),
        (b" 1", "expected an integer, found ' 1'"),
        (b"1_0", "expected an integer, found '1_0'"),
        (b"12345678x", "expected an integer, found '12345678x'"),
        (b"x2345678901234567", "expected an integer, found 'x2345678901234567'"),
        (b"0000000000000000000x", "expected an integer, found '0000000000000000000x'"),
        (b"-" + b"0" * 30, 0),
    ],
    "float64": [
        (b"0", 0.0),
        (b"1.5", 1.5),
        (b".5", 0.5),
        (b"5.", 5.0),
        (b"+1e3", 1000.0),
        (b"-1E-3", -0.001),
        (b"0.1", 0.1),
        (b"1e23", 1e23),
        (b"9007199254740993", 9007199254740992.0),
        (b"123456789012345678901234567890", 123456789012345678901234567890.0),
        (b"5e-324", 5e-324),
        (b"2.2250738585072011e-308", 2.2250738585072011e-308),
        (b"1.7976931348623157e308", 1.7976931348623157e308),
        (b"1e400", math.inf),
        (b"1e-400", 0.0),
        (b"1e99999999999999999999", math.inf),
        (b"inf", math.inf),
        (b"-Infinity", -math.inf),
        (b"0" * 400 + b"1e2", 100.0),
        (b"", None),
        (b"0x1p3", "expected a decimal number, found '0x1p3'"),
        (b"1_0", "expected a decimal number, found '1_0'"),
        (b" 1", "expected a decimal number, found ' 1'"),
        (b"1e", "expected a decimal number, found '1e'"),
        (b"1e+", "expected a decimal number, found '1e+'"),
        (b".", "expected a decimal number, found '.'"),
        (b"-", "expected a decimal number, found '-'"),
        (b"1.2.3", "expected a decimal number, found '1.2.3'"),
        (b"infi", "expected a decimal number, found 'infi'"),
        (b"1,5", "expected a decimal number, found '1,5'"),
    ],
    "string": [
        (b"a", b"a"),
        (b"\xff\xfe", b"\xff\xfe"),
        (b"x" * 100, b"x" * 100),
        (b'"a"', b'"a"'),
        (b" ", b" "),
        (b"\x00", b"\x00"),
        (b"a\rb", b"a\rb"),
        (b"", None),
    ],
}


@pytest.mark.parametrize("declared", list(UGLY))
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_ugly_fields(tmp_path: Path, declared: str, end: bytes) -> None:
    cases = UGLY[declared]
    content = b"".join(b"7\t" + field + end for field, _ in cases)
    text = source(write(tmp_path, content), types={"n": "int64", "x": declared})
    (chunk,) = read_all(text)
    bad = {row.row: row for row in chunk.bad}
    for row, ((field, expected), found) in enumerate(zip(cases, values(chunk.columns["x"]), strict=True)):
        if isinstance(expected, str):
            assert bad.pop(row) == BadRow(row, row + 1, "x", expected, b"7\t" + field)
        else:
            assert found == expected, field
            assert type(found) is type(expected)
    assert not bad
    assert values(chunk.columns["n"]) == [7] * len(cases)


def test_nan_is_a_value_that_stays_nan(tmp_path: Path) -> None:
    (chunk,) = read_all(source(write(tmp_path, b"nan\n-NaN\nNAN\n"), types={"f": "float64"}))
    assert chunk.bad == ()
    assert chunk.columns["f"].validity is None
    assert np.isnan(chunk.columns["f"].values).all()


# --- rows ------------------------------------------------------------------------------------------------------------

ROWS: list[tuple[str, TextFormat, bytes, list[tuple[Any, ...]], list[tuple[int, str | None, str, bytes]]]] = [
    # name, format, file, good rows (int64 a, string b), bad rows (line, column, reason, text)
    ("plain", TSV, b"1\tx\n2\ty\n", [(1, b"x"), (2, b"y")], []),
    ("no last newline", TSV, b"1\tx\n2\ty", [(1, b"x"), (2, b"y")], []),
    ("crlf", TSV, b"1\tx\r\n2\t\r\n3\tz\r", [(1, b"x"), (2, None), (3, b"z")], []),
    ("byte order mark", TSV, b"\xef\xbb\xbf1\tx\n", [(1, b"x")], []),
    ("one return is dropped", TSV, b"1\tx\r\r\n", [(1, b"x\r")], []),
    ("all empty", TSV, b"\t\n", [(None, None)], []),
    (
        "field counts",
        TSV,
        b"1\n\n1\tx\ty\n\r\n1\tx\n" + b"\t" * 300 + b"\n",
        [(1, b"x")],
        [
            (1, None, "expected 2 fields, found 1", b"1"),
            (2, None, "expected 2 fields, found an empty line", b""),
            (3, None, "expected 2 fields, found 3", b"1\tx\ty"),
            (4, None, "expected 2 fields, found an empty line", b""),
            (6, None, "expected 2 fields, found 301", b"\t" * 300),
        ],
    ),
    ("blank at the end", TSV, b"1\tx\n\n", [(1, b"x")], [(2, None, "expected 2 fields, found an empty line", b"")]),
    ("only a newline", TSV, b"\n", [], [(1, None, "expected 2 fields, found an empty line", b"")]),
    ("first fault", TSV, b"x\ty\tz\nx\ty\n", [], [
        (1, None, "expected 2 fields, found 3", b"x\ty\tz"),
        (2, "a", "expected an integer, found 'x'", b"x\ty"),
    ]),
    ("quotes mean nothing", TSV, b'1\t"x\n2\ty"\n', [(1, b'"x'), (2, b'y"')], []),
    ("quoted", CSV, b'"1","x,y"\n2,"a ""b"" c"\n', [(1, b"x,y"), (2, b'a "b" c')], []),
    ("quoted newline", CSV, b'1,"x\ny\r\nz"\r\n\n3,x\n', [(1, b"x\ny\r\nz"), (3, b"x")], [
        (4, None, "expected 2 fields, found an empty line", b""),
    ]),
    ("empty in quotes", CSV, b'"",""\n,\n', [(None, b""), (None, None)], []),
    ("quotes inside a field", CSV, b'1,5" pipe\n2,x"y"\n', [(1, b'5" pipe'), (2, b'x"y"')], []),
    ("text behind a quote", CSV, b'1,"x"y\n2,"x" "\n"3"4,x\n4,"""a"\n', [(4, b'"a')], [
        (1, "b", "expected quotes in pairs around the field, found '\"x\"y'", b'1,"x"y'),
        (2, "b", "expected quotes in pairs around the field, found '\"x\" \"'", b'2,"x" "'),
        (3, "a", "expected an integer, found '\"3\"4'", b'"3"4,x'),
    ]),
    ("never closed", CSV, b'1,x\n2,"y\n3,z\n', [(1, b"x")], [
        (2, None, "expected a closing quote, found the end of the file", b'2,"y\n3,z\n'),
    ]),
    ("never closed, counts", CSV, b'1,"\n2,"y,"z', [], [
        (1, None, "expected a closing quote, found the end of the file", b'1,"\n2,"y,"z'),
    ]),
    ("closed by two", CSV, b'1,""""\n2,""\n', [(1, b'"'), (2, b"")], []),
    ("quoted wrong count", CSV, b'1,"x,y",z\n', [], [(1, None, "expected 2 fields, found 3", b'1,"x,y",z')]),
    ("no quotes at all", CSV, b"1,x\n2,y\n", [(1, b"x"), (2, b"y")], []),
    ("header", TextFormat(",", header=True), b"a,b\n1,x\nx,y\n", [(1, b"x")], [
        (3, "a", "expected an integer, found 'x'", b"x,y"),
    ]),
    ("header in quotes", TextFormat(",", True, True), b'\xef\xbb\xbf"a","b"\r\n1,"x\ny"\n?,\n', [(1, b"x\ny")], [
        (4, "a", "expected an integer, found '?'", b"?,"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize(("text_format", "content", "good", "bad"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_rows(
    tmp_path: Path, text_format: TextFormat, content: bytes, good: list[Any], bad: list[Any], chunk_bytes: int
) -> None:
    text = source(write(tmp_path, content), text_format, {"a": "int64", "b": "string"}, chunk_bytes=chunk_bytes)
    chunks = read_all(text)
    assert good_rows(chunks, ["a", "b"]) == good
    assert [(row.line, row.column, row.reason, row.text) for chunk in chunks for row in chunk.bad] == bad
    assert text.rows == len(good) + len(bad)
    assert [info.first_row for info in text.chunks] == np.cumsum([0, *(c.rows for c in chunks[:-1])]).tolist()
    assert all(chunk.nbytes <= info.nbytes for chunk, info in zip(chunks, text.chunks, strict=True))


def test_one_field_a_row_can_be_missing(tmp_path: Path) -> None:
    (chunk,) = read_all(source(write(tmp_path, b"1\n\n3\n"), types={"a": "int64"}))
    assert values(chunk.columns["a"]) == [1, None, 3]
    assert chunk.bad == ()


@pytest.mark.parametrize(
    ("declared", "field", "reason"),
    [
        ("int64", b"", "expected a label, found an empty field"),
        ("hex32", b"", "expected a label, found an empty field"),
        ("string", b"", "expected a label, found an empty field"),
        ("float64", b"", "expected a label, found an empty field"),
        ("float64", b"nan", "expected a finite label, found 'nan'"),
        ("float64", b"-inf", "expected a finite label, found '-inf'"),
        ("float64", b"1e999", "expected a finite label, found '1e999'"),
        ("float64", b"1e300", "expected a finite label, found '1e300'"),
        ("float64", b"x", "expected a decimal number, found 'x'"),
        ("int64", b"x", "expected an integer, found 'x'"),
    ],
)
def test_a_label_has_to_be_there_and_finite(tmp_path: Path, declared: str, field: bytes, reason: str) -> None:
    path = write(tmp_path, b"1\t1\n" + b"\t" + field + b"\n" + b"x\t" + field + b"\n")
    (chunk,) = read_all(source(path, types={"a": "int64", "y": declared}, label="y"))
    # An earlier column's fault comes first.
    assert [(row.column, row.reason) for row in chunk.bad] == [("y", reason), ("a", "expected an integer, found 'x'")]


def test_columns_that_are_not_needed_are_only_counted(tmp_path: Path) -> None:
    path = write(tmp_path, b"x\t1\t?\n\t2\t\n3\n")
    text = source(path, types={"b": "int64"}, columns=["a", "b", "c"])
    (chunk,) = read_all(text)
    assert list(chunk.columns) == ["b"]
    assert good_rows([chunk], ["b"]) == [(1,), (2,)]
    assert [row.reason for row in chunk.bad] == ["expected 3 fields, found 1"]
    (chunk,) = read_all(source(path, types={}, columns=["a", "b", "c"]))
    assert (chunk.columns, chunk.rows, len(chunk.bad)) == ({}, 3, 1)


def test_schema_and_order(tmp_path: Path) -> None:
    text = source(write(tmp_path, b"1\t2\t3\t4\n"), needed=["s", "h", "f", "i"], label="i")
    assert list(text.schema) == ["s", "h", "f", "i"]
    assert text.schema["h"] == ColumnType("uint32", hex32=True)
    assert [str(kind) for kind in text.schema.values()] == ["string", "hex32", "float64", "int64"]


def test_many_rows_and_columns(tmp_path: Path, rng: np.random.Generator) -> None:
    # More columns than a tile, more rows than a block, and a count that no block divides.
    table = rng.integers(-(10**9), 10**9, (1037, 70))
    content = b"".join(b"\t".join(str(v).encode() if v % 7 else b"" for v in row) + b"\n" for row in table)
    names = [f"c{i}" for i in range(70)]
    (chunk,) = read_all(source(write(tmp_path, content), types=dict.fromkeys(names, "int64")))
    for name, column in zip(names, table.T, strict=True):
        assert values(chunk.columns[name]) == [v if v % 7 else None for v in column.tolist()]


def test_a_file_of_bad_rows_only(tmp_path: Path) -> None:
    (chunk,) = read_all(source(write(tmp_path, b'"x"\n' * 50_000), CSV, {"a": "int64"}))
    assert len(chunk.bad) == 50_000
    assert chunk.bad[-1] == BadRow(49_999, 50_000, "a", "expected an integer, found 'x'", b'"x"')


def test_memory_is_used_again_only_when_nobody_looks(tmp_path: Path) -> None:
    text = source(write(tmp_path, b"".join(b"%d\n" % i for i in range(3000))), types={"a": "int64"}, chunk_bytes=500)
    kept = [chunk.columns["a"] for chunk in read_all(text)]
    for _ in range(3):
        read_all(text)
    assert [v for column in kept for v in values(column)] == list(range(3000))


# --- any bytes -------------------------------------------------------------------------------------------------------


def split_rows(content: bytes, delimiter: int, quoted: bool) -> list[tuple[list[bytes], bool]]:
    """Rows as (fields as written, whether a quote was left open), one byte at a time."""
    rows, fields, field, state = [], [], bytearray(), "start"
    for byte in content.removeprefix(b"\xef\xbb\xbf"):
        if state == "quoted":
            field.append(byte)
            state = "closed" if byte == ord('"') else "quoted"
        elif byte in (delimiter, ord("\n")):
            fields.append(bytes(field))
            field, state = bytearray(), "start"
            if byte == ord("\n"):
                fields[-1] = fields[-1].removesuffix(b"\r")
                rows.append((fields, False))
                fields = []
        else:
            opens = quoted and byte == ord('"') and state in ("start", "closed")
            field.append(byte)
            state = "quoted" if opens else "plain"
    if fields or field:
        rows.append(([*fields, bytes(field).removesuffix(b"\r")], state == "quoted"))
    return rows


def naive_value(declared: str, field: bytes, quoted: bool) -> Any:
    """What a field stands for; raises ValueError."""
    if quoted and declared == "string" and field[:1] == b'"':
        inner = re.fullmatch(rb'"((?:[^"]|"")*)"', field, re.DOTALL)
        if inner is None:
            raise ValueError
        return inner[1].replace(b'""', b'"')
    if quoted and len(field) >= 2 and field[:1] == field[-1:] == b'"':
        field = field[1:-1]
    if not field:
        return None
    pattern = {
        "hex32": rb"[0-9a-fA-F]{1,8}",
        "int64": rb"[+-]?[0-9]+",
        "float64": rb"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity|nan))",
        "string": rb"(?s).*",
    }[declared]
    if re.fullmatch(pattern, field) is None:
        raise ValueError
    if declared == "hex32":
        return int(field, 16)
    if declared == "int64":
        if not -(2**63) <= int(field) < 2**63:
            raise ValueError
        return int(field)
    return float(field) if declared == "float64" else field


def naive_rows(content: bytes, text_format: TextFormat, types: Mapping[str, str]) -> list[Any]:
    """Every row as a tuple of values, or as the column at fault (None: the row)."""
    rows: list[Any] = []
    for fields, is_open in split_rows(content, ord(text_format.delimiter), text_format.quoted):
        if is_open or len(fields) != len(types):
            rows.append(None)
            continue
        row: list[Any] = []
        for (name, declared), field in zip(types.items(), fields, strict=True):
            try:
                row.append(naive_value(declared, field, text_format.quoted))
            except ValueError:
                rows.append(name)
                break
        else:
            rows.append(tuple(row))
    return rows


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, tuple) and isinstance(found, tuple):
        return len(found) == len(expected) and all(same(a, b) for a, b in zip(found, expected, strict=True))
    if isinstance(expected, float) and isinstance(found, float):
        return np.float64(found).tobytes() == np.float64(expected).tobytes() or (
            found != found and expected != expected
        )
    return type(found) is type(expected) and bool(found == expected)


FIELD = st.one_of(
    st.sampled_from([field for cases in UGLY.values() for field, _ in cases]),
    st.integers(-(2**64), 2**64).map(lambda v: str(v).encode()),
    st.integers(0, 2**36).map(lambda v: b"%x" % v),
    st.floats().map(lambda v: repr(v).encode()),
    st.from_regex(rb"\A[+-]?[0-9]{0,22}\.?[0-9]{0,22}([eE][+-]?[0-9]{1,3})?\Z"),
    st.binary(max_size=12),
    st.text('"\t,\n\ra1', max_size=8).map(str.encode),
    st.text('"\n,x', max_size=8).map(lambda s: b'"' + s.replace('"', '""').encode() + b'"'),
)


@settings(max_examples=200)
@given(
    rows=st.lists(st.lists(FIELD, min_size=4, max_size=4) | st.lists(FIELD, max_size=6), max_size=12),
    end=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
    quoted=st.booleans(),
    chunk_bytes=st.sampled_from([5, 30, 100, 1 << 16]),
)
@example(rows=[[b'"', b"", b"", b""]], end=b"\n", last=True, quoted=True, chunk_bytes=1)
def test_any_bytes_read_as_the_plain_parser_reads_them(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[bytes]],
    end: bytes,
    last: bool,
    quoted: bool,
    chunk_bytes: int,
) -> None:
    text_format = TextFormat("," if quoted else "\t", quoted=quoted)
    content = end.join(text_format.delimiter.encode().join(row) for row in rows) + (end if last else b"")
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    expected = naive_rows(content, text_format, TYPES)
    if not expected:
        with pytest.raises(DataError, match="no rows"):
            source(path, text_format)
        return
    text = source(path, text_format, chunk_bytes=chunk_bytes)
    found: list[Any] = []
    lines = content.removeprefix(b"\xef\xbb\xbf")
    for info, chunk in zip(text.chunks, read_all(text), strict=True):
        assert (info.first_row, info.rows) == (len(found), chunk.rows)
        read = list(zip(*(values(chunk.columns[name]) for name in TYPES), strict=True))
        for bad in chunk.bad:
            read[bad.row] = bad.column  # type: ignore[call-overload]
            assert lines.split(b"\n", bad.line - 1)[-1].startswith(bad.text)
        found += read
    assert len(found) == len(expected)
    for number, (mine, naive) in enumerate(zip(found, expected, strict=True)):
        assert same(mine, naive), (number, mine, naive)


# --- compressed files, the index -------------------------------------------------------------------------------------


def compress(content: bytes, ending: str) -> bytes:
    return gzip.compress(content) if ending == ".gz" else pa.compress(content, codec="zstd", asbytes=True)  # type: ignore[no-any-return]


SAMPLE = b"".join(b"%x\t%d\t%s\t%s\n" % (i * 7919, i - 500, repr(i / 7).encode(), b"s" * (i % 13)) for i in range(2000))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_equals_plain(tmp_path: Path, ending: str) -> None:
    plain = source(write(tmp_path, SAMPLE), chunk_bytes=3000)
    packed = source(write(tmp_path, compress(SAMPLE, ending), f"a.tsv{ending}"), chunk_bytes=3000)
    assert [(c.first_row, c.rows, c.nbytes) for c in packed.chunks] == [
        (c.first_row, c.rows, c.nbytes) for c in plain.chunks
    ]
    assert {c.stream for c in packed.chunks} == {0}
    assert {c.stream for c in plain.chunks} == {None}
    expected = [good_rows([chunk], list(TYPES)) for chunk in read_all(plain)]
    order = [0, 1, 2, 5, 3, 3, len(expected) - 1, 0, *range(len(expected))]
    for number in order:
        assert good_rows([packed.read(number)], list(TYPES)) == expected[number]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(packed.read, range(len(expected))))
    assert [good_rows([chunk], list(TYPES)) for chunk in found] == expected
    packed.close()
    packed.close()
    assert good_rows([packed.read(1)], list(TYPES)) == expected[1]


def test_members_end_to_end_are_one_file(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b"1\n") + gzip.compress(b"2\n3"), "a.csv.gz")
    assert good_rows(read_all(source(path, types={"a": "int64"})), ["a"]) == [(1,), (2,), (3,)]


def test_several_files_and_threads(tmp_path: Path) -> None:
    files = [str(write(tmp_path, SAMPLE[: 9000 * k], f"{k}.tsv")) for k in (3, 1, 2)]
    files.append(str(write(tmp_path, compress(SAMPLE, ".gz"), "z.gz")))
    text = TextSource(files, text_format=TSV, needed=list(TYPES), types=TYPES, columns=list(TYPES), chunk_bytes=2000)
    assert [c.file for c in text.chunks] == sorted((c.file for c in text.chunks), key=files.index)
    assert {c.stream for c in text.chunks} == {None, 3}
    expected = [good_rows([chunk], list(TYPES)) for chunk in read_all(text)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(text.read, range(len(expected))))
    assert [good_rows([chunk], list(TYPES)) for chunk in found] == expected
    lines = [row.line for chunk in found for row in chunk.bad]
    assert lines == [row.line for chunk in read_all(text) for row in chunk.bad]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.tsv", b"", "which has no rows"),
        ("a.tsv", b"\xef\xbb\xbf", "which has no rows"),
        ("a.tsv.gz", b"", "which has no rows"),
        ("a.tsv.gz", gzip.compress(b"", mtime=0), "which has no rows"),
        ("a.tsv.gz", b"1\t2\t3\t4\n", "expected a readable file, found OSError"),
        ("a.tsv.gz", gzip.compress(SAMPLE, mtime=0)[:-9], "expected a readable file, found OSError"),
        ("a.tsv.zst", b"1\t2\t3\t4\n", "expected a readable file, found OSError"),
        ("a.tsv.zst", compress(SAMPLE, ".zst")[:-9], "expected a readable file, found OSError"),
    ],
)
def test_files_without_rows_or_sense_are_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(DataError) as caught:
        source(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    for content in (b"h\ti\tf\ts\n", b"h\ti\tf\ts", b"h\ti\tf\ts\r\n"):
        with pytest.raises(DataError, match="expected rows, found none"):
            source(write(tmp_path, content), TextFormat(header=True))


def test_headers_must_agree(tmp_path: Path) -> None:
    one, two = write(tmp_path, b"a,b\n1,2\n", "1.csv"), write(tmp_path, b"b,a\n1,2\n", "2.csv")
    with pytest.raises(DataError, match=r"2\.csv: expected the header of .*1\.csv, a, b, found b, a"):
        TextSource([str(one), str(two)], text_format=TextFormat(",", header=True), needed=["a"], types={"a": "int64"})


def test_read_head(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbfa,"b ""x""\ny",\xff\r\n1,2,3\n')
    head = read_head(str(path), CSV)
    assert head.fields == ("a", 'b "x"\ny', "�")
    assert (head.start, head.stop, head.lines) == (3, 20, 2)
    assert read_head(str(path), TextFormat(",")).fields == ("a", '"b ""x""')


@pytest.mark.parametrize("change", [b"9" * 16, b"", b"1\n2\n", b"1\n2\n3\n4\n5\n6\n7\n8\n9\n"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_that_changed_is_named(tmp_path: Path, change: bytes, ending: str) -> None:
    content = b"1\n2\n3\n4\n5\n6\n7\n8\n"
    path = write(tmp_path, compress(content, ending) if ending else content, f"a.tsv{ending}")
    text = source(path, types={"a": "int64"}, chunk_bytes=4)
    text.read(0)
    path.write_bytes(compress(change, ending) if ending else change)
    with pytest.raises(DataError, match=rf"a\.tsv{ending}: expected the file as it was indexed, found it changed"):
        text.read(len(text.chunks) - 1)
    path.unlink()
    with pytest.raises(DataError, match=rf"a\.tsv{ending}: expected a readable file, found none"):
        text.read(1)


def test_a_change_that_keeps_size_and_time_is_seen_by_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, b"11\n22\n33\n")
    text = source(path, types={"a": "int64"})
    monkeypatch.setattr("intune_gpu.sources.text.file_identity", lambda _: (9, text._indexes[0].mtime_ns))
    for content in (b"1\n\n\n\n\n\n\n\n", b"11111111\n", b"11\n22\n3"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="found it changed"):
            text.read(0)


def test_the_index_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, SAMPLE)
    first = source(path, chunk_bytes=3000)
    folder = tmp_path / "cache" / "intune_gpu" / "index"
    (kept,) = folder.iterdir()
    assert json.loads(kept.read_text())["size"] == len(SAMPLE)

    counted: list[str] = []
    count = text_index._count
    monkeypatch.setattr(text_index, "_count", lambda file, *rest: [counted.append(file), count(file, *rest)][1])
    assert source(path, chunk_bytes=3000).chunks == first.chunks
    assert counted == []

    source(path, chunk_bytes=4000)  # other chunks, another entry
    source(path, TextFormat("\t", quoted=True), chunk_bytes=3000)
    assert len(list(folder.iterdir())) == 3
    assert len(counted) > 0

    for broken in ("{}", "not json", "[]", kept.read_text().replace('"pieces": [[', '"pieces": [["x"], [')):
        counted.clear()
        kept.write_text(broken)
        assert source(path, chunk_bytes=3000).chunks == first.chunks
        assert len(counted) > 0
    counted.clear()
    path.write_bytes(SAMPLE[:-100])
    assert source(path, chunk_bytes=3000).rows < first.rows
    assert len(counted) > 0


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = write(tmp_path, b"", "blocked")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert source(write(tmp_path, SAMPLE)).rows == 2000


def test_urls_read_as_files_do(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe({"/text/a.tsv": SAMPLE, "/text/a.tsv.gz": compress(SAMPLE, ".gz")})
    expected = source(write(tmp_path, SAMPLE), chunk_bytes=5000)
    for url in ("memory://text/a.tsv", "memory://text/a.tsv.gz"):
        text = source(url, chunk_bytes=5000)
        assert [c.rows for c in text.chunks] == [c.rows for c in expected.chunks]
        assert good_rows(read_all(text), list(TYPES)) == good_rows(read_all(expected), list(TYPES))


def test_a_row_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "MAX_ROW_BYTES", 1000)
    path = write(tmp_path, b'1,x\n2,"' + b"y\n" * 2000)
    with pytest.raises(DataError, match=r"a\.txt: expected rows of at most 1000 bytes, found a longer one at line 1 "):
        source(path, CSV, {"a": "int64", "b": "string"}, chunk_bytes=4)
    with pytest.raises(DataError, match="expected lines of text, found none"):
        source(write(tmp_path, b"x" * (1 << 20)), types={"a": "int64"})


def test_fingerprint_names_the_data(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    path, copy = write(tmp_path, SAMPLE), write(tmp_path / "copy", SAMPLE)
    base = source(path).fingerprint
    assert source(copy).fingerprint == base
    assert source(path, types={**TYPES, "i": "string"}).fingerprint != base
    assert source(path, needed=["h"]).fingerprint != base
    assert source(path, label="i").fingerprint != base
    assert source(write(tmp_path, SAMPLE[:-50])).fingerprint != base


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"needed": ["x"]}, "columns: expected a column 'x', found h, i, f, s"),
        (
            {"types": {"h": "hex32"}, "needed": ["h", "i"], "columns": ["h", "i", "f", "s"]},
            "column 'i': expected a type",
        ),
        ({"label": "i", "needed": ["h"]}, "label 'i': expected one of the needed columns"),
        ({"columns": ["h", "h", "f", "i"]}, "found h more than once"),
        ({"columns": None}, "columns: expected the names of all fields"),
        ({"text_format": TextFormat(header=True), "columns": ["h"]}, "None for files with one"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    path = write(tmp_path, SAMPLE)
    with pytest.raises(RecipeError) as caught:
        source(path, **more)
    assert says in str(caught.value)


@pytest.mark.parametrize("delimiter", ["", "\t\t", "\n", "\r", '"', "a", "1", "-", ".", "+", "é", "\0", "_"])
def test_delimiters_that_cannot_be(delimiter: str) -> None:
    with pytest.raises(ValueError, match="expected one ASCII character"):
        TextFormat(delimiter)


# --- real rows -------------------------------------------------------------------------------------------------------


@needs(CRITEO_TINY)
@pytest.mark.parametrize("chunk_bytes", [4 << 20, 10_000])
def test_criteo(chunk_bytes: int) -> None:
    names = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
    types = {name: "hex32" if name[0] == "C" else "int64" for name in names}
    text = source(CRITEO_TINY, types=types, label="label", chunk_bytes=chunk_bytes)
    assert text.rows == 1999
    rows = [line.split("\t") for line in CRITEO_TINY.read_text().splitlines()]
    expected = [
        tuple(int(field, 16 if i > 13 else 10) if field else None for i, field in enumerate(row)) for row in rows
    ]
    assert good_rows(read_all(text), names) == expected
    assert sum(row[0] for row in expected if row[0]) == 418
