"""A batch of raw rows as one piece of bytes, which is what DALI takes for a sample, and back.

First comes the batch's number, then a table of addresses with a row a column, then the columns: those of one value a
row copied by one compiled call, lists buffer by buffer. Dictionaries stay outside: their strings are hashed once, not
once a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import Addresses, FlatColumn, RawBatch
from intune_gpu.core.cursor import Cursor
from intune_gpu.kernels.memory import address_of
from intune_gpu.kernels.packing import ALIGNMENT, pack_cpu, packed_nbytes_cpu

Bytes = npt.NDArray[np.uint8]
_POINTERS = [0, 1, 3]
"""Of a table's columns: values, null bits, offsets."""


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """Raw rows on their way into DALI, and what is not bytes of theirs.

    Attributes:
        buffer: (n,) uint8, aligned to `ALIGNMENT`.
        rows: how many.
        like: names, types and dictionaries of the columns; its addresses are of what was packed.
        lists: where the buffers of each list column stand.
        cursor: the place behind the rows.
    """

    buffer: Bytes
    rows: int
    like: Addresses
    lists: tuple[_List, ...]
    cursor: Cursor | None = None

    def numbered(self, number: int) -> Bytes:
        """Return the buffer, marked with a number that `number_of` finds."""
        self.buffer[:8].view(np.int64)[0] = number
        return self.buffer


def number_of(buffer: Bytes) -> int:
    """Return the number that a buffer was marked with."""
    return int(buffer[:8].view(np.int64)[0])


class Memory(Protocol):
    """Where buffers come from; a `BufferPool` is one."""

    def take(self, nbytes: int) -> Bytes:
        """Return (nbytes,) uint8 that stays the caller's as long as a view of it lives."""
        ...


def pack(raw: RawBatch, pool: Memory) -> Packed:
    """Copy the rows of a batch, and nothing around them, into one buffer.

    Args:
        raw: the rows.
        pool: where the memory comes from.
    """
    here, rows = raw.addresses, raw.rows
    single = here.step.any(axis=1)  # a list's rows do not lie at a fixed distance
    chosen, sizes = np.flatnonzero(single), here.step[:, 0]
    lists = [(here.names[c], _own(raw.columns[here.names[c]])) for c in np.flatnonzero(~single)]
    begin = ALIGNMENT + _rounded(32 * len(here.names))
    place = begin + int(packed_nbytes_cpu(here.table, sizes, chosen, rows))
    placed = []
    for name, column in lists:
        placed.append(_List.at(place, name, column))
        place += sum(_rounded(part.nbytes) for part in _parts(column) if part is not None)
    buffer = _aligned(pool, place)
    base = address_of(buffer)
    table = buffer[ALIGNMENT : ALIGNMENT + 32 * len(here.names)].view(np.int64)
    table[:] = 0
    pack_cpu(here.table, sizes, chosen, rows, base + begin, base + begin, base + ALIGNMENT)
    for (name, column), own in zip(lists, placed, strict=True):
        own.write(buffer, column)
        table.reshape(-1, 4)[here.names.index(name)] = own.entry(base)
    buffer[8:16].view(np.int64)[0] = base
    return Packed(buffer, rows, here, tuple(placed))


def unpack(buffer: Bytes, packed: Packed) -> RawBatch:
    """Return the rows that `pack` took, as views of `buffer`, which must outlive them.

    Args:
        buffer: that of `packed`, or a copy of it.
        packed: what does not stand in it.
    """
    addresses = _addresses(buffer, packed.like, address_of(buffer))
    return RawBatch({own.name: own.read(buffer) for own in packed.lists}, packed.rows, addresses)


def unpack_at(packed: Packed, address: int) -> RawBatch:
    """Return rows whose buffer was copied to another memory, which must outlive them.

    Args:
        packed: whose buffer is still there: where lists begin and end is read from it.
        address: of the copy; the addresses of the rows are its, those of list columns are of their elements.
    """
    addresses = _addresses(packed.buffer, packed.like, address)
    return RawBatch({own.name: own.read(packed.buffer) for own in packed.lists}, packed.rows, addresses)


def _addresses(buffer: Bytes, like: Addresses, address: int) -> Addresses:
    """Return where columns stand in a copy of a buffer that begins at an address."""
    table = buffer[ALIGNMENT : ALIGNMENT + 32 * len(like.names)].view(np.int64).reshape(-1, 4).copy()
    moved = address - int(buffer[8:16].view(np.int64)[0])
    if moved:
        pointers = table[:, _POINTERS]
        table[:, _POINTERS] = np.where(pointers == 0, 0, pointers + moved)
    return Addresses(like.names, table, like.step, like.dtypes, like.dictionaries)


@dataclass(frozen=True, slots=True)
class _List:
    """Where a list column stands: for each of its buffers the first byte, the entries and their type, or None."""

    name: str
    bit: int
    places: tuple[tuple[int, int, np.dtype[Any]] | None, ...]

    @classmethod
    def at(cls, place: int, name: str, column: FlatColumn) -> _List:
        """Put the buffers of a column behind each other."""
        places: list[tuple[int, int, np.dtype[Any]] | None] = []
        for part in _parts(column):
            places.append(None if part is None else (place, len(part), part.dtype))
            place += 0 if part is None else _rounded(part.nbytes)
        return cls(name, column.validity_offset, tuple(places))

    def write(self, buffer: Bytes, column: FlatColumn) -> None:
        """Copy the column there."""
        for part, view in zip(_parts(column), self._views(buffer), strict=True):
            if part is not None and view is not None:
                view[:] = part

    def entry(self, base: int) -> tuple[int, int, int, int]:
        """Return the elements' row of a table of addresses, in a buffer that begins at `base`."""
        values, bits, offsets, _ = (0 if place is None else base + place[0] for place in self.places)
        return values, bits, self.bit, offsets

    def read(self, buffer: Bytes) -> FlatColumn:
        """Return the column."""
        values, validity, offsets, row_offsets = self._views(buffer)
        assert values is not None
        return FlatColumn(values, validity, self.bit, offsets, row_offsets)

    def _views(self, buffer: Bytes) -> list[npt.NDArray[Any] | None]:
        return [
            None if place is None else buffer[place[0] : place[0] + place[1] * place[2].itemsize].view(place[2])
            for place in self.places
        ]


def _parts(column: FlatColumn) -> tuple[npt.NDArray[Any] | None, ...]:
    return column.values, column.validity, column.offsets, column.row_offsets


def _own(column: FlatColumn) -> FlatColumn:
    """Return a list column whose buffers hold its own rows only, offsets counted from 0."""
    assert column.row_offsets is not None
    first, stop = int(column.row_offsets[0]), int(column.row_offsets[-1])
    flat = FlatColumn(column.values, column.validity, column.validity_offset, column.offsets).slice(first, stop)
    values, offsets = flat.values, flat.offsets
    if offsets is not None:
        values, offsets = values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0]
    bits, bit = flat.validity, flat.validity_offset
    if bits is not None:
        bits, bit = bits[bit >> 3 : (bit + stop - first + 7) >> 3], bit & 7
    return FlatColumn(values, bits, bit, offsets, column.row_offsets - first)


def _aligned(pool: Memory, nbytes: int) -> Bytes:
    memory = pool.take(nbytes + ALIGNMENT)
    skip = -address_of(memory) % ALIGNMENT
    return memory[skip : skip + nbytes]


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
