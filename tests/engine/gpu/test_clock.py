"""How long streams worked, on streams that are late, reordered and shared by threads."""

from __future__ import annotations

import threading

from intune_gpu.engine.gpu.clock import READ_FROM, StreamClock
from tests.devices import HostDevice, HostEvent


class Stream:
    """A stream whose time is set by hand; an event is past once `now` was called on it."""

    def __init__(self) -> None:
        self.time_ms = 0
        self.made: list[HostEvent] = []
        self.waiting: list[HostEvent] = []
        self.clock = StreamClock(self.record)

    def record(self, used: HostEvent | None) -> HostEvent:
        event = used or HostEvent()
        if used is None:
            self.made.append(event)
        event.at_ms = None
        self.waiting.append(event)
        return event

    def pass_by(self, ms: int) -> None:
        """Let the oldest event be past, so long after the one before it."""
        self.time_ms += ms
        self.waiting.pop(0).at_ms = self.time_ms


def test_only_what_is_past_counts() -> None:
    stream = Stream()
    stream.clock.begin()
    stream.pass_by(5)
    stream.clock.end()
    assert stream.clock.seconds() == 0.0
    stream.pass_by(30)
    assert stream.clock.seconds() == 0.03
    assert stream.clock.seconds() == 0.03


def test_idle_time_between_pieces_does_not_count_and_events_are_used_again() -> None:
    stream = Stream()
    for _ in range(100):
        stream.clock.begin()
        stream.clock.end()
        stream.pass_by(1000)  # idle
        stream.pass_by(2)
        stream.clock.seconds()
    assert round(stream.clock.seconds(), 9) == 0.2
    assert len(stream.made) == 2


def test_nobody_asking_keeps_few_events() -> None:
    stream = Stream()
    for _ in range(100):
        stream.clock.begin()
        stream.clock.end()
        stream.pass_by(0)
        stream.pass_by(1)
    assert len(stream.made) <= 2 * READ_FROM
    assert round(stream.clock.seconds(), 9) == 0.1


def test_pieces_of_several_threads_that_overlap_are_one() -> None:
    stream = Stream()
    stream.clock.begin()
    stream.clock.begin()
    other = threading.Thread(target=lambda: (stream.clock.begin(), stream.clock.end()))
    other.start()
    other.join()
    stream.clock.end()
    stream.clock.end()
    assert len(stream.waiting) == 2
    stream.pass_by(1)
    stream.pass_by(10)
    assert stream.clock.seconds() == 0.01


def test_an_end_without_a_beginning_is_nothing() -> None:
    stream = Stream()
    stream.clock.end()
    assert stream.waiting == []


def test_a_device_tells_its_copies_and_its_work_and_waits_for_neither() -> None:
    device = HostDevice(5)
    there, host = device.empty(256), device.pinned(256)
    for _ in range(4):
        device.copy(there, host)
        for _ in range(3):
            device.transform(lambda: there.add_(1))
        mark = device.mark()
    before = device.done
    device.times()
    assert device.done == before
    mark.wait()
    times = device.times()
    assert times.gpu_copy_s == 4e-3
    assert times.gpu_transform_s == 12e-3
