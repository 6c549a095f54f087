"""Ctrl-C and SIGTERM at random moments, and what they leave: `python -m tests.signals.trials --count 200`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Timer
from time import perf_counter, sleep
from typing import Any

import pyarrow.parquet as pq
import tyro

from intune_gpu.sources.synthetic import write_click_logs
from tests import conformance
from tests.fuzz.bulk import commit

ROWS = 2_500
FLAGS = ("--num-buckets", "200", "--batch-size", "128", "--epochs", "1", "--device", "cpu", "--checkpoint-every", "3")
RUN = ("--run-dir", "run")
HANG_S = 60.0
AGAIN_S = 20.0
"""Python swallows a Ctrl-C that comes within a `__del__`, as where a batch's memory goes back: it is sent once more."""

RESUMED_EVERY = 10
HALF_WRITTEN = ("*.partial", "*.tmp", "*.new", ".*.json*", "tmp*")
LOOPS = ("loop", "loop_left_open")


class LeftError(AssertionError):
    """A signal left something behind."""


@dataclass
class Counts:
    """What a run of trials did.

    Attributes:
        seed: of the moments and the signals.
        trials: signals sent to a training run.
        loops: Ctrl-C sent to a loop over a `Loader`.
        exits: exit codes of training, by signal; a negative one is a signal that ended it before training began.
        sent_again: signals that had to be sent a second time.
        loaded: checkpoints that the training command's own loader took up, and gave the next batch from.
        resumed: runs that went on from their last checkpoint, and ended with the weights of a run left alone.
        without_checkpoint: runs that were stopped ahead of their first one.
        ended_late: threads that were still ending when the work was over, by name.
        whole_s: how long a run takes that is left alone.
        seconds: all of it.
        commit: of the product.
        left: what was left behind that must not be: nothing.
    """

    seed: int
    trials: int = 0
    loops: int = 0
    exits: dict[str, int] = field(default_factory=dict)
    sent_again: int = 0
    loaded: int = 0
    resumed: int = 0
    without_checkpoint: int = 0
    ended_late: dict[str, int] = field(default_factory=dict)
    whole_s: float = 0.0
    seconds: float = 0.0
    commit: str = ""
    left: list[str] = field(default_factory=list)


