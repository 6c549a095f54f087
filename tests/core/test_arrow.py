"""Arrow arrays of every accepted type and shape come out as the values that `to_pylist` shows."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intune_gpu.core.arrow import chunk_from_table, columns_from_mapping, flatten
from intune_gpu.core.arrow_types import check_label, column_type, column_types, table_types
from intune_gpu.core.columns import PHYSICAL, STRING, ColumnType, FlatColumn
from intune_gpu.core.errors import DataError


def unflatten(column: FlatColumn) -> list[Any]:
    """Return a column's rows as Python values: None, numbers, bytes, or lists of these."""
    count = len(column.values) if column.offsets is None else len(column.offsets) - 1
    codes = range(count) if column.codes is None else column.codes
    count = len(codes)
    elements: list[Any] = []
    for i in range(count):
        bit = column.validity_offset + i
        if column.validity is not None and not column.validity[bit >> 3] >> (bit & 7) & 1:
            elements.append(None)
        elif column.offsets is None:
            elements.append(column.values[i].item())
        else:
            elements.append(column.values[column.offsets[codes[i]] : column.offsets[codes[i] + 1]].tobytes())
    rows = column.row_offsets
    return elements if rows is None else [elements[a:b] for a, b in pairwise(rows)]


def plain(value: Any, is_list: bool) -> Any:
    """Return what `unflatten` should show for a value of `to_pylist`."""
    if is_list:
        return [plain(v, False) for v in value or []]
    return value.encode() if isinstance(value, str) else int(value) if isinstance(value, bool) else value


def check(array: pa.Array | pa.ChunkedArray) -> FlatColumn:
    kind = column_type(pa.field("x", array.type))
    column, bad = flatten(array, kind)
    assert bad == []
    assert column.rows == len(array)
    assert kind.physical in PHYSICAL
    assert column.values.dtype == (np.uint8 if kind.physical == STRING else np.dtype(kind.physical))
    assert (column.offsets is None) == (kind.physical != STRING)
    assert (column.row_offsets is None) != kind.is_list
    assert unflatten(column) == [plain(v, kind.is_list) for v in array.to_pylist()]
    return column


TEXT = ["a", None, "", "longer than twelve bytes", "ünï", None, "same", "same", "\x00", "z"] * 3
BYTES = [None if t is None else t.encode() + b"\xff" for t in TEXT]
NUMBERS = [0, 1, None, 127, 5, None, None, 7, 100, 3] * 3
LISTS = [[1, 2], None, [], [None], [3, None, 4], [], None, [5], [6, 7, 8, 9], [None, None]] * 3
TEXT_LISTS = [None if v is None else [None if e is None else f"word {e}" for e in v] for v in LISTS]
PAIRS = [[1, 2], None, [None, 3], [4, 5], None, [6, 7], [8, None], [None, None], None, [9, 9]] * 3


def hidden(make: Any, offsets: pa.Array) -> pa.Array:
    """Lists whose null rows point at elements."""
    mask = pa.array([False, True, False, True, True])
    return make.from_arrays(offsets, pa.array(range(12), pa.int64()), mask=mask)


