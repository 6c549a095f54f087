"""How the stages of a running loader are doing: clocks, and one frozen picture of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """What a loader has done since it was made, and what it holds now. Times of several workers add up.

    Attributes:
        rows: physical rows given out, bad ones included.
        batches: batches given out.
        bad_rows: bad rows left out of them.
        elapsed_s: time from the first request of each epoch to its last batch, or to now.
        rows_per_s: `rows / elapsed_s`.
        exposed_wait_s: time in which the consumer stood waiting for a batch.
        exposed_wait_pct: its share of `elapsed_s`.
        read_rows: rows decoded and put in order.
        read_busy_s: time readers spent decoding and ordering.
        read_wait_s: time readers stood waiting for room in the budget, or for a stream's turn.
        transform_rows: rows transformed.
        transform_busy_s: time transformers spent gathering and transforming.
        transform_wait_s: time transformers stood waiting for rows, or for room in the budget.
        readers: reader threads that run now.
        transformers: transformer threads that run now.
        ready_batches: finished batches that nobody has taken.
        ready_windows: windows that are decoded and not used up.
        in_flight_bytes: decoded rows, what workers need, batches in the making and finished ones, idle memory.
        prefetch_bytes: the budget for them.
        queue_fill_pct: `in_flight_bytes` as a share of the budget.
        peak_in_flight_bytes: the most that was in flight.
        gpu_transform_s: time of the GPU's transform stream, from the first to the last work of each batch and of each
            chunk of text, by CUDA events; None where batches stay in host memory.
        gpu_copy_s: time of its copy stream, likewise.
    """

    rows: int = 0
    batches: int = 0
    bad_rows: int = 0
    elapsed_s: float = 0.0
    rows_per_s: float = 0.0
    exposed_wait_s: float = 0.0
    exposed_wait_pct: float = 0.0
    read_rows: int = 0
    read_busy_s: float = 0.0
    read_wait_s: float = 0.0
    transform_rows: int = 0
    transform_busy_s: float = 0.0
    transform_wait_s: float = 0.0
    readers: int = 0
    transformers: int = 0
    ready_batches: int = 0
    ready_windows: int = 0
    in_flight_bytes: int = 0
    prefetch_bytes: int = 0
    queue_fill_pct: float = 0.0
    peak_in_flight_bytes: int = 0
    gpu_transform_s: float | None = None
    gpu_copy_s: float | None = None


@dataclass(frozen=True, slots=True)
class Gauges:
    """What runs and what is held at one moment; named as in `LoaderStats`."""

    readers: int = 0
    transformers: int = 0
    ready_batches: int = 0
    ready_windows: int = 0
    in_flight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """How long the streams of a device worked; named as in `LoaderStats`, and None where there is no device."""

    gpu_transform_s: float | None = None
    gpu_copy_s: float | None = None


NO_STREAMS = StreamTimes()


@dataclass(slots=True)
class StageClock:
    """Sums over all workers of one stage; whoever adds holds the pipeline's lock."""

    rows: int = 0
    busy_s: float = 0.0
    wait_s: float = 0.0


@dataclass(slots=True)
class Clocks:
    """Everything that a loader counts; it outlives the epochs.

    Attributes:
        waiting_since_s: when the wait began in which the consumer stands, on `perf_counter`; None while it does not.
            Its thread sets it to None before it adds the wait, so that nobody counts one twice.
    """

    read: StageClock = field(default_factory=StageClock)
    transform: StageClock = field(default_factory=StageClock)
    rows: int = 0
    batches: int = 0
    bad_rows: int = 0
    elapsed_s: float = 0.0
    exposed_wait_s: float = 0.0
    peak_in_flight_bytes: int = 0
    waiting_since_s: float | None = None

    def picture(self, gauges: Gauges, prefetch_bytes: int, streams: StreamTimes = NO_STREAMS) -> LoaderStats:
        """Return these sums and what is held now as one frozen value."""
        elapsed, waited, since = self.elapsed_s, self.exposed_wait_s, self.waiting_since_s
        waits = 0.0 if since is None else max(0.0, perf_counter() - since)
        elapsed, waited = elapsed + waits, waited + waits
        return LoaderStats(
            rows=self.rows,
            batches=self.batches,
            bad_rows=self.bad_rows,
            elapsed_s=elapsed,
            rows_per_s=self.rows / elapsed if elapsed else 0.0,
            exposed_wait_s=waited,
            exposed_wait_pct=100.0 * waited / elapsed if elapsed else 0.0,
            read_rows=self.read.rows,
            read_busy_s=self.read.busy_s,
            read_wait_s=self.read.wait_s,
            transform_rows=self.transform.rows,
            transform_busy_s=self.transform.busy_s,
            transform_wait_s=self.transform.wait_s,
            readers=gauges.readers,
            transformers=gauges.transformers,
            ready_batches=gauges.ready_batches,
            ready_windows=gauges.ready_windows,
            in_flight_bytes=gauges.in_flight_bytes,
            prefetch_bytes=prefetch_bytes,
            queue_fill_pct=100.0 * gauges.in_flight_bytes / prefetch_bytes,
            peak_in_flight_bytes=self.peak_in_flight_bytes,
            gpu_transform_s=streams.gpu_transform_s,
            gpu_copy_s=streams.gpu_copy_s,
        )
