"""DALIRecIterator keeps every promise of a Loader, and gives its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import IntuneError
from intune_gpu.dali import DALIRecIterator, LastBatchPolicy
from tests import conformance


class Adapter:
    """DALI's conventions turned into a Loader's: each `for` is one epoch, and leaving it ends it."""

    def __init__(self, data: Path, drop_last: bool = False, **options: Any) -> None:
        policy = LastBatchPolicy.DROP if drop_last else LastBatchPolicy.PARTIAL
        self.iterator = DALIRecIterator(data, conformance.RECIPE, last_batch_policy=policy, **options)
        self._turn = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.iterator.end_epoch()
        self._turn += 1
        return self._epoch(self._turn)

    def _epoch(self, turn: int) -> Iterator[dict[str, Any]]:
        try:
            while True:
                if turn != self._turn:
                    raise IntuneError("closed")
                try:
                    (batch,) = next(self.iterator)
                except StopIteration:
                    return
                yield batch
        finally:
            if turn == self._turn:
                self.iterator.end_epoch()

    def __len__(self) -> int:
        return len(self.iterator)

    def __enter__(self) -> Adapter:
        return self

    def __exit__(self, *_: object) -> None:
        self.iterator.close()

    def state_dict(self, cursor: Cursor | None = None) -> dict[str, Any]:
        return self.iterator.state_dict(cursor)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iterator.load_state_dict(state)


class TestDALIRecIterator(conformance.LoaderConformance):
    def open(self, data: Path, **options: Any) -> Adapter:
        return Adapter(data, **options)

    def content(self, batch: Any) -> dict[str, np.ndarray[Any, Any]]:
        return {
            "dense": batch["dense"].numpy(),
            "label": batch["label"].numpy(),
            "values": batch["sparse"].values().numpy(),
            "lengths": batch["sparse"].lengths().numpy(),
        }
