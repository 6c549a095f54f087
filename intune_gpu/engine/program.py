"""Program: a recipe compiled for a schema; raw columns in, a batch out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from intune_gpu.core.buffers import ALIGNMENT, BufferPool
from intune_gpu.core.columns import FlatColumn, RawBatch, Schema
from intune_gpu.core.errors import RecipeError
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.groups import HashGroup, ModuloGroup, NumericGroup, elements, id64_words, lower
from intune_gpu.kernels import hashing
from intune_gpu.kernels.denormals import denormals_kept
from intune_gpu.recipe import Recipe
from intune_gpu.recipe.features import SparseFeature
from intune_gpu.recipe.ops import Bucketize, Cross, HashBucket, Modulo

INDEX_DTYPES = ("int64", "int32")
MAX_IDS = 2**31 - 1
"""Ids a batch may hold: TorchRec's offsets are int32."""


class Program:
    """A recipe compiled for a schema; safe to run from many threads at once.

    Args:
        recipe: what to compute.
        schema: column → type; more columns than needed are fine.
        index_dtype: "int64" or "int32", the type of the sparse ids.
        pool: where batches' memory comes from; by default one of its own.

    Raises:
        RecipeError: the recipe does not fit the schema.
    """

    def __init__(
        self, recipe: Recipe, schema: Schema, index_dtype: str = "int64", pool: BufferPool | None = None
    ) -> None:
        if index_dtype not in INDEX_DTYPES:
            raise RecipeError(f'index_dtype: expected "int64" or "int32", found {index_dtype!r}')
        recipe.check(schema, index_dtype)
        with denormals_kept():  # parameters become float32 here
            self._compile(recipe, schema, index_dtype)
        self._pool = pool if pool is not None else BufferPool()

    def _compile(self, recipe: Recipe, schema: Schema, index_dtype: str) -> None:
        self.recipe = recipe
        self.columns = recipe.columns
        self._index_dtype = np.dtype(index_dtype)
        self._keys = list(recipe.sparse_names)
        self._label = NumericGroup.build(schema[recipe.label].physical, [(0, recipe.label, ())])
        self._dense = self._numeric_groups(schema)
        self._lists: list[tuple[int, SparseFeature, HashGroup | ModuloGroup]] = []
        self._singles: list[tuple[list[tuple[int, str]], HashGroup | ModuloGroup]] = []
        self._group_ids(schema)
        features = list(enumerate(recipe.sparse_features))
        self._crosses = [(i, f) for i, f in features if isinstance(f.last, Cross)]
        self._crossed = tuple(dict.fromkeys(c for _, f in self._crosses for c in f.columns))
        self._cross_parameters = [self._hash_parameters(f) for _, f in self._crosses]
        bucketized = [(i, f) for i, f in features if isinstance(f.last, Bucketize)]
        self._bucketized = [
            (i, NumericGroup.build(schema[f.columns[0]].physical, [(0, f.columns[0], (*f.ops, f.last))]))
            for i, f in bucketized
        ]

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row of output, list features counted as one value."""
        sparse = len(self._keys) * (self._index_dtype.itemsize + 4)
        return 4 * len(self.recipe.dense_features) + 4 + sparse

    def run(self, raw: RawBatch) -> Batch:
        """Transform a batch; `raw` is only read.

        Raises:
            ValueError: the batch holds 2**31 ids or more.
        """
        rows, features = raw.rows, self.recipe.sparse_features
        lengths = np.empty((len(features), rows), np.int32)
        flat: dict[int, FlatColumn] = {}
        counts = np.full(len(features), rows, np.int64)
        for i, feature, _ in self._lists:
            flat[i] = elements(raw.columns[feature.columns[0]], feature.first_k, lengths[i])
            counts[i] = flat[i].rows
        total = int(counts.sum())
        if total > MAX_IDS:
            raise ValueError(
                f"batch of {rows} rows: expected at most {MAX_IDS} ids, found {total}; use a smaller batch"
            )
        dense, label, values, lengths_out = self._allocate(rows, total)
        lengths_out[:] = 1
        for i in flat:
            lengths_out[i] = lengths[i]
        starts = np.concatenate(([0], np.cumsum(counts)))[: len(features)].astype(np.int64)
        self._label.run([raw.columns[self.recipe.label]], rows, label.reshape(rows, 1))
        for numeric in self._dense:
            numeric.run([raw.columns[name] for name in numeric.columns], rows, dense)
        self._run_ids(raw, flat, values, starts)
        sparse = KeyedJaggedTensor(
            keys=self._keys,
            values=torch.from_numpy(values),
            lengths=torch.from_numpy(lengths_out.reshape(-1)),
            stride=rows,
        )
        return Batch(torch.from_numpy(dense), sparse, torch.from_numpy(label))

    def _run_ids(
        self, raw: RawBatch, flat: dict[int, FlatColumn], values: npt.NDArray[Any], starts: npt.NDArray[np.int64]
    ) -> None:
        rows = raw.rows
        for members, group in self._singles:
            columns = [raw.columns[name] for _, name in members]
            group.run(columns, rows, values, starts[[i for i, _ in members]])
        for i, _, group in self._lists:
            group.run([flat[i]], flat[i].rows, values, starts[i : i + 1])
        if self._crosses:
            words = id64_words([raw.columns[name] for name in self._crossed], rows)
            for (i, feature), parameters in zip(self._crosses, self._cross_parameters, strict=True):
                which = np.array([self._crossed.index(name) for name in feature.columns], np.int64)
                hashing.cross_cpu(words, which, parameters, values[starts[i] : starts[i] + rows])
        for i, numeric in self._bucketized:
            scratch = np.empty((rows, 1), np.float32)
            numeric.run([raw.columns[numeric.columns[0]]], rows, scratch)
            values[starts[i] : starts[i] + rows] = np.nan_to_num(scratch[:, 0], copy=False, nan=0.0)  # missing: id 0

    def _allocate(self, rows: int, ids: int) -> tuple[npt.NDArray[Any], ...]:
        """Cut dense (rows, D), label (rows,), ids (ids,) and lengths (F, rows) out of one buffer."""
        index, f32, i32 = self._index_dtype, np.dtype(np.float32), np.dtype(np.int32)
        shapes: list[tuple[tuple[int, ...], np.dtype[Any]]] = [
            ((rows, len(self.recipe.dense_features)), f32),
            ((rows,), f32),
            ((ids,), index),
            ((len(self._keys), rows), i32),
        ]
        sizes = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in shapes]
        begins = np.cumsum([0] + [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes])
        buffer = self._pool.take(int(begins[-1]))
        parts = zip(shapes, sizes, begins[:-1], strict=True)
        return tuple(buffer[b : b + size].view(dtype).reshape(shape) for (shape, dtype), size, b in parts)

    def _numeric_groups(self, schema: Schema) -> list[NumericGroup]:
        members = defaultdict(list)
        for position, feature in enumerate(self.recipe.dense_features):
            physical = schema[feature.column].physical
            members[physical, lower(feature.ops)[0]].append((position, feature.column, feature.ops))
        return [NumericGroup.build(physical, group) for (physical, _), group in members.items()]

    def _group_ids(self, schema: Schema) -> None:
        """Sort hashed and modulo features into groups; a list feature is a group of its own."""
        singles: dict[tuple[str, type], list[tuple[int, SparseFeature]]] = defaultdict(list)
        for i, feature in enumerate(self.recipe.sparse_features):
            if not isinstance(feature.last, HashBucket | Modulo):
                continue
            kind = schema[feature.columns[0]]
            if kind.is_list:
                self._lists.append((i, feature, self._id_group(kind.physical, [feature])))
            else:
                singles[kind.physical, type(feature.last)].append((i, feature))
        for (physical, _), members in singles.items():
            group = self._id_group(physical, [feature for _, feature in members])
            self._singles.append(([(i, feature.columns[0]) for i, feature in members], group))

    def _id_group(self, physical: str, features: Sequence[SparseFeature]) -> HashGroup | ModuloGroup:
        if isinstance(features[0].last, Modulo):
            return ModuloGroup.build(physical, [f.num_embeddings for f in features])
        return HashGroup(physical, np.array([self._hash_parameters(f) for f in features], np.uint64))

    def _hash_parameters(self, feature: SparseFeature) -> npt.NDArray[np.uint64]:
        """Return (3,): feature seed, buckets less the reserved ones, reserved."""
        last = feature.last
        assert isinstance(last, HashBucket | Cross)
        salt = feature.name if last.salt is None else last.salt
        seed = hashing.feature_seed(salt, self.recipe.seed)
        return np.array([seed, last.num_buckets - last.reserved, last.reserved], np.uint64)
