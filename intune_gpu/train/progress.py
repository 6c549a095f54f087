"""What the user sees while training runs: a live line on a terminal, else a plain line every few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LIVE_EVERY_S = 0.25
PLAIN_EVERY_S = 5.0


@dataclass(frozen=True)
class Snapshot:
    """How far training is.

    Attributes:
        epoch: the running one, from 1.
        epochs: how many there will be.
        rows: rows trained by all ranks since the very first step, bad ones included.
        total_rows: those that there will be.
        rows_per_s: of late, all ranks together.
        loss: mean of late.
        wait_pct: share of the time in which the trainer stood waiting for batches.
        eta_s: time left.
        plan: readers and transformers, as they are now.
    """

    epoch: int
    epochs: int
    rows: int
    total_rows: int
    rows_per_s: float
    loss: float
    wait_pct: float
    eta_s: float
    plan: str = ""

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.eta_s), 60)
        eta = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        plan = f"{self.plan}  " if self.plan else ""
        return (
            f"epoch {self.epoch}/{self.epochs}  {self.rows:,} of {self.total_rows:,} rows  "
            f"{self.rows_per_s:,.0f} rows/s  loss {self.loss:.4f}  wait {self.wait_pct:.1f} %  {plan}ETA {eta}"
        )


class Screen:
    """Prints for the user, and shows a line that changes; silent on all ranks but the first.

    Args:
        silent: whether to say nothing at all.
    """

    def __init__(self, *, silent: bool) -> None:
        self._console = Console(quiet=silent, highlight=False, soft_wrap=True)
        self._live: Progress | None = None
        self._silent = silent
        self._next_s = monotonic() + (LIVE_EVERY_S if self._console.is_terminal else PLAIN_EVERY_S)

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_line()

    def say(self, text: str) -> None:
        """Print a line, above the live one."""
        self._console.print(text, markup=False)

    @property
    def due(self) -> bool:
        """Whether it is time for `show`."""
        return not self._silent and monotonic() >= self._next_s

    def show(self, snapshot: Snapshot) -> None:
        """Show how far training is."""
        if self._silent:
            return
        if not self._console.is_terminal:
            self.say(str(snapshot))
            self._next_s = monotonic() + PLAIN_EVERY_S
            return
        if self._live is None:
            columns = (BarColumn(bar_width=16), TextColumn("{task.description}", markup=False))
            self._live = Progress(*columns, console=self._console, transient=True, auto_refresh=False)
            self._live.add_task("")
            self._live.start()
        task = self._live.tasks[0].id
        self._live.update(task, completed=snapshot.rows, total=snapshot.total_rows, description=str(snapshot))
        self._live.refresh()
        self._next_s = monotonic() + LIVE_EVERY_S

    def end_line(self) -> None:
        """Take the live line away. May be called more than once."""
        if self._live is not None:
            self._live.stop()
            self._live = None
