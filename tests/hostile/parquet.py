"""Parquet that is not what the first file was, or no Parquet at all."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

import intune_gpu as ig
from tests.hostile.case import RECIPE, Seen, case, load, refused, write

SCHEMA = "Parquet of another schema"
BROKEN = "Parquet that is damaged"
NOTHING = "nothing was read or written"


def store(path: Path, first: int = 1, last: int = 4, /, **columns: Any) -> Path:
    """Write rows of label, number and id; `columns` stand in place of these, and None leaves one out."""
    numbers = list(range(first, last + 1))
    content: dict[str, Any] = {"y": [n % 2 for n in numbers], "n": numbers, "id": [f"id{n}" for n in numbers]} | columns
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({name: c for name, c in content.items() if c is not None}), path, row_group_size=2)
    return path


def opened(data: object, recipe: ig.Recipe = RECIPE) -> Seen:
    """Make a loader, which is refused."""
    return refused(lambda: ig.Loader(data, recipe))  # type: ignore[arg-type]


@case(
    SCHEMA,
    "A column that is not there",
    r"a\.parquet: expected a column 'id', found none; did you mean 'id2'\? there are: y, n, id2",
    NOTHING,
)
def no_column(here: Path) -> Seen:
    return opened(store(here / "a.parquet", id=None, id2=["a"] * 4))


@case(SCHEMA, "A column that only the second file lacks", r"b\.parquet: expected a column 'n', found none", NOTHING)
def no_column_later(here: Path) -> Seen:
    return opened([store(here / "a.parquet"), store(here / "b.parquet", n=None)])


@case(
    SCHEMA,
    "A column of another type in the second file",
    r"b\.parquet: column 'id': expected string, as in a\.parquet, found int64",
    NOTHING,
)
def another_type_later(here: Path) -> Seen:
    return opened([store(here / "a.parquet"), store(here / "b.parquet", id=[1, 2, 3, 4])])


@case(
    SCHEMA,
    "Lists in the second file",
    r"b\.parquet: column 'id': expected string, as in a\.parquet, found list",
    NOTHING,
)
def list_later(here: Path) -> Seen:
    return opened([store(here / "a.parquet"), store(here / "b.parquet", id=[["a"], ["b"], ["c"], ["d"]])])


@case(SCHEMA, "A type that has no use: a timestamp", r"column 'n': expected integers, floats.*found timestamp", NOTHING)
def timestamp(here: Path) -> Seen:
    return opened(store(here / "a.parquet", n=pa.array([1, 2, 3, 4], pa.timestamp("s"))))


@case(
    SCHEMA,
    "A float where an id is hashed",
    r'sparse feature "id": expected ids \(integers or strings\) to hash',
    NOTHING,
)
def float_id(here: Path) -> Seen:
    return opened(store(here / "a.parquet", id=[1.0, 2.0, 3.0, 4.0]))


@case(SCHEMA, "A text where a number is needed", r'dense feature "n": expected a column of single numbers', NOTHING)
def text_number(here: Path) -> Seen:
    return opened(store(here / "a.parquet", n=["1", "2", "3", "4"]))


@case(
    SCHEMA,
    "A column without a single value",
    r"column 'id': .* found null: it holds no value at all; declare it",
    NOTHING,
)
def null_column(here: Path) -> Seen:
    return opened(store(here / "a.parquet", id=pa.nulls(4)))


@case(SCHEMA, "Text in the label", r"label column 'y': expected one number a row, found string", NOTHING)
def text_label(here: Path) -> Seen:
    return opened(store(here / "a.parquet", y=["no", "yes", "no", "yes"]))


@case(SCHEMA, "The same column twice", r"expected one column 'n', found 2", NOTHING)
def parquet_column_twice(here: Path) -> Seen:
    arrays = [pa.array([0, 1]), pa.array([1, 2]), pa.array([3, 4]), pa.array(["a", "b"])]
    pq.write_table(pa.table(arrays, names=["y", "n", "n", "id"]), here / "a.parquet")
    return opened(here / "a.parquet")


@case(SCHEMA, "No rows", r"a\.parquet: expected rows, found none; remove the file", NOTHING)
def no_rows(here: Path) -> Seen:
    return opened(
        store(
            here / "a.parquet",
            1,
            0,
            y=pa.array([], pa.int64()),
            n=pa.array([], pa.int64()),
            id=pa.array([], pa.string()),
        )
    )


@case(
    SCHEMA,
    "An id of nine hex digits in a column declared hex32",
    r"a\.parquet, line 1, column 'id': .*expected 1 to 8 hex digits",
    "rows 1, 3 to 4 given; 1 in bad_rows.jsonl",
)
def parquet_hex(here: Path) -> Seen:
    recipe = ig.Recipe("y", RECIPE.dense, RECIPE.sparse, types={"id": "hex32"})
    path = store(here / "a.parquet", id=["a", "123456789", "b", "c"])
    return Seen(load(path, recipe, on_bad_row="raise").says, load(path, recipe).kept)


@case(
    BROKEN, "An empty file that ends in .parquet", r"a\.parquet: expected a Parquet file, found an empty file", NOTHING
)
def empty_parquet(here: Path) -> Seen:
    return opened(write(here / "a.parquet"))


@case(
    BROKEN,
    "Text in a file that ends in .parquet",
    r"expected readable Parquet data, found it truncated or damaged",
    NOTHING,
)
def text_as_parquet(here: Path) -> Seen:
    return opened(write(here / "a.parquet", b"y,n,id\n0,1,a\n" * 9))


@case(BROKEN, "Parquet in a file that ends in .tsv", r"expected|found", NOTHING)
def parquet_as_text(here: Path) -> Seen:
    return opened(store(here / "a.parquet").rename(here / "a.tsv"))


@case(BROKEN, "The last half is missing", r"expected readable Parquet data, found it truncated or damaged", NOTHING)
def truncated_parquet(here: Path) -> Seen:
    whole = store(here / "a.parquet").read_bytes()
    return opened(write(here / "a.parquet", whole[: len(whole) // 2]))


@case(BROKEN, "A footer of noise", r"expected readable Parquet data, found it truncated or damaged", NOTHING)
def broken_footer(here: Path) -> Seen:
    whole = store(here / "a.parquet").read_bytes()
    size = struct.unpack("<I", whole[-8:-4])[0]
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    return opened(write(here / "a.parquet", whole[: -8 - size], noise, whole[-8:]))


@case(
    BROKEN,
    "A footer that says it is longer than the file",
    r"expected readable Parquet data, found it truncated or damaged",
    NOTHING,
)
def long_footer(here: Path) -> Seen:
    whole = store(here / "a.parquet").read_bytes()
    return opened(write(here / "a.parquet", whole[:-8], struct.pack("<I", 2**31 - 1), whole[-4:]))


def noise_in(here: Path, column: str) -> Seen:
    """Write noise over the pages of one column in the second row group."""
    path = store(here / "a.parquet", 1, 6)
    chunk = pq.read_metadata(path).row_group(1).column(["y", "n", "id"].index(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    size = chunk.total_compressed_size
    content[start : start + size] = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    return load(write(path, bytes(content)))


@case(BROKEN, "A page of noise", r"row group 1 \(rows 2 to 3\): expected readable Parquet data", "rows 1 to 2 given")
def broken_page(here: Path) -> Seen:
    return noise_in(here, "n")


@case(
    BROKEN,
    "A page of noise in a column of text",
    r"row group 1 \(rows 2 to 3\): expected readable Parquet data",
    "rows 1 to 2 given",
)
def broken_text_page(here: Path) -> Seen:
    return noise_in(here, "id")


class _Keys(pe.KmsClient):  # type: ignore[misc]
    """A key store that hands the key out again."""

    def wrap_key(self, key: bytes, name: str) -> bytes:
        return key

    def unwrap_key(self, wrapped: bytes, name: str) -> bytes:
        return wrapped


def encrypted(here: Path, plaintext_footer: bool) -> Seen:
    """Write a file whose columns are encrypted."""
    names = pe.EncryptionConfiguration(
        "k", column_keys={"k": ["n"]}, plaintext_footer=plaintext_footer, double_wrapping=False
    )
    factory = pe.CryptoFactory(lambda config: _Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), names)
    content = pa.table({"y": [0, 1], "n": [1, 2], "id": ["a", "b"]})
    with pq.ParquetWriter(here / "a.parquet", content.schema, encryption_properties=properties) as writer:
        writer.write_table(content)
    return load(here / "a.parquet")


@case(BROKEN, "An encrypted file", r"encrypted", "no row given")
def encrypted_file(here: Path) -> Seen:
    return encrypted(here, plaintext_footer=False)


@case(BROKEN, "An encrypted column", r"encrypted", "no row given")
def encrypted_column(here: Path) -> Seen:
    return encrypted(here, plaintext_footer=True)
