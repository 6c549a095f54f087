"""Hashes, buckets and modulo: the PTX that runs on a GPU against the CPU's own loops."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from intune_gpu.kernels import xxh64
from tests import edges, naive
from tests.cuda.comparing import distinct, hashes_cpu, id64_cpu, launched, modulo_cpu
from tests.cuda.kernels import CROSS, HASHES, ID64, INTEGERS, MODULO_SIGNED, MODULO_UNSIGNED, Kernel

RANDOM = 1 << 16


def integers(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return edges, random integers, and small ones."""
    info = np.iinfo(name)
    random = rng.integers(info.min, info.max, RANDOM, dtype=name, endpoint=True)
    random[::4] >>= rng.integers(0, info.bits, RANDOM // 4).astype(name)
    return np.concatenate([np.array(edges.integers(np.dtype(name)), name), random])


@njit
def _crossed(a, b):
    out = np.empty_like(a)
    for i in range(len(a)):
        out[i] = xxh64.xxh64_avalanche(xxh64.xxh64_word(xxh64.xxh64_merge(a[i], b[i]), b[i] + np.uint64(1)))
    return out


@pytest.mark.parametrize("name", INTEGERS)
def test_hash_buckets(name: str, rng: np.random.Generator) -> None:
    values = integers(name, rng)
    for seed, buckets, reserved in ((2**64 - 1, 2**31, 1), (0x9E3779B185EBCA87, 100_003, 5)):
        expected = hashes_cpu(values, seed, buckets, reserved)
        parameters = np.array([seed, buckets - reserved, reserved], np.uint64)
        for capability in distinct(HASHES[name]):
            out = np.zeros(len(values), np.int64)
            assert (launched(HASHES[name], capability, values, parameters, out) == expected).all()


def test_id64(rng: np.random.Generator) -> None:
    values = integers("int64", rng)
    expected = id64_cpu(values)
    assert int(expected[0]) == naive.id64(int(values[0]), 0)
    for capability in distinct(ID64):
        assert (launched(ID64, capability, values, np.zeros(len(values), np.uint64)) == expected).all()


def test_parts_of_a_cross(rng: np.random.Generator) -> None:
    a, b = (rng.integers(0, 2**64, RANDOM, dtype=np.uint64) for _ in "ab")
    expected = _crossed(a, b).tolist()
    for capability in distinct(CROSS):
        assert launched(CROSS, capability, a, b, np.zeros(len(a), np.uint64)).tolist() == expected


@pytest.mark.parametrize(
    ("kernel", "name"), [(MODULO_SIGNED, "int64"), (MODULO_UNSIGNED, "uint64")], ids=["signed", "unsigned"]
)
@pytest.mark.parametrize("divisor", [1, 2, 7, 1000, 2**31 - 1, 2**31, 2**40 + 1, 2**63 - 1])
def test_modulo(kernel: Kernel, name: str, divisor: int, rng: np.random.Generator) -> None:
    values = integers(name, rng)
    expected = modulo_cpu(values, divisor)
    assert expected.min() >= 0
    assert expected[:20].tolist() == [v % divisor for v in values[:20].tolist()]
    for capability in distinct(kernel):
        out = np.zeros(len(values), np.int64)
        assert (launched(kernel, capability, values, np.array([divisor], name), out) == expected).all()
