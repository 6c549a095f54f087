"""What a sample tells of each column: missing, distinct, range, commonest values, and what looks odd."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from intune_gpu.core.arrow_types import column_type, is_list_type
from intune_gpu.core.columns import FLOATS, STRING
from intune_gpu.core.errors import DataError
from intune_gpu.sources.sampling import Sample, is_nested

_HEX = re.compile(r"[0-9a-fA-F]{8}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_SHOWN_VALUES = 3
_QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
_SHOWN_TEXT = 40
_NEAR_UNIQUE = 0.95
_ONE_VALUE = 0.99
_MIN_ROWS = 50
"""Of fewer values nothing is said to be unique, or nearly constant."""


@dataclass(frozen=True)
class Numbers:
    """Of the finite values of a numeric column, in the sample."""

    mean: float
    std: float
    median: float
    p99: float
    deciles: tuple[float, ...]
    lowest: float
    highest: float
    infinite: bool
    """Whether there are infinite values besides."""
    rising: bool
    """Whether each value is above the one before, as a row number is."""


@dataclass(frozen=True)
class Profile:
    """What is known of a column.

    Attributes:
        name: the column's.
        type: as the file has it, in words.
        kind: "integer", "float", "bool", "text", "empty", or "other", not for recipes; of a list, its elements'.
        is_list: whether a row holds a list.
        missing: share of rows: null, an empty text field, or NaN. None where it was not looked at.
        missing_exact: whether it is so of all rows, not of the sample only.
        distinct: number of values that differ, in all rows; None where it was not looked at.
        distinct_exact: whether all rows were looked at; else `distinct` is an estimate.
        present: values in the sample (of a list: elements).
        minimum, maximum: of numbers and times, as text or number.
        top: the commonest values and their share of those present.
        numbers: None unless the column is numeric.
        longest: elements of the longest list, of lists.
        is_hex: whether all values are text of 8 hex digits, letters among them.
        is_integer_text: whether all values are text of whole numbers.
        near_unique: whether nearly every value stands once in the whole data.
        refused: why no recipe can use it, or None.
    """

    name: str
    type: str
    kind: str
    is_list: bool = False
    missing: float | None = None
    missing_exact: bool = False
    distinct: int | None = None
    distinct_exact: bool = False
    present: int = 0
    minimum: Any = None
    maximum: Any = None
    top: tuple[tuple[Any, float], ...] = ()
    numbers: Numbers | None = None
    longest: int = 0
    is_hex: bool = False
    is_integer_text: bool = False
    near_unique: bool = False
    refused: str | None = None

    @property
    def odd(self) -> tuple[str, ...]:
        """What a person should look at, in words."""
        found = [self.refused] if self.refused else []
        if self.kind == "empty":
            found.append("all missing")
        elif self.distinct == 1:
            found.append("constant" if self.missing == 0 else "one value, or missing")
        elif self.present >= _MIN_ROWS and self.top and self.top[0][1] >= _ONE_VALUE:
            found.append(f"one value in {100 * self.top[0][1]:.1f} % of rows")
        if self.near_unique and self.kind in ("integer", "text"):
            found.append("nearly every value is different: a row id, or free text")
        if self.is_hex:
            found.append("8 hex digits: a 32-bit id as text")
        elif self.is_integer_text:
            found.append("integers stored as text")
        return tuple(found)


def profile_all(sample: Sample) -> list[Profile]:
    """Return a profile of every column, in the order of the file."""
    names = [*sample.types, *(name for name in sample.faults if name not in sample.types)]
    return [profile(name, sample) for name in names]


def profile(name: str, sample: Sample) -> Profile:
    """Look at one column of the sample."""
    stored = sample.types.get(name, "unknown")
    if name in sample.faults:
        return Profile(name, stored, "other", refused=sample.faults[name])
    field, column = sample.table.schema.field(name), sample.table.column(name)
    kind, refused = _kind(field)
    missing_rows, values, longest = _values(column)
    rows = max(1, len(column))
    missing, exact = missing_rows / rows, sample.is_whole
    if name in sample.nulls and missing_rows == column.null_count:  # statistics know of no NaN
        missing, exact = sample.nulls[name] / sample.rows, True
    if pa.types.is_null(field.type):
        exact = exact or not sample.is_text
    if missing == 1.0:
        return Profile(name, stored, "empty", missing=1.0, missing_exact=exact, distinct=0, distinct_exact=exact)
    is_list = is_list_type(field.type)
    if is_nested(field.type):
        return Profile(name, stored, kind, is_list, missing, exact, refused=refused)
    counts = _counts(values)
    known = {"missing": missing, "missing_exact": exact, "present": len(values), "longest": longest}
    if counts is None:
        return Profile(name, stored, kind, is_list, refused=refused, **known)  # type: ignore[arg-type]
    number = counts.field("counts").to_numpy()
    whole = round(len(values) / rows * sample.rows) if not sample.is_whole else len(values)
    distinct = estimate_distinct(number, whole)
    is_text = kind == "text"
    return Profile(
        name,
        stored,
        kind,
        is_list,
        distinct=distinct,
        distinct_exact=sample.is_whole,
        top=_top(counts, len(values)),
        numbers=_numbers(values) if kind in ("integer", "float") else None,
        is_hex=is_text and _all_match(counts, _HEX) and not _all_match(counts, _INTEGER),
        is_integer_text=is_text and _all_match(counts, _INTEGER),
        near_unique=not is_list and len(values) >= _MIN_ROWS and distinct >= _NEAR_UNIQUE * whole,
        refused=refused,
        **known,  # type: ignore[arg-type]
        **_range(values),
    )


def estimate_distinct(counts: npt.NDArray[np.int64], whole: int) -> int:
    """Estimate how many values differ in all rows from how often each stands in the sample.

    The lower bound of Chao and Lin (Nonparametric lower bounds for species richness and shared species richness under
    sampling without replacement, Biometrics 68, 2012): d + f1² / (n / (n - 1) * 2 f2 + q / (1 - q) * f1), where f1
    values stand once and f2 twice, and q is the sampled share. It is exact where all was sampled. Equal values that
    stand together in the file make it too low.

    Args:
        counts: (d,) how often each value that was found stands in the sample.
        whole: values in all rows, missing ones left out.
    """
    found, sampled = len(counts), int(counts.sum())
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    if sampled >= whole or once == 0:
        return found
    share = sampled / whole
    weight = sampled / max(1, sampled - 1) * 2 * twice + share / (1 - share) * once
    return min(whole, round(found + once**2 / weight))


def _kind(field: pa.Field) -> tuple[str, str | None]:
    """Return the kind of a column's values, and why a recipe cannot use them."""
    try:
        type = column_type(field)
    except DataError:
        return ("empty", None) if pa.types.is_null(field.type) else ("other", _refusal(field.type))
    if is_list_type(field.type) and type.physical in FLOATS:
        return "float", "a list of floats, which is no list of ids"
    leaf = field.type.value_type if is_list_type(field.type) else field.type
    if type.physical == STRING:
        return "text", None
    return ("float" if type.physical in FLOATS else "bool" if pa.types.is_boolean(leaf) else "integer"), None


