"""Faults that are put where the product has a seam for them: the steps of the workers, and the file system."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import fsspec

import intune_gpu as ig
from intune_gpu.core.columns import Chunk, RawBatch
from intune_gpu.core.source import HalfRead
from intune_gpu.engine.gather import OrderedWindow
from intune_gpu.engine.order import Run
from intune_gpu.engine.pipeline import Pipeline
from intune_gpu.loader import Loader

R = TypeVar("R")

STEPS = {"begin": "read", "decode": "read", "order": "read", "gather": "transform", "transform": "transform"}
"""Every step of a worker, and the stage that an error in it names."""


@dataclass
class Fault:
    """A `Step` that goes wrong at the `at`-th time that it is called for `name`.

    Attributes:
        name: of the step.
        at: how many times it goes well.
        error: what it raises; None raises nothing.
        cut: whether it returns less than was made.
        stall: what it waits for before it goes on; None waits for nothing.
        spared: numbers of chunks or batches that nothing happens to, in whatever order threads come by.
        number: of the chunk or batch that it met.
        reached: set once it is there.
    """

    name: str
    at: int = 0
    error: Exception | None = None
    cut: bool = False
    stall: threading.Event | None = None
    spared: frozenset[int] = frozenset()
    number: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, name: str, number: int, work: Callable[[], R]) -> R:
        made = work() if self.cut else None
        if isinstance(made, bool):  # it holds no rows: not one of the steps that can be cut short
            return made
        with self._lock:
            counted = name == self.name and number not in self.spared
            here = counted and self.number is None and self.at == 0
            self.at -= counted
            if here:
                self.number = number
        if made is not None:
            return cut_short(made) if here else made
        if not here:
            return work()
        self.reached.set()
        if self.stall is not None:
            assert self.stall.wait(60)
        if self.error is not None:
            raise self.error
        return work()


def cut_short(made: Any) -> Any:
    """Return the same without its last row."""
    if isinstance(made, Chunk | RawBatch):
        columns = {name: column.slice(0, made.rows - 1) for name, column in made.columns.items()}
        return replace(made, columns=columns, rows=made.rows - 1)
    if isinstance(made, HalfRead):
        return replace(made, finish=lambda: cut_short(made.finish()))
    if isinstance(made, OrderedWindow):
        return replace(made, raw=cut_short(made.raw))
    assert isinstance(made, ig.Batch)
    return replace(made, label=made.label[:-1])


class FaultyLoader(Loader):
    """A loader whose workers go through `step`; without one they do as they always do."""

    step: Fault | None = None

    def _pipeline(self, run: Run) -> Pipeline[ig.Batch]:
        if self.step is None:
            return super()._pipeline(run)
        return Pipeline(self._source, run, self._transform, self._plan, self._clocks, self._pool, self.step)


@contextmanager
def ctrl_c_elsewhere(after_s: float, reached: threading.Event | None = None) -> Iterator[None]:
    """Send Ctrl-C that cuts no wait of the main thread short: another thread gets it, as the kernel may decide.

    Args:
        after_s: how long behind `reached`.
        reached: by default the beginning.
    """

    def send() -> None:
        if reached is not None:
            assert reached.wait(30)
            time.sleep(after_s)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    timer = threading.Timer(after_s if reached is None else 0.0, send)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


class FaultyFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Files in memory, `faulty://name`; the read number `at` of their bytes goes wrong.

    Attributes:
        files: what they hold.
        reads: so far.
        at: the one that goes wrong; None for none.
        kind: `"error"`, `"stall"`, `"short"` (half of what is there, and from then on the end of the file), or
            `"partial"` (half of it, as a file may give; the next read goes on).
        stall: what a stalled read waits for.
        reached: set once it stalls.
    """

    protocol = "faulty"
    cachable = False
    files: ClassVar[dict[str, bytes]] = {}
    reads: ClassVar[int] = 0
    at: ClassVar[int | None] = None
    kind: ClassVar[str] = "error"
    ended: ClassVar[bool] = False
    stall: ClassVar[threading.Event] = threading.Event()
    reached: ClassVar[threading.Event] = threading.Event()
    _counting: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def set(cls, at: int | None, kind: str = "error") -> None:
        """Forget what was, and fail in read number `at`."""
        cls.reads, cls.at, cls.kind, cls.ended = 0, at, kind, False
        cls.stall, cls.reached = threading.Event(), threading.Event()

    @classmethod
    def answer(cls, data: bytes, *, partial_ok: bool) -> bytes:
        """Return the data that a read asked for, or do what was set."""
        with cls._counting:
            here, cls.reads = cls.reads == cls.at, cls.reads + 1
            if cls.ended:
                return b""
            cls.ended = here and cls.kind == "short"
        if here and cls.kind == "error":
            raise OSError("the disk is on fire")
        if here and cls.kind == "stall":
            cls.reached.set()
            assert cls.stall.wait(60)
        return data[: len(data) // 2] if here and (cls.ended or (cls.kind == "partial" and partial_ok)) else data

    def info(self, path: str, **rest: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        if name not in self.files:
            raise FileNotFoundError(name)
        return {"name": name, "size": len(self.files[name]), "type": "file", "mtime": 1.0}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **rest: Any) -> bytes:
        return self.answer(self.files[self._strip_protocol(path)][start:end], partial_ok=False)

    def _open(self, path: str, mode: str = "rb", **rest: Any) -> FaultyFile:
        return FaultyFile(self.files[self._strip_protocol(path)])


class FaultyFile(io.BytesIO):
    """An open one of these."""

    def read(self, size: int | None = -1) -> bytes:
        place, data = self.tell(), super().read(size)
        given = FaultyFileSystem.answer(data, partial_ok=size is not None and size >= 0)
        self.seek(place + len(given))
        return given

    def readinto(self, target: Any) -> int:
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)


def register() -> None:
    """Let fsspec know `faulty://`."""
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
