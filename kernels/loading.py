"""Kernels are compiled, or loaded from disk, outside the main thread: there a Ctrl-C can be lost.

LLVM calls Python back while it makes code, and llvmlite frees what it held in `__del__`. Python raises a Ctrl-C between
two instructions of whatever the main thread is at, and drops what is raised in these two places. So the main thread
only waits meanwhile, which Ctrl-C ends.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock

LOOK_S = 0.2
"""How long the main thread waits in one go."""


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a kernel as `numba.njit(**options)` does; its first call for a signature leaves the main thread.

    Later calls never come here: Numba's dispatcher finds their code in C.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        kernel = numba.njit(**options)(function)
        compile_here = kernel.compile

        def compile_apart(signature: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return compile_here(signature)
            if global_compiler_lock.is_locked():  # by this thread: another function that calls this one is compiled
                return compile_here(signature)
            executor = ThreadPoolExecutor(1, thread_name_prefix="intune-compile")
            compiled = executor.submit(compile_here, signature)
            executor.shutdown(wait=False)  # its thread ends behind this one task
            over: queue.SimpleQueue[Any] = queue.SimpleQueue()
            compiled.add_done_callback(over.put)
            while not compiled.done():  # `intune_gpu.core.threads` says why not simply for its result
                with suppress(queue.Empty):
                    over.get(timeout=LOOK_S)
            return compiled.result()

        kernel.compile = compile_apart
        return kernel

    return decorate
