"""Dense rules at the edges, and log1p over many floats, against NumPy in float64 (whose log1p is far finer)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from intune_gpu.kernels import denormals, fusing, generating, memory, numeric, primitives

CANONICAL_NAN = 0x7FC00000


@njit(nogil=True, error_model="numpy")
def _log1p(x, out):
    for i in range(len(x)):
        out[i] = numeric.log1p_rule(x[i])


@njit
def _primitives(x, y, z):
    return primitives.fma(x, y, z), primitives.mul(x, y), primitives.bits_float(primitives.float_bits(x))


@njit
def _fma_of_doubles(x):
    return primitives.fma(x, x, x)


def log1p(values: np.ndarray) -> np.ndarray:
    out = np.empty_like(values)
    _log1p(values, out)
    return out


def ordered(values: np.ndarray) -> np.ndarray:
    """Floats as integers one apart for neighbours."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def check_log1p(values: np.ndarray) -> None:
    values = values[np.isfinite(values) & (values > -1)]
    if not len(values):
        return
    correct = np.log1p(values.astype(np.float64)).astype(np.float32)
    assert np.abs(ordered(log1p(values)) - ordered(correct)).max() <= 1


def test_log1p_within_one_ulp() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 4_000_000, dtype=np.uint64).astype(np.uint32)
    near_zero = np.linspace(-0.9999999, 3, 3_000_001, dtype=np.float32)
    check_log1p(np.concatenate([bits.view(np.float32), near_zero, np.arange(1 << 20, dtype=np.float32)]))


def test_log1p_is_monotone() -> None:
    for start in (-0.99999994, -0.25, 0.0, 0.49999997, 1.0, 3.4e38):
        first = np.float32(start).view(np.int32)
        bits = np.sort((first + np.arange(-300_000, 300_000)).astype(np.int32))
        values = np.sort(bits.view(np.float32))
        values = values[np.isfinite(values) & (values > -1)]
        assert (np.diff(log1p(values)) >= 0).all()


def test_log1p_special_values() -> None:
    tiny = np.float32(1e-45)
    given = np.array([0.0, -0.0, -1.0, np.inf, tiny, -tiny], np.float32)
    expected = np.array([0.0, -0.0, -np.inf, np.inf, tiny, -tiny], np.float32)
    assert (log1p(given).view(np.uint32) == expected.view(np.uint32)).all()
    no_number = log1p(np.array([-1.0000001, -np.inf, np.nan, -3e38], np.float32))
    assert (no_number.view(np.uint32) == CANONICAL_NAN).all()


@pytest.mark.nightly
def test_log1p_over_every_float() -> None:
    """All 2**32 bit patterns, 2**24 at a time: about three minutes."""
    for start in range(0, 2**32, 2**24):
        check_log1p(np.arange(start, start + 2**24, dtype=np.uint64).astype(np.uint32).view(np.float32))


def test_fma_rounds_once_and_mul_rounds_its_product() -> None:
    x = np.float32(1 + 2**-12)
    fused, product, same = _primitives(x, x, np.float32(-1))
    assert fused == np.float32(2**-11 + 2**-24)  # the 2**-24 is lost where the product is rounded first
    assert np.float32(product) == np.float32(1 + 2**-11)
    assert same == x


def test_primitives_refuse_a_value_that_was_widened() -> None:
    with pytest.raises(Exception, match="No implementation of function"):
        _fma_of_doubles(np.float64(1))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 255, 256])
@pytest.mark.parametrize("first", [0, 1, 7, 8, 13])
@pytest.mark.parametrize("behind", [0, 1, 60])
def test_expand_missing(count: int, first: int, behind: int) -> None:
    size = (first + count + behind + 7) // 8
    bitmap = np.random.default_rng(count * 31 + first).integers(0, 256, size, dtype=np.uint8)
    missing = np.empty(memory.BLOCK, np.uint8)
    memory.expand_missing(bitmap.ctypes.data, first, count, count + behind, missing)
    expected = 1 - np.unpackbits(bitmap, bitorder="little")[first : first + count]
    assert (missing[:count] == expected).all()


def test_chains_of_one_shape_share_a_module() -> None:
    rules = ("fill_missing", "clip_min", "log1p")
    assert fusing.dense_loop(rules, 4) is fusing.dense_loop(rules, 4)
    assert "NAN if absent" not in fusing.dense_source(rules, wide=False)
    assert "NAN if absent" in fusing.dense_source(("log1p",), wide=False)


def test_denormals_are_kept_and_the_flag_restored() -> None:
    torch = pytest.importorskip("torch")
    tiny = np.array([1e-45], np.float32)
    try:
        assert torch.set_flush_denormal(True)
        with denormals.denormals_kept():
            assert log1p(tiny)[0] == tiny[0]
            assert denormals.clear_flush_to_zero() & 0x8040 == 0
        assert denormals.clear_flush_to_zero() & 0x8040 != 0
    finally:
        torch.set_flush_denormal(False)


def test_folders_of_kernels_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    mine, recent, old = (tmp_path / f"kernels-{name}" for name in ("mine", "recent", "old"))
    for folder in (mine, recent, old, tmp_path / "index"):
        folder.mkdir()
        (folder / "file").touch()
    long_ago = time.time() - 2 * generating.UNUSED_S
    for folder in (mine, old, tmp_path / "index"):
        os.utime(folder, (long_ago, long_ago))
    generating._remove_unused(mine)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["index", "kernels-mine", "kernels-recent"]