ARRAYS: dict[str, Callable[[], pa.Array]] = {
    **{str(t): lambda t=t: pa.array(NUMBERS, t) for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(t): lambda t=t: pa.array(NUMBERS, t) for t in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    **{str(t): lambda t=t: pa.array(NUMBERS, t) for t in (pa.float32(), pa.float64())},
    "halffloat": lambda: pa.array(NUMBERS, pa.float64()).cast(pa.float16()),
    "bool": lambda: pa.array([True, False, None, True, True, False] * 4),
    **{str(t): lambda t=t: pa.array(TEXT, t) for t in (pa.string(), pa.large_string(), pa.string_view())},
    **{str(t): lambda t=t: pa.array(BYTES, t) for t in (pa.binary(), pa.large_binary(), pa.binary_view())},
    "fixed_size_binary": lambda: pa.array([b"1234", None, b"\x00\x00\x00\x00"] * 7, pa.binary(4)),
    "dictionary of strings": lambda: pa.array(TEXT).dictionary_encode(),
    "dictionary of numbers": lambda: pa.array(NUMBERS, pa.int16()).dictionary_encode(),
    "dictionary with nulls on both sides": lambda: pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 2, 1, 0, None, 2] * 3, pa.uint8()), pa.array(["a", None, "c"])
    ),
    "dictionary of booleans": lambda: pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 2] * 5, pa.int64()), pa.array([True, None, False])
    ),
    "dictionary of views": lambda: pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 2] * 5, pa.int8()), pa.array(["a", None, "longer than twelve bytes"], pa.string_view())
    ),
    "list": lambda: pa.array(LISTS, pa.list_(pa.int32())),
    "large_list": lambda: pa.array(LISTS, pa.large_list(pa.float32())),
    "list of strings": lambda: pa.array(TEXT_LISTS, pa.list_(pa.string())),
    "list of views": lambda: pa.array(TEXT_LISTS, pa.list_(pa.string_view())),
    "list of booleans": lambda: pa.array([[True, None], None, [], [False]] * 6),
    "list of dictionaries": lambda: pa.ListArray.from_arrays(
        pa.array([0, 2, 2, None, 5, 6], pa.int32()), pa.array(["a", None, "c", "a", "d", "e"]).dictionary_encode()
    ),
    "fixed_size_list": lambda: pa.array(PAIRS, pa.list_(pa.int32(), 2)),
    "fixed_size_list of strings": lambda: pa.array([["a", "b"], None, [None, "c"]] * 7, pa.list_(pa.string(), 2)),
    "list with hidden elements": lambda: hidden(pa.ListArray, pa.array([0, 2, 5, 6, 9, 12], pa.int32())),
    "large_list with hidden elements": lambda: hidden(pa.LargeListArray, pa.array([1, 2, 5, 5, 9, 11], pa.int64())),
    "list of sliced elements": lambda: pa.ListArray.from_arrays(
        pa.array([1, 3, 3, 7], pa.int32()), pa.array(TEXT).slice(3, 9)
    ),
}


def without_nulls(array: pa.Array) -> pa.Array:
    if "view" in str(array.type) and not pa.types.is_dictionary(array.type):  # Arrow has no drop_null for them
        return pa.array([v for v in array.to_pylist() if v is not None], array.type)
    return array.drop_null()


