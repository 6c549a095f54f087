"""Reads text, and moves its rows, in Numba's CUDA simulator: `NUMBA_ENABLE_CUDASIM=1 python -m ...`."""

from __future__ import annotations

import sys
from typing import Any

import numba
import numpy as np

from intune_gpu.engine.gpu.columns import DeviceRows
from intune_gpu.engine.gpu.rows import Mover
from intune_gpu.engine.gpu.text import TextOnDevice
from intune_gpu.kernels.launching import Kernel, grid
from tests.devices import HostDevice
from tests.engine.gpu.test_text import GOOD, NUMBERS, back, check_same, layout_of, on_cpu

LAUNCHED: set[str] = set()
TEXT = (GOOD + b"\n") * 3 + b"x\t1\n1\t\t12345678\t1e999\n\t\t\t\n0\t123456789012\tabc\t-2.5e-7\n" * 10


class SimulatedDevice(HostDevice):
    """Launches kernels in the simulator, with few blocks of few threads: each thread is one of Python's."""

    def launch(self, kernel: Kernel, rows: int, features: int, *arguments: Any) -> None:
        blocks, given = grid(kernel, rows, features), [np.int64(a) if isinstance(a, int) else a for a in arguments]
        LAUNCHED.add(kernel.name)
        self.transform(lambda: kernel.cuda[(2, min(blocks[1], 2)), 4](*given))


def main() -> int:
    """Compare; print what was launched."""
    assert numba.config.ENABLE_CUDASIM, "run with NUMBA_ENABLE_CUDASIM=1"
    device, layout, rows = SimulatedDevice(1), layout_of(NUMBERS), TEXT.count(b"\n")
    found = TextOnDevice(device, layout).parse(np.frombuffer(TEXT, np.uint8), rows, 1, "a.tsv")
    check_same(found, on_cpu(TEXT, layout, rows))
    numbers = np.arange(rows, dtype=np.int32)[::-2].copy()
    taken = Mover(device).take(DeviceRows(found.columns, 0, rows), numbers)
    device.mark().wait()
    for name, column in taken.columns.items():
        whole, part = back(found.columns[name]), back(column)
        np.testing.assert_array_equal(part.values, whole.values[numbers])
        assert whole.validity is not None
        assert part.validity is not None
        there = np.unpackbits(whole.validity, bitorder="little")[numbers]
        np.testing.assert_array_equal(np.unpackbits(part.validity, count=len(numbers), bitorder="little"), there)
    print("launched:", ", ".join(sorted(LAUNCHED)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
