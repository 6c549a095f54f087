"""A recipe as a node of a user's own pipeline."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def

import intune_gpu as ig
from intune_gpu.core.errors import RecipeError
from intune_gpu.dali.fn import to_sparse, transform
from tests.shared_data import ROOT

RECIPE = ig.Recipe(
    "y",
    dense={"x": [ig.FillMissing(0.5), ig.Clip(min=0.0), ig.Log1p()], "k": [ig.FillMissing(0)]},
    sparse={
        "a": [ig.HashBucket(100)],
        "k_mod": [ig.Column("k"), ig.Modulo(7)],
        "bins": [ig.Column("x"), ig.Bucketize([0.1, 1.0])],
        "a_x_k": [ig.Cross(["a", "k"], 1000)],
    },
)


def columns_of(rows: int, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "y": rng.random(rows, np.float32),
        "x": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows)).astype(np.float32),
        "k": rng.integers(-50, 50, rows, np.int16),
        "a": rng.integers(-(2**62), 2**62, rows),
    }


def run(recipe: ig.Recipe, batches: list[dict[str, list[Any]]], **options: Any) -> list[list[Any]]:
    """Run a pipeline over samples; return dense, ids and label of each batch, a list of arrays each."""
    names = list(batches[0])

    @pipeline_def(batch_size=64, num_threads=1, device_id=None)
    def pipeline() -> Any:
        nodes = fn.external_source(source=[[b[n] for n in names] for b in batches], num_outputs=len(names))
        return transform(dict(zip(names, nodes, strict=True)), recipe=recipe, **options)

    built = pipeline()
    return [[[np.array(sample) for sample in out] for out in built.run()] for _ in batches]


@pytest.mark.parametrize("index_dtype", ["int64", "int32"])
def test_rows_of_a_batch_are_those_of_a_transform(rng: np.random.Generator, index_dtype: str) -> None:
    tables = [columns_of(rows, rng) for rows in (64, 1, 17)]
    given = run(RECIPE, [{n: list(t[n]) for n in t} for t in tables], index_dtype=index_dtype)
    for table, (dense, ids, label) in zip(tables, given, strict=True):
        want = ig.transform(table, RECIPE, index_dtype=index_dtype)
        assert np.stack(dense).tobytes() == want.dense.numpy().tobytes()
        assert np.stack(label).tobytes() == want.label.numpy().tobytes()
        assert all(one.shape == () for one in label)
        sparse = to_sparse(torch.from_numpy(np.stack(ids)), RECIPE)
        assert sparse.keys() == want.sparse.keys()
        assert torch.equal(sparse.values(), want.sparse.values())
        assert torch.equal(sparse.lengths(), want.sparse.lengths())


def test_samples_of_many_rows(rng: np.random.Generator) -> None:
    parts = [columns_of(rows, rng) for rows in (5, 1, 0, 30)]
    ((dense, ids, label),) = run(RECIPE, [{n: [part[n] for part in parts] for n in parts[0]}])
    for i, part in enumerate(parts):
        want = ig.transform(part, RECIPE)
        assert dense[i].shape == (len(part["y"]), 2)
        assert dense[i].tobytes() == want.dense.numpy().tobytes()
        assert ids[i].T.tobytes() == want.sparse.values().numpy().tobytes()
        assert label[i].tobytes() == want.label.numpy().tobytes()


def test_without_labels(rng: np.random.Generator) -> None:
    table = columns_of(9, rng)
    del table["y"]
    ((_, _, label),) = run(RECIPE, [{n: list(table[n]) for n in table}])
    assert np.isnan(label).all()


def test_what_cannot_be_run(rng: np.random.Generator) -> None:
    listed = ig.Recipe("y", sparse={"tags": [ig.FirstK(2), ig.HashBucket(30)]})
    for wrong, words in (
        (lambda: transform({}, RECIPE), "columns: expected y, x, k, a, found none named x, k, a; give a DataNode"),
        (lambda: transform({"tags": None}, listed), 'feature "tags": expected one number a row.*DALIRecIterator'),
        (lambda: transform({}, {}), "recipe: expected a Recipe, found {}"),  # type: ignore[arg-type]
        (lambda: transform({}, RECIPE, "int8"), "index_dtype: expected"),
    ):
        with pytest.raises(RecipeError, match=words):
            wrong()
    table = columns_of(4, rng)
    table["y"][2] = np.inf
    with pytest.raises(RuntimeError, match="table: row 2, column 'y'"):
        run(RECIPE, [{n: list(table[n]) for n in table}])
    with pytest.raises(RuntimeError, match=r"column 'k': expected samples of one number .*found one of \(2, 2\)"):
        run(RECIPE, [columns_of(4, rng) | {"k": [np.zeros((2, 2), np.int16)] * 4}])  # type: ignore[list-item]


def test_the_documented_example() -> None:
    page = (ROOT / "docs" / "dali.md").read_text()
    (code,) = re.findall(r"```python example\n(.*?)```", page, re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/dali.md", "exec"), namespace)
    losses = namespace["losses"]
    assert len(losses) == 24
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])
