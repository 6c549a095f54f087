"""Kernels of text and rows: compiled for GPUs without one, and run in Numba's CUDA simulator."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: kernels are not compiled for CUDA here", allow_module_level=True)

from numba import cuda, types
from numba.cuda import dispatcher

from intune_gpu.kernels import rows_cuda, text_cuda
from intune_gpu.kernels.launching import Kernel
from tests.kernels.test_cuda_compile import _ptxas

KERNELS = {k.name: k for module in (text_cuda, rows_cuda) for k in vars(module).values() if isinstance(k, Kernel)}
WITH_FLOAT64 = {"parse_floats"}


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)], ids=["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, capability: tuple[int, int]) -> None:
    device = type("Device", (), {"compute_capability": capability})
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    kernel = KERNELS[name].cuda.py_func
    ptx, _ = cuda.compile_ptx(kernel, types.void(*[types.int64] * kernel.__code__.co_argcount), cc=capability)
    assert (".f64" in ptx) == (name in WITH_FLOAT64)
    assert ".local" not in ptx
    assert "call" not in ptx
    assembler = _ptxas()
    if assembler is None:
        return
    source = tmp_path / "kernel.ptx"
    source.write_text(ptx)
    arch = f"-arch=sm_{capability[0]}{capability[1]}"
    command = [str(assembler), arch, "-v", str(source), "-o", str(tmp_path / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in done.stderr


def test_every_kernel_in_the_simulator() -> None:
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "tests.cuda.simulated_text"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rsplit("launched: ", 1)[1].strip().split(", ") == sorted(KERNELS)
