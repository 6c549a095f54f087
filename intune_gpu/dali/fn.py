"""A recipe as a node of a pipeline of one's own, beside DALI's operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from intune_gpu.core.errors import RecipeError
from intune_gpu.engine.program import INDEX_DTYPES, Program
from intune_gpu.engine.transform import prepare
from intune_gpu.kernels.denormals import denormals_kept
from intune_gpu.recipe import Recipe

_Samples = Sequence[npt.NDArray[Any]]


def transform(columns: Mapping[str, Any], recipe: Recipe, index_dtype: str = "int64") -> tuple[Any, Any, Any]:
    """Add a recipe to the pipeline that is being defined; all samples of a batch are transformed at once.

    A sample of a column is one number, `()`, where a sample is a row; or `(n,)` numbers where it is n rows (the same n
    in all columns). Numbers only: strings and lists go through `DALIRecIterator`. NaN is missing.

    Args:
        columns: name → CPU `DataNode`, of every column that the recipe reads. Without the label's, labels are NaN.
        recipe: what to compute; no feature of it may be a list.
        index_dtype: `"int64"` or `"int32"`, the type of the ids.

    Returns:
        Three nodes, whose samples are dense (D,) float32, ids (F,) and label () float32 where a sample is one number;
        (n, D), (n, F) and (n,) where it is n. `to_sparse` makes a `KeyedJaggedTensor` of the ids.

    Raises:
        RecipeError: the recipe needs a column that is not there, or lists. While the pipeline runs, DALI raises a
            RuntimeError with the sentence of what `intune_gpu.transform` raises: a label that is not finite, a type
            that the recipe cannot use.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"recipe: expected a Recipe, found {recipe!r}; Recipe.load reads a saved one")
    if index_dtype not in INDEX_DTYPES:
        raise RecipeError(f'index_dtype: expected "int64" or "int32", found {index_dtype!r}')
    names = _checked(columns, recipe)
    node = _Node(names, recipe, index_dtype)
    inputs = [columns[name] for name in names]
    made: Any = fn.python_function(*inputs, function=node.run, num_outputs=3, batch_processing=True)
    dense, ids, label = made
    return dense, ids, label


def to_sparse(ids: torch.Tensor, recipe: Recipe) -> KeyedJaggedTensor:
    """Return the ids of a batch as TorchRec takes them, F keys with one id a row.

    Args:
        ids: (B, F), as an iterator of DALI's gives what `transform` made.
        recipe: names the features.
    """
    lengths = torch.ones(ids.numel(), dtype=torch.int32, device=ids.device)
    return KeyedJaggedTensor(list(recipe.sparse_names), ids.t().reshape(-1), lengths=lengths, stride=len(ids))


def _checked(columns: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return the columns that are read."""
    lists = [f.name for f in recipe.sparse_features if f.first_k is not None]
    if lists:
        raise RecipeError(
            f'feature "{lists[0]}": expected one number a row, since a sample of DALI\'s is no list of a row, found '
            "FirstK; read it with intune_gpu.dali.DALIRecIterator"
        )
    lacking = [name for name in recipe.columns if name not in columns and name != recipe.label]
    if lacking:
        raise RecipeError(
            f"columns: expected {', '.join(recipe.columns)}, found none named {', '.join(lacking)}; "
            "give a DataNode for each"
        )
    return [name for name in recipe.columns if name in columns]


class _Node:
    """What DALI calls with the samples of each column."""

    def __init__(self, names: Sequence[str], recipe: Recipe, index_dtype: str) -> None:
        self._names, self._recipe, self._index_dtype = names, recipe, index_dtype
        self._programs: dict[Any, Program] = {}

    def run(self, *columns: _Samples) -> tuple[list[Any], list[Any], list[Any]]:
        """Return dense, ids and label, each with an array a sample."""
        joined = {name: _joined(name, samples) for name, samples in zip(self._names, columns, strict=True)}
        prepared = prepare(joined, self._recipe, self._index_dtype, self._programs)
        with denormals_kept():
            batch = prepared.program.run(prepared.raw)
        rows, features = len(batch.label), len(self._recipe.sparse_names)
        ids = np.ascontiguousarray(batch.sparse.values().numpy().reshape(features, rows).T)
        dense, label = batch.dense.numpy(), batch.label.numpy()
        if columns[0][0].ndim == 0:
            return list(dense), list(ids), [label[row, ...] for row in range(rows)]  # DALI takes arrays, not scalars
        stops = np.cumsum([sample.size for sample in columns[0]])[:-1]
        return np.split(dense, stops), np.split(ids, stops), np.split(label, stops)


def _joined(name: str, samples: _Samples) -> npt.NDArray[Any]:
    if any(sample.ndim > 1 for sample in samples):
        shape = next(sample.shape for sample in samples if sample.ndim > 1)
        raise RecipeError(f"column {name!r}: expected samples of one number or of (n,) numbers, found one of {shape}")
    return np.concatenate([sample.reshape(-1) for sample in samples])
