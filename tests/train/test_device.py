"""What is said where a GPU cannot be used, and what is done about it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from intune_gpu.core.gpu import Driver, find_driver
from intune_gpu.train.config import UsageError
from intune_gpu.train.device import Choice, GpuReport, choose, find_compiler_fault, look
from intune_gpu.train.place import joined
from tests.fake_driver import make_driver

GOOD = GpuReport(Driver((13, 0), 1, None, module=True, nvml=True), "2.13.0", "13.0", None)
ABSENT = Driver(None, fault="libcuda.so.1: cannot open")
built_for_cpu = pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built for CUDA")

FAULTS = {
    "no driver": (
        replace(GOOD, driver=ABSENT),
        "expected an NVIDIA GPU, found no NVIDIA driver (libcuda.so.1: cannot open); install NVIDIA's driver",
    ),
    "a container without it": (
        replace(GOOD, driver=replace(ABSENT, module=True)),
        "expected an NVIDIA GPU, found the kernel's part of a driver without its library (libcuda.so.1: cannot open); "
        "start the container with its GPUs (--gpus all)",
    ),
    "a driver that fails": (
        replace(GOOD, driver=Driver((13, 0), 0, "error 803: mismatch")),
        "expected an NVIDIA GPU, found a driver for CUDA 13.0 that does not start (error 803: mismatch); see what "
        "nvidia-smi says; after an update of the driver, restart the machine",
    ),
    "no GPU": (
        replace(GOOD, driver=Driver((13, 0))),
        "expected an NVIDIA GPU, found a driver that shows none with CUDA_VISIBLE_DEVICES='7'; show it one",
    ),
    "fewer GPUs than ranks": (
        replace(GOOD, ranks=2),
        "expected a GPU for each of 2 ranks, found 1 with CUDA_VISIBLE_DEVICES='7'; start as many ranks as GPUs",
    ),
    "torch for the CPU": (
        replace(GOOD, torch="2.13.0+cpu", torch_cuda=None),
        "expected a torch that is built for CUDA, found torch 2.13.0+cpu, which is built for the CPU only; run make "
        'train on this machine, or install the CUDA build and pip install "intune_gpu[train,cuda]"',
    ),
    "an old driver": (
        replace(GOOD, driver=Driver((12, 4), 1), torch_fault="too old"),
        "expected a driver for CUDA 13.0 or newer, since torch 2.13.0 is built for CUDA 13.0, found one for at most "
        "CUDA 12.4; update the driver, or install a torch that is built for CUDA 12",
    ),
    "another fault of torch": (
        replace(GOOD, torch_fault="no kernel image"),
        "expected a GPU that torch 2.13.0 (CUDA 13.0) can use, found that it fails (no kernel image); see whether "
        "nvidia-smi shows the GPU, and whether this torch is built for it",
    ),
}
QUIET = ("no driver", "no GPU")


@pytest.mark.parametrize("what", FAULTS)
def test_cuda_says_what_is_missing_and_auto_takes_the_cpu(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    report, sentence = FAULTS[what]
    with pytest.raises(UsageError) as refused:
        choose("cuda", None, lambda compiles: report)
    assert str(refused.value) == f"--device cuda: {sentence}, or use --device cpu"
    notes = () if what in QUIET else (f"note: training on the CPU: {sentence}",)
    assert choose("auto", None, lambda compiles: report) == Choice("cpu", 0.0, notes)
    with pytest.raises(UsageError) as refused:
        choose("auto", 0.5, lambda compiles: report)
    why = sentence.rpartition("; ")[0] if what != "a driver that fails" else sentence.partition("; ")[0]
    assert str(refused.value) == (
        f"--placement: expected all-cpu, since no GPU can be used ({why}), found 0.5 on a GPU; leave it out"
    )


def test_with_everything_in_place_the_gpu_does_all_that_it_may() -> None:
    for device in ("auto", "cuda"):
        assert choose(device, None, lambda compiles: GOOD) == Choice("cuda", 1.0)
        assert choose(device, 0.25, lambda compiles: GOOD) == Choice("cuda", 0.25)


def test_the_cpu_asks_for_nothing() -> None:
    def never(compiles: bool) -> GpuReport:
        raise AssertionError("the GPU was looked for")

    assert choose("cpu", None, never) == choose("cpu", 0.0, never) == Choice("cpu")
    with pytest.raises(UsageError, match="--placement: expected all-cpu, since the model is on the CPU, found 1 on"):
        choose("cpu", 1.0, never)


def test_without_nvml_a_line_says_so() -> None:
    report = replace(GOOD, driver=replace(GOOD.driver, nvml=False))
    for device in ("auto", "cuda"):
        (note,) = choose(device, None, lambda compiles: report).notes
        assert note == "note: NVML signals are absent: libnvidia-ml.so.1 cannot be loaded"


def test_without_a_compiler_only_preprocessing_is_at_a_loss() -> None:
    asked: list[bool] = []

    def found(compiles: bool) -> GpuReport:
        asked.append(compiles)
        return replace(GOOD, compiler_fault="libNVVM is not available" if compiles else None)

    sentence = r"numba-cuda to compile preprocessing .*, found libNVVM is not available; pip install .*all-cpu$"
    for device, placement in (("cuda", None), ("cuda", 0.5), ("auto", 0.5)):
        with pytest.raises(UsageError, match=sentence):
            choose(device, placement, found)
    assert choose("cuda", 0.0, found) == Choice("cuda", 0.0)
    taken = choose("auto", None, found)
    assert (taken.kind, taken.placement, asked) == ("cuda", 0.0, [True, True, True, False, True])
    assert "preprocessing on the CPU: expected numba-cuda" in taken.notes[0]


@built_for_cpu
def test_looking_ends_at_the_first_thing_that_is_missing(tmp_path: Path) -> None:
    driver = find_driver(make_driver(tmp_path / "libcuda.so"), "none.so", "/none")
    report = look(driver, compiles=True)
    assert report == GpuReport(driver, torch.__version__, None, None)
    assert report.has_gpu


def test_a_missing_compiler_is_a_finding() -> None:
    code = """
import sys
sys.modules["numba_cuda"] = None
from intune_gpu.train.device import find_compiler_fault
print(find_compiler_fault())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "import of numba_cuda halted; None in sys.modules\n"


def test_what_is_there_compiles() -> None:
    pytest.importorskip("numba_cuda")
    assert find_compiler_fault() is None


@pytest.mark.skipif(find_driver().cuda is not None, reason="there is a driver")
def test_a_place_without_a_driver() -> None:
    with (
        pytest.raises(UsageError, match="--device cuda: expected an NVIDIA GPU, found no NVIDIA driver"),
        joined("cuda"),
    ):
        pass
    with joined("auto") as place:
        assert (place.device.type, place.placement, place.notes) == ("cpu", 0.0, ())


@built_for_cpu
def test_the_command_asks_the_driver_that_the_system_has(tmp_path: Path) -> None:
    make_driver(tmp_path / "libcuda.so.1")
    env = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "intune_gpu.train", "--device", "cuda"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--device cuda: expected a torch that is built for CUDA, found torch" in done.stderr
    assert done.stderr.count("\n") == 1
