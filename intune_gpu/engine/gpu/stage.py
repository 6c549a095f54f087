"""The transform stage of a loader whose batches come to stand on a device: what may be in flight, and handing over."""

from __future__ import annotations

import threading
from dataclasses import replace

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import RawBatch
from intune_gpu.core.errors import BudgetError
from intune_gpu.core.placement import ALL_ON_CPU, ALL_ON_GPU, Placement
from intune_gpu.core.plan import Plan
from intune_gpu.core.source import Source
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.budget import Seen
from intune_gpu.engine.gpu.columns import DeviceRows
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.keeping import TextKeeping, stays
from intune_gpu.engine.gpu.program import GpuProgram, OnDevice
from intune_gpu.engine.gpu.sharing import TEXT, PlacedText, run_anywhere
from intune_gpu.engine.keeping import InHostMemory, Keeping
from intune_gpu.engine.program import Program
from intune_gpu.engine.state import Transform

SLOTS = 4
"""Slots of page-locked memory, each with its twin on the device."""
DEFAULT_SHARE = 0.25
"""Of the device's free memory, for a loader that was given no budget."""
PARSERS = 3
"""Chunks of text that are on their way to the device at once."""
PARSER_SHARE = 3
"""What reading a chunk takes on the device besides its columns, in their bytes: its text, and scratch."""


class GpuStage:
    """Makes batches on a device within a budget of its bytes.

    Args:
        program: of the recipe.
        device: where batches come to stand.
        placement: where each group of features is made.
        batch_size: rows of a batch.
        source: of the rows. Text that a device can read is a group of its own, "text", for a placement.
        budget_bytes: device bytes for slots, for batches that nobody has taken, and for text; None for a quarter of
            what is free.

    Raises:
        BudgetError: the budget holds no two batches, one that is used and one that is made.
        ValueError: the placement names a group that is not there.
    """

    def __init__(
        self,
        program: Program,
        device: Device,
        placement: Placement,
        batch_size: int,
        source: Source,
        budget_bytes: int | None,
    ) -> None:
        self.device = device
        self.budget_bytes = int(device.free_bytes() * DEFAULT_SHARE) if budget_bytes is None else budget_bytes
        batch, slot = max(1, batch_size * program.row_nbytes), batch_size * source.row_nbytes
        least = 2 * batch + 2 * slot
        if self.budget_bytes < least:
            raise BudgetError(
                f"gpu_budget_bytes: expected at least {least} for two batches of {batch_size} rows and what they are "
                f"made of, found {self.budget_bytes}; raise it (in training: --gpu-budget-mib), or take a smaller "
                "batch_size"
            )
        self.text_stays = stays(source, program)
        for_text = 0 if self.text_stays else self.budget_bytes - max(least, self.budget_bytes // 2)
        own = self.budget_bytes - for_text
        slots = min(SLOTS, max(2, (own - 2 * batch) // max(1, slot)))
        self._own_bytes, self._slots_bytes = own, slots * slot
        self._batch, self._weighing = Seen(batch), threading.Lock()
        self.program = GpuProgram(program, device, ALL_ON_GPU, slots)
        self._batch_bytes = batch + slot
        self._text: TextKeeping | None = None
        self._read_there = ALL_ON_CPU  # where text is read: what a placement says of it, while there is room
        if not self.text_stays:
            largest = max((info.nbytes for info in source.chunks), default=0)
            self._text_room = for_text - PARSERS * PARSER_SHARE * largest
            self._text = TextKeeping(device, source, PARSERS)
        self._check(placement)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, as a placement names them."""
        return self.program.groups + (() if self._text is None else (TEXT,))

    def apply(self, plan: Plan, least_bytes: int) -> Plan:
        """Make features, and read text, where a plan wants it from now on; return the plan with what that leaves.

        Rows of text that are on the device are counted as rows in host memory are, so that a budget of the device below
        `prefetch_bytes` takes its place.

        Args:
            plan: what was asked for.
            least_bytes: what its workers need at least; text is read on the CPU where the device has no room for it.

        Raises:
            ValueError: the placement names a group that is not there.
        """
        placement = plan.placement or ALL_ON_GPU
        self._check(placement)
        self.program.placement = Placement(placement.everywhere, tuple(g for g in placement.groups if g[0] != TEXT))
        fits = self._text is not None and self._text_room >= least_bytes
        self._read_there = placement if fits else ALL_ON_CPU
        if self._read_there.share(TEXT) == 0.0:
            return plan
        return replace(plan, prefetch_bytes=min(plan.prefetch_bytes, self._text_room))

    def keeping(self, pool: BufferPool) -> Keeping:
        """Return where rows are kept."""
        here = InHostMemory(pool)
        return here if self._text is None else PlacedText(here, self._text, lambda: self._read_there)

    def _check(self, placement: Placement) -> None:
        unknown = {name for name, _ in placement.groups} - set(self.groups)
        if not unknown:
            return
        why = f" ({TEXT}: {self.text_stays})" if TEXT in unknown else ""
        raise ValueError(
            f"placement: expected groups out of {', '.join(self.groups)}, found {', '.join(sorted(unknown))}{why}"
        )

    def transform(self) -> Transform[OnDevice]:
        """Return what the pipeline runs."""
        return Transform(
            run_anywhere(self.program),
            self._weighed,
            self._batch_bytes,
            lambda made: len(made.batch.label),
            self.max_ahead,
            window_bytes=self._window_bytes,
            kept_bytes=lambda: max(self._slots_bytes, self.program.slots_bytes),
        )

    def max_ahead(self) -> int:
        """Return how many batches may be begun and not taken: as many of the largest of late as the budget holds."""
        room = self._own_bytes - max(self._slots_bytes, self.program.slots_bytes)
        return max(1, room // int(self._batch.value) - 1)

    def _window_bytes(self, raw: RawBatch | DeviceRows) -> int:
        return self.program.program.window_bytes(raw) if isinstance(raw, RawBatch) else 0

    def _weighed(self, made: OnDevice) -> int:
        with self._weighing:
            self._batch.add(made.nbytes)
        return made.nbytes

    def hand_over(self, made: OnDevice) -> Batch:
        """Return a batch that the caller's stream may use; the caller is not stopped."""
        made.mark.before_current_stream()
        for tensor in (made.batch.label, made.batch.sparse.lengths()):
            self.device.used_by_current_stream(tensor)  # a batch is one piece of memory, shared lengths another
        return made.batch