def _refusal(type: pa.DataType) -> str:
    t = pa.types
    if t.is_temporal(type):
        return f"{type} is a time: write what matters of it (hour, weekday, age in days) as an integer column"
    if t.is_decimal(type):
        return f"{type}: write it as float64, or as an integer in the smallest unit"
    if t.is_struct(type):
        return "a struct: write its fields as columns of their own"
    if is_nested(type) or t.is_map(type):
        return "nested: write lists of integers or text, or plain columns"
    return f"{type}: no recipe can use it; cast it to int64 or string when writing the data"


def _values(column: pa.ChunkedArray) -> tuple[int, pa.Array, int]:
    """Return the rows that miss a value, all values that are present (of lists: elements), and the longest list."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    missing, longest = array.null_count, 0
    if is_list_type(array.type):
        longest = int(pc.max(pc.list_value_length(array)).as_py() or 0)
        array = pc.list_flatten(array)
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        nan = pc.is_nan(array)
        missing += int(pc.sum(nan).as_py() or 0) if not is_list_type(column.type) else 0
        array = array.filter(pc.invert(nan))
    return missing, array.drop_null(), longest


def _counts(values: pa.Array) -> pa.StructArray | None:
    """Return each value and how often it stands there; None of what Arrow cannot compare."""
    try:
        return pc.value_counts(values)
    except pa.ArrowNotImplementedError:
        return None


def _top(counts: pa.StructArray, present: int) -> tuple[tuple[Any, float], ...]:
    number = counts.field("counts").to_numpy()
    order = np.argsort(-number, kind="stable")[:_SHOWN_VALUES]
    values = counts.field("values")
    return tuple((plain(_scalar(values[int(i)])), float(number[i] / present)) for i in order)


def _range(values: pa.Array) -> dict[str, Any]:
    t, type = pa.types, values.type
    ordered = t.is_integer(type) or t.is_floating(type) or t.is_temporal(type) or t.is_decimal(type)
    if not len(values) or not ordered:
        return {}
    try:
        ends = pc.min_max(values)
    except pa.ArrowNotImplementedError:
        return {}
    return {"minimum": plain(_scalar(ends["min"])), "maximum": plain(_scalar(ends["max"]))}


def _scalar(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):  # a time that Python's datetime cannot hold
        return f"{value.value} {getattr(value.type, 'unit', '')}".strip()


def _numbers(values: pa.Array) -> Numbers | None:
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    present = len(numbers)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(numbers.mean()), float(numbers.std())
    *deciles, p99 = (float(q) for q in np.quantile(numbers, _QUANTILES))
    rising = len(numbers) > 1 and bool((np.diff(numbers) > 0).all())
    low, high, infinite = float(numbers.min()), float(numbers.max()), len(numbers) < present
    return Numbers(mean, std, deciles[4], p99, tuple(deciles), low, high, infinite, rising)


def _all_match(counts: pa.StructArray, pattern: re.Pattern[str]) -> bool:
    values: Sequence[Any] = counts.field("values")
    texts = (value.as_py() for value in values)
    return len(counts) > 0 and all(isinstance(text, str) and pattern.fullmatch(text) is not None for text in texts)


def plain(value: Any) -> Any:
    """Return a value as JSON and people take it: numbers as they are, all else as short text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= _SHOWN_TEXT else f"{text[: _SHOWN_TEXT - 1]}…"
