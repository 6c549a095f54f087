"""Are the results equal? Every engine is held to the same reference before anything is timed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.clicks import DENSE, NUM_BUCKETS, SPARSE, Clicks
from bench.harness import CheckError
from bench.numpy_peer import NumpyTransform, Output

OURS_MAX_ULP = 1
PEER_MAX_ULP = 4


def exact_dense(clicks: Clicks, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Return (rows, 13) float32: the dense features in float64, rounded once."""
    out = np.empty((stop - start, len(DENSE)), np.float32)
    for i, column in enumerate(clicks.integers):
        filled = np.where(clicks.missing[i, start:stop], 0, column[start:stop])
        out[:, i] = np.log1p(np.maximum(filled, 0).astype(np.float64))
    return out


def exact_output(clicks: Clicks, start: int, stop: int, recipe_seed: int) -> Output:
    """Return what a batch of these rows must hold."""
    out = Output.empty(stop - start, "int64")
    NumpyTransform(recipe_seed).run(clicks, start, stop, out)
    return Output(exact_dense(clicks, start, stop), out.ids, out.label)


def ulps(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> int:
    """Return the greatest distance in units in the last place, of non-negative floats; -0.0 counts as 0.0."""
    if found.shape != wanted.shape:
        raise CheckError(f"expected the shape {wanted.shape}, found {found.shape}")
    if not found.size:
        return 0
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise CheckError("expected finite values of at least 0, found others")
    bits = [np.abs(np.ascontiguousarray(x, np.float32)).view(np.int32).astype(np.int64) for x in (found, wanted)]
    return int(np.abs(bits[0] - bits[1]).max())


def check_dense(engine: str, found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], limit: int) -> int:
    """Return the distance in ulp.

    Raises:
        CheckError: it is above `limit`.
    """
    try:
        distance = ulps(found, wanted)
    except CheckError as error:
        raise CheckError(f"{engine}: dense features: {error}") from None
    if distance > limit:
        raise CheckError(f"{engine}: dense features: expected at most {limit} ulp from float64, found {distance}")
    return distance


def check_equal(engine: str, what: str, found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> None:
    """Compare whole arrays.

    Raises:
        CheckError: a shape or a value differs.
    """
    if found.shape != wanted.shape:
        raise CheckError(f"{engine}: {what}: expected the shape {wanted.shape}, found {found.shape}")
    wrong = np.flatnonzero((found != wanted).reshape(-1))
    if len(wrong):
        at = int(wrong[0])
        raise CheckError(
            f"{engine}: {what}: {len(wrong)} of {wanted.size} values differ, the first at {at}: "
            f"expected {wanted.reshape(-1)[at]}, found {found.reshape(-1)[at]}"
        )


def check_batch(engine: str, batch: Any, wanted: Output) -> int:
    """Compare one of our batches with the reference, and return the distance of its dense features in ulp.

    Raises:
        CheckError: a label, length, id, or dense value differs.
    """
    check_equal(engine, "labels", batch.label.numpy(), wanted.label)
    check_equal(engine, "lengths", batch.sparse.lengths().numpy(), np.ones(wanted.ids.size, np.int32))
    check_equal(engine, "ids", batch.sparse.values().numpy(), wanted.ids.reshape(-1))
    return check_dense(engine, batch.dense.numpy(), wanted.dense, OURS_MAX_ULP)


def check_id_ranges(engine: str, ids: npt.NDArray[Any], missing: npt.NDArray[np.bool_]) -> None:
    """Check ids of another hash: 0 where missing and nowhere else, in range, and about as many distinct ones.

    Args:
        engine: its name.
        ids: (26, rows).
        missing: (26, rows) bool.

    Raises:
        CheckError: one of these does not hold.
    """
    check_equal(engine, "missing ids", ids == 0, missing)
    if ids.min() < 0 or ids.max() >= NUM_BUCKETS:
        raise CheckError(f"{engine}: ids: expected 0 to {NUM_BUCKETS - 1}, found {ids.min()} to {ids.max()}")
    rows = ids.shape[1]
    likely = NUM_BUCKETS * (1 - np.exp(-rows * (1 - missing.mean()) / NUM_BUCKETS))
    distinct = np.mean([len(np.unique(column)) for column in ids])
    if len(ids) != len(SPARSE) or not 0.9 * likely < distinct < 1.1 * likely:
        raise CheckError(f"{engine}: ids: expected about {likely:.0f} distinct ones a column, found {distinct:.0f}")