def only_nulls(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        return pa.DictionaryArray.from_arrays(pa.nulls(9, array.type.index_type), array.dictionary)
    return pa.nulls(9, array.type)


SHAPES: dict[str, Callable[[pa.Array], pa.Array | pa.ChunkedArray]] = {
    "whole": lambda a: a,
    "no rows": lambda a: a.slice(0, 0),
    "no rows at the end": lambda a: a.slice(len(a)),
    "one row": lambda a: a.slice(1, 1),
    "from a bit inside a byte": lambda a: a.slice(3),
    "behind a byte": lambda a: a.slice(min(9, len(a)), 11),
    "no nulls": lambda a: without_nulls(a),
    "only nulls": lambda a: only_nulls(a).slice(2),
    "several chunks": lambda a: pa.chunked_array([a.slice(2, 3), a.slice(0, 0), a.slice(1)]),
    "one chunk": lambda a: pa.chunked_array([a.slice(1)]),
    "no chunk": lambda a: pa.chunked_array([], a.type),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ARRAYS)
def test_every_type_in_every_shape(kind: str, shape: str) -> None:
    array = ARRAYS[kind]()
    check(SHAPES[shape](array))


def test_chunks_with_different_dictionaries() -> None:
    one, two = pa.array(["a", "b", None]).dictionary_encode(), pa.array(["c", "a"]).dictionary_encode()
    check(pa.chunked_array([one, two]))


@pytest.mark.parametrize(
    "index", [pa.uint8(), pa.int8(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
)
@pytest.mark.parametrize("type", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary(1)])
def test_dictionaries_of_strings_stay_dictionaries(index: pa.DataType, type: pa.DataType) -> None:
    strings = pa.array([b"a", b"b", None, b"d"]).cast(pa.binary() if type == pa.binary(1) else type)
    codes = pa.array([0, 1, None, 2, 3, 0, 0, 1], index)
    array = pa.DictionaryArray.from_arrays(codes, strings.cast(type))
    column = check(array)
    assert column.codes is not None
    assert column.codes.dtype == np.int32
    assert column.codes.tolist() == [0, 1, 0, 0, 3, 0, 0, 1]
    chunks = check(pa.chunked_array([array, array.slice(2), array]))
    assert chunks.offsets is not None
    assert len(chunks.offsets) - 1 == 4  # the one that they share
    assert check(array.slice(1, 3)).codes is None  # fewer rows than strings


@pytest.mark.parametrize("codes", [[0, 2, 1, 0], [0, 1, -1, 0]])
def test_codes_without_a_string_are_refused(codes: list[int]) -> None:
    array = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(["a", "b"]), safe=False)
    with pytest.raises(DataError, match=r"expected large_binary, found dictionary.*a dictionary of 2 strings"):
        flatten(array, ColumnType(STRING))


def test_no_null_means_no_bitmap() -> None:
    assert check(pa.array([1, 2, 3])).validity is None
    assert check(pa.array([1, None, 3]).slice(2)).validity is None
    assert check(pa.array(["a", "b"])).validity is None


@pytest.mark.parametrize("type", [pa.int32(), pa.float64(), pa.uint8(), pa.large_string(), pa.large_binary()])
def test_what_needs_no_decoding_is_not_copied(type: pa.DataType) -> None:
    values = ["a", None, "b"] if type == pa.large_string() else [b"a", None, b"b"]
    array = pa.array(values if pa.types.is_large_binary(type) or pa.types.is_large_string(type) else [1, None, 2], type)
    column = check(array)
    addresses = {b.address for b in array.buffers()}
    assert column.values.ctypes.data in addresses
    assert column.validity is not None
    assert column.validity.ctypes.data in addresses
    assert column.offsets is None or column.offsets.ctypes.data in addresses


def test_list_elements_and_string_bytes_are_not_copied() -> None:
    array = pa.array([[1, 2], [3]], pa.list_(pa.int64()))
    assert check(array).values.ctypes.data == array.values.buffers()[1].address
    text = pa.array(["a", "b"])
    assert check(text).values.ctypes.data == text.buffers()[2].address


def test_columns_outlive_their_arrays() -> None:
    before = pa.total_allocated_bytes()
    array = pa.array(np.arange(1_000_000, dtype=np.int32)).cast(pa.int64())
    column, _ = flatten(array.slice(10), ColumnType("int64"))
    part = column.slice(5, 500_000)
    del array, column
    gc.collect()
    assert pa.total_allocated_bytes() - before >= 7_000_000
    junk = [pa.array(np.full(1_000_000, 7)) for _ in range(3)]
    assert part.values[0] == 15
    assert part.values[-1] == 500_009
    del part, junk
    gc.collect()
    assert pa.total_allocated_bytes() - before < 7_000_000


def test_arrays_cannot_be_written() -> None:
    column = check(pa.array([1, None, 3]))
    with pytest.raises(ValueError, match="read-only"):
        column.values[0] = 9


ELEMENTS = {
    "int8": (pa.int8(), st.integers(-128, 127)),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "float32": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), st.text(max_size=20)),
    "string_view": (pa.string_view(), st.text(max_size=20)),
    "binary": (pa.binary(), st.binary(max_size=20)),
}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(ELEMENTS)), form=st.sampled_from(["flat", "list", "dictionary"]))
def test_round_trip(data: st.DataObject, kind: str, form: str) -> None:
    type, element = ELEMENTS[kind]
    values = st.none() | element
    if form == "list":
        type, values = data.draw(st.sampled_from([pa.list_, pa.large_list]))(type), st.none() | st.lists(values)
    array = pa.array(data.draw(st.lists(values, max_size=40)), type)
    if form == "dictionary" and kind != "string_view":
        array = array.dictionary_encode()
    pieces = []
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(array)))
        pieces.append(array.slice(start, data.draw(st.integers(0, len(array)))))
    check(pieces[0] if len(pieces) == 1 else pa.chunked_array(pieces))


