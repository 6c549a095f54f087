"""What a GPU tells of itself: its streams' times by CUDA events, and NVML's signals."""

from __future__ import annotations

import time
from dataclasses import fields

from intune_gpu.core.signals import GpuSignals
from tests.gpu.conftest import needs

nvml = needs("pynvml", "intune_gpu.telemetry.nvml")


def test_streams_tell_their_times(kind, device, size):
    """Each stream worked for longer than nothing and for no longer than there was time."""
    nbytes = size(1 << 12, 1 << 28)
    host, there = device.pinned(nbytes), device.empty(nbytes)
    assert device.times().gpu_copy_s == 0.0
    begin = time.perf_counter()
    for _ in range(size(3, 40)):
        device.copy(there, host)
        device.transform(lambda: there.add_(1))
        mark = device.mark()
    mark.wait()
    span = time.perf_counter() - begin
    times = device.times()
    print(f"{kind}: copies {times.gpu_copy_s:.4f} s, transforms {times.gpu_transform_s:.4f} s, of {span:.4f} s")
    assert 0 < times.gpu_copy_s <= size(1.0, span)
    assert 0 < times.gpu_transform_s <= size(1.0, span)


def test_nvml_tells_of_the_gpu_that_is_used(kind, device, size):
    from tests.telemetry.fake_nvml import FakeNvml, healthy  # imports pynvml

    held = device.empty(size(1, 1 << 30))
    fake = kind == "host"
    gpus = nvml.Gpus([0], FakeNvml(healthy(0)), {}) if fake else nvml.Gpus([device.where.index])
    try:
        (told,) = gpus.take()
    finally:
        gpus.close()
    print(f"{kind}: {told}; absent: {[f.name for f in fields(GpuSignals) if getattr(told, f.name) is None]}")
    assert told.memory_used_bytes >= size(1, held.nbytes)
    assert told.memory_process_bytes is None or told.memory_process_bytes >= size(1, held.nbytes)
