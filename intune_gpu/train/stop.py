"""Ctrl-C and SIGTERM: the first asks for a stop behind the running step, a second Ctrl-C quits at once.

Quitting at once leaves the checkpoints that are there whole: one that is being written has its name only at its end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

# torchrun passes a Ctrl-C on to ranks that the terminal has already told: within this time both are one.
SAME_KEY_S = 0.5


class Terminated(BaseException):
    """SIGTERM came, where it is taken as Ctrl-C is."""


class StopRequest:
    """Whether a signal asked for a stop.

    Args:
        silent: whether to say nothing of it.

    Attributes:
        signal: its number, or 0.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.signal = 0
        self._silent = silent
        self._at_s = 0.0

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; end the process at a second Ctrl-C."""
        if self.signal and number == signal.SIGINT and monotonic() - self._at_s > SAME_KEY_S:
            os.write(
                2, b"\x1b[?25h\nstopped at once; nothing was saved since the last checkpoint\n"
            )  # first the cursor, which rich hides
            os._exit(128 + number)
        if not self.signal:
            self.signal, self._at_s = number, monotonic()
            if self._silent:
                return
            os.write(2, b"\nstopping behind this step, with a checkpoint; Ctrl-C again quits at once\n")


@contextmanager
def stop_on_signals(*, silent: bool = False) -> Iterator[StopRequest]:
    """Take Ctrl-C and SIGTERM over for as long as training runs."""
    request = StopRequest(silent=silent)
    before = {number: signal.signal(number, request.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code_of_signal(error: BaseException | None) -> int | None:
    """Return 130 or 143 where Ctrl-C or SIGTERM came, and an error came of it; else None.

    A signal may come inside Python's own `Condition.wait`, as where a thread is started: what was raised for it is lost
    behind a RuntimeError, of a lock that is not held any more.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT
        if isinstance(error, Terminated):
            return 128 + signal.SIGTERM
        error = error.__context__
    return None


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise `Terminated` when SIGTERM comes, so that what is half done is cleaned up; call it in the main thread."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would come into the cleaning up
        raise Terminated

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
