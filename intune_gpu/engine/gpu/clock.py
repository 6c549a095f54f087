"""How long a stream of a device worked: events around its work, read once they are past, never waited for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

READ_FROM = 16
"""Finished pieces of work are summed up when so many are kept, and when somebody asks."""


class Event(Protocol):
    """A timed moment on a stream, as `torch.cuda.Event(enable_timing=True)`."""

    def query(self) -> bool:
        """Whether the stream has come to it."""
        ...

    def elapsed_time(self, end: Any, /) -> float:
        """Return milliseconds to a later one; both are past."""
        ...


E = TypeVar("E", bound=Event)


class StreamClock(Generic[E]):
    """Sums up how long one stream worked. Pieces of work of several threads that overlap are one piece.

    Args:
        record: puts an event, a used one or a new one for None, behind everything that the stream was given.
    """

    def __init__(self, record: Callable[[E | None], E]) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._working: set[int] = set()  # threads that have begun a piece
        self._begin: E | None = None
        self._pieces: deque[tuple[E, E]] = deque()
        self._unused: list[E] = []
        self._sum_s = 0.0

    def begin(self) -> None:
        """Note that the calling thread gives work to the stream from now on; nothing, where it does already."""
        with self._lock:
            if not self._working:
                self._begin = self._event()
            self._working.add(threading.get_ident())

    def end(self) -> None:
        """Note that the calling thread has given all its work; nothing, where it had not begun."""
        with self._lock:
            self._working.discard(threading.get_ident())
            if self._working or self._begin is None:
                return
            self._pieces.append((self._begin, self._event()))
            self._begin = None
            if len(self._pieces) >= READ_FROM:
                self._read()

    def seconds(self) -> float:
        """Return how long the stream worked on pieces that are past."""
        with self._lock:
            self._read()
            return self._sum_s

    def _event(self) -> E:
        return self._record(self._unused.pop() if self._unused else None)

    def _read(self) -> None:
        while self._pieces and self._pieces[0][1].query():
            begin, end = self._pieces.popleft()
            self._sum_s += begin.elapsed_time(end) / 1e3
            self._unused += [begin, end]
