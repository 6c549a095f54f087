"""The job in NumPy, as somebody who knows it well would write it: a peer, and what results are held to.

In place, in blocks that stay in the second cache level, many columns in one call. Nothing of `intune_gpu` is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.clicks import DENSE, NUM_BUCKETS, SPARSE, Clicks

_MASK = (1 << 64) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_DENSE_BLOCK = 4096
_IDS_BLOCK = 4096

Words = npt.NDArray[np.uint64]


def xxh64(data: bytes, seed: int) -> int:
    """Return XXH64 of less than 32 bytes, from the specification (xxHash repository, doc/xxhash_spec.md)."""
    if len(data) >= 32:
        raise ValueError(f"xxh64: expected less than 32 bytes, found {len(data)}")
    h = (seed + _P5 + len(data)) & _MASK
    while len(data) >= 8:
        h = _rotl(h ^ _rotl(int.from_bytes(data[:8], "little") * _P2 & _MASK, 31) * _P1 & _MASK, 27) * _P1 + _P4 & _MASK
        data = data[8:]
    if len(data) >= 4:
        h = _rotl(h ^ int.from_bytes(data[:4], "little") * _P1 & _MASK, 23) * _P2 + _P3 & _MASK
        data = data[4:]
    for byte in data:
        h = _rotl(h ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    h = (h ^ h >> 33) * _P2 & _MASK
    h = (h ^ h >> 29) * _P3 & _MASK
    return h ^ h >> 32


def feature_seeds(recipe_seed: int) -> Words:
    """Return (26,) uint64: the seed of each id feature's hash."""
    return np.array([xxh64(name.encode(), recipe_seed) for name in SPARSE], np.uint64)


def xxh64_words(words: Words, seeds: Words, scratch: Words) -> None:
    """Replace 8-byte words by their XXH64, in place, but for the last step, which leaves the upper 32 bits as they are.

    Args:
        words: any shape.
        seeds: what can be broadcast to it.
        scratch: as `words`.
    """
    words *= np.uint64(_P2)
    np.left_shift(words, np.uint64(31), out=scratch)
    words >>= np.uint64(33)
    words |= scratch
    words *= np.uint64(_P1)
    words ^= seeds + np.uint64((_P5 + 8) & _MASK)
    np.left_shift(words, np.uint64(27), out=scratch)
    words >>= np.uint64(37)
    words |= scratch
    words *= np.uint64(_P1)
    words += np.uint64(_P4)
    np.right_shift(words, np.uint64(33), out=scratch)
    words ^= scratch
    words *= np.uint64(_P2)
    np.right_shift(words, np.uint64(29), out=scratch)
    words ^= scratch
    words *= np.uint64(_P3)


@dataclass(frozen=True, eq=False)
class Output:
    """What a batch holds: dense (rows, 13) float32, ids (26, rows), label (rows,) float32."""

    dense: npt.NDArray[np.float32]
    ids: npt.NDArray[Any]
    label: npt.NDArray[np.float32]

    @classmethod
    def empty(cls, rows: int, index_dtype: str) -> Output:
        """Return buffers for `rows` rows."""
        dense = np.empty((rows, len(DENSE)), np.float32)
        return cls(dense, np.empty((len(SPARSE), rows), index_dtype), np.empty(rows, np.float32))


class NumpyTransform:
    """Fill, clip, log and hash; scratch buffers are made once.

    Args:
        recipe_seed: seeds the hashes.
    """

    def __init__(self, recipe_seed: int) -> None:
        self._seeds = feature_seeds(recipe_seed)[:, None]
        self._floats = np.empty((len(DENSE), _DENSE_BLOCK), np.float32)
        self._words = np.empty((len(SPARSE), _IDS_BLOCK), np.uint64)
        self._scratch = np.empty_like(self._words)

    def run(self, clicks: Clicks, start: int, stop: int, out: Output) -> None:
        """Transform rows `start` to `stop` into the first rows of `out`."""
        rows = stop - start
        out.label[:rows] = clicks.label[start:stop]
        self.dense(clicks.integers, clicks.missing[: len(DENSE)], start, stop, out.dense)
        for a in range(0, rows, _IDS_BLOCK):
            b = min(a + _IDS_BLOCK, rows)
            self._ids(clicks.ids, clicks.missing[len(DENSE) :], start + a, start + b, out.ids[:, a:b])

    def dense(
        self,
        columns: Sequence[npt.NDArray[Any]],
        missing: npt.NDArray[np.bool_],
        start: int,
        stop: int,
        out: npt.NDArray[np.float32],
    ) -> None:
        """Transform integers and their missing ones (13, rows) of rows `start` to `stop` into `out`."""
        for a in range(start, stop, _DENSE_BLOCK):
            b = min(a + _DENSE_BLOCK, stop)
            self._dense(columns, missing, a, b, out[a - start : b - start])

    def _dense(
        self, columns: Sequence[npt.NDArray[Any]], missing: npt.NDArray[np.bool_], a: int, b: int, out: Any
    ) -> None:
        x = self._floats[:, : b - a]
        for target, column in zip(x, columns, strict=True):
            target[:] = column[a:b]
        np.copyto(x, np.float32(0), where=missing[:, a:b])
        np.maximum(x, np.float32(0), out=x)
        # Whole numbers: 1 + x is as good as exact, and NumPy's log has SIMD on more machines than its log1p.
        x += np.float32(1)
        np.log(x, out=x)
        out[:] = x.T

    def _ids(
        self, columns: Sequence[npt.NDArray[Any]], missing: npt.NDArray[np.bool_], a: int, b: int, out: Any
    ) -> None:
        words = self._words[:, : b - a]
        for target, column in zip(words, columns, strict=True):
            np.copyto(target, column[a:b], casting="unsafe")
        xxh64_words(words, self._seeds, self._scratch[:, : b - a])
        words >>= np.uint64(32)
        words *= np.uint64(NUM_BUCKETS - 1)
        words >>= np.uint64(32)
        words += np.uint64(1)
        np.copyto(words, np.uint64(0), where=missing[:, a:b])
        np.copyto(out, words, casting="unsafe")


def _rotl(x: int, bits: int) -> int:
    return (x << bits | x >> 64 - bits) & _MASK
