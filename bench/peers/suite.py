"""`python -m bench --suite peers`: the whole job, file → batches in memory, by what users would pick instead."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import names, report
from bench.harness import CheckError
from bench.peers import data, environments, judging, reference, rounds, table
from bench.peers.child import Child, EngineError
from bench.peers.environments import NoEnvironmentError
from bench.peers.rounds import Case, Runner
from bench.peers.table import Engine, Format


@dataclass(frozen=True)
class Args:
    """Measure intune_gpu against tf.data, DataLoader, Polars, Ray Data, pandas and TorchRec's scripts.

    Each runs in processes of its own, in turn with the others, and its results are checked first.
    """

    suite: str = "peers"
    """This suite."""
    formats: tuple[Format, ...] = table.FORMATS
    """What is read."""
    engines: tuple[str, ...] = tuple(engine.key for engine in table.ENGINES)
    """Who reads it."""
    threads: tuple[int, ...] = (1, 2)
    """Cores that each engine gets; more than there are is left out, and said."""
    rows: int = 262_144
    """Rows of the files that are timed."""
    batch_size: int = 8_192
    """Rows of a batch."""
    repeats: int = 5
    """Rounds, each with one run of every engine."""
    memory: bool = True
    """Run every engine once more in a process of its own, for peak memory and start, with the most threads."""
    data: Path | None = None
    """A real Criteo TSV, whose first rows are taken; by default rows are generated."""
    install: bool = True
    """Make the environments of peers that are not there yet."""
    tiny: bool = False
    """A run of seconds that shows that the bench works, in the project's own environment; its figures mean nothing."""
    seed: int = 0
    """Of data and hashes."""
    out: Path | None = None
    """Write the results, every sample included, into this JSON file."""
    save: bool = False
    """Write them to bench/results/<date>-<commit>-peers.json."""


TINY: dict[str, Any] = {
    "rows": 4_096,
    "batch_size": 512,
    "repeats": 1,
    "install": False,
    "memory": False,
}
_FILES = 4
_CHECKED_ROWS, _CHECKED_FILES = 20_000, 2
_MIN_SAMPLE_S = 0.5


def parse(arguments: Sequence[str]) -> Args:
    """Read flags; a tiny run has small numbers where none are given."""
    import tyro

    cores = len(os.sched_getaffinity(0))
    default = Args(**TINY, tiny=True, threads=(min(2, cores),)) if "--tiny" in arguments else Args()
    return tyro.cli(Args, prog="python -m bench", description=Args.__doc__, args=list(arguments), default=default)


def main(args: Args) -> int:
    """Run the suite; return the exit status."""
    wrong = _wrong(args)
    if wrong:
        print(f"bench: {wrong}", file=sys.stderr)
        return 2
    from rich.console import Console

    console, begin = Console(width=None if sys.stdout.isatty() else 130), time.perf_counter()
    suite = Suite(args)
    try:
        with tempfile.TemporaryDirectory(prefix="intune_gpu-bench-", ignore_cleanup_errors=True) as folder:
            suite.run(Path(folder))
    except (CheckError, OursError, ValueError) as error:
        what = "a check failed: " * isinstance(error, CheckError)
        print(f"bench: {what}{error}: nothing was saved", file=sys.stderr)
        return 1
    result = suite.result
    result["targets"] = judging.judge(result["cases"])
    result["elapsed_s"] = time.perf_counter() - begin
    report.show(result, console)
    for path in ([args.out] if args.out else []) + ([report.default_path(result)] if args.save else []):
        report.save(result, path)
        console.print(f"written: {path}", highlight=False)
    return 0


Files = tuple[data.Written, data.Written, reference.Expected]


class OursError(Exception):
    """Ours could not run: there is nothing to compare with."""


