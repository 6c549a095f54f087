"""Whether kernels can be compiled for a GPU, and what is said where a library of NVIDIA's is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from intune_gpu.kernels import nvvm

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

WITHOUT = """
from cuda import pathfinder

load = pathfinder.load_nvidia_dynamic_lib

def found(name):
    if name == {library!r}:
        raise pathfinder.DynamicLibNotFoundError(f"no {{name}} here\\nlooked in many places")
    return load(name)

pathfinder.load_nvidia_dynamic_lib = found
from intune_gpu.kernels import nvvm
print(nvvm.fault())
"""


def test_with_everything_in_place_a_kernel_compiles() -> None:
    assert nvvm.fault() is None


@pytest.mark.parametrize("library", ["nvvm", "cudart"])
def test_a_missing_library_is_told_in_one_line(library: str) -> None:
    code = WITHOUT.format(library=library)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"no {library} here\n"
