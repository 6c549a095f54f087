"""The child's side of a measurement: a job that takes commands as lines of JSON. The standard library and NumPy alone.

A command is an object with `do`: `check`, `tune`, `run` or `stop`; the answer is one object, with `error` where it went
wrong. What libraries print goes to standard error, so that standard output holds answers only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from bench.peers.processes import started_cpu_seconds

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]

DENSE = tuple(f"I{i}" for i in range(1, 14))
SPARSE = tuple(f"C{i}" for i in range(1, 27))
_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Spec:
    """One case of the job.

    Attributes:
        format: `tsv`, `parquet-int`, `parquet-hex` or `parquet-lists`.
        files: paths, in order.
        threads: cores that the engine has.
        batch_size: rows of a batch; the last one of a file may have fewer.
        buckets: ids go below this.
        seed: of hashes, where they take one.
        folder: for whatever the engine keeps on disk.
    """

    format: str
    files: list[str]
    threads: int
    batch_size: int
    buckets: int
    seed: int
    folder: str


Pipeline = Callable[[], Iterable[Any]]
"""Makes a new pipeline over all files and gives its batches, tuples whose last part has a row for each label."""


class Job(Protocol):
    """What an engine does."""

    def variants(self, spec: Spec) -> dict[str, Pipeline]:
        """Return the ways to do the job that are worth trying, by name, or none if the engine cannot do this case."""

    def arrays(self, batch: Any) -> Arrays:
        """Return dense (B, 13), ids (feature-major, flat), lengths (26 * B,) and label (B,) of a batch."""

    def close(self) -> None:
        """End what the engine keeps running."""


def serve(packages: Sequence[str], open_job: Callable[[int], Job]) -> None:
    """Take commands until `stop`, or until nobody is there to give any.

    Args:
        packages: whose versions are told.
        open_job: imports them and returns the job for so many threads; what it imports finds the cores already set.
    """
    cores: list[int] = json.loads(sys.argv[1])["cores"]
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, cores)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    job = open_job(len(cores))
    answer({"versions": {package: metadata.version(package) for package in packages}})
    server = _Server(job)
    try:
        while line := sys.stdin.readline():
            command = json.loads(line)
            if command["do"] == "stop":
                break
            try:
                answer(server.do(command))
            except Exception as error:
                traceback.print_exc()
                answer({"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"})
    finally:
        job.close()
    answer({})


class _Server:
    def __init__(self, job: Job) -> None:
        self._job = job

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        variants = self._job.variants(Spec(**command["spec"]))
        if command["do"] == "check":
            return {"written": {name: self._write(make, command["out"], name) for name, make in variants.items()}}
        if command["do"] == "tune":
            return {"seconds": {name: _run(make, 1)["seconds"] for name, make in variants.items()}}
        return _run(variants[command["variant"]], command["passes"])

    def _write(self, make: Pipeline, out: str, name: str) -> str:
        """Write all that a variant gives as one .npz: (rows, 13), the ids by feature, (26, rows), (rows,)."""
        import numpy as np

        dense, label, lengths, ids = [], [], [], []
        for batch in make():
            one = self._job.arrays(batch)
            dense.append(np.array(one[0]))
            lengths.append(np.array(one[2]).reshape(len(SPARSE), -1))
            label.append(np.array(one[3]).reshape(-1))
            ids.append(np.split(np.array(one[1]), np.cumsum(lengths[-1].sum(axis=1))[:-1]))
        by_feature = [part for feature in zip(*ids, strict=True) for part in feature]
        path = f"{out}-{''.join(c if c.isalnum() else '-' for c in name)}.npz"
        np.savez(
            path,
            dense=np.concatenate(dense),
            lengths=np.concatenate(lengths, axis=1),
            label=np.concatenate(label),
            ids=np.concatenate(by_feature),
        )
        return path


def _run(make: Pipeline, passes: int) -> dict[str, Any]:
    before = started_cpu_seconds() + time.process_time()
    gc.collect()
    rows, first = 0, 0.0
    started = started_cpu_seconds()  # looking costs milliseconds, which are nobody's
    cpu, begin = time.process_time(), time.monotonic()
    for _ in range(passes):
        for batch in make():
            rows += len(batch[-1])
            del batch  # nothing is held, so that its memory can be used again
            first = first or time.monotonic()
    seconds = time.monotonic() - begin
    own = time.process_time() - cpu
    started_after = started_cpu_seconds()
    return {
        "seconds": seconds,
        "cpu_seconds": own + started_after - started,
        "rows": rows,
        "first_batch_s": first - begin,
        "first_batch_at": first,
        "cpu_before": before,
        "cpu_after": started_after + time.process_time(),
    }
