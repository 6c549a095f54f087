"""Parquet as a source: the same rows from either decoder, and an error that names the file for all else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intune_gpu.core.columns import Chunk, FlatColumn
from intune_gpu.core.errors import DataError
from intune_gpu.core.rows import decoded
from intune_gpu.sources import parquet, parquet_footers
from intune_gpu.sources.parquet import ParquetSource
from tests.shared_data import MOVIELENS, needs

ROWS = 1000


def some(values: Any, type: pa.DataType, rng: np.random.Generator) -> pa.Array:
    """Return `values` with about 8 % of them null."""
    return pa.array(values, type, mask=rng.random(len(values)) < 0.08)


def clicks(rows: int = ROWS, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 2**32, rows, dtype=np.uint32)
    missing = rng.random(rows) < 0.08
    words = np.array([f"word {i}" * (i % 4) for i in range(50)], object)[rng.integers(0, 50, rows)]
    lists = [None if i % 7 == 0 else rng.integers(0, 99, i % 4).tolist() for i in range(rows)]
    return pa.table(
        {
            "label": pa.array(rng.integers(0, 2, rows), pa.int8()),
            "I1": some(rng.integers(-5, 1000, rows), pa.int32(), rng),
            "I2": some(rng.normal(size=rows), pa.float32(), rng),
            "C1": pa.array(ids.view(np.int32), mask=missing),
            "C2": pa.array([f"{i:08x}" for i in ids], mask=missing),
            "flag": some(rng.random(rows) < 0.5, pa.bool_(), rng),
            "word": some(words, pa.string(), rng),
            "blob": some([w.encode() for w in words], pa.large_binary(), rng),
            "kind": pa.array(words).dictionary_encode(),
            "half": some(rng.normal(size=rows).astype(np.float16), pa.float16(), rng),
            "items": pa.array(lists, pa.list_(pa.int64())),
            "price": pa.array([None] * rows, pa.decimal128(9, 2)),
        }
    )


NEEDED = [n for n in clicks(1).column_names if n != "price"]
TYPES = {"C1": "hex32", "C2": "hex32"}


def write(path: Path, table: pa.Table, rows: int = 300, **options: Any) -> str:
    pq.write_table(table, path, row_group_size=rows, **options)
    return str(path)


def source(files: list[str] | str, needed: list[str] = NEEDED, types: Mapping[str, str] = TYPES) -> ParquetSource:
    label = "label" if "label" in needed else None
    return ParquetSource([files] if isinstance(files, str) else files, needed=needed, types=types, label=label)


def buffers(column: FlatColumn) -> list[Any]:
    """Return what a column means: bits and bytes of missing elements, and offsets' origin, left out."""
    rows, column = column.row_offsets, decoded(column)
    elements = len(column.values) if column.offsets is None else len(column.offsets) - 1
    there = np.ones(elements, bool)
    if column.validity is not None:
        bits = np.unpackbits(column.validity, count=column.validity_offset + elements, bitorder="little")
        there = bits[column.validity_offset :].astype(bool)
    if column.offsets is None:
        values = column.values[there].tobytes()
    else:
        bounds = zip(column.offsets[:-1][there], column.offsets[1:][there], strict=True)
        values = [column.values[a:b].tobytes() for a, b in bounds]
    return [there.tolist(), values, None if rows is None else (rows - rows[0]).tolist(), column.values.dtype]


def same(a: Chunk, b: Chunk) -> None:
    assert a.rows == b.rows
    assert a.bad == b.bad
    assert {n: buffers(c) for n, c in a.columns.items()} == {n: buffers(c) for n, c in b.columns.items()}


def test_row_groups_are_chunks(tmp_path: Path) -> None:
    data = source([write(tmp_path / "a.parquet", clicks()), write(tmp_path / "b.parquet", clicks(50))])
    assert [(Path(c.file).name, c.first_row, c.rows) for c in data.chunks] == [
        ("a.parquet", 0, 300),
        ("a.parquet", 300, 300),
        ("a.parquet", 600, 300),
        ("a.parquet", 900, 100),
        ("b.parquet", 0, 50),
    ]
    assert data.rows == 1050
    assert list(data.schema) == NEEDED
    kinds = ["int8", "int32", "float32", "hex32", "hex32", "uint8", "string", "string", "string", "float32"]
    assert [str(t) for t in data.schema.values()] == [*kinds, "list of int64"]
    assert data.read(3).rows == 100
    assert all(column.rows == 300 for column in data.read(1).columns.values())


