"""Counts of a training run: rows, steps, losses, time."""

from __future__ import annotations

import math
from collections import deque

import torch

from intune_gpu.train.feed import Taken

LAST_STEPS = 20
WARM_STEPS = 5


class Meter:
    """Counts steps. Losses stay where they are computed until somebody asks, so that a GPU is not made to wait.

    Args:
        step: steps trained before.
        epoch: the one that was running, from 0; -1 where none was.
        rows: rows trained before.
        loss_first: loss of the very first step, where it was before.
        bad_rows: the most that an epoch had before.

    Attributes:
        step: steps trained.
        rows: good rows trained.
        epoch: the running one, from 0.
        bad_rows: the most bad rows that an epoch had.
        train_s: time the steps took, here.
    """

    def __init__(
        self, step: int = 0, epoch: int = -1, rows: int = 0, loss_first: float | None = None, bad_rows: int = 0
    ) -> None:
        self.step, self.epoch, self.rows, self.bad_rows = step, epoch, rows, bad_rows
        self.train_s = 0.0
        self._loss_first: float | torch.Tensor | None = loss_first
        self._rows_before, self._steps_before = rows, step
        self._losses: deque[torch.Tensor] = deque(maxlen=LAST_STEPS)
        self._wait_s = 0.0
        self._wait_s_before = 0.0
        self._mark: tuple[int, float] | None = None
        self._warm: tuple[int, float] | None = None

    def begin_epoch(self, epoch: int, wait_s: float) -> None:
        """Note that an epoch, counted from 0, begins, and how long its first batch was waited for."""
        self.epoch = epoch
        self._wait_s_before += self._wait_s
        self._wait_s = wait_s
        self.train_s += wait_s

    def note(self, taken: Taken, loss: torch.Tensor, wait_s: float) -> None:
        """Count one step.

        Args:
            taken: what it trained.
            loss: of it, a scalar on any device.
            wait_s: the epoch's wait for batches so far.
        """
        self.step += 1
        self.rows += taken.rows
        self.bad_rows = max(self.bad_rows, taken.cursor.bad_rows)
        self._wait_s = wait_s
        if self._mark is None:  # the first step waited for threads to start and code to load: no measure of the rest
            self._mark = (self.rows, self.train_s)
        if self.steps_here == WARM_STEPS:
            self._warm = (self.rows, self.train_s)
        if taken.rows:
            self._losses.append(loss)
            if self._loss_first is None:
                self._loss_first = loss

    @property
    def loss_first(self) -> float | None:
        """Loss of the very first step."""
        return None if self._loss_first is None else float(self._loss_first)

    def loss(self) -> float:
        """Return the mean loss of the last steps, at most 20 and at most half of them; NaN before the first."""
        last = list(self._losses)[-max(1, self.step // 2) :]
        return float(torch.stack(last).mean()) if last else math.nan

    @property
    def finite(self) -> bool:
        """Whether the losses of the last steps are numbers."""
        return not self._losses or bool(torch.stack(list(self._losses)).isfinite().all())

    @property
    def steps_here(self) -> int:
        """Steps trained by this process."""
        return self.step - self._steps_before

    @property
    def rows_here(self) -> int:
        """Good rows trained by this process."""
        return self.rows - self._rows_before

    @property
    def wait_pct(self) -> float:
        """Share of the time of all steps in which the trainer stood waiting for a batch."""
        return 100.0 * (self._wait_s_before + self._wait_s) / self.train_s if self.train_s else 0.0

    def rows_per_s(self) -> float:
        """Return the rows of this rank trained here, over the time their steps took."""
        return self.rows_here / self.train_s if self.train_s else 0.0

    @property
    def steady_rows(self) -> int:
        """Good rows trained here behind the first `WARM_STEPS`, in which threads start and code is loaded."""
        return 0 if self._warm is None else self.rows - self._warm[0]

    @property
    def steady_s(self) -> float:
        """Time that their steps took."""
        return 0.0 if self._warm is None else self.train_s - self._warm[1]

    def recent_rows_per_s(self) -> float:
        """Return the same since this was last asked, the very first step left out."""
        rows, train_s = self._mark or (self.rows, self.train_s)
        self._mark = (self.rows, self.train_s)
        return (self.rows - rows) / (self.train_s - train_s) if self.train_s > train_s else self.rows_per_s()
