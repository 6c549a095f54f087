"""Threads and the main thread's waits for them, so that no Ctrl-C is lost.

Python looks for signals between two instructions, and when one cuts a wait short. One that comes behind the last look
and ahead of the wait, or is given to another thread by the kernel, does neither: it is seen when the wait ends. So no
wait here is without an end. And none is of a condition: a signal that comes while its `wait` lets go of the lock leaves
the lock in disorder, so that it ends with a RuntimeError instead, or never. What waits in C has no such place.

Threads that have ended are let go of by other threads.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

LOOK_S = 0.2
"""How long the main thread waits in one go."""

T = TypeVar("T")

_kept: list[threading.Thread] = []


def keep_thread() -> None:
    """Keep the calling thread until one that begins after its end calls this; to be called first by each thread.

    Python has all threads in a `WeakSet`. Its callback is written in Python, and runs where the last reference goes; a
    Ctrl-C that is raised in a callback is dropped. 1 of 300 was, in loops whose epochs end a few threads each.
    """
    global _kept  # no lock, which a fork could leave held: of two threads at once one may not be kept
    _kept = [thread for thread in _kept if thread.is_alive()] + [threading.current_thread()]


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
