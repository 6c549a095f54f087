"""Every op: a frozen value of its parameters. What an op means is in docs/recipe.md and in `tests/naive.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from intune_gpu.core.errors import RecipeError

MAX_BUCKETS = 2**31
MAX_MODULO = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Column:
    """Read this column instead of the one that has the feature's name.

    Args:
        name: a column of the data.
    """

    name: str

    def __post_init__(self) -> None:
        _check(isinstance(self.name, str) and self.name != "", self, "name", "a column's name", self.name)


@dataclass(frozen=True, slots=True)
class FillMissing:
    """Put `value` where a value is missing: Arrow null, empty text field, or NaN in a float column.

    Args:
        value: finite in float32.
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        _check_float32(self, "value")


@dataclass(frozen=True, slots=True)
class Clip:
    """Raise what is below `min` to it and lower what is above `max` to it; NaN stays.

    Args:
        min: finite in float32, or None for no lower bound.
        max: likewise, not below `min`.
    """

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        for name in ("min", "max"):
            if getattr(self, name) is not None:
                _check_float32(self, name)
        _check(self.min is not None or self.max is not None, self, "min, max", "at least one bound", None)
        if self.min is not None and self.max is not None:
            _check(self.min <= self.max, self, "max", f"at least min = {self.min}", self.max)


@dataclass(frozen=True, slots=True)
class Log1p:
    """ln(1 + x), within 1 ulp, the same bits on every device. Below -1: NaN."""


@dataclass(frozen=True, slots=True)
class Scale:
    """(x - mean) / std, in float32.

    Args:
        mean: finite in float32.
        std: finite in float32 and above 0.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        _check_float32(self, "mean")
        _check_float32(self, "std")
        above_zero = (
            self.std > 2.0**-150
        )  # half of the smallest float32; not compared in float32, which may flush to zero
        _check(above_zero, self, "std", "above 0 in float32", self.std)


@dataclass(frozen=True, slots=True)
class Bucketize:
    """Number of borders ≤ x: a number in a dense feature, an id in a sparse one.

    A missing value passes through a dense feature, and is the id 0 in a sparse one.

    Args:
        borders: at least one, finite in float32, ascending.
    """

    borders: Sequence[float]

    def __post_init__(self) -> None:
        borders = self.borders.tolist() if isinstance(self.borders, np.ndarray) else self.borders
        _check(isinstance(borders, Sequence) and not isinstance(borders, str), self, "borders", "a list", borders)
        _check(len(borders) > 0, self, "borders", "at least one", borders)
        for border in borders:
            _check_number(self, "borders", border)
        object.__setattr__(self, "borders", tuple(float(border) for border in borders))
        ascending = all(a < b for a, b in zip(self.borders, self.borders[1:], strict=False))
        _check(ascending, self, "borders", "ascending, each once", self.borders)


@dataclass(frozen=True, slots=True)
class MissingFlag:
    """1.0 where the value is missing, else 0.0. What follows sees no missing value."""


@dataclass(frozen=True, slots=True)
class HashBucket:
    """Hash an id (integer, string, bytes) into `reserved` .. `num_buckets` - 1; missing gives 0.

    Args:
        num_buckets: rows of the embedding table, reserved ones included; up to 2**31.
        reserved: ids below it are never given to a value; at least 1, below `num_buckets`.
        salt: seeds the hash, by default the feature's name, so that no two features collide alike.
    """

    num_buckets: int
    reserved: int = 1
    salt: str | None = None

    def __post_init__(self) -> None:
        _check_buckets(self)


@dataclass(frozen=True, slots=True)
class Cross:
    """Hash the combination of several columns' values, in this order, into a bucket.

    Args:
        columns: two or more columns of single values; a missing value takes part as one of its own kind.
        num_buckets: as in `HashBucket`.
        reserved: as in `HashBucket`.
        salt: as in `HashBucket`.
    """

    columns: Sequence[str]
    num_buckets: int
    reserved: int = 1
    salt: str | None = None

    def __post_init__(self) -> None:
        columns = self.columns
        good = isinstance(columns, Sequence) and not isinstance(columns, str)
        _check(good and all(isinstance(c, str) and c for c in columns), self, "columns", "a list of names", columns)
        object.__setattr__(self, "columns", tuple(columns))
        _check(len(self.columns) >= 2, self, "columns", "two or more", self.columns)
        _check_buckets(self)


@dataclass(frozen=True, slots=True)
class Modulo:
    """`value mod n`, never negative: for ids that another pipeline made. Missing gives 0.

    Args:
        n: 1 to 2**63 - 1; rows of the embedding table.
    """

    n: int

    def __post_init__(self) -> None:
        _check_int(self, "n", 1, MAX_MODULO)


@dataclass(frozen=True, slots=True)
class FirstK:
    """Keep the first `k` values of each list.

    Args:
        k: at least 1.
    """

    k: int

    def __post_init__(self) -> None:
        _check_int(self, "k", 1, 2**31 - 1)


Op = Column | FillMissing | Clip | Log1p | Scale | Bucketize | MissingFlag | HashBucket | Cross | Modulo | FirstK
OPS: tuple[type[Op], ...] = (
    Column, FillMissing, Clip, Log1p, Scale, Bucketize, MissingFlag, HashBucket, Cross, Modulo, FirstK,
)  # fmt: skip
NUMERIC_OPS = (FillMissing, Clip, Log1p, Scale, Bucketize, MissingFlag)


def _check(good: bool, op: object, field: str, expected: str, found: Any) -> None:
    if not good:
        raise RecipeError(f"{type(op).__name__}({field}): expected {expected}, found {found!r}")


def _check_int(op: object, field: str, low: int, high: int) -> None:
    """Check one whole number and keep it as an int, NumPy's own included."""
    value = getattr(op, field)
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    _check(whole and low <= value <= high, op, field, f"a whole number from {low} to {high}", value)
    object.__setattr__(op, field, int(value))


def _check_float32(op: object, field: str) -> None:
    """Check one number and keep it as a float, so that equal ops are equal however they were written."""
    _check_number(op, field, getattr(op, field))
    object.__setattr__(op, field, float(getattr(op, field)))


def _check_number(op: object, field: str, value: Any) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    good = number and math.isfinite(value) and abs(value) <= float(np.finfo(np.float32).max)
    _check(good, op, field, "a number that is finite in float32", value)


def _check_buckets(op: HashBucket | Cross) -> None:
    _check_int(op, "num_buckets", 2, MAX_BUCKETS)
    _check_int(op, "reserved", 1, op.num_buckets - 1)
    _check(op.salt is None or isinstance(op.salt, str), op, "salt", "a text or None", op.salt)
