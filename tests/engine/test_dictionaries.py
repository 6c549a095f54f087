"""Columns of dictionaries give the bytes of the columns they stand for, and each string is hashed once."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import intune_gpu as ig
from intune_gpu.core.arrow import chunk_from_table
from intune_gpu.core.arrow_types import table_types
from intune_gpu.core.columns import RawBatch
from intune_gpu.engine.program import Program
from intune_gpu.kernels import hashing
from intune_gpu.sources.parquet import ParquetSource
from intune_gpu.sources.subset import RowRange, RowSample
from tests import naive

RECIPE = ig.Recipe(
    label="y",
    sparse={
        "a": [ig.HashBucket(1000)],
        "a again": [ig.Column("a"), ig.HashBucket(50, reserved=3, salt="other")],
        "b": [ig.HashBucket(2**31)],
        "plain": [ig.HashBucket(77)],
        "a x plain": [ig.Cross(["a", "plain"], 999)],
        "b x a x y": [ig.Cross(["b", "a", "y"], 10**6)],
        "hex": [ig.Modulo(2**32)],
    },
    types={"hex": "hex32"},
)
TEXT = st.none() | st.text(max_size=4)
HEX = st.none() | st.sampled_from(["", "0", "ff", "FFFFFFFF", "68fd1e64"])


def fingerprint(batch: ig.Batch) -> tuple[bytes, ...]:
    return tuple(t.numpy().tobytes() for t in (batch.sparse.values(), batch.sparse.lengths(), batch.label))


@st.composite
def dictionaries(draw: st.DrawFn, text: st.SearchStrategy[Any], rows: int) -> pa.ChunkedArray:
    """Chunks with nulls on both sides; some share a dictionary, most dictionaries hold strings that no row uses."""
    index, chunks, left = draw(st.sampled_from([pa.uint8(), pa.int16(), pa.uint32(), pa.int64()])), [], rows
    value = draw(st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.large_binary()]))
    strings = pa.array(draw(st.lists(text, max_size=9)), pa.string()).cast(value)
    while left:
        if draw(st.booleans()):
            strings = pa.array(draw(st.lists(text, max_size=9)), pa.string()).cast(value)
        count = draw(st.integers(1, left))
        code = st.none() | st.integers(0, len(strings) - 1) if len(strings) else st.none()
        codes = pa.array(draw(st.lists(code, min_size=count, max_size=count)), index)
        chunks.append(pa.DictionaryArray.from_arrays(codes, strings))
        left -= count
    return pa.chunked_array(chunks, pa.dictionary(index, value))


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, dict[str, list[Any]]]:
    """A table, and its columns as `to_pylist` shows them."""
    rows = draw(st.integers(0, 40))
    table = pa.table(
        {
            "y": pa.array([i % 2 for i in range(rows)], pa.int8()),
            "a": draw(dictionaries(TEXT, rows)),
            "b": draw(dictionaries(TEXT, rows)),
            "plain": pa.array(draw(st.lists(TEXT, min_size=rows, max_size=rows)), pa.string()),
            "hex": draw(dictionaries(HEX, rows)),
        }
    )
    start = draw(st.integers(0, rows))
    table = table.slice(start, draw(st.integers(0, rows - start)))
    return table, {name: table.column(name).to_pylist() for name in table.column_names}


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from(["int64", "int32"]))
def test_the_bytes_are_those_of_the_oracle(drawn: tuple[pa.Table, dict[str, list[Any]]], index_dtype: str) -> None:
    table, columns = drawn
    recipe = RECIPE if index_dtype == "int64" else ig.Recipe(label="y", sparse={"a": [ig.HashBucket(9)]})
    batch = ig.transform(table, recipe, index_dtype=index_dtype)
    assert naive.differences(batch, columns, recipe, index_dtype=index_dtype) == []


# --- files -----------------------------------------------------------------------------------------------------------

ROWS = 3000


def some(words: int, rng: np.random.Generator, hex: bool = False) -> pa.Array:
    strings = np.array(
        [f"{i * 2654435761 % 2**32:08x}" if hex else f"word {i}" * (i % 3) for i in range(words)], object
    )
    return pa.array(strings[rng.integers(0, words, ROWS)], mask=rng.random(ROWS) < 0.1)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same rows, some bad: as strings, as dictionaries, and some files one and some the other."""
    folder, rng = tmp_path_factory.mktemp("logs"), np.random.default_rng(3)
    plain = pa.table(
        {
            "y": pa.array(rng.integers(0, 2, ROWS), pa.int8(), mask=rng.random(ROWS) < 0.004),
            "a": some(30, rng),
            "b": some(2000, rng),
            "plain": some(50, rng),
            "hex": some(40, rng, hex=True),
        }
    )
    coded = plain
    for name in ("a", "b", "hex"):
        coded = coded.set_column(coded.column_names.index(name), name, plain.column(name).dictionary_encode())
    for kind, tables in {"plain": (plain, plain), "coded": (coded, coded), "mixed": (coded, plain)}.items():
        (folder / kind).mkdir()
        for i, table in enumerate(tables):
            pq.write_table(table.slice(i * 1700, 1700), folder / kind / f"{i}.parquet", row_group_size=400)
    return {kind: str(folder / kind) for kind in ("plain", "coded", "mixed")}


