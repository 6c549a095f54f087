"""AUC against the definition: the share of pairs in which the positive row is ranked higher, ties counting one half."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intune_gpu.train.auc import exact_auc

ROWS = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), max_size=60)


def naive_auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        return None
    won = sum(float(p > n) + 0.5 * float(p == n) for p in positive for n in negative)
    return won / (len(positive) * len(negative))


@given(ROWS)
def test_equals_the_count_of_pairs(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in rows], np.float32)
    scores = np.array([score / 4 for _, score in rows], np.float32)
    expected = naive_auc(labels, scores)
    found = exact_auc(labels, scores)
    assert found == expected if expected is None else found == pytest.approx(expected, abs=1e-12)


def test_many_rows_of_every_score(rng: np.random.Generator) -> None:
    labels = (rng.random(2_000) < 0.3).astype(np.float32)
    scores = rng.normal(size=2_000).astype(np.float32) + labels
    assert exact_auc(labels, scores) == pytest.approx(naive_auc(labels, scores), abs=1e-12)


def test_a_row_without_a_label_is_left_out() -> None:
    labels, scores = np.array([0, 1, np.nan, 1], np.float32), np.array([0, 1, 2, -1], np.float32)
    assert exact_auc(labels, scores) == 0.5


@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0], [np.nan]])
def test_one_class_has_none(labels: list[float]) -> None:
    assert exact_auc(np.array(labels, np.float32), np.zeros(len(labels), np.float32)) is None


def test_scores_that_are_no_numbers_have_none() -> None:
    assert exact_auc(np.array([0, 1], np.float32), np.array([0, np.nan], np.float32)) is None
