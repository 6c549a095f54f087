"""The files of the suite `scale`: click logs of any length, tables of any width, lists of any length."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import intune_gpu as ig
from bench.clicks import NUM_BUCKETS
from bench.tuner_live import LAYOUTS
from intune_gpu.sources.synthetic import write_click_logs

GROUP_ROWS = 65_536
LISTS = [f"s{i}" for i in range(8)]
"""Columns of lists."""


@dataclass(frozen=True)
class Data:
    """What a pass reads; plain values, so that another process can write it.

    Attributes:
        kind: click logs, a wide table, or lists.
        path: a folder or a file.
        rows: in it.
        columns: of a wide table.
        seed: of values and hashes.
    """

    kind: Literal["logs", "wide", "lists"]
    path: str
    rows: int
    columns: int
    seed: int

    @property
    def recipe(self) -> ig.Recipe:
        """What is made of it."""
        if self.kind == "logs":
            return ig.recipes.criteo(NUM_BUCKETS, self.seed)
        dense, sparse = _names(self.columns) if self.kind == "wide" else ([], LISTS)
        chain: Any = [ig.FillMissing(0.0), ig.Clip(min=0.0), ig.Log1p()]
        hashes = {name: [ig.HashBucket(NUM_BUCKETS)] for name in sparse}
        return ig.Recipe(label="label", dense=dict.fromkeys(dense, chain), sparse=hashes, seed=self.seed)


def click_logs(format: str, rows: int, unit_rows: int, seed: int, folder: Path) -> Data:
    """Write click logs of one format in files of `unit_rows` rows, the second and later of them links to the first."""
    layout, target, unit = LAYOUTS[format], folder / f"{format}-{rows}", min(rows, unit_rows)
    kept = folder / f"{format}-unit-{unit}"
    if not kept.exists():
        write_click_logs(kept, unit, format=layout.format, hex_ids=layout.hex_ids, seed=seed, files=1)
    target.mkdir()
    for number in range(rows // unit):
        os.link(kept / f"part-00000.{layout.format}", target / f"part-{number:05}.{layout.format}")
    return Data("logs", str(target), rows // unit * unit, 0, seed)


def wide(columns: int, cells: int, seed: int, folder: Path) -> Data:
    """Write a Parquet table of `cells` int32 values in so many columns, half numbers to log, half ids to hash."""
    rng, rows = np.random.default_rng(seed), max(1, cells // columns)
    dense, sparse = _names(columns)
    table = {name: rng.integers(0, 1 << 20, rows, np.int32) for name in dense}
    table |= {name: rng.integers(-(2**31), 2**31 - 1, rows, np.int32, endpoint=True) for name in sparse}
    path = _write(table, rows, rng, folder / f"wide-{columns}.parquet")
    return Data("wide", path, rows, columns, seed)


def lists(mean: int, values: int, seed: int, folder: Path) -> Data:
    """Write a Parquet table of `values` int32 ids in lists whose lengths are spread evenly from 0 to twice the mean."""
    rng = np.random.default_rng(seed)
    rows, table = max(1, values // (mean * len(LISTS))), {}
    for name in LISTS:
        ends = np.concatenate([[0], np.cumsum(rng.integers(0, 2 * mean, rows, endpoint=True))]).astype(np.int32)
        ids = rng.integers(-(2**31), 2**31 - 1, int(ends[-1]), np.int32, endpoint=True)
        table[name] = pa.ListArray.from_arrays(pa.array(ends), pa.array(ids))
    return Data("lists", _write(table, rows, rng, folder / f"lists-{mean}.parquet"), rows, len(LISTS), seed)


def _names(columns: int) -> tuple[list[str], list[str]]:
    return [f"d{i}" for i in range(columns // 2)], [f"s{i}" for i in range(columns - columns // 2)]


def _write(columns: dict[str, Any], rows: int, rng: np.random.Generator, path: Path) -> str:
    table = pa.table({"label": rng.integers(0, 2, rows, np.int32), **columns})
    # What is random has no use for a dictionary: a writer that tries one gives it up half-way.
    pq.write_table(table, path, row_group_size=min(GROUP_ROWS, max(1, rows // 4)), use_dictionary=False)
    return str(path)