# --- hex32 -----------------------------------------------------------------------------------------------------------

HEX = ["0", None, "", "ffffffff", "FFFFFFFF", "0000000a", "68fd1e64", "a", None, "80000000"]
IDS = [0, None, None, 2**32 - 1, 2**32 - 1, 10, 0x68FD1E64, 10, None, 2**31]


def hex32(array: pa.Array | pa.ChunkedArray) -> tuple[FlatColumn, Any]:
    kind = column_type(pa.field("x", array.type), "hex32")
    assert kind.hex32
    assert kind.physical == "uint32"
    column, bad = flatten(array, kind)
    assert column.values.dtype == np.uint32
    return column, bad


@pytest.mark.parametrize("type", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()])
def test_hex_text_in_every_string_type(type: pa.DataType) -> None:
    array = pa.array(HEX).cast(type) if type != pa.string_view() else pa.array(HEX, type)
    column, bad = hex32(array)
    assert bad == []
    assert unflatten(column) == IDS
    assert unflatten(hex32(array.slice(3, 6))[0]) == IDS[3:9]


def test_hex_text_in_dictionaries_and_chunks() -> None:
    array = pa.array(HEX).dictionary_encode()
    assert unflatten(hex32(array)[0]) == IDS
    assert unflatten(hex32(pa.chunked_array([array.slice(4), array.slice(1, 2)]))[0]) == IDS[4:] + IDS[1:3]
    assert unflatten(hex32(pa.chunked_array([], pa.string()))[0]) == []


def test_bad_hex_in_dictionaries_is_of_the_rows_that_use_it() -> None:
    strings = pa.array(["ff", "unused and wrong", "wrong", "", None, "10"])
    codes = pa.array([0, 2, None, 3, 4, 2, 5, 0] * 2)
    array = pa.DictionaryArray.from_arrays(codes, strings)
    expected = [255, None, None, None, None, None, 16, 255] * 2
    for chunks in (
        [array],
        [array.slice(0, 9), array.slice(9)],
        [array.slice(0, 2), array.slice(2, 2), array.slice(4)],
    ):
        column, bad = hex32(pa.chunked_array(chunks))
        assert [(b.row, b.text) for b in bad] == [(i, b"wrong") for i in (1, 5, 9, 13)]
        assert bad[0].reason == "expected 1 to 8 hex digits, found 'wrong' (5 bytes)"
        found = unflatten(column)
        assert [v for i, v in enumerate(found) if i % 4 != 1] == [v for i, v in enumerate(expected) if i % 4 != 1]
    column, bad = hex32(array.slice(0, 3))  # fewer rows than strings
    assert [b.row for b in bad] == [1]
    assert unflatten(column)[::2] == [255, None]


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 255, 256, 257, 1000])
def test_hex_views_give_what_hex_strings_give(rows: int) -> None:
    array = pa.array((HEX * 101)[: rows + 3], pa.string_view()).slice(3)
    column, bad = hex32(array)
    assert bad == []
    assert unflatten(column) == (IDS * 101)[3 : rows + 3]
    whole = pa.chunked_array([array, pa.array(["0", "ff"], pa.string_view())])
    assert unflatten(hex32(whole)[0]) == [*(IDS * 101)[3 : rows + 3], 0, 255]
    assert hex32(pa.array(["a", "b"] * rows, pa.string_view()))[0].validity is None


@pytest.mark.parametrize("wrong", ["g", "123456789", "a text longer than a view holds", "é"])
def test_bad_hex_views_are_found(wrong: str) -> None:
    column, bad = hex32(pa.array([*HEX * 30, wrong, *HEX], pa.string_view()).slice(1))
    assert [(b.row, b.text) for b in bad] == [(299, wrong.encode())]
    assert unflatten(column)[:299] == (IDS * 30)[1:]


def test_hex_text_may_always_be_missing() -> None:
    assert column_type(pa.field("x", pa.string(), nullable=False), "hex32").nullable
    assert not column_type(pa.field("x", pa.int32(), nullable=False), "hex32").nullable


