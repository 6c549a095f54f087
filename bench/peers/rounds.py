"""One case: every engine's results checked, each tuned, then runs in turn; and what a process of its own takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import names
from bench.clicks import NUM_BUCKETS
from bench.harness import CaseRecord, EngineRecord, Sample, ratio, spread
from bench.peers import processes, reference
from bench.peers.child import ANSWER_S, Child, EngineError
from bench.peers.data import Written
from bench.peers.reference import Expected
from bench.peers.serving import Spec
from bench.peers.table import OURS, Engine
from bench.report import Figure, figure

SECTION = "peers"
_SAMPLED_S = 0.05
_MOST_PASSES = 50


@dataclass(frozen=True, eq=False)
class Case:
    """One format with so many threads.

    Attributes:
        format: of `table.FORMATS`.
        threads: cores of each engine.
        whole: the files that are timed.
        checked: small ones, of the same format.
        wanted: what must come out of those.
        batch_size: rows of a batch.
        seed: of the hashes.
        folder: for what engines keep.
    """

    format: str
    threads: int
    whole: Written
    checked: Written
    wanted: Expected
    batch_size: int
    seed: int
    folder: Path

    def spec(self, engine: Engine, written: Written) -> dict[str, Any]:
        """Return what an engine is told of it."""
        own = self.folder / f"{engine.key}-{self.threads}"
        own.mkdir(exist_ok=True)
        part = self.part(engine) if written is self.whole else written
        found = Spec(self.format, part.files, self.threads, self.batch_size, NUM_BUCKETS, self.seed, str(own))
        return asdict(found)

    def part(self, engine: Engine) -> Written:
        """Return the files that an engine is timed on: all, or for a slow one some, and no fewer than its cores."""
        return self.whole.share(engine.share, self.threads)

    def factor(self, engine: Engine) -> float:
        """Return by how much an engine's seconds are to be multiplied, since it does a part of the rows only."""
        return self.whole.rows / self.part(engine).rows


@dataclass(eq=False)
class Runner:
    """One engine of a case: its process, the way that was chosen, and what was measured."""

    child: Child
    variant: str = ""
    tried: dict[str, float] = field(default_factory=dict)
    passes: int = 1
    samples: list[Sample] = field(default_factory=list)
    first_batches_s: list[float] = field(default_factory=list)
    idle: list[tuple[float, float]] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        """Return what it runs."""
        return self.child.engine


def prepare(case: Case, runner: Runner, min_sample_s: float) -> list[str]:
    """Check every way of an engine and choose the fastest; return sentences of what was equal, none if it has no way.

    Raises:
        CheckError: its results are wrong.
        EngineError: it died, hung, or raised.
    """
    engine, ask = runner.engine, runner.child.ask
    out = str(case.folder / f"{engine.key}-{case.format}-{case.threads}")
    written = ask({"do": "check", "spec": case.spec(engine, case.checked), "out": out})["written"]
    said = []
    for way, path in written.items():
        sentence = reference.check(engine, case.format, Path(path), case.wanted)
        said.append(sentence + f" ({way})" * (len(written) > 1))
        Path(path).unlink()
    if written:
        runner.tried = ask({"do": "tune", "spec": case.spec(engine, case.whole)})["seconds"]
        runner.variant = min(runner.tried, key=runner.tried.__getitem__)
        runner.passes = max(1, min(_MOST_PASSES, round(min_sample_s / runner.tried[runner.variant])))
    return said


def run(case: Case, runners: Sequence[Runner], repeats: int) -> dict[str, str]:
    """Let all run in turn, so many rounds; return who could not go on, and why."""
    failed: dict[str, str] = {}
    for _ in range(repeats):
        for runner in runners:
            if runner.engine.name in failed:
                continue
            try:
                _sample(case, runner)
            except EngineError as error:
                failed[runner.engine.name] = str(error)
    return failed


def _sample(case: Case, runner: Runner) -> None:
    spec = case.spec(runner.engine, case.whole)
    asked = time.monotonic()
    found = runner.child.ask({"do": "run", "spec": spec, "variant": runner.variant, "passes": runner.passes})
    rows = case.part(runner.engine).rows * runner.passes
    if found["rows"] != rows:
        raise EngineError(f"{runner.engine.name}: expected {rows} rows of a run, found {found['rows']}")
    factor = case.factor(runner.engine)
    runner.samples.append({"seconds": found["seconds"] * factor, "cpu_seconds": found["cpu_seconds"] * factor})
    runner.first_batches_s.append(found["first_batch_s"])
    runner.idle.append((asked, found["cpu_before"]))
    runner.idle.append((time.monotonic(), found["cpu_after"]))


