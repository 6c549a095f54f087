"""A recipe as a node of a pipeline of one's own, beside DALI's operators."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from intune_gpu.core.errors import RecipeError
from intune_gpu.dali.device_node import DeviceNode
from intune_gpu.dali.installed import check_device
from intune_gpu.dali.samples import Layout, Samples, checked_columns
from intune_gpu.engine.program import INDEX_DTYPES, Program
from intune_gpu.engine.transform import prepare
from intune_gpu.kernels.denormals import denormals_kept
from intune_gpu.recipe import Recipe

NO_NODES: Mapping[str, Any] = {}


def transform(
    columns: Mapping[str, Any],
    recipe: Recipe,
    index_dtype: str = "int64",
    *,
    strings: Collection[str] = (),
    lists: Collection[str] = (),
    present: Mapping[str, Any] = NO_NODES,
) -> tuple[Any, ...]:
    """Add a recipe to the pipeline that is being defined; all samples of a batch are transformed at once.

    A sample of a column is one number, `()`, where a sample is a row; or `(n,)` numbers where it is n rows (the same n
    in all columns). With strings or lists a sample is one row. NaN is missing. Nodes may be on the GPU, all of them:
    then kernels go to DALI's stream, and columns are of numbers.

    Args:
        columns: name → `DataNode`, of every column that the recipe reads. Without the label's, labels are NaN.
        recipe: what to compute.
        index_dtype: `"int64"` or `"int32"`, the type of the ids.
        strings: columns whose samples are strings, as their bytes: (bytes,) uint8. On the CPU.
        lists: columns whose samples are lists of numbers: (elements,). On the CPU.
        present: column → `DataNode` of its shape, 0 where a value is missing, for integers and strings. On the CPU.

    Returns:
        Three nodes, whose samples are dense (D,) float32, ids (F,) and label () float32 where a sample is one number;
        (n, D), (n, F) and (n,) where it is n. With lists four: dense (D,), ids (ids of the row,) feature by feature,
        how many of them each feature has, (F,) int32, and label (). `to_sparse` makes a `KeyedJaggedTensor` of ids.

    Raises:
        RecipeError: the recipe needs a column that is not there, or one that DALI's samples cannot hold. While the
            pipeline runs, DALI raises a RuntimeError with the sentence of what `intune_gpu.transform` raises: a label
            that is not finite (on the GPU some batches later), a type that the recipe cannot use.
        DeviceError: the nodes are on a GPU that is not there, or that torch cannot use.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"recipe: expected a Recipe, found {recipe!r}; Recipe.load reads a saved one")
    if index_dtype not in INDEX_DTYPES:
        raise RecipeError(f'index_dtype: expected "int64" or "int32", found {index_dtype!r}')
    names = checked_columns(columns, recipe.columns, recipe.label)
    layout = Layout.of(names, strings, lists, present)
    _check_lists(recipe, layout)
    if Pipeline.current() is None:
        raise RecipeError(
            "transform: expected a pipeline that is being defined, found none; call it in a function with "
            "@pipeline_def, or within `with pipeline:` (intune_gpu.transform does without DALI)"
        )
    if _on_gpu({**columns, **present}, layout):
        _check_numbers(layout)
        check_device(Pipeline.current().device_id or 0)
        return DeviceNode(names, recipe, index_dtype).operator([columns[name] for name in names])
    inputs = [columns[name] for name in names] + [present[name] for name in layout.present]
    node = _Node(layout, recipe, index_dtype)
    outputs = 4 if layout.lists else 3
    made: Any = fn.python_function(*inputs, function=node.run, num_outputs=outputs, batch_processing=True)
    return tuple(made)


