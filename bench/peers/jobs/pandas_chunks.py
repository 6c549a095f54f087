"""pandas and NumPy: chunks of a file, `int(x, 16) % buckets` for each id, as TorchRec's scripts for Criteo have it.

pandas uses one core: with more, a pool of processes takes the files, which is how those scripts are run over days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.peers.serving import DENSE, SPARSE, Pipeline, Spec, serve

if TYPE_CHECKING:
    from bench.peers.serving import Arrays

ReadIds = Callable[[Any], Any]
_COLUMNS = ("label", *DENSE, *SPARSE)


class Chunks:
    """Data frames of a batch each.

    Args:
        threads: processes.
    """

    def __init__(self, threads: int) -> None:
        self._pool = get_context("fork").Pool(threads) if threads > 1 else None

    def variants(self, spec: Spec) -> dict[str, Pipeline]:
        """Return the ways to read text; numbers need none."""
        ways = {"int(x, 16) of each": _each, "int(x, 16) of each distinct one": _distinct}
        if spec.format not in ("tsv", "parquet-hex"):
            return {"numbers": partial(self._batches, spec, _each)}
        return {name: partial(self._batches, spec, way) for name, way in ways.items()}

    def arrays(self, batch: Any) -> Arrays:
        """Return the parts of a batch (dense, ids, lengths, label)."""
        return batch[0], batch[1], batch[2], batch[3]

    def close(self) -> None:
        """End the pool."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()

    def _batches(self, spec: Spec, read_ids: ReadIds) -> Iterator[Any]:
        if self._pool is None:
            for path in spec.files:
                yield from (_batch(spec, frame, read_ids) for frame in _frames(spec, path))
        else:
            for batches in self._pool.imap_unordered(partial(_whole_file, spec, read_ids), spec.files):
                yield from batches


def _whole_file(spec: Spec, read_ids: ReadIds, path: str) -> list[Any]:
    return [_batch(spec, frame, read_ids) for frame in _frames(spec, path)]


def _each(column: Any) -> Any:
    return np.array([int(x, 16) for x in column.fillna("0").tolist()], np.int64)


def _distinct(column: Any) -> Any:
    codes, words = pd.factorize(column.fillna("0"))
    return np.array([int(x, 16) for x in words.tolist()], np.int64)[codes]


def _frames(spec: Spec, path: str) -> Iterator[pd.DataFrame]:
    if spec.format == "tsv":
        types = {**dict.fromkeys(DENSE, np.float32), **dict.fromkeys(SPARSE, str)}
        yield from pd.read_csv(
            path, sep="\t", names=list(_COLUMNS), dtype=types, chunksize=spec.batch_size, na_filter=True, quoting=3
        )
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(spec.batch_size):
            yield batch.to_pandas(types_mapper=_arrow_lists)


def _arrow_lists(type: pa.DataType) -> pd.ArrowDtype | None:
    """Leave lists as Arrow has them: as objects they take several times as long."""
    return pd.ArrowDtype(type) if pa.types.is_list(type) else None


def _batch(spec: Spec, frame: pd.DataFrame, read_ids: ReadIds) -> tuple[Any, ...]:
    dense = np.log1p(frame[list(DENSE)].fillna(0).clip(lower=0).to_numpy(np.float32))
    label = frame["label"].to_numpy(np.float32)
    if spec.format == "parquet-lists":
        ids = np.concatenate([frame[name].list.flatten().to_numpy(np.int64) for name in SPARSE])
        lengths = np.concatenate([frame[name].list.len().to_numpy(np.int32) for name in SPARSE])
        return dense, ids % spec.buckets, lengths, label
    if spec.format == "parquet-int":
        columns = [frame[name].fillna(0).to_numpy(np.int64) for name in SPARSE]
    else:
        columns = [read_ids(frame[name]) for name in SPARSE]
    ids = np.concatenate(columns)
    return dense, ids % spec.buckets, np.ones(len(ids), np.int32), label


if __name__ == "__main__":
    serve(["pandas", "pyarrow", "numpy"], Chunks)
