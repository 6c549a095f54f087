"""AUC: the chance that a positive row is ranked above a negative one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def exact_auc(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float | None:
    """Return the area under the ROC curve, from ranks (Mann and Whitney 1947); equal scores share their mean rank.

    Args:
        labels: (N,) 0 or 1; a label between is rounded, and a row with none (NaN) left out.
        scores: (N,) the higher the likelier.

    Returns:
        0 to 1, or None where all rows are of one class, or a score is not a number.
    """
    known = ~np.isnan(labels)
    positive, scores = labels[known] >= 0.5, scores[known]
    positives = int(positive.sum())
    pairs = positives * (len(positive) - positives)
    if pairs == 0 or np.isnan(scores).any():
        return None
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(sizes) - (sizes - 1) / 2  # of each group of equal scores, from 1
    return float((mean_rank[group[positive]].sum() - positives * (positives + 1) / 2) / pairs)
