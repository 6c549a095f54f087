"""The jobs of the suite `gpu` that make whole batches: what the host does for one, files to a device, and training."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import intune_gpu as ig
from bench import logs, names
from bench.checks import check_equal
from bench.clicks import NUM_BUCKETS, click_recipe, random_clicks
from bench.gpu_clock import finish, host_us, is_gpu
from bench.harness import Case, Engine, spread
from bench.machine import ROOT
from bench.report import Figure, figure
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.program import GpuProgram
from intune_gpu.engine.program import Program

HOST_ROWS = 4096
BATCH = 65_536


def host(device: Device, tiny: bool, seed: int, rounds: int) -> Iterator[Figure]:
    """Yield what `GpuProgram.run` takes of the host for a batch: in all, packing, and giving work to the device."""
    clicks = random_clicks(64 if tiny else HOST_ROWS, "int32", seed)
    raw, calls = clicks.raw(), 3 if tiny else 200
    program = GpuProgram(Program(click_recipe(seed), clicks.schema(), "int64"), device)
    submitted, submit = [0.0], program._submit

    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        try:
            return submit(*arguments)
        finally:
            submitted[0] += time.perf_counter() - begin

    program._submit = timed  # type: ignore[method-assign, assignment]
    whole, parts = [], []
    for number in range(1 + rounds):  # the first one compiles
        finish(device)
        submitted[0], begin = 0.0, time.perf_counter()
        for _ in range(calls):
            program.run(raw)
        if number:
            whole.append((time.perf_counter() - begin) / calls * 1e6)
            parts.append(submitted[0] / calls * 1e6)
    rows = f"{clicks.rows:,} rows of 13 + 26 columns"
    yield figure("host", names.HOST_RUN, "us", spread(whole), f"{rows}; waits for a slot of the ring included")
    rest = spread([one - other for one, other in zip(whole, parts, strict=True)])
    yield figure("host", "GpuProgram.run without submit", "us", rest, "packing, the slot, and the KeyedJaggedTensor")
    yield figure("host", names.HOST_SUBMIT, "us", spread(parts), "outputs, one copy, three launches, the mark")
    yield figure("host", "mark", "us", host_us(device, device.mark, rounds, calls), "recording an event")


def end_to_end(device: Device, tiny: bool, seed: int, folder: Path) -> Iterator[Case]:
    """Yield files to batches on the device, with features made there, on the CPU, and by a CPU loader and a copy."""
    rows = 3_000 if tiny else 1 << 20
    for section in ("parquet", "text"):
        paths = logs.write(section, rows, seed, folder)
        for case, path in list(paths.items())[: 1 if tiny else None]:
            yield _files(device, f"{section}, {case}", path, rows, 1024 if tiny else BATCH)


def _files(device: Device, name: str, path: str, rows: int, batch_size: int) -> Case:
    recipe = ig.recipes.criteo(num_buckets=NUM_BUCKETS)

    def batches(**options: Any) -> Iterator[ig.Batch]:
        with ig.Loader(path, recipe, batch_size=batch_size, **options) as loader:
            yield from loader

    def drain(**options: Any) -> None:
        for _ in batches(**options):
            pass

    def copied() -> None:
        for batch in batches(device="cpu"):
            (batch.pin_memory() if is_gpu(device) else batch).to(device.where, non_blocking=True)

    def check() -> list[str]:
        wanted = [_bytes(batch) for batch in batches(device="cpu")]
        for placement in ("gpu", "cpu"):
            found = [_bytes(batch) for batch in batches(device=device, placement=placement)]
            check_equal(names.OURS, f"batches, placement {placement}", np.array(found), np.array(wanted))
        return [f"{names.OURS}: {len(wanted)} batches equal a CPU loader's, bit for bit, with either placement"]

    engines = [
        Engine("placement gpu", "ours", "a new Loader, one epoch", lambda: drain(device=device, placement="gpu")),
        Engine("placement cpu", "ours", "the same", lambda: drain(device=device, placement="cpu")),
        Engine("CPU loader and a copy", "peer", "pinned and copied batch by batch", copied),
    ]
    return Case("end_to_end", name, 1, rows, engines, check, {"batch_rows": float(batch_size)})


def _bytes(batch: ig.Batch) -> bytes:
    tensors = (batch.dense, batch.sparse.values(), batch.sparse.lengths(), batch.label)
    return b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)


def why_no_training(device: Device) -> str | None:
    """Return why training cannot be measured, or None."""
    if not is_gpu(device):
        return None
    try:
        import fbgemm_gpu  # noqa: F401
    except (ImportError, OSError) as error:
        return f"fbgemm_gpu cannot be imported ({error})"
    operator = "fbgemm::permute_2D_sparse_data"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CUDA"):
        return "fbgemm_gpu is the build for CPUs: fused embeddings need the one for CUDA"
    return None


def training(device: Device, tiny: bool, seed: int, folder: Path, limit_s: float) -> Iterator[Figure]:
    """Yield rows/s of training with preprocessing on the CPU and on the GPU, and how far each is below the ideal."""
    where, end = "cuda" if is_gpu(device) else "cpu", time.monotonic() + limit_s
    data = folder / "train"
    flags = (
        ["--max-steps", "30", "--epochs", "9", "--batch-size", "256"]
        if tiny
        else ["--max-steps", "400", "--epochs", "1000", "--batch-size", "16384"]
    )
    _write_logs(data, 8_000 if tiny else 1_000_000, seed)
    for placement in ("all-cpu", "all-gpu") if where == "cuda" else ("all-cpu",):
        run = folder / f"run-{placement}"
        command = [sys.executable, "-m", "intune_gpu.train", "--data", str(data), "--device", where, "--measure-ideal"]
        command += ["--placement", placement, "--run-dir", str(run), "--eval-fraction", "0", *flags]
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                command, cwd=ROOT, stdout=said, stderr=said, timeout=end - time.monotonic(), check=False
            )
            if done.returncode:
                said.seek(0)
                raise RuntimeError(f"training with {placement} failed: {said.read().decode()[-500:]}")
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        for name, unit in (("steady_rows_per_s", "rows/s"), ("ideal_rows_per_s", "rows/s"), ("below_ideal_pct", "%")):
            note = f"one run; the ideal's blocks spread over {metrics.get('ideal_spread_pct')} %"
            yield figure("training", f"{placement}: {name}", unit, spread([float(metrics[name])]), note)


def _write_logs(data: Path, rows: int, seed: int) -> None:
    """Write click logs for training."""
    from intune_gpu.sources.synthetic import write_click_logs

    write_click_logs(data, rows, format="parquet", hex_ids=False, seed=seed)
