"""`python -m bench --suite cpu`: measure this machine, check every result, judge the targets."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

from bench import fresh, machine, names, report, targets, worker
from bench.harness import CaseRecord, Effort
from bench.worker import CHECK_FAILED, Task, environment


@dataclass(frozen=True)
class Args:
    """Measure intune_gpu against its peers on this machine, paired in one process, results checked before timing."""

    suite: Literal["cpu", "dali"] = "cpu"
    """What to measure: cpu = transform, text and Parquet; dali = batches out of DALI beside Loader's. gpu and tuner
    have flags of their own: --suite gpu --help."""
    sections: tuple[Literal["transform", "text", "parquet"], ...] = ("transform", "text", "parquet")
    """Leave some of cpu out with, for instance, --sections text."""
    tiny: bool = False
    """A run of seconds that shows that the bench works; its figures mean nothing."""
    rows: int | None = None
    """Rows of one pass, in place of each section's own number."""
    repeats: int | None = None
    """Rounds, each with one sample of every engine; by default 9, or 2 of a tiny run."""
    seed: int = 0
    """Seeds the data and the hashes."""
    out: Path | None = None
    """Write the results, every sample included, into this JSON file."""
    save: bool = False
    """Write them to bench/results/<date>-<commit>-<suite>.json."""


OWN_FLAGS = {
    "all": "bench.everything",
    "gpu": "bench.gpu",
    "peers": "bench.peers.suite",
    "scale": "bench.scale",
    "tuner": "bench.tuner",
}
"""Suites with flags of their own → modules with `parse(arguments)` and `main(args)`; gpu's runs without tyro."""
ROWS = {"transform": 1 << 20, "text": 500_000, "parquet": 1 << 20}
DALI_ROWS = 1 << 20
TINY_ROWS = 8_192
THREADS = (1, 2)


def main(args: Args) -> int:
    """Run the suite; return the exit status."""
    for name in ("rows", "repeats"):
        count = getattr(args, name)
        if count is not None and count < 1:
            print(f"bench: --{name}: expected at least 1, found {count}", file=sys.stderr)
            return 2
    begin = time.perf_counter()
    repeats = args.repeats or (2 if args.tiny else 9)
    result = report.header(args.suite, tiny=args.tiny, seed=args.seed, repeats=repeats)
    effort, status = Effort(result["repeats"], 0.0 if args.tiny else 0.2), 0
    with tempfile.TemporaryDirectory(prefix="intune_gpu-bench-") as folder:
        if args.tiny:
            fresh.prepare()
        try:
            for task in _tasks(args, effort, Path(folder)):
                records, status = _run(task, Path(folder), args.tiny)
                if status:
                    what = "a check failed" if status == CHECK_FAILED else f"a worker ended with status {status}"
                    print(f"bench: {what}: nothing was saved", file=sys.stderr)
                    return 1
                result["cases"] += records
        except fresh.JobError as error:
            print(f"bench: {error}: nothing was saved", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            if not result["cases"]:
                raise
            result["skipped"]["what is not among the cases"], status = "stopped by Ctrl-C", 130
    result["targets"] = targets.judge(result["cases"])
    result["elapsed_s"] = time.perf_counter() - begin
    report.finish(result, args.out, args.save and not status)
    return status


def _tasks(args: Args, effort: Effort, folder: Path) -> Iterator[Task]:
    of_section: dict[str, int] = ROWS if args.suite == "cpu" else {args.suite: DALI_ROWS}
    sections: Iterable[str] = dict.fromkeys(args.sections) if args.suite == "cpu" else of_section
    rows = {name: args.rows or (TINY_ROWS if args.tiny else of_section[name]) for name in sections}
    data: dict[str, dict[str, str]] = {
        name: _write_data(name, count, args.seed, folder) for name, count in rows.items() if name != "transform"
    }
    for threads in THREADS[:1] if args.tiny and args.suite == "dali" else THREADS:
        here = {name: count for name, count in rows.items() if threads == 1 or name != "transform"}
        if threads > len(os.sched_getaffinity(0)):
            print(f"bench: {names.threads(threads)} left out: there are fewer cores here", file=sys.stderr)
        elif here:
            yield Task(threads, here, data, args.seed, effort)


def _write_data(section: str, rows: int, seed: int, folder: Path) -> dict[str, str]:
    """Write the click logs that a section reads, and return the file of each of its cases."""
    print(f"  {section}: writing {rows:,} rows", file=sys.stderr, flush=True)
    written: dict[str, str] = fresh.run(partial(_write, section, rows, seed, folder)).result
    return written


def _write(section: str, rows: int, seed: int, folder: Path) -> dict[str, str]:
    from bench.logs import write  # NumPy, whose threads this process must not have

    return write(section, rows, seed, folder)


def _run(task: Task, folder: Path, tiny: bool) -> tuple[list[CaseRecord], int]:
    """Measure a task in a process of its own; a tiny one in a fork of this one, which saves it the imports."""
    if tiny:
        return fresh.run(partial(_in_a_fork, task), task.threads).result, 0
    out = folder / f"records-{task.threads}.json"
    command = [sys.executable, "-m", "bench.worker", task.to_json(), str(out)]
    status = subprocess.run(command, env=environment(task.threads), cwd=machine.ROOT, check=False).returncode
    return ([] if status else json.loads(out.read_text(encoding="utf-8"))), status


def _in_a_fork(task: Task) -> list[CaseRecord]:
    os.environ.update(environment(task.threads))
    return worker.measured(task)


def asked(arguments: Sequence[str]) -> str | None:
    """Return the suite that the flags name; the last one counts."""
    named = [value for flag, value in pairwise(arguments) if flag == "--suite"]
    named += [value.partition("=")[2] for value in arguments if value.startswith("--suite=")]
    return named[-1] if named else None


def run(arguments: Sequence[str]) -> int:
    """Run the suite that the flags name; return the exit status."""
    module = OWN_FLAGS.get(asked(arguments) or "")
    if module is not None:
        suite = importlib.import_module(module)
        return int(suite.main(suite.parse(arguments)))
    import tyro

    return main(tyro.cli(Args, prog="python -m bench", description=Args.__doc__, args=list(arguments)))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