def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    table = clicks()
    data = source(write(tmp_path / "a.parquet", table), ["C1", "I1", "items"], {})
    chunk = data.read(2)
    part = table.slice(600, 300)
    there = part["I1"].is_valid().to_numpy()
    assert chunk.columns["I1"].values[there].tolist() == part["I1"].drop_null().to_pylist()
    rows = chunk.columns["items"].row_offsets
    assert rows is not None
    assert np.diff(rows).tolist() == [len(v or []) for v in part["items"].to_pylist()]


def test_hex_text_and_integers_are_the_same_ids(tmp_path: Path) -> None:
    chunk = source(write(tmp_path / "a.parquet", clicks())).read(0)
    assert buffers(chunk.columns["C1"]) == buffers(chunk.columns["C2"])


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "lz4", "brotli"])
@pytest.mark.parametrize("page", ["1.0", "2.0"])
def test_both_decoders_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, page: str
) -> None:
    path = write(tmp_path / "a.parquet", clicks(), compression=compression, data_page_version=page)
    polars = source(path)
    assert len(polars._files[0].plain) == 8
    monkeypatch.setattr(parquet_footers, "is_plain", lambda type: False)
    arrow = source(path)
    assert arrow._files[0].plain == ()
    assert arrow.schema == polars.schema
    for index in range(len(polars.chunks)):
        same(polars.read(index), arrow.read(index))


@pytest.mark.parametrize("encoding", ["PLAIN", "BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "DELTA_BYTE_ARRAY"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    name = "word" if encoding == "DELTA_BYTE_ARRAY" else "I1"
    plain = source(write(tmp_path / "a.parquet", clicks()), [name])
    options = {"use_dictionary": False, "column_encoding": {name: encoding}}
    other = source(write(tmp_path / "b.parquet", clicks().select([name]), **options), [name])
    same(plain.read(1), other.read(1))


def test_large_row_groups_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", clicks())
    whole = source(path).read(0)
    monkeypatch.setattr(parquet, "_VALUES_A_CALL", 700)
    same(source(path).read(0), whole)


def test_any_order_any_thread_and_again(tmp_path: Path) -> None:
    data = source([write(tmp_path / f"{i}.parquet", clicks(seed=i)) for i in range(3)])
    once = [data.read(i) for i in range(len(data.chunks))]
    order = np.random.default_rng(0).permutation(np.tile(np.arange(len(once)), 5)).tolist()
    with ThreadPoolExecutor(4) as pool:
        for index, chunk in zip(order, pool.map(data.read, order), strict=True):
            same(chunk, once[index])
    data.close()
    data.close()
    same(data.read(0), once[0])


def test_few_footers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_FOOTERS_BYTES", 1)
    data = source([write(tmp_path / f"{i}.parquet", clicks(seed=i)) for i in range(3)])
    for index in (0, 4, 8, 0, 4):
        assert data.read(index).rows == 300
    assert data._scan.cache_info().currsize == 1


def test_empty_row_groups_are_left_out(tmp_path: Path) -> None:
    table = clicks(10).select(["label", "I1"])
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 4), table.slice(0, 0), table.slice(4), table.slice(0, 0)):
            writer.write_table(part)
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups > 2
    data = source(str(tmp_path / "a.parquet"), ["label", "I1"])
    assert [(c.first_row, c.rows) for c in data.chunks] == [(0, 4), (4, 6)]
    expected = source(write(tmp_path / "b.parquet", table, rows=4), ["label", "I1"])
    same(data.read(0), expected.read(0))
    assert data.read(1).columns["label"].values.tolist() == table["label"].to_pylist()[4:]


@pytest.mark.parametrize("name", ["^I.*$", "*", "a.b", "ü", "", "[x]"])
def test_odd_names_of_columns_and_files(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "[a]*?.parquet", pa.table({"I1": [1], "a": [2], name: [3], "b": [[4]]}))
    data = source(path, [name, "a", "b"])
    assert {n: c.values.tolist() for n, c in data.read(0).columns.items()} == {name: [3], "a": [2], "b": [4]}


