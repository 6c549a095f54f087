"""Everything that only a GPU can show, in one command of less than ten minutes: `make gpu-check`.

Usage: python tools/gpu_check.py [--out FOLDER] [--wheels FOLDER] [--dry] [--parts NAME ...] [--select EXPRESSION]

The Python that runs it is used as it is: it needs torch, numba-cuda, pyarrow, psutil, pytest and hypothesis, and no
network. What else is missing is named, with the parts that are left out for it; `--wheels` names a folder of wheels to
fetch it from. Runs the tests marked `gpu`, then `python -m bench --suite gpu`, each with a time limit of its own, and
writes gpu-check.json, logs and the bench's figures, whatever fails. Ends with 0, 1 (a part failed), 2 (asked wrongly)
or 3 (there is no GPU that can be used). `--dry` takes a device in host memory: it shows that everything here runs.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
FAILED, NO_GPU = 1, 3
PARTS = ("parity", "tests", "bench")
LIMITS_S = {"parity": 200.0, "tests": 190.0, "bench": 170.0}
PARALLEL = ("tests/gpu/test_edges.py", "tests/gpu/test_values.py")
"""What compiles many kernels, and takes the part `parity` in several processes."""
TOTAL_S = 570.0
GRACE_S = 8.0
"""For a part whose time is up, to write down what it has."""

NEEDED = ("torch", "numba", "numba_cuda", "numpy", "pyarrow", "psutil", "pytest", "hypothesis")
OPTIONAL = {
    "torchrec": "whole batches: ig.transform, Loader, the edge table, placement, memory budget, CuPy, end to end",
    "fbgemm_gpu": "training (its CUDA build)",
    "polars": "what reads Parquet: the loader's tests, end to end, training",
    "tyro": "training",
    "safetensors": "training",
    "rich": "the bench's tables",
    "cupy": "CuPy in and out, the bench's CuPy peer",
    "nvidia.dali": "batches and nodes inside DALI",
    "triton": "the bench's torch.compile peer",
    "xdist": "several processes for the part parity",
    "pynvml": "NVML's signals; the driver's version and clocks in the JSON",
}
FOLDERS = {"train": ("torchrec", "fbgemm_gpu", "polars", "tyro", "safetensors")}
"""Folders of tests whose conftest imports these."""

# One line a package, so that one whose import ends the process does not hide those before it.
PROBE = """
import importlib, importlib.metadata, json, sys, warnings
warnings.simplefilter("ignore")
names = {"numba_cuda": "numba-cuda", "pynvml": "nvidia-ml-py", "cupy": "cupy-cuda13x", "xdist": "pytest-xdist"}
names["nvidia.dali"] = "nvidia-dali-cuda130"
def version(name):
    for distribution in (names.get(name, name), name.replace("_", "-"), name.replace("_", "-") + "-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            pass
    return "of unknown version"
def say(**known):
    print(json.dumps(known), flush=True)
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == name
        reason = "" if absent else (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        say(package=name, version=None, reason=reason)
    else:
        say(package=name, version=version(name), reason="")
try:
    import torch
    say(built=torch.version.cuda)
    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        say(gpu=p.name, capability=f"{p.major}.{p.minor}", memory_bytes=p.total_memory)
    from intune_gpu.kernels import nvvm
    say(compile_fault=nvvm.fault())
except Exception as error:
    say(probe_fault=str(error)[:300])
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; return the exit status."""
    args = _parse(arguments)
    out: Path = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="intune_gpu-check-") as folder:
        return _check(args, out, Path(folder), time.monotonic())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make gpu-check", description=(__doc__ or "").splitlines()[0])
    default = Path(os.environ.get("OUT") or ROOT / "runs" / "gpu-check")
    parser.add_argument("--out", type=Path, default=default, help="where JSON and logs go (default: $OUT)")
    parser.add_argument("--wheels", type=Path, default=None, help="a folder of wheels to use beside what is installed")
    parser.add_argument("--dry", action="store_true", help="a device in host memory: no measurement, only plumbing")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--select", default="", help="only tests that match, as pytest's -k")
    parser.add_argument("--sections", nargs="+", default=(), help="only these sections of the bench")
    args = parser.parse_args(arguments)
    if args.wheels is not None and not list(args.wheels.glob("*.whl")):
        parser.error(f"--wheels: expected a folder with *.whl, found none in {args.wheels}")
    return args


def _check(args: argparse.Namespace, out: Path, folder: Path, begin: float) -> int:
    record: dict[str, Any] = {
        "schema_version": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "device": "host memory, not a measurement" if args.dry else "cuda",
        "parts": [],
        "passed": False,
    }
    file = out / "gpu-check.json"
    _write(record, file)
    environment = _environment(args.wheels, folder)
    record["machine"] = machine = probe(environment)
    record["elapsed_s"] = time.monotonic() - begin
    _write(record, file)
    _show(machine)
    refusal = why_not(machine, args.dry)
    if refusal:
        record["refused"] = refusal
        _write(record, file)
        print(f"gpu-check: {refusal}", file=sys.stderr)
        return NO_GPU
    for name in args.parts:
        left = TOTAL_S - (time.monotonic() - begin)
        part = _run(name, args, out, folder, environment, machine["packages"], left)
        record["parts"].append(part)
        record["elapsed_s"] = time.monotonic() - begin
        _write(record, file)
        _tell(part)
    record["passed"] = all(part["status"] == "passed" for part in record["parts"])
    _write(record, file)
    print(f"gpu-check: {'passed' if record['passed'] else 'FAILED'} in {record['elapsed_s']:.0f} s; {file}")
    return 0 if record["passed"] else FAILED


def _environment(wheels: Path | None, folder: Path) -> dict[str, str]:
    """Return what the parts run in: this checkout on the path, and what the wheels hold."""
    path = [str(ROOT)]
    if wheels is not None:
        site = folder / "site"
        files = [str(file) for file in sorted(wheels.glob("*.whl"))]
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        if subprocess.run([*pip, "--target", str(site), *files], check=False).returncode:
            print("gpu-check: pip took the wheels not, for the reason above: going on without them", file=sys.stderr)
        path.insert(0, str(site))
    path += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def probe(environment: dict[str, str], python: str = sys.executable) -> dict[str, Any]:
    """Return which packages can be imported and what GPU there is, as a process of its own finds it."""
    names = [*NEEDED, *OPTIONAL]
    try:
        done = subprocess.run(
            [python, "-c", PROBE, *names], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    except subprocess.TimeoutExpired:
        lines = []
    packages = {name: {"version": None, "reason": "the import ended the process"} for name in names}
    machine: dict[str, Any] = {"packages": packages, "gpu": None}
    for line in lines:
        if "package" in line:
            packages[line["package"]] = {"version": line["version"], "reason": line["reason"]}
        else:
            machine |= line
    machine["compute_sanitizer"] = shutil.which("compute-sanitizer")
    return machine


def why_not(machine: dict[str, Any], dry: bool) -> str | None:
    """Return why nothing can be checked here, in one sentence; None where it can."""
    packages = machine["packages"]
    missing = [name for name in NEEDED if packages[name]["version"] is None]
    if missing:
        return (
            f"expected {', '.join(NEEDED)} in {sys.executable}, found no {', no '.join(missing)}; "
            "name another Python (PYTHON=python3) or a folder of wheels (WHEELS=folder)."
        )
    if dry:
        return None
    if machine["gpu"] is None:
        built = "sees none" if machine.get("built") else "is built for the CPU only"
        return (
            f"expected an NVIDIA GPU, and torch {packages['torch']['version']} {built}: nothing was checked; "
            'run it where there is one, or with ARGS="--dry" to see that the checks themselves run.'
        )
    fault = machine.get("compile_fault") or machine.get("probe_fault")
    return f"numba-cuda cannot compile here: {fault}" if fault else None


def _show(machine: dict[str, Any]) -> None:
    """Print the table of packages."""
    print(f"gpu-check: Python {platform.python_version()}, GPU: {machine['gpu'] or 'none'}")
    for name, known in machine["packages"].items():
        if known["version"]:
            print(f"  {name:12} {known['version']}")
            continue
        lack = f"cannot be imported ({known['reason']})" if known["reason"] else "not installed"
        print(f"  {name:12} {lack}: these parts are skipped: {OPTIONAL.get(name, 'all')}")
    where = machine["compute_sanitizer"]
    print(
        f"  {'sanitizer':12} {where or 'no compute-sanitizer on the PATH: these parts are skipped: memcheck'}",
        flush=True,
    )


def _run(
    name: str,
    args: argparse.Namespace,
    out: Path,
    folder: Path,
    environment: dict[str, str],
    packages: dict[str, Any],
    left_s: float,
) -> dict[str, Any]:
    """Run one part within its limit, and say how it went."""
    limit = min(LIMITS_S[name], max(left_s, 1.0))
    part: dict[str, Any] = {"name": name, "limit_s": limit, "log": f"{name}.log", "left_out": []}
    if name == "bench":
        command = [sys.executable, "-m", "bench", "--suite", "gpu", "--out", str(out / "bench.json")]
        command += ["--limit-s", str(0.9 * limit)] + ["--tiny", "--host"] * args.dry
        command += ["--sections", *args.sections] if args.sections else []
    else:
        files, part["left_out"] = test_files(name, packages)
        several = name == "parity" and packages["xdist"]["version"] and not args.dry
        command = pytest_command(files, folder, out / f"{name}.xml", args.dry, args.select)
        command += ["-n", str(min(8, os.cpu_count() or 1))] if several else []
    began = time.monotonic()
    status = run_within(command, limit, out / f"{name}.log", environment)
    part |= {"command": " ".join(command[1:4]), "seconds": time.monotonic() - began}
    part["status"] = "passed" if status == 0 else "timed out" if status is None else "failed"
    if name != "bench":
        part |= read_junit(out / f"{name}.xml", [n for n, known in packages.items() if not known["version"]])
        if status in (1, 5) and not part["failures"] and (part["skipped"] or args.select):
            part["status"] = "passed"  # what failed, or was all there is, lacks packages that are named as missing
    return part


def test_files(name: str, packages: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the files that hold tests marked `gpu`, and which are left out for want of a package."""
    tests, parallel = ROOT / "tests", [ROOT / file for file in PARALLEL]
    if name == "parity":
        return [str(file) for file in parallel], []
    found, left_out = [], []
    for file in sorted(tests.rglob("test_*.py")):
        if file in parallel or (file.parent != tests / "gpu" and "mark.gpu" not in file.read_text(encoding="utf-8")):
            continue
        if file.name == "test_gpu_check.py":
            continue
        missing = [n for n in FOLDERS.get(file.parent.name, ()) if not packages[n]["version"]]
        if missing:
            left_out.append(f"{file.relative_to(ROOT)}: needs {', '.join(missing)}")
        else:
            found.append(str(file))
    return found, left_out


def pytest_command(files: list[str], folder: Path, junit: Path, dry: bool, select: str) -> list[str]:
    """Return the command; the markers are pyproject.toml's, warnings are no errors: versions here are the machine's."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    ini = folder / "pytest.ini"
    markers = "\n    ".join(options["markers"])
    ini.write_text(
        f"[pytest]\npythonpath = {ROOT}\nfaulthandler_timeout = 120\nmarkers =\n    {markers}\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pytest", "-c", str(ini), f"--rootdir={ROOT}", "--import-mode=importlib", "-v"]
    command += ["-ra", "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--junitxml={junit}"]
    command += ["-m", "not gpu and not nightly" if dry else "gpu"]
    return command + (["-k", select] if select else []) + files


def run_within(command: list[str], limit_s: float, log: Path, environment: dict[str, str]) -> int | None:
    """Run a command with its output in a file; return its exit status, None where its time was up."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: pytest writes down what it has
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):  # all that it started, which outlived it, on Ctrl-C too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def read_junit(file: Path, missing: Sequence[str]) -> dict[str, Any]:
    """Return counts, failures and skips of a pytest run; a file that lacks a missing package counts as skipped."""
    try:
        cases = list(ElementTree.parse(file).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return {"counts": None, "failures": ["pytest ended before it wrote its results; see the log"], "skipped": {}}
    failures, skipped, passed = [], dict[str, int](), 0
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skip = case.find("skipped")
        if bad is not None:
            text = f"{bad.get('message') or ''}\n{bad.text or ''}"
            lacks = [p for p in missing if f"No module named '{p}" in text]
            if not lacks:
                failures.append(f"{name}: {(bad.get('message') or '').splitlines()[0][:300]}")
                continue
            reason = f"needs {', '.join(lacks)}"
        elif skip is not None:
            whole = skip.get("message") == "collection skipped"  # a module: the reason stands in the text
            reason = (
                (skip.text or "").partition("Skipped: ")[2].strip().rstrip("')") if whole else skip.get("message") or ""
            )
        else:
            passed += 1
            continue
        skipped[reason] = skipped.get(reason, 0) + 1
    counts = {"passed": passed, "failed": len(failures), "skipped": sum(skipped.values())}
    return {"counts": counts, "failures": failures, "skipped": skipped}


def _tell(part: dict[str, Any]) -> None:
    counts = part.get("counts") or {}
    numbers = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(f"gpu-check: {part['name']}: {part['status']} in {part['seconds']:.0f} s {numbers and f'({numbers})'}")
    for line in part["left_out"]:
        print(f"  left out: {line}")
    for reason, count in part.get("skipped", {}).items():
        print(f"  skipped: {count} x {reason}")
    for failure in part.get("failures", []):
        print(f"  FAILED: {failure}")
    sys.stdout.flush()


def _write(record: dict[str, Any], file: Path) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(file)


if __name__ == "__main__":
    sys.exit(main())
