"""The groups of a program as what can be done on either side: launched, or computed on the CPU and taken over.

What a group is stands in `engine.groups`; what its kernels read stands in `constants`. A part belongs to one wiring:
the columns of a table in one order, some of them with dictionaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from intune_gpu.core.columns import STRING, Addresses
from intune_gpu.engine.gpu import constants
from intune_gpu.engine.gpu.constants import Uploads
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.flight import Bytes, Flight
from intune_gpu.engine.groups import IdGroup, NumericGroup, Whole
from intune_gpu.kernels import dense_cuda, hashing_cuda

if TYPE_CHECKING:
    from intune_gpu.engine.program import Program  # needs TorchRec, which the parts themselves do not

FLOAT = torch.float32
LABEL, CODED = "label", "codes"
_WORD = np.uint64(0)


class Part(Protocol):
    """A group of features.

    Attributes:
        name: as a placement names it.
        columns: that it reads.
    """

    @property
    def name(self) -> str:
        """As a placement names it."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """That it reads and that are packed as plain columns."""
        ...

    @property
    def reads_dictionaries(self) -> bool:
        """Whether `tables` depends on more than the number of rows."""
        ...

    def tables(self, flight: Flight) -> dict[Any, Any]:
        """Return what the launch reads besides columns and constants: key → host array, staged with the batch."""
        ...

    def launch(self, flight: Flight, device: Device) -> None:
        """Make the features on the device."""
        ...

    def staged_nbytes(self, flight: Flight) -> int:
        """Bytes of the features when they are made on the CPU."""
        ...

    def on_cpu(self, flight: Flight, staged: Bytes) -> None:
        """Make the features on the CPU, into what will be staged."""
        ...

    def merge(self, flight: Flight, device: Device) -> None:
        """Take what was staged over into the batch, on the device; called within `Device.transform`."""
        ...


class NumericPart:
    """Chains that make floats: dense features, or the label."""

    reads_dictionaries = False

    def __init__(self, name: str, group: NumericGroup, table: Addresses, width: int, device: Device) -> None:
        self.name, self.columns = name, group.columns
        self._group, self._which, self._is_label = group, group.which(table.names), name == LABEL
        self._kernel = dense_cuda.dense_kernel(group.rules)
        self._constants = constants.of_numbers(device, group, self._which, width)
        self._like = group.like.dtype.type(0)
        self._positions = device.upload(torch.tensor(group.positions, dtype=torch.int64))
        self._compact = self._which.copy()
        self._compact[:, 1] = np.arange(len(group.columns))

    def tables(self, flight: Flight) -> dict[Any, Any]:
        """Nothing more."""
        return {}

    def launch(self, flight: Flight, device: Device) -> None:
        """One launch over rows × features."""
        out = flight.out.label if self._is_label else flight.out.dense
        arguments = self._constants.address, flight.entries, flight.rows, out.data_ptr(), self._like
        device.launch(self._kernel, flight.rows, len(self.columns), *arguments)

    def staged_nbytes(self, flight: Flight) -> int:
        """(rows, features) float32."""
        return 4 * flight.rows * len(self.columns)

    def on_cpu(self, flight: Flight, staged: Bytes) -> None:
        """Run the CPU's loop into a matrix of these features alone."""
        matrix = staged.view(np.float32).reshape(flight.rows, len(self.columns))
        self._group.run(flight.table.table, self._compact, flight.rows, matrix)

    def merge(self, flight: Flight, device: Device) -> None:
        """Put the features' columns where they belong."""
        width = len(self.columns)
        matrix = flight.tensor(self, flight.rows * width, FLOAT).view(flight.rows, width)
        out = flight.out.label.view(-1, 1) if self._is_label else flight.out.dense
        out.index_copy_(1, self._positions, matrix)


