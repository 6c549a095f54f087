"""Kernels are compiled, or loaded from disk, outside the main thread: there a Ctrl-C can be lost.

LLVM calls Python back while it makes code, and llvmlite frees what it held in `__del__`. Python raises a Ctrl-C between
two instructions of whatever the main thread is at, and drops what is raised in these two places. So the main thread
only waits meanwhile, which Ctrl-C ends.

Code is kept on disk, beside this package, or in the user's cache, or under `NUMBA_CACHE_DIR`. Numba refuses to compile
at all where it can write to none of them, and where the disk is full; here kernels run all the same.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import sigutils
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock

from intune_gpu.kernels.threads import keep_thread, results_of


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a kernel as `numba.njit(**options)` does; its first call for a signature leaves the main thread.

    Later calls never come here: Numba's dispatcher finds their code in C.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        kernel = numba.njit(**options)(function)
        compile_and_keep = kernel.compile
        if options.get("cache"):
            _keep_alone(kernel._cache)

        def compile_here(signature: Any) -> Any:
            try:
                return compile_and_keep(signature)
            except OSError:  # it was compiled, and could not be kept
                made = kernel.overloads.get(tuple(sigutils.normalize_signature(signature)[0]))
                if made is None:
                    raise
                return made.entry_point

        def compile_apart(signature: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return compile_here(signature)
            if global_compiler_lock.is_locked():  # by this thread: another function that calls this one is compiled
                return compile_here(signature)
            executor = ThreadPoolExecutor(1, "intune-compile", keep_thread)
            compiled = executor.submit(compile_here, signature)
            executor.shutdown(wait=False)  # its thread ends behind this one task
            return results_of([compiled])[0]

        kernel.compile = compile_apart
        return kernel

    return decorate


def _keep_alone(kept: Any) -> None:
    """Let one process at a time add code to a folder.

    Numba reads a function's index, takes the next free name for the new code, and writes the index. Two processes that
    compile it for two types at once take the same name, and from then on one type finds the other's code: "can't
    unbox array from PyObject into native value", in every process, until the folder is removed.
    """
    keep = kept.save_overload

    def keep_alone(signature: Any, data: Any) -> None:
        with alone(Path(kept.cache_path)):
            keep(signature, data)

    kept.save_overload = keep_alone


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here with this folder. Where there can be no lock, go on without."""
    with ExitStack() as stack:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder / "intune_gpu.lock", "ab"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            stack.callback(fcntl.flock, lock, fcntl.LOCK_UN)  # closing would leave it to a child forked meanwhile
        yield


@cache
def passing_folder() -> Path:
    """Make a folder that is there for as long as this process lives."""
    place, process = Path(tempfile.mkdtemp(prefix="intune_gpu-kernels-")), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # a fork shares it
            shutil.rmtree(place, ignore_errors=True)

    atexit.register(remove)
    return place


def _find_place() -> None:
    """Give Numba, for CUDA too, a folder for as long as this process lives, if it can write to no other."""
    try:
        FunctionCache(_find_place)
    except RuntimeError:
        os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = str(passing_folder())
        warnings.warn(
            "intune_gpu: expected a folder to keep compiled kernels in, found none that can be written to; they are "
            "compiled anew by each process, for some seconds each; set NUMBA_CACHE_DIR to a folder of yours",
            RuntimeWarning,
            stacklevel=2,
        )


_find_place()
