"""Every dense rule, and chains of them: the PTX that runs on a GPU against the CPU's own loop, bit for bit.

The PTX is interpreted. Values are all edges against all parameters, and random bits; `nightly` takes every float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from intune_gpu.kernels import fusing
from tests import edges
from tests.cuda.comparing import Pointer, dense_cpu, distinct, launched
from tests.cuda.compiling import CAPABILITIES, arch
from tests.cuda.kernels import DENSE, Kernel

RANDOM = 1 << 19
"""Random bit patterns for each chain and each PTX that differs."""
NAN = 0x7FC00000
CONVERSIONS = [kernel for kernel in DENSE if not kernel.rules]
CHAINS = [kernel for kernel in DENSE if kernel.rules]
PARAMETERS = np.array(
    [0.0, -0.0, 1.0, -1.0, 3.3, 1e-45, -1e-40, 1.1754944e-38, 3e38, np.inf, -np.inf, np.nan, 0.1, -7.5], np.float32
)
BORDERS = tuple(
    np.array(borders, np.float32)
    for borders in (
        [],
        [0.0],
        [-np.inf, -1.0, -0.0, 0.0, 1e-45, 1.0, np.inf],
        [1.0, 1.0, 1.0, 2.0],
        np.linspace(-3, 12, 32),
        np.geomspace(1e-3, 1e9, 100),
    )
)


def edge_values() -> np.ndarray:
    """Return the shared edges, NaN of several payloads, powers of two and their neighbours, and integers' extremes."""
    bits = [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC12345, 0x007FFFFF, 0x00800000]
    exact = np.array(bits, np.uint32).view(np.float32)
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    near = (np.array([-1.0, 1.0, 0.5, 1.5, 0.75], np.float32).view(np.uint32)[:, None] + np.arange(-40, 41)).ravel()
    integers = [v for name in ("int32", "int64", "uint64") for v in edges.integers(np.dtype(name))]
    parts = [
        exact,
        np.array(edges.floats(np.dtype(np.float32)), np.float32),
        *(sign * np.nextafter(powers, np.float32(to)) for sign in (1, -1) for to in (0, np.inf)),
        powers,
        -powers,
        near.astype(np.uint32).view(np.float32),
        np.array(integers, object).astype(np.float32),
    ]
    return np.concatenate(parts)


