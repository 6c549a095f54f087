"""Signals of a running loader: on request (`Telemetry`), or from a thread that takes them by the clock (`Sampler`)."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from intune_gpu.core.signals import Signals
from intune_gpu.core.threads import join_begun
from intune_gpu.telemetry.host import Host
from intune_gpu.telemetry.nvml import Gpus
from intune_gpu.telemetry.totals import Happened, Totals

JOIN_S = 5.0
"""How long closing waits for a sample: a driver that hangs must not hang the run."""


class Telemetry:
    """Tells what happened since it was asked last. May be asked from any thread; one asker sees every second once.

    Args:
        totals: what a loader did since it was made, such as `Loader.stats`.
        gpu_index: which GPUs, counted as CUDA counts them, the one that matters first; None for all that this process
            may use, () for none, and then NVML is left alone.
        host: the machine; None for this one.
        gpus: whom to ask of them; None for NVML.
        clock: seconds, never backwards.
    """

    def __init__(
        self,
        totals: Callable[[], Totals],
        gpu_index: int | Sequence[int] | None = None,
        *,
        host: Host | None = None,
        gpus: Gpus | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        wanted = (gpu_index,) if isinstance(gpu_index, int) else gpu_index
        self._totals, self._clock = totals, clock
        self._host = Host() if host is None else host
        self._gpus = Gpus(wanted) if gpus is None else gpus
        self._lock = threading.Lock()
        self._closed = False
        self._before, self._at_s = totals(), clock()

    def take(self) -> Signals:
        """Return what happened since the last call, or since the beginning, and what is held now."""
        with self._lock:
            gpus = () if self._closed else self._gpus.take()  # first: it may wait, and what it says is the oldest
            host, totals, now = self._host.take(), self._totals(), self._clock()
            did, span = Happened.between(self._before, totals), now - self._at_s
            self._before, self._at_s = totals, now
        return Signals(
            at_s=now,
            span_s=span,
            rows=did.rows,
            rows_per_s=did.rows / span if span > 0 else 0.0,
            exposed_wait_pct=min(100.0, 100.0 * did.wait_s / span) if span > 0 else 0.0,
            read=did.read,
            transform=did.transform,
            ready_windows=totals.ready_windows,
            ready_batches=totals.ready_batches,
            in_flight_bytes=totals.in_flight_bytes,
            prefetch_bytes=totals.prefetch_bytes,
            host=host,
            gpus=gpus,
            gpu_transform_s=did.gpu_transform_s,
            gpu_copy_s=did.gpu_copy_s,
        )

    def close(self) -> None:
        """Let go of NVML; samples go on without GPUs. May be called more than once."""
        if self._lock.acquire(timeout=JOIN_S):
            try:
                self._closed = True
                self._gpus.close()
            finally:
                self._lock.release()

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Sampler:
    """Takes a sample every so often, in a thread of its own, and keeps the last ones.

    Samples are due at whole multiples of `every_s` after the start, so that late ones do not put off those behind them;
    one that is due while another is taken is left out.

    Args:
        telemetry: whom to ask; closed with the sampler.
        every_s: seconds from sample to sample.
        keep: samples that are kept.
    """

    def __init__(self, telemetry: Telemetry, every_s: float = 0.5, keep: int = 600) -> None:
        if not every_s > 0 or keep < 1:
            raise ValueError(f"sampler: expected every_s above 0 and keep from 1, found {every_s!r} and {keep!r}")
        self._telemetry, self._every_s = telemetry, every_s
        self._kept: deque[Signals] = deque(maxlen=keep)
        self._fault: Exception | None = None
        self._cpu_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intune-telemetry", daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        """CPU seconds that the thread took so far."""
        return self._cpu_s

    def latest(self) -> Signals | None:
        """Return the last sample; None before the first.

        Raises:
            Exception: what ended the thread, as the loader raised it when asked for its totals.
        """
        if self._fault is not None:
            raise self._fault
        return self._kept[-1] if self._kept else None

    def history(self) -> tuple[Signals, ...]:
        """Return the samples that are kept, oldest first; they stay when the sampler is closed."""
        return tuple(self._kept)

    def close(self) -> None:
        """End the thread, and close the telemetry. May be called more than once."""
        self._stop.set()
        join_begun(self._thread, JOIN_S)
        if not self._thread.is_alive():
            self._telemetry.close()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        start, turn = time.monotonic(), 0
        while True:
            now = time.monotonic()
            turn = next_turn(turn, (now - start) / self._every_s)
            if self._stop.wait(start + turn * self._every_s - now):
                return
            try:
                self._kept.append(self._telemetry.take())
            except Exception as error:  # whatever it is, `latest` raises it
                self._fault = error
                return
            self._cpu_s = time.thread_time()


def next_turn(turn: int, periods: float) -> int:
    """Return the turn behind `turn` whose time is yet to come.

    Args:
        turn: the last one that was taken.
        periods: that have passed since the start.
    """
    return max(turn, math.floor(periods)) + 1
