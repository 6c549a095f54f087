"""Runs every kernel in Numba's CUDA simulator and compares with the oracle: `NUMBA_ENABLE_CUDASIM=1 python -m ...`.

Numba decides when it is imported whether CUDA is simulated, so this is a process of its own. Here blocks, threads,
shared memory and barriers are real; sizes are tiny, since each thread of a block is one of Python's.
"""

from __future__ import annotations

import sys
from typing import Any

import numba
import numpy as np
import pyarrow as pa

import intune_gpu as ig
from intune_gpu.kernels.launching import THREADS, Kernel, grid
from tests import edges, naive
from tests.devices import HostDevice

LAUNCHED: set[str] = set()
LISTS = ("list<int64>", "list<string>")


class SimulatedDevice(HostDevice):
    """Launches kernels in the simulator."""

    def launch(self, kernel: Kernel, rows: int, features: int, *arguments: Any) -> None:
        blocks, given = grid(kernel, rows, features), [np.int64(a) if isinstance(a, int) else a for a in arguments]
        LAUNCHED.add(kernel.name)
        self.transform(lambda: kernel.cuda[blocks, THREADS](*given))


KINDS = ("int8", "int32", "int64", "uint64", "float32", "string", "dictionary<string>", *LISTS)
SHAPES = ("everything", "all_missing", "sliced_at_13")
"""Of the edge table; with --all, all that these kinds have."""


def table(shape: str) -> pa.Table:
    """Return the columns of one shape of the edge table, the shorter ones repeated."""
    found = {kind: next(e.array for e in edges.edges(kind) if e.shape == shape) for kind in KINDS}
    rows = max(map(len, found.values()))
    if any(len(column) != rows for column in found.values()):
        found = {kind: column.take(pa.array(np.arange(rows) % len(column))) for kind, column in found.items()}
    return pa.table({"label": pa.array(np.arange(rows) % 2), **found})


def every_shape() -> list[str]:
    """Return the shapes that all kinds have."""
    shapes = [[edge.shape for edge in edges.edges(kind)] for kind in KINDS]
    return [shape for shape in shapes[0] if all(shape in others for others in shapes)]


def recipe() -> ig.Recipe:
    filled = [ig.FillMissing(0.0), ig.Clip(min=0.0), ig.Log1p()]
    numbers = ("int8", "int32", "int64", "uint64", "float32")
    dense = {**{f"{n} log": [ig.Column(n), *filled] for n in numbers}}
    dense["scaled"] = [ig.Column("float32"), ig.FillMissing(1.0), ig.Scale(0.5, 3.0), ig.Bucketize([0.0, 1.0])]
    hashed = ("int8", "int32", "uint64", "string", "dictionary<string>")
    sparse: dict[str, Any] = {f"{n} hash": [ig.Column(n), ig.HashBucket(1000)] for n in hashed}
    sparse |= {f"{n} mod": [ig.Column(n), ig.Modulo(77)] for n in ("int64", "uint64")}
    sparse["bins"] = [ig.Column("float32"), ig.FillMissing(0.0), ig.Bucketize([-1.0, 0.0, 1.0])]
    sparse["first"] = [ig.Column("list<int64>"), ig.FirstK(2), ig.HashBucket(50)]
    sparse["all"] = [ig.Column("list<string>"), ig.HashBucket(50)]
    sparse["mod"] = [ig.Column("list<int64>"), ig.Modulo(5)]
    sparse["crossed"] = [ig.Cross(["int32", "string", "dictionary<string>", "int8", "uint64"], 10_000)]
    return ig.Recipe(label="label", dense=dense, sparse=sparse)


def main() -> int:
    """Compare; print what was launched."""
    assert numba.config.ENABLE_CUDASIM, "run with NUMBA_ENABLE_CUDASIM=1"
    wrong = 0
    for shape in every_shape() if "--all" in sys.argv else SHAPES:
        given = table(shape)
        columns = {name: column.to_pylist() for name, column in zip(given.column_names, given.columns, strict=True)}
        batch = ig.transform(given, recipe(), device=SimulatedDevice(1))
        differences = naive.differences(batch, columns, recipe(), LISTS)
        wrong += len(differences)
        for difference in differences:
            print(f"{shape}: {difference}")
    print("launched:", ", ".join(sorted(LAUNCHED)))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
