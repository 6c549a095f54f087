"""Two processes, as in distributed training: disjoint rows, equal batch counts, together the rows of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import intune_gpu as ig

pytest.importorskip("torch")

ROWS, BATCH = 2_003, 64
RECIPE = ig.Recipe(label="label", sparse={"row": [ig.Modulo(1_000_000)]})

RANK = """
import sys
from pathlib import Path
import numpy as np
import torch
import torch.distributed as dist
import torchrec  # ahead of the process group, as the README says
import intune_gpu as ig

data, recipe, store, rank, out = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
with ig.Loader(
    data, ig.Recipe.load(recipe), batch_size=%d, shuffle=True, seed=4, rank=dist.get_rank(), world_size=2
) as loader:
    rows = []
    for batch in loader:  # the collective hangs, or fails, where ranks have other numbers of batches
        rows.append(batch.sparse.values().numpy())
        count = torch.ones(1)
        dist.all_reduce(count)
        assert count.item() == 2
    total = torch.tensor([len(rows)])
    dist.all_reduce(total)
    assert total.item() == 2 * len(rows)
np.save(out, np.concatenate(rows))
dist.destroy_process_group()
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert "python" in names and not [name for name in names if "gloo" in name]
"""


def test_two_processes_share_the_rows(tmp_path: Path) -> None:
    table = pa.table({"label": np.arange(ROWS) % 2, "row": np.arange(ROWS)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=150)
    RECIPE.save(tmp_path / "recipe.json")
    code = RANK % BATCH
    paths = [tmp_path / f"rank{rank}.npy" for rank in range(2)]
    given = [str(tmp_path / name) for name in ("rows.parquet", "recipe.json", "store")]
    ranks = [
        subprocess.Popen([sys.executable, "-c", code, *given, str(rank), str(path)]) for rank, path in enumerate(paths)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    first, second = (np.load(path) for path in paths)
    assert len(first) == len(second) == ROWS // 2
    assert not set(first) & set(second)
    with ig.Loader(tmp_path / "rows.parquet", RECIPE, batch_size=BATCH, shuffle=True, seed=4) as loader:
        whole = np.concatenate([batch.sparse.values().numpy() for batch in loader])
    assert len(whole) == ROWS
    assert (np.concatenate([first, second]) == whole[: ROWS // 2 * 2]).all()
