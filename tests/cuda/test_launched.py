"""Kernels of `kernels/*_cuda.py` run by the PTX interpreter: shared memory, barriers, and no access out of bounds."""

from __future__ import annotations

import numpy as np
import pytest

from intune_gpu.kernels.launching import THREADS
from tests.cuda import ptx
from tests.cuda.comparing import dense_cpu, distinct, interpreted
from tests.cuda.kernels import LAUNCHED, Kernel
from tests.cuda.ptx_memory import Memory

RULES = ("fill_missing", "clip_min", "log1p")
DENSE = [k for k in LAUNCHED if k.name.startswith("dense_fill_missing_clip_min_log1p_")]
PARAMETERS = np.array([[0.5, -0.5], [2.0, 0.0], [-7.0, -1.0]], np.float32)


@pytest.mark.parametrize("rows", [1, 3, 255, 256, 257, 1000])
@pytest.mark.parametrize("kernel", DENSE, ids=lambda kernel: kernel.name)
def test_dense_kernel_fills_its_matrix(kernel: Kernel, rows: int, rng: np.random.Generator) -> None:
    """Three columns; buffers end where they end, so that reading or writing a value too far is an error."""
    dtype = np.dtype(kernel.name.rsplit("_", 1)[1])
    values = [(rng.normal(0, 50, rows)).astype(dtype) for _ in range(3)]
    missing = [(rng.random(rows) < 0.2).astype(np.uint8) for _ in range(3)]
    for capability in distinct(kernel):
        memory = Memory(1 << 20)
        bits = [memory.put(np.packbits(m == 0, bitorder="little")) for m in missing]
        columns = np.array([[memory.put(v), b, 0, 0] for v, b in zip(values, bits, strict=True)], np.int64)
        which = memory.put(np.array([[i, i] for i in range(3)], np.int64))
        group = memory.put(np.array([3, 3, 1, which, memory.put(PARAMETERS), 0, 0], np.int64))
        out = memory.put(np.zeros((rows, 3), np.float32))
        arguments = (group, memory.put(columns), rows, out, dtype.type(0))
        ptx.launch(interpreted(kernel, capability), memory, arguments, (2,), (THREADS,))
        found = memory.get(out, np.float32, 3 * rows).reshape(rows, 3)
        for i in range(3):
            none = np.zeros(0, np.float32)
            expected = dense_cpu(RULES, values[i], missing[i], PARAMETERS[i], none)
            assert (found[:, i].view(np.uint32) == expected.view(np.uint32)).all()
