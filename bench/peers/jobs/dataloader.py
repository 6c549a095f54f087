"""PyTorch's DataLoader over pyarrow and NumPy: workers take files or parts of them, an item is a whole batch.

The transform is the NumPy peer of the suite `cpu`, with XXH64 like ours. A worker writes each batch into one piece of
shared memory, as PyTorch's own collate function does, so that nothing is copied on the way.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from bench.clicks import clicks_from_arrow
from bench.numpy_peer import NumpyTransform, Output, Words, feature_seeds, xxh64_words
from bench.numpy_text import parse
from bench.peers.jobs.jagged import arrays, jagged, ones
from bench.peers.serving import DENSE, SPARSE, Pipeline, Spec, serve

if TYPE_CHECKING:
    from bench.peers.serving import Arrays

_WINDOW_BYTES = 16 << 20
_LIST_BLOCK = 16_384


class Workers:
    """Worker processes over files.

    Args:
        threads: cores that it has.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        torch.set_num_threads(threads)

    def variants(self, spec: Spec) -> dict[str, Pipeline]:
        """Return numbers of workers; none means that the process of the loop does the work itself."""
        counts = {0, 1} if self._threads == 1 else {self._threads - 1, self._threads}
        return {f"{count} workers": partial(self._batches, spec, count) for count in sorted(counts)}

    def arrays(self, batch: Any) -> Arrays:
        """Return the parts of a batch (dense, KeyedJaggedTensor, label)."""
        return arrays(batch)

    def close(self) -> None:
        """Nothing is kept."""

    def _batches(self, spec: Spec, workers: int) -> Iterator[tuple[Any, Any, Any]]:
        options: dict[str, Any] = {"prefetch_factor": 2} if workers else {}
        for whole, rows, ids in DataLoader(_Rows(spec), batch_size=None, num_workers=workers, **options):
            values, dense, label, lengths = _parts(whole, rows, ids)
            yield dense, jagged(values, ones(rows) if ids < 0 else lengths), label