def random_values(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return random bits, and as many values of the size that features have."""
    half = count // 2
    bits = rng.integers(0, 2**32, half, dtype=np.uint64).astype(np.uint32).view(np.float32)
    usual = np.concatenate([rng.normal(0, 3, half // 2), rng.integers(-3, 5000, count - half - half // 2)])
    return np.concatenate([bits, usual.astype(np.float32)])


def random_missing(rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.random(count) < 0.1).astype(np.uint8)


def check(kernel: Kernel, values: np.ndarray, missing: np.ndarray, parameters: np.ndarray, borders: np.ndarray) -> None:
    """Compare all PTX of a kernel with the CPU; errors name the first value that differs."""
    assert kernel.rules is not None
    if kernel.float64_column:
        with np.errstate(all="ignore"):  # of NaN
            values = values.astype(np.float64)
    expected = dense_cpu(kernel.rules, values, missing, parameters, borders).view(np.uint32)
    for capability in distinct(kernel):
        out = np.zeros(len(values), np.float32)
        found = launched(kernel, capability, values, missing, parameters, Pointer(borders), len(borders), out).view(
            np.uint32
        )
        wrong = np.flatnonzero(found != expected)
        if len(wrong):
            i = wrong[0]
            raise AssertionError(
                f"{kernel.name} for {arch(capability)}: {len(wrong)} of {len(values)} values differ, first {values[i]} "
                f"({'missing' if missing[i] else 'there'}), parameters {parameters.tolist()}: "
                f"CPU {expected[i]:#010x}, PTX {found[i]:#010x}"
            )


def settings(kernel: Kernel) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield parameters and borders: each border table, and every value as each of the parameters."""
    assert kernel.rules is not None
    usual = np.array([0.5, 1.5, 3.0, -1.0, 2.0], np.float32)
    for borders in BORDERS if "bucketize" in kernel.rules else BORDERS[:1]:
        yield usual, borders
    used = sum(fusing.RULES[rule][0] for rule in kernel.rules)
    for slot, value in itertools.product(range(used), PARAMETERS):
        chosen = usual.copy()
        chosen[slot] = value
        yield chosen, BORDERS[4]


@pytest.mark.parametrize("kernel", CHAINS, ids=lambda kernel: kernel.name)
def test_chain_at_the_edges(kernel: Kernel, rng: np.random.Generator) -> None:
    values = edge_values()
    missing = random_missing(rng, len(values))
    for parameters, borders in settings(kernel):
        check(kernel, values, missing, parameters, borders)


@pytest.mark.parametrize("kernel", CHAINS, ids=lambda kernel: kernel.name)
def test_chain_over_random_bits(kernel: Kernel, rng: np.random.Generator) -> None:
    values = random_values(rng, RANDOM)
    parameters = np.array([1.5, 0.1, 300.0, 2.75, 1.7], np.float32)
    check(kernel, values, random_missing(rng, RANDOM), parameters, BORDERS[4])


@pytest.mark.parametrize("kernel", CONVERSIONS, ids=lambda kernel: kernel.name)
def test_conversion_to_float32(kernel: Kernel, rng: np.random.Generator) -> None:
    dtype = np.dtype(kernel.name.removesuffix("_to_float32"))
    if dtype.kind == "f":
        with np.errstate(all="ignore"):  # of NaN
            extremes = np.concatenate([np.array(edges.floats(dtype), dtype), edge_values().astype(dtype)])
            bits = rng.integers(0, 2**32, 400_000, dtype=np.uint64).astype(np.uint32).view(np.float32).astype(dtype)
            random = bits * (1 + rng.integers(-8, 8, 400_000) * dtype.type(2.0**-26))
    else:
        info = np.iinfo(dtype)
        extremes = np.array(edges.integers(dtype), dtype)
        random = rng.integers(info.min, info.max, 400_000, dtype=dtype, endpoint=True)
        random[::2] >>= rng.integers(0, info.bits, 200_000).astype(dtype)
    values = np.concatenate([extremes, random.astype(dtype)])
    none = np.zeros(0, np.float32)
    check(kernel, values, random_missing(rng, len(values)), none, none)


@pytest.mark.parametrize("kernel", [k for k in CHAINS if k.float64_column], ids=lambda kernel: kernel.name)
def test_float64_beside_what_decides(kernel: Kernel, rng: np.random.Generator) -> None:
    """A compiler may compare the float64 itself: around -1, 0 and the border of infinity that is not the same."""
    decides = np.array([-1.0, 0.0, 1.0, np.float64(np.finfo(np.float32).max), 2.0**128, 2.0**-149, 2.0**-126])
    steps = np.concatenate([sign * 2.0 ** -np.arange(20, 54) for sign in (1, -1)])
    near = (decides[:, None] * (1 + steps)).ravel()
    values = np.concatenate([near, -near, steps * 2.0**-140, np.array(edges.floats(np.dtype(np.float64)))])
    parameters = np.array([0.5, -1.0, 3.0, -1.0, 2.0], np.float32)
    check(kernel, values, random_missing(rng, len(values)), parameters, BORDERS[0])


def test_the_comparison_can_fail(rng: np.random.Generator) -> None:
    """One bit in one value of a parameter is seen."""
    log1p, clip = (next(k for k in CHAINS if k.name == name) for name in ("log1p", "clip_max"))
    values = edge_values()
    missing = np.zeros(len(values), np.uint8)
    none = np.zeros(0, np.float32)
    expected = dense_cpu(("log1p",), values, missing, none, none).view(np.uint32)
    out = np.zeros(len(values), np.float32)
    others = (values.view(np.uint32) ^ np.uint32(1)).view(np.float32)
    assert (launched(log1p, (9, 0), others, missing, none, Pointer(none), 0, out).view(np.uint32) != expected).any()
    high, beside = np.float32([2.5]), np.nextafter(np.float32([2.5]), np.float32(0))
    expected = dense_cpu(("clip_max",), values, missing, high, none).view(np.uint32)
    assert (launched(clip, (9, 0), values, missing, beside, Pointer(none), 0, out).view(np.uint32) != expected).any()


def test_ptx_that_is_alike_is_run_once() -> None:
    """A100 and H100 get the same PTX for these kernels, B200 another dialect."""
    assert {distinct(kernel) for kernel in DENSE} == {(CAPABILITIES[0], CAPABILITIES[2])}


@pytest.mark.nightly
@pytest.mark.parametrize("start", range(0, 2**32, 2**28), ids=hex)
@pytest.mark.parametrize("name", ["float32_to_float32", "missing_flag", "log1p"])
def test_every_float(name: str, start: int) -> None:
    """All 2**32 bit patterns, 2**22 at a time; all of log1p takes half an hour."""
    kernel = next(k for k in DENSE if k.name == name)
    none = np.zeros(0, np.float32)
    missing = np.zeros(2**22, np.uint8)
    for first in range(start, start + 2**28, 2**22):
        values = np.arange(first, first + 2**22, dtype=np.uint64).astype(np.uint32).view(np.float32)
        check(kernel, values, missing, none, none)
