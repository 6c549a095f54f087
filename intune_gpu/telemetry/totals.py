"""From two pictures of a running loader to what happened between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from intune_gpu.core.signals import StageSignals


class Totals(Protocol):
    """What a loader has done since it was made, and what it holds now; `engine.stages.LoaderStats` explains each."""

    @property
    def rows(self) -> int: ...  # noqa: D102 (explained there)
    @property
    def exposed_wait_s(self) -> float: ...  # noqa: D102
    @property
    def read_rows(self) -> int: ...  # noqa: D102
    @property
    def read_busy_s(self) -> float: ...  # noqa: D102
    @property
    def read_wait_s(self) -> float: ...  # noqa: D102
    @property
    def transform_rows(self) -> int: ...  # noqa: D102
    @property
    def transform_busy_s(self) -> float: ...  # noqa: D102
    @property
    def transform_wait_s(self) -> float: ...  # noqa: D102
    @property
    def readers(self) -> int: ...  # noqa: D102
    @property
    def transformers(self) -> int: ...  # noqa: D102
    @property
    def ready_windows(self) -> int: ...  # noqa: D102
    @property
    def ready_batches(self) -> int: ...  # noqa: D102
    @property
    def in_flight_bytes(self) -> int: ...  # noqa: D102
    @property
    def prefetch_bytes(self) -> int: ...  # noqa: D102
    @property
    def gpu_transform_s(self) -> float | None: ...  # noqa: D102
    @property
    def gpu_copy_s(self) -> float | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Happened:
    """What a loader did between two pictures of it. Nothing is below zero, whatever the pictures say.

    Attributes:
        rows: given out.
        wait_s: time in which the consumer stood waiting.
        read: the readers.
        transform: the transformers.
        gpu_transform_s: of the GPU's transform stream; None where there is none.
        gpu_copy_s: of its copy stream, likewise.
    """

    rows: int
    wait_s: float
    read: StageSignals
    transform: StageSignals
    gpu_transform_s: float | None
    gpu_copy_s: float | None

    @classmethod
    def between(cls, before: Totals, now: Totals) -> Happened:
        """Subtract an earlier picture from a later one of the same loader."""
        return cls(
            rows=max(0, now.rows - before.rows),
            wait_s=max(0.0, now.exposed_wait_s - before.exposed_wait_s),
            read=StageSignals(
                rows=max(0, now.read_rows - before.read_rows),
                busy_s=max(0.0, now.read_busy_s - before.read_busy_s),
                wait_s=max(0.0, now.read_wait_s - before.read_wait_s),
                workers=now.readers,
            ),
            transform=StageSignals(
                rows=max(0, now.transform_rows - before.transform_rows),
                busy_s=max(0.0, now.transform_busy_s - before.transform_busy_s),
                wait_s=max(0.0, now.transform_wait_s - before.transform_wait_s),
                workers=now.transformers,
            ),
            gpu_transform_s=_since(before.gpu_transform_s, now.gpu_transform_s),
            gpu_copy_s=_since(before.gpu_copy_s, now.gpu_copy_s),
        )


def _since(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else max(0.0, now - before)
