"""What workers cost in bytes: how many of them a budget allows, and how estimates are corrected by what was seen.

Counted are, for as long as they last:

* each window, from the moment when its first chunk is begun: estimates of its chunks, then what they turned out to be;
  shuffled, also what putting it in order takes, and a chunk that waits for that once more;
* what decoding a chunk takes besides (half decoded columns, strings as views);
* what each reader keeps from chunk to chunk (text, and the table of its fields);
* each batch in the making: rows that are copied together, what is made of them, and what that takes besides;
* the ids of a dictionary's strings, as long as its window lives;
* finished batches that nobody has taken, and page-locked memory of a GPU;
* idle memory that is kept warm. It is let go where something else needs the room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from intune_gpu.core.buffers import size_class
from intune_gpu.core.columns import STRING, ChunkInfo, Schema
from intune_gpu.core.plan import MAX_WORKERS, Plan
from intune_gpu.core.source import Source
from intune_gpu.engine.gather import PLACING_ROWS

SEEN = 16
"""Chunks and batches whose sizes are remembered: an estimate that was too small comes back after so many."""


class Seen:
    """An estimate, and the largest of the last values that were seen instead.

    Args:
        estimate: never less than this.
    """

    def __init__(self, estimate: float) -> None:
        self._estimate = estimate
        self._last: deque[float] = deque(maxlen=SEEN)
        self.value = estimate

    def add(self, value: float) -> bool:
        """Note what was seen; return whether that changes what is expected."""
        before = self.value
        self._last.append(value)
        self.value = max(self._estimate, max(self._last))
        return self.value != before


@dataclass(frozen=True, slots=True)
class Costs:
    """The most bytes that things of each kind take, as far as it is known.

    Attributes:
        window_bytes: of a window, and shuffled of the chunks that wait to be put in order.
        chunk_bytes: of a chunk that is being read.
        scratch_bytes: of reading it.
        thread_bytes: kept by a reader.
        batch_bytes: of a batch in the making.
        kept_bytes: whatever the plan.
    """

    window_bytes: int
    chunk_bytes: int
    scratch_bytes: int
    thread_bytes: int
    batch_bytes: int
    kept_bytes: int = 0

    @property
    def reader_bytes(self) -> int:
        """Bytes of a reader."""
        return self.chunk_bytes + self.scratch_bytes + self.thread_bytes

    def floor(self, readers: int, transformers: int) -> int:
        """Return the smallest budget for so many workers: one window, a chunk a reader, a batch a transformer."""
        return self.kept_bytes + self.window_bytes + readers * self.reader_bytes + transformers * self.batch_bytes

    def grown(self, growth: float, batch_bytes: int) -> Costs:
        """Return what they are where rows take `growth` times what was estimated."""
        window, chunk = int(self.window_bytes * growth), int(self.chunk_bytes * growth)
        return replace(self, window_bytes=window, chunk_bytes=chunk, batch_bytes=batch_bytes)

    def most_workers(self, prefetch_bytes: int) -> tuple[int, int]:
        """Return the most readers beside one transformer, and the most transformers beside one reader; 1 at least."""
        left = max(0, prefetch_bytes - self.floor(1, 1))
        return (
            min(MAX_WORKERS, 1 + left // max(1, self.reader_bytes)),
            min(MAX_WORKERS, 1 + left // max(1, self.batch_bytes)),
        )

    def fit(self, plan: Plan, give_up: tuple[bool, bool] = (True, True)) -> Plan:
        """Return the plan with as many of its workers as its budget allows, one of each at least.

        Both stages give up the same share of their workers; what is left of the budget goes to the readers first.

        Args:
            plan: what was asked for.
            give_up: whether (readers, transformers) may be fewer.
        """
        if self.floor(plan.readers, plan.transformers) <= plan.prefetch_bytes:
            return plan
        first = [1 if may else n for may, n in zip(give_up, (plan.readers, plan.transformers), strict=True)]
        more, each = (plan.readers - first[0], plan.transformers - first[1]), (self.reader_bytes, self.batch_bytes)
        left = max(0, plan.prefetch_bytes - self.floor(*first))
        whole = max(1, more[0] * each[0] + more[1] * each[1])
        kept = [min(n, n * left // whole) for n in more]
        left -= kept[0] * each[0] + kept[1] * each[1]
        for stage in range(2):
            extra = min(more[stage] - kept[stage], left // max(1, each[stage]))
            kept[stage] += extra
            left -= extra * each[stage]
        return replace(plan, readers=first[0] + kept[0], transformers=first[1] + kept[1])


class Budget:
    """What things cost, and what was seen of it so far. It outlives epochs; whoever uses it holds a lock.

    Args:
        costs: by estimates.
    """

    def __init__(self, costs: Costs) -> None:
        self._estimates = costs
        self._growth, self._batch = Seen(1.0), Seen(costs.batch_bytes)
        self.costs = costs

    @property
    def growth(self) -> float:
        """How many times as much as estimated rows take at present, 1 at least."""
        return self._growth.value

    @property
    def batch_bytes(self) -> int:
        """Bytes of a batch in the making."""
        return self.costs.batch_bytes

    def saw_chunk(self, ratio: float) -> None:
        """Note how many times its estimate a chunk was."""
        if self._growth.add(ratio):
            self._changed()

    def saw_batch(self, nbytes: int) -> None:
        """Note what a batch took."""
        if self._batch.add(nbytes):
            self._changed()

    def _changed(self) -> None:
        self.costs = self._estimates.grown(self._growth.value, int(self._batch.value))


def costs_of(source: Source, *, shuffle: bool, window_rows: int, batch_bytes: int, kept_bytes: int = 0) -> Costs:
    """Return what a source's chunks and windows cost at most, by their estimates.

    Args:
        source: whose.
        shuffle: whether a window is more than a chunk.
        window_rows: as for `epoch_order`.
        batch_bytes: estimate of a batch in the making.
        kept_bytes: whatever the plan.
    """
    chunks = [info for info in source.chunks if info.rows]
    chunk = max((info.nbytes for info in chunks), default=0)
    scratch = max((info.scratch_bytes for info in chunks), default=0)
    window = chunk
    if shuffle:
        rows = min(window_rows + max((info.rows for info in chunks), default=0), sum(info.rows for info in chunks))
        nbytes = _most_bytes(chunks, window_rows)
        waiting = _most_bytes(chunks, min(PLACING_ROWS, window_rows))
        window = nbytes + Ordering.of(source.schema).nbytes(rows, nbytes) + waiting
    return Costs(window, chunk, scratch, source.reader_bytes, batch_bytes, kept_bytes)


@dataclass(frozen=True, slots=True)
class Ordering:
    """What putting a shuffled window in order takes, by the types of its columns.

    Attributes:
        row_bytes: of the columns of fixed width.
        fixed: how many these are.
        nullable: how many of these may have missing values.
        ragged: columns of strings or lists.
    """

    row_bytes: int
    fixed: int
    nullable: int
    ragged: int

    @classmethod
    def of(cls, schema: Schema) -> Ordering:
        """Sort the columns of a schema."""
        fixed = [type for type in schema.values() if not type.is_list and type.physical != STRING]
        row_bytes = sum(np.dtype(type.physical).itemsize for type in fixed)
        return cls(row_bytes, len(fixed), sum(type.nullable for type in fixed), len(schema) - len(fixed))

    def nbytes(self, rows: int, window_bytes: int) -> int:
        """Return an estimate: places, a byte a value that may be missing, and what the pool's sizes are rounded up by.

        Strings and lists are copied column by column, with a number for each element, and hold on to the chunks that
        they came with.
        """
        taken = rows * (4 + self.nullable) + self.fixed * size_class(1) + rows * self.row_bytes // 8
        if not self.ragged:
            return taken
        texts = max(0, window_bytes - rows * self.row_bytes)
        return taken + rows * (8 + self.row_bytes) + min(2 * texts, 4 * texts // self.ragged)


def _most_bytes(chunks: Sequence[ChunkInfo], rows: int) -> int:
    """Return the most that chunks can hold of which all but the last have fewer than `rows` rows together.

    Which chunks share a window changes from epoch to epoch: those with the most bytes a row could, and the largest.
    """
    held = [info for info in chunks if info.rows]
    most = max((info.nbytes for info in held), default=0)
    for info in sorted(held, key=lambda i: i.nbytes / i.rows, reverse=True):
        part = min(rows, info.rows)
        most += -(-info.nbytes * part // info.rows)
        rows -= part
        if rows == 0:
            break
    return min(most, sum(info.nbytes for info in held))
