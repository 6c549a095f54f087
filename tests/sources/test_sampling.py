"""Samples: spread over the data, bounded, seeded, and honest about what they did not see."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intune_gpu.core.errors import DataError
from intune_gpu.sources.sampling import affordable, stretches
from intune_gpu.sources.sampling_parquet import sample_parquet
from intune_gpu.sources.sampling_text import sample_text
from intune_gpu.sources.text_format import TextFormat


@given(st.lists(st.integers(0, 500), min_size=1, max_size=40), st.integers(1, 3_000), st.integers(0, 5))
def test_stretches_are_inside_in_order_and_apart(chunk_rows: list[int], wanted: int, seed: int) -> None:
    found = stretches(chunk_rows, wanted, seed)
    total = sum(chunk_rows)
    rows = sum(stretch.rows for stretch in found)
    assert rows == total if total <= wanted else wanted / 2 < rows <= wanted
    assert all(s.start >= 0 and s.rows > 0 and s.start + s.rows <= chunk_rows[s.chunk] for s in found)
    places = [(s.chunk, s.start, s.start + s.rows) for s in found]
    assert all(
        one[0] < two[0] or (one[0] == two[0] and one[2] <= two[1])
        for one, two in pairwise(places)
    )  # fmt: skip
    assert found == stretches(chunk_rows, wanted, seed)


def test_stretches_lie_in_every_part_of_the_data() -> None:
    starts = [stretch.chunk * 1_000 + stretch.start for stretch in stretches([1_000] * 320, 3_200, 0)]
    assert {start // 10_000 for start in starts} == set(range(32))
    assert stretches([1_000] * 320, 3_200, 0) != stretches([1_000] * 320, 3_200, 1)


def test_wide_data_gets_fewer_rows() -> None:
    assert affordable(200_000, 40, 10**9, 10**11) == 200_000
    assert affordable(200_000, 2_000, 10**9, 10**11) == (1 << 26) // 2_000
    assert affordable(200_000, 2, 10**6, 10**11) == (1 << 30) // 10**5
    assert affordable(5, 10**9, 1, 10**18) == 1


@pytest.mark.parametrize("groups", [4, 40])
def test_a_parquet_sample_holds_rows_of_the_files_spread_over_them(tmp_path: Path, groups: int) -> None:
    rows = 40_000
    for file in range(2):
        table = pa.table({"n": np.arange(rows) + file * rows, "tens": [[i, i] for i in range(rows)]})
        pq.write_table(table, tmp_path / f"{file}.parquet", row_group_size=rows // groups)
    told: list[tuple[int, int]] = []
    files = [str(tmp_path / f"{file}.parquet") for file in range(2)]
    sample = sample_parquet(files, 3_200, on_rows=lambda done, total: told.append((done, total)))
    found = sample.table.column("n").to_numpy()
    assert (sample.rows, sample.chunks, sample.table.num_rows, sample.is_whole) == (80_000, 2 * groups, 3_200, False)
    assert len(set(found.tolist())) == 3_200
    assert (np.diff(found) > 0).all()
    assert np.histogram(found, 32, (0, 80_000))[0].min() > 0
    assert sample.table.column("tens").to_pylist() == [[n % rows] * 2 for n in found.tolist()]
    assert told[-1] == (3_200, 3_200)
    assert sample.table.equals(sample_parquet(files, 3_200).table)
    whole = sample_parquet(files, 80_000)
    assert whole.is_whole
    assert whole.table.column("n").to_pylist() == list(range(80_000))


def test_nulls_are_counted_in_all_rows_not_in_the_sample(tmp_path: Path) -> None:
    values = pa.array([None] * 7 + [1] * 9_993)
    table = pa.table({"a": values, "list": [[None, 1]] * 10_000, "a.b": values})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3_000)
    assert sample_parquet([str(tmp_path / "a.parquet")], 100).nulls == {"a": 7, "a.b": 7}
    pq.write_table(table, tmp_path / "b.parquet", write_statistics=False)
    assert sample_parquet([str(tmp_path / "b.parquet")], 100).nulls == {}


def test_rare_layouts_are_read_as_what_they_stand_for(tmp_path: Path) -> None:
    columns = {
        "dictionary": pa.array(["a", "b"]).dictionary_encode(),
        "view": pa.array(["a", "b"], pa.string_view()),
        "half": pa.array(np.array([1, 2], np.float16)),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    sample = sample_parquet([str(tmp_path / "a.parquet")], 10)
    assert sample.table.to_pydict() == {"dictionary": ["a", "b"], "view": ["a", "b"], "half": [1.0, 2.0]}
    assert sample.types["half"] == "halffloat"


def test_columns_that_files_disagree_about_are_named(tmp_path: Path) -> None:
    tables = [
        pa.table({"same": [1], "id": [1], "gone": [1], "text": ["a"]}),
        pa.table({"same": [1], "id": ["1"], "new": [1], "text": pa.array(["b"], pa.large_string())}),
    ]
    files = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    for path, table in zip(files, tables, strict=True):
        pq.write_table(table, path)
    sample = sample_parquet(files, 10)
    assert sample.table.to_pydict() == {"same": [1, 1], "text": ["a", "b"]}
    assert set(sample.faults) == {"id", "gone", "new"}
    assert sample.faults["id"] == f"its type differs: int64 in {files[0]}, string in {files[1]}"


def test_a_name_that_stands_twice_is_left_out(tmp_path: Path) -> None:
    arrays = [pa.array([1]), pa.array([2]), pa.array([3])]
    pq.write_table(pa.Table.from_arrays(arrays, ["a", "b", "a"]), tmp_path / "a.parquet")
    sample = sample_parquet([str(tmp_path / "a.parquet")], 10)
    assert sample.table.to_pydict() == {"b": [2]}
    assert sample.faults == {"a": "its name stands twice in the file"}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "good.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((tmp_path / "good.parquet").read_bytes()[:-9])
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    for name, words in (("cut", "truncated or damaged"), ("none", "expected rows, found none")):
        with pytest.raises(DataError, match=rf"{name}.parquet: .*{words}"):
            sample_parquet([str(tmp_path / "good.parquet"), str(tmp_path / f"{name}.parquet")], 10)


def test_text_types_are_guessed_and_bad_rows_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('n,x,word,none\n1,0.5,"a,b",\n-2,,"",\nbroken\n,1e3,c,\n')
    sample = sample_text([str(path)], TextFormat(",", True, True), ["n", "x", "word", "none"], 10)
    assert sample.table.to_pydict() == {
        "n": [1, -2, None],
        "x": [0.5, None, 1000.0],
        "word": ["a,b", "", "c"],
        "none": [None] * 3,
    }
    assert dict(sample.types) == {"n": "int64", "x": "double", "word": "string", "none": "null"}
    assert (sample.rows, sample.bad_rows, sample.is_whole, sample.is_text) == (4, 1, True, True)


def test_text_that_is_not_utf8_stays_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xff\t1\nb\t2\n")
    sample = sample_text([str(path)], TextFormat("\t"), ["word", "n"], 10)
    assert sample.table.to_pydict() == {"word": [b"\xff", b"b"], "n": [1, 2]}


def test_a_text_sample_is_spread_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"{i}\t{'x' * 90}\n" for i in range(100_000)))
    sample = sample_text([str(path)], TextFormat("\t"), ["n", "x"], 3_200)
    assert sample.chunks > 1
    assert np.histogram(sample.table.column("n").to_numpy(), 32, (0, 100_000))[0].min() > 0
    assert (sample.rows, sample.table.num_rows) == (100_000, 3_200)
