"""Recipe: which features to compute from which columns. Immutable, plain, saved as JSON."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from intune_gpu.core.columns import DECLARED, INTEGERS, STRING, ColumnType, Schema
from intune_gpu.core.errors import RecipeError
from intune_gpu.recipe import saving
from intune_gpu.recipe.features import DenseFeature, SparseFeature, dense_feature, sparse_feature
from intune_gpu.recipe.ops import Bucketize, Cross, HashBucket, Modulo, Op


@dataclass(frozen=True, eq=False)
class Recipe:
    """What to compute from a row.

    Args:
        label: the column that is learned; numeric. A row where it is missing or not finite is a bad row.
        dense: feature → ops; one float32 column each, in this order.
        sparse: feature → ops; one key of the KeyedJaggedTensor each, in this order. A feature reads the column of
            its own name unless `Column` or `Cross` says otherwise.
        types: column → declared type, one of "hex32", "int64", "float64", "string"; for text files, and for ids
            that are written as hex digits.
        seed: seeds every hash, 0 to 2**64 - 1.

    Raises:
        RecipeError: a feature's chain is impossible, or a parameter is out of range.
    """

    label: str
    dense: Mapping[str, Sequence[Op]] = field(default_factory=dict)
    sparse: Mapping[str, Sequence[Op]] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dense", "sparse", "types"):
            given = getattr(self, name)
            if not isinstance(given, Mapping):
                raise RecipeError(f"Recipe.{name}: expected a mapping by name, found {given!r}")
        if not isinstance(self.label, str) or not self.label:
            raise RecipeError(f"Recipe.label: expected a column's name, found {self.label!r}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**64:
            raise RecipeError(f"Recipe.seed: expected a whole number from 0 to 2**64 - 1, found {self.seed!r}")
        if not self.dense and not self.sparse:
            raise RecipeError("Recipe: expected at least one feature under dense or sparse, found none")
        dense = tuple(dense_feature(name, ops) for name, ops in self.dense.items())
        sparse = tuple(sparse_feature(name, ops) for name, ops in self.sparse.items())
        frozen = {
            "dense": MappingProxyType({name: tuple(ops) for name, ops in self.dense.items()}),
            "sparse": MappingProxyType({name: tuple(ops) for name, ops in self.sparse.items()}),
            "types": MappingProxyType(dict(self.types)),
            "dense_features": dense,
            "sparse_features": sparse,
        }
        for name, value in frozen.items():
            object.__setattr__(self, name, value)
        self._check_types()

    # Set in __post_init__; not fields, since they follow from dense and sparse.
    dense_features: tuple[DenseFeature, ...] = field(init=False, repr=False, compare=False)
    sparse_features: tuple[SparseFeature, ...] = field(init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        dense, sparse, types = dict(self.dense), dict(self.sparse), dict(self.types)
        return f"Recipe(label={self.label!r}, dense={dense!r}, sparse={sparse!r}, types={types!r}, seed={self.seed!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def dense_names(self) -> tuple[str, ...]:
        """The dense features, in the order of the matrix's columns."""
        return tuple(self.dense)

    @property
    def sparse_names(self) -> tuple[str, ...]:
        """The sparse features, in the order of the keys."""
        return tuple(self.sparse)

    @property
    def num_embeddings(self) -> dict[str, int]:
        """Rows that each sparse feature's embedding table needs."""
        return {feature.name: feature.num_embeddings for feature in self.sparse_features}

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, each once: the label's, the dense features', the sparse ones'."""
        names = [self.label, *(f.column for f in self.dense_features)]
        names += [column for f in self.sparse_features for column in f.columns]
        return tuple(dict.fromkeys(names))

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's meaning, in hex: equal for equal recipes (features in the same order)."""
        return hashlib.sha256(json.dumps(saving.to_json(self)).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the recipe as JSON, whole or not at all."""
        saving.write(saving.to_json(self), Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read what `save` wrote.

        Raises:
            RecipeError: no such file, not JSON, an unknown key or op, or a newer version.
        """
        arguments = saving.read(Path(path))
        try:
            return cls(**arguments)
        except RecipeError as error:
            raise RecipeError(f"recipe {path}: {error}") from error

    def check(self, schema: Schema, index_dtype: str = "int64") -> None:
        """Refuse a schema that this recipe cannot run on.

        Args:
            schema: column → type.
            index_dtype: "int64" or "int32", the type of the ids.

        Raises:
            RecipeError: an unknown column, or a type that an op cannot take; the message names the feature.
        """
        label = self._column("label", self.label, schema)
        if label.physical == STRING or label.is_list or label.hex32:
            raise RecipeError(f'label "{self.label}": expected a number, found {label}; choose a numeric column')
        for dense in self.dense_features:
            where = f'dense feature "{dense.name}"'
            self._check_number(where, dense.column, self._column(where, dense.column, schema), dense.fills)
        for sparse in self.sparse_features:
            self._check_sparse(sparse, schema, index_dtype)

    def _check_types(self) -> None:
        for column, declared in self.types.items():
            if declared not in DECLARED:
                raise RecipeError(f'types["{column}"]: expected one of {", ".join(DECLARED)}, found {declared!r}')

    def _column(self, where: str, column: str, schema: Schema) -> ColumnType:
        if column in schema:
            return schema[column]
        close = difflib.get_close_matches(column, schema, 1)
        names = ", ".join(list(schema)[:20]) + (", ..." if len(schema) > 20 else "")
        hint = f'; did you mean "{close[0]}"?' if close else '; name the column with Column("...")'
        raise RecipeError(f'{where}: expected a column "{column}", found {names}{hint}')

    def _check_number(self, where: str, column: str, kind: ColumnType, fills: bool) -> None:
        if kind.physical == STRING or kind.is_list or kind.hex32:
            raise RecipeError(
                f'{where}: expected a column of single numbers, found "{column}" of {kind}; hash it under sparse'
            )
        if kind.nullable and not fills:
            raise RecipeError(
                f'{where}: column "{column}" can have missing values and the chain never fills them; '
                "add FillMissing(value) or MissingFlag()"
            )

    def _check_sparse(self, feature: SparseFeature, schema: Schema, index_dtype: str) -> None:
        where = f'sparse feature "{feature.name}"'
        kinds = [(name, self._column(where, name, schema)) for name in feature.columns]
        for name, kind in kinds:
            if isinstance(feature.last, Bucketize):
                self._check_number(where, name, kind, fills=True)  # what is missing gets the id 0
            elif isinstance(feature.last, HashBucket | Cross) and kind.physical not in (*INTEGERS, STRING):
                raise RecipeError(
                    f'{where}: expected ids (integers or strings) to hash, found "{name}" of {kind}; '
                    "a float is no id: use Bucketize(borders), or cast it when writing"
                )
            elif isinstance(feature.last, Modulo) and kind.physical not in INTEGERS:
                raise RecipeError(f'{where}: Modulo expects integers, found "{name}" of {kind}; use HashBucket')
            if isinstance(feature.last, Cross) and kind.is_list:
                raise RecipeError(f'{where}: Cross expects single values, found "{name}" of {kind}')
            if feature.first_k is not None and not kind.is_list:
                raise RecipeError(f'{where}: FirstK expects a list column, found "{name}" of {kind}; take it out')
        if index_dtype == "int32" and feature.num_embeddings > 2**31:
            raise RecipeError(
                f'{where}: ids up to {feature.num_embeddings - 1} do not fit index_dtype="int32"; use "int64"'
            )
