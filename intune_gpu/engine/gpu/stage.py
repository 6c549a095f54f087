"""The transform stage of a loader whose batches come to stand on a device: what may be in flight, and handing over."""

from __future__ import annotations

from intune_gpu.core.errors import BudgetError
from intune_gpu.core.placement import Placement
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.program import GpuProgram, OnDevice
from intune_gpu.engine.program import Program
from intune_gpu.engine.state import Transform

SLOTS = 4
"""Slots of page-locked memory, each with its twin on the device."""
DEFAULT_SHARE = 0.25
"""Of the device's free memory, for a loader that was given no budget."""


class GpuStage:
    """Makes batches on a device within a budget of its bytes.

    Args:
        program: of the recipe.
        device: where batches come to stand.
        placement: where each group of features is made.
        batch_size: rows of a batch.
        raw_bytes: of a row, as it is packed.
        budget_bytes: device bytes for slots and for batches that nobody has taken; None for a quarter of what is free.

    Raises:
        BudgetError: the budget holds no two batches, one that is used and one that is made.
    """

    def __init__(
        self,
        program: Program,
        device: Device,
        placement: Placement,
        batch_size: int,
        raw_bytes: int,
        budget_bytes: int | None,
    ) -> None:
        self.device = device
        self.budget_bytes = int(device.free_bytes() * DEFAULT_SHARE) if budget_bytes is None else budget_bytes
        batch, slot = max(1, batch_size * program.row_nbytes), batch_size * raw_bytes
        least = 2 * batch + 2 * slot
        if self.budget_bytes < least:
            raise BudgetError(
                f"gpu_budget_bytes: expected at least {least} for two batches of {batch_size} rows and what they are "
                f"made of, found {self.budget_bytes}; raise it (in training: --gpu-budget-mib), or take a smaller "
                "batch_size"
            )
        slots = min(SLOTS, max(2, (self.budget_bytes - 2 * batch) // max(1, slot)))
        self.max_ahead = max(1, (self.budget_bytes - slots * slot) // batch - 1)
        self.program = GpuProgram(program, device, placement, slots)
        self._batch_bytes = batch + slot

    def transform(self) -> Transform[OnDevice]:
        """Return what the pipeline runs."""
        return Transform(
            self.program.run,
            lambda made: made.nbytes,
            self._batch_bytes,
            lambda made: len(made.batch.label),
            self.max_ahead,
        )

    def hand_over(self, made: OnDevice) -> Batch:
        """Return a batch that the caller's stream may use; the caller is not stopped."""
        made.mark.before_current_stream()
        for tensor in (made.batch.label, made.batch.sparse.lengths()):
            self.device.used_by_current_stream(tensor)  # a batch is one piece of memory, shared lengths another
        return made.batch
