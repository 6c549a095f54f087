"""Transform: 13 dense and 26 hashed columns in memory → a batch, one thread, against NumPy, Polars and a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

import intune_gpu as ig
from bench import names
from bench.checks import PEER_MAX_ULP, check_batch, check_dense, check_id_ranges, exact_output
from bench.clicks import DENSE, NUM_BUCKETS, SPARSE, Clicks, click_recipe, random_clicks
from bench.harness import Case, CheckError, Engine
from bench.numpy_peer import NumpyTransform, Output
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.program import Program

try:
    from intune_gpu.engine.schedule import TOGETHER_ROWS
except ImportError:  # a package of before that: `bench.against` puts this bench beside it
    TOGETHER_ROWS = 1

T = TypeVar("T")

BATCH, SMALL_BATCH = 65_536, 1_024
IDS = (("int32", "int32"), ("int32", "int64"), ("int64", "int64"))
"""Type of the id columns, type of the batch's ids."""


def cases(rows: int, seed: int) -> Iterator[Case]:
    """Yield the transform cases."""
    for id_dtype, index_dtype in IDS:
        job = _Job(random_clicks(rows, id_dtype, seed), index_dtype, seed)
        for batch_size in (BATCH, SMALL_BATCH):
            yield job.case(f"{names.ids(id_dtype, index_dtype)}, {names.batches(batch_size)}", batch_size)
        if (id_dtype, index_dtype) == IDS[0]:
            yield job.batch_sizes()


