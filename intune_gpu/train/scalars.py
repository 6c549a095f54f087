"""TensorBoard scalars, by tensorboard's own record writer: torch's pulls in much more, and takes seconds to import."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class Scalars:
    """Appends scalars to an event file in a run's folder; does nothing where tensorboard is not installed.

    Args:
        folder: of the run; None writes nothing.

    Attributes:
        available: whether they are written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.available = False
        if folder is None:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        self.available = True
        self._event: Any = Event
        self._summary: Any = Summary
        # TensorBoard reads files by this name, in the order of the time in it; a resumed run adds one.
        self._file = open(folder / f"events.out.tfevents.{time.time_ns() // 1_000_000}.intune_gpu", "xb")  # noqa: SIM115
        self._records: Any = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def __enter__(self) -> Scalars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Append values of one step; a None is left out."""
        if not self.available:
            return
        known = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value is not None]
        self._write(step=step, summary=self._summary(value=known))
        self._records.flush()

    def close(self) -> None:
        """Close the file. May be called more than once."""
        if self.available:
            self._file.close()

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
