"""The transform job on a device as people write it with CuPy and torch: peers of the fused kernels.

All features of a kind are one matrix, so that a step is one operation; what is missing is known as a bool matrix, which
spares the peers to read null bits. 64-bit words wrap around in both libraries; torch has no shift of unsigned ones, so
that the sign's copies are masked away.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.clicks import DENSE, NUM_BUCKETS, Clicks
from bench.numpy_peer import feature_seeds

P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5_AND_8 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5 + 8


class Inputs(NamedTuple):
    """Columns on a device: (13, rows) int32 and bool, (26, rows) int32 and bool, (rows,) int32, (26, 1) int64 seeds."""

    integers: torch.Tensor
    no_integer: torch.Tensor
    ids: torch.Tensor
    no_id: torch.Tensor
    label: torch.Tensor
    seeds: torch.Tensor


class Made(NamedTuple):
    """What a peer makes: (rows, 13) float32, (26, rows) ids, (rows,) float32."""

    dense: Any
    ids: Any
    label: Any


def inputs(clicks: Clicks, rows: int, seed: int, where: torch.device) -> Inputs:
    """Copy the first rows to a device."""
    missing, dense = clicks.missing[:, :rows], len(DENSE)
    arrays = (
        np.stack([column[:rows] for column in clicks.integers]),
        missing[:dense],
        np.stack([column[:rows] for column in clicks.ids]),
        missing[dense:],
        clicks.label[:rows],
        feature_seeds(seed).view(np.int64)[:, None],
    )
    return Inputs(*(torch.from_numpy(np.ascontiguousarray(array)).to(where) for array in arrays))


def torch_job(given: Inputs, index: torch.dtype) -> Made:
    """Fill, clip, log1p and hash, in torch."""
    x = given.integers.to(torch.float32).masked_fill_(given.no_integer, 0.0).clamp_min_(0.0).log1p_()
    h = given.ids.to(torch.int64).mul_(_signed(P2))
    h = _rotl(h, 31) * _signed(P1) ^ (given.seeds + _signed(P5_AND_8))
    h = _rotl(h, 27) * _signed(P1) + _signed(P4)
    h = (h ^ _shifted(h, 33)) * _signed(P2)
    h = (h ^ _shifted(h, 29)) * _signed(P3)
    bucket = (_shifted(h, 32) * (NUM_BUCKETS - 1) >> 32) + 1
    return Made(x.t().contiguous(), bucket.masked_fill(given.no_id, 0).to(index), given.label.to(torch.float32))


def torch_eager(given: Inputs, index: torch.dtype) -> Callable[[], Made]:
    """Return the job, one operation after the other."""
    return lambda: torch_job(given, index)


def torch_compiled(given: Inputs, index: torch.dtype) -> Callable[[], Made]:
    """Return the job, compiled by torch for these sizes."""
    compiled = torch.compile(_pure_job, dynamic=False)
    return lambda: compiled(given, index)


def _pure_job(given: Inputs, index: torch.dtype) -> Made:
    """The same without writing in place, which the compiler fuses as well and need not undo."""
    x = torch.where(given.no_integer, 0.0, given.integers.to(torch.float32)).clamp_min(0.0).log1p()
    h = given.ids.to(torch.int64) * _signed(P2)
    h = _rotl(h, 31) * _signed(P1) ^ (given.seeds + _signed(P5_AND_8))
    h = _rotl(h, 27) * _signed(P1) + _signed(P4)
    h = (h ^ _shifted(h, 33)) * _signed(P2)
    h = (h ^ _shifted(h, 29)) * _signed(P3)
    bucket = (_shifted(h, 32) * (NUM_BUCKETS - 1) >> 32) + 1
    ids = torch.where(given.no_id, 0, bucket).to(index)
    return Made(x.t().contiguous(), ids, given.label.to(torch.float32))


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)


def _rotl(x: torch.Tensor, by: int) -> torch.Tensor:
    return (x << by) | _shifted(x, 64 - by)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def cupy_job(xp: Any, given: Inputs, index: str) -> Callable[[], Made]:
    """Return the job in CuPy (or in NumPy, which has the same functions), in place, on torch's current stream."""
    integers, no_integer, ids, no_id, label = (_array(xp, tensor) for tensor in given[:5])
    seeds = _array(xp, given.seeds).view(xp.uint64) + xp.uint64(P5_AND_8)
    if xp is not np:
        xp.cuda.Device().synchronize()  # the seeds were made on another stream than the job's

    def run() -> Made:
        with _stream(xp, given.label.device):
            x = integers.astype(xp.float32)
            xp.copyto(x, xp.float32(0), where=no_integer)
            xp.maximum(x, xp.float32(0), out=x)
            xp.log1p(x, out=x)
            h = ids.astype(xp.uint64)
            h *= xp.uint64(P2)
            h = _turned(xp, h, 31)
            h *= xp.uint64(P1)
            h ^= seeds
            h = _turned(xp, h, 27)
            h *= xp.uint64(P1)
            h += xp.uint64(P4)
            h ^= h >> xp.uint64(33)
            h *= xp.uint64(P2)
            h ^= h >> xp.uint64(29)
            h *= xp.uint64(P3)
            h >>= xp.uint64(32)
            h *= xp.uint64(NUM_BUCKETS - 1)
            h >>= xp.uint64(32)
            h += xp.uint64(1)
            xp.copyto(h, xp.uint64(0), where=no_id)
            return Made(xp.ascontiguousarray(x.T), h.astype(index), label.astype(xp.float32))

    return run


def _turned(xp: Any, words: Any, by: int) -> Any:
    return (words << xp.uint64(by)) | (words >> xp.uint64(64 - by))


def _array(xp: Any, tensor: torch.Tensor) -> Any:
    return tensor.numpy() if xp is np else xp.from_dlpack(tensor)


def _stream(xp: Any, where: torch.device) -> AbstractContextManager[Any]:
    if xp is np:
        return nullcontext()
    return xp.cuda.ExternalStream(torch.cuda.current_stream(where).cuda_stream)  # type: ignore[no-any-return]


def host_array(made: Any) -> np.ndarray[Any, Any]:
    """Return a peer's array in host memory."""
    if isinstance(made, torch.Tensor):
        return made.cpu().numpy()
    return made if isinstance(made, np.ndarray) else np.asarray(made.get())
