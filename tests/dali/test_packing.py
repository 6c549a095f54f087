"""Packed rows come back as they were, from the buffer and from a copy of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from intune_gpu.core.arrow import chunk_from_table
from intune_gpu.core.arrow_types import table_types
from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import RawBatch
from intune_gpu.dali.packing import number_of, pack, unpack, unpack_at
from intune_gpu.engine.gpu.program import GpuProgram
from intune_gpu.engine.program import Program
from tests import conformance
from tests.devices import HostDevice
from tests.test_loader import all_bytes


@pytest.mark.parametrize("rows", [(0, 1003), (17, 17), (17, 18), (5, 900)])
def test_there_and_back(rows: tuple[int, int]) -> None:
    recipe, pool = conformance.RECIPE, BufferPool()
    table = conformance.table()
    table = table.set_column(4, "word", table["word"].dictionary_encode())
    schema = table_types(table, recipe.columns, recipe.types)
    chunk = chunk_from_table(table, schema, recipe.label)
    raw = RawBatch(chunk.columns, chunk.rows).slice(*rows)
    program = Program(recipe, schema)
    want = all_bytes([program.run(raw)])
    packed = pack(raw, pool)
    assert number_of(packed.numbered(2**40)) == 2**40
    assert all_bytes([program.run(unpack(packed.buffer, packed))]) == want
    copied = np.concatenate((np.zeros(8, np.uint8), packed.buffer))[8:]  # elsewhere, and aligned otherwise
    device = HostDevice(eager=True)
    there = torch.from_numpy(copied)
    aligned = device.empty(there.nbytes)
    aligned.copy_(there)
    made = GpuProgram(program, device).run_at(unpack_at(packed, aligned.data_ptr()))
    assert all_bytes([made.batch]) == want
    packed.buffer[256:] = 0xFF
    assert all_bytes([program.run(unpack(copied, packed))]) == want
