"""No product of a rule may fuse with a sum unless the rule says so: compiled either way, operations are the same."""

from __future__ import annotations

from typing import Any

import pytest
from numba import cuda, types

from tests.cuda import compiling
from tests.cuda.compiling import CAPABILITIES, arch
from tests.cuda.kernels import DENSE, KERNELS, Kernel

DISASSEMBLED = ("log1p", "fill_missing_clip_min_clip_max_scale_log1p")
"""Chains with every kind of operation: a disassembly takes half a second."""


def difference(function: Any, signature: Any, capability: tuple[int, int]) -> str | None:
    """Say how contraction changes a kernel; None where it cannot."""
    fused = compiling.running(function, signature, capability)
    if compiling.open_products(fused.ptx):
        return f"{compiling.open_products(fused.ptx)} products that the assembler may fuse"
    if not compiling.float_operations(fused.ptx)["fma"]:
        return None  # nothing was fused, and every product says that it is not to be
    apart = compiling.running(function, signature, capability, contraction=False)
    counts = [compiling.float_operations(code.ptx) for code in (fused, apart)]
    return None if counts[0] == counts[1] else f"contraction on: {dict(counts[0])}, off: {dict(counts[1])}"


@pytest.mark.parametrize("capability", CAPABILITIES, ids=arch)
@pytest.mark.parametrize(
    "kernel", [k for k in KERNELS if "float32" in str(k.signature)], ids=lambda kernel: kernel.name
)
def test_contraction_changes_nothing(kernel: Kernel, capability: tuple[int, int]) -> None:
    assert difference(kernel.function, kernel.signature, capability) is None


@pytest.mark.parametrize("capability", CAPABILITIES, ids=arch)
@pytest.mark.parametrize("name", DISASSEMBLED)
def test_machine_code_has_the_operations_of_its_ptx(name: str, capability: tuple[int, int]) -> None:
    """Also where a division was expanded: that adds fma and add, alike with contraction on and off."""
    kernel = next(k for k in DENSE if k.name == name)
    codes = [compiling.running(kernel.function, kernel.signature, capability, on) for on in (True, False)]
    fused, apart = (compiling.machine_float_operations(code.cubin) for code in codes)
    assert fused == apart
    in_ptx = compiling.float_operations(codes[0].ptx)
    assert fused["mul"] == in_ptx["mul"]
    if not in_ptx["div"]:
        assert fused == in_ptx


def _fusible(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        out[i] = x[i] * y[i] + x[i]


def _left_open(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        out[i] = x[i] * y[i]


@pytest.mark.parametrize("capability", CAPABILITIES, ids=arch)
def test_a_raw_product_is_caught(capability: tuple[int, int]) -> None:
    f32 = types.float32[::1]
    assert "'fma': 1" in str(difference(_fusible, types.void(f32, f32, f32), capability))
    assert "1 products" in str(difference(_left_open, types.void(f32, f32, f32), capability))
