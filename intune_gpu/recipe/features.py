"""From a feature's list of ops to what has to be computed: the grammar of chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intune_gpu.core.errors import RecipeError
from intune_gpu.recipe.ops import (
    NUMERIC_OPS,
    OPS,
    Bucketize,
    Column,
    Cross,
    FillMissing,
    FirstK,
    HashBucket,
    MissingFlag,
    Modulo,
    Op,
)

if TYPE_CHECKING:
    import pyarrow as pa

NumericOp = Op
DENSE_GRAMMAR = "a dense chain is Column?, then any of FillMissing, Clip, Log1p, Scale, Bucketize, MissingFlag"
SPARSE_GRAMMAR = (
    "a sparse chain is Column?, FirstK?, then one of HashBucket, Modulo, Cross, or numeric ops that end in Bucketize"
)


@dataclass(frozen=True, slots=True)
class DenseFeature:
    """One column of the dense matrix: `ops` over `column`; `state` is what its fitted ops learned, if there are any."""

    name: str
    column: str
    ops: tuple[NumericOp, ...]
    state: pa.Table | None = None

    @property
    def fills(self) -> bool:
        """Whether no missing value can come out."""
        return any(isinstance(op, FillMissing | MissingFlag) for op in self.ops)


@dataclass(frozen=True, slots=True)
class SparseFeature:
    """One key of the KeyedJaggedTensor.

    Attributes:
        name: the key.
        columns: the column read, or the crossed columns in order.
        first_k: values kept of each list, or None.
        ops: numeric ops before a final Bucketize.
        last: the op that gives the id.
        state: what the fitted ops learned, or None.
    """

    name: str
    columns: tuple[str, ...]
    first_k: int | None
    ops: tuple[NumericOp, ...]
    last: HashBucket | Modulo | Cross | Bucketize
    state: pa.Table | None = None

    @property
    def num_embeddings(self) -> int:
        """Ids are below this: the rows that an embedding table needs."""
        if isinstance(self.last, HashBucket | Cross):
            return self.last.num_buckets
        return self.last.n if isinstance(self.last, Modulo) else len(self.last.borders) + 1


def dense_feature(name: str, ops: Sequence[Op]) -> DenseFeature:
    """Read the chain of a dense feature.

    Raises:
        RecipeError: the chain is impossible, whatever the data.
    """
    _check_ops("dense", name, ops)
    column, rest = _take_column(name, ops)
    for op in rest:
        if not isinstance(op, NUMERIC_OPS):
            raise RecipeError(
                f'dense feature "{name}": expected a numeric op, found {op!r}; {DENSE_GRAMMAR}'
                + ("; an id belongs under sparse" if isinstance(op, HashBucket | Modulo | Cross) else "")
            )
    _check_missing_order("dense", name, rest)
    return DenseFeature(name, column, tuple(rest))


def sparse_feature(name: str, ops: Sequence[Op]) -> SparseFeature:
    """Read the chain of a sparse feature.

    Raises:
        RecipeError: the chain is impossible, whatever the data.
    """
    _check_ops("sparse", name, ops)
    column, rest = _take_column(name, ops)
    first_k = None
    if rest and isinstance(rest[0], FirstK):
        first_k, rest = rest[0].k, rest[1:]
    if not rest or not isinstance(rest[-1], HashBucket | Modulo | Cross | Bucketize):
        found = repr(rest[-1]) if rest else "no op"
        raise RecipeError(
            f'sparse feature "{name}": expected its chain to end in an op that bounds the ids, found {found}; '
            f"{SPARSE_GRAMMAR}"
        )
    last, before = rest[-1], rest[:-1]
    if isinstance(last, Cross):
        if len(ops) > 1:
            raise RecipeError(
                f'sparse feature "{name}": expected Cross alone, found {list(ops)!r}; Cross names its own columns'
            )
        return SparseFeature(name, tuple(last.columns), None, (), last)
    allowed = tuple(op for op in NUMERIC_OPS if op is not MissingFlag) if isinstance(last, Bucketize) else ()
    for op in before:
        if not isinstance(op, allowed) or isinstance(op, Bucketize):
            raise RecipeError(f'sparse feature "{name}": {op!r} cannot stand before {last!r}; {SPARSE_GRAMMAR}')
    if first_k is not None and isinstance(last, Bucketize):
        raise RecipeError(f'sparse feature "{name}": FirstK is for lists of ids, and Bucketize for single numbers')
    _check_missing_order("sparse", name, before)
    return SparseFeature(name, (column,), first_k, tuple(before), last)


def _check_ops(kind: str, name: object, ops: object) -> None:
    if not isinstance(name, str) or not name:
        raise RecipeError(f"{kind}: expected features to be named by a text, found {name!r}")
    if not isinstance(ops, Sequence) or isinstance(ops, str):
        raise RecipeError(f'{kind} feature "{name}": expected a list of ops, found {ops!r}')
    for op in ops:
        if isinstance(op, OPS):
            continue
        hint = f"; write {op.__name__}(...)" if isinstance(op, type) and op in OPS else ""
        raise RecipeError(f'{kind} feature "{name}": expected an op, found {op!r}{hint}')


def _take_column(name: str, ops: Sequence[Op]) -> tuple[str, list[Op]]:
    rest = list(ops)
    column = name
    if rest and isinstance(rest[0], Column):
        column = rest.pop(0).name  # type: ignore[union-attr]
    return column, rest


def _check_missing_order(kind: str, name: str, ops: Sequence[Op]) -> None:
    """Refuse an op that looks for missing values behind one that left none."""
    filled: Op | None = None
    for op in ops:
        if isinstance(op, FillMissing | MissingFlag):
            if filled is not None:
                raise RecipeError(
                    f'{kind} feature "{name}": {op!r} stands behind {filled!r}, which leaves no missing value; '
                    "take one of them out"
                )
            filled = op
