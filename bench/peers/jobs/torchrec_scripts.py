"""TorchRec's own Criteo scripts as they are: `tsv_to_npys` for each file, then its in-memory pipe of batches.

Their dense values are ln(x - m + 2), m being the least integer of the file, and ids are taken modulo the buckets. A
process takes one core: with more, each takes files, as users run them over days.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrec.datasets.criteo import BinaryCriteoUtils, InMemoryBinaryCriteoIterDataPipe

from bench.peers.jobs.jagged import arrays
from bench.peers.serving import SPARSE, Pipeline, Spec, serve

if TYPE_CHECKING:
    from bench.peers.serving import Arrays

_PARTS = ("dense", "sparse", "labels")


class Scripts:
    """Text → .npy → batches.

    Args:
        threads: processes that convert.
    """

    def __init__(self, threads: int) -> None:
        self._pool = get_context("fork").Pool(threads) if threads > 1 else None

    def variants(self, spec: Spec) -> dict[str, Pipeline]:
        """Return the one way; there is none for Parquet."""
        return {"tsv_to_npys, InMemoryBinaryCriteoIterDataPipe": partial(self._batches, spec)} if _is_text(spec) else {}

    def arrays(self, batch: Any) -> Arrays:
        """Return the parts of a batch (dense, KeyedJaggedTensor, label)."""
        return arrays(batch)

    def close(self) -> None:
        """End the pool."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()

    def _batches(self, spec: Spec) -> Iterator[Any]:
        with tempfile.TemporaryDirectory(dir=spec.folder) as folder:
            paths = [[str(Path(folder) / f"{i}_{part}.npy") for part in _PARTS] for i in range(len(spec.files))]
            jobs = [(path, *out) for path, out in zip(spec.files, paths, strict=True)]
            if self._pool is None:
                for job in jobs:
                    BinaryCriteoUtils.tsv_to_npys(*job)
            else:
                self._pool.starmap(BinaryCriteoUtils.tsv_to_npys, jobs, chunksize=1)
            dense, sparse, labels = (list(each) for each in zip(*paths, strict=True))
            batches = InMemoryBinaryCriteoIterDataPipe(
                "train", dense, sparse, labels, spec.batch_size, 0, 1, hashes=[spec.buckets] * len(SPARSE)
            )
            for batch in batches:
                yield batch.dense_features, batch.sparse_features, batch.labels


def _is_text(spec: Spec) -> bool:
    return spec.format == "tsv"


if __name__ == "__main__":
    serve(["torchrec", "torch", "iopath", "numpy"], Scripts)
