"""Signals whose spans go from batch to batch, and several spans as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from intune_gpu.core.signals import Signals, StageSignals


class Beat(Protocol):
    """What a controller hears: signals of the time since it last listened."""

    def take(self) -> Signals:
        """Return what happened since the last call."""
        ...

    def close(self) -> None:
        """Let go of what it holds. May be called more than once."""
        ...


class Taken(Protocol):
    """Sums at the last batch that was taken; named as in `LoaderStats`."""

    # fmt: off
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def elapsed_s(self) -> float: ...  # noqa: D102
    @property
    def exposed_wait_s(self) -> float: ...  # noqa: D102
    # fmt: on


class WholeBatches:
    """Another beat's signals, whose spans go from batch to batch, so that few large batches do not look like noise.

    Args:
        beat: whose.
        taken: what a loader gave out so far.
    """

    def __init__(self, beat: Beat, taken: Callable[[], Taken]) -> None:
        self._beat, self._taken = beat, taken
        self._last = taken()

    def take(self) -> Signals:
        """Return what happened, rows and waiting from the last batch of the span before to the last one of this."""
        signals, before, now = self._beat.take(), self._last, self._taken()
        self._last = now
        rows, span_s = now.rows - before.rows, now.elapsed_s - before.elapsed_s
        if rows <= 0 or span_s <= 0:
            return replace(signals, rows=0, rows_per_s=0.0)
        waited = 100.0 * (now.exposed_wait_s - before.exposed_wait_s) / span_s
        return replace(signals, span_s=span_s, rows=rows, rows_per_s=rows / span_s, exposed_wait_pct=min(100.0, waited))

    def close(self) -> None:
        """Close the other one."""
        self._beat.close()


def together(first: Signals, second: Signals) -> Signals:
    """Return two spans that follow each other as one; what is held and what the machine says is the second's."""
    span_s, rows = first.span_s + second.span_s, first.rows + second.rows
    waited = first.exposed_wait_pct * first.span_s + second.exposed_wait_pct * second.span_s
    return replace(
        second,
        span_s=span_s,
        rows=rows,
        rows_per_s=rows / span_s if span_s > 0 else 0.0,
        exposed_wait_pct=waited / span_s if span_s > 0 else 0.0,
        read=_added(first.read, second.read),
        transform=_added(first.transform, second.transform),
        gpu_transform_s=_sum(first.gpu_transform_s, second.gpu_transform_s),
        gpu_copy_s=_sum(first.gpu_copy_s, second.gpu_copy_s),
    )


def _added(first: StageSignals, second: StageSignals) -> StageSignals:
    return StageSignals(
        first.rows + second.rows, first.busy_s + second.busy_s, first.wait_s + second.wait_s, second.workers
    )


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second
