"""One process of a bench: measures the cases of some sections with a fixed number of cores, and writes them as JSON.

Polars fixes its thread pool at import, so that each number of threads needs a process of its own. Within it, everything
is paired. All threads of a process, ours and the peers', share the same cores.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import names
from bench.harness import Case, CaseRecord, CheckError, Effort, measure

CHECK_FAILED = 3
"""Exit status of a worker whose results differ."""


@dataclass(frozen=True)
class Task:
    """What one worker does.

    Attributes:
        threads: cores it may use.
        rows: section → rows of a pass, in the order in which they run.
        data: section → case → its file.
        seed: of data and hashes.
        effort: how long to measure.
    """

    threads: int
    rows: dict[str, int]
    data: dict[str, dict[str, str]]
    seed: int
    effort: Effort

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Rebuild what `to_json` gave."""
        state: dict[str, Any] = json.loads(text)
        return cls(**{**state, "effort": Effort(**state["effort"])})


def environment(threads: int) -> dict[str, str]:
    """Return the environment in which no library uses more than `threads` threads."""
    limits = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(limits, str(threads))}


def cases(task: Task) -> Iterator[Case]:
    """Yield the cases of a task; imports only what they need."""
    for section, rows in task.rows.items():
        if section == "transform":
            from bench import transform

            yield from transform.cases(rows, task.seed)
        elif section == "dali":
            from bench import dali

            yield from dali.cases(task.threads, rows, task.seed, task.data[section])
        else:
            from bench import files

            yield from files.cases(section, task.threads, rows, task.seed, task.data[section])


def main() -> int:
    """Read a task from the first argument, write the records into the file named by the second."""
    task, out = Task.from_json(sys.argv[1]), Path(sys.argv[2])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.threads])
    try:
        records = measured(task)
    except CheckError as error:
        print(f"bench: {error}", file=sys.stderr)
        return CHECK_FAILED
    out.write_text(json.dumps(records), encoding="utf-8")
    return 0


def measured(task: Task) -> list[CaseRecord]:
    """Measure all cases of a task, in this process, which has its cores already.

    Raises:
        CheckError: a check failed; the message says which.
    """
    records = []
    for case in cases(task):
        print(f"  {names.threads(case.threads)}: {case.section}, {case.name}", file=sys.stderr, flush=True)
        try:
            records.append(measure(case, task.effort))
        except CheckError as error:
            raise CheckError(f"the check of {case.section}, {case.name} failed: {error}") from error
    return records


if __name__ == "__main__":
    sys.exit(main())
