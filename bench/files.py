"""Text and Parquet: file → batches through `ig.Loader`, against the bare read of Polars and pyarrow, on the same cores.

The bare read is not the job: it ends with columns in memory. The whole job is there once in NumPy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import local

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

import intune_gpu as ig
from bench import names
from bench.checks import check_batch, check_equal, exact_output
from bench.clicks import DENSE, NUM_BUCKETS, SPARSE, Clicks, clicks_from_arrow
from bench.harness import Case, Engine
from bench.numpy_peer import NumpyTransform, Output
from bench.numpy_text import NumpyTextJob
from intune_gpu.sources import text_index

BATCH_SIZE = 8_192
_PIECE_ROWS = 65_536


def cases(section: str, threads: int, rows: int, seed: int, data: dict[str, str]) -> Iterator[Case]:
    """Yield the cases of "text" or "parquet"; `data` is case → path."""
    pa.set_cpu_count(threads)
    pa.set_io_thread_count(threads)
    for name, path in data.items():
        # An index of ours that was kept from another run, or that is left behind by this one, helps nobody.
        index_folder = Path(path).parent / f"index-{threads}"
        text_index.cache_folder = partial(Path, index_folder)
        job = _Job(section, path, threads, seed, index_folder)
        with ig.Loader(path, job.recipe, batch_size=BATCH_SIZE, readers=threads, transformers=threads) as open_loader:
            engines = [*job.ours(open_loader), job.polars(), job.pyarrow(), job.numpy()]
            size = {"file_bytes_per_row": Path(path).stat().st_size / rows, "batch_rows": float(BATCH_SIZE)}
            yield Case(section, name, threads, rows, engines, job.check, size)


@dataclass(frozen=True, eq=False)
class _Job:
    section: str
    path: str
    threads: int
    seed: int
    index_folder: Path

    @property
    def recipe(self) -> ig.Recipe:
        return ig.recipes.criteo(num_buckets=NUM_BUCKETS, seed=self.seed)

    def loader(self) -> ig.Loader:
        return ig.Loader(self.path, self.recipe, batch_size=BATCH_SIZE, readers=self.threads, transformers=self.threads)

    def ours(self, open_loader: ig.Loader) -> list[Engine]:
        def new_loader() -> None:
            with self.loader() as loader:
                _drain(loader)

        def first_sight() -> None:
            shutil.rmtree(self.index_folder, ignore_errors=True)
            new_loader()

        known = "; its index on disk" if self.section == "text" else ""
        engines = [Engine(names.OURS, "ours", f"a new Loader, one epoch{known}", new_loader)]
        if self.section == "text":
            engines.append(
                Engine(names.FIRST_SIGHT, "ours", "a new Loader that counts the file's rows first", first_sight)
            )
        return [*engines, Engine("next epoch", "ours", "another epoch of an open Loader", lambda: _drain(open_loader))]

    def polars(self) -> Engine:
        call = "read_csv, schema given" if self.section == "text" else "read_parquet"
        return Engine(names.POLARS, "peer", f"bare read: pl.{call}", self.read_polars)

    def pyarrow(self) -> Engine:
        call = "csv.read_csv, types given" if self.section == "text" else "parquet.read_table"
        return Engine(names.PYARROW, "peer", f"bare read: pyarrow.{call}", self.read_pyarrow)

    def numpy(self) -> Engine:
        if self.section == "text":
            run = NumpyTextJob(self.path, self.seed, self.threads).run
            return Engine("NumPy, whole job", "peer", "own parser in NumPy, then the transform's NumPy peer", run)
        note = "pyarrow's read, then the transform's NumPy peer"
        return Engine("pyarrow + NumPy, whole job", "peer", note, self._numpy_parquet())

    def read_polars(self) -> pl.DataFrame:
        if self.section != "text":
            return pl.read_parquet(self.path)
        schema = {"label": pl.Int32, **dict.fromkeys(DENSE, pl.Int32), **dict.fromkeys(SPARSE, pl.String)}
        return pl.read_csv(self.path, separator="\t", has_header=False, schema=schema, quote_char=None)

    def read_pyarrow(self) -> pa.Table:
        threaded = self.threads > 1
        if self.section != "text":
            return pq.read_table(self.path, use_threads=threaded)
        types = {"label": pa.int32(), **dict.fromkeys(DENSE, pa.int32()), **dict.fromkeys(SPARSE, pa.string())}
        return pyarrow.csv.read_csv(
            self.path,
            read_options=pyarrow.csv.ReadOptions(column_names=list(types), use_threads=threaded),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )

    def check(self) -> list[str]:
        """Compare whole tables and every batch."""
        clicks = clicks_from_arrow(self.read_pyarrow())
        _check_same(names.POLARS, clicks_from_arrow(self.read_polars().to_arrow()), clicks)
        found = [
            f"{names.POLARS} and {names.PYARROW} read the same {clicks.rows} rows, labels sum {clicks.label.sum()}"
        ]
        row = furthest = 0
        dense_sum = 0.0
        with self.loader() as loader:
            for batch in loader:
                wanted = exact_output(clicks, row, row + len(batch), self.seed)
                furthest = max(furthest, check_batch(names.OURS, batch, wanted))
                dense_sum += float(batch.dense.double().sum())
                row += len(batch)
        check_equal(names.OURS, "rows", np.array(row), np.array(clicks.rows))
        found.append(
            f"{names.OURS}: ids, lengths and labels of {row} rows equal NumPy's of {names.PYARROW}'s read, "
            f"dense within {furthest} ulp of float64, sum {dense_sum:.6g}"
        )
        if self.section == "text":
            _check_same("NumPy's parser", NumpyTextJob(self.path, self.seed, 1).columns(), clicks)
            found.append(f"NumPy's parser: the same {row} rows")
        return found

    def _numpy_parquet(self) -> Callable[[], None]:
        kept = local()

        def piece(batch: pa.RecordBatch) -> None:
            if not hasattr(kept, "transform"):
                kept.transform = NumpyTransform(self.seed)
                kept.out = Output.empty(_PIECE_ROWS, "int64")
            kept.transform.run(clicks_from_arrow(batch), 0, batch.num_rows, kept.out)

        def run() -> None:
            pieces = self.read_pyarrow().to_batches(max_chunksize=_PIECE_ROWS)
            if self.threads == 1:
                for batch in pieces:
                    piece(batch)
            else:
                with ThreadPoolExecutor(self.threads) as pool:
                    list(pool.map(piece, pieces))

        return run


def _drain(loader: ig.Loader) -> None:
    for batch in loader:
        del batch  # nothing is held, so that its memory can be used again


def _check_same(engine: str, found: Clicks, wanted: Clicks) -> None:
    check_equal(engine, "labels", found.label, wanted.label)
    check_equal(engine, "missing", found.missing, wanted.missing)
    fields = zip((*DENSE, *SPARSE), (*found.integers, *found.ids), (*wanted.integers, *wanted.ids), strict=True)
    for (name, mine, theirs), missing in zip(fields, wanted.missing, strict=True):
        check_equal(engine, name, np.where(missing, 0, mine), np.where(missing, 0, theirs))
