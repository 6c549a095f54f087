"""Column groups: features of one physical type and one chain, done in one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import STRING, FlatColumn
from intune_gpu.core.rows import take
from intune_gpu.kernels import fusing, hashing, jagged
from intune_gpu.recipe import Clip, FillMissing, Log1p, MissingFlag, Scale
from intune_gpu.recipe.ops import Bucketize, Op

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[Any]
Whole = npt.NDArray[np.int64]


def lower(ops: Sequence[Op]) -> tuple[tuple[str, ...], list[float], list[tuple[float, ...]]]:
    """Return a chain's rules, their float32 parameters in order, and the borders of each Bucketize."""
    rules: list[str] = []
    parameters: list[float] = []
    borders: list[tuple[float, ...]] = []
    for op in ops:
        match op:
            case FillMissing(value):
                rules.append("fill_missing")
                parameters.append(value)
            case MissingFlag():
                rules.append("missing_flag")
            case Clip(low, high):
                if low is not None:
                    rules.append("clip_min")
                    parameters.append(low)
                if high is not None:
                    rules.append("clip_max")
                    parameters.append(high)
            case Log1p():
                rules.append("log1p")
            case Scale(mean, std):
                rules.append("scale")
                parameters += [mean, std]
            case Bucketize(edges):
                rules.append("bucketize")
                borders.append(tuple(edges))
            case _:
                raise TypeError(f"not a numeric op: {op!r}")
    return tuple(rules), parameters, borders


def elements(column: FlatColumn, first_k: int | None, lengths: npt.NDArray[np.int32]) -> FlatColumn:
    """Return a list column's values as a plain column, and write the (rows,) lengths."""
    row_offsets = column.row_offsets
    assert row_offsets is not None
    kept = jagged.first_k_lengths_cpu(row_offsets, first_k or np.iinfo(np.int64).max, lengths)
    first, last = int(row_offsets[0]), int(row_offsets[-1])
    plain = FlatColumn(column.values, column.validity, column.validity_offset, column.offsets)
    if kept == last - first:
        return plain.slice(first, last)
    chosen = np.empty(kept, np.int64)
    jagged.first_k_elements_cpu(row_offsets, lengths, chosen)
    return take(plain, chosen)


@dataclass(frozen=True)
class NumericGroup:
    """Dense chains of one shape over columns of one type.

    Attributes:
        columns: the column each feature reads.
        positions: (features,) the column of the output matrix each feature writes.
    """

    columns: tuple[str, ...]
    positions: tuple[int, ...]
    like: npt.NDArray[Any]
    rules: tuple[str, ...]
    params: Floats
    borders: Floats
    spans: npt.NDArray[np.int64]

    @classmethod
    def build(cls, physical: str, members: Sequence[tuple[int, str, Sequence[Op]]]) -> NumericGroup:
        """Make a group of (position, column, ops) whose ops lower to the same rules."""
        lowered = [lower(ops) for _, _, ops in members]
        borders: list[float] = []
        spans: list[list[int]] = []
        for _, _, edges in lowered:
            spans.append([])
            for edge in edges:
                spans[-1] += [len(borders), len(edge)]
                borders += edge
        return cls(
            columns=tuple(column for _, column, _ in members),
            positions=tuple(position for position, _, _ in members),
            like=np.empty(0, physical),
            rules=lowered[0][0],
            params=np.array([p for _, p, _ in lowered], np.float32).reshape(len(members), -1),
            borders=np.array(borders, np.float32),
            spans=np.array(spans, np.int64).reshape(len(members), -1),
        )

    def which(self, names: Sequence[str]) -> Whole:
        """Return (features, 2): the row of each column in a table of these names, and the position it writes."""
        pairs = zip(self.columns, self.positions, strict=True)
        return np.array([(names.index(column), position) for column, position in pairs], np.int64)

    def run(self, table: Whole, which: Whole, rows: int, out: Floats) -> None:
        """Write the features into `out` (rows, width)."""
        self._loop(table, which, self.params, self.borders, self.spans, rows, self.like, out)

    @cached_property
    def _loop(self) -> Callable[..., None]:
        return fusing.dense_loop(self.rules, self.like.itemsize)


@dataclass(frozen=True)
class IdGroup:
    """Hash buckets or modulo over columns of one type.

    Attributes:
        columns: the column each feature reads.
        features: (features,) their numbers among the keys.
        physical: the columns' type.
        parameters: of hashes (features, 3) uint64: feature seed, buckets less the reserved ones, reserved; of modulo
            (features,) divisors, uint64 for uint64 values, else int64.
    """

    columns: tuple[str, ...]
    features: Whole
    physical: str
    parameters: npt.NDArray[Any]

    def which(self, names: Sequence[str]) -> Whole:
        """Return (features,): the row of each column in a table of these names."""
        return np.array([names.index(column) for column in self.columns], np.int64)

    def run(self, table: Whole, which: Whole, count: int, out: Ids, starts: Whole) -> None:
        """Write `count` ids a feature into `out`, each feature's from its start."""
        if self.parameters.ndim == 1:
            hashing.modulo_cpu(table, which, self.parameters, count, self._like, out, starts)
        elif self.physical == STRING:
            hashing.hash_strings_cpu(table, which, self.parameters, count, out, starts)
        else:
            hashing.hash_ints_cpu(table, which, self.parameters, count, self._like, out, starts)

    @cached_property
    def _like(self) -> npt.NDArray[Any]:
        return np.empty(0, self.physical)
