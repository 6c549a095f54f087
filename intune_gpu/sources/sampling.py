"""A bounded sample of any data set, spread over all of it: what a survey of columns looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from intune_gpu.core.arrow_types import is_list_type

OnRows = Callable[[int, int], None]
"""Called with the rows sampled so far and those that there will be."""

_STRETCHES = 32
MAX_VALUES = 1 << 26
"""Rows times columns of a sample."""
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Sample:
    """Some rows of a data set, and what is known of all of them.

    Attributes:
        table: the sampled rows, in file order, each column once, dictionaries decoded; columns that files disagree
            about are not in it.
        rows: rows of the whole data set.
        files: all of them.
        chunks: row groups, or pieces of text.
        nbytes: bytes of the files, as stored.
        types: column → its type in the first file, in words; in the order of the file.
        nulls: column → exact number of nulls in all rows, where the files' statistics tell.
        faults: column → why it is not in `table`.
        bad_rows: rows among those looked at that cannot be read (text).
        is_text: whether the files are text, whose types are guessed from the sample.
    """

    table: pa.Table
    rows: int
    files: tuple[str, ...]
    chunks: int
    nbytes: int
    types: Mapping[str, str]
    nulls: Mapping[str, int]
    faults: Mapping[str, str]
    bad_rows: int = 0
    is_text: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether no row was left out."""
        return bool(self.table.num_rows + self.bad_rows == self.rows)


def affordable(wanted: int, columns: int, rows: int, nbytes: int) -> int:
    """Return how many rows to sample at most: `wanted`, or fewer of wide data.

    Args:
        wanted: by the user.
        columns: of the data.
        rows: of the data.
        nbytes: that all of them take, about.
    """
    by_bytes = MAX_BYTES * rows // max(1, nbytes)
    return max(1, min(wanted, MAX_VALUES // max(1, columns), by_bytes))


class Stretch(NamedTuple):
    """A run of rows of one chunk."""

    chunk: int
    start: int
    rows: int


def stretches(chunk_rows: Sequence[int], wanted: int, seed: int) -> list[Stretch]:
    """Choose rows: all of them if they are few, else one run of rows at a random place in each of 32 equal parts.

    Args:
        chunk_rows: rows of each chunk.
        wanted: rows to choose, about.
        seed: of the places.

    Returns:
        Runs that do not overlap, in order; a run that crosses chunks is cut there.
    """
    total = sum(chunk_rows)
    if total <= wanted:
        return [Stretch(chunk, 0, rows) for chunk, rows in enumerate(chunk_rows) if rows]
    ends = np.cumsum(chunk_rows)
    rng = np.random.default_rng(seed)
    parts = min(_STRETCHES, wanted)
    size = wanted // parts
    found: list[Stretch] = []
    for part in range(parts):
        low, high = total * part // parts, total * (part + 1) // parts
        start = int(rng.integers(low, high - size + 1))
        stop = start + size
        while start < stop:
            chunk = int(np.searchsorted(ends, start, side="right"))
            rows = min(stop, int(ends[chunk])) - start
            found.append(Stretch(chunk, start - int(ends[chunk] - chunk_rows[chunk]), rows))
            start += rows
    return found


def is_nested(type: pa.DataType) -> bool:
    """Return whether a row of this type is more than a value or a list of values."""
    inner = type.value_type if is_list_type(type) else type
    return bool(pa.types.is_nested(inner))
