"""Rows of several windows put one after another: a batch that begins in one window and ends in another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from intune_gpu.core.buffers import ALIGNMENT, BufferPool
from intune_gpu.core.columns import Addresses, FlatColumn, RawBatch
from intune_gpu.core.rows import join
from intune_gpu.kernels.gather import append_cpu


class Joiner:
    """Copies the parts of a batch, as they come, behind one another: fixed-width columns in one compiled call a part.

    Args:
        capacity: rows that may come.
        pool: where the memory for fixed-width columns comes from.
    """

    def __init__(self, capacity: int, pool: BufferPool) -> None:
        self._capacity = capacity
        self._pool = pool
        self._rows = 0
        self._joined: _Joined | None = None

    def add(self, part: RawBatch) -> None:
        """Copy the rows of a part, whose memory is not used afterwards.

        Raises:
            TypeError: the columns are not those of the part before.
        """
        here = part.addresses
        if self._joined is None:
            self._joined = _Joined(here, self._capacity, self._pool)
        into = self._joined
        if (here.names, here.dtypes) != (into.like.names, into.like.dtypes):
            raise TypeError(f"expected columns of the types {into.like.dtypes}, found {here.dtypes}")
        append_cpu(here.table, here.sizes, part.rows, self._rows, into.targets)
        for name, columns in into.ragged.items():
            columns.append(join([part.columns[name]]))
        self._rows += part.rows

    def finish(self) -> RawBatch:
        """Return all rows. At least one part was added."""
        into = self._joined
        assert into is not None
        into.rows = self._rows
        # Joined once and kept: a table of addresses points into them.
        into.ragged = {name: [parts[0] if len(parts) == 1 else join(parts)] for name, parts in into.ragged.items()}
        return RawBatch(into, self._rows, into.addresses())


class _Joined(Mapping[str, FlatColumn]):
    """Columns in one buffer, each made when it is asked for; strings and lists stand beside it."""

    def __init__(self, like: Addresses, capacity: int, pool: BufferPool) -> None:
        self.rows = 0
        bitmap = (capacity + 63) // 32 * 4  # whole words, and one to spill into
        sizes = -(-like.sizes * capacity // ALIGNMENT) * ALIGNMENT
        ends = np.cumsum(np.append(sizes, np.where(like.sizes > 0, -(-bitmap // ALIGNMENT) * ALIGNMENT, 0)))
        begins = np.concatenate(([0], ends[:-1])).reshape(2, -1).T
        self._buffer = pool.take(int(ends[-1]))
        self._buffer[begins[0, 1] :] = 0  # the bitmaps
        self._begins: npt.NDArray[np.int64] = begins
        self.targets: npt.NDArray[np.int64] = np.ascontiguousarray(begins + self._buffer.ctypes.data)
        self.ragged: dict[str, list[FlatColumn]] = {
            name: [] for name, size in zip(like.names, like.sizes, strict=True) if size == 0
        }
        self.like = Addresses(like.names, like.table, like.step, like.dtypes)  # without the first part's dictionaries

    def addresses(self) -> Addresses | None:
        """Return where the columns stand; None where some do not stand in the buffer."""
        if self.ragged:
            return None
        table = np.zeros_like(self.like.table)
        table[:, :2] = self.targets
        step = self.like.step.copy()
        step[:, 2] = 1
        return Addresses(self.like.names, table, step, self.like.dtypes)

    def __getitem__(self, name: str) -> FlatColumn:
        if name in self.ragged:
            return self.ragged[name][0]
        c = self.like.names.index(name)
        values, bits = (int(begin) for begin in self._begins[c])
        shape = (self.rows,)
        return FlatColumn(
            np.ndarray(shape, self.like.dtypes[c], self._buffer, values),
            np.ndarray((-(-self.rows // 8),), np.uint8, self._buffer, bits),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.like.names)

    def __len__(self) -> int:
        return len(self.like.names)
