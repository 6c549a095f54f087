"""Fresh processes without fresh imports: a job runs in a fork of a process that has imported everything, run nothing.

Imports take seconds and say nothing of the job. A fork has the memory of its parent's imports, its own peak, its own
pools of threads, and nothing that another job left warm. A process with several threads cannot be forked safely, so
that the parent must run nothing itself, and must not import Polars, which starts its threads then.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = (
    "numpy",
    "pyarrow.parquet",
    "pyarrow.csv",
    "torch",
    "torchrec",
    "rich.console",
    "rich.table",
    "intune_gpu.engine.batch",
    "intune_gpu.engine.pipeline",
    "intune_gpu.engine.program",
    "intune_gpu.engine.transform",
    "intune_gpu.kernels.synthesis",
    "intune_gpu.sources.text_index",
    "intune_gpu.tuner.attaching",
)
"""What a job over files imports, but for Polars."""

LET_FINISH_S = 60.0
"""For which a job may keep what it has, after Ctrl-C."""
THREAD_OF_JEMALLOC = "jemalloc_bg_thd"  # pyarrow's import starts it
GET_NAME_S = 2.0
THREADS_OF_BLAS = "OPENBLAS_NUM_THREADS"


class JobError(Exception):
    """A job in a process of its own failed; the message is its last line."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        result: what it returned, through JSON.
        peak_bytes: the most memory that its process had, shared pages and imports included.
    """

    result: Any
    peak_bytes: int


def prepare(modules: Sequence[str] = MODULES) -> None:
    """Import what jobs need; call this before anything else does, since NumPy's BLAS would start its threads."""
    os.environ[THREADS_OF_BLAS] = "1"
    for module in modules:
        importlib.import_module(module)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # each process would say the same once
    _load_kernels()


def _load_kernels() -> None:
    """Make a batch of one row, without threads: Numba starts, which takes longer than most of what a tiny job does."""
    import numpy as np

    import intune_gpu as ig

    recipe = ig.recipes.criteo(1_000)
    names = ("label", *recipe.dense_names, *recipe.sparse_names)
    ig.transform({name: np.ones(1, np.int32) for name in names}, recipe)


def other_threads() -> list[str]:
    """Return the names of this process's threads but for this one and the allocator's, which minds forks itself."""
    of_task = {}
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(FileNotFoundError):  # it has ended since
            of_task[path.parent.name] = path.read_text().strip()
    own = str(threading.get_native_id())
    return [name for task, name in of_task.items() if task != own and name != THREAD_OF_JEMALLOC]


def _lasting_threads() -> list[str]:
    """Return `other_threads`, after a while for the allocator's, which gets its name only when it first runs."""
    end = time.monotonic() + GET_NAME_S
    while (found := other_threads()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def run(job: Callable[[], Any], cores: int | None = None) -> Outcome:
    """Run a job in a fork of this process, and wait for it.

    Args:
        job: returns what JSON can hold.
        cores: how many it may use; None leaves it all of them.

    Raises:
        JobError: it failed, or this process has several threads.
    """
    if others := _lasting_threads():
        raise JobError(
            f"a job: expected a process of one thread to fork, found {', '.join(others)} too; run nothing in it before"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = os.pipe()
    process = os.fork()
    with suppress(ProcessLookupError, PermissionError):  # it is over already
        os.setpgid(process, process)  # both do it, so that neither waits for the other
    if process == 0:
        os.close(ours)
        _child(job, cores, theirs)
    os.close(theirs)
    try:
        with os.fdopen(ours, "rb") as pipe:
            said = pipe.read()
        _, status, usage = os.wait4(process, 0)
    except KeyboardInterrupt:
        interrupt(process)
        raise
    if status or not said:
        raise JobError(json.loads(said)["error"] if said else _ended(os.waitstatus_to_exitcode(status)))
    return Outcome(json.loads(said)["result"], usage.ru_maxrss * 1024)


def _ended(code: int) -> str:
    return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with status {code}"


def interrupt(group: int) -> None:
    """Send Ctrl-C to a process group, and wait for its leader, our child; one that does not end is killed."""
    end = time.monotonic() + LET_FINISH_S
    with suppress(ProcessLookupError, ChildProcessError):  # it is over already
        os.killpg(group, signal.SIGINT)
        while os.waitpid(group, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.killpg(group, signal.SIGKILL)
            time.sleep(0.05)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end what runs as Ctrl-C does, so that it can clean up."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _child(job: Callable[[], Any], cores: int | None, pipe: int) -> None:
    """Run the job, write what came of it, and end without what Python does at its end: that belongs to the parent."""
    said, status = {}, 1
    try:
        if cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        said, status = {"result": job()}, 0
    except KeyboardInterrupt:
        said = {"error": "stopped by Ctrl-C"}
    except BaseException as error:
        traceback.print_exc()
        said = {"error": f"{type(error).__name__}: {error}"}
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with os.fdopen(pipe, "wb") as file:
            file.write(json.dumps(said).encode())
        os._exit(status)
