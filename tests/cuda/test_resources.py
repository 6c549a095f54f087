"""What CUDA kernels take: nothing that is not allowed, and what docs/cuda_kernels.md says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from numba import cuda, types

from tests.cuda import resources
from tests.cuda.compiling import CAPABILITIES, arch
from tests.cuda.kernels import KERNELS, Kernel

F32 = types.float32[::1]


def _widened(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        out[i] = x[i] * 0.1  # a bare Python float


def _indexed(x, y, out):
    table = cuda.local.array(64, types.float32)
    for k in range(64):
        table[k] = x[k]
    for k in range(len(y)):
        table[int(y[k]) & 63] += x[k]
    out[cuda.grid(1)] = table[int(x[0]) & 63]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_no_spills_no_stack_no_float64(kernel: Kernel) -> None:
    assert resources.faults(kernel) == []


def test_what_is_not_allowed_is_seen() -> None:
    signature = types.void(F32, F32, F32)
    widened = Kernel("widened", _widened, signature)
    assert len(resources.faults(widened)) == len(CAPABILITIES)
    assert "cvt.f64.f32" in resources.faults(widened)[0]
    stacked = Kernel("indexed", _indexed, signature)
    assert "expected stack_bytes of 0 at most, found 256" in resources.faults(stacked)[0]
    assert resources.faults(replace(stacked, stack_bytes=256)) == []


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_the_page_is_up_to_date(kernel: Kernel) -> None:
    held = json.loads(resources.TABLE.read_text(encoding="utf-8"))
    if held["toolkit"] != resources.toolkit():
        pytest.skip(f"docs/{resources.TABLE.name} is of {held['toolkit']}, installed is {resources.toolkit()}")
    assert held["kernels"].get(kernel.name) == resources.measured(kernel), "run `make docs`"


def test_the_page_is_made_from_the_table() -> None:
    held = json.loads(resources.TABLE.read_text(encoding="utf-8"))
    assert resources.PAGE.read_text(encoding="utf-8") == resources.page(held)
    assert list(held["kernels"]) == [kernel.name for kernel in KERNELS], "run `make docs`"
    assert all(list(taken) == [arch(c) for c in CAPABILITIES] for taken in held["kernels"].values())
