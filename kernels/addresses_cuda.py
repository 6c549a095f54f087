"""The CUDA overloads of `addresses`; imported only where CUDA code is compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.cuda.extending import intrinsic, overload

from intune_gpu.kernels.addresses import is_address, load, read_u8, read_u32, read_u64, register

_U8, _U32, _U64 = np.uint8(0), np.uint32(0), np.uint64(0)
_EIGHT, _32_BITS, _64_BITS = np.uint64(8), np.uint64(32), np.uint64(64)


def _cuda(function: Any) -> Any:
    return overload(function, strict=False)


register(intrinsic, _cuda, 1)


@_cuda(read_u8)
def _read_u8(address: Any) -> Any:
    return (lambda address: load(address, _U8)) if is_address(address) else None


# A GPU loads whole words at multiples of their size only. Both words that are read hold bytes that were asked for, so
# neither lies outside of memory that is there.


@_cuda(read_u32)
def _read_u32(address: Any) -> Any:
    def read(address: Any) -> Any:
        first, behind = address & ~3, (address + 3) & ~3
        both = np.uint64(load(first, _U32)) | (np.uint64(load(behind, _U32)) << _32_BITS)
        return np.uint32(both >> (np.uint64(address & 3) * _EIGHT))

    return read if is_address(address) else None


@_cuda(read_u64)
def _read_u64(address: Any) -> Any:
    def read(address: Any) -> Any:
        first, shift = address & ~7, np.uint64(address & 7) * _EIGHT
        word = load(first, _U64)
        if shift != _U64:
            word = (word >> shift) | (load(first + 8, _U64) << (_64_BITS - shift))
        return word

    return read if is_address(address) else None
