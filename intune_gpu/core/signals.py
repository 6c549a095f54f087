"""One timed sample of what is happening. A field that the machine cannot give is None, never invented."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageSignals:
    """What the workers of one stage did in the sample's span. Times of several workers add up.

    Attributes:
        rows: rows that went through.
        busy_s: time spent at work, waiting for a core or for storage included.
        wait_s: time spent waiting for work, or for room in the budget.
        workers: threads that run now.
    """

    rows: int
    busy_s: float
    wait_s: float
    workers: int


@dataclass(frozen=True, slots=True)
class HostSignals:
    """The machine as this process may use it: inside a container, what its quota and its limit leave.

    Attributes:
        cores: how many it may keep busy.
        busy_cores: how many of these were busy, with anybody's work.
        process_cores: how many this process kept busy.
        memory_limit_bytes: what it may take.
        memory_available_bytes: what it may still take.
        process_rss_bytes: what it holds.
    """

    cores: float
    busy_cores: float | None = None
    process_cores: float | None = None
    memory_limit_bytes: int | None = None
    memory_available_bytes: int | None = None
    process_rss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class GpuSignals:
    """One GPU, as NVML tells it.

    Attributes:
        index: NVML's, which `CUDA_VISIBLE_DEVICES` does not change.
        sm_pct: share of the time in which any kernel ran; NVML updates it every 1/6 to 1 s.
        memory_bus_pct: share of the time in which device memory was read or written.
        memory_used_bytes: held by anybody.
        memory_free_bytes: held by nobody.
        memory_process_bytes: held by this process.
        pcie_rx_bytes_per_s: towards the GPU, over NVML's own 20 ms.
        pcie_tx_bytes_per_s: from the GPU, likewise.
        power_watts: drawn now.
        throttle_reasons: why clocks are lowered; empty if they are not.
    """

    index: int
    sm_pct: float | None = None
    memory_bus_pct: float | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_process_bytes: int | None = None
    pcie_rx_bytes_per_s: float | None = None
    pcie_tx_bytes_per_s: float | None = None
    power_watts: float | None = None
    throttle_reasons: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Signals:
    """What happened in the last `span_s` seconds of a running loader, and what it holds now.

    Attributes:
        at_s: when the sample was taken, on `time.monotonic`'s clock.
        span_s: seconds since the sample before it.
        rows: rows given out.
        rows_per_s: `rows / span_s`.
        exposed_wait_pct: share of the span in which the consumer stood waiting for a batch.
        read: the readers.
        transform: the transformers.
        ready_windows: windows that are decoded and not used up.
        ready_batches: finished batches that nobody has taken.
        in_flight_bytes: what these and everything in the making hold.
        prefetch_bytes: the budget for it.
        host: None where nothing can be said about the machine.
        gpus: those that this process may use, none without NVML.
        gpu_transform_s: seconds of the GPU's transform stream in the span, by CUDA events.
        gpu_copy_s: seconds of its copy stream, likewise.
    """

    at_s: float
    span_s: float
    rows: int
    rows_per_s: float
    exposed_wait_pct: float
    read: StageSignals
    transform: StageSignals
    ready_windows: int = 0
    ready_batches: int = 0
    in_flight_bytes: int = 0
    prefetch_bytes: int = 0
    host: HostSignals | None = None
    gpus: tuple[GpuSignals, ...] = ()
    gpu_transform_s: float | None = None
    gpu_copy_s: float | None = None