@dataclass(eq=False)
class Suite:
    """A run.

    Attributes:
        args: what was asked for.
        result: what was found so far.
        pythons: engine → its interpreter, of those that can run.
        chosen: (engine, format) → the way that was chosen, with the most threads.
    """

    args: Args
    result: report.Report = field(init=False)
    pythons: dict[str, Path] = field(default_factory=dict)
    chosen: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        args = self.args
        self.result = report.header("peers", tiny=args.tiny, seed=args.seed, repeats=args.repeats)

    def run(self, folder: Path) -> None:
        """Measure everything into `result`.

        Raises:
            CheckError: an engine's results are wrong.
            OursError: ours could not run.
            ValueError: --data is no Criteo text.
        """
        engines = self._engines()
        files = self._write(folder)
        cores = sorted(os.sched_getaffinity(0))
        counts = [count for count in dict.fromkeys(self.args.threads) if count <= len(cores)]
        for count in self.args.threads:
            if count not in counts:
                self.result["skipped"][names.threads(count)] = f"there are {len(cores)} cores here"
        for count in counts:
            cases = [self._case(format, count, files, folder) for format in files]
            self._measure(cases, engines, cores[:count])
            if self.args.memory and count == max(counts):
                self._alone(cases, engines, cores[:count])

    def _engines(self) -> list[Engine]:
        """Return the engines that can run here; the others go to `skipped`."""
        found, args = [], self.args
        for engine in table.ENGINES:
            if engine.key not in args.engines:
                continue
            if args.tiny and engine.environment is not None:
                self.result["skipped"][engine.name] = "it has an environment of its own, which a tiny run leaves out"
                continue
            try:
                environment = engine.environment
                own = None if environment is None else environments.prepare(environment, args.install, _say)
                self.pythons[engine.key] = own or Path(sys.executable)
                found.append(engine)
            except NoEnvironmentError as error:
                self.result["skipped"][engine.name] = str(error)
        for name, attempt in table.ATTEMPTED.items():
            try:
                environments.prepare(attempt, args.install, _say)
                self.result["skipped"][name] = "pip installs it, but there is no job for it here"
            except NoEnvironmentError as error:
                self.result["skipped"][name] = str(error)
        return found

    def _write(self, folder: Path) -> dict[str, Files]:
        """Return for each format the files that are timed, those that are checked, and what must come out of these."""
        args = self.args
        _say(f"writing {args.rows:,} rows in {len(args.formats)} formats")
        whole = data.real(args.data, args.rows) if args.data else data.generated(args.rows, args.seed, folder)
        small = data.numbered(whole.slice(0, min(_CHECKED_ROWS, whole.num_rows)).combine_chunks(), _CHECKED_FILES)
        found: dict[str, Files] = {}
        for format in dict.fromkeys(args.formats):
            timed = data.write(whole, format, folder / "timed" / format, args.seed, max(_FILES, 2 * max(args.threads)))
            checked = data.write(small, format, folder / "checked" / format, args.seed, _CHECKED_FILES)
            wanted = reference.expected(data.as_format(small, format, args.seed), format, args.seed)
            found[format] = (timed, checked, wanted)
        return found

    def _case(self, format: str, threads: int, files: dict[str, Files], folder: Path) -> Case:
        kept = folder / f"kept-{format}"
        kept.mkdir(exist_ok=True)
        timed, checked, wanted = files[format]
        return Case(format, threads, timed, checked, wanted, self.args.batch_size, self.args.seed, kept)

    def _measure(self, cases: Sequence[Case], engines: Sequence[Engine], cores: list[int]) -> None:
        threads = names.threads(len(cores))
        with ExitStack() as stack:
            children = []
            _say(f"{threads}: starting {len(engines)} engines")
            started = [
                stack.enter_context(Child(engine, self.pythons[engine.key], cores, cases[0].folder))
                for engine in engines
            ]
            for child in started:
                with self._may_fail(child.engine, threads):
                    child.wait_until_ready()
                    self.result["versions"] |= _shown(child.engine, child)
                    children.append(child)
            for case in cases:
                self._measure_case(case, children)

    def _measure_case(self, case: Case, children: Sequence[Child]) -> None:
        where = f"{case.format}, {names.threads(case.threads)}"
        _say(f"{where}: checking and tuning")
        checks: list[str] = []
        ready: list[Runner] = []
        for child in children:
            runner = Runner(child)
            if case.format not in child.engine.formats:
                continue
            with self._may_fail(child.engine, where):
                checks += rounds.prepare(case, runner, 0.0 if self.args.tiny else _MIN_SAMPLE_S)
                ready.append(runner)
        _say(f"{where}: {self.args.repeats} rounds of {len(ready)} engines")
        failed = rounds.run(case, ready, self.args.repeats)
        for name, reason in failed.items():
            self._skip(name, where, reason)
        done = rounds.first([runner for runner in ready if runner.engine.name not in failed])
        if not done:
            return
        self.chosen |= {(runner.engine.key, case.format): runner.variant for runner in done}
        self.result["cases"].append(rounds.record(case, done, checks))
        self.result["figures"] += rounds.waits(case, done) + rounds.idles(case, done)

    def _alone(self, cases: Sequence[Case], engines: Sequence[Engine], cores: list[int]) -> None:
        for case in cases:
            _say(f"{case.format}: memory and start of each engine")
            for engine in engines:
                variant = self.chosen.get((engine.key, case.format))
                if variant is not None:
                    with self._may_fail(engine, f"{case.format}, memory"):
                        python = self.pythons[engine.key]
                        self.result["figures"] += rounds.alone(case, engine, python, cores, variant)

    @contextmanager
    def _may_fail(self, engine: Engine, where: str) -> Iterator[None]:
        try:
            yield
        except EngineError as error:
            self._skip(engine.name, where, str(error))

    def _skip(self, name: str, where: str, reason: str) -> None:
        if name == table.OURS:
            raise OursError(f"{where}: {reason}")
        self.result["skipped"][f"{name}, {where}"] = reason
        _say(f"{where}: {reason}")


def _wrong(args: Args) -> str | None:
    """Return what is wrong with the flags."""
    for name in ("rows", "repeats", "batch_size"):
        if getattr(args, name) < 1:
            return f"--{name.replace('_', '-')}: expected at least 1, found {getattr(args, name)}"
    if min(args.threads, default=0) < 1:
        return f"--threads: expected at least 1, found {' '.join(map(str, args.threads)) or 'none'}"
    known = [engine.key for engine in table.ENGINES]
    unknown = [key for key in args.engines if key not in known]
    if unknown or "ours" not in args.engines:
        return f"--engines: expected ours and some of {', '.join(known)}, found {', '.join(args.engines)}"
    return None


def _shown(engine: Engine, child: Child) -> dict[str, str]:
    """Return the versions of a peer's own environment, under names that tell it from the project's."""
    if engine.environment is None:
        return {}
    return {f"{engine.name}: {package}": version for package, version in child.versions.items()}


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)