@pytest.mark.parametrize(
    ("type", "values"),
    [
        (pa.int32(), [-1, 0, None, -(2**31), 5]),
        (pa.int64(), [-1, 2**32, None, 2**31, 2**32 + 5]),
        (pa.int8(), [-1, 0, None, -128, 5]),
        (pa.uint64(), [2**64 - 1, 2**32, None, 2**31, 5]),
        (pa.dictionary(pa.int8(), pa.int32()), [-1, 0, None, -(2**31), 5]),
    ],
)
def test_hex_of_integers_is_modulo_two_to_the_32(type: pa.DataType, values: list[int | None]) -> None:
    array = pa.array(values, type.value_type if pa.types.is_dictionary(type) else type)
    if pa.types.is_dictionary(type):
        array = array.dictionary_encode()
    column, bad = hex32(array)
    assert bad == []
    assert unflatten(column) == [None if v is None else v % 2**32 for v in values]


def test_hex_of_int32_is_not_copied() -> None:
    array = pa.array([-1, 2], pa.int32())
    assert hex32(array)[0].values.ctypes.data == array.buffers()[1].address


def test_bad_hex_names_the_row_and_the_value() -> None:
    column, bad = hex32(pa.array(["1", "123456789", None, "g", "", "ab"]).slice(1))
    assert [(b.row, b.text) for b in bad] == [(0, b"123456789"), (2, b"g")]
    assert "'123456789' (9 bytes)" in bad[0].reason
    assert "1 to 8 hex digits" in bad[0].reason
    assert unflatten(column)[4] == 0xAB
    _, (long,) = hex32(pa.array(["é" * 100]))
    assert len(long.text) == 200
    assert len(long.reason) < 120


def test_bad_hex_in_lists_is_one_bad_row_and_only_of_rows_in_sight() -> None:
    array = pa.array([["x"], ["1", "2"], None, ["3", "no", "nope"], [], [None, ""], ["y"]])
    column, bad = hex32(array.slice(1, 5))
    assert [(b.row, b.text) for b in bad] == [(2, b"no")]
    rows = unflatten(column)
    assert [rows[0], rows[1], rows[3], rows[4]] == [[1, 2], [], [], [None, None]]


# --- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "declared", "physical", "is_list"),
    [
        (pa.bool_(), None, "uint8", False),
        (pa.bool_(), "int64", "uint8", False),
        (pa.int16(), None, "int16", False),
        (pa.int32(), "int64", "int32", False),
        (pa.float16(), "float64", "float32", False),
        (pa.float32(), "float64", "float32", False),
        (pa.string_view(), "string", "string", False),
        (pa.binary(7), "string", "string", False),
        (pa.dictionary(pa.int64(), pa.int8()), None, "int8", False),
        (pa.list_(pa.dictionary(pa.int8(), pa.string())), None, "string", True),
        (pa.list_(pa.int32(), 3), "int64", "int32", True),
        (pa.list_(pa.string()), "hex32", "uint32", True),
        (pa.null(), "hex32", "uint32", False),
        (pa.null(), "string", "string", False),
        (pa.list_(pa.null()), "float64", "float64", True),
    ],
)
def test_types(type: pa.DataType, declared: str | None, physical: str, is_list: bool) -> None:
    kind = column_type(pa.field("x", type), declared)
    assert (kind.physical, kind.is_list, kind.nullable, kind.hex32) == (physical, is_list, True, declared == "hex32")


def test_nullable_follows_the_field_and_its_elements() -> None:
    assert not column_type(pa.field("x", pa.int8(), nullable=False)).nullable
    assert column_type(pa.field("x", pa.list_(pa.int8()), nullable=False)).nullable
    element = pa.field("item", pa.int8(), nullable=False)
    assert not column_type(pa.field("x", pa.list_(element), nullable=False)).nullable


