"""Arrow's types as the types of flat columns: what can be used, and what is said of what cannot."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from intune_gpu.core.columns import DECLARED, FLOATS, INTEGERS, NO_TYPES, STRING, ColumnType
from intune_gpu.core.errors import DataError

ACCEPTED = "integers, floats, booleans, strings, binaries, dictionaries of these, and lists of these"
VIEWS = (pa.string_view(), pa.binary_view())
_WAY_OUT = "cast it to int64 or string when writing the data, or leave it out of the recipe"
_PHYSICAL = {pa.bool_(): "uint8", pa.float16(): "float32"} | {pa.type_for_alias(p): p for p in (*INTEGERS, *FLOATS)}
# Types are told apart by their number: to ask `pa.types` costs more than the rest of a small table's way to a batch.
_LISTS = frozenset(type.id for type in (pa.list_(pa.null()), pa.large_list(pa.null()), pa.list_(pa.null(), 1)))
_TEXT = frozenset(
    type.id for type in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.binary(1), *VIEWS)
)
_DICTIONARY = pa.dictionary(pa.int8(), pa.null()).id
_FAMILY = {"hex32": "text or integers", "int64": "integers", "float64": "floats", "string": "text"}
_DECLARED_PHYSICAL = {"hex32": "uint32", "int64": "int64", "float64": "float64", "string": STRING}
_SHOWN_NAMES = 50


def column_type(field: pa.Field, declared: str | None = None) -> ColumnType:
    """Return the type that a column has once it is flat.

    Args:
        field: the column in its Arrow schema.
        declared: one of `DECLARED`, or None. `"hex32"` makes 32-bit ids of text or integers; the other three check the
            family, and keep the physical type (an id is its value, whatever the width).

    Raises:
        DataError: the type cannot be used, or is of another family than declared.
    """
    if declared is not None and declared not in DECLARED:
        raise DataError(f"column {field.name!r}: expected a type among {', '.join(DECLARED)}, found {declared!r}")
    is_list = is_list_type(field.type)
    leaf = leaf_type(field.type)
    nullable = field.nullable or (is_list and field.type.value_field.nullable)
    if pa.types.is_null(leaf):
        if declared is None:
            raise DataError(
                f"column {field.name!r}: expected {ACCEPTED}, found {field.type}: it holds no value at all; "
                f"declare it in Recipe(types=...) as one of {', '.join(DECLARED)}, or leave it out of the recipe"
            )
        return ColumnType(_DECLARED_PHYSICAL[declared], is_list, True, declared == "hex32")
    physical = STRING if is_text_type(leaf) else _PHYSICAL.get(leaf)
    if physical is None:
        raise DataError(f"column {field.name!r}: expected {ACCEPTED}, found {field.type}; {_WAY_OUT}")
    if declared is not None:
        _check_family(field, leaf, physical, declared)
    if declared == "hex32":
        return ColumnType("uint32", is_list, nullable or physical == STRING, True)  # an empty text is a missing id
    return ColumnType(physical, is_list, nullable)


def column_types(
    schema: pa.Schema, needed: Iterable[str], declared: Mapping[str, str] = NO_TYPES, where: str = "table"
) -> dict[str, ColumnType]:
    """Return the type of every needed column, in the order of `needed`.

    Args:
        schema: what the table or file holds.
        needed: column names.
        declared: `Recipe.types`.
        where: the table or file, as errors name it.

    Raises:
        DataError: a column is missing, stands there twice, or cannot be used.
    """
    types: dict[str, ColumnType] = {}
    for name in needed:
        places = schema.get_all_field_indices(name)
        if len(places) != 1:
            raise DataError(f"{where}: {_missing_column(name, schema.names, len(places))}")
        try:
            types[name] = column_type(schema.field(places[0]), declared.get(name))
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    return types


def table_types(
    table: pa.Table | pa.RecordBatch, needed: Iterable[str], declared: Mapping[str, str] = NO_TYPES
) -> dict[str, ColumnType]:
    """Return the types of a table in memory: as `column_types`, but nullable only where a null really is.

    Raises:
        DataError: a column is missing, stands there twice, or cannot be used.
    """
    types = column_types(table.schema, needed, declared)
    for name, type in types.items():
        column = table.column(name)
        # What is missing inside lists, dictionaries and hex32 text is found only by decoding; they stay as declared.
        hidden = type.is_list or is_dictionary_type(column.type) or (type.hex32 and is_text_type(column.type))
        if not hidden and column.null_count == 0:
            types[name] = ColumnType(type.physical, type.is_list, False, type.hex32)
    return types


def check_label(name: str, type: ColumnType) -> None:
    """Refuse a label column that is not one number a row.

    Raises:
        DataError: it is text, a list, or declared hex32.
    """
    if type.is_list or type.hex32 or type.physical == STRING:
        raise DataError(
            f"label column {name!r}: expected one number a row, found {type}; "
            "name another column as the label, or store it as 0 and 1"
        )


def leaf_type(type: pa.DataType) -> pa.DataType:
    """Return the type of one element: what is left of `type` without list and dictionary."""
    if is_list_type(type):
        type = type.value_type
    return type.value_type if is_dictionary_type(type) else type


def is_list_type(type: pa.DataType) -> bool:
    """Return whether a type holds a list a row."""
    return type.id in _LISTS


def is_dictionary_type(type: pa.DataType) -> bool:
    """Return whether a type holds codes of a dictionary."""
    return bool(type.id == _DICTIONARY)


def is_text_type(type: pa.DataType) -> bool:
    """Return whether a type holds text or bytes."""
    return type.id in _TEXT


def _check_family(field: pa.Field, leaf: pa.DataType, physical: str, declared: str) -> None:
    is_integer = physical in INTEGERS and not (declared == "hex32" and pa.types.is_boolean(leaf))
    fits = {
        "hex32": physical == STRING or is_integer,
        "int64": is_integer,
        "float64": physical in FLOATS,
        "string": physical == STRING,
    }
    if not fits[declared]:
        raise DataError(
            f"column {field.name!r}: declared {declared}, expected {_FAMILY[declared]}, found {field.type}; "
            "declare it as what it is, or cast it when writing the data"
        )


def _missing_column(name: str, names: Sequence[str], count: int) -> str:
    if count:
        return f"expected one column {name!r}, found {count}; give each column a name of its own"
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"expected a column {name!r}, found none; {hint}there are: {', '.join(names[:_SHOWN_NAMES])}{more}"
