"""`intune-gpu doctor`: what this machine can and cannot tell, and do; for each fault, what to do about it."""

from __future__ import annotations

import shutil
from dataclasses import asdict, fields
from pathlib import Path

from packaging.requirements import Requirement
from rich.text import Text

from intune_gpu.cli.config import DoctorConfig
from intune_gpu.cli.findings import FBGEMM, Finding, packages, pairing, python, requirements, version_of
from intune_gpu.cli.probe import STACK, Answer, ask
from intune_gpu.cli.screen import columns, console, print_json, size
from intune_gpu.core.packages import EXTRAS
from intune_gpu.core.signals import GpuSignals, HostSignals
from intune_gpu.telemetry.host import Host

LOW_MEMORY_BYTES = 1 << 30
LOW_DISK_BYTES = 256 << 20
"""Below these there is a warning. A machine's compiled kernels take some 50 MiB."""
SHOWN = ("torch", "torchrec", *FBGEMM, "numba-cuda", "nvidia-dali-cuda130", "cupy-cuda13x")
NO_DALI = Finding("dali", "ok", "not installed; only intune_gpu.dali needs it")
_STYLE = {"ok": "green", "warn": "yellow", "fault": "bold red"}


def run(config: DoctorConfig) -> int:
    """Look at the machine and print what was found; return 1 where there is a fault, else 0."""
    findings = look()
    faults = sum(finding.state == "fault" for finding in findings)
    if config.json:
        print_json({"ok": faults == 0, "findings": [asdict(each) for each in findings], "versions": versions()})
        return int(faults > 0)
    screen = console()
    table = columns("what", "state", "found", "what to do")
    for each in findings:
        table.add_row(each.name, Text(each.state, _STYLE[each.state]), Text(each.found), Text(each.cure or ""))
    screen.print(table)
    screen.print(f"{faults} fault{'s' if faults != 1 else ''}" if faults else "no fault", markup=False)
    return int(faults > 0)


def versions() -> dict[str, str | None]:
    """Return the versions of what intune_gpu stands on; None for what is absent."""
    names = [requirement.name for requirement in requirements()] + [*SHOWN]
    return {name: version_of(name) for name in ("intune_gpu", *names)}


def look() -> list[Finding]:
    """Look at everything, in the order in which it is shown."""
    host = Host()  # begins here, so that the seconds that follow are what it tells of
    dali = next((r for r in requirements("dali") if version_of(r.name) is not None), None)
    questions = ["nvml", "cache", "compiler"]
    questions += ["stack"] if version_of("torch") is not None else []
    questions += ["dali"] if dali is not None else []
    told = ask(questions)
    gpus = int(told["nvml"].told.get("driver", {}).get("gpus", 0))
    machine = host.take()
    found = [python(), packages(), pairing()]
    found += _stack(told["stack"]) if "stack" in told else []
    found += [_gpu(told.get("stack"), told["nvml"], gpus), _compiler(told["compiler"], gpus), nvml(told["nvml"], gpus)]
    found.append(NO_DALI if dali is None else _dali(told["dali"], dali))
    return [*found, _cores(host), _memory(machine), _cache(told["cache"]), _signals(machine, told["nvml"])]


def _stack(answer: Answer) -> list[Finding]:
    """Look whether what training needs can be imported."""
    told = answer.told
    for name in STACK:
        fault = told.get(name) if name in told else answer.fault
        if fault is not None:
            cure = f'run make train, or pip install "intune_gpu[{EXTRAS[name]}]" ([train,cuda] with an NVIDIA GPU)'
            return [Finding("import", "fault", f"{name} cannot be imported ({fault})", cure)]
    return [Finding("import", "ok", f"{', '.join(STACK)} can be imported")]


def _gpu(stack: Answer | None, nvml: Answer, gpus: int) -> Finding:
    """Look whether the driver and torch agree about the GPU."""
    driver = nvml.told.get("driver")
    if driver is None:
        return Finding("gpu", "warn", f"the driver cannot be asked ({nvml.fault})", "see what nvidia-smi says")
    newest = "no NVIDIA driver" if driver["cuda"] is None else f"a driver for CUDA {'.'.join(map(str, driver['cuda']))}"
    there = f"{newest}, {gpus} GPU{'s' if gpus != 1 else ''}"
    if stack is None or "has_gpu" not in stack.told:
        return Finding("gpu", "ok" if gpus == 0 else "warn", f"{there}; torch was not asked")
    built_for, fault = stack.told["built_for"], stack.told["gpu"]
    built = "torch is built for the CPU only" if built_for is None else f"torch is built for CUDA {built_for}"
    if fault is None:
        return Finding("gpu", "ok", f"{there}; {built}, and computes on it")
    if not stack.told["has_gpu"]:
        return Finding("gpu", "ok", f"{there}; {built}: everything runs on the CPU")
    return Finding("gpu", "fault" if gpus else "warn", fault[0], fault[1])