@pytest.mark.parametrize(
    "type",
    [
        pa.decimal128(9, 2),
        pa.date32(),
        pa.time64("us"),
        pa.timestamp("ns"),
        pa.duration("s"),
        pa.struct([("a", pa.int8())]),
        pa.map_(pa.string(), pa.int8()),
        pa.list_(pa.list_(pa.int8())),
        pa.list_(pa.timestamp("s")),
        pa.dictionary(pa.int8(), pa.date32()),
    ],
)
def test_refused_types_name_column_type_and_way_out(type: pa.DataType) -> None:
    with pytest.raises(DataError, match=r"column 'price': expected integers.* found .*cast it to int64") as caught:
        column_type(pa.field("price", type))
    assert str(type) in str(caught.value)


@pytest.mark.parametrize(
    ("type", "declared"),
    [
        (pa.float32(), "hex32"),
        (pa.bool_(), "hex32"),
        (pa.int32(), "string"),
        (pa.string(), "int64"),
        (pa.float64(), "int64"),
        (pa.int64(), "float64"),
        (pa.string(), "float64"),
    ],
)
def test_declared_type_of_another_family(type: pa.DataType, declared: str) -> None:
    with pytest.raises(DataError, match=f"column 'C1': declared {declared}, expected .* found {type}"):
        column_type(pa.field("C1", type), declared)


def test_unknown_declaration() -> None:
    with pytest.raises(DataError, match=r"'C1': expected a type among hex32.*found 'int'"):
        column_type(pa.field("C1", pa.int8()), "int")


def test_column_without_any_value() -> None:
    with pytest.raises(DataError, match=r"'C1'.* found null: it holds no value at all; declare it"):
        column_type(pa.field("C1", pa.null()))
    for declared in ("hex32", "string", "int64", "float64"):
        kind = column_type(pa.field("C1", pa.null()), declared)
        assert unflatten(flatten(pa.nulls(3), kind)[0]) == [None] * 3


def test_missing_column_lists_what_there_is() -> None:
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64())])
    with pytest.raises(DataError, match=r"day\.parquet: expected a column 'userid'.*did you mean 'user_id'.*item_id"):
        column_types(schema, ["userid"], where="day.parquet")
    with pytest.raises(DataError, match="expected one column 'a', found 2"):
        column_types(pa.schema([("a", pa.int8()), ("a", pa.int8())]), ["a"])


def test_needed_columns_alone_have_to_fit() -> None:
    schema = pa.schema([("a", pa.int8()), ("when", pa.date32())])
    assert list(column_types(schema, ["a"])) == ["a"]
    with pytest.raises(DataError, match="table: column 'when'"):
        column_types(schema, ["when"])


def test_table_types_look_at_the_data() -> None:
    table = pa.table(
        {
            "full": [1, 2],
            "holed": [1, None],
            "text": ["a", ""],
            "hex": ["1", ""],
            "list": [[1], []],
            "dictionary": pa.DictionaryArray.from_arrays([0, 1], pa.array(["a", None])),
        }
    )
    types = table_types(table, table.column_names, {"hex": "hex32"})
    assert [n for n, t in types.items() if t.nullable] == ["holed", "hex", "list", "dictionary"]


# --- chunks ----------------------------------------------------------------------------------------------------------


def test_chunk_flags_each_bad_row_once() -> None:
    table = pa.table(
        {
            "label": pa.array([1.0, None, float("nan"), 0.0, float("inf"), 1.0]),
            "C1": ["1", "2", "zz", "123456789", "5", "6"],
            "C2": ["1", "q", "2", "q", "5", "6"],
        }
    )
    types = table_types(table, ["label", "C1", "C2"], {"C1": "hex32", "C2": "hex32"})
    chunk = chunk_from_table(table, types, "label", first_row=100)
    assert chunk.rows == 6
    assert [(b.row, b.line, b.column) for b in chunk.bad] == [
        (1, 101, "label"),
        (2, 102, "label"),
        (3, 103, "C1"),
        (4, 104, "label"),
    ]
    assert chunk.bad[0].reason == "expected a label, found none"
    assert "expected a finite label, found nan" in chunk.bad[1].reason
    assert chunk.bad[2].text == b"123456789"
    assert chunk.bad[3].text == b"inf"