def record(case: Case, runners: Sequence[Runner], checks: list[str]) -> CaseRecord:
    """Return what was measured of a case."""
    engines = [_engine_record(case, runner) for runner in runners]
    return {
        "section": SECTION,
        "name": case.format,
        "threads": case.threads,
        "rows": case.whole.rows,
        "details": {
            "file_bytes_per_row": case.whole.nbytes / case.whole.rows,
            "batch_rows": float(case.batch_size),
            "ids_per_row": float(case.wanted.lengths.sum() / len(case.wanted.label)),
        },
        "checks": checks,
        "engines": engines,
        "ratios": [ratio(engines[0], other) for other in engines[1:]],
    }


def _engine_record(case: Case, runner: Runner) -> EngineRecord:
    rows, samples = case.whole.rows * runner.passes, runner.samples
    tried = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in runner.tried.items())
    note, part = runner.engine.note, case.part(runner.engine)
    if part is not case.whole:
        note += f"; {part.rows:,} of the rows, its seconds times {case.factor(runner.engine):g}"
    if len(runner.tried) > 1:
        note += f"; chosen here: {runner.variant}, of {tried}"
    return {
        "name": runner.engine.name,
        "role": runner.engine.role,
        "note": note,
        "passes": runner.passes,
        "samples": samples,
        "rows_per_s": spread([rows / sample["seconds"] for sample in samples]),
        "cpu_s_per_m_rows": spread([sample["cpu_seconds"] for sample in samples])["median"] / rows * 1e6,
    }


def waits(case: Case, runners: Sequence[Runner]) -> list[Figure]:
    """Return each engine's time to its first batch, of a new pipeline in a process that has run before."""
    return [
        figure(
            SECTION, _name(case, runner.engine, "time to first batch"), "s", runner.first_batches_s, "a new pipeline"
        )
        for runner in runners
    ]


def idles(case: Case, runners: Sequence[Runner]) -> list[Figure]:
    """Return what each engine's processes used of a core while others ran."""
    found = []
    for runner in runners:
        gaps = list(zip(runner.idle[1::2], runner.idle[2::2], strict=False))
        shares = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in gaps if b[0] > a[0]]
        if shares:
            name = _name(case, runner.engine, "used while others run")
            found.append(figure(SECTION, name, "cores", shares, "CPU seconds a second between two of its runs"))
    return found


def alone(case: Case, engine: Engine, python: Path, cores: list[int], variant: str) -> list[Figure]:
    """Run once in a process of its own, and return its peak memory and its start.

    Raises:
        EngineError: it died, hung, or raised.
    """
    with Child(engine, python, cores, case.folder) as child:
        child.wait_until_ready()
        spec = case.spec(engine, case.whole)
        child.tell({"do": "run", "spec": spec, "variant": variant, "passes": 1})
        peak, deadline = 0, time.monotonic() + ANSWER_S
        while not child.answered() and time.monotonic() < deadline:
            peak = max(peak, processes.pss_bytes(child.pid))
            time.sleep(_SAMPLED_S)
        found = child.hear()
        peak = max(peak, processes.pss_bytes(child.pid))
        start_s = found["first_batch_at"] - child.started_at
    note = "one run in a process of its own, all its processes, shared pages in parts, every 50 ms"
    cold = "from the start of a process to its first batch, imports included"
    return [
        figure(SECTION, _name(case, engine, "peak memory"), "bytes", [float(peak)], note),
        figure(SECTION, _name(case, engine, "process start to first batch"), "s", [start_s], cold),
    ]


def _name(case: Case, engine: Engine, what: str) -> str:
    return f"{case.format}, {names.threads(case.threads)}: {engine.name}: {what}"


def first(runners: Sequence[Runner]) -> list[Runner]:
    """Return the runners with ours in front, with which all others are compared."""
    return sorted(runners, key=lambda runner: runner.engine.name != OURS)
