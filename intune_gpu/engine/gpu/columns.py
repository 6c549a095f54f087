"""Columns and rows on a device, as `core.columns` has them in host memory: of numbers, one value a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from intune_gpu.core.columns import Addresses, BadRow


@dataclass(frozen=True, eq=False, slots=True)
class DeviceColumn:
    """One column.

    Attributes:
        values: (rows,) of its physical type; uint32 as the int32 of the same bits, which torch can do more with.
        validity: bitmap as Arrow's, ((rows + 7) // 8,) uint8, 1 = present; None: none is missing.
        physical: as `core.columns.ColumnType` names it.
    """

    values: torch.Tensor
    validity: torch.Tensor | None
    physical: str

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes of values and null bits."""
        return self.values.nbytes + (0 if self.validity is None else self.validity.nbytes)


@dataclass(frozen=True, eq=False, slots=True)
class DeviceChunk:
    """A decoded run of physical rows; its counterpart is `core.columns.Chunk`.

    Attributes:
        columns: by name. What stands in a bad row is unspecified.
        rows: physical rows, bad ones included.
        bad: the bad rows, by `row`, each row once.
        nbytes: of device memory.
    """

    columns: Mapping[str, DeviceColumn]
    rows: int
    bad: tuple[BadRow, ...]
    nbytes: int


class DeviceRows:
    """Rows of some columns; its counterpart is `core.columns.RawBatch`.

    Args:
        columns: by name; memory of the device's transform stream, on which they are complete.
        first: row of the columns that is the first of these.
        rows: number of rows.
        addresses: of the first row of the columns, where they are known.
    """

    __slots__ = ("addresses", "columns", "first", "rows")

    def __init__(
        self, columns: Mapping[str, DeviceColumn], first: int, rows: int, addresses: Addresses | None = None
    ) -> None:
        self.columns, self.first, self.rows = columns, first, rows
        self.addresses = _addresses(columns).at(first) if addresses is None else addresses

    def slice(self, start: int, stop: int) -> DeviceRows:
        """Return rows `start` to `stop` without copying."""
        return DeviceRows(self.columns, self.first + start, stop - start, self.addresses.at(start))

    @property
    def nbytes(self) -> int:
        """Bytes of all columns, rows outside of these included."""
        return sum(column.nbytes for column in self.columns.values())


def _addresses(columns: Mapping[str, DeviceColumn]) -> Addresses:
    """Return where columns stand on the device."""
    table, step = np.zeros((2, len(columns), 4), np.int64)
    dtypes: list[np.dtype[Any]] = []
    for c, column in enumerate(columns.values()):
        dtypes.append(np.dtype(column.physical))
        bits = 0 if column.validity is None else column.validity.data_ptr()
        table[c] = column.values.data_ptr(), bits, 0, 0
        step[c] = dtypes[-1].itemsize, 0, int(bits != 0), 0
    return Addresses(tuple(columns), table, step, tuple(dtypes))
