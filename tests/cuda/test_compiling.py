"""That `compiling` shows the code that runs, and counts what it says it counts."""

from __future__ import annotations

import pytest
from numba import cuda, types
from numba.cuda import dispatcher

from tests.cuda import compiling
from tests.cuda.compiling import CAPABILITIES, Resources, arch
from tests.cuda.kernels import CROSS, DENSE, KERNELS, Kernel

F32 = types.float32[::1]
LOG1P = next(kernel for kernel in DENSE if kernel.name == "log1p")
by_capability = pytest.mark.parametrize("capability", CAPABILITIES, ids=arch)


def _raw(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        out[i] = x[i] * y[i] + x[i]


def _indexed(x, y, out):
    """Adds where the data says: no register can be that."""
    table = cuda.local.array(64, types.float32)
    for k in range(64):
        table[k] = x[k]
    for k in range(len(y)):
        table[int(y[k]) & 63] += x[k]
    out[cuda.grid(1)] = table[int(x[0]) & 63]


def _shared(x, y, out):
    tile = cuda.shared.array(256, types.float32)
    i = cuda.threadIdx.x
    tile[i] = x[i]
    cuda.syncthreads()
    out[i] = tile[255 - i]


def _many(x, y, out):
    """Keeps 16 values of 8 bytes over a loop, of this thread's own: what a warp shares has other registers."""
    i = cuda.grid(1)
    a, b, c, d, e, f, g, h = x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7]
    s, t, u, v, w, p, q, r = x[i + 8], x[i + 9], x[i + 10], x[i + 11], x[i + 12], x[i + 13], x[i + 14], x[i + 15]
    for k in range(len(y)):
        a, b, c, d, e, f, g, h = t ^ y[k], u + a, v ^ b, w + c, p ^ d, q + e, r ^ f, s + g
        s, t, u, v, w, p, q, r = a * r, b + s, c * t, d ^ u, e * v, f + w, g ^ p, h * q
    out[i], out[i + 1], out[i + 2], out[i + 3] = a, b, c, d
    out[i + 4], out[i + 5], out[i + 6], out[i + 7] = e, f, g, h
    out[i + 8], out[i + 9], out[i + 10], out[i + 11] = s, t, u, v
    out[i + 12], out[i + 13], out[i + 14], out[i + 15] = w, p, q, r


SIGNATURE = types.void(F32, F32, F32)
WIDE = types.void(types.uint64[::1], types.uint64[::1], types.uint64[::1])


@by_capability
def test_the_code_is_that_of_numbas_own_linker(capability: tuple[int, int]) -> None:
    """The same instructions; the names of inputs within the file may differ."""
    ours = compiling.running(LOG1P.function, LOG1P.signature, capability)
    theirs = compiling.numbas_cubin(LOG1P.function, LOG1P.signature, capability)
    assert compiling.instructions(ours.cubin) == compiling.instructions(theirs)
    assert f".target {arch(capability)}" in ours.ptx


def test_a_dispatchers_options_count() -> None:
    free = compiling.running(_many, WIDE, (9, 0)).resources
    tight = compiling.running(cuda.jit(_many, max_registers=24), WIDE, (9, 0)).resources
    assert tight.registers == 24 < free.registers
    plain = compiling.running(cuda.jit(_raw, lto=False), SIGNATURE, (9, 0))
    assert "NumbaEnv" in plain.ptx  # which link-time optimisation removes
    assert "NumbaEnv" not in compiling.running(_raw, SIGNATURE, (9, 0)).ptx
    assert ".maxntid" in compiling.running(cuda.jit(_raw, launch_bounds=128), SIGNATURE, (9, 0)).ptx


def test_stack_shared_memory_and_spills_are_seen() -> None:
    capability = (9, 0)
    assert compiling.running(_indexed, SIGNATURE, capability).resources.stack_bytes == 256
    assert compiling.running(_shared, SIGNATURE, capability).resources.shared_bytes >= 1024
    assert compiling.running(_many, WIDE, capability).resources.spill_bytes == 0
    assert compiling.running(cuda.jit(_many, max_registers=24), WIDE, capability).resources.spill_bytes > 0


def test_what_ptxas_says_is_read() -> None:
    log = """ptxas         .     8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
    ptxas info    : Used 40 registers, used 1 barriers, 4096 bytes smem, 400 bytes cmem[0]"""
    assert compiling.resources(log) == Resources(40, 16, 8, 4096)
    with pytest.raises(AssertionError, match="registers"):
        compiling.resources("nothing of the kind")


@pytest.mark.parametrize("kernel", [LOG1P, CROSS], ids=lambda kernel: kernel.name)
@by_capability
def test_plain_ptx_assembles_without_spills(kernel: Kernel, capability: tuple[int, int]) -> None:
    """Of a kernel that is compiled with link-time optimisation off."""
    ptx = compiling.compiled_ptx(kernel.function, kernel.signature, capability)
    assert compiling.assembled(ptx, capability).spill_bytes == 0


def test_operations_are_counted() -> None:
    names = ["fma.rn.f32", "@%p1 mul.f32", "add.f32", "sub.rn.f32", "add.s32", "ld.global.f64"]
    ptx = "".join(f"\t{name} %x1, %x2;\n" for name in names)
    assert compiling.float_operations(ptx) == {"fma": 1, "mul": 1, "add": 2}
    assert compiling.open_products(ptx) == 1
    assert compiling.doubles(ptx) == ["ld.global.f64"]


def test_every_kernel_has_a_name_of_its_own() -> None:
    assert len({kernel.name for kernel in KERNELS}) == len(KERNELS)
    assert all(isinstance(kernel.stack_bytes, int) for kernel in KERNELS)


def test_log1p_is_fused_as_written() -> None:
    for capability in CAPABILITIES:
        counts = compiling.float_operations(compiling.running(LOG1P.function, LOG1P.signature, capability).ptx)
        assert counts == {"fma": 10, "mul": 2, "add": 2}


def test_the_stand_in_is_taken_back() -> None:
    before = dispatcher.get_current_device
    with compiling.device_stand_in((8, 0)):
        assert dispatcher.get_current_device().compute_capability == (8, 0)
    assert dispatcher.get_current_device is before
