"""Polars: a lazy scan, one select with its own hash, batches out of its streaming engine.

The expressions are the fastest of the forms that were tried in the suite `cpu`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from bench.peers.jobs.jagged import arrays, jagged, ones
from bench.peers.serving import DENSE, SPARSE, Pipeline, Spec, serve

if TYPE_CHECKING:
    from bench.peers.serving import Arrays

_SLICES = 16


class Lazy:
    """A lazy frame over all files, in as many threads as POLARS_MAX_THREADS says.

    Args:
        threads: cores that it has.
    """

    def __init__(self, threads: int) -> None:
        if pl.thread_pool_size() != threads:
            raise RuntimeError(f"Polars: expected {threads} threads, found {pl.thread_pool_size()}")

    def variants(self, spec: Spec) -> dict[str, Pipeline]:
        """Return the ways to get batches out of a query."""
        return {
            "collect_batches": partial(self._streamed, spec, True),
            "collect_batches, any order": partial(self._streamed, spec, False),
            "collect by file": partial(self._collected, spec),
        }

    def arrays(self, batch: Any) -> Arrays:
        """Return the parts of a batch (dense, KeyedJaggedTensor, label)."""
        return arrays(batch)

    def close(self) -> None:
        """Nothing is kept."""

    def _streamed(self, spec: Spec, in_order: bool) -> Iterator[Any]:
        frames = _query(spec.files, spec).collect_batches(
            chunk_size=spec.batch_size, maintain_order=in_order, engine="streaming"
        )
        for frame in frames:  # each has at most chunk_size rows
            yield _batch(frame, spec)

    def _collected(self, spec: Spec) -> Iterator[Any]:
        for path in spec.files:
            frame = _query([path], spec).collect(engine="streaming").rechunk()
            for a in range(0, len(frame), spec.batch_size):
                yield _batch(frame[a : a + spec.batch_size], spec)


def _query(files: list[str], spec: Spec) -> pl.LazyFrame:
    if spec.format == "tsv":
        schema = {"label": pl.Int32, **dict.fromkeys(DENSE, pl.Int32), **dict.fromkeys(SPARSE, pl.String)}
        frame = pl.scan_csv(files, separator="\t", has_header=False, schema=schema, quote_char=None)
    else:
        frame = pl.scan_parquet(files)
    dense = [(pl.col(name).fill_null(0).clip(0).cast(pl.Float32) + 1).log() for name in DENSE]
    return frame.select(pl.col("label").cast(pl.Float32), *dense, *_ids(spec))


def _ids(spec: Spec) -> list[pl.Expr]:
    most = spec.buckets - 1
    if spec.format == "parquet-lists":
        return [
            pl.col(name).list.eval((pl.element().hash(i) % most + 1).reinterpret(signed=True))
            for i, name in enumerate(SPARSE)
        ]
    zero = pl.lit(0, pl.UInt64)
    return [
        pl.when(pl.col(name).is_null())
        .then(zero)
        .otherwise(pl.col(name).hash(i) % most + 1)
        .reinterpret(signed=True)
        .alias(name)
        for i, name in enumerate(SPARSE)
    ]


def _batch(frame: pl.DataFrame, spec: Spec) -> Any:
    dense = torch.from_numpy(frame.select(DENSE).to_numpy(order="c"))
    label = torch.from_numpy(frame["label"].to_numpy(writable=True))
    if spec.format != "parquet-lists":
        ids = frame.select(SPARSE).to_numpy(order="fortran").T.reshape(-1)  # columns one behind the other: no copy
        return dense, jagged(torch.from_numpy(ids), ones(len(frame))), label
    lists = [frame[name] for name in SPARSE]
    values = np.concatenate([each.explode(empty_as_null=False).to_numpy() for each in lists])
    lengths = np.concatenate([each.list.len().to_numpy() for each in lists]).view(np.int32)
    return dense, jagged(torch.from_numpy(values), torch.from_numpy(lengths)), label


if __name__ == "__main__":
    serve(["polars", "torch", "torchrec", "numpy"], Lazy)
