"""pandas and NumPy: chunks of a file, `int(x, 16) % buckets` for each id, as TorchRec's scripts for Criteo have it.

pandas uses one core: with more, a pool of processes takes the files, which is how those scripts are run over days.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from bench.peers.serving import DENSE, SPARSE, Pipeline, Spec, serve

if TYPE_CHECKING:
    from bench.peers.serving import Arrays

_COLUMNS = ("label", *DENSE, *SPARSE)


class Chunks:
    """Data frames of a batch each.

    Args:
        threads: processes.
    """

    def __init__(self, threads: int) -> None:
        self._pool = get_context("fork").Pool(threads) if threads > 1 else None

    def variants(self, spec: Spec) -> dict[str, Pipeline]:
        """Return the way that fits the number of cores."""
        return {"pool of processes" if self._pool else "one process": partial(self._batches, spec)}

    def arrays(self, batch: Any) -> Arrays:
        """Return the parts of a batch (dense, ids, lengths, label)."""
        return batch[0], batch[1], batch[2], batch[3]

    def close(self) -> None:
        """End the pool."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()

    def _batches(self, spec: Spec) -> Iterator[Any]:
        if self._pool is None:
            for path in spec.files:
                yield from (_batch(spec, frame) for frame in _frames(spec, path))
        else:
            for batches in self._pool.imap_unordered(partial(_whole_file, spec), spec.files):
                yield from batches


def _whole_file(spec: Spec, path: str) -> list[Any]:
    return [_batch(spec, frame) for frame in _frames(spec, path)]


def _frames(spec: Spec, path: str) -> Iterator[pd.DataFrame]:
    if spec.format == "tsv":
        types = {**dict.fromkeys(DENSE, np.float32), **dict.fromkeys(SPARSE, str)}
        yield from pd.read_csv(
            path, sep="\t", names=list(_COLUMNS), dtype=types, chunksize=spec.batch_size, na_filter=True, quoting=3
        )
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(spec.batch_size):
            yield batch.to_pandas()


def _batch(spec: Spec, frame: pd.DataFrame) -> tuple[Any, ...]:
    dense = np.log1p(frame[list(DENSE)].fillna(0).clip(lower=0).to_numpy(np.float32))
    label = frame["label"].to_numpy(np.float32)
    if spec.format == "parquet-lists":
        ids = np.concatenate([np.concatenate(frame[name].to_numpy()) for name in SPARSE]).astype(np.int64)
        lengths = np.concatenate([frame[name].map(len).to_numpy(np.int32) for name in SPARSE])
        return dense, ids % spec.buckets, lengths, label
    if spec.format == "parquet-int":
        columns = [frame[name].fillna(0).to_numpy(np.int64) for name in SPARSE]
    else:
        columns = [np.array([int(x, 16) for x in frame[name].fillna("0")], np.int64) for name in SPARSE]
    ids = np.concatenate(columns)
    return dense, ids % spec.buckets, np.ones(len(ids), np.int32), label


if __name__ == "__main__":
    serve(["pandas", "pyarrow", "numpy"], Chunks)
