"""Runs jobs in forked children: everything is imported once, so that a process costs what its work does.

Jobs come as lines of JSON on the standard input: `kind` ("train" or "loop"), `arguments`, `folder`, `hasty`. For each
one, two lines go to the standard output: the child's pid once it runs, and its exit status once it is over. The child
works in `folder`, and writes there what it printed (`printed.txt`), where its main thread is when SIGUSR1 comes
(`where.txt`) and what was left of it (`left.json`). Where Ctrl-C is raised in a loop, it writes
that down too (`raised.txt`). Then it exits; a hasty one leaves out the interpreter's own end, which takes longer than
all of its work.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Any

import psutil
from safetensors.torch import load_file

import intune_gpu as ig
import intune_gpu.train.job
from intune_gpu.loader import Loader
from intune_gpu.train import checkpoint
from intune_gpu.train.__main__ import main
from intune_gpu.train.config import Config
from intune_gpu.train.data import load_recipe, open_data
from tests import conformance

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
ENDING_S = 5.0
"""For threads that are about to end: the signal may come while they are waited for, as where files are opened."""


def raise_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Raise Ctrl-C as Python does, and write down where: what calls Python from C may drop it."""
    Path("raised.txt").write_text("".join(traceback.format_stack(frame)))
    raise KeyboardInterrupt


def loop(data: str) -> int:
    """Read epochs until Ctrl-C, as a loop of one's own would."""
    try:
        with Loader(data, conformance.RECIPE, batch_size=16, shuffle=True, readers=3, transformers=2) as loader:
            while True:
                for _ in loader:
                    pass
    except KeyboardInterrupt:
        return 130


def loop_left_open(data: str) -> int:
    """The same without `with`: the iteration is left behind, and let go of with its loader."""
    loader = Loader(data, conformance.RECIPE, batch_size=16, shuffle=True, readers=3, transformers=2)
    try:
        while True:
            for _ in loader:
                pass
    except KeyboardInterrupt:
        return 130


def train(*arguments: str) -> int:
    """Train as the command line does."""
    return main(arguments)


def load(folder: str) -> int:
    """Take up a checkpoint with the loader of the training command, and read every tensor."""
    saved = checkpoint.read(Path(folder))
    config = Config.from_json(saved.config)
    recipe = load_recipe(config.data)
    data = open_data(config.data, recipe, config.training.seed)
    assert all(load_file(Path(folder) / name) for name in saved.tensor_files)
    options = {"batch_size": config.data.batch_size, "shuffle": config.data.shuffle, "seed": config.training.seed}
    with Loader(data.train, recipe, **options) as loader:
        loader.load_state_dict(saved.loader)
        batch = next(iter(loader))
    data.close()
    assert batch.cursor is not None
    return 0 if (batch.cursor.batches_done - 1) % len(loader) == saved.step % len(loader) else 1


JOBS: dict[str, Any] = {"load": load, "train": train, "loop": loop, "loop_left_open": loop_left_open}


def work(job: dict[str, Any]) -> int:
    """Do a job, in the child."""
    try:
        if job["kind"] in ("loop", "loop_left_open"):
            signal.signal(signal.SIGINT, raise_ctrl_c)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        code: int = JOBS[job["kind"]](*job["arguments"])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C that came just before is raised in here
    except KeyboardInterrupt:  # behind the work, or ahead of it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = 130
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    until = monotonic() + ENDING_S
    for thread in others:
        while thread.ident is None and monotonic() < until:  # Ctrl-C came while it was being started
            sleep(0.001)
        if thread.ident is not None:
            thread.join(ENDING_S)
    left = {
        "code": code,
        "threads": [t.name for t in others if t.is_alive()],
        "ended_late": [t.name for t in others],
        "children": [child.name() for child in psutil.Process().children(recursive=True)],
        "modules": sorted(sys.modules),
    }
    Path("left.writing").write_text(json.dumps(left))
    Path("left.writing").replace("left.json")  # SIGTERM may end the process in between
    if job["hasty"]:
        sys.stdout.flush()
        os._exit(code)
    return code


def serve() -> int | None:
    """Serve in the parent; in a child, return its exit code."""
    for line in sys.stdin:
        job = json.loads(line)
        if job["kind"] == "import":
            for name in job["arguments"]:
                importlib.import_module(name)
            gc.freeze()  # a child's collector would copy every page of what is imported
            print(json.dumps(len(os.listdir("/proc/self/task"))), flush=True)
            continue
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child is at work
        pid = os.fork()
        if pid == 0:
            os.chdir(job["folder"])
            printed = os.open("printed.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(printed, 1)
            os.dup2(printed, 2)
            faulthandler.enable(all_threads=True)
            where = os.open("where.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            # Of the thread that gets the signal, which is the main one: frames of threads that run cannot be walked.
            faulthandler.register(signal.SIGUSR1, file=where, all_threads=False)
            return work(job)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


if __name__ == "__main__":
    assert ig is not None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(serve())
