"""A Loader whose batches are made inside DALI: the same order, the same bytes, the same states."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, Unpack, cast

from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import IntuneError, ResumeError
from intune_gpu.core.source import Source
from intune_gpu.dali.graph import Graph
from intune_gpu.dali.installed import check_device
from intune_gpu.dali.packing import Packed, pack
from intune_gpu.dali.stages import DeviceStage, HostStage, Stage
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.program import Program
from intune_gpu.engine.state import Transform
from intune_gpu.loader import Loader
from intune_gpu.recipe import Recipe
from intune_gpu.sources.files import Paths
from intune_gpu.tuner.policy import Policy

GROUP_ROWS = 8_192
"""Rows of small batches that DALI makes in one iteration."""


class Loading(TypedDict, total=False):
    """What `Loader` takes, and means, in the same words; what has to do with a device is not among it."""

    format: str
    columns: Sequence[str] | None
    shuffle: bool
    seed: int
    rank: int
    world_size: int
    readers: int | None
    transformers: int | None
    prefetch_bytes: int | None
    on_bad_row: str
    max_bad_fraction: float
    quarantine_dir: str | os.PathLike[str] | None
    index_dtype: str
    tuner: str | Policy | None
    decisions: str | os.PathLike[str] | None
    tuner_every_s: float


class DALILoader(Loader):
    """A `Loader` that reads, orders and packs raw rows in its own threads, and lets DALI make batches of them.

    Batches are those of `Loader`, bit for bit, in host memory or on a GPU. DALI runs ahead by `prefetch_queue_depth`
    iterations, of one batch or, in host memory, of as many as hold `GROUP_ROWS` rows. `prefetch_bytes` does not count
    them; bad rows are written when DALI takes them over, so that far ahead of the trainer.

    Args:
        data: as `Loader` takes it.
        recipe: what to compute.
        batch_size: rows of a batch.
        device_id: None for host memory, or the number of a GPU.
        drop_last: leave out a last batch of fewer rows.
        num_threads: of DALI's.
        prefetch_queue_depth: iterations that DALI has in the making or ready.
        enable_checkpointing: let DALI keep track of its state, for `checkpoint`.
        checkpoint: what `checkpoint` gave, to go on from there.
        loading: the other arguments of `Loader`.

    Raises:
        ResumeError: the checkpoint is of other data, recipe or settings, or not a checkpoint.
        DeviceError: there is no such GPU, or it cannot be used.
        MissingPackageError: the GPU needs a package that is not installed.
        RecipeError, DataError, BudgetError, ValueError: as `Loader` does.
    """

    def __init__(
        self,
        data: Paths | Source,
        recipe: Recipe,
        *,
        batch_size: int = 8192,
        device_id: int | None = None,
        drop_last: bool = False,
        num_threads: int = 1,
        prefetch_queue_depth: int = 2,
        enable_checkpointing: bool = False,
        checkpoint: bytes | None = None,
        **loading: Unpack[Loading],
    ) -> None:
        for name, count in (("num_threads", num_threads), ("prefetch_queue_depth", prefetch_queue_depth)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name}: expected at least 1, found {count!r}")
        check_device(device_id)
        self._device_id, self._slots = device_id, prefetch_queue_depth + 2
        self._graph: Graph | None = None
        self._given: Cursor | None = None
        self._turn = 0
        super().__init__(data, recipe, batch_size=batch_size, drop_last=drop_last, device="cpu", **loading)
        self._new_graph = partial(
            Graph,
            self._stage,
            group=max(1, GROUP_ROWS // batch_size) if device_id is None else 1,
            num_threads=num_threads,
            prefetch_queue_depth=prefetch_queue_depth,
            checkpointing=enable_checkpointing,
        )
        if enable_checkpointing or checkpoint is not None:
            try:
                self._graph = self._new_graph(checkpoint=checkpoint)
                if checkpoint is not None:
                    self.load_state_dict(_saved(self._graph))
            except BaseException:
                self.close()
                raise

    def __iter__(self) -> Iterator[Batch]:
        """Begin the next epoch, or go on where `load_state_dict` or a checkpoint said."""
        packed = cast(Iterator[Packed], super().__iter__())
        self._turn += 1
        return self._made(packed, self._turn)

    def __repr__(self) -> str:
        return f"DALI{super().__repr__()}"

    def state_dict(self, cursor: Cursor | None = None) -> dict[str, Any]:
        """Return plain values from which `load_state_dict` resumes, here or in a `Loader`; see there."""
        return super().state_dict(self._given if cursor is None else cursor)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next `for` go on behind the batch that a state was taken at; see `Loader.load_state_dict`."""
        super().load_state_dict(state)
        self._turn += 1
        self._given = self._cursor

    def checkpoint(self) -> bytes:
        """Return DALI's state, with that of `state_dict` in it, behind the batch that was given out last.

        Raises:
            ValueError: `enable_checkpointing` was not asked for.
        """
        if self._graph is None or not self._new_graph.keywords["checkpointing"]:
            raise ValueError("checkpoint: expected enable_checkpointing=True, found False; give it to the constructor")
        return self._graph.checkpoint(json.dumps(self.state_dict()))

    def close(self) -> None:
        """Stop all threads, DALI's too. May be called more than once."""
        super().close()
        if self._graph is not None:
            self._graph.close()
        self._graph = None

    def _transform_of(self, program: Program) -> Transform[Packed]:
        self._stage = stage = self._stage_of(program)
        return Transform(
            lambda raw: pack(raw, stage.memory),
            lambda packed: packed.buffer.nbytes,
            2 * self._batch_size * self._source.row_nbytes,
            lambda packed: packed.rows,
        )

    def _stage_of(self, program: Program) -> Stage:
        if self._device_id is None:
            return HostStage(program, self._pool)
        return DeviceStage(program, self._device_id, self._slots)

    def _made(self, packed: Iterator[Packed], turn: int) -> Iterator[Batch]:
        if self._given is None:
            self._given = self._cursor
        try:
            self._check_turn(turn)
            if self._graph is None:
                self._graph = self._new_graph()
            self._graph.begin(packed)
            while True:
                self._check_turn(turn)
                batch = self._graph.take()
                if batch is None:
                    return
                self._given = batch.cursor
                given = [batch]
                del batch
                yield given.pop()  # nothing here holds it while it is used, so that its memory can come back
        finally:
            packed.close()  # type: ignore[attr-defined]  # it is a generator

    def _check_turn(self, turn: int) -> None:
        if self._closed or turn != self._turn:
            raise IntuneError("loader: expected to be open, found closed; take batches from a new iterator")


def _saved(graph: Graph) -> dict[str, Any]:
    try:
        return dict(json.loads(graph.restored or ""))
    except (TypeError, ValueError) as error:
        raise ResumeError(
            "checkpoint: expected what DALIRecIterator.checkpoints gave, found one of another pipeline of DALI's; "
            "pass one of those"
        ) from error