def test_other_columns_may_be_anything(tmp_path: Path) -> None:
    table = pa.table(
        {
            "s": pa.array([{"a": 1, "b": [1]}]),
            "m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
            "n": pa.nulls(1),
            "t": pa.array([0], pa.timestamp("ns", "UTC")),
            "x": pa.array([7]),
            "l": pa.array([["a", None]]),
        }
    )
    data = source(write(tmp_path / "a.parquet", table), ["x", "l"])
    assert data.read(0).columns["x"].values.tolist() == [7]
    assert not data.schema["x"].nullable
    assert data.schema["l"].nullable


def test_other_columns_may_share_a_name(tmp_path: Path) -> None:
    table = pa.table([[1, 2], [3, 4], [5, 6]], names=["a", "a", "x"])
    assert source(write(tmp_path / "a.parquet", table), ["x"]).read(0).columns["x"].values.tolist() == [5, 6]


def test_nullable_where_a_null_is_or_may_be(tmp_path: Path) -> None:
    table = pa.table(
        {"full": [1, 2, 3, 4], "late": [1, 2, 3, None], "lists": [[1], [2], [3], [4]], "hex": ["1", "2", "3", "4"]}
    )
    first, second = table.slice(0, 2), table.slice(2)
    files = [write(tmp_path / "a.parquet", first), write(tmp_path / "b.parquet", second)]

    def nullable(files: list[str]) -> list[str]:
        return [n for n, t in source(files, table.column_names, {"hex": "hex32"}).schema.items() if t.nullable]

    assert nullable(files[:1]) == ["hex"]
    assert nullable(files) == ["late", "hex"]
    assert nullable([write(tmp_path / "c.parquet", first, write_statistics=False)]) == table.column_names
    required = pa.schema([pa.field("full", pa.int64(), nullable=False)])
    path = write(tmp_path / "d.parquet", first.select(["full"]).cast(required), write_statistics=False)
    assert not source(path, ["full"]).schema["full"].nullable


def test_bad_rows(tmp_path: Path) -> None:
    table = pa.table({"label": [1.0, 0.0, None, 1.0, float("nan"), 0.0], "C1": ["1", "2", "3", "xyz", "5", ""]})
    data = source(write(tmp_path / "a.parquet", table, rows=2), ["label", "C1"])
    assert data.read(0).bad == ()
    assert [(b.row, b.line, b.column, b.text) for b in data.read(1).bad] == [
        (0, 2, "label", b""),
        (1, 3, "C1", b"xyz"),
    ]
    assert [(b.row, b.line, b.text) for b in data.read(2).bad] == [(0, 4, b"nan")]


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"compression": "zstd"}])
def test_bytes_are_estimated_from_above(tmp_path: Path, options: dict[str, Any]) -> None:
    data = source(write(tmp_path / "a.parquet", clicks(), **options))
    for index, info in enumerate(data.chunks):
        assert data.read(index).nbytes <= info.nbytes <= 1.6 * data.read(index).nbytes


@needs(MOVIELENS)
def test_movielens() -> None:
    needed = pq.read_schema(MOVIELENS).names
    data = ParquetSource([str(MOVIELENS)], needed=needed, label="label")
    assert data.rows == 100_000
    assert len(data.chunks) == 10
    assert str(data.schema["genres"]) == "list of string"
    assert [n for n, t in data.schema.items() if t.nullable] == ["release_year"]
    labels = 0
    for index, info in enumerate(data.chunks):
        chunk = data.read(index)
        assert chunk.bad == ()
        assert chunk.nbytes <= info.nbytes <= 1.3 * chunk.nbytes
        labels += int(chunk.columns["label"].values.sum())
    assert labels == 55_375


