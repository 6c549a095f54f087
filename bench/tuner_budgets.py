"""Does any plan that a tuner asks for pass the byte budget, or end in want of memory? `python -m bench.tuner_budgets`.

Policies run on simulated machines as in `intune_gpu.tuner.evaluate`. What each of them asked for, machine by machine,
is then put in force on a real loader, a plan a batch: small data whose rows become ten times as wide halfway, a budget
drawn between the smallest that is allowed and one of some ten workers, and a cap on the process's memory. A violation
is a run that held more than its budget, and what `docs/design.md` promises beyond it, at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import tyro
from rich.console import Console
from rich.table import Table

import intune_gpu as ig
from bench import report
from intune_gpu.tuner.attaching import policy_of
from intune_gpu.tuner.judging import SETTINGS, Ground
from intune_gpu.tuner.policies import NAMES
from intune_gpu.tuner.policy import Policy
from intune_gpu.tuner.seen import Plans

Asked = tuple[int, int]
"""Readers, transformers."""

COLUMNS = ("a", "b", "c")
RECIPE = ig.Recipe("label", sparse={name: [ig.HashBucket(1000)] for name in COLUMNS})
GROUP_ROWS, GROUPS = 4_096, 3
WIDE_BYTES = 400
KINDS = ("text", "strings", "dictionary")
"""The last is Parquet whose footer does not say how long its strings are once they are expanded."""
BATCHES = (256, 1_024)
CAP_BYTES = 320 << 20
"""Beyond what the process has when it is warm. The largest budget is 180 MB, without batches that were taken."""
STACK_BYTES = 1 << 20
"""Of a thread, in place of 8 MiB, which the cap counts whether they are used or not."""
_ROW_BYTES = len(COLUMNS) * (WIDE_BYTES + 8) + 1
_CHILD = "--child"


@dataclass(frozen=True)
class Args:
    """Put the plans of an evaluation in force on real loaders with tight budgets."""

    machines: int | None = None
    """Simulated, half of them drifting, each with a run of its own; by default each setting's own number."""
    policies: tuple[str, ...] = NAMES
    """Whose plans."""
    settings: tuple[str, ...] = tuple(setting.name for setting in SETTINGS)
    """Of the evaluation."""
    seed: int = 0
    """Of machines, budgets and orders."""
    out: Path | None = None
    """Write the results into this JSON file."""
    save: bool = False
    """Write them to bench/results/<date>-<commit>-budgets.json."""
    tiny: bool = False
    """A run of seconds."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one loader reads, and how.

    Attributes:
        path: of the data.
        kind: one of `KINDS`.
        shuffle: whether it is.
        batch_size: rows.
    """

    path: str
    kind: str
    shuffle: bool
    batch_size: int

    def open(self, **options: Any) -> ig.Loader:
        """Return a new loader."""
        return ig.Loader(self.path, RECIPE, batch_size=self.batch_size, shuffle=self.shuffle, device="cpu", **options)

    @property
    def beyond_bytes(self) -> int:
        """What may be held beyond the budget: nothing, where sizes are known ahead."""
        if self.kind != "dictionary":
            return 0
        chunk = GROUP_ROWS * (_ROW_BYTES + 8 + 2 * WIDE_BYTES)  # views, and a column of text that doubles as it grows
        window = 2 * GROUPS * GROUP_ROWS if self.shuffle else 0
        return chunk + 2 * self.batch_size * _ROW_BYTES + 4 * window * _ROW_BYTES


@dataclass(frozen=True, slots=True)
class Run:
    """What one loader held.

    Attributes:
        budget_bytes: that it was given.
        peak_bytes: most that was in flight.
        beyond_bytes: what it may have held besides.
        plans: asked for.
        clipped: of these, that the budget had no room for.
        fault: why it did not end, or gave other batches; None for nothing.
    """

    budget_bytes: int
    peak_bytes: int
    beyond_bytes: int
    plans: int
    clipped: int
    fault: str | None = None

    @property
    def is_violation(self) -> bool:
        """Whether it held more than it may."""
        return self.peak_bytes > self.budget_bytes + self.beyond_bytes


