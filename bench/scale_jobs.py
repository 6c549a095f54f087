"""What the processes of the suite `scale` do: one pass over files, or a case whose points alternate."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow.parquet as pq
import torch

import intune_gpu as ig
from bench import names
from bench.checks import check_equal
from bench.harness import Case, CaseRecord, CheckError, Effort, Engine, measure
from bench.scale_data import Data

POINT_ROWS = 1_000_000
"""Rows that the samples of a case are scaled to, whose points have files of their own."""


class Pass(TypedDict):
    """One pass in a process of its own, and the same loader's next epoch."""

    rows: int
    seconds: float
    cpu_seconds: float
    first_batch_s: float
    next_epoch_s: float
    in_flight_bytes: int
    sums: list[int]


def one_pass(data: Data, warm: Data, batch_size: int) -> Pass:
    """Warm up on a small file; open the files, which were never seen, and take every batch; take them all once more.

    Args:
        data: what is timed.
        warm: loads the kernels and starts the pools; its sums are returned, to be compared.
        batch_size: rows of a batch.
    """
    from intune_gpu.sources import text_index

    with tempfile.TemporaryDirectory(prefix="intune_gpu-bench-") as folder:
        text_index.cache_folder = partial(Path, folder)  # an index of another pass would help
        sums = sums_of(warm, batch_size)
        gc.collect()
        gc.disable()
        rows, first_s = 0, 0.0
        cpu, begin = time.process_time(), time.perf_counter()
        with ig.Loader(data.path, data.recipe, batch_size=batch_size, device="cpu") as loader:
            for batch in loader:
                first_s = first_s or time.perf_counter() - begin
                rows += len(batch)
                del batch
            seconds, spent = time.perf_counter() - begin, time.process_time() - cpu
            begin = time.perf_counter()
            again = sum(map(len, loader))
            next_epoch_s = time.perf_counter() - begin
            in_flight = loader.stats().peak_in_flight_bytes
    if again != rows:
        raise CheckError(f"the second epoch: expected {rows} rows, found {again}")
    return {
        "rows": rows,
        "seconds": seconds,
        "cpu_seconds": spent,
        "first_batch_s": first_s,
        "next_epoch_s": next_epoch_s,
        "in_flight_bytes": in_flight,
        "sums": sums,
    }


def sums_of(data: Data, batch_size: int) -> list[int]:
    """Return sums over all batches that no cut of the rows into batches changes: rows, ids, lengths, bits of floats."""
    with ig.Loader(data.path, data.recipe, batch_size=batch_size, device="cpu") as loader:
        return [sum(column) for column in zip(*map(_sums, loader), strict=True)]


def _sums(batch: ig.Batch) -> list[int]:
    tensors = (batch.sparse.values(), batch.sparse.lengths(), batch.dense, batch.label)
    bits = [t.view(torch.int32) if t.dtype == torch.float32 else t for t in tensors]
    return [len(batch), *(int(t.sum(dtype=torch.int64)) for t in bits)]


def batch_sizes(name: str, data: Data, sizes: Sequence[int], cores: int, effort: Effort) -> CaseRecord:
    """Measure epochs of open loaders with batches of several sizes, in turns."""
    points = {names.batches(size): (data, size) for size in sizes}

    def check() -> list[str]:
        found = {point: sums_of(data, size) for point, (_, size) in points.items()}
        for point, sums in found.items():
            check_sums(point, sums, next(iter(found.values())))
        return [f"{data.rows:,} rows, ids, lengths, dense values and labels add up to the same with every batch size"]

    details = dict(zip(points, map(float, sizes), strict=True))
    return _measured("batch size", name, points, cores, check, details, effort)


def files(
    section: str, name: str, points: dict[str, tuple[Data, int]], x: Sequence[int], cores: int, effort: Effort
) -> CaseRecord:
    """Measure epochs of open loaders over several Parquet files, in turns.

    Args:
        section: of the case.
        name: of the case.
        points: name → file and batch size.
        x: what the points differ in, in their order.
        cores: of this process.
        effort: how long.
    """

    def check() -> list[str]:
        for point, (data, size) in points.items():
            check_sums(point, sums_of(data, size), _sums(ig.transform(pq.read_table(data.path), data.recipe)))
        return [f"{point}: batches add up to ig.transform's of the whole table" for point in points]

    return _measured(section, name, points, cores, check, dict(zip(points, map(float, x), strict=True)), effort)


def _measured(
    section: str,
    name: str,
    points: dict[str, tuple[Data, int]],
    cores: int,
    check: Callable[[], list[str]],
    details: dict[str, float],
    effort: Effort,
) -> CaseRecord:
    with ExitStack() as stack:
        engines = []
        for point, (data, size) in points.items():
            loader = stack.enter_context(ig.Loader(data.path, data.recipe, batch_size=size, device="cpu"))
            note = "an epoch of an open Loader; its points alternate, scaled to a million rows"
            engines.append(Engine(point, "ours", note, partial(_drain, loader), data.rows))
        return measure(Case(section, name, cores, POINT_ROWS, engines, check, details), effort)


def _drain(loader: ig.Loader) -> None:
    for batch in loader:
        del batch


def check_sums(point: str, found: list[int], wanted: list[int]) -> None:
    """Compare what `sums_of` gave.

    Raises:
        CheckError: they differ.
    """
    check_equal(point, "sums", np.array(found), np.array(wanted))
