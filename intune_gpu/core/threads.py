"""Waiting, in the main thread, so that Ctrl-C is seen; and for threads that it may have met while they were started.

Python looks for signals between two instructions, and when one cuts a wait short. One that comes behind the last look
and ahead of the wait, or is given to another thread by the kernel, does neither: it is seen when the wait ends. So no
wait here is without an end. And none is of a condition: a signal that comes while its `wait` lets go of the lock leaves
the lock in disorder, so that it ends with a RuntimeError instead, or never. What waits in C has no such place.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

LOOK_S = 0.2
"""How long the main thread waits in one go."""
_AGAIN_S = 0.001

T = TypeVar("T")


def next_of(news: queue.SimpleQueue[T]) -> T:
    """Wait until something is in the queue, and take it."""
    while True:
        with suppress(queue.Empty):
            return news.get(timeout=LOOK_S)


def results_of(futures: Sequence[Future[T]]) -> list[T]:
    """Return what futures come to; or raise what one of them met, as soon as it did."""
    news: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(news.put)
    for _ in futures:
        next_of(news).result()
    return [future.result() for future in futures]


def join_begun(thread: threading.Thread, timeout_s: float) -> None:
    """Wait for a thread to end, at most so long; for the calling one, and one that was never started, not at all.

    `Thread.start` waits for the thread that it made. Where Ctrl-C ends that wait the thread runs, and `Thread.join`
    refuses it for the moment that it takes to say so.
    """
    if thread is threading.current_thread():
        return
    deadline = time.monotonic() + timeout_s
    while thread.ident is not None:
        left = max(0.0, deadline - time.monotonic())
        try:
            thread.join(min(left, LOOK_S))
        except RuntimeError:  # "cannot join thread before it is started"
            if left == 0.0:
                return
            time.sleep(_AGAIN_S)
        else:
            if left == 0.0 or not thread.is_alive():
                return
