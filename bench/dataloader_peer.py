"""A PyTorch `DataLoader` that does the whole job: Parquet row groups over workers, pyarrow and NumPy, whole batches.

As somebody would write it who knows both: an item is a batch, so that nothing is collated; each worker has row groups
of its own and decodes each once; the transform is the NumPy peer's, into the tensors' own memory; the tensors come over
in shared memory. Ids are those of our hash, so that batches can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bench.clicks import DENSE, SPARSE, clicks_from_arrow
from bench.numpy_peer import NumpyTransform, Output

Item = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""dense (B, 13) float32, ids (26, B) int64, label (B,) float32."""


class RowGroups(IterableDataset[Item]):
    """The batches of a worker's row groups of a Parquet file, or of all files of a folder, with int32 ids.

    Args:
        path: of the file or folder.
        batch_size: rows of a batch; the last one of a row group may have fewer.
        seed: of the recipe, for its hashes.
    """

    def __init__(self, path: str, batch_size: int, seed: int) -> None:
        self._paths = sorted(map(str, Path(path).glob("*.parquet"))) if Path(path).is_dir() else [path]
        self._batch_size, self._seed = batch_size, seed

    def __iter__(self) -> Iterator[Item]:
        """Yield batches."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        transform = NumpyTransform(self._seed)
        for path in self._paths:
            with pq.ParquetFile(path) as file:
                for group in range(first, file.num_row_groups, step):
                    clicks = clicks_from_arrow(file.read_row_group(group, use_threads=False))
                    for start in range(0, clicks.rows, self._batch_size):
                        yield _batch(transform, clicks, start, min(start + self._batch_size, clicks.rows))


def _batch(transform: NumpyTransform, clicks: Any, start: int, stop: int) -> Item:
    rows = stop - start
    tensors = (
        torch.empty(rows, len(DENSE)),
        torch.empty(len(SPARSE), rows, dtype=torch.int64),
        torch.empty(rows),
    )
    transform.run(clicks, start, stop, Output(*(tensor.numpy() for tensor in tensors)))
    return tensors


def loader(path: str, batch_size: int, seed: int, workers: int) -> DataLoader[Item]:
    """Return a `DataLoader` whose workers stay for the next epoch; each uses one core."""
    return DataLoader(
        RowGroups(path, batch_size, seed),
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )


def check(found: list[Item], wanted: list[Item], max_ulp: int) -> int:
    """Compare the batches of an epoch, whatever their order; return the distance of dense values in ulp.

    Raises:
        CheckError: they differ.
    """
    from bench.checks import check_dense, check_equal

    keys = [[_key(item) for item in items] for items in (found, wanted)]
    check_equal("DataLoader", "ids and labels of batches", np.array(sorted(keys[0])), np.array(sorted(keys[1])))
    dense = dict(zip(keys[1], (item[0] for item in wanted), strict=True))
    pairs = zip(keys[0], (item[0] for item in found), strict=True)
    return max(check_dense("DataLoader", mine.numpy(), dense[key].numpy(), max_ulp) for key, mine in pairs)


def _key(item: Item) -> str:
    from hashlib import blake2b

    digest = blake2b(digest_size=16)
    for tensor in item[1:]:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
