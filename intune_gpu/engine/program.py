"""Program: a recipe compiled for a schema; raw columns in, a batch out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import STRING, Addresses, FlatColumn, RawBatch, Schema
from intune_gpu.core.errors import RecipeError
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.dictionaries import Dictionaries
from intune_gpu.engine.groups import Floats, IdGroup, Ids, NumericGroup, Whole, elements, lower
from intune_gpu.engine.layouts import BatchLayout, IdLayout
from intune_gpu.engine.wiring import Groups, Wiring
from intune_gpu.kernels import hashing
from intune_gpu.kernels.denormals import denormals_kept
from intune_gpu.recipe import Recipe
from intune_gpu.recipe.features import SparseFeature
from intune_gpu.recipe.ops import Bucketize, Cross, HashBucket, Modulo

INDEX_DTYPES = ("int64", "int32")
MAX_SIZES = 16
"""Sizes of batches that are remembered; a run has two, a caller may have many."""
MAX_COLUMNS = 1 << 13
"""Columns that one call makes ids of, those of several batches counted each: tables of them are remembered."""
_FIRST = np.zeros(1, np.int64)


class Program:
    """A recipe compiled for a schema; safe to run from many threads at once.

    Args:
        recipe: what to compute.
        schema: column → type; more columns than needed are fine.
        index_dtype: "int64" or "int32", the type of the sparse ids.
        pool: where batches' memory comes from; by default one of its own.
        shared_lengths: whether batches of one size, without lists, share their lengths.

    Raises:
        RecipeError: the recipe does not fit the schema.
    """

    def __init__(
        self,
        recipe: Recipe,
        schema: Schema,
        index_dtype: str = "int64",
        pool: BufferPool | None = None,
        shared_lengths: bool = True,
    ) -> None:
        if index_dtype not in INDEX_DTYPES:
            raise RecipeError(f'index_dtype: expected "int64" or "int32", found {index_dtype!r}')
        recipe.check(schema, index_dtype)
        with denormals_kept():  # parameters become float32 here
            self._compile(recipe, schema, index_dtype)
        self._pool = pool if pool is not None else BufferPool()
        self._shared_lengths = shared_lengths

    def _compile(self, recipe: Recipe, schema: Schema, index_dtype: str) -> None:
        self.recipe = recipe
        self.columns = recipe.columns
        self.physical = {name: schema[name].physical for name in recipe.columns}
        self.index_dtype = np.dtype(index_dtype)
        self.keys = list(recipe.sparse_names)
        singles, lists = self._id_groups(schema)
        features = list(enumerate(recipe.sparse_features))
        self.groups = Groups(
            label=NumericGroup.build(schema[recipe.label].physical, [(0, recipe.label, ())]),
            dense=self._numeric_groups(schema),
            singles=singles,
            lists=lists,
            crosses=[(i, f, self._hash_parameters(f)) for i, f in features if isinstance(f.last, Cross)],
            bucketized=[
                (i, NumericGroup.build(schema[f.columns[0]].physical, [(0, f.columns[0], (*f.ops, f.last))]))
                for i, f in features
                if isinstance(f.last, Bucketize)
            ],
        )
        self._hashed = Counter(  # columns of strings → how many times each string is hashed
            name for group in singles if group.physical == STRING for name in group.columns
        ) + Counter({n for _, f, _ in self.groups.crosses for n in f.columns if self.physical[n] == STRING})
        self._row_cost = self.row_nbytes + self.scratch_row_nbytes
        # What they remember must not hold the program itself: its pool would stay until a collection of cycles.
        self._wiring = lru_cache(MAX_SIZES)(partial(Wiring.of, self.groups))
        self._layout = lru_cache(MAX_SIZES)(partial(BatchLayout.of, len(recipe.dense_features), self.index_dtype))
        self._plain = lru_cache(MAX_SIZES)(partial(IdLayout.one_a_row, len(self.keys), singles))
        self._repeated = lru_cache(MAX_SIZES)(partial(_repeated, self._wiring, self._plain))
        self.dictionaries = Dictionaries()

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row of output, list features counted as one value."""
        sparse = len(self.keys) * (self.index_dtype.itemsize + 4)
        return 4 * len(self.recipe.dense_features) + 4 + sparse

    @property
    def scratch_row_nbytes(self) -> int:
        """Bytes that a row takes besides while it is transformed: a crossed column's hash, a bucketized value.

        Strings of dictionaries that are joined for one batch are hashed for it; without lists' elements.
        """
        crossed = {name for _, feature, _ in self.groups.crosses for name in feature.columns}
        texts = sum(len(group.columns) for group in self.groups.singles if group.physical == STRING)
        return 8 * (len(crossed) + texts) + 4 * len(self.groups.bucketized)

    def cost(self, raw: RawBatch) -> int:
        """Return the bytes of the batch that `run` makes of these rows, and of what it takes besides."""
        nbytes = raw.rows * self._row_cost
        for group in self.groups.lists:
            offsets = raw.columns[group.columns[0]].row_offsets
            assert offsets is not None
            ids, first_k = int(offsets[-1] - offsets[0]), self.recipe.sparse_features[int(group.features[0])].first_k
            if first_k is not None:
                ids = min(ids, first_k * raw.rows)
            # An id, and where the first k are taken, their numbers and a copy of them.
            nbytes += max(0, ids - raw.rows) * (self.index_dtype.itemsize + (0 if first_k is None else 24))
        return nbytes

    def window_bytes(self, raw: RawBatch) -> int:
        """Return the bytes of what is kept for the dictionaries of a window, as long as it lives."""
        nbytes = 0
        for name, features in self._hashed.items():
            column = raw.columns[name]
            if column.codes is not None and column.offsets is not None:
                nbytes += 8 * features * (len(column.offsets) - 1)
        return nbytes

    def run(self, raw: RawBatch) -> Batch:
        """Transform a batch; `raw` is only read.

        Raises:
            ValueError: the batch holds 2**31 ids or more.
        """
        rows, table = raw.rows, raw.addresses
        wiring = self._wiring(table.names)
        flat, ids = ([], self._one_id_a_row(rows)) if not self.groups.lists else self._ids_of_lists(raw)
        starts = ids.starts
        dense, label, values = self._allocate(rows, ids.total)
        self._run_floats(table, wiring, dense, label)
        for (group, which), begins in zip(wiring.singles, ids.of_singles, strict=True):
            if table.dictionaries and group.physical == STRING:
                self.dictionaries.hash(group, table, which, rows, values, begins)
            else:
                group.run(table.table, which, rows, values, begins)
        for group, column in zip(self.groups.lists, flat, strict=True):
            own = Addresses.of({"": column})
            group.run(own.table, _FIRST, column.rows, values, starts[group.features])
        self.run_crosses(table, rows, values, starts)
        for i, buckets in self._bucketized(table, wiring, rows):
            values[starts[i] : starts[i] + rows] = buckets
        return self._batch(dense, values, ids.lengths, label, rows)

    def run_parts(self, raw: RawBatch, rows: int) -> list[Batch] | None:
        """Return what `run` makes of every `rows` rows, the last of fewer.

        All are made by one call of each loop, and share one buffer: a call costs as much as hundreds of rows, and each
        lets go of Python's lock, for which it then waits. None where features are lists or strings of dictionaries,
        which are made one batch a time.

        Args:
            raw: their rows, one batch behind the other.
            rows: of a batch.
        """
        whole, table = raw.rows // rows, raw.addresses
        if self.groups.lists or table.dictionaries or whole < 2:
            return None
        made = self._run_alike(table, whole, rows)
        return made if whole * rows == raw.rows else [*made, self.run(raw.slice(whole * rows, raw.rows))]

    def _run_alike(self, table: Addresses, batches: int, rows: int) -> list[Batch]:
        """Make batches of one size and one id a row: for the loops over ids, each has columns of its own."""
        wiring, ids = self._wiring(table.names), self._one_id_a_row(rows)
        all_rows, total, starts = batches * rows, ids.total, ids.starts
        dense, label, values = self._allocate(all_rows, batches * total)
        self._run_floats(table, wiring, dense, label)
        steps = np.arange(batches, dtype=np.int64)[:, None, None] * (rows * table.step)
        tables = (table.table + steps).reshape(-1, 4)
        most = max(1, MAX_COLUMNS // max(1, len(self.keys)))
        for k in range(0, batches, most):
            some = tables[k * len(table.names) :]
            for group, which, begins in self._repeated(table.names, min(most, batches - k), rows):
                group.run(some, which, rows, values[k * total :], begins)
        parts = [slice(k * rows, (k + 1) * rows) for k in range(batches)]
        each = values.reshape(batches, total)
        for k, ids_of_one in enumerate(each if self.groups.crosses else ()):
            self.run_crosses(table.at(k * rows), rows, ids_of_one, starts)
        for i, buckets in self._bucketized(table, wiring, all_rows):
            each[:, starts[i] : starts[i] + rows] = buckets.reshape(batches, rows)
        return [self._batch(dense[part], each[k], ids.lengths, label[part], rows) for k, part in enumerate(parts)]

    def _run_floats(self, table: Addresses, wiring: Wiring, dense: Floats, label: Floats) -> None:
        """Fill the (rows, D) dense features and the (rows,) labels."""
        rows = len(label)
        self.groups.label.run(table.table, wiring.label, rows, label.reshape(rows, 1))
        for numeric, which in wiring.dense:
            numeric.run(table.table, which, rows, dense)

    def _bucketized(self, table: Addresses, wiring: Wiring, rows: int) -> Iterator[tuple[int, Floats]]:
        """Yield (feature, its (rows,) bucket numbers) of each bucketized feature; a missing value is in bucket 0."""
        for (i, numeric), which in zip(self.groups.bucketized, wiring.bucketized, strict=True):
            scratch = np.empty((rows, 1), np.float32)
            numeric.run(table.table, which, rows, scratch)
            yield i, np.nan_to_num(scratch[:, 0], copy=False, nan=0.0)

    def _batch(self, dense: Any, values: Any, lengths: torch.Tensor, label: Any, rows: int) -> Batch:
        sparse = KeyedJaggedTensor(keys=self.keys, values=torch.from_numpy(values), lengths=lengths, stride=rows)
        return Batch(torch.from_numpy(dense), sparse, torch.from_numpy(label))

    def _one_id_a_row(self, rows: int) -> IdLayout:
        """Ids of a batch without lists; those of one size share their lengths while nobody writes into them."""
        layout = self._plain(rows)
        if layout.lengths._version:
            self._plain.cache_clear()
            layout = self._plain(rows)
        return layout if self._shared_lengths else replace(layout, lengths=layout.lengths.clone())

    def _ids_of_lists(self, raw: RawBatch) -> tuple[list[FlatColumn], IdLayout]:
        """Return the elements of each list column, and how the ids of the batch stand."""
        rows = raw.rows
        lengths = self._pool.take(4 * len(self.keys) * rows).view(np.int32).reshape(len(self.keys), rows)
        lengths.fill(1)
        counts = np.full(len(self.keys), rows, np.int64)
        flat = []
        for group in self.groups.lists:
            i = int(group.features[0])
            flat.append(elements(raw.columns[group.columns[0]], self.recipe.sparse_features[i].first_k, lengths[i]))
            counts[i] = flat[-1].rows
        return flat, IdLayout.of(rows, torch.from_numpy(lengths.reshape(-1)), counts, self.groups.singles)

    def run_crosses(self, table: Addresses, rows: int, values: Ids, starts: Whole) -> None:
        """Write the ids of all crosses into `values`, each feature's from its start."""
        if not self.groups.crosses:
            return
        names = list(dict.fromkeys(name for _, feature, _ in self.groups.crosses for name in feature.columns))
        columns = {name: (table.names.index(name), self.physical[name]) for name in names}
        words = self.dictionaries.words(table, columns, rows)
        for i, feature, parameters in self.groups.crosses:
            which = np.array([names.index(name) for name in feature.columns], np.int64)
            hashing.cross_cpu(words, which, parameters, values[starts[i] : starts[i] + rows])

    def _allocate(self, rows: int, ids: int) -> tuple[Floats, Floats, Ids]:
        """Return memory of one buffer: dense (rows, D), label (rows,) and ids (ids,)."""
        layout = self._layout(rows, ids)
        return layout.cut(self._pool.take(layout.nbytes))

    def _numeric_groups(self, schema: Schema) -> list[NumericGroup]:
        members = defaultdict(list)
        for position, feature in enumerate(self.recipe.dense_features):
            physical = schema[feature.column].physical
            members[physical, lower(feature.ops)[0]].append((position, feature.column, feature.ops))
        return [NumericGroup.build(physical, group) for (physical, _), group in members.items()]

    def _id_groups(self, schema: Schema) -> tuple[list[IdGroup], list[IdGroup]]:
        """Sort hashed and modulo features into groups: single values; list features, each a group of its own."""
        singles: dict[tuple[str, type], list[tuple[int, SparseFeature]]] = defaultdict(list)
        lists: list[IdGroup] = []
        for i, feature in enumerate(self.recipe.sparse_features):
            if not isinstance(feature.last, HashBucket | Modulo):
                continue
            kind = schema[feature.columns[0]]
            if kind.is_list:
                lists.append(self._id_group(kind.physical, [(i, feature)]))
            else:
                singles[kind.physical, type(feature.last)].append((i, feature))
        return [self._id_group(physical, members) for (physical, _), members in singles.items()], lists

    def _id_group(self, physical: str, members: Sequence[tuple[int, SparseFeature]]) -> IdGroup:
        features = [feature for _, feature in members]
        if isinstance(features[0].last, Modulo):
            unsigned = physical == "uint64"  # the two never meet: either would lose values
            parameters = np.array([f.num_embeddings for f in features], np.uint64 if unsigned else np.int64)
        else:
            parameters = np.array([self._hash_parameters(f) for f in features], np.uint64)
        numbers = np.array([i for i, _ in members], np.int64)
        return IdGroup(tuple(f.columns[0] for f in features), numbers, physical, parameters)

    def _hash_parameters(self, feature: SparseFeature) -> npt.NDArray[np.uint64]:
        """Return (3,): feature seed, buckets less the reserved ones, reserved."""
        last = feature.last
        assert isinstance(last, HashBucket | Cross)
        salt = feature.name if last.salt is None else last.salt
        seed = hashing.feature_seed(salt, self.recipe.seed)
        return np.array([seed, last.num_buckets - last.reserved, last.reserved], np.uint64)


def _repeated(
    wiring: Callable[[tuple[str, ...]], Wiring],
    plain: Callable[[int], IdLayout],
    names: tuple[str, ...],
    batches: int,
    rows: int,
) -> list[tuple[IdGroup, Whole, Whole]]:
    return wiring(names).repeated(len(names), plain(rows), batches)
