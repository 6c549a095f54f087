"""What stands between loader and pipeline: order, cursors, ends, and batches that cannot be trained as they are."""

from __future__ import annotations

import math

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import intune_gpu as ig
from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import DataError
from intune_gpu.train.feed import Feed, trainable

RECIPE = ig.Recipe(label="y", dense={"a": [ig.FillMissing()], "b": [ig.FillMissing()]}, sparse={"s": [ig.Modulo(9)]})


def batch_of(rows: int, number: int = 0, label: float = 1.0, dense: float = 0.5) -> ig.Batch:
    ids = KeyedJaggedTensor(["s"], torch.arange(rows), lengths=torch.ones(rows, dtype=torch.int32))
    cursor = Cursor(4, ((0, 100),), 1, 10 * (number + 1), number + 1, 0)
    return ig.Batch(torch.full((rows, 2), dense), ids, torch.full((rows,), label), cursor)


def test_a_pipeline_that_runs_ahead_is_told_what_it_trained() -> None:
    batches = [batch_of(n + 1, n) for n in range(5)]
    feed = Feed(iter(batches), RECIPE)
    assert feed.epoch == 4
    given = [next(feed), next(feed), next(feed)]
    assert [feed.trained().cursor, feed.trained().cursor] == [batches[0].cursor, batches[1].cursor]
    given += list(feed)
    assert all(a is b for a, b in zip(given, batches, strict=True))
    assert [feed.trained().rows for _ in range(3)] == [3, 4, 5]


def test_an_end_stays_an_end() -> None:
    feed = Feed(iter([batch_of(1)]), RECIPE)
    assert len(list(feed)) == 1
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(feed)


def test_no_batches_have_no_epoch() -> None:
    assert Feed(iter([]), RECIPE).epoch is None


def test_a_batch_without_rows_becomes_one_row_without_label() -> None:
    usable = trainable(batch_of(0), RECIPE)
    assert usable.dense.shape == (1, 2)
    assert usable.sparse.lengths().tolist() == [0]
    assert math.isnan(float(usable.label))


@pytest.mark.parametrize("label", [-1.0, 2.0])
def test_a_label_outside_0_to_1_is_refused(label: float) -> None:
    with pytest.raises(DataError, match=r'label "y": expected values from 0 .* to 1'):
        trainable(batch_of(3, label=label), RECIPE)


@pytest.mark.parametrize("dense", [math.nan, math.inf])
def test_a_dense_feature_that_is_no_number_is_named(dense: float) -> None:
    with pytest.raises(DataError, match='dense feature "a": expected finite numbers'):
        trainable(batch_of(3, dense=dense), RECIPE)
