"""Kernels are compiled, or loaded from disk, outside the main thread: there a Ctrl-C can be lost.

LLVM calls Python back while it makes code, and llvmlite frees what it held in `__del__`. Python raises a Ctrl-C between
two instructions of whatever the main thread is at, and drops what is raised in these two places. So the main thread
only waits meanwhile, which Ctrl-C ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock


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
            return compiled.result()

        kernel.compile = compile_apart
        return kernel

    return decorate
