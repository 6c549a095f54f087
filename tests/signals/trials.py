"""Ctrl-C and SIGTERM at random moments, and what they leave: `python -m tests.signals.trials --count 200`.

A moment is a random time behind a mark that the run itself makes: its start, its first checkpoint, its last one. Where
the main thread then was, its own stack says: a process that is sent SIGUSR1 writes it down.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Thread, Timer
from time import monotonic, perf_counter, sleep
from typing import Any

import pyarrow.parquet as pq
import tyro

import intune_gpu as ig
from intune_gpu.sources.synthetic import write_click_logs
from tests import conformance
from tests.fuzz.bulk import commit

ROWS = 2_500
FLAGS = ("--batch-size", "32", "--epochs", "1", "--device", "cpu", "--checkpoint-every", "5", "--run-dir", "run")
RECIPE = ig.Recipe(
    label="label",
    dense={f"I{n}": [ig.FillMissing(), ig.Clip(min=0.0), ig.Log1p()] for n in range(1, 4)},
    sparse={f"C{n}": [ig.HashBucket(200)] for n in range(1, 5)},
    types={f"C{n}": "hex32" for n in range(1, 5)},
)
LAST_STEP = "step-000000071"  # 2,250 rows, the rest is held out
MARKS = {"start": "", "training": "run/checkpoints", "evaluation": f"run/checkpoints/{LAST_STEP}"}
SHARES = {"start": 0.08, "training": 0.84, "evaluation": 0.08}
HANG_S = 60.0
AGAIN_S = 20.0
"""A signal that nothing came of is sent once more, and counted: Python drops what is raised in `__del__`."""

WRITES_S = 0.5
"""For a process to write down where it is."""
RESUMED_EVERY = 10
IMPORTED = ("torch", "intune_gpu", "tensorboard", "google", "tyro", "typeguard", "absl", "rich", "sympy")
STAGES = {
    "evaluation": r'loop\.py", line \d+ in _evaluate',
    "checkpoint": r'loop\.py", line \d+ in save',
    "step": r'loop\.py", line \d+ in run',
}
"""By what stands in the main thread's stack; the first that is there counts."""
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
        exits: by where a signal hit training: exit codes, by signal; a negative one is of a signal that ended it before
            training began, or behind it.
        loop_exits: the same of loops.
        sent_again: of each signal that had to be sent a second time: the kind of work, how long behind the mark it came
            first, where the main thread was 20 s later, where Ctrl-C had been raised, and what was printed.
        loaded: checkpoints that the training command's own loader took up, and gave the next batch from.
        resumed: runs that went on from their last checkpoint, and ended with the weights of a run left alone.
        without_checkpoint: runs that were stopped ahead of their first one.
        ended_late: threads that were still ending when the work was over, by name.
        lengths_s: how long the parts take of a run that is left alone.
        seconds: all of it.
        commit: of the product.
        left: what was left behind that must not be: nothing.
        each: of each signal to training: where it hit, its name, the exit code, the newest checkpoint.
    """

    seed: int
    trials: int = 0
    loops: int = 0
    exits: dict[str, dict[str, int]] = field(default_factory=dict)
    loop_exits: dict[str, int] = field(default_factory=dict)
    sent_again: list[str] = field(default_factory=list)
    loaded: int = 0
    resumed: int = 0
    without_checkpoint: int = 0
    ended_late: dict[str, int] = field(default_factory=dict)
    lengths_s: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    commit: str = ""
    left: list[str] = field(default_factory=list)
    each: list[str] = field(default_factory=list)

    @property
    def in_training(self) -> int:
        """Signals that came between the first checkpoint and the end of evaluation."""
        stages = ("step", "checkpoint", "evaluation", "unclear")  # the last by what lay on the disk
        return sum(sum(self.exits.get(stage, {}).values()) for stage in stages)


@dataclass(frozen=True)
class Moment:
    """When a signal is sent.

    Attributes:
        number: of the signal, or 0 for none.
        mark: a file or folder that the run makes; the time begins when it is there.
        after_s: how long after the mark.
        looks: whether the process is asked for its stacks first. To walk the stacks of threads that run can crash it.
    """

    number: int = 0
    mark: str = ""
    after_s: float = 0.0
    looks: bool = False


class Server:
    """The process that forks; see `server.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.sent_again: list[str] = []

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

    def run(self, kind: str, folder: Path, arguments: Sequence[str], moment: Moment | None = None, **job: Any) -> int:
        """Run a job, send it a signal at a moment, and return its exit code."""
        folder.mkdir(exist_ok=True)
        (folder / "left.json").unlink(missing_ok=True)
        pid = self.ask(kind=kind, folder=str(folder), arguments=list(arguments), **{"hasty": True} | job)
        hang = Timer(HANG_S, kill, (pid, signal.SIGABRT))  # it prints where its threads are
        hang.start()
        timers = [hang]
        if moment is not None:
            wait_for(folder, moment.mark)
            sleep(moment.after_s)
            if moment.looks:
                kill(pid, signal.SIGUSR1)
            kill(pid, moment.number)
            timers.append(Timer(AGAIN_S, self._again, (pid, moment, f"{kind} in {folder.name}", folder)))
            timers[-1].start()
        code = self.answer()
        for timer in timers:
            timer.cancel()
            timer.join()
        return code

    def _again(self, pid: int, moment: Moment, work: str, folder: Path) -> None:
        kill(pid, signal.SIGUSR1)
        sleep(WRITES_S)
        files = [folder / name for name in ("where.txt", "raised.txt", "printed.txt")]
        told = [path.read_text()[-2000:] for path in files if path.exists()]
        self.sent_again.append(
            f"{work}, {moment.after_s:.3f} s behind {moment.mark or 'its start'}\n" + "\n".join(told)
        )
        kill(pid, moment.number)


def wait_for(folder: Path, mark: str) -> None:
    """Wait until a run has made something, or is over."""
    until = monotonic() + HANG_S
    while not (folder / mark).exists() and not (folder / "left.json").exists() and monotonic() < until:
        sleep(0.001)


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


def run(seed: int, trials: int, loops: int, root: Path, seconds: float = 3600.0, *, stacks: bool = True) -> Counts:
    """Send signals, one a process, and look at what is left.

    Args:
        seed: of the moments and the signals.
        trials: signals to training runs.
        loops: Ctrl-C to loops over a `Loader`.
        root: an empty folder.
        seconds: no more training is started behind this time.
        stacks: whether to ask training runs where they are, which can crash one.
    """
    began, counts, draw = perf_counter(), Counts(seed, commit=commit()), random.Random(seed)
    write_click_logs(root / "clicks", ROWS, files=2, row_group_rows=500)
    RECIPE.save(root / "recipe.json")
    pq.write_table(conformance.table(), root / "t.parquet", row_group_size=90)
    flags = ("--data", str(root / "clicks"), "--recipe", str(root / "recipe.json"), *FLAGS)
    with serving() as server:
        whole = root / "whole"
        check(server.run("train", whole, flags) == 0, whole, "a run that is left alone fails")
        server.ask(kind="import", arguments=importable(whole))
        counts.lengths_s = lengths(server, root / "timed", flags)
        for trial in range(trials):
            mark = draw.choices(list(SHARES), list(SHARES.values()))[0]
            number = draw.choice([signal.SIGINT, signal.SIGTERM])
            folder = root / f"trial-{trial}"
            moment = Moment(number, MARKS[mark], draw.uniform(0, counts.lengths_s[mark]), looks=stacks)
            code = server.run("train", folder, flags, moment, hasty=trial % RESUMED_EVERY != 1)
            counts.trials += 1
            with noted(counts):
                stage = stage_of(folder)
                count(counts.exits.setdefault(stage, {}), f"{number.name} {code}")
                done = {0} if (folder / MARKS["evaluation"]).exists() else set()  # the last step was taken already
                check_left(folder, code, expected(stage, number) | done, counts)
                newest = load(server, folder, counts)
                counts.each.append(f"{stage} {number.name} {code} {newest}")
                if newest is None:
                    counts.without_checkpoint += 1
                elif trial % RESUMED_EVERY == 0:
                    resume(server, folder, flags, whole, counts)
            shutil.rmtree(folder)
            if perf_counter() - began > seconds:
                break
        for trial in range(loops):
            folder = root / f"loop-{trial}"
            moment = Moment(signal.SIGINT, "", draw.uniform(0, 0.4))
            code = server.run(LOOPS[trial % 2], folder, (str(root / "t.parquet"),), moment)
            counts.loops += 1
            with noted(counts):
                count(counts.loop_exits, str(code))
                check_left(folder, code, {130}, counts)
        counts.sent_again = server.sent_again
    counts.seconds = perf_counter() - began
    return counts


def lengths(server: Server, folder: Path, flags: Sequence[str]) -> dict[str, float]:
    """Run once more, left alone, and return how long each part takes."""
    seen = {}

    def watch() -> None:
        for name, mark in [*MARKS.items(), ("end", "left.json")]:
            wait_for(folder, mark)
            seen[name] = perf_counter()

    watcher = Thread(target=watch)
    folder.mkdir()
    watcher.start()
    check(server.run("train", folder, flags) == 0, folder, "a run that is left alone fails")
    watcher.join()
    return {name: round(seen[after] - seen[name], 3) for name, after in pairwise([*MARKS, "end"])}


def stack_of(folder: Path) -> str:
    """Return where the main thread was when the signal was sent; nothing where the process was over."""
    return (folder / "where.txt").read_text()


def stage_of(folder: Path) -> str:
    """Return what the main thread was at."""
    stack = stack_of(folder)
    inside = [name for name, sign in STAGES.items() if re.search(sign, stack)]
    if inside:
        return inside[0]
    if (folder / MARKS["evaluation"]).exists():
        return "end"
    return "unclear" if (folder / MARKS["training"]).exists() else "start"


def expected(stage: str, number: signal.Signals) -> set[int]:
    """Return the exit codes that may come of a signal.

    Training notes one wherever it comes. Evaluation may be over before it looks again; then the work is done. Ahead
    of training and behind it, SIGTERM ends the process at once.
    """
    codes = {128 + number}
    if stage in ("step", "checkpoint", "unclear"):
        return codes
    if stage in ("evaluation", "end"):
        codes.add(0)
    return codes | ({-signal.SIGTERM} if number == signal.SIGTERM and stage in ("start", "end") else set())


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
    return [name for name in modules if name.startswith(IMPORTED)]


def check_left(folder: Path, code: int, allowed: set[int], counts: Counts) -> None:
    """Look for threads, children and half-written files, and at the exit code."""
    left = folder / "left.json"
    late = json.loads(left.read_text())["ended_late"] if left.exists() else "unknown"
    what = (
        f"expected an exit code of {sorted(allowed)}, found {code}; ended late: {late}; it was at\n{stack_of(folder)}"
    )
    check(code in allowed, folder, what)
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


def load(server: Server, folder: Path, counts: Counts) -> str | None:
    """Read the newest checkpoint; return its name, or None where there is none."""
    found = sorted((folder / "run" / "checkpoints").glob("step-*"))
    if not found:
        return None
    code = server.run("load", folder, (str(found[-1]),))
    check(code == 0, folder, f"{found[-1].name} does not load: {code}")
    counts.loaded += 1
    return found[-1].name


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
