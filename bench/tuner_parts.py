"""What the suite `tuner` measures beside its live runs: every static plan, and the cost of changing plans."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np

import intune_gpu as ig
from bench.harness import CheckError
from bench.tuner_live import Logs, batches, consume

Workers = tuple[int, int]
"""(readers, transformers)."""

BATCHES_A_PLAN = 10
_AGAIN = 4


def grid(cores: int) -> list[Workers]:
    """Return every plan up to twice as many threads of a stage as there are cores."""
    most = 2 * cores
    return [(readers, transformers) for readers in range(1, most + 1) for transformers in range(1, most + 1)]


def rate_of(loader: ig.Loader, source: Iterator[ig.Batch], workers: Workers, seconds: float) -> float:
    """Return the rows per second of a plan, with a consumer that takes all it gets."""
    _put(loader, workers)
    consume(loader, source, 0.2 * seconds)  # what was in flight is of the plan before
    trace = consume(loader, source, seconds)
    return sum(trace.rows) / trace.at_s[-1]


def search(logs: Logs, plans: Sequence[Workers], seconds: float) -> tuple[dict[Workers, float], Workers]:
    """Return the rate of every plan, and the best one.

    The best few are measured again, for longer, since the luckiest would win otherwise.
    """
    with logs.open() as loader, closing(batches(loader)) as source:
        next(source)
        found = {plan: rate_of(loader, source, plan, seconds) for plan in plans}
        few = sorted(found, key=lambda plan: -found[plan])[:_AGAIN]
        again = {plan: rate_of(loader, source, plan, 2 * seconds) for plan in few}
    return found | again, max(again, key=lambda plan: again[plan])


def changing(logs: Logs, plans: Sequence[Workers], seconds: float, seed: int) -> tuple[float, float]:
    """Return (own, mixed) rows per second of a round: of each plan by itself, and of changing among all at random.

    Both alternate within one loader. `own` is the harmonic mean, since every plan has as many batches in the mix.
    """
    draw = random.Random(seed)
    own: list[float] = []
    rows, spent = 0, 0.0
    with logs.open() as loader, closing(batches(loader)) as source:
        next(source)
        for plan in draw.sample(list(plans), len(plans)):
            own.append(rate_of(loader, source, plan, seconds))
            change = _Changing(loader, plans, draw)
            consume(loader, source, 0.2 * seconds, on_batch=change)
            trace = consume(loader, source, seconds, on_batch=change)
            rows += sum(trace.rows)
            spent += trace.at_s[-1]
    return len(own) / sum(1.0 / rate for rate in own), rows / spent


class _Changing:
    """Puts a plan by chance in force every few batches."""

    def __init__(self, loader: ig.Loader, plans: Sequence[Workers], draw: random.Random) -> None:
        self._loader, self._plans, self._draw, self._batches = loader, plans, draw, 0
        self(0.0)

    def __call__(self, now: float) -> None:
        if self._batches % BATCHES_A_PLAN == 0:
            _put(self._loader, self._draw.choice(self._plans))
        self._batches += 1


def _put(loader: ig.Loader, workers: Workers) -> None:
    loader.apply(replace(loader.plan, readers=workers[0], transformers=workers[1]))


def check_bytes(logs: Logs, plans: Sequence[Workers], count: int, seed: int) -> str:
    """Return a sentence that changing plans at random changes no byte of so many batches.

    Raises:
        CheckError: it does.
    """
    draw = random.Random(seed)
    digests = []
    for changes in (False, True):
        seen = hashlib.sha256()
        with logs.open(shuffle=True, seed=seed) as loader:
            change = _Changing(loader, plans, draw) if changes else None
            for batch in islice(loader, count):
                for tensor in (batch.dense, batch.label, batch.sparse.values(), batch.sparse.lengths()):
                    seen.update(np.ascontiguousarray(tensor.numpy()).tobytes())
                if change is not None:
                    change(0.0)
        digests.append(seen.hexdigest())
    if len(set(digests)) != 1:
        raise CheckError("batches under random plans differ from those under one plan")
    return f"{count} shuffled batches under plans that change at random equal those under one plan, byte for byte"


def interval(values: Sequence[float], seed: int = 0, resamples: int = 10_000) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval by the bootstrap (percentiles of means of resampled runs)."""
    data = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = data[rng.integers(0, len(data), (resamples, len(data)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(data.mean()), float(low), float(high)
