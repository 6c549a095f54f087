"""Rows that become ten times as wide halfway through a file: no batch changes, no memory runs out, the budget holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from intune_gpu.engine import order
from intune_gpu.loader import Loader
from tests import wide_rows
from tests.wide_rows import BATCH, COLUMNS, GROUP_ROWS, RECIPE, WIDE_BYTES

ROOM = 1 << 30
WIDE_ROW_BYTES = len(COLUMNS) * (WIDE_BYTES + 8) + 1
CHUNK_BYTES = GROUP_ROWS * (WIDE_ROW_BYTES + 8 + 2 * WIDE_BYTES)
"""A wide chunk, and what decoding it takes besides: views, and a column of text in memory that doubles as it grows."""
BATCH_BYTES = 2 * BATCH * WIDE_ROW_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc and sets RLIMIT_DATA")
def test_under_a_cap_of_memory(tmp_path: Path) -> None:
    path, budget, cap = tmp_path / "wide.parquet", 40_000_000, 140_000_000
    wide_rows.write(path, 8, wide=1)
    command = [sys.executable, "-W", "ignore", "-m", "tests.wide_rows", str(path), str(budget), str(cap)]
    # Allocators that take address space ahead would reach the cap without having used it.
    tight = {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | tight)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    roomy = wide_rows.iterate(str(path), ROOM, shuffle=False)
    assert found["batches"] == roomy["batches"]
    assert found["peak_bytes"] <= budget + CHUNK_BYTES + BATCH_BYTES
    assert roomy["peak_bytes"] > 2 * found["peak_bytes"], "the budget had something to hold back"
    assert max(readers for readers, _ in roomy["plans"]) == 16
    assert 1 < max(readers for readers, _ in found["plans"]) < 16, "clipped when it was applied"
    assert [1, 1] in found["plans"], "and shed when rows grew"


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_floor_is_enough_for_rows_that_grow(
    tmp_path: Path, kind: str, shuffle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "WINDOW_ROWS", 20_000)
    path = tmp_path / "wide.parquet"
    wide_rows.write(path, 3, wide=1)
    if kind == "csv":
        path = path.with_suffix(".csv")
        options = pyarrow.csv.WriteOptions(quoting_style="none")
        pyarrow.csv.write_csv(pq.read_table(path.with_suffix(".parquet")), path, options)
    with Loader(path, RECIPE, batch_size=BATCH, shuffle=shuffle) as loader:
        least = loader.min_prefetch_bytes(1, 1)
        largest = max(info.rows for info in loader.source.chunks)
    tight = wide_rows.iterate(str(path), least, shuffle=shuffle)
    assert tight["batches"] == wide_rows.iterate(str(path), ROOM, shuffle=shuffle)["batches"]
    window_rows = 20_000 + largest if shuffle else 0
    needed = CHUNK_BYTES + BATCH_BYTES + 4 * window_rows * WIDE_ROW_BYTES  # of the next batch, once it is known
    assert tight["peak_bytes"] <= least + needed
    assert tight["plans"] == [(1, 1)]
