"""A recipe as a node of a user's own pipeline."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
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


MIXED = ig.Recipe(
    "y",
    dense={"x": [ig.FillMissing(0.5)], "k": [ig.FillMissing(0)]},
    sparse={
        "word": [ig.HashBucket(100)],
        "code": [ig.HashBucket(100)],
        "tags": [ig.FirstK(2), ig.HashBucket(50)],
        "all_tags": [ig.Column("tags"), ig.HashBucket(50)],
        "k_x_word": [ig.Cross(["k", "word"], 1000)],
    },
    types={"code": "hex32"},
)


def mixed(rows: int, rng: np.random.Generator) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return samples, and the table that they are of."""
    words = [None if n % 5 == 1 else "é" * (n % 4) for n in range(rows)]
    tags = [list(range(n, n + n % 4)) for n in range(rows)]
    codes = ["" if n % 7 == 3 else f"{n:x}" for n in range(rows)]
    ks: list[int | None] = [None if n % 3 == 2 else n for n in range(rows)]
    x, y = rng.random(rows, np.float32), rng.random(rows, np.float32)
    samples: dict[str, list[Any]] = {
        "y": list(y),
        "x": list(x),
        "k": [np.int16(k or 0) for k in ks],
        "word": [np.frombuffer(b"?" if w is None else w.encode(), np.uint8) for w in words],
        "code": [np.frombuffer(c.encode(), np.uint8) for c in codes],
        "tags": [np.array(t, np.int64) for t in tags],
        "has_k": [np.uint8(k is not None) for k in ks],
        "has_word": [np.array([w is not None]) for w in words],
    }
    of_lists = pa.array(tags, pa.list_(pa.int64()))
    return samples, {"y": y, "x": x, "k": pa.array(ks, pa.int16()), "word": words, "code": codes, "tags": of_lists}


def test_strings_lists_and_what_is_missing(rng: np.random.Generator) -> None:
    batches = [mixed(rows, rng) for rows in (40, 1, 17)]
    names = list(batches[0][0])

    @pipeline_def(batch_size=64, num_threads=1, device_id=None)
    def pipeline() -> Any:
        nodes = fn.external_source(source=[[b[n] for n in names] for b, _ in batches], num_outputs=len(names))
        given = dict(zip(names, nodes, strict=True))
        present = {"k": given.pop("has_k"), "word": given.pop("has_word")}
        return transform(given, MIXED, strings=["word", "code"], lists=["tags"], present=present)

    built = pipeline()
    for _, table in batches:
        dense, ids, lengths, label = [[np.array(sample) for sample in out] for out in built.run()]
        want = ig.transform(table, MIXED)
        assert np.stack(dense).tobytes() == want.dense.numpy().tobytes()
        assert np.stack(label).tobytes() == want.label.numpy().tobytes()
        sparse = to_sparse([torch.from_numpy(row) for row in ids], MIXED, torch.from_numpy(np.stack(lengths)))
        assert sparse.keys() == want.sparse.keys()
        assert torch.equal(sparse.values(), want.sparse.values())
        assert torch.equal(sparse.lengths(), want.sparse.lengths())


def test_strings_alone_give_three_nodes(rng: np.random.Generator) -> None:
    recipe = ig.Recipe("y", sparse={"word": [ig.HashBucket(100)]})
    samples, table = mixed(20, rng)
    ((_, ids, label),) = run(recipe, [{n: samples[n] for n in ("y", "word")}], strings=["word"])
    table["word"] = ["?" if word is None else word for word in table["word"]]
    want = ig.transform({n: table[n] for n in ("y", "word")}, recipe)
    assert np.concatenate(ids).tolist() == want.sparse.values().tolist()
    assert np.stack(label).tolist() == want.label.tolist()


def test_without_labels(rng: np.random.Generator) -> None:
    table = columns_of(9, rng)
    del table["y"]
    ((_, _, label),) = run(RECIPE, [{n: list(table[n]) for n in table}])
    assert np.isnan(label).all()


def test_what_cannot_be_run(rng: np.random.Generator) -> None:
    all_of: dict[str, Any] = dict.fromkeys(RECIPE.columns)
    listed = ig.Recipe("y", sparse={"tags": [ig.FirstK(2), ig.HashBucket(30)]})
    for wrong, words in (
        (lambda: transform({}, RECIPE), "columns: expected y, x, k, a, found none named x, k, a; give a DataNode"),
        (
            lambda: transform({"tags": None}, listed),
            'feature "tags": expected its column .*found it is not.*DALIRecIterator',
        ),
        (
            lambda: transform(all_of, RECIPE, strings=["nobody"]),
            "strings: expected names out of y, x, k, a, found 'nob",
        ),
        (lambda: transform(all_of, RECIPE, lists="a"), "lists: expected names of columns, found the text 'a'"),
        (
            lambda: transform(all_of, RECIPE, lists=["a"], strings=["a"]),
            "column 'a': .*found it among both.*holds no li",
        ),
        (
            lambda: transform(all_of, RECIPE, lists=["a"], present={"a": 1}),
            "column 'a': expected no node that says which",
        ),
        (
            lambda: transform(all_of, RECIPE),
            "transform: expected a pipeline that is being defined, found none; call it",
        ),
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
    words = ig.Recipe("y", dense={"k": []}, sparse={"word": [ig.HashBucket(9)]})
    text = [np.frombuffer(b"ab", np.uint8)] * 2
    for samples, said in (
        ({"word": [np.zeros((1, 2), np.uint8)] * 2}, r"a row's string or list as a sample of one dimension.*\(1, 2\)"),
        (
            {"word": [np.zeros(2, np.int32)] * 2},
            r"column 'word': expected strings as bytes, \(bytes,\) uint8, found int32",
        ),
        ({"k": [np.zeros(2, np.int32)] * 2}, r"column 'k': expected one number a sample, since a sample with strings"),
    ):
        ys: dict[str, list[Any]] = {"y": [np.float32(0)] * 2, "k": [np.int32(0)] * 2, "word": text}
        with pytest.raises(RuntimeError, match=said):
            run(words, [ys | samples], strings=["word"])


def run_documented(kind: str) -> dict[str, Any]:
    """Run the example of a kind in docs/dali.md."""
    page = (ROOT / "docs" / "dali.md").read_text()
    (code,) = re.findall(rf"```python {kind}\n(.*?)```", page, re.DOTALL)
    namespace: dict[str, Any] = {"__name__": kind}
    exec(compile(code, "docs/dali.md", "exec"), namespace)
    return namespace


def test_the_documented_example() -> None:
    losses = run_documented("example")["losses"]
    assert len(losses) == 24
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])


def test_the_documented_source() -> None:
    batches = run_documented("source")["batches"]
    assert [len(batch) for batch in batches] == [64, 64, 64, 64, 44]
    assert sorted(row for batch in batches for row in batch.label.tolist()) == [0.0] * 150 + [1.0] * 150
