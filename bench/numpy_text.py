"""Criteo text → columns → dense and ids in NumPy alone: no split, no Python per row, eight characters at a time.

What a patient user could write: separators by one comparison over the bytes, then each field as one 64-bit word that a
few multiplications turn into a number (SIMD within a register). Threads work on blocks of lines; NumPy lets go of the
GIL in most of what is done.
"""

from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import local

import numpy as np
import numpy.typing as npt

from bench.clicks import DENSE, SPARSE, Clicks, hexadecimal
from bench.numpy_peer import NumpyTransform, Output, Words

_FIELDS = 1 + len(DENSE) + len(SPARSE)
_BLOCK_BYTES = 1 << 20
_PADDING = 8


class NumpyTextJob:
    """File → dense, ids, label, block by block.

    Args:
        path: a Criteo text file whose numbers have at most 8 characters and whose ids have 8 or none.
        recipe_seed: seeds the hashes.
        threads: workers.
    """

    def __init__(self, path: str, recipe_seed: int, threads: int) -> None:
        self._path, self._seed, self._threads = path, recipe_seed, threads
        self._kept = local()

    def run(self) -> None:
        """Do the job; each block's result is overwritten by the next of its thread."""
        with self._open() as text:
            spans = _spans(text)
            if self._threads == 1:
                for span in spans:
                    self._block(text, *span)
            else:
                with ThreadPoolExecutor(self._threads) as pool:
                    list(pool.map(lambda span: self._block(text, *span), spans))

    def columns(self) -> Clicks:
        """Return all columns, for checks."""
        with self._open() as text:
            parts = [parse(text[start:stop]) for start, stop in _spans(text)]
        return Clicks(
            np.concatenate([part.label for part in parts]),
            [np.concatenate([part.integers[i] for part in parts]) for i in range(len(DENSE))],
            [np.concatenate([part.ids[i] for part in parts]) for i in range(len(SPARSE))],
            np.concatenate([part.missing for part in parts], axis=1),
        )

    def _open(self) -> mmap.mmap:
        with open(self._path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _block(self, text: mmap.mmap, start: int, stop: int) -> None:
        clicks = parse(text[start:stop])
        if not hasattr(self._kept, "transform") or len(self._kept.out.label) < clicks.rows:
            self._kept.transform = NumpyTransform(self._seed)
            self._kept.out = Output.empty(2 * clicks.rows, "int64")
        self._kept.transform.run(clicks, 0, clicks.rows, self._kept.out)


def _spans(text: mmap.mmap) -> list[tuple[int, int]]:
    """Return blocks of whole lines."""
    cuts = [0]
    while cuts[-1] < len(text):
        end = text.find(b"\n", cuts[-1] + _BLOCK_BYTES)
        cuts.append(len(text) if end < 0 else end + 1)
    return list(pairwise(cuts))


def parse(lines: bytes) -> Clicks:
    """Return the columns of whole lines, each ended by a newline.

    Raises:
        ValueError: a line has another number of fields than 40, or a field is longer than 8 characters.
    """
    text = np.frombuffer(lines + bytes(_PADDING), np.uint8)
    ends = np.flatnonzero(text[: len(lines)] < 32)
    starts = np.empty_like(ends)
    starts[0] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    if len(ends) % _FIELDS or text[ends[_FIELDS - 1 :: _FIELDS]].max() != ord("\n"):
        raise ValueError(f"text: expected lines of {_FIELDS} fields")
    lengths = np.ascontiguousarray((ends - starts).reshape(-1, _FIELDS).T)
    starts = np.ascontiguousarray(starts.reshape(-1, _FIELDS).T)
    if lengths.max() > 8:
        raise ValueError("text: expected fields of at most 8 characters")
    words = np.ndarray((len(lines),), np.uint64, text, strides=(1,))  # the 8 bytes from each byte on
    missing = lengths[1:] == 0
    first_id = 1 + len(DENSE)
    integers = _decimal(words[starts[1:first_id]], lengths[1:first_id])
    ids = hexadecimal(words[starts[first_id:]])
    return Clicks(text[starts[0]].astype(np.int32) - ord("0"), list(integers), list(ids), missing)


def _decimal(words: Words, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return the numbers that 0 to 8 characters spell; any number where there are none."""
    negative = (words & np.uint64(0xFF)) == ord("-")
    shift = ((8 - np.maximum(lengths, 1)) * 8).astype(np.uint64)
    words <<= shift  # right-aligned; what comes in is 0
    words &= np.uint64(0x0F0F0F0F0F0F0F0F)
    if negative.any():  # take the sign out: it stands in the lowest byte that is left
        words[negative] &= np.uint64(0xFFFFFFFFFFFFFF00) << shift[negative]
    words *= np.uint64(2561)
    words >>= np.uint64(8)
    words &= np.uint64(0x00FF00FF00FF00FF)
    words *= np.uint64(6553601)
    words >>= np.uint64(16)
    words &= np.uint64(0x0000FFFF0000FFFF)
    words *= np.uint64(42949672960001)
    words >>= np.uint64(32)
    values: npt.NDArray[np.int32] = words.astype(np.int32)
    np.negative(values, out=values, where=negative)
    return values
