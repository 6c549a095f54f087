"""The graph that DALI runs: packed rows come out of an external source, a stage makes the batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nvidia.dali import Pipeline, fn, types

from intune_gpu.core.errors import IntuneError, ResumeError, StageError
from intune_gpu.dali.packing import Bytes, Packed
from intune_gpu.dali.stages import Stage
from intune_gpu.engine.batch import Batch


class Graph:
    """One DALI pipeline, run epoch after epoch. A whole batch is one sample; one thread calls its methods.

    Args:
        stage: what makes batches, and where.
        group: samples that DALI is given at once, at most: an iteration costs it the same, whatever is in it.
        num_threads: of DALI's own.
        prefetch_queue_depth: groups that DALI has in the making or ready.
        checkpointing: whether DALI keeps track of its state, for `checkpoint`.
        checkpoint: what an earlier graph's `checkpoint` gave, to go on from there.

    Raises:
        ResumeError: that is no checkpoint of such a graph.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        group: int = 1,
        num_threads: int = 1,
        prefetch_queue_depth: int = 2,
        checkpointing: bool = False,
        checkpoint: bytes | None = None,
    ) -> None:
        # DALI holds these two where Python's collector does not look: they must not lead back to the pipeline.
        self._source, self._stage = _Source(group), stage
        self._ready: deque[int] = deque()
        self._begun = False
        self._pipeline: Any = Pipeline(
            batch_size=group,
            num_threads=num_threads,
            device_id=stage.device_id,
            prefetch_queue_depth=prefetch_queue_depth,
            exec_dynamic=True,  # only there a stream can wait for outputs in place of the host
            enable_checkpointing=checkpointing or checkpoint is not None,
            checkpoint=checkpoint,
        )
        with self._pipeline:
            raw = fn.external_source(source=self._source, no_copy=True, dtype=types.UINT8, ndim=1)
            self._pipeline.set_outputs(stage.operator(raw, self._source.ahead))
        try:
            self._pipeline.build()
        except RuntimeError as error:
            if checkpoint is None:
                raise
            raise ResumeError(
                f"checkpoint: expected what DALIRecIterator.checkpoints gave, found {len(checkpoint)} other bytes "
                f"({str(error).splitlines()[-1]}); pass one of those"
            ) from error
        self.restored: str | None = self._pipeline._iterator_data
        """What was given to `checkpoint` when the checkpoint was made that this graph began with."""

    def begin(self, batches: Iterator[Packed]) -> None:
        """Let go of what is left of an earlier epoch, and begin the next one."""
        self._drain()
        self._source.rest = batches

    def take(self) -> Batch | None:
        """Return the next batch, or None behind the last one of the epoch.

        Raises:
            StageError: the transform of this batch failed.
            IntuneError: what `batches` raised, once all before it was taken.
        """
        if not self._ready and not self._next_group():
            error = self._source.error
            self._drain()
            if error is not None:
                raise error
            return None
        number = self._ready.popleft()
        packed = self._source.ahead.pop(number)
        made = self._stage.take(number, packed)
        if isinstance(made, Exception):
            self._source.rest = None
            self._ready.clear()
            raise StageError(f"transform stage in DALI: {type(made).__name__}: {made}", stage="transform") from made
        return replace(made, cursor=packed.cursor)

    def checkpoint(self, data: str) -> bytes:
        """Return DALI's state behind the batch that was taken last, with `data` beside it."""
        return bytes(self._pipeline._get_checkpoint(iterator_data=data))

    def close(self) -> None:
        """Let go of DALI's threads and memory. May be called more than once."""
        if self._pipeline is not None:
            self._drain()
        self._pipeline = None

    def _next_group(self) -> bool:
        """Wait until a group is made, and let DALI begin another one; whether there was one."""
        if not self._begun:
            self._begun = True
            self._pipeline.schedule_run()
        if not _wait(self._pipeline, self._stage.stream()):
            return False
        self._ready.extend(self._source.groups.popleft())
        self._pipeline.schedule_run()
        return True

    def _drain(self) -> None:
        """Take what DALI has of the running epoch, so that it can begin another one."""
        self._source.rest = None
        if self._begun:
            while _wait(self._pipeline):
                self._pipeline.schedule_run()
            self._pipeline.reset()
        self._begun = False
        self._ready.clear()
        self._stage.clear()
        self._source.clear()


class _Source:
    """What DALI asks for raw rows, by their number in its epoch.

    Args:
        group: samples to give at once, at most.

    Attributes:
        rest: of the epoch; None where no more is to come.
        groups: numbers of the samples that DALI was given at once, of what was not taken.
        ahead: number → what DALI was given and nobody has taken, in order: it reads there without a copy.
        error: what ended the epoch too early.
    """

    def __init__(self, group: int) -> None:
        self.rest: Iterator[Packed] | None = None
        self.groups: deque[list[int]] = deque()
        self.ahead: dict[int, Packed] = {}
        self.error: Exception | None = None
        self._group, self._number = group, 0
        self._index: int | None = None

    def __call__(self, index: int) -> list[Bytes]:
        """Return the next samples; DALI calls it in the thread that calls `take`."""
        if self.rest is None:
            raise StopIteration
        if self._index is not None and index != self._index + 1:
            raise IntuneError(f"DALI: expected to be asked for group {self._index + 1} of the epoch, found {index}")
        numbers: list[int] = []
        samples: list[Bytes] = []
        while self.rest is not None and len(samples) < self._group:
            try:
                packed = next(self.rest)
            except StopIteration:
                self.rest = None
                break
            except Exception as error:  # DALI would drop the batches that it has: it ends behind the last one
                self.error, self.rest = error, None
                break
            self._number += 1
            self.ahead[self._number] = packed
            numbers.append(self._number)
            samples.append(packed.numbered(self._number))
        if not samples:
            raise StopIteration
        self._index = index
        self.groups.append(numbers)
        return samples

    def clear(self) -> None:
        """Forget the epoch."""
        self.ahead.clear()
        self.groups.clear()
        self.error, self._index = None, None


def _wait(pipeline: Any, stream: Any = None) -> bool:
    """Wait for the outputs of the next batch, or let a stream wait; whether there is one."""
    try:
        pipeline.outputs(stream)
    except StopIteration:
        return False
    return True
