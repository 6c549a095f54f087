"""Ray Data: read, preprocess and batch in its own worker processes, batches as NumPy.

One way uses its preprocessors for the dense features; the other does the whole transform in one `map_batches` over
Arrow. Whichever is faster here is measured.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import ray
import ray.data
from ray.data.preprocessors import Concatenator, SimpleImputer

from bench.peers.jobs import plain
from bench.peers.serving import DENSE, SPARSE, Pipeline, Spec, serve

if TYPE_CHECKING:
    from bench.peers.serving import Arrays

_OBJECT_STORE_BYTES = 2 << 30


class RayData:
    """A local cluster of one node.

    Args:
        threads: CPUs of the cluster.
    """

    def __init__(self, threads: int) -> None:
        os.environ["PYTHONPATH"] = os.getcwd()  # its workers import what stands beside this file
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
        ray.init(
            num_cpus=threads,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=self._folder.name,  # the default keeps sessions for good
        )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False

    def variants(self, spec: Spec) -> dict[str, Pipeline]:
        """Return the ways to write it."""
        found: dict[str, Pipeline] = {"one map_batches": partial(self._one_step, spec)}
        if spec.format != "parquet-lists":
            found["preprocessors, then map_batches"] = partial(self._preprocessors, spec)
        return found

    def arrays(self, batch: Any) -> Arrays:
        """Return the parts of a batch (dense, ids, lengths, label)."""
        return batch[0], batch[1], batch[2], batch[3]

    def close(self) -> None:
        """End the cluster."""
        ray.shutdown()
        self._folder.cleanup()

    def _one_step(self, spec: Spec) -> Iterator[Any]:
        made = _read(spec).map_batches(partial(_transformed, spec), batch_format="pyarrow", batch_size=spec.batch_size)
        for batch in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
            for row in range(batch.num_rows):
                yield _unpacked(batch, row)

    def _preprocessors(self, spec: Spec) -> Iterator[Any]:
        filled = SimpleImputer(columns=list(DENSE), strategy="constant", fill_value=0).transform(_read(spec))
        together = Concatenator(columns=list(DENSE), output_column_name="dense", dtype=np.float32).transform(filled)
        made = together.map_batches(
            partial(_finished, spec), batch_format="pyarrow", batch_size=spec.batch_size, zero_copy_batch=True
        )
        for batch in made.iter_batches(batch_size=spec.batch_size, batch_format="numpy", prefetch_batches=2):
            ids = np.ascontiguousarray(batch["ids"].T).reshape(-1)
            yield batch["dense"], ids, np.ones(ids.size, np.int32), batch["label"]


def _read(spec: Spec) -> Any:
    if spec.format != "tsv":
        return ray.data.read_parquet(spec.files)
    types = {"label": pa.int32(), **dict.fromkeys(DENSE, pa.int32()), **dict.fromkeys(SPARSE, pa.string())}
    return ray.data.read_csv(
        spec.files,
        read_options=pyarrow.csv.ReadOptions(column_names=list(types), use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
    )


def _transformed(spec: Spec, table: pa.Table) -> pa.Table:
    """Return a batch as one row of four binaries, so that nothing takes its matrix apart again."""
    columns = {name: _whole(table, name) for name in table.column_names}
    dense = plain.dense([plain.zeroed(columns[name]) for name in DENSE])
    if spec.format == "parquet-lists":
        lists = [columns[name] for name in SPARSE]
        ids = plain.buckets(np.concatenate([each.flatten().to_numpy() for each in lists]), spec.buckets)
        lengths = np.concatenate([np.diff(each.offsets.to_numpy()) for each in lists])
    else:
        ids = np.concatenate([plain.scalar_ids(columns[name], spec.buckets) for name in SPARSE])
        lengths = np.ones(len(ids), np.int32)
    label = columns["label"].to_numpy().astype(np.float32)
    parts = {"dense": dense, "ids": ids, "lengths": lengths, "label": label}
    return pa.table({name: pa.array([part.tobytes()], pa.large_binary()) for name, part in parts.items()})


def _unpacked(table: pa.Table, row: int) -> tuple[Any, ...]:
    kinds = {"dense": np.float32, "ids": np.int64, "lengths": np.int32, "label": np.float32}
    dense, *rest = (np.frombuffer(table.column(name)[row].as_buffer(), kind) for name, kind in kinds.items())
    return dense.reshape(-1, len(DENSE)), *rest


def _finished(spec: Spec, table: pa.Table) -> dict[str, Any]:
    """Do what no preprocessor does: clip and log of the matrix, and the hash."""
    dense = _whole(table, "dense")
    matrix = (dense.storage if isinstance(dense, pa.ExtensionArray) else dense).flatten().to_numpy()
    matrix = np.log1p(np.maximum(matrix.reshape(-1, len(DENSE)), 0))
    ids = np.stack([plain.scalar_ids(_whole(table, name), spec.buckets) for name in SPARSE], axis=1)
    return {"dense": matrix, "ids": ids, "label": _whole(table, "label").to_numpy().astype(np.float32)}


def _whole(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


if __name__ == "__main__":
    serve(["ray", "pyarrow", "numpy", "pandas"], RayData)
