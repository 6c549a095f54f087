"""Wiring: where the columns that a recipe reads stand in a table of addresses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from intune_gpu.engine.groups import IdGroup, NumericGroup, Whole
from intune_gpu.engine.layouts import IdLayout
from intune_gpu.recipe.features import SparseFeature


@dataclass(frozen=True)
class Groups:
    """What is computed, sorted into passes over columns of one type and chain.

    Attributes:
        label: a group of one, into a matrix of one column.
        dense: chains.
        singles: hashes and modulo of one value a row.
        lists: likewise of lists, each a group of its own.
        crosses: (number among the keys, the feature, (3,) uint64 seed, buckets less reserved, reserved).
        bucketized: (number among the keys, its chain).
    """

    label: NumericGroup
    dense: list[NumericGroup]
    singles: list[IdGroup]
    lists: list[IdGroup]
    crosses: list[tuple[int, SparseFeature, npt.NDArray[np.uint64]]]
    bucketized: list[tuple[int, NumericGroup]]


@dataclass(frozen=True)
class Wiring:
    """Where the columns of each group stand among the names of a table."""

    label: Whole
    dense: list[tuple[NumericGroup, Whole]]
    singles: list[tuple[IdGroup, Whole]]
    bucketized: list[Whole]

    @classmethod
    def of(cls, groups: Groups, names: tuple[str, ...]) -> Wiring:
        """Look up the columns among these names."""
        return cls(
            groups.label.which(names),
            [(group, group.which(names)) for group in groups.dense],
            [(group, group.which(names)) for group in groups.singles],
            [group.which(names) for _, group in groups.bucketized],
        )

    def repeated(self, columns: int, ids: IdLayout, batches: int) -> list[tuple[IdGroup, Whole, Whole]]:
        """Return the groups of single values once for each of several batches: (group, rows of the table, starts).

        Args:
            columns: of one batch; the table holds those of all, one batch behind the other.
            ids: of one batch; the values hold those of all, likewise.
            batches: how many.
        """
        turns = np.arange(batches, dtype=np.int64)[:, None]
        return [
            (
                replace(group, parameters=np.concatenate([group.parameters] * batches)),
                (turns * columns + which).reshape(-1),
                (turns * ids.total + begins).reshape(-1),
            )
            for (group, which), begins in zip(self.singles, ids.of_singles, strict=True)
        ]
