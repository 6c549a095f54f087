"""Run as a program: iterate over rows that become ten times as wide, under a cap of memory; print what was held.

Arguments: the file, bytes of the budget, bytes that the process may take beyond what it has when it is warm.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import intune_gpu as ig

COLUMNS = ("a", "b", "c")
RECIPE = ig.Recipe("label", sparse={name: [ig.HashBucket(1000)] for name in COLUMNS})
BATCH = 1024
GROUP_ROWS = 16_384
WIDE_BYTES = 400


def write(path: Path, groups: int, wide: int) -> None:
    """Write `groups` row groups of short strings and as many of strings ten times as long, if `wide`; 50 of each."""
    rows = GROUP_ROWS * groups
    codes = pa.array([n * 7 % 50 for n in range(rows)])
    halves = []
    for length in (WIDE_BYTES // 10, WIDE_BYTES if wide else WIDE_BYTES // 10):
        words = pa.array([f"{n:02d}".ljust(length, "x") for n in range(50)])
        halves.append(pa.table({"label": codes, **dict.fromkeys(COLUMNS, words.take(codes))}))
    pq.write_table(pa.concat_tables(halves), path, row_group_size=GROUP_ROWS)


def digest(batch: ig.Batch) -> str:
    """A hash of all bytes of a batch."""
    tensors = (batch.dense, batch.label, batch.sparse.values(), batch.sparse.lengths())
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def status(field: str) -> int:
    """Bytes, from Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) << 10


def watched(done: threading.Event, peak: list[int]) -> None:
    """Note the most anonymous memory."""
    while not done.wait(0.001):
        peak[0] = max(peak[0], status("RssAnon"))


def iterate(path: str, prefetch_bytes: int, shuffle: bool) -> dict[str, Any]:
    """Iterate once, with another plan every few batches."""
    rng, found, plans = random.Random(5), [], set()
    with ig.Loader(
        path, RECIPE, batch_size=BATCH, shuffle=shuffle, readers=1, transformers=1, prefetch_bytes=prefetch_bytes
    ) as loader:
        for number, batch in enumerate(loader):
            found.append(digest(batch))
            if number % 3 == 0:
                loader.apply(ig.Plan(rng.randint(1, 16), rng.randint(1, 4), prefetch_bytes))
            plans.add((loader.plan.readers, loader.plan.transformers))
            time.sleep(0.0005)
        return {"batches": found, "peak_bytes": loader.stats().peak_in_flight_bytes, "plans": sorted(plans)}


def main() -> None:
    """Warm up on the first half of what the file is like, set the cap, iterate."""
    path, budget, more = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    narrow = Path(path).with_name("narrow.parquet")
    write(narrow, 2, wide=0)
    iterate(str(narrow), budget, shuffle=False)  # compiled, threads were there
    before, peak, done = status("RssAnon"), [0], threading.Event()
    cap = status("VmData") + more
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    watcher = threading.Thread(target=watched, args=(done, peak))
    watcher.start()
    found = iterate(path, budget, shuffle=False)
    done.set()
    watcher.join()
    print(json.dumps(found | {"grown_bytes": peak[0] - before}))


if __name__ == "__main__":
    main()
