"""`python -m bench --suite scale`: rates and memory as rows, threads, batches, columns and lists grow; training."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from bench import fresh, names, report
from bench.harness import CheckError, Effort
from bench.report import Report

if TYPE_CHECKING:
    from bench.scale_report import Measured

Section = Literal["rows", "threads", "batch_size", "features", "lists", "training"]
SECTIONS: tuple[Section, ...] = get_args(Section)
FORMATS = ("tsv", "parquet")


@dataclass(frozen=True)
class Args:
    """Measure how rows per second and memory go with rows, threads, batch size, columns and lists; and training."""

    suite: Literal["scale"] = "scale"
    """This suite."""
    sections: tuple[Section, ...] = SECTIONS
    """Leave some out with, for instance, --sections rows threads."""
    rows: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    """Rows of a pass, of section rows; the largest is measured three times, the others five times."""
    unit_rows: int = 1_000_000
    """Rows of a file: longer logs are links to one file. --unit-rows 10000000 writes every row of the longest."""
    batch_sizes: tuple[int, ...] = (256, 1_024, 4_096, 16_384, 65_536)
    """Rows of a batch, of section batch_size."""
    columns: tuple[int, ...] = (10, 25, 50, 100, 200, 400)
    """Of section features: half dense, half ids, int32."""
    cells: int = 16_000_000
    """Values of a file of section features, whatever its columns."""
    lengths: tuple[int, ...] = (1, 5, 20, 100)
    """Mean lengths of the lists of section lists."""
    values: int = 8_000_000
    """Ids of a file of section lists, whatever their length."""
    steps: int = 30
    """Timed steps of a sample of section training."""
    training_batch: int = 4_096
    """Rows of its batches."""
    repeats: int = 5
    """Rounds, each with a sample of everything that is compared."""
    tiny: bool = False
    """A run of seconds that shows that the bench works; its figures mean nothing."""
    seed: int = 0
    """Of data and hashes."""
    out: Path | None = None
    """Write the results, every sample included, into this JSON file."""
    save: bool = False
    """Write them to bench/results/<date>-<commit>-scale.json."""


TINY: dict[str, Any] = {
    "rows": (10_000, 20_000),
    "unit_rows": 10_000,
    "batch_sizes": (256, 4_096),
    "columns": (10, 40),
    "cells": 80_000,
    "lengths": (1, 5),
    "values": 40_000,
    "steps": 2,
    "training_batch": 256,
    "repeats": 1,
}
MOST_SAMPLES_OF_THE_LARGEST = 3
BATCH = 8_192
WIDE_BATCH, LISTS_BATCH = 4_096, 1_024
WARM_ROWS = 20_000


def main(args: Args) -> int:
    """Run the suite; return the exit status: 1 where a section failed, 2 for a wrong flag."""
    fault = _fault(args)
    if fault:
        print(f"bench: {fault}", file=sys.stderr)
        return 2
    fresh.prepare()
    from bench import scale_report

    result, begin = report.header("scale", tiny=args.tiny, seed=args.seed, repeats=args.repeats), time.perf_counter()
    status = 0
    with tempfile.TemporaryDirectory(prefix="intune_gpu-bench-") as folder:
        suite = Suite(args, Path(folder), result)
        for section in dict.fromkeys(args.sections):
            try:
                getattr(suite, section)()
            except (fresh.JobError, CheckError) as error:
                result["skipped"][section] = f"FAILED: {error}"
                print(f"bench: {section} failed: {error}", file=sys.stderr)
                status = 1
            except KeyboardInterrupt:
                result["skipped"][f"{section} and what follows"] = "stopped by Ctrl-C"
                status = 130
                break
    result["targets"] = scale_report.judge(result)
    result["elapsed_s"] = time.perf_counter() - begin
    report.finish(result, args.out, args.save and status == 0)
    return status


@dataclass(frozen=True)
class Suite:
    """One run: each method is a section.

    Attributes:
        args: what was asked for.
        folder: for files; each section removes its own.
        result: is added to.
    """

    args: Args
    folder: Path
    result: Report

    def rows(self) -> None:
        """Measure whole passes over ever longer logs, each in a process of its own."""
        from bench import scale_report

        for format in FORMATS:
            with self._folder(f"rows, {format}") as folder:
                logs, warm = self._logs(format, self.args.rows, folder)
                largest, passes = max(logs), {rows: list[Any]() for rows in logs}
                for number in range(self.args.repeats):
                    for rows, data in logs.items():
                        if rows < largest or number < MOST_SAMPLES_OF_THE_LARGEST:
                            passes[rows].append(self._pass(data, warm))
                x = {f"{rows:,} rows": rows for rows in logs}
                points = {f"{rows:,} rows": found for rows, found in passes.items()}
                wanted = {f"{rows:,} rows": data.rows for rows, data in logs.items()}
                self._add(scale_report.case("rows", format, points, x, wanted, _cores()))
                self.result["figures"] += scale_report.figures(format, points)

    def threads(self) -> None:
        """Measure whole passes with 1, 2, 4, ... and all cores, each in a process of its own."""
        from bench import scale_report

        for format in FORMATS:
            with self._folder(f"threads, {format}") as folder:
                logs, warm = self._logs(format, (self.args.unit_rows,), folder)
                (data,) = logs.values()
                points: dict[str, list[Any]] = {names.threads(n): [] for n in _counts(_cores())}
                x = {names.threads(n): n for n in _counts(_cores())}
                for _ in range(self.args.repeats):
                    for name, cores in x.items():
                        points[name].append(self._pass(data, warm, cores))
                self._add(scale_report.case("threads", format, points, x, dict.fromkeys(x, data.rows), _cores()))

    def batch_size(self) -> None:
        """Measure epochs with batches of several sizes."""
        from bench import scale_jobs

        for format in FORMATS:
            with self._folder(f"batch size, {format}") as folder:
                logs, _ = self._logs(format, (self.args.unit_rows,), folder)
                (data,) = logs.values()
                job = partial(scale_jobs.batch_sizes, format, data, self.args.batch_sizes, _cores(), self._effort)
                self._add(fresh.run(job).result)

    def features(self) -> None:
        """Measure tables of ever more columns, with as many values each."""
        from bench import scale_data

        columns, cells = self.args.columns, self.args.cells
        write = partial(scale_data.wide, cells=cells, seed=self.args.seed)
        self._files("features", f"parquet, {cells:,} int32 values", "columns", columns, write, WIDE_BATCH)

    def lists(self) -> None:
        """Measure lists of ever more ids, with as many ids each."""
        from bench import scale_data

        lengths, values = self.args.lengths, self.args.values
        write = partial(scale_data.lists, values=values, seed=self.args.seed)
        self._files("lists", f"parquet, {values:,} int32 ids", "ids a list", lengths, write, LISTS_BATCH)

    def training(self) -> None:
        """Measure training end to end."""
        with self._folder("training") as folder:
            logs, _ = self._logs("parquet", (self.args.unit_rows,), folder)
            (data,) = logs.values()
            found = fresh.run(partial(_train, data, self.args)).result
            self._add(found["case"])
            self.result["figures"] += found["figures"]
            self.result["skipped"] |= found["skipped"]

    def _files(
        self, section: str, name: str, unit: str, x: Sequence[int], write: Callable[..., Any], batch: int
    ) -> None:
        from bench import scale_jobs

        with self._folder(section) as folder:
            points = {f"{count:,} {unit}": (_written(partial(write, count, folder=folder)), batch) for count in x}
            job = partial(scale_jobs.files, section, name, points, x, _cores(), self._effort)
            self._add(fresh.run(job).result)

    def _logs(self, format: str, rows: Sequence[int], folder: Path) -> tuple[dict[int, Any], Any]:
        """Write logs of each length, and small ones to warm up on."""
        from bench import scale_data

        unit = self.args.unit_rows
        made = {
            count: _written(partial(scale_data.click_logs, format, count, unit, self.args.seed, folder))
            for count in rows
        }
        warm = min(WARM_ROWS, unit)
        return made, _written(partial(scale_data.click_logs, format, warm, warm, self.args.seed + 1, folder / "warm"))

    def _pass(self, data: Any, warm: Any, cores: int | None = None) -> Measured:
        from bench import scale_jobs, scale_report

        outcome = fresh.run(partial(scale_jobs.one_pass, data, warm, BATCH), cores)
        return scale_report.Measured(outcome.result, outcome.peak_bytes)

    def _add(self, case: Any) -> None:
        self.result["cases"].append(case)

    @property
    def _effort(self) -> Effort:
        return Effort(self.args.repeats, 0.0 if self.args.tiny else 0.2)

    @contextmanager
    def _folder(self, what: str) -> Iterator[Path]:
        """Give a folder for one section's files."""
        print(f"  {what}", file=sys.stderr, flush=True)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _written(write: Callable[[], Any]) -> Any:
    """Write data in a process of its own, so that this one stays as it is; return what was written."""
    from bench import scale_data

    return scale_data.Data(**fresh.run(lambda: asdict(write())).result)


def _train(data: Any, args: Args) -> Any:
    from bench.scale_training import Job, measured  # starts threads

    return measured(Job(data, args.training_batch, args.steps, args.repeats, args.seed, args.tiny))


def _counts(cores: int) -> list[int]:
    """Return 1, 2, 4, ... and all cores."""
    return sorted({min(1 << power, cores) for power in range(cores.bit_length() + 1)})


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _fault(args: Args) -> str | None:
    for name in ("rows", "batch_sizes", "columns", "lengths"):
        if not getattr(args, name) or min(getattr(args, name)) < 1:
            return f"--{name.replace('_', '-')}: expected numbers of at least 1, found {getattr(args, name)}"
    for name in ("unit_rows", "cells", "values", "steps", "training_batch", "repeats"):
        if getattr(args, name) < 1:
            return f"--{name.replace('_', '-')}: expected at least 1, found {getattr(args, name)}"
    return None


def parse(arguments: Sequence[str]) -> Args:
    """Read flags; a tiny run has small numbers where none are given."""
    import tyro

    default = Args(**TINY, tiny=True) if "--tiny" in arguments else Args()
    return tyro.cli(Args, prog="python -m bench", description=Args.__doc__, args=list(arguments), default=default)
