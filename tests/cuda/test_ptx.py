"""The PTX interpreter over small kernels written by hand, branches, memory and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.cuda import ptx
from tests.cuda.ptx_memory import Memory, MemoryFaultError
from tests.cuda.ptx_ops import UnknownInstructionError
from tests.cuda.ptx_text import PtxError
from tests.cuda.written import module


def launch(text: str, *arrays: np.ndarray, threads: int, blocks: int = 1, **more: Any) -> list[np.ndarray]:
    memory = Memory(sum(a.nbytes + 1024 for a in arrays) + 4096)
    addresses = [memory.put(a) for a in arrays]
    ptx.launch(ptx.kernel(text), memory, addresses, (blocks,), (threads,), **more)
    return [memory.get(address, a.dtype, a.size) for address, a in zip(addresses, arrays, strict=True)]


COLLATZ = module(
    1,
    """
    ld.param.u64 %rd1, [p0];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r2, [%rd3];
    mov.u32 %r3, 0;
$LOOP:
    setp.eq.u32 %p1, %r2, 1;
    @%p1 bra $DONE;
    add.s32 %r3, %r3, 1;
    and.b32 %r4, %r2, 1;
    setp.ne.u32 %p2, %r4, 0;
    @!%p2 shr.u32 %r2, %r2, 1;
    @!%p2 bra $LOOP;
    mad.lo.u32 %r2, %r2, 3, 1;
    bra.uni $LOOP;
$DONE:
    st.global.u32 [%rd3], %r3;
    ret;
    """,
)


def test_threads_that_branch_apart_meet_again() -> None:
    def steps(n: int) -> int:
        return 0 if n == 1 else 1 + steps(3 * n + 1 if n % 2 else n // 2)

    (found,) = launch(COLLATZ, np.arange(1, 129, dtype=np.uint32), threads=128)
    assert found.tolist() == [steps(n) for n in range(1, 129)]


def test_an_endless_loop_is_an_error() -> None:
    with pytest.raises(PtxError, match="a loop"):
        launch(module(1, "$L: mov.u32 %r1, 0; bra $L;"), np.zeros(1), threads=1, steps=100)


REVERSE = module(
    1,
    """
    ld.param.u64 %rd1, [p0];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %ctaid.x;
    shl.b32 %r3, %r2, 6;
    add.s32 %r4, %r3, %r1;
    mul.wide.u32 %rd2, %r4, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r5, [%rd3];
    mov.u32 %r6, tile;
    shl.b32 %r7, %r1, 2;
    add.s32 %r8, %r6, %r7;
    cvt.u64.u32 %rd4, %r8;
    st.shared.u32 [%rd4], %r5;
    bar.sync 0;
    sub.s32 %r9, 252, %r7;
    add.s32 %r9, %r9, %r6;
    cvt.u64.u32 %rd5, %r9;
    cvta.shared.u64 %rd6, %rd5;
    ld.u32 %r10, [%rd6];
    st.global.u32 [%rd3], %r10;
    ret;
    """,
    ".shared .align 4 .b8 tile[256];",
)


def test_shared_memory_is_a_blocks_own_and_barriers_hold() -> None:
    (found,) = launch(REVERSE, np.arange(256, dtype=np.uint32), threads=64, blocks=4)
    assert found.tolist() == np.arange(256).reshape(4, 64)[:, ::-1].ravel().tolist()


def test_local_memory_is_a_threads_own() -> None:
    body = """
    .local .align 8 .b8 depot[16];
    ld.param.u64 %rd1, [p0];
    mov.u32 %r1, %tid.x;
    mov.u64 %rd2, depot;
    cvta.local.u64 %rd3, %rd2;
    st.u32 [%rd3+4], %r1;
    ld.local.u32 %r2, [%rd2+4];
    mul.wide.u32 %rd4, %r1, 4;
    add.s64 %rd5, %rd1, %rd4;
    st.global.u32 [%rd5], %r2;
    ret;
    """
    (found,) = launch(module(1, body), np.zeros(32, np.uint32), threads=32)
    assert found.tolist() == list(range(32))


def test_vectors_of_four_and_constants() -> None:
    body = """
    ld.param.u64 %rd1, [p0];
    ld.global.nc.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];
    ld.global.u32 %r5, [table+4];
    add.s32 %r1, %r1, %r5;
    st.global.v4.u32 [%rd1+16], {%r4, %r3, %r2, %r1};
    ret;
    """
    table = ".global .align 4 .u32 table[2] = {5, 1000};"
    (found,) = launch(module(1, body, table), np.arange(8, dtype=np.uint32), threads=1)
    assert found.tolist() == [0, 1, 2, 3, 3, 2, 1, 1000]


@pytest.mark.parametrize(
    ("access", "message"),
    [
        ("ld.global.u32 %r1, [%rd1+32]", "outside of every buffer"),
        ("ld.global.v2.u32 {%r1, %r2}, [%rd1+28]", "an address that 8 divides"),
        ("ld.global.u64 %rd2, [%rd1+-8]", "outside of every buffer"),
        ("st.global.u32 [%rd1+2], %r0", "an address that 4 divides"),
        ("ld.global.u32 %r1, [%rd9]", "read before anything was written"),
        ("ld.shared.u32 %r1, [%rd1]", "outside"),
    ],
)
def test_faults(access: str, message: str) -> None:
    body = f"ld.param.u64 %rd1, [p0]; mov.u32 %r0, 0; {access}; ret;"
    with pytest.raises(MemoryFaultError if "read before" not in message else PtxError, match=message):
        launch(module(1, body), np.zeros(8, np.uint32), threads=1)


@pytest.mark.parametrize(
    "instruction",
    [
        "ex2.approx.f32 %f1, %f2",
        "mul.f32 %f1, %f2, %f3",
        "fma.rn.ftz.f32 %f1, %f2, %f3, %f4",
        "div.full.f32 %f1, %f2, %f3",
        "add.ftz.f32 %f1, %f2, %f3",
        "add.f64 %rd1, %rd2, %rd3",
        "cvt.rz.f32.s32 %f1, %r1",
        "atom.global.add.u32 %r1, [%rd1], %r2",
        "call.uni other",
    ],
)
def test_an_unknown_instruction_is_named(instruction: str) -> None:
    with pytest.raises(UnknownInstructionError) as caught:
        ptx.kernel(module(0, f"{instruction}; ret;"))
    assert instruction in str(caught.value)


def test_arguments_are_counted_and_sized() -> None:
    kernel = ptx.kernel(module(2, "ret;"))
    with pytest.raises(PtxError, match="expected 2 arguments, found 1"):
        ptx.launch(kernel, Memory(0), [1], (1,), (1,))
    with pytest.raises(PtxError, match="8 bytes, found 4"):
        ptx.launch(kernel, Memory(0), [1, np.float32(1)], (1,), (1,))


def test_one_entry_has_to_be_meant() -> None:
    two = module(0, "ret;") + module(0, "ret;").replace("entry k", "entry other")
    with pytest.raises(PtxError, match="found 2"):
        ptx.kernel(two)
    assert ptx.kernel(two, "other").program.name == "other"
