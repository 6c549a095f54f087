"""Peak memory of a pass over large text, and of many epochs over small text: `python -m bench.memory`."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tyro

from bench import report

_ROW_BYTES = 241


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        gigabytes: sizes of the text, in 10**9 bytes.
        epochs: passes over the small file.
        out: JSON file to write.
        folder: where the logs go for the while; by default the system's temporary folder.
    """

    gigabytes: tuple[float, ...] = (2.0, 4.0)
    epochs: int = 200
    out: Path | None = None
    folder: Path | None = None


def one_pass(path: str) -> dict[str, float]:
    """Iterate once, in this process, with everything imported; return peak and rate."""
    import torchrec  # noqa: F401

    import intune_gpu as ig
    from intune_gpu.train import loop  # noqa: F401

    before = psutil.Process().memory_info().rss
    with ig.Loader(path, ig.recipes.criteo(100_000), batch_size=8192) as loader:
        rows = sum(len(batch) for batch in loader)
        stats = loader.stats()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rows": rows, "imported_bytes": before, "peak_bytes": peak, "rows_per_s": stats.rows_per_s}


def many_epochs(path: str, epochs: int) -> dict[str, Any]:
    """Iterate again and again, shuffled; return the memory after each tenth of the epochs."""
    import intune_gpu as ig

    process, seen = psutil.Process(), []
    with ig.Loader(path, ig.recipes.criteo(100_000), batch_size=1024, shuffle=True) as loader:
        for epoch in range(epochs):
            for _ in loader:
                pass
            if (epoch + 1) % max(1, epochs // 10) == 0:
                seen.append(process.memory_info().rss)
    return {"epochs": epochs, "rss_bytes": seen}


def main() -> None:
    """Measure each in a process of its own, print a table, write JSON."""
    if sys.argv[1:2] == ["--child"]:
        kind, path, number = sys.argv[2:]
        print(json.dumps(one_pass(path) if kind == "pass" else many_epochs(path, int(number))))
        return
    options = tyro.cli(Options, description=__doc__)
    result, begin = report.header("memory", tiny=False, seed=1, repeats=1), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size in options.gigabytes:
            rows = int(size * 1e9 / _ROW_BYTES)
            found = _child("pass", _logs(Path(folder), rows))
            for name, unit in (("imported_bytes", "bytes"), ("peak_bytes", "bytes"), ("rows_per_s", "rows/s")):
                note = f"one pass over {found['rows']:,} rows of text"
                result["figures"].append(report.figure("memory", f"{size:g} GB: {name}", unit, [found[name]], note))
            peak, base = (float(found[key]) / 1e9 for key in ("peak_bytes", "imported_bytes"))
            print(
                f"{size:g} GB of text, {found['rows']:,} rows: peak {peak:.2f} GB, of it {base:.2f} GB imports",
                flush=True,
            )
        found = _child("epochs", _logs(Path(folder), 20_000), str(options.epochs))
        note = f"{options.epochs} shuffled epochs over 20,000 rows, behind each tenth of them"
        result["figures"].append(report.figure("memory", "epochs: rss_bytes", "bytes", found["rss_bytes"], note))
        print(f"{options.epochs} epochs: resident MB after each tenth: {[int(b) >> 20 for b in found['rss_bytes']]}")
    result["elapsed_s"] = time.perf_counter() - begin
    if options.out:
        report.save(result, options.out)


def _logs(folder: Path, rows: int) -> str:
    from intune_gpu.sources.synthetic import write_click_logs

    target = folder / f"logs-{rows}"
    write_click_logs(target, rows, format="tsv", hex_ids=True, seed=1, files=4)
    return str(target / "*.tsv")


def _child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "bench.memory", "--child", *arguments]
    command += ["0"] * (3 - len(arguments))
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
