"""The parts of a program for columns in one order, and where the parts of one batch are done."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import Addresses
from intune_gpu.core.placement import Placement
from intune_gpu.engine.gpu.constants import Uploads
from intune_gpu.engine.gpu.flight import Counted, Flight
from intune_gpu.engine.gpu.lists import ListPart
from intune_gpu.engine.gpu.masks import group_names
from intune_gpu.engine.gpu.parts import BinsPart, CrossPart, IdPart, NumericPart, Part
from intune_gpu.engine.program import MAX_SIZES, Program
from intune_gpu.kernels.packing import ALIGNMENT

Chosen = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Wiring:
    """The parts for one order of columns.

    Attributes:
        names: of the columns.
        parts: of all groups.
        placed: the parts as they were sorted last, where that does not depend on the batch.
        counted: rows → counts of ids, where no feature is a list.
    """

    names: tuple[str, ...]
    parts: list[Part]
    placed: dict[tuple[Placement, bool, frozenset[str]], Placed] = field(default_factory=dict)
    counted: dict[int, Counted] = field(default_factory=dict)

    @cached_property
    def lists(self) -> list[ListPart]:
        """The parts of list features."""
        return [part for part in self.parts if isinstance(part, ListPart)]

    @cached_property
    def is_fixed(self) -> bool:
        """Whether batches of one size differ in nothing but their columns."""
        return not self.lists and not any(part.reads_dictionaries for part in self.parts)


@dataclass(frozen=True, eq=False, slots=True)
class Placed:
    """Where the parts of one batch are done.

    Attributes:
        launched: on the device.
        staged: on the CPU.
        chosen: the columns that are packed for those on the device.
        heads: rows → what is packed ahead of the columns; None where batches of one size differ in it.
    """

    launched: list[Part]
    staged: list[Part]
    chosen: Chosen
    heads: dict[int, Head] | None


class Head:
    """What stands in a slot ahead of columns, and where.

    First comes the table of columns (one more row for each list), then tables of the parts, and what parts make on the
    CPU.
    """

    def __init__(self, flight: Flight, wiring: Wiring, placed: Placed) -> None:
        lists = [part for part in placed.launched if isinstance(part, ListPart)]
        tables = {key: array for part in placed.launched for key, array in part.tables(flight).items()}
        self.places: dict[Any, int] = {}
        for i, part in enumerate(lists):
            self.places[part, "entry"] = 32 * (len(wiring.names) + i)
        self.nbytes = rounded(32 * (len(wiring.names) + len(lists)))
        for key, array in tables.items():
            self._reserve(key, array.nbytes)
        self.bytes = np.zeros(self.nbytes, np.uint8)
        for key, array in tables.items():
            begin = self.places[key]
            self.bytes[begin : begin + array.nbytes] = array.view(np.uint8)
        for staged in placed.staged:
            self._reserve(staged, staged.staged_nbytes(flight))

    def _reserve(self, key: Any, nbytes: int) -> None:
        self.places[key] = self.nbytes
        self.nbytes += rounded(nbytes)


def head_of(flight: Flight, wiring: Wiring, placed: Placed) -> Head:
    """Return what is packed ahead of a batch's columns, made once a size where it is the same."""
    heads, rows = placed.heads, flight.rows
    known = None if heads is None else heads.get(rows)
    if known is None:
        known = Head(flight, wiring, placed)
        if heads is not None and len(heads) < MAX_SIZES:
            heads[rows] = known
    return known


def parts_of(program: Program, table: Addresses, uploads: Uploads) -> list[Part]:
    """Return the parts of a program for columns in the order of a table."""
    groups, recipe, device = program.groups, program.recipe, uploads.device
    names = iter(group_names(program))
    width = len(recipe.dense_features)
    parts: list[Part] = [NumericPart(next(names), groups.label, table, 1, device)]
    parts += [NumericPart(next(names), group, table, width, device) for group in groups.dense]
    parts += [IdPart(next(names), ids, table, program, uploads) for ids in groups.singles]
    for of_list in groups.lists:
        first_k = recipe.sparse_features[int(of_list.features[0])].first_k
        parts.append(ListPart(next(names), of_list, first_k, device))
    if groups.crosses:
        parts.append(CrossPart(next(names), table, program, uploads))
    parts += [BinsPart(next(names), i, bins, table, device) for i, bins in groups.bucketized]
    return parts


def rounded(nbytes: int) -> int:
    """Round up to where the next buffer may begin."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
