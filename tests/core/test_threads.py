"""Waiting for threads that may not quite be there."""

from __future__ import annotations

import threading
import time

from intune_gpu.core.threads import join_begun


def test_a_thread_that_runs_is_waited_for():
    thread = threading.Thread(target=time.sleep, args=(0.05,))
    thread.start()
    join_begun(thread, 10)
    assert not thread.is_alive()


def test_not_longer_than_asked():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    began = time.monotonic()
    join_begun(thread, 0.05)
    assert time.monotonic() - began < 5
    assert thread.is_alive()
    stop.set()
    join_begun(thread, 10)
    assert not thread.is_alive()


def test_one_that_was_never_started_and_the_calling_one_are_let_be():
    join_begun(threading.Thread(target=time.sleep), 10)
    join_begun(threading.current_thread(), 10)


class Late(threading.Thread):
    """A thread whose start was interrupted: `join` refuses it at first."""

    refused = 0

    def join(self, timeout: float | None = None) -> None:
        if self.refused < 3:
            self.refused += 1
            raise RuntimeError("cannot join thread before it is started")
        super().join(timeout)


def test_a_thread_whose_start_was_interrupted_is_waited_for():
    thread = Late(target=time.sleep, args=(0.05,))
    thread.start()
    join_begun(thread, 10)
    assert thread.refused == 3
    assert not thread.is_alive()
