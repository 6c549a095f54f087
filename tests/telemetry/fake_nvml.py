"""NVML for tests, at the boundary of the module `pynvml`: what GPUs say, and when they stop saying it.

`FakeNvml` takes pynvml's place with pynvml's own errors and constants. `make_library` compiles a libnvidia-ml.so.1 for
the real pynvml, so that the names and structures that are asked for are those that a driver has.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest


@dataclass
class FakeGpu:
    """What one GPU says; `None` is not supported.

    Attributes:
        uuid: its name.
        answers: by NVML's function; an int is an error code that is raised.
        whole: of an instance, the GPU that it is a part of.
    """

    uuid: str
    index: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    whole: FakeGpu | None = None


def answers() -> dict[str, Any]:
    """What a healthy GPU says."""
    return {
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=93, memory=41),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=1000, used=300, free=700),
        "nvmlDeviceGetPowerUsage": 412_500,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x4 | 0x20,
        "nvmlDeviceGetComputeRunningProcesses": [
            SimpleNamespace(pid=1, usedGpuMemory=5),
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=250),
        ],
        "rx": 7_000,
        "tx": 30,
    }


def healthy(index: int) -> FakeGpu:
    return FakeGpu(f"GPU-{index:08x}-0000", index, answers())


class FakeNvml:
    """Stands for the module `pynvml`.

    Args:
        gpus: those of the machine.
        instances: MIG instances, which are found by their UUID only.
        init: an error code that starting raises.
    """

    NVMLError = pynvml.NVMLError
    NVMLLibraryMismatchError = pynvml.NVMLLibraryMismatchError

    def __init__(self, *gpus: FakeGpu, instances: tuple[FakeGpu, ...] = (), init: int = 0) -> None:
        self.gpus, self.instances, self.init = list(gpus), list(instances), init
        self.calls: list[str] = []
        self.open = 0
        self.on_call: Callable[[str], None] = lambda name: None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML_"):
            return getattr(pynvml, name)
        assert hasattr(pynvml, name), f"pynvml has no {name}"
        return lambda gpu, *arguments: self._say(gpu, name, *arguments)

    def nvmlInit(self) -> None:  # noqa: N802 (NVML's name)
        if self.init:
            raise pynvml.NVMLError(self.init)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:  # noqa: N802
        for gpu in self.instances:
            if gpu.uuid == uuid:
                return gpu
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:  # noqa: N802
        return gpu.uuid

    def nvmlDeviceGetIndex(self, gpu: FakeGpu) -> int:  # noqa: N802
        assert gpu.whole is None
        return gpu.index

    def nvmlDeviceIsMigDeviceHandle(self, gpu: FakeGpu) -> ctypes.c_uint:  # noqa: N802
        return ctypes.c_uint(gpu.whole is not None)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, gpu: FakeGpu) -> FakeGpu:  # noqa: N802
        assert gpu.whole is not None
        return gpu.whole

    def nvmlDeviceGetPcieThroughput(self, gpu: FakeGpu, direction: int) -> Any:  # noqa: N802
        return self._say(gpu, "rx" if direction == pynvml.NVML_PCIE_UTIL_RX_BYTES else "tx")

    def _say(self, gpu: FakeGpu, name: str, *_: Any) -> Any:
        assert self.open == 1, "NVML was asked while it was shut down"
        self.calls.append(name)
        self.on_call(name)
        answer = gpu.answers.get(name)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return answer


SOURCE = """
#include <stdlib.h>
#include <unistd.h>
typedef struct {{ unsigned gpu, memory; }} rates;
typedef struct {{ unsigned long long total, free, used; }} memory;
typedef struct {{ unsigned pid; unsigned long long used; unsigned gi, ci; }} process;
static int asked;
static int answer(void) {{ return ++asked > {last} ? {error} : 0; }}
int nvmlInitWithFlags(unsigned flags) {{ return 0; }}
int nvmlShutdown(void) {{ return 0; }}
int nvmlDeviceGetCount_v2(unsigned *count) {{ *count = 2; return 0; }}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu) {{ *gpu = (void *)(size_t)(index + 1); return 0; }}
int nvmlDeviceGetUUID(void *gpu, char *uuid, unsigned size) {{
    for (int i = 0; i < 6; i++) uuid[i] = "GPU-a"[i];
    uuid[4] += (size_t)gpu - 1;
    return 0;
}}
int nvmlDeviceGetIndex(void *gpu, unsigned *index) {{ *index = (size_t)gpu - 1; return 0; }}
int nvmlDeviceIsMigDeviceHandle(void *gpu, unsigned *is) {{ *is = 0; return 0; }}
int nvmlDeviceGetUtilizationRates(void *gpu, rates *out) {{ out->gpu = 93; out->memory = 41; return answer(); }}
int nvmlDeviceGetMemoryInfo(void *gpu, memory *out) {{ *out = (memory){{1000, 700, 300}}; return answer(); }}
int nvmlDeviceGetPowerUsage(void *gpu, unsigned *out) {{ *out = 412500; return answer(); }}
int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *out) {{ *out = 0x24; return answer(); }}
int nvmlDeviceGetPcieThroughput(void *gpu, int way, unsigned *out) {{ *out = way ? 7000 : 30; return answer(); }}
int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *count, process *out) {{
    if (*count == 0) {{ *count = 1; return 7; }}
    *count = 1;
    out[0] = (process){{getpid(), 250, 0, 0}};
    return answer();
}}
const char *nvmlErrorString(int error) {{ return "the GPU is lost"; }}
"""


def make_library(folder: Path, last: int = 1 << 30, error: int = pynvml.NVML_ERROR_GPU_IS_LOST) -> dict[str, str]:
    """Compile a libnvidia-ml.so.1 with two GPUs; return the variables by which a process finds it.

    Args:
        folder: where it comes to stand.
        last: how many questions are answered before every one is an error.
        error: which.
    """
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler to make NVML with")
    source = folder / "nvml.c"
    source.write_text(SOURCE.format(last=last, error=error))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}
