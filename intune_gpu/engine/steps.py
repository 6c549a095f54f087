"""The steps of a worker, and the one place that each of them goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from intune_gpu.core.columns import RawBatch

R = TypeVar("R")


class Step(Protocol):
    """Does one step of a worker: by itself, `work()` and nothing else.

    It is where a fault can be put, to see what comes of it: a `Step` that raises, waits, or returns less than `work`
    did stands for whatever may go wrong in that step.

    Args:
        name: `"begin"`, `"decode"` or `"order"`, of the read stage; `"gather"` or `"transform"`, of the transform
            stage.
        number: of the chunk, in the source, or of the batch, in the run.
        work: what the step does.
    """

    def __call__(self, name: str, number: int, work: Callable[[], R]) -> R:
        """Return what `work` returns."""
        ...


def do_step(name: str, number: int, work: Callable[[], R]) -> R:
    """Do the work."""
    return work()


def check_rows(raw: RawBatch, expected: int, what: str) -> None:
    """Refuse rows that are not as many as were counted: nothing behind this looks again.

    Raises:
        RuntimeError: a column, or all of them, have more or fewer.
    """
    found = sorted({raw.rows, *(column.rows for column in raw.columns.values())})
    if found != [expected]:
        raise RuntimeError(f"expected {expected} rows in {what}, found {found}")
