"""One shot: a table in memory to a batch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from intune_gpu.core.arrow import chunk_from_table, columns_from_mapping
from intune_gpu.core.arrow_types import table_types
from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import ColumnType, RawBatch
from intune_gpu.core.errors import BadRowError, DataError, RecipeError
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.gpu.opening import open_device
from intune_gpu.engine.program import Program
from intune_gpu.kernels.denormals import denormals_kept
from intune_gpu.recipe import Recipe

KEPT_ROWS = 4_096
"""Programs are kept from call to call for tables of at most so many rows, whose batches take as long to make.

A program remembers lengths of the batches it made, and its pool their memory: together under 10 MB for each of them.
"""
_Types = tuple[tuple[str, ColumnType], ...]


def transform(
    table: pa.Table | pa.RecordBatch | Mapping[str, Any],
    recipe: Recipe,
    device: Any = "cpu",
    index_dtype: str = "int64",
) -> Batch:
    """Turn a table into one batch, the same bytes as a `Loader` gives.

    Args:
        table: an Arrow table or record batch, or a mapping of names to NumPy arrays (or sequences), one entry a row.
            Without the label's column, as where a model is asked and not trained, all labels are NaN. With a device,
            arrays of a mapping may be on it already: CuPy's, torch's, and whatever else speaks DLPack.
        recipe: what to compute.
        device: where the batch comes to stand: "cpu", "cuda", "cuda:1", or "auto", a GPU if there is one.
        index_dtype: "int64" or "int32", the type of the sparse ids.

    Returns:
        The batch: dense (rows, D) float32, sparse with F keys, label (rows,) float32.

    Raises:
        RecipeError: the recipe does not fit the table.
        DataError: a column is missing, or of a type that cannot be used.
        BadRowError: a label is missing or not finite, or an id is not 1 to 8 hex digits.
        DeviceError: there is no such device, or it cannot be used.
        MissingPackageError: the device needs a package that is not installed.
    """
    there = open_device(device)
    if there is not None:
        from intune_gpu.engine.gpu.one_shot import transform_on  # loads numba-cuda, which a CPU's user need not have

        return transform_on(there, table, recipe, index_dtype)
    prepared = prepare(table, recipe, index_dtype)
    with denormals_kept():
        return prepared.program.run(prepared.raw)


@dataclass(frozen=True, eq=False, slots=True)
class Prepared:
    """A table that is ready to be transformed.

    Attributes:
        program: of the recipe, for the table's types.
        raw: its columns.
    """

    program: Program
    raw: RawBatch


def prepare(
    table: pa.Table | pa.RecordBatch | Mapping[str, Any],
    recipe: Recipe,
    index_dtype: str,
    programs: dict[Any, Program] | None = None,
) -> Prepared:
    """Return a table's flat columns and the recipe compiled for them; raises what `transform` does.

    Args:
        table: as `transform` takes it.
        recipe: what to compute.
        index_dtype: "int64" or "int32".
        programs: kept from call to call, with one recipe and `index_dtype`, compiles once for each set of types;
            without, programs of small tables are kept for the recipes of the last few calls.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"recipe: expected a Recipe, found {recipe!r}; Recipe.load reads a saved one")
    if isinstance(table, Mapping):
        table = columns_from_mapping(table)
    elif not isinstance(table, pa.Table | pa.RecordBatch):
        raise DataError(
            "table: expected an Arrow table, a record batch or a mapping of names to arrays, "
            f"found {type(table).__name__}"
        )
    label: str | None = recipe.label
    if label not in table.schema.names:
        table = table.append_column(pa.field(recipe.label, pa.float32()), pa.nulls(table.num_rows, pa.float32()))
        label = None
    schema = table_types(table, recipe.columns, recipe.types)
    types = tuple(schema.items())
    if programs is None:
        compiled = _compiled if table.num_rows <= KEPT_ROWS else _compiled.__wrapped__
        program = compiled(_Same(recipe), types, index_dtype)
    elif types not in programs:
        program = programs[types] = Program(recipe, schema, index_dtype)
    else:
        program = programs[types]
    with denormals_kept():
        chunk = chunk_from_table(table, schema, label)
        if chunk.bad:
            first = chunk.bad[0]
            more = f" ({len(chunk.bad)} such rows)" if len(chunk.bad) > 1 else ""
            raise BadRowError(
                f"table: row {first.row}, column {first.column!r}: {first.reason}{more}; "
                "mend or drop it before the transform"
            )
        return Prepared(program, RawBatch(chunk.columns, chunk.rows))


@dataclass(frozen=True, eq=False, slots=True)
class _Same:
    """A recipe, equal to itself only: to compare two by what they say takes longer than to compile one."""

    recipe: Recipe

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.recipe is other.recipe

    def __hash__(self) -> int:
        return id(self.recipe)


@lru_cache(8)
def _compiled(same: _Same, types: _Types, index_dtype: str) -> Program:
    return Program(same.recipe, dict(types), index_dtype, BufferPool(4 << 20), shared_lengths=False)


# A program has locks, which a fork could leave held.
os.register_at_fork(after_in_child=_compiled.cache_clear)
