"""One live run for the suite `tuner`: a real loader, a consumer of set speed, and a process that takes a core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import intune_gpu as ig
from bench.logs import Layout
from intune_gpu.sources.synthetic import write_click_logs

BATCH = 32_768
AHEAD = 2
"""Batches that may wait for the consumer beside the one that it works on."""

LAYOUTS = {"parquet": Layout("parquet", False), "tsv": Layout("tsv", True)}
PHASES = ("before", "core taken", "core back")
_MAX_LINKS = 256


@dataclass(frozen=True)
class Logs:
    """Click logs of one format, as long as a run: links to a few files, so that the page cache holds them all.

    Attributes:
        folder: of the files.
        recipe: what is made of them.
    """

    folder: Path
    recipe: ig.Recipe

    def open(self, **options: Any) -> ig.Loader:
        """Return a new loader."""
        return ig.Loader(self.folder, self.recipe, batch_size=BATCH, device="cpu", **options)


def write(format: str, rows: int, links: int, seed: int, folder: Path) -> Logs:
    """Write the logs of a format; `links` times as long as `rows`."""
    layout, target = LAYOUTS[format], folder / format
    write_click_logs(target, rows, format=layout.format, hex_ids=layout.hex_ids, seed=seed, files=1)
    (first,) = target.glob("part-*")
    for number in range(1, min(links, _MAX_LINKS)):
        os.link(first, target / f"part-{number:05}{first.suffix}")
    return Logs(target, ig.recipes.criteo(100_000))


class Hog:
    """Processes that keep one core busy while they are let: several, so that little of it is left for others.

    Args:
        core: which; None for none, on a machine of a single core.
        processes: how many share it.
    """

    def __init__(self, core: int | None, processes: int) -> None:
        code = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"
        command = [sys.executable, "-S", "-c", code, str(core)]
        self._busy: list[subprocess.Popen[bytes]] = []
        for _ in range(0 if core is None else processes):
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            self._busy.append(process)
            assert process.stdout is not None
            process.stdout.readline()  # it runs, on its core
            process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Hog:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._busy:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._busy = []

    def take(self) -> None:
        """Take the core."""
        self._signal(signal.SIGCONT)

    def give_back(self) -> None:
        """Give it back. May be called more than once."""
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        for process in self._busy:
            process.send_signal(number)


@dataclass
class Trace:
    """What a consumer saw.

    Attributes:
        at_s: when each batch was handed over, from the run's beginning.
        rows: of each batch.
        plans: (readers, transformers) at that time.
        cpu_s: CPU seconds of the process.
        seconds: that the run took.
    """

    at_s: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    plans: list[tuple[int, int]] = field(default_factory=list)
    cpu_s: float = 0.0
    seconds: float = 0.0

    def rate(self, begin_s: float, end_s: float) -> float:
        """Return the rows per second that were used up between two moments."""
        at_s = np.array(self.at_s)
        inside = (at_s >= begin_s) & (at_s < end_s)
        return float(np.array(self.rows)[inside].sum() / (end_s - begin_s))

    def over_time(self, bin_s: float) -> list[float]:
        """Return the rows per second of each bin of the run."""
        edges = np.arange(0.0, self.seconds + bin_s / 2, bin_s)
        return [self.rate(begin, end) for begin, end in pairwise(edges)]

    def plans_over_time(self, bin_s: float) -> list[tuple[int, int]]:
        """Return the plan at the end of each bin."""
        ends = np.arange(bin_s, self.seconds + bin_s / 2, bin_s)
        last = np.searchsorted(np.array(self.at_s), ends, side="right") - 1
        return [self.plans[max(0, index)] for index in last] if self.plans else []


def batches(loader: ig.Loader) -> Generator[ig.Batch, None, None]:
    """Yield batches for ever, epoch after epoch."""
    while True:
        yield from loader


def consume(
    loader: ig.Loader,
    source: Iterator[ig.Batch],
    seconds: float,
    rows_per_s: float = float("inf"),
    on_batch: Callable[[float], None] | None = None,
) -> Trace:
    """Take batches for so long, for a consumer that works on one after the other at its own speed.

    It is like a GPU: the thread that takes batches hands them over and waits only where `AHEAD` of them wait already.
    One that slept for the length of each batch would measure how late the system wakes it: of 5 M rows/s it got 3.7 to
    4.8, the less the more threads were busy, where the loader had 7 to 12 to give.

    Args:
        loader: of the batches.
        source: of `batches`.
        seconds: that it takes them for.
        rows_per_s: the consumer's speed.
        on_batch: called with the time behind each batch.
    """
    trace = Trace()
    cpu, begin = time.process_time(), time.perf_counter()
    free_s = now = 0.0
    ends_s: deque[float] = deque()
    while now < seconds:
        count = len(next(source).label)
        now = time.perf_counter() - begin
        free_s = max(now, free_s) + count / rows_per_s
        ends_s.append(free_s)
        if len(ends_s) > AHEAD:
            time.sleep(max(0.0, ends_s.popleft() - now))
        now = time.perf_counter() - begin
        trace.at_s.append(now)
        trace.rows.append(count)
        trace.plans.append((loader.plan.readers, loader.plan.transformers))
        if on_batch is not None:
            on_batch(now)
    trace.seconds, trace.cpu_s = seconds, time.process_time() - cpu
    return trace


@dataclass(frozen=True)
class Course:
    """When things happen in a run.

    Attributes:
        taken_s: the core is taken.
        back_s: it is given back.
        end_s: the run is over.
    """

    taken_s: float
    back_s: float
    end_s: float

    @classmethod
    def of(cls, seconds: float) -> Course:
        """Return the course of a run: the core is taken halfway, for three tenths of it."""
        return cls(0.5 * seconds, 0.8 * seconds, seconds)

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """(begin, end) of each phase."""
        marks = (0.0, self.taken_s, self.back_s, self.end_s)
        return dict(zip(PHASES, pairwise(marks), strict=True))


def drive(loader: ig.Loader, course: Course, rows_per_s: float, hog: Hog) -> Trace:
    """Run a loader through a course."""
    with closing(batches(loader)) as source, _events(course, hog) as on_batch:
        next(source)  # threads start and buffers fill: no part of what is measured
        return consume(loader, source, course.end_s, rows_per_s, on_batch)


@contextmanager
def _events(course: Course, hog: Hog) -> Iterator[Callable[[float], None]]:
    done: set[str] = set()

    def on_batch(now: float) -> None:
        if now >= course.taken_s and "taken" not in done:
            done.add("taken")
            hog.take()
        if now >= course.back_s and "back" not in done:
            done.add("back")
            hog.give_back()

    try:
        yield on_batch
    finally:
        hog.give_back()
