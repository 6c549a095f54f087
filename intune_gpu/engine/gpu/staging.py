"""Page-locked memory on the way to a device: a ring of slots, each with its twin on the device."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from intune_gpu.core.buffers import size_class
from intune_gpu.engine.gpu.device import Device, Mark


@dataclass(eq=False, slots=True)
class Slot:
    """Memory for what one batch takes over.

    Attributes:
        host: (nbytes,) uint8, page-locked.
        there: (nbytes,) uint8 on the device.
        free_after: when the device has read it; None if nobody used it yet.
        array: `host`, for NumPy.
        host_address, there_address: of the first byte.
    """

    host: torch.Tensor
    there: torch.Tensor
    free_after: Mark | None = None
    array: npt.NDArray[np.uint8] = field(init=False)
    host_address: int = field(init=False)
    there_address: int = field(init=False)

    def __post_init__(self) -> None:
        self.array = self.host.numpy()
        self.host_address, self.there_address = self.host.data_ptr(), self.there.data_ptr()


class Ring:
    """Slots that are lent to one batch at a time, each for as long as the device reads it.

    Args:
        device: whose.
        count: slots at most: one a thread that packs, and one or two more, so that copies run beside packing.

    Attributes:
        held_bytes: of all slots, lent or not; of each side.
    """

    def __init__(self, device: Device, count: int) -> None:
        self._device = device
        self._count = count
        self._idle: list[Slot] = []  # in the order in which they were given back, so that the first is free first
        self._lent = 0
        self.held_bytes = 0
        self._changed = threading.Condition()

    @property
    def nbytes(self) -> int:
        """Bytes on the device of the slots that nobody holds."""
        with self._changed:
            return sum(slot.there.nbytes for slot in self._idle)

    def take(self, nbytes: int) -> Slot:
        """Return a slot of at least so many bytes whose last batch is through; wait for one, if all are lent.

        Raises:
            DeviceMemoryError: the device has no room for a larger one.
        """
        with self._changed:
            while self._lent >= self._count:
                self._changed.wait()
            self._lent += 1
            slot = self._idle.pop(0) if self._idle and self._lent + len(self._idle) > self._count else self._ready()
        try:
            if slot is not None and slot.free_after is not None:
                slot.free_after.wait()
            if slot is None or slot.there.nbytes < nbytes:
                size = size_class(nbytes)
                self._count_bytes(0 if slot is None else -slot.there.nbytes)
                slot = None  # its memory first
                slot = Slot(self._device.pinned(size), self._device.empty(size))
                self._count_bytes(size)
                # The memory may be another batch's that was let go, on which the transform stream still works: copies,
                # which go on a stream of their own, would not wait for that.
                self._device.mark().wait()
        except BaseException:
            with self._changed:
                self._lent -= 1
                self._changed.notify()
            raise
        return slot

    def _count_bytes(self, more: int) -> None:
        with self._changed:
            self.held_bytes += more

    def _ready(self) -> Slot | None:
        """Return an idle slot that need not be waited for."""
        for i, slot in enumerate(self._idle):
            if slot.free_after is None or slot.free_after.reached():
                return self._idle.pop(i)
        return None

    def give_back(self, slot: Slot, free_after: Mark | None) -> None:
        """Take a slot back; the next batch uses it after the mark."""
        slot.free_after = free_after
        with self._changed:
            self._lent -= 1
            self._idle.append(slot)
            self._changed.notify()
