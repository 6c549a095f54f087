"""Groups with an op that has no CUDA form are made on the CPU, whatever the placement says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

import intune_gpu as ig
from intune_gpu.core.arrow import chunk_from_table
from intune_gpu.core.arrow_types import table_types
from intune_gpu.core.columns import RawBatch
from intune_gpu.engine.gpu import masks
from intune_gpu.engine.gpu.program import GpuProgram
from intune_gpu.engine.program import Program
from tests.devices import HostDevice

TABLE = pa.table(
    {
        "y": [0, 1, 1],
        "a": pa.array([1, None, 3], pa.int32()),
        "l": pa.array([[1, 2], None, []], pa.list_(pa.int64())),
    }
)
RECIPE = ig.Recipe(
    label="y",
    dense={"log": [ig.Column("a"), ig.FillMissing(0), ig.Log1p()], "clip": [ig.Column("a"), ig.FillMissing(0)]},
    sparse={
        "hash": [ig.Column("a"), ig.HashBucket(9)],
        "modulo": [ig.Column("a"), ig.Modulo(3)],
        "list": [ig.Column("l"), ig.FirstK(1), ig.HashBucket(9)],
        "cross": [ig.Cross(["a", "y"], 9)],
        "bins": [ig.Column("a"), ig.FillMissing(0), ig.Bucketize([1, 2])],
    },
)
LACKING = {
    ig.Log1p: {"dense int32 fill_missing+log1p"},
    ig.FillMissing: {"dense int32 fill_missing+log1p", "dense int32 fill_missing", "bins bins"},
    ig.HashBucket: {"hash int32", "list list"},
    ig.Modulo: {"modulo int32"},
    ig.FirstK: {"list list"},
    ig.Cross: {"crosses"},
    ig.Bucketize: {"bins bins"},
}


def program() -> Program:
    return Program(RECIPE, table_types(TABLE, RECIPE.columns, RECIPE.types))


def test_every_op_has_a_cuda_form() -> None:
    assert masks.without_cuda(program()) == frozenset()


@pytest.mark.parametrize("op", LACKING, ids=lambda op: op.__name__)
def test_a_type_is_masked(op: type, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_ops = tuple(kind for kind in masks.CUDA_OPS if kind is not op)
    assert masks.without_cuda(program(), cuda_ops) == LACKING[op]
    monkeypatch.setattr(masks.without_cuda, "__defaults__", (cuda_ops,))
    chunk = chunk_from_table(TABLE, table_types(TABLE, RECIPE.columns, RECIPE.types), "y")
    raw, device, whole = RawBatch(chunk.columns, chunk.rows), HostDevice(), HostDevice()
    made = GpuProgram(program(), device, ig.Placement.of("gpu")).run(raw)
    made.mark.wait()
    expected = program().run(raw)
    assert torch.equal(made.batch.dense, expected.dense)
    assert torch.equal(made.batch.sparse.values(), expected.sparse.values())
    monkeypatch.undo()
    GpuProgram(program(), whole, ig.Placement.of("gpu")).run(raw).mark.wait()
    assert len(device.launches) < len(whole.launches)


def test_a_column_on_the_device_needs_a_cuda_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks.without_cuda, "__defaults__", (tuple(k for k in masks.CUDA_OPS if k is not ig.Modulo),))
    chunk = chunk_from_table(TABLE, table_types(TABLE, RECIPE.columns, RECIPE.types), "y")
    there = {"a": torch.from_numpy(np.array([1, 2, 3], np.int32))}
    with pytest.raises(ig.RecipeError, match="column 'a': expected ops that a GPU can do for a column on the device"):
        GpuProgram(program(), HostDevice()).run(RawBatch(chunk.columns, chunk.rows), there)


def test_columns_on_the_device_are_read_there() -> None:
    """What stands in host memory for them is never looked at."""
    chunk = chunk_from_table(TABLE, table_types(TABLE, RECIPE.columns, RECIPE.types), "y")
    there = {"a": torch.from_numpy(np.array([7, 8, 9], np.int32))}
    made = GpuProgram(program(), HostDevice()).run(RawBatch(chunk.columns, chunk.rows), there)
    made.mark.wait()
    other = TABLE.set_column(1, "a", pa.array([7, 8, 9], pa.int32()))
    expected = ig.transform(other, RECIPE)
    assert torch.equal(made.batch.dense, expected.dense)
    assert torch.equal(made.batch.sparse.values(), expected.sparse.values())
