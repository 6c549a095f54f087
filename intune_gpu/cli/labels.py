"""The column to learn: whether training can take it, and which other columns give it away."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from intune_gpu.cli.profile import Profile
from intune_gpu.sources.sampling import Sample
from intune_gpu.train.config import UsageError

_SHOWN_NAMES = 20
_YES = ("1", "yes", "y", "true", "t", "positive", "click", "clicked")
_MIN_OF_A_CLASS = 10
"""Of fewer rows of a class nothing is said to give the label away: it may be chance."""


def check_label(label: str | None, profiles: Sequence[Profile], sample: Sample) -> Profile:
    """Return the label's profile.

    Raises:
        UsageError: no label is named, there is no such column, or training cannot learn it.
    """
    by_name = {found.name: found for found in profiles}
    if label is None:
        fit = [found.name for found in profiles if _is_binary(found)]
        hint = f"these hold 0 and 1 only: {', '.join(fit)}" if fit else "no column holds 0 and 1 only"
        raise UsageError(f"--label: expected the column to learn, found none; {hint}")
    if label not in by_name:
        close = difflib.get_close_matches(label, by_name, 1)
        names = ", ".join(list(by_name)[:_SHOWN_NAMES]) + (", ..." if len(by_name) > _SHOWN_NAMES else "")
        hint = f'did you mean "{close[0]}"? There' if close else "there"
        raise UsageError(f'--label: expected a column, found none named "{label}"; {hint} are: {names}')
    found = by_name[label]
    where = f'--label "{label}"'
    if found.kind == "empty":
        raise UsageError(f"{where}: expected 0 and 1, found no value at all; name another column")
    if found.kind == "text":
        values = [str(value) for value, _ in found.top]
        shown = ", ".join(f'"{value}"' for value in values)
        one = next((value for value in values if value.lower() in _YES), values[-1])
        raise UsageError(
            f"{where}: expected numbers 0 and 1, found text such as {shown}; "
            f"write it as 1 and 0, as pyarrow.compute.equal(column, {one!r}).cast('int8') does"
        )
    if found.refused or found.is_list:
        why = f" ({found.refused})" if found.refused else ""
        raise UsageError(f"{where}: expected one number a row, 0 or 1, found {found.type}{why}; write it as 0 and 1")
    if found.kind != "bool" and not (_between(found.minimum) and _between(found.maximum)):
        raise UsageError(
            f"{where}: expected values from 0 to 1, found {found.minimum} to {found.maximum}; training learns a "
            "probability: write a column of 0 and 1, such as (rating >= 4)"
        )
    if found.distinct == 1 and sample.is_whole:
        raise UsageError(f"{where}: expected both 0 and 1, found {found.top[0][0]} only; add rows of the other class")
    return found


def give_aways(label: str, names: Sequence[str], sample: Sample) -> dict[str, str]:
    """Return the columns that say what the label says, and how: what is not known before it, or is a copy of it.

    Args:
        label: a column of 0 and 1; of other values nothing is found.
        names: columns to look at.
        sample: the rows.
    """
    known = sample.table.column(label)
    truth = pc.cast(known, pa.float64()).to_numpy()
    rows = ~np.isnan(truth)
    truth = truth[rows]
    positive = truth == 1.0
    classes = (int(positive.sum()), int((truth == 0.0).sum()))
    if sum(classes) != len(truth) or min(classes) < _MIN_OF_A_CLASS:
        return {}
    found: dict[str, str] = {}
    for name in names:
        column = sample.table.column(name).filter(pa.array(rows))
        reason = _gives_away(column, positive)
        if reason is not None:
            found[name] = f"it gives the label away: {reason}"
    return found


def _gives_away(column: pa.ChunkedArray, positive: npt.NDArray[np.bool_]) -> str | None:
    valid = _array(pc.is_valid(column))
    if _same(valid, positive):
        return "it is missing in all rows of one class and in none of the other"
    codes = _codes(column)
    if codes is not None and len(np.unique(codes)) == 2 and _same(codes == codes[0], positive):
        return "one value a class"
    if (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)) and valid.all():
        numbers = _array(pc.cast(column, pa.float64(), safe=False))
        ones, zeros = numbers[positive], numbers[~positive]
        if ones.min() > zeros.max() or ones.max() < zeros.min():
            return "all values of one class lie above all of the other"
    return None


def _codes(column: pa.ChunkedArray) -> npt.NDArray[Any] | None:
    """Return a number for each value, -1 where it is missing; None of what has more than two values, or is a list."""
    if pa.types.is_nested(column.type):
        return None
    try:
        encoded = pc.dictionary_encode(column).combine_chunks()
    except pa.ArrowNotImplementedError:
        return None
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    return None if len(encoded.dictionary) > 2 else _array(pc.fill_null(encoded.indices, -1))


def _same(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> bool:
    return bool((one == other).all() or (one != other).all())


def _array(values: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    return np.asarray(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy())


def _between(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _is_binary(found: Profile) -> bool:
    whole = found.kind == "bool" or (found.kind in ("integer", "float") and (found.minimum, found.maximum) == (0, 1))
    return whole and found.distinct == 2 and not found.is_list
