"""Whether numba-cuda can compile here: it needs NVVM and libdevice, which come as wheels or with a CUDA toolkit."""

from __future__ import annotations

from typing import Any

HOPPER = (9, 0)


def fault() -> str | None:
    """Return why a kernel does not compile, in one line; None where it does.

    It looks for no GPU, and takes two seconds where numba-cuda was not imported before.
    """
    try:
        from numba import cuda, types  # here: where a library of NVIDIA's is missing, the import is what fails
        from numba.cuda import libdevice

        def fma(x: Any, out: Any) -> None:  # f32, (n,) f32
            out[0] = libdevice.fmaf_rn(x, x, x)

        cuda.compile_ptx(fma, types.void(types.float32, types.float32[::1]), cc=HOPPER)
    except Exception as error:  # whatever it is, it is why
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None
