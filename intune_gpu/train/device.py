"""Whether training can use a GPU here, and if not, why not and what to do."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from intune_gpu.core.errors import MissingPackageError
from intune_gpu.core.gpu import Driver
from intune_gpu.core.packages import need
from intune_gpu.kernels import nvvm
from intune_gpu.train.config import UsageError


@dataclass(frozen=True)
class GpuReport:
    """What was found of the things that a GPU needs.

    Attributes:
        driver: NVIDIA's.
        torch: its version.
        torch_cuda: the CUDA that it is built for, as "13.0"; None where it is built for the CPU only.
        torch_fault: why it cannot compute on the GPU; None where it can.
        compiler_fault: why numba-cuda cannot compile preprocessing; None where it can, or where nobody asked.
        ranks: processes on this machine, each of which takes a GPU.
    """

    driver: Driver
    torch: str
    torch_cuda: str | None
    torch_fault: str | None
    compiler_fault: str | None = None
    ranks: int = 1

    @property
    def training_fault(self) -> tuple[str, str] | None:
        """Why a model cannot be on a GPU, and what to do about it; None where it can."""
        return _driver_fault(self.driver, self.ranks) or self._torch_fault()

    @property
    def has_gpu(self) -> bool:
        """Whether the machine seems to have one, usable or not."""
        driver = self.driver
        fails = driver.module if driver.cuda is None else driver.fault is not None
        return driver.gpus > 0 or fails

    def _torch_fault(self) -> tuple[str, str] | None:
        if self.torch_cuda is None:
            return (
                f"expected a torch that is built for CUDA, found torch {self.torch}, which is built for the CPU only",
                'run make train on this machine, or install the CUDA build and pip install "intune_gpu[train,cuda]"',
            )
        if self.torch_fault is None:
            return None
        major = int(self.torch_cuda.partition(".")[0])
        if self.driver.cuda is not None and self.driver.cuda[0] < major:
            newest = _dotted(self.driver.cuda)
            return (
                f"expected a driver for CUDA {major}.0 or newer, since torch {self.torch} is built for CUDA "
                f"{self.torch_cuda}, found one for at most CUDA {newest}",
                f"update the driver, or install a torch that is built for CUDA {self.driver.cuda[0]}",
            )
        return (
            f"expected a GPU that torch {self.torch} (CUDA {self.torch_cuda}) can use, found that it fails "
            f"({self.torch_fault})",
            "see whether nvidia-smi shows the GPU, and whether this torch is built for it",
        )


@dataclass(frozen=True)
class Choice:
    """Where training runs.

    Attributes:
        kind: `"cpu"` or `"cuda"`.
        placement: share of the preprocessing that the GPU does, 0 to 1.
        notes: lines that tell the user what was not as it might be.
    """

    kind: str
    placement: float = 0.0
    notes: tuple[str, ...] = ()


def look(driver: Driver, *, compiles: bool, ranks: int = 1, local_rank: int = 0) -> GpuReport:
    """Look for all that a GPU needs; the first thing that is missing ends the search.

    Args:
        driver: what it says of itself.
        compiles: whether to look for the compiler of preprocessing, too, which takes seconds.
        ranks: processes on this machine.
        local_rank: of this one.
    """
    built_for: str | None = torch.version.cuda
    looks = driver.gpus > 0 and built_for is not None
    torch_fault = _torch_fault(local_rank) if looks and local_rank < driver.gpus else None
    compiler_fault = find_compiler_fault() if looks and torch_fault is None and compiles else None
    return GpuReport(driver, torch.__version__, built_for, torch_fault, compiler_fault, ranks)


def choose(device: str, placement: float | None, looked: Callable[[bool], GpuReport]) -> Choice:
    """Return where to train.

    Args:
        device: `"auto"`, `"cpu"` or `"cuda"`.
        placement: share of the preprocessing that the GPU is to do; None takes all of it where it can.
        looked: what was found; it is told whether the compiler of preprocessing counts, and called where a GPU may be
            used.

    Raises:
        UsageError: what was asked for cannot be had here.
    """
    if device == "cpu":
        return _on_cpu(placement, "the model is on the CPU")
    report = looked(placement != 0.0)
    fault = report.training_fault
    if fault is not None:
        found, cure = fault
        if device == "cuda":
            raise UsageError(f"--device cuda: {found}; {cure}, or use --device cpu")
        notes = (f"note: training on the CPU: {found}; {cure}",) if report.has_gpu else ()
        return _on_cpu(placement, f"no GPU can be used ({found})", notes)
    notes = () if report.driver.nvml else ("note: NVML signals are absent: libnvidia-ml.so.1 cannot be loaded",)
    if report.compiler_fault is None:
        return Choice("cuda", 1.0 if placement is None else placement, notes)
    without = f"expected numba-cuda to compile preprocessing for the GPU, found {report.compiler_fault}"
    if device == "cuda" or placement is not None:
        raise UsageError(f'--device {device}: {without}; pip install "intune_gpu[cuda]", or use --placement all-cpu')
    return Choice("cuda", 0.0, (*notes, f"note: preprocessing on the CPU: {without}"))


def find_compiler_fault() -> str | None:
    """Return why numba-cuda cannot compile; None where it can."""
    try:
        need("numba_cuda", "preprocessing on a GPU")
    except MissingPackageError as error:
        return str(error.__cause__)
    return nvvm.fault()


def _on_cpu(placement: float | None, why: str, notes: tuple[str, ...] = ()) -> Choice:
    if placement:
        raise UsageError(f"--placement: expected all-cpu, since {why}, found {placement:g} on a GPU; leave it out")
    return Choice("cpu", 0.0, notes)


def _driver_fault(driver: Driver, ranks: int) -> tuple[str, str] | None:
    if driver.cuda is None:
        cure = "start the container with its GPUs (--gpus all)" if driver.module else "install NVIDIA's driver"
        where = "the kernel's part of a driver without its library" if driver.module else "no NVIDIA driver"
        return f"expected an NVIDIA GPU, found {where} ({driver.fault})", cure
    if driver.fault is not None:
        return (
            f"expected an NVIDIA GPU, found a driver for CUDA {_dotted(driver.cuda)} that does not start "
            f"({driver.fault})",
            "see what nvidia-smi says; after an update of the driver, restart the machine",
        )
    if driver.gpus >= ranks:
        return None
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = "" if hidden is None else f" with CUDA_VISIBLE_DEVICES={hidden!r}"
    if driver.gpus == 0:
        return f"expected an NVIDIA GPU, found a driver that shows none{shown}", "show it one"
    return f"expected a GPU for each of {ranks} ranks, found {driver.gpus}{shown}", "start as many ranks as GPUs"


def _torch_fault(local_rank: int) -> str | None:
    """Return why torch cannot add two numbers on the GPU."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            if torch.cuda.is_available():
                torch.ones(1, device=torch.device("cuda", local_rank)).add_(1).item()
                return None
        except RuntimeError as error:
            return str(error).strip().splitlines()[0]
    return str(said[-1].message).strip().splitlines()[0] if said else "torch.cuda.is_available() is False"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