class Server:
    """The process that forks; see `server.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.sent_again = 0

    def ask(self, **job: Any) -> int:
        """Send a job, and return the first number that comes back."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> int:
        """Return the next number."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def run(self, kind: str, folder: Path, arguments: Sequence[str], number: int = 0, after_s: float = 0.0) -> int:
        """Run a job, send it a signal after a while, and return its exit code."""
        folder.mkdir(exist_ok=True)
        (folder / "left.json").unlink(missing_ok=True)
        pid = self.ask(kind=kind, folder=str(folder), arguments=list(arguments))
        hang = Timer(HANG_S, kill, (pid, signal.SIGABRT))  # it prints where its threads are
        again = Timer(AGAIN_S + after_s, self._again, (pid, number))
        hang.start()
        if number:
            sleep(after_s)
            kill(pid, number)
            again.start()
        code = self.answer()
        for timer in (hang, again) if number else (hang,):
            timer.cancel()
            timer.join()
        return code

    def _again(self, pid: int, number: int) -> None:
        self.sent_again += 1
        kill(pid, number)


def kill(pid: int, number: int) -> None:
    """Send a signal to a child of the server, unless it is over."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def serving() -> Iterator[Server]:
    """Start a server, and end it."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.signals.server"]
    env = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}  # as `main` sets it, ahead of torch
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


def run(seed: int, trials: int, loops: int, root: Path, seconds: float = 3600.0) -> Counts:
    """Send signals, one a process, and look at what is left.

    Args:
        seed: of the moments and the signals.
        trials: signals to training runs.
        loops: Ctrl-C to loops over a `Loader`.
        root: an empty folder.
        seconds: no more training is started behind this time.
    """
    began, counts, draw = perf_counter(), Counts(seed, commit=commit()), random.Random(seed)
    write_click_logs(root / "clicks", ROWS, files=2, row_group_rows=500)
    pq.write_table(conformance.table(), root / "t.parquet", row_group_size=90)
    flags = ("--data", str(root / "clicks"), *FLAGS, *RUN)
    with serving() as server:
        whole = root / "whole"
        check(server.run("train", whole, flags) == 0, whole, "a run that is left alone fails")
        server.ask(kind="import", arguments=importable(whole))
        counts.whole_s = -perf_counter()
        server.run("train", root / "timed", flags)
        counts.whole_s += perf_counter()
        for trial in range(trials):
            number = draw.choice([signal.SIGINT, signal.SIGTERM])
            folder = root / f"trial-{trial}"
            code = server.run("train", folder, flags, number, draw.uniform(0, 1.05 * counts.whole_s))
            count(counts.exits, f"{number.name} {code}")
            counts.trials += 1
            with noted(counts):
                check_left(folder, code, number, counts)
                if not load(server, folder, counts):
                    counts.without_checkpoint += 1
                elif trial % RESUMED_EVERY == 0:
                    resume(server, folder, flags, whole, counts)
            if perf_counter() - began > seconds:
                break
        for trial in range(loops):
            folder = root / f"loop-{trial}"
            arguments = (str(root / "t.parquet"),)
            code = server.run(LOOPS[trial % 2], folder, arguments, signal.SIGINT, draw.uniform(0, 0.5))
            counts.loops += 1
            with noted(counts):
                check_left(folder, code, signal.SIGINT, counts)
                check(code == 130, folder, f"expected exit code 130, found {code}")
        counts.sent_again = server.sent_again
    counts.seconds = perf_counter() - began
    return counts


@contextmanager
def noted(counts: Counts) -> Iterator[None]:
    """Keep what was left behind, and go on with the next trial."""
    try:
        yield
    except LeftError as error:
        counts.left.append(str(error)[-2000:])


def importable(folder: Path) -> list[str]:
    """Return the modules that a job has imported by its end."""
    modules = json.loads((folder / "left.json").read_text())["modules"]
    return [name for name in modules if name.startswith(("torch", "intune_gpu", "tensorboard", "rich", "sympy"))]


def check_left(folder: Path, code: int, number: signal.Signals, counts: Counts) -> None:
    """Look for threads, children and half-written files, and at the exit code."""
    expected = {0, 128 + number} | ({-signal.SIGTERM} if number == signal.SIGTERM else set())
    left = folder / "left.json"
    late = json.loads(left.read_text())["ended_late"] if left.exists() else "unknown"
    check(code in expected, folder, f"expected exit code of {sorted(expected)}, found {code}; ended late: {late}")
    if code >= 0:
        found = json.loads(left.read_text())
        check(found["threads"] == [], folder, f"threads are left: {found['threads']}")
        for name in found["ended_late"]:
            count(counts.ended_late, name.rstrip("-_0123456789"))
        check(found["children"] == [], folder, f"children are left: {found['children']}")
    torn = [path for pattern in HALF_WRITTEN for path in folder.rglob(pattern)]
    check(torn == [], folder, f"half-written files are left: {torn}")
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())


def load(server: Server, folder: Path, counts: Counts) -> bool:
    """Read the newest checkpoint; return whether there is one."""
    found = sorted((folder / "run" / "checkpoints").glob("step-*"))
    for checkpoint in found[-1:]:
        code = server.run("load", folder, (str(checkpoint),))
        check(code == 0, folder, f"{checkpoint.name} does not load: {code}")
        counts.loaded += 1
    return bool(found)


def resume(server: Server, folder: Path, flags: Sequence[str], whole: Path, counts: Counts) -> None:
    """Go on from the last checkpoint to the end, and compare the weights with those of a run left alone."""
    code = server.run("train", folder, (*flags, "--resume", "latest"))
    check(code == 0, folder, f"going on from the checkpoint ends with {code}")
    ends = [max((place / "run" / "checkpoints").glob("step-*")) for place in (whole, folder)]
    check(ends[0].name == ends[1].name, folder, f"expected the end at {ends[0].name}, found {ends[1].name}")
    tensors = [end / "rank0.safetensors" for end in ends]
    check(tensors[0].read_bytes() == tensors[1].read_bytes(), folder, "the weights are others than of a run left alone")
    counts.resumed += 1


def count(counted: dict[str, int], name: str) -> None:
    """Count one more."""
    counted[name] = counted.get(name, 0) + 1


def check(true: bool, folder: Path, words: str) -> None:
    """Raise unless it is true, with what the process printed."""
    if not true:
        raise LeftError(f"{folder.name}: {words}\n{(folder / 'printed.txt').read_text()[-3000:]}")


@dataclass(frozen=True)
class Config:
    """How many signals to send."""

    count: int = 200
    """To training runs."""
    loops: int = 100
    """To loops over a loader."""
    seconds: float = 3600.0
    """No more training is started behind this time."""
    seed: int = 1
    """Of the moments and the signals."""
    out: Path = Path("signals.json")
    """Where the counts are written."""


def main(config: Config) -> None:
    """Run the trials, and write the counts."""
    with tempfile.TemporaryDirectory() as root:
        counts = run(config.seed, config.count, config.loops, Path(root), config.seconds)
    config.out.write_text(json.dumps(asdict(counts), indent=1) + "\n")
    print(config.out.read_text())


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
