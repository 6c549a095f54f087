"""Ctrl-C while kernels are compiled that the main thread called first; prints how many were sent and raised."""

from __future__ import annotations

import os
import signal
from threading import Timer
from time import perf_counter

import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from intune_gpu.kernels.hashing import id64_of_bytes
from intune_gpu.kernels.loading import njit

ROUNDS = 24


def call_new() -> None:
    """Call a kernel that no cache has."""
    njit()(id64_of_bytes.py_func)(np.zeros(5, np.uint8), np.uint64(1))


def raised(after_s: float) -> bool:
    """Send Ctrl-C some time into the call; return whether it was raised."""
    timer = Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        call_new()
        timer.join()  # one that comes late is raised in here
    except KeyboardInterrupt:
        return True
    finally:
        timer.join()
    return False


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    call_new()
    began = perf_counter()
    call_new()
    whole_s = perf_counter() - began
    seen = 0
    for n in range(ROUNDS):
        seen += raised(whole_s * (n + 1) / ROUNDS)
        with global_compiler_lock:  # until what was left behind is compiled
            pass
    print(ROUNDS, seen)


if __name__ == "__main__":
    main()
