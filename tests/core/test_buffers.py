"""The buffer pool: memory comes back when its last user is gone, and never before."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from intune_gpu.core.buffers import ALIGNMENT, BufferPool, size_class

torch = pytest.importorskip("torch")


def test_a_buffer_comes_back_with_its_last_view() -> None:
    pool = BufferPool()
    memory = pool.take(10_000)
    address = memory.ctypes.data
    assert address % ALIGNMENT == 0
    tensor = torch.from_numpy(memory[100:200].view(np.float32))
    part = tensor[3:4]
    del memory, tensor
    gc.collect()
    assert pool.free_bytes == 0, "a slice of a tensor still uses it"
    del part
    gc.collect()
    assert pool.free_bytes == size_class(10_000)
    assert pool.take(9_990).ctypes.data == address


def test_two_users_never_share() -> None:
    pool = BufferPool()
    kept = [pool.take(5000) for _ in range(50)]
    for number, memory in enumerate(kept):
        memory[:] = number
    assert all((memory == number).all() for number, memory in enumerate(kept))


def test_idle_bytes_are_bounded() -> None:
    pool = BufferPool(max_free_bytes=3 * size_class(10_000))
    kept = [pool.take(10_000) for _ in range(10)]
    kept.clear()
    gc.collect()
    assert pool.free_bytes == 3 * size_class(10_000)


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 4097, 100_000, 3 << 20])
def test_size_classes_waste_an_eighth_at_most(nbytes: int) -> None:
    assert nbytes <= size_class(nbytes) <= max(4096, nbytes + nbytes // 8 + 4096)


def test_from_many_threads() -> None:
    pool = BufferPool()
    wrong: list[int] = []

    def use(number: int) -> None:
        for _ in range(300):
            memory = pool.take(8192)
            memory[:] = number
            if not (memory == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 < pool.free_bytes <= 8 * size_class(8192), "a thread holds one buffer while it takes the next"
