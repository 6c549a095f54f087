"""Every kernel runs in Numba's CUDA simulator, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from intune_gpu.kernels import launching

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: no simulator here", allow_module_level=True)

from intune_gpu.kernels import hashing_cuda, jagged_cuda


@pytest.mark.parametrize("flag", ["--few", pytest.param("--all", marks=pytest.mark.nightly)])
def test_every_kernel_agrees_with_the_oracle_over_the_edge_table(flag: str) -> None:
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "tests.cuda.simulated", flag]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    launched = done.stdout.rsplit("launched: ", 1)[1].strip().split(", ")
    kernels = [k for module in (hashing_cuda, jagged_cuda) for k in vars(module).values()]
    named = {kernel.name for kernel in kernels if isinstance(kernel, launching.Kernel)}
    assert named <= set(launched)
    assert {"dense convert", "dense fill_missing_scale_bucketize", "ids fill_missing_bucketize"} <= set(launched)
