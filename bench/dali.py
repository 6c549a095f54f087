"""DALI: the same job through `DALIRecIterator` and through `Loader`, what DALI itself costs, and a recipe as a node.

Everything is open before the clock starts: a pass is one more epoch, or the same rows once more through the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn, types

import intune_gpu as ig
from bench import names
from bench.checks import check_equal
from bench.clicks import DENSE, NUM_BUCKETS, SPARSE, click_recipe, random_clicks
from bench.harness import Case, Engine
from intune_gpu.dali import DALIRecIterator
from intune_gpu.dali.fn import transform
from intune_gpu.dali.loader import GROUP_ROWS

BATCH_SIZES = (1_024, 8_192, 65_536)
NODE_BATCH, NODE_BATCHES = 8_192, 16


def cases(threads: int, rows: int, seed: int, data: dict[str, str]) -> Iterator[Case]:
    """Yield the cases; `data` is case → path of a Parquet file of click logs."""
    ((_, path),) = data.items()
    recipe = ig.recipes.criteo(num_buckets=NUM_BUCKETS, seed=seed)
    for size in BATCH_SIZES:
        job = _Epochs(path, recipe, min(size, rows), threads)
        try:
            rows_of = {"batch_rows": float(min(size, rows))}
            yield Case("dali", names.batches(size), threads, rows, job.engines(), job.check, rows_of)
        finally:
            job.close()
    size, count = min(NODE_BATCH, rows), min(NODE_BATCHES, max(1, rows // NODE_BATCH))
    node = _Node(size, count, seed)
    name = f"{names.NODE}, {names.batches(size)}"
    yield Case("dali", name, threads, node.rows, node.engines(), node.check, {"batch_rows": float(size)})


class _Epochs:
    """Epochs over a file.

    Args:
        path: of the file.
        recipe: what to compute.
        size: rows of a batch.
        threads: readers, and transformers.
    """

    def __init__(self, path: str, recipe: ig.Recipe, size: int, threads: int) -> None:
        options: dict[str, Any] = {"batch_size": size, "readers": threads, "transformers": threads}
        self._loader = ig.Loader(path, recipe, device="cpu", **options)
        self._plain = DALIRecIterator(path, recipe, **options)
        self._saving = DALIRecIterator(path, recipe, enable_checkpointing=True, **options)
        self._empty = _empty_pipeline()
        self._steps = -(-len(self._loader) // max(1, GROUP_ROWS // size))

    def engines(self) -> list[Engine]:
        """Return what is measured; the empty pipeline does nothing as often as ours iterates."""
        return [
            Engine(names.DALI, "ours", "an epoch of an open DALIRecIterator", lambda: _drain(self._plain)),
            Engine(names.NATIVE, "ours", "an epoch of an open Loader, on the CPU", self._native),
            Engine(names.CHECKPOINTS, "ours", "the same with checkpoints() behind each batch", self._checkpoints),
            Engine(
                names.EMPTY, "bound", "DALI alone: 8 bytes in, a Python operator, 8 bytes out, as often", self._idle
            ),
        ]

    def check(self) -> list[str]:
        """Compare every byte of an epoch."""
        wanted = [_digest(batch.dense, batch.sparse, batch.label) for batch in self._loader]
        for name, iterator in ((names.DALI, self._plain), (names.CHECKPOINTS, self._saving)):
            found = [_digest(one["dense"], one["sparse"], one["label"]) for (one,) in iterator]
            iterator.reset()
            check_equal(name, "batches", np.array(found), np.array(wanted))
        return [f"{names.DALI}, with checkpoints too: all bytes of {len(wanted)} batches equal {names.NATIVE}'s"]

    def close(self) -> None:
        """Stop all threads."""
        self._loader.close()
        self._plain.close()
        self._saving.close()

    def _native(self) -> None:
        for batch in self._loader:
            del batch  # nothing is held, so that its memory can be used again

    def _checkpoints(self) -> None:
        _drain(self._saving, self._saving.checkpoints)

    def _idle(self) -> None:
        for _ in range(self._steps):
            self._empty.share_outputs()
            self._empty.release_outputs()
            self._empty.schedule_run()


def _drain(iterator: DALIRecIterator, then: Callable[[], object] = lambda: None) -> None:
    for data in iterator:
        del data
        then()
    iterator.reset()


def _empty_pipeline() -> Any:
    """Return a pipeline of the form of ours that never ends, already running ahead."""
    nothing = np.zeros(8, np.uint8)
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, exec_dynamic=True)
    with pipeline:
        given = fn.external_source(source=lambda _: [nothing], no_copy=True, dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(fn.python_function(given, function=lambda array: array))
    pipeline.build()
    pipeline.schedule_run()
    return pipeline


class _Node:
    """Rows in memory through a node of a user's own pipeline, a batch a sample, beside `ig.transform`.

    Args:
        size: rows of a batch.
        count: batches.
        seed: of rows and hashes.
    """

    def __init__(self, size: int, count: int, seed: int) -> None:
        self.rows, self._count, self._recipe = size * count, count, click_recipe(seed)
        clicks = random_clicks(self.rows, "int64", seed)
        columns = dict(zip(("label", *DENSE, *SPARSE), (clicks.label, *clicks.integers, *clicks.ids), strict=True))
        self._parts = [{n: c[i : i + size] for n, c in columns.items()} for i in range(0, self.rows, size)]
        self._pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, exec_dynamic=True)
        with self._pipeline:
            nodes = fn.external_source(source=_repeated(self._parts), num_outputs=len(columns), no_copy=True)
            self._pipeline.set_outputs(*transform(dict(zip(columns, nodes, strict=True)), recipe=self._recipe))
        self._pipeline.build()
        self._pipeline.schedule_run()

    def engines(self) -> list[Engine]:
        """Return what is measured."""
        note = "a node of one's own pipeline; a sample is a batch, the columns NumPy arrays without missing values"
        return [
            Engine(names.NODE, "ours", note, self._drain),
            Engine("ig.transform", "ours", "the same arrays, one call a batch", self._one_shot),
        ]

    def check(self) -> list[str]:
        """Compare every byte of a pass."""
        found: list[tuple[Any, ...]] = []
        self._drain(lambda outputs: found.append(tuple(np.array(part.as_array()[0]) for part in outputs)))
        for (dense, ids, label), part in zip(found, self._parts, strict=True):
            wanted = ig.transform(part, self._recipe)
            check_equal(names.NODE, "dense", dense.view(np.int32), wanted.dense.numpy().view(np.int32))
            check_equal(names.NODE, "ids", ids.T.reshape(-1), wanted.sparse.values().numpy())
            check_equal(names.NODE, "labels", label, wanted.label.numpy())
        return [f"{names.NODE}: all values of {self._count} batches equal ig.transform's"]

    def _drain(self, look: Callable[[Any], object] = lambda outputs: None) -> None:
        for _ in range(self._count):
            look(self._pipeline.share_outputs())
            self._pipeline.release_outputs()
            self._pipeline.schedule_run()

    def _one_shot(self) -> None:
        for part in self._parts:
            ig.transform(part, self._recipe)


def _repeated(parts: list[dict[str, Any]]) -> Callable[[int], list[list[Any]]]:
    """Return a source without end; DALI holds it where Python's collector does not look."""
    return lambda index: [[column] for column in parts[index % len(parts)].values()]


def _digest(dense: Any, sparse: Any, label: Any) -> int:
    """Return 64 bits of a hash of all bytes of a batch."""
    digest = blake2b(digest_size=8)
    for tensor in (dense, sparse.values(), sparse.lengths(), label):
        digest.update(tensor.numpy())
    return int.from_bytes(digest.digest(), "little", signed=True)