@pytest.mark.parametrize("batch_size", [64, 333, 2500])
@pytest.mark.parametrize("shuffle", [False, True])
def test_files_of_dictionaries_give_the_batches_of_files_of_strings(
    logs: dict[str, str], batch_size: int, shuffle: bool, tmp_path: Path
) -> None:
    given = {}
    for kind, path in logs.items():
        how = {"batch_size": batch_size, "shuffle": shuffle, "quarantine_dir": tmp_path, "transformers": 2}
        with ig.Loader(path, RECIPE, max_bad_fraction=0.5, **how) as loader:
            given[kind] = [fingerprint(batch) for _ in range(2) for batch in loader]
    assert len(given["plain"]) > 2
    assert given["coded"] == given["plain"]
    assert given["mixed"] == given["plain"]


def test_dictionaries_in_parquet_arrive_as_they_are(logs: dict[str, str]) -> None:
    files = sorted(str(path) for path in Path(logs["coded"]).iterdir())
    source = ParquetSource(files, needed=["a", "b", "plain", "hex"], types={"hex": "hex32"})
    chunk = source.read(0)
    codes = {name: column.codes for name, column in chunk.columns.items()}
    assert [name for name, found in codes.items() if found is not None] == ["a"]  # 2000 strings for 400 rows: given up
    assert codes["a"].dtype == np.int32
    offsets = chunk.columns["a"].offsets
    assert offsets is not None
    assert len(offsets) == 22  # 21 different strings
    assert all(source.read(i).nbytes <= info.nbytes for i, info in enumerate(source.chunks))
    for part in (RowRange(source, 3, 20), RowSample(source, 0.05, seed=1)):  # fewer rows than strings
        assert part.read(0).columns["a"].codes is None


# --- what is kept ----------------------------------------------------------------------------------------------------


def prepared(rows: int = 600) -> tuple[Program, RawBatch]:
    table = pa.table(
        {
            "y": pa.array([0] * rows, pa.int8()),
            "a": pa.array([f"text {i % 40}" for i in range(rows)]).dictionary_encode(),
            "b": pa.array([None if i % 7 == 0 else f"{i % 90}" for i in range(rows)]).dictionary_encode(),
            "plain": pa.array([str(i) for i in range(rows)]),
            "hex": pa.array(["ff"] * rows),
        }
    )
    schema = table_types(table, RECIPE.columns, RECIPE.types)
    chunk = chunk_from_table(table, schema)
    return Program(RECIPE, schema), RawBatch(chunk.columns, rows)


def test_a_dictionary_is_hashed_once_for_all_batches_and_forgotten_with_its_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program, raw = prepared()
    whole = fingerprint(program.run(raw))
    known = program.dictionaries
    assert len(known) == 2
    counts: list[int] = []
    hash_strings = hashing.hash_strings_cpu

    def counted(table: Any, which: Any, parameters: Any, count: int, out: Any, starts: Any) -> None:
        counts.append(count)
        hash_strings(table, which, parameters, count, out, starts)

    monkeypatch.setattr(hashing, "hash_strings_cpu", counted)
    parts = [program.run(raw.slice(start, start + 200)) for start in (0, 200, 400)]
    assert counts == [200, 200, 200]  # of the column without a dictionary
    ids = np.concatenate([part.sparse.values().numpy().reshape(len(RECIPE.sparse), -1) for part in parts], axis=1)
    assert ids.tobytes() == whole[0]
    assert len(known) == 2
    del raw
    gc.collect()
    assert len(known) == 0


def test_many_threads_share_what_is_hashed() -> None:
    program, raw = prepared(3000)
    other, again = prepared(3000)
    expected = [fingerprint(program.run(raw.slice(i, i + 100))) for i in range(0, 3000, 100)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: fingerprint(other.run(again.slice(i, i + 100))), range(0, 3000, 100)))
    assert found == expected
    assert len(other.dictionaries) == 2


def test_a_dictionary_that_comes_after_another_has_its_own_ids() -> None:
    recipe = ig.Recipe(label="y", sparse={"a": [ig.HashBucket(2**31)]})
    program = None
    for turn in range(50):  # each takes the memory, and the ids of the arrays, of the one before
        table = pa.table({"y": [0] * 9, "a": pa.array([f"{turn} {i % 3}" for i in range(9)]).dictionary_encode()})
        schema = table_types(table, recipe.columns)
        program = program or Program(recipe, schema)
        batch = program.run(RawBatch(chunk_from_table(table, schema).columns, 9))
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        assert naive.differences(batch, columns, recipe) == []
    assert program is not None
    assert len(program.dictionaries) == 0
