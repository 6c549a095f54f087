"""The rows that all engines read: Criteo click logs, generated or real, in each of the formats, in a few files each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bench.clicks import DENSE, SPARSE
from intune_gpu.sources.synthetic import write_click_logs

MOST_IDS = 4
"""In a list of the multi-hot format there are 0 to so many ids, each number as likely."""
_ROW_GROUP_ROWS = 65_536


@dataclass(frozen=True)
class Written:
    """One format's files.

    Attributes:
        files: paths, in order of the rows.
        rows: in all of them.
        nbytes: of all of them.
    """

    files: list[str]
    rows: int
    nbytes: int

    def share(self, of: int, least: int) -> Written:
        """Return the first of so many equal parts, in whole files, but at least so many of these."""
        count = min(len(self.files), max(least, len(self.files) // of))
        if count == len(self.files):
            return self
        size = sum(Path(path).stat().st_size for path in self.files[:count])
        return Written(self.files[:count], _first_row(self.rows, count, len(self.files)), size)


def generated(rows: int, seed: int, folder: Path) -> pa.Table:
    """Return synthetic click logs: label, I1 to I13 int32, C1 to C26 strings of 8 hex digits; null where missing."""
    target = folder / f"generated-{rows}-{seed}"
    write_click_logs(target, rows, format="parquet", hex_ids=True, seed=seed, files=1)
    return pq.read_table(target / "part-00000.parquet")


def real(path: Path, rows: int) -> pa.Table:
    """Return the first rows of a Criteo TSV as `generated` does.

    Raises:
        ValueError: it is no such file.
    """
    with open(path, "rb") as file:
        lines = b"".join(itertools.islice(file, rows))
    types = {"label": pa.int32(), **dict.fromkeys(DENSE, pa.int32()), **dict.fromkeys(SPARSE, pa.string())}
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(lines),
            read_options=pyarrow.csv.ReadOptions(column_names=list(types)),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"--data: {path}: expected Criteo text of 40 fields, tab-separated: {error}") from None


def numbered(table: pa.Table, files: int) -> pa.Table:
    """Return the rows of a check: I1 is the row's number, by which any order can be put right.

    Each file begins with the least integer of all, since one peer counts from the least of its file.
    """
    rows = table.num_rows
    columns = {name: table.column(name).to_numpy(zero_copy_only=False).copy() for name in DENSE[:2]}
    least = min(0, *(int(pc.min(table.column(name)).as_py() or 0) for name in DENSE))
    missing = table.column(DENSE[1]).is_null().to_numpy().copy()
    second = np.nan_to_num(columns[DENSE[1]]).astype(np.int32)
    starts = [_first_row(rows, k, files) for k in range(files)]
    second[starts], missing[starts] = least, False
    first = pa.array(np.arange(rows, dtype=np.int32))
    places = {name: table.column_names.index(name) for name in DENSE[:2]}
    table = table.set_column(places[DENSE[0]], DENSE[0], first)
    return table.set_column(places[DENSE[1]], DENSE[1], pa.array(second, mask=missing))


def write(table: pa.Table, format: str, folder: Path, seed: int, files: int) -> Written:
    """Write a table in one of the formats, in equal files."""
    folder.mkdir(parents=True)
    whole, rows = as_format(table, format, seed), table.num_rows
    paths = []
    for k in range(min(files, rows)):
        start, stop = (_first_row(rows, at, files) for at in (k, k + 1))
        part = whole.slice(start, stop - start)
        path = folder / f"part-{k:05}.{'tsv' if format == 'tsv' else 'parquet'}"
        if format == "tsv":
            options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
            pyarrow.csv.write_csv(part, path, options)
        else:
            pq.write_table(part, path, row_group_size=_ROW_GROUP_ROWS)
        paths.append(path)
    return Written([str(path) for path in paths], rows, sum(path.stat().st_size for path in paths))


def as_format(table: pa.Table, format: str, seed: int) -> pa.Table:
    """Return the same rows with ids as a format has them: text as it is, int32 of the same 32 bits, or lists."""
    if format in ("tsv", "parquet-hex"):
        return table
    rng = np.random.default_rng(seed)
    for name in SPARSE:
        ids, missing = hex_ids(table.column(name))
        if format == "parquet-lists":
            column = _lists(ids[~missing], table.num_rows, rng)
        else:
            column = pa.array(ids.view(np.int32), mask=missing)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def hex_ids(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """Return a column of 8 hex digits as numbers, 0 where they are missing, and where they are."""
    missing = column.is_null().to_numpy()
    words = column.combine_chunks().dictionary_encode()
    if isinstance(words, pa.ChunkedArray):
        words = words.combine_chunks()
    numbers = np.array([int(word, 16) for word in words.dictionary.to_pylist()] or [0], np.uint32)
    return numbers[pc.fill_null(words.indices, 0).to_numpy()] * ~missing, missing


def _lists(ids: npt.NDArray[np.uint32], rows: int, rng: np.random.Generator) -> pa.Array:
    """Return lists whose ids are as frequent as those of the column."""
    lengths = rng.integers(0, MOST_IDS + 1, rows)
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    known = ids if len(ids) else np.zeros(1, np.uint32)
    values = rng.choice(known, int(offsets[-1])).view(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _first_row(rows: int, part: int, parts: int) -> int:
    return rows * part // parts
