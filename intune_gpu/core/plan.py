"""A plan says how the work is spread; it never changes the data."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

MAX_WORKERS = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """Worker counts and prefetch of a running loader.

    Attributes:
        readers: threads that decode chunks, 1 to `MAX_WORKERS`.
        transformers: threads that turn raw rows into batches, 1 to `MAX_WORKERS`.
        prefetch_bytes: bytes that may be in flight: decoded chunks and finished batches that nobody has taken.
    """

    readers: int = 1
    transformers: int = 1
    prefetch_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        for name in ("readers", "transformers", "prefetch_bytes"):
            count = getattr(self, name)
            if not isinstance(count, Integral):
                raise ValueError(f"Plan.{name}: expected a whole number, found {count!r}")
        for name in ("readers", "transformers"):
            count = getattr(self, name)
            if not 1 <= count <= MAX_WORKERS:
                raise ValueError(f"Plan.{name}: expected 1 to {MAX_WORKERS}, found {count!r}")
        if self.prefetch_bytes < 1:
            raise ValueError(f"Plan.prefetch_bytes: expected at least 1 byte, found {self.prefetch_bytes!r}")
