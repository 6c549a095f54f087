"""FlatColumn: slices share their buffers, and count rows and bytes."""

from __future__ import annotations

import numpy as np
import pytest

from intune_gpu.core.columns import Addresses, BadRow, Chunk, ColumnType, FlatColumn


def test_type_reads_as_people_say_it() -> None:
    assert str(ColumnType("int32")) == "int32"
    assert str(ColumnType("uint32", hex32=True)) == "hex32"
    assert str(ColumnType("string", is_list=True)) == "list of string"


def test_slice_of_numbers_shares_values_and_moves_the_first_bit() -> None:
    values = np.arange(10, dtype=np.int32)
    column = FlatColumn(values, np.array([0xFF, 0x03], np.uint8), validity_offset=1)
    part = column.slice(3, 7)
    assert part.rows == 4
    assert part.values.tolist() == [3, 4, 5, 6]
    assert np.shares_memory(part.values, values)
    assert part.validity is column.validity
    assert part.validity_offset == 4


def test_slice_of_strings_keeps_offsets_absolute() -> None:
    text = np.frombuffer(b"abbccc", np.uint8)
    column = FlatColumn(text, offsets=np.array([0, 1, 3, 6], np.int64))
    part = column.slice(1, 3)
    assert part.rows == 2
    assert part.offsets is not None
    assert part.offsets.tolist() == [1, 3, 6]
    assert part.values is text
    assert part.validity_offset == 1


def test_slice_of_lists_keeps_all_elements() -> None:
    values = np.arange(5, dtype=np.int64)
    column = FlatColumn(values, row_offsets=np.array([0, 2, 2, 5], np.int64))
    part = column.slice(1, 3)
    assert column.rows == 3
    assert part.rows == 2
    assert part.row_offsets is not None
    assert part.row_offsets.tolist() == [2, 2, 5]
    assert part.values is values
    assert part.validity_offset == 0


def test_slice_of_a_dictionary_column_cuts_codes_alone() -> None:
    text, codes = np.frombuffer(b"abbccc", np.uint8), np.array([2, 0, 0, 1, 2], np.int32)
    column = FlatColumn(text, np.array([0xFF], np.uint8), 1, np.array([0, 1, 3, 6], np.int64), codes=codes)
    part = column.slice(1, 4)
    assert (column.rows, part.rows) == (5, 3)
    assert part.codes is not None
    assert part.codes.tolist() == [0, 0, 1]
    assert np.shares_memory(part.codes, codes)
    assert (part.values is text, part.offsets is column.offsets) == (True, True)
    assert part.validity_offset == 2
    assert column.nbytes == 6 + 1 + 32 + 20
    assert part.nbytes == 6 + 1 + 32 + 12


def test_addresses_of_a_dictionary_column_are_its_codes() -> None:
    codes = np.array([2, 0, 1], np.int32)
    column = FlatColumn(np.frombuffer(b"abbccc", np.uint8), None, 0, np.array([0, 1, 3, 6], np.int64), codes=codes)
    addresses = Addresses.of({"n": FlatColumn(np.zeros(3, np.int16)), "s": column}).at(2)
    assert addresses.table[1].tolist() == [codes.ctypes.data + 8, 0, 0, 0]
    assert addresses.sizes.tolist() == [2, 0]
    assert list(addresses.dictionaries) == ["s"]
    assert addresses.dictionaries["s"].offsets is column.offsets


def test_slices_of_slices_agree_with_one_slice() -> None:
    column = FlatColumn(np.arange(100), np.full(13, 0xAA, np.uint8), validity_offset=2)
    twice, once = column.slice(10, 90).slice(5, 20), column.slice(15, 30)
    assert twice.values.tolist() == once.values.tolist()
    assert twice.validity_offset == once.validity_offset == 17


@pytest.mark.parametrize(
    ("column", "rows", "nbytes"),
    [
        (FlatColumn(np.zeros(0, np.float32)), 0, 0),
        (FlatColumn(np.zeros(3, np.float64), np.zeros(1, np.uint8)), 3, 25),
        (FlatColumn(np.zeros(5, np.uint8), offsets=np.array([0, 5], np.int64)), 1, 21),
        (FlatColumn(np.zeros(2, np.int8), row_offsets=np.array([0, 0, 2], np.int64)), 2, 26),
    ],
)
def test_rows_and_bytes(column: FlatColumn, rows: int, nbytes: int) -> None:
    assert column.rows == rows
    assert column.nbytes == nbytes


def test_chunk_counts_the_bytes_of_its_columns() -> None:
    chunk = Chunk({"a": FlatColumn(np.zeros(2, np.int32)), "b": FlatColumn(np.zeros(2, np.int8))}, 2)
    assert chunk.nbytes == 10
    assert chunk.bad == ()
    assert BadRow(0, 7, "a", "why", b"").line == 7
