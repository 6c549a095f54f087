"""What every engine must have made of the rows of a check, by NumPy alone, and whether it did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bench.checks import check_equal
from bench.clicks import DENSE, NUM_BUCKETS, SPARSE
from bench.harness import CheckError
from bench.numpy_peer import Words, feature_seeds, xxh64_words
from bench.peers.table import Engine

_RELATIVE, _ABSOLUTE = 1e-5, 1e-6
_SPREAD = 5.0  # standard deviations that a number of collisions may be off


@dataclass(frozen=True, eq=False)
class Expected:
    """The rows of a check, by number.

    Attributes:
        integers: (rows, 13) int64, 0 where missing.
        label: (rows,).
        lengths: (26, rows): ids of each feature and row.
        ids: by feature, flat: the numbers as they are hashed, as int64.
        missing: by feature, flat: which of them stand for nothing.
        buckets: by feature, flat: ours.
    """

    integers: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    ids: list[npt.NDArray[np.int64]]
    missing: list[npt.NDArray[np.bool_]]
    buckets: list[npt.NDArray[np.int64]]


def expected(table: pa.Table, format: str, seed: int) -> Expected:
    """Return what must come out of a table as `data.as_format` gave it."""
    from bench.peers.data import hex_ids

    integers = np.stack([_filled(table.column(name)) for name in DENSE], axis=1)
    ids, missing, lengths = [], [], []
    for name in SPARSE:
        column = table.column(name)
        if pa.types.is_list(column.type):
            lists = column.combine_chunks()
            lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
            ids.append(lists.flatten().to_numpy().astype(np.int64))
            missing.append(np.zeros(len(ids[-1]), bool))
            lengths.append(np.diff(lists.offsets.to_numpy()))
            continue
        if pa.types.is_string(column.type):
            numbers, nulls = hex_ids(column)
        else:  # hex32: an int32 stands for its 32 bits
            numbers, nulls = _filled(column).astype(np.int32).view(np.uint32), column.is_null().to_numpy()
        ids.append(numbers.astype(np.int64))
        missing.append(nulls)
        lengths.append(np.ones(table.num_rows, np.int64))
    seeds = feature_seeds(seed)[:, None]
    buckets = [np.where(gone, 0, _bucket(each, one)) for each, gone, one in zip(ids, missing, seeds, strict=True)]
    label = _filled(table.column("label"))
    return Expected(integers, label, np.stack(lengths), ids, missing, buckets)


def check(engine: Engine, format: str, path: Path, wanted: Expected) -> str:
    """Compare what an engine wrote; return a sentence of what was equal.

    Raises:
        CheckError: something differs; the message says what.
    """
    name = f"{engine.name}, {format}"
    with np.load(path, allow_pickle=False) as file:
        dense, label, lengths, ids = (file[part] for part in ("dense", "label", "lengths", "ids"))
    rows = len(wanted.label)
    check_equal(name, "number of rows", np.array([len(dense), len(label), lengths.shape[1]]), np.array([rows] * 3))
    integers = wanted.integers
    shift = 2 - min(0, int(integers.min())) if engine.dense == "least" else 1
    order = np.argsort(dense[:, 0], kind="stable")  # I1 is the row's number
    numbers = np.rint(np.exp(dense[order, 0].astype(np.float64)) - shift).astype(np.int64)
    check_equal(name, "rows, by number", numbers, np.arange(rows))
    exact = np.log((integers if engine.dense == "least" else np.maximum(integers, 0)) + float(shift))
    furthest = _check_close(name, dense[order], exact)
    check_equal(name, "labels", label[order].astype(np.int64), wanted.label)
    check_equal(name, "lengths", lengths[:, order].astype(np.int64), wanted.lengths)
    found = _by_row(ids.astype(np.int64), lengths.astype(np.int64), order)
    for feature, mine, theirs in zip(SPARSE, found, _wanted_ids(engine, format, wanted), strict=True):
        if theirs is not None:
            check_equal(name, f"ids of {feature}", mine, theirs)
    if engine.ids == "own":
        _check_own_hash(name, found, wanted)
    how = {"xxh64": "equal ours", "modulo": f"equal the numbers modulo {NUM_BUCKETS:,}", "own": "are a hash of them"}
    return (
        f"{engine.name}: labels and lengths of {rows:,} rows equal, dense within {furthest:.1g} of float64, "
        f"ids {how[engine.ids]}"
    )


def _wanted_ids(engine: Engine, format: str, wanted: Expected) -> list[npt.NDArray[np.int64] | None]:
    if engine.ids == "xxh64":
        return list(wanted.buckets)
    if engine.ids == "modulo":
        signed = [each.astype(np.uint32).view(np.int32) if format == "parquet-int" else each for each in wanted.ids]
        return [
            np.where(gone, 0, each.astype(np.int64) % NUM_BUCKETS)
            for each, gone in zip(signed, wanted.missing, strict=True)
        ]
    return [None] * len(SPARSE)


def _check_close(name: str, found: npt.NDArray[Any], exact: npt.NDArray[np.float64]) -> float:
    """Return the greatest relative distance."""
    off = np.abs(found - exact)
    allowed = _RELATIVE * np.abs(exact) + _ABSOLUTE
    if not (off <= allowed).all():  # NaN too
        row, column = np.argwhere(~(off <= allowed))[0]
        raise CheckError(
            f"{name}: dense: row {row}, {DENSE[column]}: expected {exact[row, column]:.7g} within {_RELATIVE:g}, "
            f"found {found[row, column]:.7g}"
        )
    return float((off / np.maximum(np.abs(exact), 1.0)).max())


def _check_own_hash(name: str, found: list[npt.NDArray[np.int64]], wanted: Expected) -> None:
    """Check ids of another hash: 0 where missing and only there, in range, one for each number, spread as a hash's."""
    for feature, ids, numbers, missing in zip(SPARSE, found, wanted.ids, wanted.missing, strict=True):
        check_equal(name, f"missing ids of {feature}", ids == 0, missing)
        if len(ids) and (ids.min() < 0 or ids.max() >= NUM_BUCKETS):
            raise CheckError(
                f"{name}: ids of {feature}: expected 0 to {NUM_BUCKETS - 1}, found {ids.min()} to {ids.max()}"
            )
        there = ~missing
        distinct = len(np.unique(numbers[there]))
        pairs = len(np.unique(np.stack([numbers[there], ids[there]]), axis=1).T) if distinct else 0
        if pairs != distinct:
            raise CheckError(f"{name}: ids of {feature}: expected one for each of {distinct} numbers, found {pairs}")
        likely = NUM_BUCKETS * -np.expm1(-distinct / NUM_BUCKETS)
        used, allowed = len(np.unique(ids[there])), _SPREAD * np.sqrt(max(distinct - likely, 1.0)) + 1
        if abs(used - likely) > allowed:
            raise CheckError(
                f"{name}: ids of {feature}: expected about {likely:.0f} for {distinct} numbers, found {used}"
            )


def _by_row(
    ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.int64]]:
    """Return the ids of each feature with its rows put in order."""
    found = []
    for each, of_rows in zip(np.split(ids, np.cumsum(lengths.sum(axis=1))[:-1]), lengths, strict=True):
        starts = np.cumsum(of_rows) - of_rows
        sizes = of_rows[order]
        ends = np.cumsum(sizes)
        places = np.arange(len(each)) + np.repeat(starts[order] - (ends - sizes), sizes)
        found.append(each[places])
    return found


def _bucket(ids: npt.NDArray[np.int64], seed: Words) -> npt.NDArray[np.int64]:
    words = ids.copy().view(np.uint64)
    xxh64_words(words, seed, np.empty_like(words))
    words >>= np.uint64(32)
    words *= np.uint64(NUM_BUCKETS - 1)
    words >>= np.uint64(32)
    return (words + np.uint64(1)).view(np.int64)


def _filled(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = pc.fill_null(column, 0).to_numpy().astype(np.int64)
    return found
