"""`python -m bench --suite all`: every suite in a process of its own, one folder of results, one report at the end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from bench import fresh, report
from bench.machine import ROOT, commit

Suite = Literal["cpu", "dali", "peers", "scale", "tuner", "gpu"]


@dataclass(frozen=True)
class Args:
    """Run every suite, each in a process of its own, and write one report: what needs no GPU in under 40 minutes."""

    suite: Literal["all"] = "all"
    """All of them."""
    only: tuple[Suite, ...] = ("cpu", "dali", "peers", "scale", "tuner", "gpu")
    """Leave some out with, for instance, --only cpu scale."""
    tiny: bool = False
    """Runs of seconds that show that the bench works; their figures mean nothing."""
    seed: int = 0
    """Of data and hashes."""
    out: Path | None = None
    """Folder for the results and the report; by default runs/bench-<date>-<commit>."""


@dataclass(frozen=True)
class Step:
    """A suite as it is run among all of them: with fewer rounds than alone.

    Attributes:
        suite: its name.
        flags: beside `--out`, `--seed` and `--tiny`.
        minutes: that it takes on two cores.
    """

    suite: Suite
    flags: tuple[str, ...]
    minutes: float


STEPS = (
    Step("cpu", ("--repeats", "5"), 7),
    Step("dali", ("--repeats", "5"), 4.5),
    Step("peers", ("--repeats", "5"), 12),
    Step("scale", (), 8),
    Step("tuner", ("--runs", "3", "--policies", "rl", "search", "hillclimb", "static"), 5.5),
    Step("gpu", (), 15),
)
STOPPED = 130


def main(args: Args) -> int:
    """Run the suites; return the exit status: 0, 1 where one failed, 130 where Ctrl-C ended them."""
    result, begin = report.header("all", tiny=args.tiny, seed=args.seed, repeats=1), time.perf_counter()
    folder = args.out or ROOT / "runs" / f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}-{(commit()['hash'] or 'none')[:8]}"
    steps = _possible([step for step in STEPS if step.suite in args.only], result["skipped"])
    folder.mkdir(parents=True, exist_ok=True)
    status = 0
    with fresh.sigterm_as_ctrl_c():
        try:
            if args.tiny:
                fresh.prepare()
            else:
                told = ", ".join(f"{step.suite} {step.minutes:g}" for step in steps)
                _say(f"about {sum(step.minutes for step in steps):.0f} minutes on two cores: {told}")
            for step in steps:
                status = _one(step, args, folder, result["skipped"]) or status
        except KeyboardInterrupt:
            done = [step.suite for step in steps if (folder / f"{step.suite}.json").exists()]
            result["skipped"]["what has no results"] = "stopped by Ctrl-C"
            _say(f"stopped by Ctrl-C; kept: {', '.join(done) or 'nothing'}")
            status = STOPPED
    result["elapsed_s"] = time.perf_counter() - begin
    report.save(result, folder / "all.json")
    page = [sys.executable, "-m", "bench.page", str(folder), "--out", str(folder)]
    if subprocess.run(page, cwd=ROOT, check=False).returncode and not status:
        status = 1
    _say(f"{result['elapsed_s'] / 60:.1f} minutes in all")
    return status


def _possible(steps: Sequence[Step], skipped: dict[str, str]) -> list[Step]:
    """Leave out what cannot run here, and say why."""
    from intune_gpu.core.gpu import find_driver

    if all(step.suite != "gpu" for step in steps):
        return list(steps)
    driver = fresh.run(lambda: asdict(find_driver())).result  # CUDA stays out of this process
    if driver["gpus"] > 0:
        return list(steps)
    skipped["suite gpu"] = f"there is no NVIDIA GPU here ({driver['fault'] or 'the driver shows none'})"
    return [step for step in steps if step.suite != "gpu"]


def _one(step: Step, args: Args, folder: Path, skipped: dict[str, str]) -> int:
    """Run a suite, and return 1 where it failed."""
    out, begin = folder / f"{step.suite}.json", time.perf_counter()
    flags = ["--suite", step.suite, "--seed", str(args.seed), "--out", str(out)]
    flags += ["--tiny"] if args.tiny else step.flags
    _say(f"suite {step.suite}: python -m bench {' '.join(flags)}")
    try:
        status = fresh.run(partial(_tiny, flags)).result if args.tiny else _process(flags)
        found = f"it ended with status {status}"
    except fresh.JobError as error:
        status, found = 1, str(error)
    if status:
        kept = "; what it had measured is kept" if out.exists() else ""
        skipped[f"suite {step.suite}"] = f"FAILED: {found}{kept}"
        _say(f"suite {step.suite} FAILED: {found}{kept}")
    _say(f"suite {step.suite}: {time.perf_counter() - begin:.0f} s")
    return int(status != 0)


def _tiny(flags: Sequence[str]) -> int:
    """Run a suite here: this process is a fork that has imported what suites need."""
    from bench.__main__ import run

    return run(flags)


def _process(flags: Sequence[str]) -> int:
    """Run a suite in a process group of its own; Ctrl-C goes on to all of it, and it may finish what it keeps."""
    command = [sys.executable, "-m", "bench", *flags]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        fresh.interrupt(process.pid)
        process.wait()
        raise


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def parse(arguments: Sequence[str]) -> Args:
    """Read flags."""
    import tyro

    return tyro.cli(Args, prog="python -m bench", description=Args.__doc__, args=list(arguments))