def test_urls(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", clicks())
    url = "memory://test_parquet/a.parquet"
    with fsspec.open(url, "wb") as file:
        file.write(Path(path).read_bytes())
    local, remote = source(path), source(url)
    assert remote.fingerprint == local.fingerprint
    for index in range(len(local.chunks)):
        same(local.read(index), remote.read(index))
    fsspec.filesystem("memory").rm("/test_parquet/a.parquet")
    with pytest.raises(DataError, match=r"memory://test_parquet/a\.parquet"):
        remote.read(0)


def test_fingerprint_is_of_the_data_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    one, two = write(tmp_path / "x" / "a.parquet", clicks()), write(tmp_path / "y" / "a.parquet", clicks())
    os.utime(two, (0, 0))
    assert source(one).fingerprint == source(two).fingerprint
    assert source(one).fingerprint != source([one, two]).fingerprint
    assert source(one).fingerprint != source(one, types={}).fingerprint
    assert source(one).fingerprint != source(write(tmp_path / "a.parquet", clicks(999))).fingerprint


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_missing_column(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"a\.parquet: expected a column 'lable'.*did you mean 'label'.*there are: label, I1"
    ):
        source(write(tmp_path / "a.parquet", clicks()), ["I1", "lable"])


def test_column_of_a_type_that_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: column 'price': .* found decimal128\(9, 2\); cast it"):
        source(write(tmp_path / "a.parquet", clicks()), ["I1", "price"])


def test_label_that_is_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", clicks())
    with pytest.raises(DataError, match="label column 'word': expected one number a row, found string"):
        ParquetSource([path], needed=["I1"], label="word")


def test_files_of_different_types(tmp_path: Path) -> None:
    a = write(tmp_path / "a.parquet", pa.table({"x": pa.array([1], pa.int32())}))
    b = write(tmp_path / "b.parquet", pa.table({"x": ["1"]}))
    with pytest.raises(DataError, match=r"b\.parquet: column 'x': expected int32, as in .*a\.parquet, found string"):
        source([a, b], ["x"])
    data = source([a, b], ["x"], {"x": "hex32"})  # one id, two ways to write it
    same(data.read(0), Chunk(data.read(1).columns, 1))
    with pytest.raises(DataError, match=r"b\.parquet: expected a column 'y'"):
        source([write(tmp_path / "a.parquet", pa.table({"y": [1]})), b], ["y"])


def test_no_files() -> None:
    with pytest.raises(DataError, match="expected at least one Parquet file"):
        source([])


def spoil(make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(make(path.read_bytes())) and None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (spoil(lambda data: b""), "found an empty file"),
        (spoil(lambda data: data[: len(data) // 2]), "truncated or damaged"),
        (spoil(lambda data: data[:-1]), "truncated or damaged"),
        (spoil(lambda data: b"label\tI1\n1\t2\n" * 9), "truncated or damaged"),
        (spoil(lambda data: data[:-200] + bytes(180) + data[-20:]), "truncated or damaged"),
        (lambda path: path.unlink(), "found none"),
        (lambda path: pq.write_table(clicks(0), path), "expected rows, found none"),
    ],
)
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    good, bad = write(tmp_path / "a.parquet", clicks()), write(tmp_path / "b.parquet", clicks())
    damage(Path(bad))
    with pytest.raises(DataError, match=rf"b\.parquet: .*{words}"):
        source([good, bad, str(tmp_path / "none.parquet")])


@pytest.mark.parametrize("how", ["gone", "replaced", "touched", "truncated"])
def test_a_file_that_changes_is_named_and_the_others_stay_good(tmp_path: Path, how: str) -> None:
    good, bad = write(tmp_path / "a.parquet", clicks()), write(tmp_path / "b.parquet", clicks())
    data = source([good, bad])
    assert data.read(4).rows == 300
    if how == "gone":
        os.unlink(bad)
    elif how == "replaced":
        write(tmp_path / "b.parquet", clicks(seed=1))
    elif how == "touched":
        os.utime(bad, (1, 1))
    else:
        os.truncate(bad, os.path.getsize(bad) // 2)
    with pytest.raises(DataError, match=r"b\.parquet: expected .* (found none|replaced or written to)"):
        data.read(4)
    assert data.read(0).rows == 300


@pytest.mark.parametrize("column", ["I1", "word", "items", "half"])
@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_a_page_that_does_not_decode_names_file_and_row_group(tmp_path: Path, compression: str, column: str) -> None:
    path = Path(write(tmp_path / "a.parquet", clicks(), compression=compression))
    footer = pq.read_metadata(path)
    leaf = [footer.schema.column(i).path.split(".")[0] for i in range(footer.num_columns)].index(column)
    chunk = footer.row_group(2).column(leaf)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    damaged = source(str(path), [column])
    assert damaged.read(0).rows == 300
    words = r"a\.parquet: row group 2 \(rows 600 to 899\): expected readable Parquet data"
    with pytest.raises(DataError, match=words) as caught:
        damaged.read(2)
    assert caught.value.__cause__ is not None
