from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import BadRow, Chunk, FlatColumn
from intune_gpu.core.rows import compact, decoded, join, take
from intune_gpu.engine import gather
from intune_gpu.engine.gather import Assembly, OrderedWindow, ordered_chunk
from intune_gpu.engine.order import EpochOrder, epoch_order
from intune_gpu.kernels.gather import sample_cpu
from tests import fakes

WIDTHS = ("int8", "uint16", "int32", "uint64", "float32", "float64")


@st.composite
def column_values(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """A kind of column and the values of its rows."""
    kind = draw(st.sampled_from([*WIDTHS, "string", "coded string", "any string", "list of string", "list of int32"]))
    number = st.none() | st.integers(0, 100)
    text = st.none() | st.text(max_size=5)
    cells = {
        "string": text,
        "coded string": text,
        "any string": text,
        "list of string": st.lists(text, max_size=4),
        "list of int32": st.lists(number, max_size=4),
    }
    return kind, draw(st.lists(cells.get(kind, number), max_size=30))


def build(kind: str, rows: list[Any], pad: int) -> FlatColumn:
    if kind == "string":
        return fakes.string_column(rows, pad)
    if kind == "coded string":
        return fakes.coded_column(rows, pad)
    if kind == "any string":  # some parts with a dictionary, others without
        return fakes.coded_column(rows, pad) if pad % 2 else fakes.string_column(rows, pad)
    if kind.startswith("list"):
        return fakes.list_column(rows, kind.removeprefix("list of "), pad)
    return fakes.fixed_column(rows, kind, pad)


@given(column_values(), st.integers(0, 9), st.data())
def test_take(drawn: tuple[str, list[Any]], pad: int, data: st.DataObject) -> None:
    kind, rows = drawn
    column = build(kind, rows, pad)
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=40)) if rows else []
    got = take(column, np.array(wanted, np.int64))
    assert fakes.values(got) == [rows[i] for i in wanted]
    assert got.values.dtype == column.values.dtype


@given(column_values(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 9)), min_size=1))
def test_join(drawn: tuple[str, list[Any]], slices: list[tuple[int, int, int]]) -> None:
    kind, rows = drawn
    parts, wanted = [], []
    for start, stop, pad in slices:
        start, stop = sorted((min(start, len(rows)), min(stop, len(rows))))
        parts.append(build(kind, rows, pad).slice(start, stop))
        wanted += rows[start:stop]
    got = join(parts)
    assert fakes.values(got) == wanted
    assert not any(np.shares_memory(got.values, part.values) for part in parts)


def test_dictionaries_are_joined_once_and_given_up_where_rows_are_fewer() -> None:
    rows = ["a", None, "b", "a", "c", "c"]
    column, other = fakes.coded_column(rows), fakes.coded_column(["x", "a"] * 3)
    joined = join([column.slice(0, 4), other, column.slice(4, 6)])
    assert fakes.values(joined) == [*rows[:4], *["x", "a"] * 3, *rows[4:]]
    assert joined.codes is not None
    assert joined.offsets is not None
    assert len(joined.offsets) - 1 == 4 + 3
    few = join([column.slice(0, 2), other.slice(0, 1)])
    assert few.codes is None
    assert fakes.values(few) == ["a", None, "x"]
    assert take(column, np.array([5, 0])).offsets is column.offsets
    assert compact(column) is column
    assert compact(column.slice(1, 4)).codes is None
    assert fakes.values(compact(column.slice(1, 4))) == rows[1:4]
    missing = fakes.coded_column([None, "x", None])
    assert decoded(replace(missing, codes=np.ones(3, np.int32))).values.tobytes() == b"x"  # missing rows take no bytes


def test_take_of_read_only_memory() -> None:
    column = FlatColumn(np.frombuffer(np.arange(5, dtype=np.int32).tobytes(), np.int32))
    assert take(column, np.array([4, 0])).values.tolist() == [4, 0]


# --- windows ---------------------------------------------------------------------------------------------------------


def window_of(source: fakes.FakeSource, *, window_rows: int = 10**9, seed: int = 3) -> EpochOrder:
    return epoch_order(source.chunks, seed=seed, epoch=0, shuffle=True, window_rows=window_rows)


def naive_window(source: fakes.FakeSource, order: EpochOrder) -> list[int]:
    """Row numbers of window 0, by place."""
    numbers, _ = order.window_chunks(0)
    rows = [n for chunk in numbers for n in range(source.firsts[chunk], source.firsts[chunk + 1])]
    out = [0] * len(rows)
    for row, place in zip(rows, order.places(0), strict=True):
        out[place] = row
    return out


