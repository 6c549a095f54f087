"""`python -m tests.cuda.resources`: what each CUDA kernel takes, into docs/cuda_kernels.md and its JSON."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.cuda.compiling import CAPABILITIES, Resources, arch, doubles, running
from tests.cuda.kernels import KERNELS, Kernel

TABLE = Path(__file__).parents[2] / "docs" / "cuda_kernels.json"
PAGE = TABLE.with_suffix(".md")
_PACKAGES = ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")
_HEAD = """# CUDA kernels

What each kernel takes on each architecture, compiled without a GPU the way that `cuda.jit` goes: NVVM, link-time
optimisation, nvJitLink. `make docs` writes this page; its numbers are in [cuda_kernels.json](cuda_kernels.json). A test
fails where a kernel spills, uses float64 or a stack that its line in `tests/cuda/kernels.py` does not allow, or differs
from this page.

With {versions}. A number is registers a thread; bytes of stack (a thread) and of shared memory (a thread block) stand
behind it where there are any.

"""


_READING = re.compile(r"ld\.|setp\.|cvt\.rn\.f32\.f64$")


def toolkit() -> dict[str, str]:
    """Return the versions that decide on the code."""
    return {package: metadata.version(package) for package in _PACKAGES}


def measured(kernel: Kernel) -> dict[str, dict[str, int]]:
    """Return what a kernel takes: architecture → `Resources` as a dict."""
    return {
        arch(capability): asdict(running(kernel.function, kernel.signature, capability).resources)
        for capability in CAPABILITIES
    }


def table() -> dict[str, Any]:
    """Return what docs/cuda_kernels.json holds."""
    return {"toolkit": toolkit(), "kernels": {kernel.name: measured(kernel) for kernel in KERNELS}}


def faults(kernel: Kernel) -> list[str]:
    """Say what a kernel has that it must not have."""
    found = []
    for capability in CAPABILITIES:
        code = running(kernel.function, kernel.signature, capability)
        for what, limit in (("spill_bytes", 0), ("stack_bytes", kernel.stack_bytes)):
            taken = getattr(code.resources, what)
            if taken > limit:
                found.append(f"{kernel.name} for {arch(capability)}: expected {what} of {limit} at most, found {taken}")
        wide = [name for name in doubles(code.ptx) if not (kernel.float64_column and _READING.match(name))]
        wide = [] if kernel.computes_float64 else wide
        if wide:
            found.append(f"{kernel.name} for {arch(capability)}: expected no float64, found {', '.join(wide)}")
    return found


def page(held: dict[str, Any]) -> str:
    """Return docs/cuda_kernels.md for what docs/cuda_kernels.json holds."""
    names = [arch(capability) for capability in CAPABILITIES]
    versions = ", ".join(f"{package} {version}" for package, version in held["toolkit"].items())
    lines = [f"| kernel | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for kernel, taken in held["kernels"].items():
        lines.append(f"| `{kernel}` | {' | '.join(_cell(Resources(**taken[name])) for name in names)} |")
    return _HEAD.format(versions=versions) + "\n".join(lines) + "\n"


def _cell(taken: Resources) -> str:
    more = [
        f"{bytes_} {what}"
        for what, bytes_ in (
            ("stack", taken.stack_bytes),
            ("shared", taken.shared_bytes),
            ("spilled", taken.spill_bytes),
        )
        if bytes_
    ]
    return ", ".join([str(taken.registers), *more])


def main() -> int:
    """Write both files; return 1 where a kernel has what it must not have."""
    wrong = [fault for kernel in KERNELS for fault in faults(kernel)]
    held = table()
    TABLE.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(held), encoding="utf-8")
    print(*wrong, f"{len(KERNELS)} kernels in {PAGE.name}", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
