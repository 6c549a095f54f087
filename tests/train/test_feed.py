"""What stands between loader and pipeline: order, cursors, ends, and batches that cannot be trained as they are."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import intune_gpu as ig
from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import DataError
from intune_gpu.train.checks import LOOK_EVERY, Found, LateCheck
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


# --- late checks, as for batches on a GPU -----------------------------------------------------------------------------

LABEL = r'label "y": expected values from 0 .* to 1 .*, found -3 to 1'
DENSE = r'dense feature "b": expected finite numbers, found'


def spoilt(number: int, *, value: float | None = None) -> ig.Batch:
    """A batch with a wrong label, or with such a value in its second dense feature."""
    batch = batch_of(3, number)
    if value is None:
        batch.label[1] = -3.0
    else:
        batch.dense[2, 1] = value
    return batch


def sentence_of(batch: ig.Batch) -> str:
    with pytest.raises(DataError) as refused:
        trainable(batch, RECIPE)
    return str(refused.value)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_found_late_is_said_as_found_at_once(value: float | None) -> None:
    check = LateCheck(RECIPE)
    for number in range(5):
        check.add(10 + number, spoilt(number, value=value) if number == 3 else batch_of(2, number))
    assert check.look() == Found(13, sentence_of(spoilt(3, value=value)))
    assert check.look() is None, "what was found is found once"


def test_a_late_check_has_an_end() -> None:
    check = LateCheck(RECIPE, every=2)
    for rounds in range(3):
        assert check.look() is None
        for number in range(2):
            assert not check.full
            check.add(number, batch_of(1 + rounds))
        assert check.full
    check.settle()
    check.add(0, spoilt(0))
    with pytest.raises(DataError, match=LABEL):
        check.settle()


def test_without_dense_features_labels_are_checked() -> None:
    recipe = ig.Recipe(label="y", sparse=RECIPE.sparse)
    batch = spoilt(0)
    batch.dense = batch.dense[:, :0]
    check = LateCheck(recipe)
    check.add(0, batch)
    with pytest.raises(DataError, match=LABEL):
        check.settle()


def test_a_batch_that_was_trained_spoils_the_model_one_that_waits_does_not() -> None:
    for trained, spoiled in ((2, False), (3, True)):
        feed = Feed(iter([batch_of(2), batch_of(2), spoilt(2, value=math.nan), batch_of(2)]), RECIPE, late=True)
        assert len([next(feed) for _ in range(4)]) == 4, "it is not looked at yet"
        for _ in range(trained):
            feed.trained()
        with pytest.raises(DataError, match=DENSE + r" nan; .* \(batch 3 of those"):
            feed.look()
        assert feed.spoiled is spoiled


def test_the_end_of_an_epoch_looks() -> None:
    feed = Feed(iter([batch_of(2), batch_of(0), spoilt(1)]), RECIPE, late=True)
    for _ in range(3):
        next(feed)
    with pytest.raises(DataError, match=LABEL):
        next(feed)
    with pytest.raises(StopIteration):
        next(feed)


def test_a_long_epoch_looks_on_its_way() -> None:
    feed = Feed((spoilt(n) if n == 5 else batch_of(2, n) for n in range(1_000)), RECIPE, late=True)
    with pytest.raises(DataError, match=LABEL):
        list(feed)
    assert feed._given == LOOK_EVERY


def test_what_is_not_on_the_host_is_checked_late_and_not_pinned() -> None:
    """The meta device stands for a GPU: whoever looks at its numbers, or pins them, fails."""
    away = batch_of(3).to(torch.device("meta"))
    with pytest.raises(RuntimeError):
        away.pin_memory()
    with pytest.raises((RuntimeError, NotImplementedError)):
        trainable(away, RECIPE)
    feed = Feed(iter([away, batch_of(0).to(torch.device("meta"))]), RECIPE, pin=True)
    assert next(feed) is away
    empty = next(feed)
    assert {tensor.device.type for tensor in (empty.dense, empty.label, empty.sparse.values())} == {"meta"}


def test_a_batch_for_a_gpu_brings_what_torchrec_asks_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ig.Batch, "pin_memory", lambda batch: batch)  # which needs a GPU
    (given,) = Feed(iter([batch_of(3)]), RECIPE, pin=True)
    assert given.to(torch.device("meta")).sparse.length_per_key_or_none() == [3]
    (plain,) = Feed(iter([batch_of(3)]), RECIPE)
    assert plain.to(torch.device("meta")).sparse.length_per_key_or_none() is None


def test_a_closed_feed_is_over_and_so_are_its_batches() -> None:
    batches = (batch_of(2, n) for n in range(5))
    feed = Feed(batches, RECIPE)
    next(feed)
    for _ in range(2):
        feed.close()
    with pytest.raises(StopIteration):
        next(feed)
    assert list(batches) == []


@hypothesis.given(
    dense=arrays(np.float32, (4, 2), elements=st.floats(width=32) | st.sampled_from([math.nan, math.inf, -0.0])),
    label=arrays(np.float32, 4, elements=st.floats(-1, 2, width=32) | st.sampled_from([0.0, 1.0, math.inf])),
)
def test_late_and_at_once_agree(dense: np.ndarray, label: np.ndarray) -> None:
    batch = batch_of(4)
    batch.dense, batch.label = torch.from_numpy(dense), torch.from_numpy(label)
    check = LateCheck(RECIPE)
    check.add(0, batch)
    found = check.look()
    if found is None:
        assert trainable(batch, RECIPE) is batch
    else:
        assert found.sentence[:13] == sentence_of(batch)[:13], "the label, or a feature"


def test_a_batch_that_is_where_it_should_be_is_not_copied() -> None:
    batch = batch_of(3)
    same = batch.to(torch.device("cpu"), non_blocking=True)
    assert same.dense is batch.dense
    assert same.label is batch.label
    assert same.sparse.values() is batch.sparse.values()
    assert same.sparse.lengths() is batch.sparse.lengths()
