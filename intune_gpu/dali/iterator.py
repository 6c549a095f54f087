"""DALIRecIterator: takes the place of a `DALIGenericIterator` in a training loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Unpack

from nvidia.dali.plugin.base_iterator import LastBatchPolicy

from intune_gpu.core.cursor import Cursor
from intune_gpu.core.source import Source
from intune_gpu.dali.loader import DALILoader, Loading
from intune_gpu.engine.batch import Batch
from intune_gpu.recipe import Recipe
from intune_gpu.sources.files import Paths

_AUTO_RESET = {False: False, None: False, "no": False, True: True, "yes": True}

log = logging.getLogger(__name__)


class DALIRecIterator(Iterator[list[dict[str, Any]]]):
    """Iterates over batches that DALI makes of a recipe, with the conventions of DALI's `DALIGenericIterator`.

    Each step gives a list of one dict: `dense` (B, D) float32, `sparse` a `KeyedJaggedTensor` of F keys, `label` (B,)
    float32, and `cursor`, the place behind the batch, for `state_dict`. They are those of `intune_gpu.Loader`, bit for
    bit, and stay as they are when the iterator goes on.

    At the end of an epoch it raises `StopIteration`; `reset()` or `iter()`, or by itself with `auto_reset`, it begins
    the next one. In mid-epoch `iter()` goes on where it is, and `reset()` is ignored with a warning, as in DALI.

    Args:
        source: a file, directory, glob, URL or list of these; or a `Source`, which stays open.
        recipe: what to compute.
        batch_size: rows of a batch.
        device_id: None: batches are made in host memory. Or the number of a GPU: they are made there, on DALI's stream,
            for torch's current stream.
        num_threads: of DALI's; decoding has threads of its own, see `readers`.
        prefetch_queue_depth: iterations that DALI has in the making or ready: of one batch, or in host memory of as
            many as hold 8,192 rows.
        last_batch_policy: `PARTIAL` gives a last batch of fewer rows, `DROP` leaves it out.
        auto_reset: True or `"yes"`: begin the next epoch without being asked.
        enable_checkpointing: let DALI keep track of its state, for `checkpoints`.
        checkpoint: one that `checkpoints` gave, to go on from there.
        loading: what else `Loader` takes: `format`, `columns`, `shuffle`, `seed`, `rank`, `world_size`, `readers`,
            `transformers`, `prefetch_bytes`, `on_bad_row`, `max_bad_fraction`, `quarantine_dir`, `index_dtype`.

    Raises:
        DeviceError: there is no such GPU, or it cannot be used.
        MissingPackageError: the GPU needs a package that is not installed.
        ResumeError: the checkpoint is of other data, recipe or settings, or not a checkpoint.
        ValueError: an argument is out of range, or the last batch is to be filled up.
        RecipeError, DataError, BudgetError: as `Loader` does.
    """

    def __init__(
        self,
        source: Paths | Source,
        recipe: Recipe,
        batch_size: int,
        device_id: int | None = None,
        *,
        num_threads: int = 1,
        prefetch_queue_depth: int = 2,
        last_batch_policy: LastBatchPolicy = LastBatchPolicy.PARTIAL,
        auto_reset: bool | str | None = False,
        enable_checkpointing: bool = False,
        checkpoint: bytes | None = None,
        **loading: Unpack[Loading],
    ) -> None:
        _check_policy(last_batch_policy)
        if auto_reset not in _AUTO_RESET:
            raise ValueError(f'auto_reset: expected True, False, "yes" or "no", found {auto_reset!r}')
        self.batch_size = batch_size
        self._auto_reset = _AUTO_RESET[auto_reset]
        self._checkpointing = enable_checkpointing
        self._loader = DALILoader(
            source,
            recipe,
            batch_size=batch_size,
            device_id=device_id,
            drop_last=last_batch_policy == LastBatchPolicy.DROP,
            num_threads=num_threads,
            prefetch_queue_depth=prefetch_queue_depth,
            enable_checkpointing=enable_checkpointing,
            checkpoint=checkpoint,
            **loading,
        )
        self._world_size = loading.get("world_size", 1)
        self._batches: Iterator[Batch] | None = None
        self._over = False

    def __iter__(self) -> DALIRecIterator:
        """Return itself, at the start of the next epoch if one has just ended."""
        if self._over:
            self.reset()
        return self

    def __next__(self) -> list[dict[str, Any]]:
        """Return the next batch.

        Raises:
            StopIteration: the epoch is over.
            StageError, DataError, IntuneError: as iterating over a `Loader` does, behind the last batch before it.
        """
        if self._over:
            raise StopIteration
        if self._batches is None:
            self._batches = iter(self._loader)
        try:
            batch = next(self._batches, None)
        except BaseException:
            self._batches = None  # what raised is at its end; whoever goes on gets the next epoch
            raise
        if batch is None:
            self._batches = None
            self._over = not self._auto_reset
            raise StopIteration
        return [{"dense": batch.dense, "sparse": batch.sparse, "label": batch.label, "cursor": batch.cursor}]

    def __len__(self) -> int:
        """Batches of a whole epoch for this rank."""
        return len(self._loader)

    def __enter__(self) -> DALIRecIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DALIRecIterator({self._loader!r})"

    @property
    def size(self) -> int:
        """Rows of a whole epoch for this rank, bad ones and those of a dropped batch included."""
        return self._loader.source.rows // self._world_size

    def next(self) -> list[dict[str, Any]]:
        """Return the next batch."""
        return self.__next__()

    def reset(self) -> None:
        """Begin the next epoch; in mid-epoch this is ignored with a warning, see `end_epoch`."""
        if self._batches is not None:
            log.warning("DALIRecIterator: reset() in mid-epoch is ignored, as in DALI; end_epoch() leaves an epoch")
            return
        self._over = False

    def end_epoch(self) -> None:
        """Leave the running epoch; the next batch is the first one of the next epoch."""
        batches, self._batches, self._over = self._batches, None, False
        if batches is not None:
            batches.close()  # type: ignore[attr-defined]  # it is a generator

    def checkpoints(self) -> list[bytes]:
        """Return DALI's checkpoint behind the batch that was given last, a list of one.

        Raises:
            ValueError: `enable_checkpointing` was not asked for.
        """
        return [self._loader.checkpoint()]

    def state_dict(self, cursor: Cursor | None = None) -> dict[str, Any]:
        """Return plain values that `json.dumps` takes, which `Loader.load_state_dict` takes too.

        Args:
            cursor: of the last batch that was trained; by default of the one that was given last.
        """
        return self._loader.state_dict(cursor)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the batch that a state, this iterator's or a `Loader`'s, was taken at.

        Raises:
            ResumeError: the state is of other data, recipe or settings, or not a state.
        """
        self._loader.load_state_dict(state)
        self.end_epoch()

    def close(self) -> None:
        """Stop all threads and close what was opened. May be called more than once."""
        self.end_epoch()
        self._loader.close()


def _check_policy(policy: Any) -> None:
    if policy not in (LastBatchPolicy.PARTIAL, LastBatchPolicy.DROP):
        raise ValueError(
            "last_batch_policy: expected LastBatchPolicy.PARTIAL or DROP, since a batch never holds a row twice, found "
            f"{policy!r}; take PARTIAL"
        )
