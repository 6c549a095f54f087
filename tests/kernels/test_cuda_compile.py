"""Every rule also compiles for CUDA, from the same source: to PTX, and to machine code where ptxas is installed."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pytest

from intune_gpu.kernels import numeric, xxh64

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: rules are not compiled for CUDA here", allow_module_level=True)

from numba import cuda, types
from numba.cuda import dispatcher

from intune_gpu.kernels import primitives_cuda

F32, U64, I64 = types.float32, types.uint64, types.int64
_ONE = np.uint64(1)


def _log1p(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        out[i] = numeric.canonical_nan_rule(numeric.log1p_rule(x[i]))


def _fill_clip_scale(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        value = numeric.fill_missing_rule(x[i], y[i] > 0, y[0])
        value = numeric.clip_max_rule(numeric.clip_min_rule(value, y[1]), y[2])
        out[i] = numeric.scale_rule(value, y[3], y[4]) + numeric.missing_flag_rule(x[i], y[i] > 0)


def _bucketize(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        out[i] = numeric.bucketize_rule(x[i], np.int64(0), 0, len(y))


def _hash_bucket(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        out[i] = xxh64.bucket_rule(xxh64.id64_int_rule(x[i], y[0]), y[1])


def _cross(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        out[i] = xxh64.xxh64_avalanche(xxh64.xxh64_word(xxh64.xxh64_merge(x[i], y[i]), y[i] + _ONE))


def _modulo(x, y, out):
    i = cuda.grid(1)
    if i < len(x):
        out[i] = xxh64.modulo_rule(x[i], y[0])


KERNELS = {
    "log1p": (_log1p, F32),
    "fill_clip_scale": (_fill_clip_scale, F32),
    "bucketize": (_bucketize, F32),
    "hash_bucket": (_hash_bucket, U64),
    "cross": (_cross, U64),
    "modulo": (_modulo, I64),
}


def _compile(monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int]) -> str:
    """PTX without a driver: numba-cuda asks a device for its capability only when a kernel calls other functions."""
    assert primitives_cuda.fma is not None  # importing it registers the overloads
    device = type("Device", (), {"compute_capability": capability})
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    kernel, kind = KERNELS[name]
    ptx, _ = cuda.compile_ptx(kernel, types.void(kind[::1], kind[::1], kind[::1]), cc=capability)
    return ptx


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)], ids=["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_without_float64(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, capability) -> None:
    ptx = _compile(monkeypatch, name, capability)
    assert ".f64" not in ptx
    assembler = _ptxas()
    if assembler is None:
        return
    source = tmp_path / "kernel.ptx"
    source.write_text(ptx)
    arch = f"sm_{capability[0]}{capability[1]}"
    command = [str(assembler), f"-arch={arch}", "-v", str(source), "-o", str(tmp_path / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr


def test_log1p_is_fused_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    ptx = _compile(monkeypatch, "log1p", (9, 0))
    assert ptx.count("fma.rn.f32") == 10
    assert ptx.count("mul.rn.f32") == 2


def _ptxas() -> Path | None:
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        found = sorted(Path(root).glob("*/bin/ptxas"))
        if found:
            return found[-1]
    return None