class _Ids:
    """What parts that make ids of single values share: on the CPU they go behind each other, and are taken over."""

    reads_dictionaries = False

    def __init__(self, name: str, columns: tuple[str, ...], features: Sequence[int]) -> None:
        self.name, self.columns = name, columns
        self.features = np.array(features, np.int64)

    def staged_nbytes(self, flight: Flight) -> int:
        """(features, rows) ids."""
        return flight.index.itemsize * flight.rows * len(self.features)

    def compact_starts(self, flight: Flight) -> Whole:
        """Return (features,) where each begins among what is staged."""
        return np.arange(len(self.features)) * flight.rows

    def merge(self, flight: Flight, device: Device) -> None:
        """Put each feature's ids where they belong."""
        rows, values = flight.rows, flight.out.values
        ids = flight.tensor(self, rows * len(self.features), values.dtype).view(-1, rows)
        for own, start in zip(ids, flight.starts[self.features].tolist(), strict=True):
            values[start : start + rows].copy_(own)


class IdPart(_Ids):
    """Hashes or modulo of one value a row."""

    def __init__(self, name: str, group: IdGroup, table: Addresses, program: Program, uploads: Uploads) -> None:
        super().__init__(name, group.columns, group.features.tolist())
        self._group, self._which, self._dictionaries = group, group.which(table.names), program.dictionaries
        coded = [name in table.dictionaries and group.physical == STRING for name in group.columns]
        self._coded, self._plain = np.flatnonzero(coded), np.flatnonzero(np.logical_not(coded))
        self.reads_dictionaries = any(coded)
        if len(self._plain):
            chosen = IdGroup(
                tuple(group.columns[i] for i in self._plain),
                group.features[self._plain],
                group.physical,
                group.parameters[self._plain],
            )
            self._constants = constants.of_ids(uploads.device, chosen, self._which[self._plain])
        if len(self._coded):
            self._coded_constants = constants.of_words(uploads.device, self._which[self._coded])
        self._uploads = uploads

    def tables(self, flight: Flight) -> dict[Any, Any]:
        """Where each feature begins; of dictionaries, the addresses of what their strings became."""
        starts = flight.starts[self.features]
        tables: dict[Any, Any] = {(self, "plain"): starts[self._plain], (self, "coded"): starts[self._coded]}
        if len(self._coded):
            tables[self, "tables"] = np.array([self._hashed(flight, f) for f in self._coded.tolist()], np.int64)
        return tables

    def _hashed(self, flight: Flight, f: int) -> int:
        strings, parameters = flight.table.dictionaries[self.columns[f]], self._group.parameters[f : f + 1]
        ids = self._dictionaries.ids_of(strings, parameters, flight.index.dtype)
        return flight.keep(self._uploads.of(ids))

    def launch(self, flight: Flight, device: Device) -> None:
        """One launch over rows × features; another one for those with dictionaries."""
        if len(self._plain):
            kernel, types = self._kernel(flight)
            places = flight.out.values.data_ptr(), flight.address((self, "plain"))
            arguments = self._constants.address, flight.entries, flight.rows, *places, *types
            device.launch(kernel, flight.rows, len(self._plain), *arguments)
        if len(self._coded):
            places = flight.out.values.data_ptr(), flight.address((self, "coded"))
            own, tables = self._coded_constants.address, flight.address((self, "tables"))
            arguments = own, flight.entries, tables, flight.rows, *places, flight.index
            device.launch(hashing_cuda.GATHER, flight.rows, len(self._coded), *arguments)

    def _kernel(self, flight: Flight) -> tuple[Any, tuple[Any, ...]]:
        if self._group.physical == STRING:
            return hashing_cuda.HASH_STRINGS, (flight.index,)
        like, parameters = np.dtype(self._group.physical).type(0), self._group.parameters
        if parameters.ndim == 1:
            return hashing_cuda.MODULO, (like, parameters.dtype.type(0), flight.index)
        return hashing_cuda.HASH_INTS, (like, flight.index)

    def on_cpu(self, flight: Flight, staged: Bytes) -> None:
        """Run the CPU's loop."""
        ids, starts = staged.view(flight.index.dtype), self.compact_starts(flight)
        if len(self._coded):
            self._dictionaries.hash(self._group, flight.table, self._which, flight.rows, ids, starts)
        else:
            self._group.run(flight.table.table, self._which, flight.rows, ids, starts)


