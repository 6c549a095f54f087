"""The buffer pool: memory comes back when its last user is gone, and never before."""

from __future__ import annotations

import _thread
import gc
import itertools
import operator
import subprocess
import sys
import threading
from collections import deque

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


def test_idle_bytes_of_all_sizes_are_bounded_when_memory_is_made() -> None:
    limit = 10 * size_class(10_000)
    pool = BufferPool(max_free_bytes=limit)
    kept = [pool.take(nbytes) for nbytes in (10_000, 20_000, 30_000) for _ in range(10)]
    kept.clear()
    pool.take(100_000)
    assert 0 < pool.free_bytes <= limit + size_class(100_000)


def test_ctrl_c_while_a_buffer_goes_back_is_not_lost() -> None:
    pool = BufferPool()
    held = [pool.take(10_000)]
    ctrl_c_then_let_go = (_thread.interrupt_main, held.clear)  # with no Python code between, which would see it first
    with pytest.raises(KeyboardInterrupt):
        deque(map(operator.call, ctrl_c_then_let_go), maxlen=0)
    assert held == []
    assert pool.free_bytes == size_class(10_000)


def test_a_buffer_comes_back_once_when_a_cycle_held_it() -> None:
    pool = BufferPool()
    cycle = [pool.take(10_000)]
    cycle.append(cycle)  # type: ignore[arg-type]
    del cycle
    gc.collect()
    assert pool.free_bytes == size_class(10_000)


def test_buffers_that_live_until_the_interpreter_ends() -> None:
    lines = (
        "import sys; from intune_gpu.core.buffers import BufferPool",
        "pool = BufferPool(); left = pool.take(5)",
        "sys.kept = [pool.take(10_000), pool.take(10)]; sys.kept.append(sys.kept)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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


def test_another_thread_may_take_a_new_size_wherever_python_allocates() -> None:
    """The collector runs at an allocation, what it calls hands over, and the pool has a size more."""
    pool, sizes = BufferPool(), itertools.count(1)

    def take_a_new_size(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            pool.take(next(sizes) * 4096)

    before = gc.get_threshold()
    gc.callbacks.append(take_a_new_size)
    gc.set_threshold(1)
    try:
        for _ in range(50):
            assert pool.free_bytes >= 0
            pool.trim(1 << 20)
    finally:
        gc.callbacks.remove(take_a_new_size)
        gc.set_threshold(*before)
    assert next(sizes) > 10
