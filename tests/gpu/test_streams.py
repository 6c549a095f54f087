"""Slots, streams and memory that are used again and again, with a consumer on a stream of its own: no bit is lost."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from bench import gpu_launches
from intune_gpu.core.columns import Addresses
from intune_gpu.engine.gpu.staging import Ring
from intune_gpu.kernels import hashing_cuda
from intune_gpu.kernels.launching import THREADS, grid
from tests.devices import HostDevice
from tests.gpu import values
from tests.gpu.conftest import consumer


def test_slots_used_thousands_of_times(kind, device, size):
    """What each slot held reaches its own batch, however late the device copies, and whoever reads it."""
    ring, draw = Ring(device, 3), random.Random(0)
    numbers = size(64, 1 << 18)
    sums, wanted = [], []
    with consumer(kind):
        for turn in range(size(200, 4000)):
            count = draw.randrange(numbers // 2, numbers)
            slot = ring.take(4 * count)
            slot.host[: 4 * count].view(torch.int32).fill_(turn)
            out = device.empty(4 * count).view(torch.int32)
            device.copy(slot.there[: 4 * count], slot.host[: 4 * count])
            there = slot.there[: 4 * count].view(torch.int32)
            device.transform(lambda out=out, there=there: out.copy_(there).mul_(3))
            mark = device.mark()
            ring.give_back(slot, mark)
            mark.before_current_stream()
            sums.append((out == 3 * turn).sum())
            wanted.append(count)
            device.used_by_current_stream(out)
            del out, there  # its memory is another batch's now, behind what the consumer was given
        found = [int(one) for one in sums]
    assert found == wanted


def test_a_batch_outlives_what_it_was_made_of(kind, device, size, rng):
    """`record_stream`: a consumer that is far behind reads what it was given, although the memory was let go."""
    rows = size(301, 1 << 20)
    columns = {"a": values.column(rng, "int32", rows)}
    table = Addresses.of(columns)
    part = gpu_launches.ids("hash", device, table, gpu_launches.hashed("int32", "a", 0, 1000, 0))
    launches = gpu_launches.Launches(device, columns, rows, [part], features=1)
    expected = launches.taken_over().values.clone()
    if kind == "cuda":
        torch.cuda.synchronize()  # the clone was made on another stream than the consumer's
    wrong = []
    with consumer(kind):
        for _ in range(size(20, 500)):
            made = launches._outputs()
            launches.flight.outputs = made
            launches.launch()
            mark = device.mark()
            mark.before_current_stream()
            if kind == "cuda":
                torch.cuda._sleep(200_000)  # cycles: some 0.1 ms, so that the consumer lags
            wrong.append((made.values != expected).sum())
            device.used_by_current_stream(made.values)
            launches.flight.outputs = None
            del made
        assert sum(int(one) for one in wrong) == 0


@pytest.mark.parametrize("kind", [pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_launcher_does_what_numbas_launch_does(kind, device, rng):
    rows = 100_003
    columns = {"a": values.column(rng, "int64", rows)}
    table = Addresses.of(columns)
    part = gpu_launches.ids("hash", device, table, gpu_launches.hashed("int64", "a", 0, 10**6, 9))
    launches = gpu_launches.Launches(device, columns, rows, [part], features=1)
    ours = launches.launched().values.clone()
    out, flight = torch.zeros(rows, dtype=torch.int64, device=device.where), launches.flight
    arguments = part._constants.address, flight.entries, rows, out.data_ptr(), flight.address((part, "plain"))
    typed = [*(np.int64(a) for a in arguments), np.int64(0), np.int64(0)]
    torch.cuda.synchronize()
    hashing_cuda.HASH_INTS.cuda[grid(hashing_cuda.HASH_INTS, rows, 1), THREADS](*typed)
    torch.cuda.synchronize()
    assert torch.equal(ours, out)


@pytest.mark.parametrize("kind", [pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_refused_launch_is_said(kind, device):
    arguments = tuple(np.int64(0) for _ in range(7))
    with pytest.raises(RuntimeError, match="kernel hash_ints: the CUDA driver refused the launch"):
        device._launcher.launch(hashing_cuda.HASH_INTS, (1, 1), 5000, arguments)  # more threads than a block can have


def test_memory_is_aligned_and_page_locked(kind, device):
    for nbytes in (1, 257, 5000):
        there, host = device.empty(nbytes), device.pinned(nbytes)
        assert (there.nbytes, host.nbytes) == (nbytes, nbytes)
        assert there.data_ptr() % 256 == host.data_ptr() % 256 == 0  # pack_cpu and 16-byte accesses count on it
        assert host.is_pinned() == (kind == "cuda")


class Recycling(HostDevice):
    """Hands memory out again as torch does: when it was let go, though work that was given before may still read it."""

    let_go: torch.Tensor | None = None

    def empty(self, nbytes):
        memory, self.let_go = self.let_go, None
        return super().empty(nbytes) if memory is None else memory[:nbytes]


@pytest.mark.parametrize("seed", range(8))
def test_a_new_slot_waits_for_work_on_the_memory_that_it_gets(seed):
    device = Recycling(seed)
    memory, seen = device.empty(1 << 20), torch.zeros(1 << 20, dtype=torch.uint8)
    memory.fill_(1)
    device.transform(lambda: seen.copy_(memory))
    device.let_go = memory
    slot = Ring(device, 2).take(1 << 20)
    assert slot.there.data_ptr() == memory.data_ptr()
    slot.host.fill_(7)
    device.copy(slot.there, slot.host)
    device.mark().wait()
    assert set(seen.tolist()) == {1}
