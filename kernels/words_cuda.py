"""The CUDA overloads of `words`; imported only where CUDA code is compiled."""

from __future__ import annotations

from typing import Any

from numba.cuda.extending import intrinsic, overload

from intune_gpu.kernels.words import register


def _cuda(function: Any) -> Any:
    return overload(function, strict=False)


register(intrinsic, _cuda)
