"""What a loader did since it was last asked, as signals, from batch to batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from intune_gpu.core.signals import HostSignals, Signals, StageSignals


class Totals(Protocol):
    """Sums since the loader was made, and what it holds now; named as in `LoaderStats`."""

    # fmt: off
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def exposed_wait_s(self) -> float: ...  # noqa: D102
    @property
    def read_rows(self) -> int: ...  # noqa: D102
    @property
    def read_busy_s(self) -> float: ...  # noqa: D102
    @property
    def read_wait_s(self) -> float: ...  # noqa: D102
    @property
    def transform_rows(self) -> int: ...  # noqa: D102
    @property
    def transform_busy_s(self) -> float: ...  # noqa: D102
    @property
    def transform_wait_s(self) -> float: ...  # noqa: D102
    @property
    def readers(self) -> int: ...  # noqa: D102
    @property
    def transformers(self) -> int: ...  # noqa: D102
    @property
    def ready_windows(self) -> int: ...  # noqa: D102
    @property
    def ready_batches(self) -> int: ...  # noqa: D102
    @property
    def in_flight_bytes(self) -> int: ...  # noqa: D102
    @property
    def prefetch_bytes(self) -> int: ...  # noqa: D102
    # fmt: on


class Beat(Protocol):
    """What a controller hears: signals of the time since it last listened."""

    def take(self) -> Signals:
        """Return what happened since the last call."""
        ...

    def close(self) -> None:
        """Let go of what it holds. May be called more than once."""
        ...


class Pulse:
    """Signals out of totals.

    Args:
        totals: of a running loader.
        cores: that this process may keep busy.
        clock: seconds, `time.monotonic`'s.
    """

    def __init__(self, totals: Callable[[], Totals], cores: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._totals = totals
        self._host = HostSignals(cores=cores)
        self._clock = clock
        self._last, self._at_s = totals(), clock()

    def take(self) -> Signals:
        """Return what happened since the last call, and what is held now."""
        before, now, was_s, at_s = self._last, self._totals(), self._at_s, self._clock()
        self._last, self._at_s = now, at_s
        rows, span_s = now.rows - before.rows, at_s - was_s
        read = StageSignals(
            now.read_rows - before.read_rows,
            now.read_busy_s - before.read_busy_s,
            now.read_wait_s - before.read_wait_s,
            now.readers,
        )
        transform = StageSignals(
            now.transform_rows - before.transform_rows,
            now.transform_busy_s - before.transform_busy_s,
            now.transform_wait_s - before.transform_wait_s,
            now.transformers,
        )
        return Signals(
            at_s=at_s,
            span_s=span_s,
            rows=rows,
            rows_per_s=rows / span_s if span_s > 0 else 0.0,
            exposed_wait_pct=100.0 * (now.exposed_wait_s - before.exposed_wait_s) / span_s if span_s > 0 else 0.0,
            read=read,
            transform=transform,
            ready_windows=now.ready_windows,
            ready_batches=now.ready_batches,
            in_flight_bytes=now.in_flight_bytes,
            prefetch_bytes=now.prefetch_bytes,
            host=self._host,
        )

    def close(self) -> None:
        """Nothing is held."""


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
