"""tf.data with AUTOTUNE, given its threads and its memory: its own CSV decoder and its own hash, on whole batches.

TensorFlow has no Parquet reader that is kept up (tensorflow-io ended with TensorFlow 2.16): Parquet comes through
`from_generator` and pyarrow, a generator a file, which is what its users do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from bench.peers.jobs.plain import hex_words, zeroed
from bench.peers.serving import DENSE, SPARSE, Pipeline, Spec, serve

if TYPE_CHECKING:
    from bench.peers.serving import Arrays

_RAM_BUDGET = 1 << 30
_READ_BUFFER = 4 << 20


class TFData:
    """Datasets of one process.

    Args:
        threads: of its pools, and AUTOTUNE's CPU budget.
    """

    def __init__(self, threads: int) -> None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)

    def variants(self, spec: Spec) -> dict[str, Pipeline]:
        """Return the idioms; a dataset is made once and iterated anew, as over epochs."""
        found: dict[str, Callable[[], Any]] = {}
        if spec.format == "tsv":
            found["interleaved, decoded a batch at a time"] = partial(_text, spec, True)
            found["in file order, decoded a batch at a time"] = partial(_text, spec, False)
        elif spec.format == "parquet-hex":
            found["from_generator"] = partial(_parquet, spec, _hashed_text)
        else:
            found["from_generator, ids as strings"] = partial(_parquet, spec, _hashed_as_string)
            found["from_generator, ids mixed by multiplication"] = partial(_parquet, spec, _mixed)
        return {name: partial(_iterate, _Once(make, spec)) for name, make in found.items()}

    def arrays(self, batch: Any) -> Arrays:
        """Return the parts of a batch (dense, ids, lengths, label)."""
        return batch[0], batch[1], batch[2], batch[3]

    def close(self) -> None:
        """Nothing is kept."""


_DATASETS: dict[tuple[str, tuple[str, ...]], Any] = {}


class _Once:
    """Makes a dataset the first time that it is wanted."""

    def __init__(self, make: Callable[[], Any], spec: Spec) -> None:
        self._make, self._spec = make, spec
        self._key = (str(make), tuple(spec.files))

    def get(self) -> Any:
        if self._key not in _DATASETS:
            options = tf.data.Options()
            options.autotune.enabled = True
            options.autotune.cpu_budget = self._spec.threads
            options.autotune.ram_budget = _RAM_BUDGET
            options.threading.private_threadpool_size = self._spec.threads
            options.deterministic = False
            _DATASETS[self._key] = self._make().prefetch(tf.data.AUTOTUNE).with_options(options)
        return _DATASETS[self._key]


def _iterate(dataset: _Once) -> Iterator[Any]:
    for batch in dataset.get():
        yield tuple(part.numpy() for part in batch)  # shares the tensors' memory


def _text(spec: Spec, interleaved: bool) -> Any:
    decode = partial(_decode, spec)
    if not interleaved:
        lines = tf.data.TextLineDataset(spec.files, buffer_size=_READ_BUFFER)
        return lines.batch(spec.batch_size).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return tf.data.Dataset.from_tensor_slices(spec.files).interleave(
        lambda path: tf.data.TextLineDataset(path, buffer_size=_READ_BUFFER).batch(spec.batch_size).map(decode),
        cycle_length=len(spec.files),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _decode(spec: Spec, lines: Any) -> Any:
    defaults = [tf.constant(0, tf.int32)] * (1 + len(DENSE)) + [tf.constant("", tf.string)] * len(SPARSE)
    fields = tf.io.decode_csv(lines, defaults, field_delim="\t", use_quote_delim=False)
    dense = tf.stack(fields[1 : 1 + len(DENSE)], axis=1)
    ids, lengths = _hashed_text(spec, tf.stack(fields[1 + len(DENSE) :]))
    return _dense(dense), ids, lengths, tf.cast(fields[0], tf.float32)


def _dense(integers: Any) -> Any:
    return tf.math.log1p(tf.cast(tf.maximum(integers, 0), tf.float32))


def _hashed_text(spec: Spec, words: Any) -> tuple[Any, Any]:
    """Return ids and lengths of (26, B) strings; an empty one is missing."""
    ids = tf.strings.to_hash_bucket_fast(words, spec.buckets - 1) + 1
    ids = tf.where(tf.equal(words, ""), tf.zeros_like(ids), ids)
    return tf.reshape(ids, [-1]), tf.ones([tf.size(ids)], tf.int32)


def _hashed_as_string(spec: Spec, integers: Any) -> Any:
    return tf.strings.to_hash_bucket_fast(tf.strings.as_string(integers), spec.buckets - 1) + 1


def _mixed(spec: Spec, integers: Any) -> Any:
    mixed = tf.cast(integers, tf.int64) * tf.constant(-7046029254386353131, tf.int64)
    return tf.math.floormod(tf.bitwise.right_shift(mixed, tf.constant(20, tf.int64)), spec.buckets - 1) + 1


def _parquet(spec: Spec, hashing: Callable[..., Any]) -> Any:
    """Return a dataset over a generator of arrays a file; TensorFlow does the arithmetic."""
    kind = {"parquet-hex": tf.string, "parquet-lists": tf.int32}.get(spec.format, tf.int32)
    shapes = (tf.TensorSpec((None, len(DENSE)), tf.int32), tf.TensorSpec(None, kind))
    signature = (*shapes, tf.TensorSpec(None, tf.int32), tf.TensorSpec((None,), tf.int32))

    def of_file(path: Any) -> Any:
        rows = tf.data.Dataset.from_generator(partial(_arrays, spec), args=(path,), output_signature=signature)
        return rows.map(finish)

    def finish(dense: Any, ids: Any, lengths: Any, label: Any) -> Any:
        floats = _dense(dense), tf.cast(label, tf.float32)
        if spec.format == "parquet-hex":
            return floats[0], *hashing(spec, ids), floats[1]
        hashed = hashing(spec, ids)
        if spec.format == "parquet-lists":
            return floats[0], hashed, lengths, floats[1]
        hashed = tf.where(tf.cast(lengths, tf.bool), hashed, tf.zeros_like(hashed))  # here: which ones are there
        return floats[0], tf.reshape(hashed, [-1]), tf.ones([tf.size(hashed)], tf.int32), floats[1]

    return tf.data.Dataset.from_tensor_slices(spec.files).interleave(
        of_file, cycle_length=len(spec.files), num_parallel_calls=tf.data.AUTOTUNE
    )


def _arrays(spec: Spec, path: bytes) -> Iterator[tuple[Any, ...]]:
    with pq.ParquetFile(path.decode()) as file:
        for batch in file.iter_batches(spec.batch_size, use_threads=False):
            dense = np.stack([zeroed(batch.column(name)) for name in DENSE], axis=1)
            yield dense, *_ids(spec, batch), batch.column("label").to_numpy()


def _ids(spec: Spec, batch: pa.RecordBatch) -> tuple[Any, Any]:
    """Return ids as they stand, and lengths of lists, or where an integer is no null."""
    columns = [batch.column(name) for name in SPARSE]
    if spec.format == "parquet-hex":
        return np.stack([hex_words(column) for column in columns]), np.zeros(0, np.int32)
    if spec.format == "parquet-lists":
        lengths = np.concatenate([np.diff(column.offsets.to_numpy()) for column in columns])
        return np.concatenate([column.flatten().to_numpy() for column in columns]), lengths
    there = np.stack([column.is_valid().to_numpy(zero_copy_only=False) for column in columns])
    return np.stack([zeroed(column) for column in columns]), there.astype(np.int32)


if __name__ == "__main__":
    serve(["tensorflow-cpu", "pyarrow", "numpy"], TFData)
