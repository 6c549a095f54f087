"""What docs/dali.md says of DALI's dynamic mode: good beside a Loader, and no place for a recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import nvidia.dali.experimental.dynamic as ndd
import pyarrow.parquet as pq
import torch

import intune_gpu as ig
from tests import conformance


def test_pictures_beside_a_loaders_batches(tmp_path: Path) -> None:
    pq.write_table(conformance.table(), tmp_path / "t.parquet")
    recipe = ig.Recipe("label", dense={"row": [ig.FillMissing(0)]})
    seen = 0
    with ig.Loader(tmp_path, recipe, batch_size=400, shuffle=True, device="cpu") as loader:
        for batch in loader:
            rows = batch.dense[:, 0].int().tolist()
            pictures = ndd.as_batch([np.full((6, 6, 3), row % 256, np.uint8) for row in rows])
            resized = ndd.resize(pictures, size=[3, 3])
            made = torch.stack([torch.from_numpy(np.array(one)) for one in resized.tensors])
            assert made.shape == (len(batch), 3, 3, 3)
            assert made[:, 0, 0, 0].tolist() == [row % 256 for row in rows]
            seen += len(batch)
    assert seen == conformance.ROWS


def test_there_is_no_operator_in_python() -> None:
    assert hasattr(ndd, "resize")
    for name in ("python_function", "numba_function", "dl_tensor_python_function"):
        assert not hasattr(ndd, name)
