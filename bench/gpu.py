"""`python -m bench --suite gpu`: measure a GPU, check every result, judge the targets.

A module without tyro, since it runs where GPUs are, and there may be little installed: what is not there is skipped by
name. `--tiny --host` runs everything on a device in host memory: it shows that the bench works, and measures nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from bench import gpu_cases, names, report, targets
from bench.gpu_clock import HOST, Sampler, by_clock, by_events, host_us, is_gpu
from bench.gpu_report import Gpu, GpuReport, device_line
from bench.harness import Case, CheckError, Effort, Engine, measure, spread
from intune_gpu.core.errors import DeviceError, MissingPackageError
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.opening import open_device

SECTIONS = ("copy", "transform", "host", "strings", "lists", "text", "end_to_end", "training")
NO_GPU = 3


class Suite:
    """One run.

    Args:
        args: what was asked for.
        device: what is measured.
        folder: for files.
    """

    def __init__(self, args: argparse.Namespace, device: Device, folder: Path) -> None:
        self._args, self._device, self._folder = args, device, folder
        self._begin = time.monotonic()
        repeats = args.repeats or (2 if args.tiny else 7)
        self.report: GpuReport = {
            **report.header("gpu", tiny=args.tiny, seed=args.seed, repeats=repeats),
            "device": "cuda" if is_gpu(device) else HOST,
            "gpu": gpu(device),
        }

    def run(self) -> int:
        """Run the sections that were asked for, within the time; return the exit status."""
        status = 0
        for name in self._args.sections:
            if self._left_s <= 0:
                self.report["skipped"][name] = f"the {self._args.limit_s:.0f} s of --limit-s were over"
                continue
            print(f"  {name}", file=sys.stderr, flush=True)
            try:
                getattr(self, f"_{name}")()
            except CheckError as error:
                self.report["skipped"][name] = f"A CHECK FAILED: {error}"
                status = 1
            except Exception as error:
                # What is left may still say something, and a day with a GPU is rare.
                self.report["skipped"][name] = f"FAILED: {type(error).__name__}: {error}"
                status = 1
            self.save()
        return status

    def save(self) -> None:
        """Judge what there is, and write it."""
        self.report["elapsed_s"] = time.monotonic() - self._begin
        if is_gpu(self._device):
            self.report["targets"] = targets.judge_gpu(self.report["cases"], self.report["figures"])
        if self._args.out is not None:
            report.save(self.report, self._args.out)

    @property
    def _left_s(self) -> float:
        return float(self._args.limit_s) - (time.monotonic() - self._begin)

    def _measure(self, cases: Iterator[Case], clock: Callable[[Device], Sampler]) -> None:
        effort = Effort(self.report["repeats"], 0.0 if self._args.tiny else 0.05)
        for case in cases:
            self.report["cases"].append(measure(case, effort, clock(self._device)))
            if self._left_s <= 0:
                self.report["skipped"][f"{case.section} after {case.name}"] = "the time was over"
                return

    def _copy(self) -> None:
        """Measure what no transform can pass: copies on the device, and to and from it."""
        nbytes = 1 << 12 if self._args.tiny else 1 << 30
        device, where = self._device, self._device.where
        pinned, pageable = device.pinned(nbytes), torch.zeros(nbytes, dtype=torch.uint8)
        pinned.zero_()
        one, other = (torch.zeros(nbytes, dtype=torch.uint8, device=where) for _ in range(2))
        jobs: dict[str, tuple[int, Callable[[], object]]] = {
            names.DEVICE_COPY: (2, lambda: other.copy_(one)),
            "pinned to device": (1, lambda: one.copy_(pinned, non_blocking=True)),
            "device to pinned": (1, lambda: pinned.copy_(one, non_blocking=True)),
            "pageable to device": (1, lambda: one.copy_(pageable)),
        }
        sample = by_events(device)
        for name, (times, job) in jobs.items():
            engine = Engine(name, "bound", "", lambda job=job: device.transform(job))  # type: ignore[misc]
            sample(engine, 1)
            rates = [times * nbytes * 4 / sample(engine, 4)["seconds"] / 1e9 for _ in range(self.report["repeats"])]
            note = f"{nbytes:,} bytes, {'read and written both counted' if times == 2 else 'counted once'}"
            self.report["figures"].append(report.figure("copy", name, "GB/s", spread(rates), note))

    def _transform(self) -> None:
        cases = gpu_cases.transform(self._device, self._args.tiny, self._args.seed, self.report["skipped"])
        self._measure(cases, by_events)

    def _strings(self) -> None:
        cases = gpu_cases.strings(self._device, self._args.tiny, self._args.seed, self.report["skipped"])
        self._measure(cases, by_events)

    def _lists(self) -> None:
        cases = gpu_cases.lists(self._device, self._args.tiny, self._args.seed, self.report["skipped"])
        self._measure(cases, by_events)

    def _text(self) -> None:
        if self._needs("text", "polars"):  # the parser's room has it
            from bench import gpu_text

            self._measure(gpu_text.text(self._device, self._args.tiny, self._args.seed), by_clock)

    def _host(self) -> None:
        """Measure what the host does for a batch: launches alone, and, with TorchRec, the whole of it."""
        from bench.clicks import random_clicks

        rounds, calls = max(5, self.report["repeats"]), 2 if self._args.tiny else 200
        clicks = random_clicks(64 if self._args.tiny else 4096, "int32", self._args.seed)
        launches = gpu_cases.launches_of(self._device, clicks, clicks.rows, "int64", self._args.seed)
        note = "label, dense and hash of 13 + 26 columns"
        value = host_us(self._device, launches.launch, rounds, calls)
        self.report["figures"].append(report.figure("host", names.HOST_LAUNCH, "us", value, note))
        if self._needs("host", "torchrec"):
            from bench import gpu_batches

            self.report["figures"] += gpu_batches.host(self._device, self._args.tiny, self._args.seed, rounds)

    def _end_to_end(self) -> None:
        if self._needs("end_to_end", "torchrec") and self._needs("end_to_end", "polars"):
            from bench import gpu_batches

            cases = gpu_batches.end_to_end(self._device, self._args.tiny, self._args.seed, self._folder)
            self._measure(cases, by_clock)

    def _training(self) -> None:
        if not all(self._needs("training", package) for package in ("torchrec", "polars", "tyro", "safetensors")):
            return
        from bench import gpu_batches

        reason = gpu_batches.why_no_training(self._device)
        if reason:
            self.report["skipped"]["training"] = reason
            return
        arguments = self._device, self._args.tiny, self._args.seed, self._folder, max(1.0, self._left_s)
        try:
            self.report["figures"] += gpu_batches.training(*arguments)
        except subprocess.TimeoutExpired:
            self.report["skipped"]["training, what is not among the figures"] = "the time was over"

    def _needs(self, section: str, package: str) -> bool:
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:
            self.report["skipped"][f"{section} with {package}"] = f"{package} cannot be imported ({error})"
            return False
        return True


def gpu(device: Device) -> Gpu | None:
    """Return what is known of the GPU."""
    if not is_gpu(device):
        return None
    known = torch.cuda.get_device_properties(device.where)
    return {
        "name": str(known.name),
        "capability": f"{known.major}.{known.minor}",
        "memory_bytes": int(known.total_memory),
        "cuda": str(torch.version.cuda),
        "driver": _driver(),
    }


def _driver() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # NVML is a nicety here
        return None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(prog="python -m bench --suite gpu", description="Measure a GPU.")
    parser.add_argument("--suite", choices=("gpu",), default="gpu")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="only these")
    parser.add_argument("--tiny", action="store_true", help="seconds; shows that the bench works, measures nothing")
    parser.add_argument("--host", action="store_true", help="with --tiny: a device in host memory instead of a GPU")
    parser.add_argument("--repeats", type=int, default=None, help="rounds; 7 by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=1800.0, help="no section begins after so many seconds")
    parser.add_argument("--out", type=Path, default=None, help="write the results into this JSON file")
    parser.add_argument("--save", action="store_true", help="write them into bench/results/")
    args = parser.parse_args(arguments)
    if args.repeats is not None and args.repeats < 1:
        parser.error(f"--repeats: expected at least 1, found {args.repeats}")
    if args.host and not args.tiny:
        parser.error("--host: a device in host memory is not measured; give --tiny as well")
    if args.save and args.tiny:
        parser.error("--save: a tiny run is no result; give --out FILE")
    return args


def opened(host: bool) -> Device:
    """Return the device to measure.

    Raises:
        DeviceError: there is no GPU that can be used.
        MissingPackageError: numba-cuda is not installed.
    """
    if host:
        made: Device = importlib.import_module("tests.devices").HostDevice(eager=True)
        return made
    device = open_device("cuda")
    assert device is not None
    return device


def main(args: argparse.Namespace) -> int:
    """Run the suite; return the exit status: 1 where a check or a section failed, 3 where there is no GPU."""
    try:
        device = opened(args.host)
    except (DeviceError, MissingPackageError) as error:
        print(f"bench: {error}; or --tiny --host, which measures nothing", file=sys.stderr)
        return NO_GPU
    with tempfile.TemporaryDirectory(prefix="intune_gpu-bench-") as folder:
        suite = Suite(args, device, Path(folder))
        status = suite.run()
    suite.save()
    if args.save and not status:
        report.save(suite.report, report.default_path(suite.report))
    _show(suite.report)
    return status


def _show(result: GpuReport) -> None:
    try:
        from rich.console import Console
    except ImportError:  # without tables
        for case in result["cases"]:
            for engine in case["engines"]:
                rate = engine["rows_per_s"]["median"]
                print(f"{case['section']}: {case['name']}: {engine['name']}: {rate / 1e6:.4g} M rows/s")
        print(json.dumps(result["targets"], indent=1))
        print("\n".join(report.lines(result)))
    else:
        report.show(result, Console(width=None if sys.stdout.isatty() else 130))
    print(device_line(result))


if __name__ == "__main__":
    sys.exit(main(parse(None)))
