"""Where and of what a figure was taken: commit, machine, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import psutil

ROOT = Path(__file__).resolve().parent.parent

_PACKAGES = (
    "intune_gpu",
    "numpy",
    "numba",
    "llvmlite",
    "pyarrow",
    "polars",
    "torch",
    "torchrec",
    "fbgemm-gpu-cpu",
    "numba-cuda",
    "cupy-cuda13x",
    "nvidia-dali-cuda130",
    "triton",
)
_FLAGS = ("avx2", "fma", "avx512f", "avx512dq", "avx512vl", "avx512bw", "asimd", "sve")


class Commit(TypedDict):
    """The commit that was measured; both None outside a git repository or before its first commit."""

    hash: str | None
    dirty: bool | None


class Machine(TypedDict):
    """What the figures depend on."""

    cpu: str
    cores: int
    cores_usable: int
    memory_bytes: int
    flags: list[str]
    system: str
    load_average_1m: float


def commit() -> Commit:
    """Return the repository's commit, and whether files other than results differ from it."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return {"hash": None, "dirty": None}
    status = _git("status", "--porcelain", "--", ".", ":!bench/results")
    return {"hash": head, "dirty": None if status is None else bool(status)}


def machine() -> Machine:
    """Return what is known of this machine."""
    model, flags = _cpu_info()
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "cores_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": int(psutil.virtual_memory().total),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "system": platform.platform(),
        "load_average_1m": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Return the versions of what is measured and of what it stands on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_info() -> tuple[str, set[str]]:
    """Return the CPU's name and flags, as Linux tells them (x86: `flags`, ARM: `Features`)."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    flags = fields.get("flags", fields.get("Features", "")).split()
    return fields.get("model name", platform.processor() or platform.machine()), set(flags)