def to_sparse(
    ids: torch.Tensor | Sequence[torch.Tensor], recipe: Recipe, lengths: torch.Tensor | None = None
) -> KeyedJaggedTensor:
    """Return the ids of a batch as TorchRec takes them.

    Args:
        ids: (B, F), as an iterator of DALI's gives what `transform` made; with lists B of (ids of a row,).
        recipe: names the features.
        lengths: (B, F) int32, ids of each row and feature, with lists.
    """
    keys, rows = list(recipe.sparse_names), len(ids)
    if lengths is None:
        assert isinstance(ids, torch.Tensor)
        ones = torch.ones(ids.numel(), dtype=torch.int32, device=ids.device)
        return KeyedJaggedTensor(keys, ids.t().reshape(-1), lengths=ones, stride=rows)
    flat = ids.reshape(-1) if isinstance(ids, torch.Tensor) else torch.cat(list(ids))
    counts = lengths.reshape(-1).long()
    owner = torch.arange(rows * len(keys), device=flat.device).view(len(keys), rows).t().reshape(-1)
    order = torch.argsort(torch.repeat_interleave(owner, counts), stable=True)  # from row by row to feature by feature
    return KeyedJaggedTensor(keys, flat[order], lengths=lengths.t().reshape(-1).int(), stride=rows)


def _check_lists(recipe: Recipe, layout: Layout) -> None:
    """Refuse a recipe that cuts lists where none are given."""
    for feature in recipe.sparse_features:
        if feature.first_k is not None and feature.columns[0] not in layout.lists:
            raise RecipeError(
                f'feature "{feature.name}": expected its column {feature.columns[0]!r} among lists=[...], since FirstK '
                "cuts lists of numbers, found it is not; name it there, or read lists of strings with "
                "intune_gpu.dali.DALIRecIterator"
            )


def _on_gpu(nodes: Mapping[str, Any], layout: Layout) -> bool:
    where = {name: getattr(nodes[name], "device", "cpu") for name in (*layout.names, *layout.present)}
    if len(set(where.values())) > 1:
        cpu = next(name for name, device in where.items() if device == "cpu")
        gpu = next(name for name, device in where.items() if device == "gpu")
        raise RecipeError(
            f"columns: expected all on the CPU or all on the GPU, found {cpu!r} on the CPU and {gpu!r} on the GPU; "
            "take .gpu() of those on the CPU"
        )
    return "gpu" in where.values()


def _check_numbers(layout: Layout) -> None:
    for what, names in (("strings", layout.strings), ("lists", layout.lists), ("present", layout.present)):
        if names:
            raise RecipeError(
                f"{what}: expected none for columns on the GPU, where a sample is of numbers, found "
                f"{', '.join(sorted(names))}; transform them on the CPU, or read them with "
                "intune_gpu.dali.DALIRecIterator(..., device_id=...)"
            )


class _Node:
    """What DALI calls with the samples of each column."""

    def __init__(self, layout: Layout, recipe: Recipe, index_dtype: str) -> None:
        self._layout, self._recipe, self._index_dtype = layout, recipe, index_dtype
        self._programs: dict[Any, Program] = {}

    def run(self, *inputs: Samples) -> tuple[list[Any], ...]:
        """Return dense, ids, with lists their lengths, and label, each with an array a sample."""
        prepared = prepare(self._layout.table(inputs), self._recipe, self._index_dtype, self._programs)
        with denormals_kept():
            batch = prepared.program.run(prepared.raw)
        rows, features = len(batch.label), len(self._recipe.sparse_names)
        dense, values, label = batch.dense.numpy(), batch.sparse.values().numpy(), batch.label.numpy()
        if self._layout.lists:
            lengths = np.ascontiguousarray(batch.sparse.lengths().numpy().reshape(features, rows).T)
            return list(dense), _by_row(values, lengths), list(lengths), _scalars(label)
        ids = np.ascontiguousarray(values.reshape(features, rows).T)
        if self._layout.one_row or inputs[0][0].ndim == 0:
            return list(dense), list(ids), _scalars(label)
        stops = np.cumsum([sample.size for sample in inputs[0]])[:-1]
        return np.split(dense, stops), np.split(ids, stops), np.split(label, stops)


def _scalars(label: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Return each label as an array, since DALI takes no scalars."""
    return [label[row, ...] for row in range(len(label))]


def _by_row(values: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Return the ids of each row, which stand feature by feature; lengths are (rows, features)."""
    rows, features = lengths.shape
    row_of = np.repeat(np.arange(features * rows) % rows, lengths.T.reshape(-1))
    return np.split(values[np.argsort(row_of, kind="stable")], np.cumsum(lengths.sum(axis=1))[:-1])