class BinsPart(_Ids):
    """A chain that ends in ids: Bucketize of a sparse feature."""

    def __init__(self, name: str, feature: int, group: NumericGroup, table: Addresses, device: Device) -> None:
        super().__init__(name, group.columns, [feature])
        self._group, self._which = group, group.which(table.names)
        self._kernel = dense_cuda.ids_kernel(group.rules)
        self._constants = constants.of_numbers(device, group, self._which, 1)
        self._like = group.like.dtype.type(0)

    def tables(self, flight: Flight) -> dict[Any, Any]:
        """Where the feature begins."""
        return {(self, "plain"): flight.starts[self.features]}

    def launch(self, flight: Flight, device: Device) -> None:
        """One launch over rows."""
        places = flight.out.values.data_ptr(), flight.address((self, "plain"))
        arguments = self._constants.address, flight.entries, flight.rows, *places, self._like, flight.index
        device.launch(self._kernel, flight.rows, 1, *arguments)

    def on_cpu(self, flight: Flight, staged: Bytes) -> None:
        """Run the CPU's loop; what is missing gets id 0."""
        bins = np.empty((flight.rows, 1), np.float32)
        self._group.run(flight.table.table, self._which, flight.rows, bins)
        staged.view(flight.index.dtype)[:] = np.nan_to_num(bins[:, 0], copy=False, nan=0.0)


class CrossPart(_Ids):
    """All crosses: first the words of the columns they take, each once, then a launch over rows × crosses."""

    def __init__(self, name: str, table: Addresses, program: Program, uploads: Uploads) -> None:
        crosses, device = program.groups.crosses, uploads.device
        names = tuple(dict.fromkeys(column for _, feature, _ in crosses for column in feature.columns))
        super().__init__(name, names, [i for i, _, _ in crosses])
        self._program, self._uploads = program, uploads
        self._words = _by_type(names, program, table)
        self.reads_dictionaries = CODED in self._words
        self._slots = {kind: np.array([names.index(n) for n in of], np.int64) for kind, of in self._words.items()}
        self._columns = {
            kind: constants.of_words(device, np.array([table.names.index(n) for n in of], np.int64))
            for kind, of in self._words.items()
        }
        which = [[names.index(n) for n in feature.columns] for _, feature, _ in crosses]
        self._crosses = constants.of_crosses(device, np.array([p for _, _, p in crosses]), which)

    def tables(self, flight: Flight) -> dict[Any, Any]:
        """Where each cross begins, and each column's words; of dictionaries, the words of their strings."""
        tables: dict[Any, Any] = {(self, "plain"): flight.starts[self.features]}
        for kind, slots in self._slots.items():
            tables[self, kind] = slots * flight.rows
        if CODED in self._words:
            known, strings = self._program.dictionaries, flight.table.dictionaries
            words = [self._uploads.of(known.words_of(strings[name])) for name in self._words[CODED]]
            tables[self, "tables"] = np.array([flight.keep(one) for one in words], np.int64)
        return tables

    def launch(self, flight: Flight, device: Device) -> None:
        """A launch for each type of column, and one over rows × crosses."""
        words = device.empty(8 * len(self.columns) * flight.rows)
        flight.keep(words)
        for kind, names in self._words.items():
            place = words.data_ptr(), flight.address((self, kind))
            own, rows = self._columns[kind].address, flight.rows
            if kind == CODED:
                arguments = own, flight.entries, flight.address((self, "tables")), rows, *place, _WORD
                device.launch(hashing_cuda.GATHER, rows, len(names), *arguments)
            elif kind == STRING:
                device.launch(hashing_cuda.ID64_STRINGS, rows, len(names), own, flight.entries, rows, *place)
            else:
                like = np.dtype(kind).type(0)
                device.launch(hashing_cuda.ID64_INTS, rows, len(names), own, flight.entries, rows, *place, like)
        places = words.data_ptr(), flight.rows, flight.out.values.data_ptr(), flight.address((self, "plain"))
        device.launch(hashing_cuda.CROSS, flight.rows, len(self.features), self._crosses.address, *places, flight.index)

    def on_cpu(self, flight: Flight, staged: Bytes) -> None:
        """Run the CPU's loops."""
        starts = np.zeros(len(flight.starts), np.int64)
        starts[self.features] = self.compact_starts(flight)
        self._program.run_crosses(flight.table, flight.rows, staged.view(flight.index.dtype), starts)


def _by_type(names: Sequence[str], program: Program, table: Addresses) -> dict[str, list[str]]:
    """Sort columns by what their words are made of."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(CODED if name in table.dictionaries else program.physical[name], []).append(name)
    return kinds
