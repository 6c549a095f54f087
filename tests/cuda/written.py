"""PTX modules written by hand, for tests of the interpreter."""

from __future__ import annotations

_REGISTERS = """
    .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<30>; .reg .b64 %rd<30>; .reg .f32 %f<9>;
"""
_HEAD = """
.version 9.5
.target sm_90
.address_size 64
"""
INDEX = """
    mov.u32 %r20, %ctaid.x;
    mov.u32 %r21, %ntid.x;
    mov.u32 %r22, %tid.x;
    mad.lo.s32 %r23, %r20, %r21, %r22;
"""
"""Leaves the thread's number in the grid in %r23."""


def module(parameters: int, body: str, before: str = "") -> str:
    """Return a module of one entry `k` with pointers `p0`, `p1`, ...; `before` stands outside of it."""
    listed = ", ".join(f".param .u64 p{i}" for i in range(parameters))
    return f"{_HEAD}{before}\n.visible .entry k({listed})\n{{{_REGISTERS}{body}\n}}"
