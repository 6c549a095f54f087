"""What synthetic click logs are made of: the fields, the planted logistic model, and its exact AUC ceiling.

Fields are independent given what is missing, so an effect that has mean zero over its field's ids is orthogonal to all
others: a pair's effect cannot be had from its two ids one at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from intune_gpu.kernels import synthesis

Array = np.ndarray[Any, Any]

POSITIVE_RATE = 0.25
# Rows 0 to 131,071 of a seed set the means, the scales and the bias of its planted model.
CALIBRATION_ROWS = 131_072
# An AUC is exact up to this many rows; of more rows, evenly spaced blocks are taken.
MAX_AUC_ROWS = 1_048_576
BLOCK_ROWS = 65_536

# Shares of rows that miss a group of fields, as in the Kaggle display advertising set; a group goes missing together.
MISSING_RATES = {
    "I1": 0.445, "I3": 0.225, "I4": 0.21, "I5": 0.0465, "I6": 0.247, "I7": 0.0465, "I8": 0.001, "I12": 0.777,
    "C3": 0.033, "C6": 0.126, "C19": 0.483, "C22": 0.816,
}  # fmt: skip
MISSING_WITH = {
    "I10": "I1", "I13": "I4", "I9": "I7", "I11": "I7", "C4": "C3", "C12": "C3", "C16": "C3", "C21": "C3", "C24": "C3",
    "C20": "C19", "C25": "C19", "C26": "C19",
}  # fmt: skip

# Quantiles of the integer fields of the same set, at these probabilities.
KNOTS = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.95, 0.99, 1.0)
INTEGER_QUANTILES = {
    "I1": (0, 0, 0, 0, 1, 1, 3, 8, 18, 60, 95),
    "I2": (-2, -1, 0, 1, 3, 10, 44, 225, 662, 2375, 7864),
    "I3": (0, 1, 2, 4, 6, 10, 19, 51, 88, 411, 8457),
    "I4": (0, 1, 2, 3, 4, 6, 11, 21, 28, 43, 87),
    "I5": (0, 15, 297, 1504, 2880, 4553, 10301, 31540, 42406, 233297, 1015215),
    "I6": (0, 2, 10, 25, 43, 71, 140, 352, 561, 1893, 4638),
    "I7": (0, 0, 0, 2, 3, 5, 10, 30, 61, 165, 1658),
    "I8": (0, 0, 2, 5, 8, 12, 20, 35, 42, 48, 547),
    "I9": (0, 2, 10, 27, 43, 65, 129, 324, 508, 1207, 5637),
    "I10": (0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 4),
    "I11": (0, 0, 0, 1, 1, 1, 2, 5, 8, 18, 37),
    "I12": (0, 0, 0, 0, 0, 0, 1, 2, 5, 11, 98),
    "I13": (0, 1, 2, 4, 5, 8, 14, 28, 40, 74, 770),
}

# Published numbers of distinct ids, and shifts of the power law that give the real share of the commonest id.
ID_LAWS = {
    "C1": (1460, 0.001), "C2": (583, 1.0), "C3": (10131227, 0.5), "C4": (2202608, 0.3), "C5": (305, 1e-5),
    "C6": (24, 0.03), "C7": (12517, 11.0), "C8": (633, 1e-4), "C9": (3, 2e-5), "C10": (93145, 0.015),
    "C11": (5683, 5.5), "C12": (8351593, 0.5), "C13": (3194, 6.0), "C14": (27, 0.2), "C15": (14992, 5.5),
    "C16": (5461306, 0.5), "C17": (10, 0.3), "C18": (5652, 1.8), "C19": (2173, 5e-5), "C20": (4, 10.0),
    "C21": (7046547, 0.5), "C22": (18, 0.05), "C23": (15, 0.12), "C24": (286181, 0.4), "C25": (105, 0.1),
    "C26": (142572, 0.5),
}  # fmt: skip
CARDINALITIES = {name: cardinality for name, (cardinality, _) in ID_LAWS.items()}
INTEGER_FIELDS = tuple(INTEGER_QUANTILES)
ID_FIELDS = tuple(ID_LAWS)
FIELDS = INTEGER_FIELDS + ID_FIELDS

Terms = Mapping[tuple[str, ...], float]

# The planted model: a part of the logit is a weighted sum of products of quantities, scaled to the part's standard
# deviation. Quantity "I2" is log1p of that field (0 where missing), "C2" a hashed latent of its id, and "C14:C17" that
# of C14 for its pair with C17, half of it the latent of "C14" and half its own. All are standardised.
# Fields of many ids carry little, for most of their ids are seen too rarely to be learnt. Pairs that share nothing with
# the single ids are a saddle point, which a DLRM does not leave within 100 steps: hence the half.
DENSE_STD, ID_STD, PAIR_STD = 0.8, 1.6, 0.9
DENSE_TERMS: Terms = {
    ("I2",): 1.0, ("I3",): -0.6, ("I5",): -0.8, ("I6",): -1.0, ("I7",): 0.8, ("I9",): 0.6, ("I11",): 0.7,
    ("I13",): -0.7, ("I4", "I8"): 0.5,
}  # fmt: skip
ID_TERMS: Terms = {
    ("C1",): 0.7, ("C2",): 1.0, ("C6",): 0.8, ("C8",): 0.6, ("C10",): 0.4, ("C11",): 0.5, ("C13",): 0.6,
    ("C14",): 1.0, ("C17",): 0.8, ("C18",): 0.6, ("C23",): 0.8, ("C25",): 0.4, ("C24",): 0.3, ("C7",): 0.3,
    ("C15",): 0.3, ("C3",): 0.2, ("C4",): 0.2, ("C16",): 0.2, ("C26",): 0.2,
}  # fmt: skip
PAIR_TERMS: Terms = {("C14:C17", "C17:C14"): 1.0, ("C6:C23", "C23:C6"): 1.0, ("C2:C14", "C14:C2"): 0.6}


@dataclass(frozen=True, eq=False)
class Columns:
    """What a run of rows says, column by column.

    Args:
        integers: (13, rows) int32, `I1` to `I13`; any value where missing.
        ids: (26, rows) uint32, `C1` to `C26`; any value where missing.
        missing: (39, rows) bool, integers first.
    """

    integers: Array
    ids: Array
    missing: Array


@dataclass(frozen=True, eq=False)
class Parts:
    """The three parts of the logit of a run of rows, each (rows,) float64."""

    dense: Array
    ids: Array
    pairs: Array


@dataclass(frozen=True)
class PlantedModel:
    """The true model behind the labels of one seed; `planted_model(seed)` makes it.

    Args:
        seed: what all draws and all effects derive from.
        moments: mean and standard deviation of each quantity that the logit is made of.
        bias: what brings the share of positive labels to `POSITIVE_RATE`.
    """

    seed: int
    moments: Mapping[str, tuple[float, float]]
    bias: float

    def parts(self, columns: Columns) -> Parts:
        """Return the parts of the logit of each row, without the bias."""
        return Parts(
            dense=self._part(DENSE_TERMS, DENSE_STD, columns),
            ids=self._part(ID_TERMS, ID_STD, columns),
            pairs=self._part(PAIR_TERMS, PAIR_STD, columns),
        )

    def probabilities(self, parts: Parts) -> Array:
        """Return the true probability of a positive label of each row, (rows,) float64."""
        return _sigmoid(self.bias + parts.dense + parts.ids + parts.pairs)

    def labels(self, first_row: int, probabilities: Array) -> Array:
        """Draw the labels of rows `first_row, first_row + 1, ...`, (rows,) int32."""
        uniform = np.empty(len(probabilities))
        synthesis.draw_uniform_cpu(_key(self.seed, "label"), np.uint64(first_row), uniform)
        return (uniform < probabilities).astype(np.int32)

    def _part(self, terms: Terms, std: float, columns: Columns) -> Array:
        scale = std / math.sqrt(sum(weight**2 for weight in terms.values()))
        total = np.zeros(columns.ids.shape[1])
        for names, weight in terms.items():
            effect = np.full(columns.ids.shape[1], weight * scale)
            for name in names:
                mean, deviation = self.moments[name]
                effect *= (_quantity(self.seed, name, columns) - mean) / deviation
            total += effect
        return total


@lru_cache(maxsize=8)
def planted_model(seed: int) -> PlantedModel:
    """Make the planted model of a seed, calibrated on its own first `CALIBRATION_ROWS` rows."""
    columns = draw_columns(seed, 0, CALIBRATION_ROWS)
    moments = {}
    for name in sorted({name for terms in (DENSE_TERMS, ID_TERMS, PAIR_TERMS) for names in terms for name in names}):
        quantity = _quantity(seed, name, columns)
        moments[name] = (float(quantity.mean()), float(quantity.std()))
    parts = PlantedModel(seed, moments, 0.0).parts(columns)
    logit = parts.dense + parts.ids + parts.pairs
    low, high = -20.0, 20.0
    for _ in range(50):
        bias = (low + high) / 2
        low, high = (low, bias) if _sigmoid(logit + bias).mean() > POSITIVE_RATE else (bias, high)
    return PlantedModel(seed, moments, bias)


def draw_columns(seed: int, first_row: int, rows: int) -> Columns:
    """Draw the fields of rows `first_row` to `first_row + rows - 1`; each depends on seed and number only."""
    start = np.uint64(first_row)
    integers = np.empty((len(INTEGER_FIELDS), rows), np.int32)
    ids = np.empty((len(ID_FIELDS), rows), np.uint32)
    missing = np.zeros((len(FIELDS), rows), np.bool_)
    for i, name in enumerate(FIELDS):
        group = MISSING_WITH.get(name, name)
        if group != name:
            missing[i] = missing[FIELDS.index(group)]
        elif name in MISSING_RATES:
            synthesis.draw_missing_cpu(_key(seed, f"missing {name}"), start, MISSING_RATES[name], missing[i])
    probabilities = np.array(KNOTS)
    for i, (name, quantiles) in enumerate(INTEGER_QUANTILES.items()):
        log_values = np.log(np.array(quantiles) - quantiles[0] + 1.0)
        synthesis.draw_integers_cpu(_key(seed, name), start, probabilities, log_values, quantiles[0], integers[i])
    for i, (name, (cardinality, shift)) in enumerate(ID_LAWS.items()):
        salt = np.uint32(_key(seed, f"salt {name}") >> np.uint64(32))
        synthesis.draw_ids_cpu(_key(seed, name), start, cardinality, shift, salt, ids[i])
    return Columns(integers, ids, missing)


def expected_auc(probabilities: Array, score: Array) -> float:
    """Return the AUC that ranking by `score` has in expectation over labels drawn from `probabilities`.

    It is the sum over ordered pairs of rows i != j of p_i (1 - p_j) [score_i > score_j], ties counting one half, over
    the same sum without the comparison; 0.5 for a single row. With score = probabilities it is the ceiling that no
    model can pass.

    Args:
        probabilities: (rows,) float64, the true ones.
        score: (rows,) float64.
    """
    if len(score) < 2:
        return 0.5
    _, group = np.unique(score, return_inverse=True)
    positive = np.bincount(group, weights=probabilities)
    negative = np.bincount(group, weights=1.0 - probabilities)
    both = float((probabilities * (1.0 - probabilities)).sum())
    won = float((positive * (np.cumsum(negative) - negative)).sum())
    tied = float((positive * negative).sum()) - both
    return (won + 0.5 * tied) / (float(positive.sum()) * float(negative.sum()) - both)


def exact_aucs(
    seed: int, first_row: int, rows: int, before_block: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Return the AUC ceiling of a run of rows, and the AUC of the dense part of the true logit alone.

    Both are expectations over the labels, from the true probabilities; of more than `MAX_AUC_ROWS` rows, evenly spaced
    blocks are taken. `before_block` may raise, to stop early.
    """
    model = planted_model(seed)
    blocks = math.ceil(min(rows, MAX_AUC_ROWS) / BLOCK_ROWS)
    starts = [first_row + rows * b // blocks for b in range(blocks)]
    ends = [*starts[1:], first_row + rows]
    probabilities, dense = [], []
    for start, end in zip(starts, ends, strict=True):
        before_block()
        parts = model.parts(draw_columns(seed, start, min(end - start, BLOCK_ROWS)))
        probabilities.append(model.probabilities(parts))
        dense.append(parts.dense)
    truth = np.concatenate(probabilities)
    return expected_auc(truth, truth), expected_auc(truth, np.concatenate(dense))


def _quantity(seed: int, name: str, columns: Columns) -> Array:
    field = name.partition(":")[0]
    missing = columns.missing[FIELDS.index(field)]
    if field in INTEGER_FIELDS:
        values = np.maximum(columns.integers[INTEGER_FIELDS.index(field)], 0)
        return np.asarray(np.log1p(np.where(missing, 0, values)))
    total = np.zeros(len(missing))
    for latent in (field,) if field == name else (field, name):
        out = np.empty(len(missing))
        synthesis.latents_cpu(_key(seed, f"latent {latent}"), columns.ids[ID_FIELDS.index(field)], missing, out)
        total += out
    return total


def _key(seed: int, purpose: str) -> np.uint64:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))
