"""Strings of dictionaries: each is hashed once, and the rows of the batches that follow gather by their codes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import STRING, Addresses, FlatColumn
from intune_gpu.engine.groups import IdGroup, Ids, Whole
from intune_gpu.kernels import hashing
from intune_gpu.kernels.memory import address_of

_FIRST = np.zeros(1, np.int64)
_Key = tuple[int, int]


class Dictionaries:
    """What the strings of dictionaries become; safe to use from many threads.

    A dictionary is hashed as a whole when the first batch comes with it: a source and a window keep none that has more
    strings than rows (`core.rows.compact`). What came of it goes with it, when nothing else refers to its buffers any
    more. So this takes 8 bytes a string and feature of the windows that are in flight, and never holds on to one.
    """

    def __init__(self) -> None:
        self._known: dict[_Key, _Hashed] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Dictionaries that are kept."""
        return len(self._known)

    def hash(self, group: IdGroup, table: Addresses, which: Whole, rows: int, out: Ids, starts: Whole) -> None:
        """Do what `group.run` does for strings, where columns may have dictionaries.

        Args:
            group: hashes of string columns.
            table: of the batch's columns.
            which: (features,), as `group.which` gave it.
            rows: of the batch.
            out: flat ids.
            starts: (features,) where in `out` each feature begins.
        """
        coded = np.array([name in table.dictionaries for name in group.columns])
        if not coded.all():
            plain = ~coded
            hashing.hash_strings_cpu(table.table, which[plain], group.parameters[plain], rows, out, starts[plain])
        ids = []
        for f in np.flatnonzero(coded).tolist():
            strings, parameters = table.dictionaries[group.columns[f]], group.parameters[f : f + 1]
            ids.append(self.ids_of(strings, parameters, out.dtype))
        addresses = np.array([address_of(i) for i in ids], np.int64)
        hashing.gather_hashed_cpu(table.table, which[coded], addresses, rows, out, starts[coded])

    def ids_of(self, strings: FlatColumn, parameters: npt.NDArray[np.uint64], dtype: np.dtype[Any]) -> Ids:
        """Return the (strings,) ids of a dictionary's strings, for a feature with these (1, 3) parameters."""
        return self._of(strings).ids(strings, parameters, dtype)

    def words_of(self, strings: FlatColumn) -> npt.NDArray[np.uint64]:
        """Return (strings,) `id64(string, 0)` of a dictionary's strings."""
        return self._of(strings).words(strings)

    def words(self, table: Addresses, columns: dict[str, tuple[int, str]], rows: int) -> npt.NDArray[np.uint64]:
        """Return (columns, rows): `id64(value, 0)` of each value, 0 where it is missing.

        Args:
            table: of the batch's columns.
            columns: name → its row in `table` and its physical type.
            rows: of the batch.
        """
        words = np.empty((len(columns), rows), np.uint64)
        for out, (name, (place, physical)) in zip(words, columns.items(), strict=True):
            strings = table.dictionaries.get(name)
            if strings is not None:
                each = self.words_of(strings)
                which, addresses = np.array([place]), np.array([address_of(each)], np.int64)
                hashing.gather_hashed_cpu(table.table, which, addresses, rows, out, _FIRST)
            elif physical == STRING:
                hashing.id64_strings_cpu(table.table[place], rows, out)
            else:
                hashing.id64_ints_cpu(table.table[place], rows, np.empty(0, physical), out)
        return words

    def _of(self, strings: FlatColumn) -> _Hashed:
        # Slices share the very arrays, and an array's end takes it out of `_known` before another can get its id.
        key = id(strings.values), id(strings.offsets)
        with self._lock:
            known = self._known.get(key)
            if known is None:
                self._known[key] = known = _Hashed(strings, self._known, key)
            return known


class _Hashed:
    """What the strings of one dictionary become, by what was asked for."""

    def __init__(self, strings: FlatColumn, known: dict[_Key, _Hashed], key: _Key) -> None:
        assert strings.offsets is not None
        # No lock: this may run wherever the last reference goes, also within `_of`.
        arrays = strings.values, strings.offsets
        # `pop` gets the reference as what to return where the key is gone: no Python code that could lose a Ctrl-C.
        self._until = [weakref.ref(array, partial(known.pop, key)) for array in arrays]
        self._lock = threading.Lock()  # two threads that begin with one dictionary: the second waits
        self._made: dict[object, npt.NDArray[Any]] = {}

    def ids(self, strings: FlatColumn, parameters: npt.NDArray[np.uint64], dtype: np.dtype[Any]) -> Ids:
        """Return the (strings,) ids of a feature with these (1, 3) parameters."""

        def fill(table: Whole, out: Ids) -> None:
            hashing.hash_strings_cpu(table, _FIRST, parameters, len(out), out, _FIRST)

        return self._get(strings, parameters.tobytes(), dtype, fill)

    def words(self, strings: FlatColumn) -> npt.NDArray[np.uint64]:
        """Return (strings,) `id64(string, 0)`."""

        def fill(table: Whole, out: npt.NDArray[np.uint64]) -> None:
            hashing.id64_strings_cpu(table[0], len(out), out)

        return self._get(strings, None, np.dtype(np.uint64), fill)

    def _get(
        self, strings: FlatColumn, key: object, dtype: np.dtype[Any], fill: Callable[[Whole, Ids], None]
    ) -> npt.NDArray[Any]:
        with self._lock:
            if key not in self._made:
                out = np.empty(strings.rows, dtype)
                fill(Addresses.of({"": strings}).table, out)
                self._made[key] = out
            return self._made[key]
