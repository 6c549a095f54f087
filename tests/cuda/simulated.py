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


class SimulatedDevice(HostDevice):
    """Launches kernels in the simulator."""

    def launch(self, kernel: Kernel, rows: int, features: int, *arguments: Any) -> None:
        blocks, given = grid(kernel, rows, features), [np.int64(a) if isinstance(a, int) else a for a in arguments]
        LAUNCHED.add(kernel.name)
        self.transform(lambda: kernel.cuda[blocks, THREADS](*given))


def table(rows: int) -> pa.Table:
    kinds = (
        "int8",
        "int32",
        "int64",
        "uint64",
        "float32",
        "string",
        "dictionary<string>",
        "list<int64>",
        "list<string>",
    )
    columns = {kind: edges.array(kind, edges.draw(kind, rows, 0.2, "simulated")) for kind in kinds}
    return pa.table({"label": pa.array(np.arange(rows) % 2), **columns})


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
    for rows in (33,):
        given = table(rows)
        columns = {name: column.to_pylist() for name, column in zip(given.column_names, given.columns, strict=True)}
        batch = ig.transform(given, recipe(), device=SimulatedDevice(rows))
        differences = naive.differences(batch, columns, recipe(), ["list<int64>", "list<string>"])
        wrong += len(differences)
        for difference in differences:
            print(f"{rows} rows: {difference}")
    print("launched:", ", ".join(sorted(LAUNCHED)))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
