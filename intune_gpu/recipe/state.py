"""State of fitted ops: one table a feature, saved as Parquet beside the recipe's JSON.

An op is fitted if its class names the columns of its state, as in `state_columns: ClassVar = ("value", "count")`. No op
of this version does. Every feature's table is bound by its digest, so that a recipe never meets another one's state.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intune_gpu.core.errors import RecipeError
from intune_gpu.recipe.ops import Op

if TYPE_CHECKING:
    import pyarrow as pa


def needed(ops: Iterable[Op]) -> tuple[str, ...]:
    """Return the columns that the state of these ops must have; none if no op is fitted."""
    return tuple(dict.fromkeys(column for op in ops for column in getattr(type(op), "state_columns", ())))


def check(state: object, chains: Sequence[Mapping[str, Sequence[Op]]]) -> dict[str, pa.Table]:
    """Refuse state that does not fit the features, and return it.

    Args:
        state: feature → table.
        chains: dense and sparse features with their ops; two of one name share a table.

    Raises:
        RecipeError: a fitted op without state, state that no op asks for, a missing column, or a null in one.
    """
    if not isinstance(state, Mapping):
        raise RecipeError(f"Recipe.state: expected a mapping of feature to Arrow table, found {state!r}")
    wanted: dict[str, tuple[str, ...]] = {}
    for chain in chains:
        for feature, ops in chain.items():
            if columns := needed(ops):
                wanted[feature] = tuple(dict.fromkeys((*wanted.get(feature, ()), *columns)))
    for feature in state:
        if feature not in wanted:
            raise RecipeError(
                f'Recipe.state["{feature}"]: expected a feature with a fitted op, found none; take it out'
            )
    for feature, columns in wanted.items():
        if feature not in state:
            raise RecipeError(f'feature "{feature}": its op is fitted, and Recipe.state holds nothing for it; fit it')
        _check_table(feature, state[feature], columns)
    return {feature: state[feature].combine_chunks() for feature in wanted}


def digest(table: pa.Table) -> str:
    """SHA-256, in hex, of a table's names, types and values: equal before saving and after loading."""
    import pyarrow as pa

    bare = table.replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, bare.schema) as stream:
        stream.write_table(bare)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def digests(state: Mapping[str, pa.Table]) -> dict[str, str]:
    """Return feature → digest, by name."""
    return {feature: digest(state[feature]) for feature in sorted(state)}


def write(state: Mapping[str, pa.Table], recipe: Path) -> None:
    """Write each table beside the recipe's file, which must be written after: a name holds the table's digest."""
    import pyarrow.parquet as pq

    for table in state.values():
        path = _file(recipe, digest(table))
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            pq.write_table(table, temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def read(saved: Any, recipe: Path) -> dict[str, pa.Table]:
    """Return what `write` wrote.

    Args:
        saved: feature → digest, from the recipe's JSON.
        recipe: the JSON's path.

    Raises:
        RecipeError: a table is missing, is no Parquet, or is another one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not isinstance(saved, dict) or not all(isinstance(value, str) for value in saved.values()):
        raise RecipeError(f"recipe {recipe}: state: expected an object of feature to digest, found {saved!r}")
    state = {}
    for feature, name in saved.items():
        path = _file(recipe, name)
        where = f'recipe {recipe}: the state of feature "{feature}"'
        try:
            state[feature] = pq.read_table(path)
        except FileNotFoundError as error:
            raise RecipeError(f"{where}: expected {path.name} beside it, found no such file; copy both") from error
        except (OSError, pa.ArrowException) as error:
            raise RecipeError(f"{where}: {path.name} cannot be read: {error}; copy it again, or fit anew") from error
        if digest(state[feature]) != name:
            raise RecipeError(f"{where}: {path.name} holds another table than was saved; copy it again, or fit anew")
    return state


def _file(recipe: Path, digest: str) -> Path:
    return recipe.with_name(f"{recipe.name}.{digest[:16]}.parquet")


def _check_table(feature: str, table: Any, columns: Sequence[str]) -> None:
    import pyarrow as pa

    where = f'Recipe.state["{feature}"]'
    if not isinstance(table, pa.Table):
        raise RecipeError(f"{where}: expected an Arrow table, found {table!r}")
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise RecipeError(f"{where}: expected the columns {', '.join(columns)}, found {', '.join(table.column_names)}")
    for column in columns:
        if table[column].null_count:
            raise RecipeError(f'{where}: expected no nulls in "{column}", found {table[column].null_count}; fit anew')