class _Rows(IterableDataset[Any]):
    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if self._spec.format == "tsv":
            return self._text(worker, workers)
        return self._parquet(worker, workers)

    def _text(self, worker: int, workers: int) -> Iterator[Any]:
        transform = NumpyTransform(self._spec.seed)
        for path, share, of in _shares(self._spec.files, worker, workers):
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                start, stop = (_line_start(text, len(text) * part // of) for part in (share, share + 1))
                for lines in _lines(text, start, stop, self._spec.batch_size):
                    clicks = parse(lines)
                    out, item = _new(clicks.rows)
                    transform.run(clicks, 0, clicks.rows, out)
                    yield item

    def _parquet(self, worker: int, workers: int) -> Iterator[Any]:
        rows = _lists if self._spec.format == "parquet-lists" else _scalars
        for path, share, of in _shares(self._spec.files, worker, workers):
            with pq.ParquetFile(path) as file:
                groups = file.num_row_groups
                for group in range(groups * share // of, groups * (share + 1) // of):
                    yield from rows(file.read_row_group(group, use_threads=False), self._spec)


def _scalars(table: pa.Table, spec: Spec) -> Iterator[Any]:
    clicks, transform = clicks_from_arrow(table), NumpyTransform(spec.seed)
    for a in range(0, clicks.rows, spec.batch_size):
        b = min(a + spec.batch_size, clicks.rows)
        out, item = _new(b - a)
        transform.run(clicks, a, b, out)
        yield item


def _lists(table: pa.Table, spec: Spec) -> Iterator[Any]:
    columns = [table.column(name).combine_chunks() for name in SPARSE]
    offsets = [column.offsets.to_numpy() for column in columns]
    values = [column.values.to_numpy() for column in columns]
    integers = [table.column(name).combine_chunks() for name in DENSE]
    missing = np.stack([column.is_null().to_numpy(zero_copy_only=False) for column in integers])
    dense = [np.frombuffer(column.buffers()[1], np.int32, len(column), column.offset * 4) for column in integers]
    label, transform = table.column("label").to_numpy(), NumpyTransform(spec.seed)
    seeds = feature_seeds(spec.seed)[:, None]
    for a in range(0, len(label), spec.batch_size):
        b = min(a + spec.batch_size, len(label))
        cuts = [(int(each[a]), int(each[b])) for each in offsets]
        item = _memory(b - a, sum(stop - start for start, stop in cuts))
        ids, out, labels, lengths = (part.numpy() for part in _parts(*item))
        transform.dense(dense, missing, a, b, out)
        labels[:] = label[a:b]
        for each, found in zip(offsets, lengths.reshape(len(SPARSE), b - a), strict=True):
            np.subtract(each[a + 1 : b + 1], each[a:b], out=found)
        words, at = ids.view(np.uint64), 0
        for seed, (start, stop), each in zip(seeds, cuts, values, strict=True):
            _hash(each[start:stop], seed, spec.buckets, words[at : at + stop - start])
            at += stop - start
        yield item


def _hash(values: npt.NDArray[np.int32], seed: Words, buckets: int, out: Words) -> None:
    """Put integers of one feature into buckets, in blocks that fit the cache."""
    scratch = np.empty(_LIST_BLOCK, np.uint64)
    for a in range(0, len(values), _LIST_BLOCK):
        piece = values[a : a + _LIST_BLOCK]
        block = out[a : a + len(piece)]
        np.copyto(block, piece, casting="unsafe")
        xxh64_words(block, seed, scratch[: len(piece)])
        block >>= np.uint64(32)
        block *= np.uint64(buckets - 1)
        block >>= np.uint64(32)
        block += np.uint64(1)


def _new(rows: int) -> tuple[Output, tuple[torch.Tensor, int, int]]:
    """Return a batch of one id a feature, and its memory as a worker sends it."""
    item = _memory(rows, -1)
    ids, dense, label, _ = _parts(*item)
    return Output(dense.numpy(), ids.numpy().reshape(len(SPARSE), rows), label.numpy()), item


def _memory(rows: int, ids: int) -> tuple[torch.Tensor, int, int]:
    """Return a batch's memory in one piece, with its rows and the ids of its lists, or -1."""
    size = sum(_sizes(rows, ids))
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8), rows, ids
    # As torch.utils.data's default_collate does in a worker.
    shared = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(shared), rows, ids


def _sizes(rows: int, ids: int) -> list[int]:
    of_ids = len(SPARSE) * rows if ids < 0 else ids
    return [8 * of_ids, 4 * len(DENSE) * rows, 4 * rows, 0 if ids < 0 else 4 * len(SPARSE) * rows]


def _parts(whole: torch.Tensor, rows: int, ids: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what stands in a batch's memory: ids, dense, label, lengths."""
    values, dense, label, lengths = torch.split(whole, _sizes(rows, ids))
    floats = dense.view(torch.float32).view(rows, len(DENSE))
    return values.view(torch.int64), floats, label.view(torch.float32), lengths.view(torch.int32)


def _shares(files: list[str], worker: int, workers: int) -> Iterator[tuple[str, int, int]]:
    """Yield what a worker reads: whole files where they can be dealt out evenly, else its part of each."""
    if len(files) % workers == 0:
        yield from ((path, 0, 1) for path in files[worker::workers])
    else:
        yield from ((path, worker, workers) for path in files)


def _line_start(text: mmap.mmap, at: int) -> int:
    """Return the start of the first line that begins at a byte or behind it."""
    if at == 0:
        return 0
    end = text.find(b"\n", at - 1)
    return len(text) if end < 0 else end + 1


def _lines(text: mmap.mmap, start: int, stop: int, rows: int) -> Iterator[bytes]:
    """Yield runs of whole lines."""
    begin, seen = start, 0
    for at in range(start, stop, _WINDOW_BYTES):
        window = np.frombuffer(text[at : min(at + _WINDOW_BYTES, stop)], np.uint8)
        ends = np.flatnonzero(window == ord("\n")) + at + 1
        for end in ends[rows - seen - 1 :: rows]:
            yield text[begin : int(end)]
            begin = int(end)
        seen = (seen + len(ends)) % rows
    if begin < stop:
        yield text[begin:stop]


if __name__ == "__main__":
    serve(["torch", "torchrec", "pyarrow", "numpy"], Workers)