def test_chunk_of_a_record_batch_and_of_sliced_labels() -> None:
    table = pa.table({"y": pa.array([None, 1, 0, None, 1], pa.int8())}).slice(2)
    types = column_types(table.schema, ["y"])
    assert [b.row for b in chunk_from_table(table, types, "y").bad] == [1]
    assert [b.row for b in chunk_from_table(table.to_batches()[0], types, "y").bad] == [1]
    assert chunk_from_table(table.slice(0, 0), types, "y").rows == 0
    assert chunk_from_table(table, types).bad == ()


def test_chunk_names_the_column_that_does_not_fit() -> None:
    with pytest.raises(DataError, match="column 'a': expected int32, found string"):
        chunk_from_table(pa.table({"a": ["x"]}), {"a": ColumnType("int32")})


@pytest.mark.parametrize(
    "kind", [ColumnType("string"), ColumnType("int32", is_list=True), ColumnType("uint32", hex32=True)]
)
def test_label_has_to_be_a_number(kind: ColumnType) -> None:
    check_label("y", ColumnType("uint8"))
    with pytest.raises(DataError, match="label column 'y': expected one number a row, found"):
        check_label("y", kind)


# --- NumPy -----------------------------------------------------------------------------------------------------------


def test_columns_from_numpy() -> None:
    table = columns_from_mapping(
        {
            "i": np.array([1, 2, 3], np.int16)[::-1],
            "big": np.array([1, 2, 3], ">i4"),
            "f": np.array([1.5, np.nan, np.inf], np.float32),
            "half": np.array([1, 2, 3], np.float16),
            "b": np.array([True, False, True]),
            "fixed": np.array(["a", "bb", ""]),
            "bytes": np.array([b"a", b"bb", b""]),
            "objects": np.array(["a", None, "c"], object),
            "masked": np.ma.array([1, 2, 3], mask=[0, 1, 0]),
            "masked_text": np.ma.array(["a", "b", "c"], mask=[1, 0, 0]),
            "lists": [[1], None, []],
            "pairs": np.arange(6).reshape(3, 2),
            "arrow": pa.array([1, None, 2]),
            "python": [1, 2, None],
        }
    )
    got = {
        name: unflatten(column)
        for name, column in chunk_from_table(table, table_types(table, table.column_names)).columns.items()
    }
    assert got["i"] == [3, 2, 1]
    assert got["big"] == [1, 2, 3]
    assert got["f"][0] == 1.5
    assert np.isnan(got["f"][1])
    assert table["f"].null_count == 0
    assert got["half"] == [1.0, 2.0, 3.0]
    assert got["b"] == [1, 0, 1]
    assert got["fixed"] == got["bytes"] == [b"a", b"bb", b""]
    assert got["objects"] == [b"a", None, b"c"]
    assert got["masked"] == [1, None, 3]
    assert got["masked_text"] == [None, b"b", b"c"]
    assert got["lists"] == [[1], [], []]
    assert got["pairs"] == [[0, 1], [2, 3], [4, 5]]
    assert got["arrow"] == [1, None, 2]
    assert got["python"] == [1, 2, None]


def test_columns_from_masked_pairs_and_no_rows() -> None:
    table = columns_from_mapping({"p": np.ma.array([[1, 2], [3, 4]], mask=[[0, 1], [0, 0]])})
    assert table["p"].to_pylist() == [[1, None], [3, 4]]
    assert columns_from_mapping({"a": np.zeros(0, np.int8)}).num_rows == 0


@pytest.mark.parametrize("values", [np.array([1j]), np.array([object()]), 3, np.zeros((1, 1, 1)), ["a", 1]])
def test_columns_that_arrow_has_no_type_for(values: Any) -> None:
    with pytest.raises(DataError, match="column 'bad': expected integers"):
        columns_from_mapping({"bad": values})


def test_columns_of_unequal_length() -> None:
    with pytest.raises(DataError, match="column 'b': expected 2 rows, as column 'a' has, found 3"):
        columns_from_mapping({"a": np.zeros(2), "b": np.zeros(3)})