def assemble(source: fakes.FakeSource, order: EpochOrder, turns: list[int]) -> OrderedWindow:
    assembly = Assembly(order, 0, BufferPool())
    numbers, _ = order.window_chunks(0)
    complete, read_bytes = False, 0
    for position in turns:
        assert not complete
        chunk = source.read(numbers[position])
        read_bytes += chunk.nbytes
        placing = assembly.add(position, chunk, f"file{numbers[position]}")
        complete = placing is not None and assembly.place(placing)
    assert complete
    foreseen = read_bytes + assembly.order_bytes
    window = assembly.finish()
    assert window.nbytes <= foreseen  # what is charged from here on covers what stays
    return window


@pytest.mark.parametrize("placing_rows", [1, 25, 10**6])
@given(st.data())
def test_a_window_is_put_in_order(placing_rows: int, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    bad = data.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=6, unique=True))
    source = fakes.FakeSource(sizes, bad=bad)
    order = window_of(source)
    turns = data.draw(st.permutations(range(len(sizes))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "PLACING_ROWS", placing_rows)
        window = assemble(source, order, turns)
    rows = naive_window(source, order)
    assert fakes.rows_of(window.raw) == [fakes.value_of(n) for n in rows]
    assert window.bad_places.tolist() == [place for place, n in enumerate(rows) if n in bad]
    found = [source.firsts[f.chunk] + f.bad.row for f in window.bad]
    assert found == [n for n in rows if n in bad]
    assert all(f.file == f"file{f.chunk}" for f in window.bad)


def test_chunks_placed_by_many_threads() -> None:
    source = fakes.FakeSource([50] * 8)
    order = window_of(source)
    numbers, _ = order.window_chunks(0)
    want = [fakes.value_of(n) for n in naive_window(source, order)]
    for _ in range(5):
        assembly = Assembly(order, 0, BufferPool())
        complete: list[bool] = []

        def work(position: int, assembly: Assembly = assembly, complete: list[bool] = complete) -> None:
            placing = assembly.add(position, source.read(numbers[position]), "f")
            if placing is not None:
                complete.append(assembly.place(placing))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gather, "PLACING_ROWS", 60)
            threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert complete.count(True) == 1
        assert fakes.rows_of(assembly.finish().raw) == want


def test_chunks_of_two_types_are_refused() -> None:
    order = window_of(fakes.FakeSource([2, 2]))
    assembly = Assembly(order, 0, BufferPool())
    assembly.add(0, Chunk({"x": FlatColumn(np.zeros(2, np.int32))}, 2), "f")
    with pytest.raises(TypeError, match="column x: expected int32, found int64"):
        assembly.add(1, Chunk({"x": FlatColumn(np.zeros(2, np.int64))}, 2), "f")


@given(st.integers(0, 20), st.integers(0, 20), st.sets(st.integers(0, 19)))
def test_rows_leave_out_the_bad_ones(start: int, stop: int, bad: set[int]) -> None:
    start, stop = sorted((start, stop))
    source = fakes.FakeSource([20], bad=sorted(bad))
    window = ordered_chunk(source.read(0), "file0", 0)
    got = window.rows(start, stop)
    assert fakes.rows_of(got) == [fakes.value_of(n) for n in range(start, stop) if n not in bad]
    assert [f.bad.row for f in window.bad_between(start, stop)] == [n for n in range(start, stop) if n in bad]
    if not bad & set(range(start, stop)):  # slices, not copies
        assert got.columns["row"].values.base is not None


def test_first_bad_row_is_by_file_order() -> None:
    source = fakes.FakeSource([30, 30], bad=[5, 12, 40])
    order = window_of(source)
    window = assemble(source, order, [0, 1])
    everything = ((0, 60),)
    first = window.first_bad(everything)
    assert first is not None
    assert (first.chunk, first.bad.row) == (0, 5)
    places = {source.firsts[f.chunk] + f.bad.row: int(p) for f, p in zip(window.bad, window.bad_places, strict=True)}
    only = window.first_bad(((places[40], places[40] + 1),))
    assert only is not None
    assert (only.chunk, only.bad.row) == (1, 10)
    assert window.first_bad(((places[5], places[5]),)) is None


def test_an_empty_window_part() -> None:
    chunk = Chunk(fakes.columns_of([]), 0, ())
    assert ordered_chunk(chunk, "f", 0).rows(0, 0).rows == 0
    with_bad = Chunk(fakes.columns_of([fakes.value_of(0)]), 1, (BadRow(0, 1, None, "why", b""),))
    assert fakes.rows_of(ordered_chunk(with_bad, "f", 0).rows(0, 1)) == []


def test_samples_do_not_depend_on_where_they_begin() -> None:
    words, limit = np.array([5], np.uint64), np.uint64(2**62)
    whole, part = np.empty(1000, np.uint8), np.empty(300, np.uint8)
    count = sample_cpu(words, 0, limit, whole)
    assert count == whole.sum()
    assert 200 < count < 300
    sample_cpu(words, 700, limit, part)
    assert part.tolist() == whole[700:].tolist()
