"""A plan says how the work is spread; it never changes the data."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from intune_gpu.core.placement import Placement

MAX_WORKERS = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """Worker counts and prefetch of a running loader.

    Attributes:
        readers: threads that decode chunks, 1 to `MAX_WORKERS`.
        transformers: threads that turn raw rows into batches, 1 to `MAX_WORKERS`.
        prefetch_bytes: bytes that may be in flight: decoded chunks, batches that nobody has taken, what workers
            need to make them, and idle memory that is kept warm.
        placement: the share of batches for which each group of features is made on the GPU; None makes all of them
            where batches come to stand, and a loader whose batches stay in host memory takes nothing else.
    """

    readers: int = 1
    transformers: int = 1
    prefetch_bytes: int = 512 << 20
    placement: Placement | None = None

    def __post_init__(self) -> None:
        for name in ("readers", "transformers", "prefetch_bytes"):
            count = getattr(self, name)
            if not isinstance(count, Integral):
                raise ValueError(f"Plan.{name}: expected a whole number, found {count!r}")
        for name in ("readers", "transformers"):
            count = getattr(self, name)
            if not 1 <= count <= MAX_WORKERS:
                raise ValueError(f"Plan.{name}: expected 1 to {MAX_WORKERS}, found {count!r}")
        if self.placement is not None and not isinstance(self.placement, Placement):
            raise ValueError(
                f'Plan.placement: expected a Placement, found {self.placement!r}; write Placement.of("gpu")'
            )
        if self.prefetch_bytes < 1:
            raise ValueError(f"Plan.prefetch_bytes: expected at least 1 byte, found {self.prefetch_bytes!r}")
