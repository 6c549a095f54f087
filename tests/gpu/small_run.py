"""A small run of every kind of kernel, for `compute-sanitizer`: `python -m tests.gpu.small_run cuda|host`."""

from __future__ import annotations

import sys

import numpy as np

from bench import gpu_launches
from intune_gpu.core.columns import STRING, Addresses
from intune_gpu.engine.gpu.lists import ListPart
from intune_gpu.recipe import Clip, FillMissing, Log1p
from tests.gpu import values
from tests.gpu.conftest import opened

ROWS = 1_003


def main(kind: str) -> int:
    """Launch, and compare with the CPU."""
    device, rng = opened(kind), np.random.default_rng(0)
    columns = {
        "a": values.column(rng, "int32", ROWS),
        "b": values.column(rng, "int32", ROWS),
        "s": values.strings(rng, ROWS),
        "l": values.lists(rng, "int64", ROWS),
    }
    table, chain = Addresses.of(columns), [FillMissing(0.0), Clip(min=0.0), Log1p()]
    parts = [
        gpu_launches.numbers("dense", device, table, "int32", [("a", chain), ("b", chain)]),
        gpu_launches.ids("ints", device, table, gpu_launches.hashed("int32", "ab", 0, 1000, 0)),
        gpu_launches.ids("strings", device, table, gpu_launches.hashed(STRING, "s", 2, 1000, 0)),
        ListPart("list l", gpu_launches.hashed("int64", "l", 3, 1000, 0), 3, device),
    ]
    launches = gpu_launches.Launches(device, columns, ROWS, parts, width=2, features=4)
    found = gpu_launches.differing(launches.launched(), launches.taken_over())
    print("\n".join(found) or f"{len(parts)} parts, {ROWS} rows: equal")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
