"""Time on a device: by CUDA events on its transform stream, or by the wall clock until it is done."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch

from bench.harness import Engine, Sample, Spread, spread
from intune_gpu.engine.gpu.device import Device

HOST = "host memory, not a measurement"
"""What a report's `device` says where there was no GPU."""
Sampler = Callable[[Engine, int], Sample]


def is_gpu(device: Device) -> bool:
    """Whether times on it mean anything."""
    return device.where.type == "cuda"


def finish(device: Device) -> None:
    """Wait until everything is done."""
    device.mark().wait()
    if is_gpu(device):
        torch.cuda.synchronize(device.where)


def by_events(device: Device) -> Sampler:
    """Return what times engines whose work is on the transform stream; of a device in host memory, by the clock."""
    if not is_gpu(device):
        return by_clock(device)

    def sample(engine: Engine, passes: int) -> Sample:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        finish(device)
        gc.collect()
        gc.disable()
        try:
            cpu = time.process_time()
            device.transform(first.record)
            for _ in range(passes):
                engine.run()
            device.transform(last.record)
            cpu = time.process_time() - cpu
            last.synchronize()
            return {"seconds": first.elapsed_time(last) / 1e3, "cpu_seconds": cpu}
        finally:
            gc.enable()

    return sample


def by_clock(device: Device) -> Sampler:
    """Return what times engines by the wall clock, from an idle device until it is idle again."""

    def sample(engine: Engine, passes: int) -> Sample:
        finish(device)
        gc.collect()
        gc.disable()
        try:
            cpu, begin = time.process_time(), time.perf_counter()
            for _ in range(passes):
                engine.run()
            finish(device)
            return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
        finally:
            gc.enable()

    return sample


def host_us(device: Device, work: Callable[[], object], rounds: int, calls: int = 200) -> Spread:
    """Return the host's microseconds a call: the device is idle at the start, and is not waited for."""
    for _ in range(20):
        work()
    found = []
    for _ in range(rounds):
        finish(device)
        gc.collect()
        begin = time.perf_counter()
        for _ in range(calls):  # far fewer than the driver queues: it would make the host wait
            work()
        found.append((time.perf_counter() - begin) / calls * 1e6)
    finish(device)
    return spread(found)
