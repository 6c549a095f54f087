"""Waiting for threads that may not quite be there, and waits that a signal does not cut short."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from intune_gpu.core.threads import join_begun
from intune_gpu.kernels.threads import next_of, results_of
from tests import faults


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


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Set in the end, so that what a test started ends; or after 20 s, where a wait under test does not end itself."""
    event = threading.Event()
    timer = threading.Timer(20, event.set)
    timer.start()
    yield event
    timer.cancel()
    event.set()


def news(stop: threading.Event) -> Callable[[], object]:
    """Return a wait for news that do not come."""
    queued: queue.SimpleQueue[None] = queue.SimpleQueue()
    threading.Thread(target=lambda: (stop.wait(), queued.put(None)), daemon=True).start()

    return lambda: next_of(queued)


def futures(stop: threading.Event) -> Callable[[], object]:
    """Return a wait for a future that nobody fills."""
    future: Future[None] = Future()
    threading.Thread(target=lambda: (stop.wait(), future.set_result(None)), daemon=True).start()
    return lambda: results_of([future])


def joining(stop: threading.Event) -> Callable[[], object]:
    """Return a wait for a thread that does not end."""
    thread = threading.Thread(target=stop.wait, daemon=True)
    thread.start()
    return lambda: join_begun(thread, 60)


@pytest.mark.parametrize("kind", [news, futures, joining])
def test_a_signal_that_cuts_no_wait_short_is_seen(
    kind: Callable[[threading.Event], Callable[[], object]], stop: threading.Event
):
    wait = kind(stop)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), faults.ctrl_c_elsewhere(0.1):
        wait()
    assert time.monotonic() - began < 10


def test_results_in_order_or_the_first_error():
    done: list[Future[int]] = [Future() for _ in range(3)]
    for n in (2, 0, 1):
        threading.Timer(0.02 * n, done[n].set_result, (n,)).start()
    assert results_of(done) == [0, 1, 2]
    assert results_of([]) == []
    failed, open_one = Future[int](), Future[int]()
    threading.Timer(0.02, failed.set_exception, (ZeroDivisionError("by nought"),)).start()
    with pytest.raises(ZeroDivisionError):  # the other never ends
        results_of([open_one, failed])