def _compiler(answer: Answer, gpus: int) -> Finding:
    """Look whether numba-cuda can compile."""
    fault = answer.told.get("compiler", answer.fault)
    if fault is None:
        return Finding("compiler", "ok", "numba-cuda compiles for the GPU")
    if not gpus and answer.told.get("absent"):
        return Finding("compiler", "ok", "numba-cuda is not installed; only preprocessing on a GPU needs it")
    cure = f'pip install "intune_gpu[{EXTRAS["numba_cuda"]}]"'
    return Finding("compiler", "fault" if gpus else "warn", f"numba-cuda does not compile ({fault})", cure)


def nvml(answer: Answer, gpus: int) -> Finding:
    """Look what NVML tells of the GPUs."""
    told = answer.told.get("gpus")
    if told:
        parts = [f"GPU {gpu['index']}: {size(gpu['memory_free_bytes'] or 0)} free" for gpu in told]
        return Finding("nvml", "ok", ", ".join(parts))
    why = "; ".join(answer.told.get("said", ())) or answer.fault or "it shows no GPU"
    if not gpus:
        return Finding("nvml", "ok", f"no signals of GPUs, for there is none ({_reason(why)})")
    cure = "in a container, start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility; else reinstall NVIDIA's driver"
    return Finding("nvml", "warn", f"no signals of GPUs ({_reason(why)})", cure)


def _reason(said: str) -> str:
    return said.removeprefix("telemetry: ").partition(";")[0]


def _dali(answer: Answer, needed: Requirement) -> Finding:
    """Look whether DALI can be used."""
    version, cure = version_of(needed.name) or "", f'pip install "intune_gpu[{EXTRAS["nvidia.dali"]}]"'
    if not needed.specifier.contains(version, True):
        expected = f"expected {needed.name}{needed.specifier}, found {version}"
        return Finding("dali", "warn", f"{expected}; only intune_gpu.dali needs it", cure)
    fault = answer.told.get("dali", answer.fault)
    if fault is not None:
        return Finding("dali", "warn", f"DALI {version} cannot be imported ({fault})", cure)
    return Finding("dali", "ok", f"DALI {version}")


def _cores(host: Host) -> Finding:
    """Tell what this process may compute with."""
    there = host.size()
    of = "no quota" if there.quota is None else f"a control group's quota, of {len(there.cpus)} CPUs"
    return Finding("cores", "ok", f"{there.cores:g} ({of})")


def _memory(machine: HostSignals) -> Finding:
    """Tell what memory this process may take."""
    limit, left = machine.memory_limit_bytes, machine.memory_available_bytes
    if limit is None or left is None:
        return Finding("memory", "warn", "nothing tells how much there is", "set prefetch_bytes by hand")
    found = f"{size(left)} of {size(limit)} can be had"
    if left >= LOW_MEMORY_BYTES:
        return Finding("memory", "ok", found)
    return Finding("memory", "warn", found, "set a smaller prefetch_bytes (in training: --prefetch-mib)")


def _cache(answer: Answer) -> Finding:
    """Look where compiled kernels are kept."""
    if "cache" not in answer.told:
        return Finding(
            "cache", "fault", f"numba cannot be used ({answer.fault})", "pip install --force-reinstall numba"
        )
    folder = Path(answer.told["cache"])
    if not answer.told["lasting"]:
        found = "the cache folder cannot be written, so that every process compiles its kernels anew"
        return Finding("cache", "warn", found, "set XDG_CACHE_HOME to a folder that can be written")
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {size(free)} free"
    low = free < LOW_DISK_BYTES
    return Finding("cache", "warn" if low else "ok", found, "free some, or set XDG_CACHE_HOME" if low else None)


def _signals(machine: HostSignals, nvml: Answer) -> Finding:
    """Name the signals that this machine cannot give."""
    absent = [f"host.{f.name}" for f in fields(HostSignals) if getattr(machine, f.name) is None]
    gpus = nvml.told.get("gpus") or []
    absent += ["gpus"] if not gpus else []
    for gpu in gpus:
        absent += [f"gpus[{gpu['index']}].{f.name}" for f in fields(GpuSignals) if gpu[f.name] is None]
    return Finding("signals", "ok", f"absent here: {', '.join(absent)}" if absent else "all of them")