def main(args: Args) -> int:
    """Run it in a process with a cap of memory; return 1 where something was violated."""
    if args.tiny:
        args = replace(args, machines=6, policies=("rl", "random"), settings=(SETTINGS[0].name,))
    # Allocators that take address space ahead would reach the cap without having used it.
    tight = {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_WAIT_POLICY": "PASSIVE"}
    begin = time.perf_counter()
    given = json.dumps({**asdict(args), "out": None})
    command = [sys.executable, "-W", "ignore", "-m", "bench.tuner_budgets", _CHILD, given]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | tight)
    if ran.returncode:
        print(f"bench: the process that runs the loaders ended with {ran.returncode}", file=sys.stderr)
        return 1
    found: dict[str, list[Run]] = {
        policy: [Run(**run) for run in runs] for policy, runs in json.loads(ran.stdout.splitlines()[-1]).items()
    }
    result = report.header("budgets", tiny=args.tiny, seed=args.seed, repeats=1)
    result["elapsed_s"] = time.perf_counter() - begin
    rows = {policy: summary(runs) for policy, runs in found.items()}
    result["figures"] = list(figures(rows))
    _show(rows)
    for path in filter(None, (args.out, report.default_path(result) if args.save else None)):
        report.save(result, path)
    return int(any(row["violations"] or row["faults"] for row in rows.values()))


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the runs of one policy came to."""
    faults = Counter(run.fault for run in runs if run.fault is not None)
    return {
        "runs": len(runs),
        "plans": sum(run.plans for run in runs),
        "clipped": sum(run.clipped for run in runs),
        "most_of_budget": max(run.peak_bytes / run.budget_bytes for run in runs if not run.beyond_bytes),
        "violations": sum(run.is_violation for run in runs),
        "faults": dict(faults),
    }


def figures(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[report.Figure]:
    """Yield what the runs of each policy came to, as a report has it."""
    for policy, row in rows.items():
        note = f"plans of {policy} on {row['runs']:,} loaders, a plan a batch"
        counts = {
            **{name: row[name] for name in ("plans", "clipped", "violations")},
            "faults": sum(row["faults"].values()),
        }
        for name, count in counts.items():
            yield report.figure("budgets", f"{policy}: {name}", "", [count], note)
        most = "of budgets whose data say their sizes"
        yield report.figure("budgets", f"{policy}: most of a budget held", "share", [row["most_of_budget"]], most)


def asked(policy: Policy, ground: Ground) -> Iterator[list[Asked]]:
    """Yield what a policy asks for on each machine of a setting, each plan that is another than the last."""
    stepper = ground.stepper()
    plans, steps = stepper.limits.clip(policy.begin(stepper.limits, ground.seed)), []
    for _ in range(ground.setting.steps):
        seen, _ = stepper.step(plans)
        steps.append(_threads(plans))
        plans = stepper.limits.clip(policy.next(seen))
    for machine in np.stack(steps, axis=1):
        pairs = [(int(readers), int(transformers)) for readers, transformers in machine]
        yield [pair for number, pair in enumerate(pairs) if number == 0 or pair != pairs[number - 1]]


def _threads(plans: Plans) -> np.ndarray[Any, Any]:
    return np.stack([plans.readers, plans.transformers], axis=1)


def run(job: Job, plans: Sequence[Asked], budget_bytes: int, expected: str) -> Run:
    """Put plans in force, one a batch and from the first again, until the epoch ends."""
    digest, clipped, count = hashlib.sha256(), 0, 0
    with job.open(readers=1, transformers=1, prefetch_bytes=budget_bytes) as loader:
        fault = None
        try:
            for number, batch in enumerate(loader):
                digest.update(_bytes_of(batch))
                readers, transformers = plans[number % len(plans)]
                loader.apply(ig.Plan(readers, transformers, budget_bytes))
                clipped += (loader.plan.readers, loader.plan.transformers) != (readers, transformers)
                count += 1
        except (MemoryError, RuntimeError, OSError, ig.IntuneError) as error:
            fault = f"{type(error).__name__}: {error}"
        if fault is None and digest.hexdigest() != expected:
            fault = "other batches than under one plan"
        return Run(budget_bytes, loader.stats().peak_in_flight_bytes, job.beyond_bytes, count, clipped, fault)


def _bytes_of(batch: ig.Batch) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in (batch.label, batch.sparse.values()))


def write(folder: Path, kind: str) -> str:
    """Write `GROUPS` chunks of short strings, and as many of strings ten times as long; return the path."""
    rows = GROUP_ROWS * GROUPS
    codes = pa.array([number * 7 % 50 for number in range(rows)])
    halves = []
    for length in (WIDE_BYTES // 10, WIDE_BYTES):
        words = pa.array([f"{number:02d}".ljust(length, "x") for number in range(50)])
        halves.append(pa.table({"label": codes, **dict.fromkeys(COLUMNS, words.take(codes))}))
    table = pa.concat_tables(halves)
    if kind == "text":
        path = folder / "wide.csv"
        pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(quoting_style="none"))
    else:
        path = folder / f"{kind}.parquet"
        pq.write_table(table, path, row_group_size=GROUP_ROWS, use_dictionary=kind == "dictionary")
    return str(path)


def _child(args: Args) -> dict[str, list[dict[str, Any]]]:
    """Run every policy's plans under a cap of memory."""
    settings = [setting for setting in SETTINGS if setting.name in args.settings]
    if args.machines is not None:
        settings = [replace(setting, machines=args.machines) for setting in settings]
    grounds = [Ground.of(setting, args.seed) for setting in settings]
    wanted = {name: [plans for ground in grounds for plans in asked(policy_of(name), ground)] for name in args.policies}
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="intune_gpu-bench-") as folder:
        paths = {kind: write(Path(folder), kind) for kind in KINDS}
        jobs = [
            Job(path, kind, shuffle, batch)
            for kind, path in paths.items()
            for shuffle in (False, True)
            for batch in BATCHES
        ]
        known = {job: measured(job) for job in jobs}
        threading.stack_size(STACK_BYTES)
        cap = _data_bytes() + CAP_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
        for name, machines in wanted.items():
            draw, began = random.Random(args.seed), time.perf_counter()
            runs = []
            for plans in machines:
                job = draw.choice(jobs)
                expected, least, most = known[job]
                budget = int(least * (most / least) ** draw.random())
                runs.append(asdict(run(job, plans, budget, expected)))
            found[name] = runs
            print(f"  {name}: {len(runs)} loaders, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def measured(job: Job) -> tuple[str, int, int]:
    """Return the digest of all batches under one plan, the least budget, and one of some ten workers of each kind."""
    digest = hashlib.sha256()
    with job.open(readers=1, transformers=1) as loader:
        for batch in loader:
            digest.update(_bytes_of(batch))
        return digest.hexdigest(), loader.min_prefetch_bytes(1, 1), loader.min_prefetch_bytes(10, 10)


def _data_bytes() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmData:"))
    return int(line.split()[1]) << 10


def _show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("plans of", "loaders", "plans", "clipped", "most of a budget held", "violations", "faults")
    for policy, row in rows.items():
        table.add_row(
            policy,
            f"{row['runs']:,}",
            f"{row['plans']:,}",
            f"{row['clipped']:,}",
            f"{row['most_of_budget']:.1%}",
            str(row["violations"]),
            ", ".join(f"{count} x {what}" for what, count in row["faults"].items()) or "0",
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == [_CHILD]:
        print(json.dumps(_child(Args(**json.loads(sys.argv[2])))))
    else:
        sys.exit(main(tyro.cli(Args, prog="python -m bench.tuner_budgets", description=Args.__doc__)))
