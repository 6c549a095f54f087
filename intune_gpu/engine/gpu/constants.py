"""What a group's kernels read and no batch changes: parameters in the memory of a device, uploaded once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.groups import IdGroup, NumericGroup, Whole

ALIGNMENT = 256


class Constants:
    """Arrays in one piece of device memory, and a table of words in front that points to them.

    Args:
        device: where they go.
        words: Python ints stand as they are; of arrays, the address.

    Attributes:
        address: of the table.
        arrays: addresses of the arrays, in order.
    """

    def __init__(self, device: Device, words: Sequence[int | npt.NDArray[Any]]) -> None:
        place, places = -(-8 * len(words) // ALIGNMENT) * ALIGNMENT, []
        for word in words:
            places.append(place)
            place += 0 if isinstance(word, int) else -(-max(word.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        self._memory = device.empty(place)
        base, host = self._memory.data_ptr(), np.zeros(place, np.uint8)
        table = host[: 8 * len(words)].view(np.int64)
        for i, (word, begin) in enumerate(zip(words, places, strict=True)):
            if isinstance(word, int):
                table[i] = word
            else:
                table[i] = base + begin
                host[begin : begin + word.nbytes] = np.frombuffer(word.tobytes(), np.uint8)
        _upload_to(device, self._memory, host)
        self.address = base
        self.arrays = [base + begin for word, begin in zip(words, places, strict=True) if not isinstance(word, int)]


def _upload_to(device: Device, memory: torch.Tensor, host: npt.NDArray[np.uint8]) -> None:
    source = device.upload(torch.from_numpy(host))  # complete when this returns
    device.transform(lambda: memory.copy_(source))
    device.mark().wait()


class Uploads:
    """Copies of host arrays on a device, each for as long as the array lives; safe to use from many threads.

    Args:
        device: where they go.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._known: dict[int, tuple[weakref.ref[Any], torch.Tensor]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Copies that are kept."""
        return len(self._known)

    def of(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """Return (bytes,) uint8 on the device; nobody writes into the array any more."""
        key = id(array)
        with self._lock:
            known = self._known.get(key)
            if known is None:
                there = self.device.upload(torch.from_numpy(array.view(np.uint8)))
                # The array's end takes it out before another can get its id; `pop` is no Python code to interrupt.
                known = self._known[key] = weakref.ref(array, partial(self._known.pop, key)), there
            return known[1]


def of_numbers(device: Device, group: NumericGroup, which: Whole, width: int) -> Constants:
    """Upload what `kernels.dense_cuda` describes.

    Args:
        device: where it goes.
        group: of chains.
        which: (features, 2), as `group.which` gave it.
        width: floats of a row of the matrix it writes into.
    """
    features = len(group.columns)
    whole = width == features and all(which[:, 1] == np.arange(features))
    return Constants(device, [features, width, int(whole), which, group.params, group.borders, group.spans])


def of_ids(device: Device, group: IdGroup, which: Whole) -> Constants:
    """Upload what `kernels.hashing_cuda` describes; `which` is (features,), as `group.which` gave it."""
    return Constants(device, [len(group.columns), group.parameters, which])


def of_words(device: Device, which: Whole) -> Constants:
    """Upload a group of columns whose ids are words of crosses: it has no parameters."""
    return Constants(device, [len(which), 0, which])


def of_crosses(device: Device, parameters: npt.NDArray[np.uint64], words: Sequence[Sequence[int]]) -> Constants:
    """Upload crosses.

    Args:
        device: where it goes.
        parameters: (F, 3) uint64.
        words: of each cross the rows of the words it takes, in its order.
    """
    bounds = np.cumsum([0, *(len(one) for one in words)]).astype(np.int64)
    flat = np.array([word for one in words for word in one], np.int64)
    return Constants(device, [len(words), parameters, flat, bounds])
