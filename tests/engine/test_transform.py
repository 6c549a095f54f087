"""One shot: what calls keep for one another, and that nobody can see it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

import intune_gpu as ig
from intune_gpu.engine.transform import KEPT_ROWS, _compiled

RECIPE = ig.Recipe(label="y", dense={"x": []}, sparse={"a": [ig.HashBucket(1_000)]})


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    _compiled.cache_clear()
    yield
    _compiled.cache_clear()


def table(rows: int, dtype: str = "int64") -> dict[str, np.ndarray]:
    return {"y": np.zeros(rows, "i1"), "x": np.ones(rows, "f4"), "a": np.arange(rows, dtype=dtype)}


def test_a_small_table_finds_the_program_of_the_call_before() -> None:
    first, second = (ig.transform(table(5), RECIPE).sparse.values().tolist() for _ in range(2))
    assert first == second
    assert (_compiled.cache_info().hits, _compiled.cache_info().misses) == (1, 1)


def test_a_large_table_keeps_nothing() -> None:
    ig.transform(table(KEPT_ROWS + 1), RECIPE)
    assert _compiled.cache_info().currsize == 0


def test_recipes_types_and_index_types_are_told_apart() -> None:
    other = ig.Recipe(label="y", dense={"x": []}, sparse={"a": [ig.HashBucket(1_000)]}, seed=1)
    for _ in range(2):
        ids = ig.transform(table(50), RECIPE).sparse.values()
        assert ig.transform(table(50, "uint16"), RECIPE).sparse.values().equal(ids)
        assert not ig.transform(table(50), other).sparse.values().equal(ids)
        narrow = ig.transform(table(50), RECIPE, index_dtype="int32").sparse.values()
        assert str(narrow.dtype) == "torch.int32"
        assert narrow.long().equal(ids)
    assert (_compiled.cache_info().hits, _compiled.cache_info().misses) == (4, 4)


def test_few_programs_are_kept() -> None:
    for seed in range(50):
        ig.transform(table(3), ig.Recipe(label="y", dense={"x": []}, seed=seed))
    assert _compiled.cache_info().currsize == 8


def test_batches_share_no_memory() -> None:
    first, second = ig.transform(table(5), RECIPE), ig.transform(table(5), RECIPE)
    for tensor in (first.dense, first.label, first.sparse.values(), first.sparse.lengths()):
        tensor.numpy()[:] = 77
    assert second.dense.tolist() == [[1.0]] * 5
    assert (second.label.tolist(), second.sparse.lengths().tolist()) == ([0.0] * 5, [1] * 5)
    again = ig.transform(table(5), RECIPE)
    assert again.sparse.values().equal(second.sparse.values())
    assert again.sparse.lengths().tolist() == [1] * 5


def test_a_forked_process_begins_with_none() -> None:
    ig.transform(table(5), RECIPE)
    child = os.fork()
    if child == 0:
        os._exit(_compiled.cache_info().currsize)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _compiled.cache_info().currsize == 1
