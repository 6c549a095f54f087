"""Kernels of text and rows: float64 where it is meant, and a run in Numba's CUDA simulator."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: kernels are not compiled for CUDA here", allow_module_level=True)

from numba import types

from intune_gpu.kernels import rows_cuda, text_cuda
from intune_gpu.kernels.launching import Kernel
from tests.cuda.compiling import running

KERNELS = {k.name: k for module in (text_cuda, rows_cuda) for k in vars(module).values() if isinstance(k, Kernel)}
WITH_FLOAT64 = {"parse_floats"}


CAPABILITIES = pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)], ids=["sm_80", "sm_90", "sm_100"])


def code_of(name: str, capability: tuple[int, int]) -> str:
    kernel = KERNELS[name].cuda
    arguments = [types.int64] * kernel.py_func.__code__.co_argcount
    return running(kernel, types.void(*arguments), capability).ptx


@CAPABILITIES
@pytest.mark.parametrize("name", KERNELS)
def test_float64_is_where_it_is_meant(name: str, capability: tuple[int, int]) -> None:
    code = code_of(name, capability)
    assert (".f64" in code) == (name in WITH_FLOAT64)
    assert ".local" not in code


def test_every_kernel_in_the_simulator() -> None:
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "tests.cuda.simulated_text"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rsplit("launched: ", 1)[1].strip().split(", ") == sorted(KERNELS)
