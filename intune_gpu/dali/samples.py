"""Samples of DALI's as columns: numbers, and what DALI has no type for: strings, lists, and what is missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from intune_gpu.core.errors import RecipeError

Samples = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """What stands in the samples of some columns.

    Attributes:
        names: of the columns.
        strings: of these, those whose samples are the bytes of a row's string, (bytes,) uint8.
        lists: of these, those whose samples are the numbers of a row's list, (elements,).
        present: of these, those that say which values are there, by samples of the same shape behind all columns'.
    """

    names: tuple[str, ...]
    strings: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    present: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, names: Sequence[str], strings: Collection[str], lists: Collection[str], present: Collection[str]
    ) -> Layout:
        """Return the layout of columns.

        Raises:
            RecipeError: there is no such column, or DALI's samples cannot hold it.
        """
        for what, chosen in (("strings", strings), ("lists", lists), ("present", present)):
            if isinstance(chosen, str):
                raise RecipeError(f"{what}: expected names of columns, found the text {chosen!r}; put it into a list")
            unknown = [name for name in chosen if name not in names]
            if unknown:
                raise RecipeError(
                    f"{what}: expected names out of {', '.join(names)}, found {', '.join(map(repr, unknown))}; "
                    "name columns that are given, and that the recipe reads"
                )
        both = sorted(set(strings) & set(lists))
        if both:
            raise RecipeError(
                f"column {both[0]!r}: expected strings or lists of numbers, found it among both: a sample of DALI's "
                "holds no list of strings; read the column with intune_gpu.dali.DALIRecIterator"
            )
        needless = sorted(set(present) & set(lists))
        if needless:
            raise RecipeError(
                f"column {needless[0]!r}: expected no node that says which lists are there, since a missing list is an "
                "empty one, found one; take it out of present"
            )
        return cls(tuple(names), frozenset(strings), frozenset(lists), tuple(present))

    @property
    def one_row(self) -> bool:
        """Whether a sample is one row: no sample holds several strings, or several lists."""
        return bool(self.strings or self.lists)

    def table(self, inputs: Sequence[Samples]) -> pa.Table:
        """Return the columns, one entry a row.

        Args:
            inputs: of each column its samples, and behind these the samples of `present`.

        Raises:
            RecipeError: the samples are not of the layout.
        """
        flags = dict(zip(self.present, inputs[len(self.names) :], strict=True))
        arrays: dict[str, pa.Array] = {}
        for name, samples in zip(self.names, inputs, strict=False):
            array = self._array(name, samples)
            if name in flags:
                there = joined(f"what is present of {name!r}", flags[name]).astype(np.bool_)
                _check_rows(f"what is present of {name!r}", len(there), len(array), name)
                array = pc.if_else(pa.array(there), array, pa.scalar(None, array.type))
            arrays[name] = array
            first = next(iter(arrays))
            _check_rows(f"column {name!r}", len(array), len(arrays[first]), first)
        return pa.table(arrays)

    def _array(self, name: str, samples: Samples) -> pa.Array:
        if name not in self.strings and name not in self.lists:
            if self.one_row and len(samples) > 1:
                _check_one_row(name, samples)
            return pa.array(joined(f"column {name!r}", samples))
        flat, offsets = _ragged(name, samples)
        if name in self.lists:
            return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
        if flat.dtype != np.uint8:
            raise RecipeError(f"column {name!r}: expected strings as bytes, (bytes,) uint8, found {flat.dtype}")
        return pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(samples), [None, pa.py_buffer(offsets), pa.py_buffer(flat)]
        )


def joined(what: str, samples: Samples) -> npt.NDArray[Any]:
    """Return the numbers of all samples, (rows,).

    Raises:
        RecipeError: a sample is neither one number nor a row of them.
    """
    if any(sample.ndim > 1 for sample in samples):
        shape = next(sample.shape for sample in samples if sample.ndim > 1)
        raise RecipeError(f"{what}: expected samples of one number or of (n,) numbers, found one of {shape}")
    return np.concatenate([sample.reshape(-1) for sample in samples])


def checked_columns(columns: Mapping[str, Any], wanted: Sequence[str], label: str) -> list[str]:
    """Return the columns that are read, out of those that are given; the label's may be missing.

    Raises:
        RecipeError: another one is.
    """
    lacking = [name for name in wanted if name not in columns and name != label]
    if lacking:
        raise RecipeError(
            f"columns: expected {', '.join(wanted)}, found none named {', '.join(lacking)}; give a DataNode for each"
        )
    return [name for name in wanted if name in columns]


def _ragged(name: str, samples: Samples) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return all elements, and the (rows + 1,) offsets of each row's."""
    wrong = [sample.shape for sample in samples if sample.ndim != 1]
    if wrong:
        raise RecipeError(
            f"column {name!r}: expected a row's string or list as a sample of one dimension, found one of {wrong[0]}"
        )
    offsets = np.zeros(len(samples) + 1, np.int64)
    np.cumsum([len(sample) for sample in samples], out=offsets[1:])
    return np.concatenate(samples), offsets


def _check_one_row(name: str, samples: Samples) -> None:
    if any(sample.size != 1 for sample in samples):
        shape = next(sample.shape for sample in samples if sample.size != 1)
        raise RecipeError(
            f"column {name!r}: expected one number a sample, since a sample with strings or lists is one row, "
            f"found one of {shape}"
        )


def _check_rows(what: str, found: int, wanted: int, like: str) -> None:
    if found != wanted:
        raise RecipeError(f"{what}: expected {wanted} rows, as column {like!r} has, found {found}")
