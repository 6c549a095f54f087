"""From what a user names as data to a source: which format, which columns, which types."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from intune_gpu.core.columns import LabelRange
from intune_gpu.core.errors import DataError, RecipeError
from intune_gpu.core.placement import ALL_ON_CPU, Placement
from intune_gpu.core.source import Source
from intune_gpu.recipe import Bucketize, Modulo, Recipe
from intune_gpu.recipe.ready import CRITEO_COLUMNS, CRITEO_SPARSE
from intune_gpu.sources import files, text
from intune_gpu.sources.parquet import ParquetSource
from intune_gpu.sources.text import TextSource
from intune_gpu.sources.text_format import TextFormat, read_head

FORMATS = ("auto", "parquet", "tsv", "csv")
PARQUET_SUFFIXES = (".parquet", ".pq")

_SHOWN_FIELDS = 10
_SHOWN_CHARACTERS = 40


def open_source(
    data: files.Paths,
    recipe: Recipe,
    *,
    format: str = "auto",
    columns: Sequence[str] | None = None,
    label_range: LabelRange | None = None,
) -> Source:
    """Open files as a source of the columns that a recipe needs.

    A text file has a header if its first row is `columns`, or names every column that the recipe needs. Without a
    header it needs `columns`, unless it has 40 fields and the recipe reads Criteo's columns only.

    Args:
        data: file, directory, glob, URL, or a list of these; `.gz` and `.zst` text too.
        recipe: what is to be computed.
        format: `"parquet"`, `"tsv"`, `"csv"`, or `"auto"`: by the files' endings.
        columns: names of all fields of headerless text, in order.
        label_range: (least, most) that a label may be; a row with another is a bad row. None for any number.

    Raises:
        DataError: there is no such file, or its format cannot be told.
        RecipeError: the files lack a column, or a column has no type that fits its use.
    """
    if columns is not None and (isinstance(columns, str) or not columns):
        raise RecipeError(
            f"columns: expected the names of all fields, in order, found {columns!r}; pass a list of names"
        )
    paths, kind = locate(data, format)
    if kind == "parquet":
        if columns is not None:
            raise RecipeError("columns: expected None for Parquet files, which name their columns; take it out")
        return ParquetSource(
            paths, needed=recipe.columns, types=recipe.types, label=recipe.label, label_range=label_range
        )
    return _open_text(paths, kind, recipe, columns, label_range)


def locate(data: files.Paths, format: str = "auto") -> tuple[list[str], str]:
    """Return all files that `data` means, and their format: `"parquet"`, `"tsv"` or `"csv"`.

    Raises:
        DataError: there is no such file, or its format cannot be told.
    """
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, found {format!r}")
    suffixes = PARQUET_SUFFIXES if format == "parquet" else text.SUFFIXES
    paths = files.expand(data, (*PARQUET_SUFFIXES, *text.SUFFIXES) if format == "auto" else suffixes)
    return paths, _format_of(paths) if format == "auto" else format


def _format_of(paths: Sequence[str]) -> str:
    found: dict[str, str] = {}
    for path in paths:
        name = path.lower().removesuffix(".gz").removesuffix(".zst")
        ending = os.path.splitext(name)[1]
        known = {".parquet": "parquet", ".pq": "parquet", ".tsv": "tsv", ".txt": "tsv", ".csv": "csv"}
        if ending not in known:
            raise DataError(
                f"{path}: expected a name that ends in {', '.join(known)} (text also with .gz or .zst), "
                'which tells the format; pass format="parquet", "tsv" or "csv"'
            )
        found.setdefault(known[ending], path)
    if len(found) > 1:
        raise DataError(
            f"data: expected files of one format, found {' and '.join(found.values())}; pass the files of one format"
        )
    return next(iter(found))


def _open_text(
    paths: Sequence[str], kind: str, recipe: Recipe, columns: Sequence[str] | None, label_range: LabelRange | None
) -> TextSource:
    delimiter, quoted = (",", True) if kind == "csv" else ("\t", False)
    fields = read_head(paths[0], TextFormat(delimiter, False, quoted), sniff=True).fields
    header = fields == tuple(columns) if columns is not None else set(recipe.columns) <= set(fields)
    is_criteo = set(recipe.columns) <= set(CRITEO_COLUMNS)
    if columns is None and not header:
        if not is_criteo or len(fields) != len(CRITEO_COLUMNS):
            raise RecipeError(_no_names(paths[0], fields, recipe))
        columns = CRITEO_COLUMNS
    names = fields if header else tuple(columns or ())
    return TextSource(
        paths,
        text_format=TextFormat(delimiter, header, quoted),
        needed=recipe.columns,
        types=text_types(recipe, criteo=is_criteo and set(CRITEO_COLUMNS) <= set(names)),
        columns=None if header else columns,
        label=recipe.label,
        label_range=label_range,
    )


def _no_names(path: str, fields: Sequence[str], recipe: Recipe) -> str:
    lacking = ", ".join(name for name in recipe.columns if name not in fields)
    shown = ", ".join(repr(field[:_SHOWN_CHARACTERS]) for field in fields[:_SHOWN_FIELDS])
    more = ", ..." if len(fields) > _SHOWN_FIELDS else ""
    return (
        f"{path}: expected a header with the columns {lacking}, or Criteo's 40 fields, found a first row of "
        f"{len(fields)} field{'s' if len(fields) > 1 else ''}, {shown}{more}; "
        "name all fields in order with columns=[...] (in training: --columns), or correct format or recipe"
    )


def text_types(recipe: Recipe, *, criteo: bool = False) -> dict[str, str]:
    """Return the type that each needed column of a text file is read as.

    Declared types come first. Else a number (label, dense, `Bucketize`) is float64, the operand of a `Modulo` int64, an
    id a string; in Criteo's files numbers are int64 and ids hex32.

    Raises:
        RecipeError: a column is used as a number and as an id, and its type is not declared.
    """
    numbers = {recipe.label, *(feature.column for feature in recipe.dense_features)}
    integers: set[str] = set()
    ids: set[str] = set()
    for feature in recipe.sparse_features:
        uses = numbers if isinstance(feature.last, Bucketize) else integers if isinstance(feature.last, Modulo) else ids
        uses.update(feature.columns)
    types: dict[str, str] = {}
    for name in recipe.columns:
        if name in recipe.types:
            types[name] = recipe.types[name]
        elif criteo:
            types[name] = "hex32" if name in CRITEO_SPARSE else "int64"
        elif name in numbers and name in ids:
            raise RecipeError(
                f'column "{name}": expected one use, found it as a number and as an id that is hashed; '
                f'declare what it is with types={{"{name}": "int64"}}'
            )
        else:
            types[name] = "int64" if name in integers else "float64" if name in numbers else "string"
    return types


def check_arguments(recipe: Recipe, batch_size: int, seed: int, rank: int, world_size: int) -> None:
    """Refuse what is wrong with a loader's arguments, whatever the data.

    Raises:
        RecipeError: the recipe is none.
        ValueError: a number is none, or out of range.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"recipe: expected a Recipe, found {recipe!r}; Recipe.load reads a saved one")
    for name, number in (("batch_size", batch_size), ("seed", seed), ("rank", rank), ("world_size", world_size)):
        if not isinstance(number, Integral):
            raise ValueError(f"{name}: expected a whole number, found {number!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1 row, found {batch_size!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 to 2**64 - 1, found {seed!r}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 to world_size - 1, found rank {rank!r} of world_size {world_size!r}")


def checked_placement(value: Any, on_gpu: bool) -> Placement | None:
    """Read what a user wrote for a placement.

    Raises:
        ValueError: it is none, or asks for a GPU where batches stay in host memory.
    """
    if not on_gpu and value is not None and Placement.of(value) != ALL_ON_CPU:
        raise ValueError(
            f'placement: expected "cpu", since batches stay in host memory, found {value!r}; give device="cuda" too'
        )
    return None if value is None else Placement.of(value)