@dataclass(frozen=True, eq=False)
class _Job:
    clicks: Clicks
    index_dtype: str
    seed: int

    def case(self, name: str, batch_size: int) -> Case:
        engines = [
            self._ours(names.OURS, batch_size),
            self._numpy(batch_size),
            self._polars(batch_size),
            self._copy(batch_size),
        ]
        if self.index_dtype == "int64":  # ig.transform gives these only
            engines.insert(1, self._one_shot(batch_size))
        return self._case(name, engines, lambda: self._check(batch_size))

    def batch_sizes(self) -> Case:
        """The same rows by small batches, paired with large ones: what a batch costs that its rows do not."""
        engines = [self._ours(names.SMALL, SMALL_BATCH), self._ours(names.LARGE, BATCH)]
        return self._case(names.BATCH_SIZES, engines, lambda: [self._check_ours(SMALL_BATCH)])

    def _case(self, name: str, engines: list[Engine], check: Callable[[], list[str]]) -> Case:
        details = {"read_bytes_per_row": self.clicks.row_nbytes, "written_bytes_per_row": float(self._written)}
        return Case("transform", name, 1, self.clicks.rows, engines, check, details)

    @property
    def _program(self) -> Program:
        return Program(click_recipe(self.seed), self.clicks.schema(), self.index_dtype)

    @property
    def _written(self) -> int:
        return 4 * len(DENSE) + 4 + (4 + np.dtype(self.index_dtype).itemsize) * len(SPARSE)

    def _cuts(self, batch_size: int) -> list[tuple[int, int]]:
        return [(a, min(a + batch_size, self.clicks.rows)) for a in range(0, self.clicks.rows, batch_size)]

    def _ours(self, name: str, batch_size: int) -> Engine:
        note = "Program on slices of rows in memory: dense, KeyedJaggedTensor, label"
        if batch_size < TOGETHER_ROWS:
            note += f"; {TOGETHER_ROWS // batch_size} batches a call, as Loader makes them"
        made = self._made(batch_size)
        return Engine(name, "ours", note, _each(made, self._cuts(max(batch_size, TOGETHER_ROWS))))

    def _made(self, batch_size: int) -> Callable[[tuple[int, int]], list[Batch]]:
        """Return what makes batches of rows `a` to `b` as the loader's workers do: small ones several at a time."""
        program, raw = self._program, self.clicks.raw()
        run_parts = getattr(program, "run_parts", lambda rows, batch_size: None)  # older packages have none

        def made(ab: tuple[int, int]) -> list[Batch]:
            rows = raw.slice(*ab)
            cuts = range(0, rows.rows, batch_size)
            return run_parts(rows, batch_size) or [
                program.run(rows.slice(a, min(a + batch_size, rows.rows))) for a in cuts
            ]

        return made

    def _one_shot(self, batch_size: int) -> Engine:
        recipe, table = click_recipe(self.seed), self.clicks.arrow()
        slices = [table.slice(a, b - a) for a, b in self._cuts(batch_size)]
        note = "ig.transform on Arrow tables; compiles the recipe for each of them"
        return Engine("ig.transform", "ours", note, _each(lambda part: ig.transform(part, recipe), slices))

    def _numpy(self, batch_size: int) -> Engine:
        peer, out = NumpyTransform(self.seed), Output.empty(batch_size, self.index_dtype)
        note = "in place, in blocks; missing as bool arrays, output buffers reused; no KeyedJaggedTensor"
        return Engine("NumPy", "peer", note, _each(lambda ab: peer.run(self.clicks, *ab, out), self._cuts(batch_size)))

    def _polars(self, batch_size: int) -> Engine:
        frame = _polars_frame(self.clicks.arrow())
        frames = [frame[a:b] for a, b in self._cuts(batch_size)]
        expressions = _polars_expressions(self.index_dtype)
        note = "expressions, its own hash; columns only: no matrix, no KeyedJaggedTensor"
        return Engine(names.POLARS, "peer", note, _each(lambda part: part.select(expressions), frames))

    def _copy(self, batch_size: int) -> Engine:
        """Read what the job reads and write what it writes, by memcpy and memset alone."""
        reads, writes = int(self.clicks.row_nbytes), self._written
        source = np.ones(self.clicks.rows * reads, np.uint8)
        target = np.ones(batch_size * writes, np.uint8)
        assert reads <= writes

        def move(ab: tuple[int, int]) -> None:
            a, b = ab
            copied = (b - a) * reads
            np.copyto(target[:copied], source[a * reads : b * reads])
            target[copied : (b - a) * writes].fill(1)

        note = f"{reads} B a row copied, {writes - reads} B more written; between warm buffers"
        return Engine(names.COPY, "bound", note, _each(move, self._cuts(batch_size)))

    def _check_ours(self, batch_size: int) -> str:
        made, furthest = self._made(batch_size), 0
        together = self._cuts(max(batch_size, TOGETHER_ROWS))
        batches = (batch for ab in together for batch in made(ab))
        for batch, (a, b) in zip(batches, self._cuts(batch_size), strict=True):
            wanted = exact_output(self.clicks, a, b, self.seed)
            furthest = max(furthest, check_batch(names.OURS, batch, wanted))
        return (
            f"{names.OURS}, {names.batches(batch_size)}: ids, lengths and labels of {self.clicks.rows} rows equal "
            f"NumPy's XXH64, dense within {furthest} ulp of float64"
        )

    def _check(self, batch_size: int) -> list[str]:
        clicks, (a, b) = self.clicks, self._cuts(batch_size)[0]
        found, wanted = [self._check_ours(batch_size)], exact_output(clicks, a, b, self.seed)
        if self.index_dtype == "int64":
            one_shot: Batch = ig.transform(clicks.arrow().slice(a, b - a), click_recipe(self.seed))
            check_batch("ig.transform", one_shot, wanted)
            found.append("ig.transform: the first batch equals Program's")
        out = Output.empty(b - a, self.index_dtype)
        NumpyTransform(self.seed).run(clicks, a, b, out)
        distance = check_dense("NumPy", out.dense, wanted.dense, PEER_MAX_ULP)
        found.append(f"NumPy: dense of the first batch within {distance} ulp of float64")
        frame = _polars_frame(clicks.arrow())[a:b].select(_polars_expressions(self.index_dtype))
        if frame.null_count().sum_horizontal().item():
            raise CheckError("Polars: expected no nulls in its output, found some")
        distance = check_dense("Polars", frame.select(DENSE).to_numpy(), wanted.dense, PEER_MAX_ULP)
        ids = frame.select(SPARSE).to_numpy().T
        check_id_ranges("Polars", ids, clicks.missing[len(DENSE) :, a:b])
        found.append(f"Polars: dense of the first batch within {distance} ulp of float64, ids in range, missing are 0")
        return found


def _each(run: Callable[[T], object], parts: list[T]) -> Callable[[], None]:
    """Return a pass over all parts; what each gives is let go at once, so that warm memory can be used again."""

    def run_all() -> None:
        for part in parts:
            run(part)

    return run_all


def _polars_frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.rechunk()


def _polars_expressions(index_dtype: str) -> list[pl.Expr]:
    """The fastest of the forms that were tried (others took up to 2.4 times as long)."""
    dense = [(pl.col(name).fill_null(0).clip(0).cast(pl.Float32) + 1).log() for name in DENSE]
    zero = pl.lit(0, pl.UInt64)
    sparse = [
        pl.when(pl.col(name).is_null()).then(zero).otherwise(pl.col(name).hash(i) % (NUM_BUCKETS - 1) + 1).alias(name)
        for i, name in enumerate(SPARSE)
    ]
    typed = [x.reinterpret(signed=True) if index_dtype == "int64" else x.cast(pl.Int32) for x in sparse]
    return [pl.col("label").cast(pl.Float32), *dense, *typed]
