"""intune_gpu: `Loader`, and `DALIRecIterator` where the first argument behind the cores is `dali`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.peers.serving import DENSE, SPARSE, Pipeline, Spec, serve

if TYPE_CHECKING:
    from bench.peers.serving import Arrays

    Batches = Iterator[tuple[Any, Any, Any]]


class Ours:
    """The recipe of the README, with the plan that a loader takes by itself.

    Args:
        way: `loader`; `first-sight`, which counts a text file's rows anew each time; or `dali`.
        threads: cores that it has.
    """

    def __init__(self, way: str, threads: int) -> None:
        self._way, self._threads = way, threads
        self._open(way)

    def variants(self, spec: Spec) -> dict[str, Pipeline]:
        """Return one way: nothing is there to tune."""
        if self._way == "first-sight" and spec.format != "tsv":
            return {}
        return {"default": partial(self._dali if self._way == "dali" else self._native, spec)}

    def arrays(self, batch: Any) -> Arrays:
        """Return the parts of a batch (dense, KeyedJaggedTensor, label)."""
        from bench.peers.jobs.jagged import arrays

        return arrays(batch)

    def close(self) -> None:
        """Nothing is kept."""

    def _open(self, way: str) -> None:
        """Import what a process of a user would have imported before its first batch."""
        from intune_gpu import Loader  # noqa: F401

        if way == "dali":
            import intune_gpu.dali  # noqa: F401

    def _recipe(self, spec: Spec) -> Any:
        import intune_gpu as ig

        if spec.format != "parquet-lists":
            return ig.recipes.criteo(num_buckets=spec.buckets, seed=spec.seed)
        return ig.Recipe(
            label="label",
            dense={name: [ig.FillMissing(0.0), ig.Clip(min=0.0), ig.Log1p()] for name in DENSE},
            sparse={name: [ig.HashBucket(spec.buckets)] for name in SPARSE},
            seed=spec.seed,
        )

    def _native(self, spec: Spec) -> Batches:
        import intune_gpu as ig

        self._index(spec)
        with ig.Loader(spec.files, self._recipe(spec), batch_size=spec.batch_size, device="cpu") as loader:
            for batch in loader:
                given = [(batch.dense, batch.sparse, batch.label)]
                del batch
                yield given.pop()  # nothing here holds it while it is used

    def _dali(self, spec: Spec) -> Batches:
        from intune_gpu.dali import DALIRecIterator

        self._index(spec)
        iterator = DALIRecIterator(spec.files, self._recipe(spec), spec.batch_size, num_threads=self._threads)
        try:
            for (data,) in iterator:
                given = [(data["dense"], data["sparse"], data["label"])]
                del data
                yield given.pop()
        finally:
            iterator.close()

    def _index(self, spec: Spec) -> None:
        """Keep the row counts of text in a folder of this run; what a user's own runs left there helps nobody."""
        from intune_gpu.sources import text_index

        folder = Path(spec.folder) / "index"
        text_index.cache_folder = partial(Path, folder)
        if self._way == "first-sight":
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    serve(["numpy"], partial(Ours, sys.argv[2]))
