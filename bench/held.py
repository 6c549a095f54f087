"""What a loader says is in flight, and what its process grows by, over kinds of data and plans."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import tyro

from bench import report

_GROUP_ROWS = 25_000
_BATCH = 4096


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        kinds: of data: wide strings of a dictionary, plain strings, lists, dictionaries, text.
        readers: plans, each with two transformers and the smallest budget.
        rows: of each file.
        out: JSON file to write.
    """

    kinds: tuple[str, ...] = ("wide", "plain", "lists", "dictionary", "text")
    readers: tuple[int, ...] = (1, 4, 16)
    rows: int = 400_000
    out: Path | None = None


def _columns(kind: str, rows: int) -> dict[str, pa.Array]:
    rng = np.random.default_rng(0)
    wide, words = pa.array([f"{n:04d}" * 50 for n in range(50)]), pa.array([f"{n:018d}" for n in range(10_000)])
    makers: dict[str, Callable[[], pa.Array]] = {
        "wide": lambda: wide.take(pa.array(rng.integers(0, 50, rows))),
        "plain": lambda: pa.array(np.char.mod("%012d", rng.integers(0, 10**12, rows))),
        "lists": lambda: pa.ListArray.from_arrays(
            pa.array(np.arange(0, 12 * rows + 1, 12, dtype=np.int32)), pa.array(rng.integers(0, 2**40, 12 * rows))
        ),
        "dictionary": lambda: pa.DictionaryArray.from_arrays(
            pa.array(rng.integers(0, 10_000, rows).astype(np.int32)), words
        ),
        "text": lambda: pa.array(rng.integers(0, 2**31, rows)),
    }
    return {f"c{i}": makers[kind]() for i in range(20 if kind == "text" else 4)}


def write(folder: Path, kind: str, rows: int) -> Path:
    """Write a file of one kind; return its path."""
    table = pa.table({"label": pa.array(np.arange(rows) % 2, pa.int8()), **_columns(kind, rows)})
    if kind == "text":
        pyarrow.csv.write_csv(table, folder / "text.csv", pyarrow.csv.WriteOptions(quoting_style="none"))
        return folder / "text.csv"
    pq.write_table(table, folder / f"{kind}.parquet", row_group_size=_GROUP_ROWS)
    return folder / f"{kind}.parquet"


def held(path: str, readers: int, shuffle: bool) -> dict[str, Any]:
    """Iterate once, in this process, at the smallest budget; return what was said and what was taken, in bytes."""
    import intune_gpu as ig

    names = [f"c{i}" for i in range(20 if path.endswith("csv") else 4)]
    types = dict.fromkeys(names, "int64") if path.endswith("csv") else {}
    recipe = ig.Recipe("label", sparse={name: [ig.HashBucket(1000)] for name in names}, types=types)
    with ig.Loader(path, recipe, batch_size=_BATCH, readers=1, transformers=1) as loader:
        next(iter(loader))  # compiles
    gc.collect()
    pa.default_memory_pool().release_unused()
    before, peak, done = _anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], _anonymous_bytes())

    watcher = threading.Thread(target=watch)
    with ig.Loader(path, recipe, batch_size=_BATCH, readers=readers, transformers=2, shuffle=shuffle) as loader:
        budget = loader.min_prefetch_bytes(readers, 2)
        loader.apply(ig.Plan(readers, 2, budget))
        watcher.start()
        for _ in loader:
            done.wait(0.0005)
        said = loader.stats().peak_in_flight_bytes
    done.set()
    watcher.join()
    return {"budget_bytes": budget, "said_bytes": said, "grown_bytes": peak[0] - before}


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def main() -> None:
    """Measure each in a process of its own, print a table, write JSON."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(held(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "shuffled")))
        return
    options = tyro.cli(Options, description=__doc__)
    result, begin = report.header("held", tiny=False, seed=0, repeats=1), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            path = write(Path(folder), kind, options.rows)
            for readers in options.readers:
                for order in ("in order", "shuffled"):
                    command = [sys.executable, "-W", "ignore", "-m", "bench.held", "--child", str(path), str(readers)]
                    ran = subprocess.run([*command, order], capture_output=True, text=True, check=True)
                    found = json.loads(ran.stdout.splitlines()[-1])
                    case = f"{kind}, {readers} readers, {order}"
                    for name, value in found.items():
                        figure = report.figure("held", f"{case}: {name}", "bytes", [value], "at the smallest budget")
                        result["figures"].append(figure)
                    words = ", ".join(f"{name.removesuffix('_bytes')} {n / 1e6:.1f} MB" for name, n in found.items())
                    print(f"{case}: {words}", flush=True)
    result["elapsed_s"] = time.perf_counter() - begin
    if options.out:
        report.save(result, options.out)


if __name__ == "__main__":
    main()
