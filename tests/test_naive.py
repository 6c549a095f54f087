"""The oracle itself: values worked out by hand, by other libraries, or by exact arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import naive

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
INF, NAN = float("inf"), float("nan")


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def bits(x: np.ndarray) -> list[int]:
    return np.asarray(x, np.float32).view(np.uint32).tolist()


# ---------------------------------------------------------------------------------------------------------------- hash


def test_xxh64_published_values():
    """From the xxHash specification's own test bench: the empty input, and "xxhash" as Python's xxhash documents it."""
    assert naive.id64("", 0) == 0xEF46DB3751D8E999
    assert naive.id64("xxhash", 0) == 3665147885093898016
    assert naive.id64("xxhash", 20141025) == 13067679811253438005


def test_id64_is_the_8_bytes_of_the_value():
    assert naive.id64(5, 7) == naive.id64(b"\x05" + bytes(7), 7)
    assert naive.id64(-1, 7) == naive.id64(b"\xff" * 8, 7) == naive.id64(2**64 - 1, 7)
    assert naive.id64(True, 7) == naive.id64(1, 7)
    assert naive.id64("é", 0) == naive.id64(b"\xc3\xa9", 0)
    with pytest.raises(TypeError):
        naive.id64(1.0, 0)  # type: ignore[arg-type]


def test_bucket_is_multiply_shift():
    assert [naive.bucket(h << 32, 4) for h in (0, 2**30 - 1, 2**30, 2**31, 2**32 - 1)] == [0, 0, 1, 2, 3]
    assert naive.bucket(2**64 - 1, 2**31) == 2**31 - 1
    assert naive.bucket(2**64 - 1, 1) == 0


def test_hash_bucket_keeps_reserved_ids_for_missing():
    assert naive.hash_bucket(None, 10, 3, 99) == 0
    assert {naive.hash_bucket(v, 5, 3, 99) for v in range(200)} == {3, 4}
    assert naive.hash_bucket("x", 2, 1, 0) == 1


def test_cross_has_an_order_and_does_not_cancel():
    ids = [naive.cross(v, 2**31, 1, 0) for v in ((1, 2), (2, 1), (1, 1), (2, 2), (None, 1), (None, None))]
    assert len(set(ids)) == len(ids)
    assert naive.cross((None, 1), 2**31, 1, 0) != naive.cross((0, 1), 2**31, 1, 0)


@pytest.mark.parametrize(
    ("value", "n", "result"),
    [(-5, 3, 1), (5, 3, 2), (-128, 1000, 872), (2**64 - 1, 10, 5), (-(2**63), 7, 6), (None, 7, 0), (True, 2, 1)],
)
def test_modulo(value, n, result):
    assert naive.modulo(value, n) == result


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("68fd1e64", 0x68FD1E64),
        ("FF", 255),
        ("0", 0),
        (b"aB", 171),
        ("", None),
        (None, None),
        (-1, 0xFFFFFFFF),
        (2**40 + 3, 3),
    ],
)
def test_hex32(value, result):
    assert naive.hex32(value) == result


@pytest.mark.parametrize("text", ["123456789", "xyz", "0x12", " 1", "1_0", "-1", "\uff11"])
def test_hex32_refuses(text):
    with pytest.raises(ValueError, match="hex"):
        naive.hex32(text)


# ------------------------------------------------------------------------------------------------------------- numbers


@given(st.integers(-(2**63), 2**64 - 1))
def test_int_to_float32_is_the_nearest_even(value):
    got = naive.int_to_float32(value)
    assert got == np.float32(got)
    x = np.float32(got)
    for other in (np.nextafter(x, np.float32(-INF)), np.nextafter(x, np.float32(INF))):
        here, there = abs(Fraction(got) - value), abs(Fraction(float(other)) - value)
        assert here < there or (here == there and int(x.view(np.uint32)) & 1 == 0)


def test_int_to_float32_rounds_once():
    """Through float64 this value would round down to a tie, then to even."""
    value = 2**60 + 2**36 + 1
    assert naive.int_to_float32(value) == float(2**60 + 2**37)
    assert float(np.float32(float(value))) == float(2**60)


def test_missing_is_null_or_nan_of_the_input():
    col = naive.numbers([1, None, NAN, INF, -0.0])
    assert col.missing.tolist() == [False, True, True, False, False]
    assert bits(naive.fill_missing(col, 2.0).x) == bits(f32(1, 2, 2, INF, -0.0))
    assert naive.missing_flag(col).x.tolist() == [0, 1, 1, 0, 0]
    computed = naive.log1p(naive.numbers([-2.0, None]))
    assert naive.fill_missing(computed, 5.0).missing.tolist() == [False, False]
    assert bits(naive.fill_missing(computed, 5.0).x) == [naive.CANONICAL_NAN_BITS, bits(f32(5.0))[0]]


def test_clip_compares_and_selects():
    col = naive.numbers([NAN, -0.0, 0.0, -1e-45, 3.0, INF, -INF])
    assert bits(naive.clip(col, 0.0, 2.0).x)[1:] == bits(f32(-0.0, 0.0, 0.0, 2.0, 2.0, 0.0))
    assert np.isnan(naive.clip(col, 0.0, 2.0).x[0])
    assert bits(naive.clip(col, None, None).x) == bits(col.x)


def test_scale_rounds_each_step():
    x, mean = np.float32(16777216), np.float32(0.1)
    step = Fraction(float(np.float32(Fraction(float(x)) - Fraction(float(mean)))))
    assert naive.scale(naive.numbers([float(x)]), 0.1, 3.0).x[0] == np.float32(float(step / 3))


def test_bucketize_counts_borders_at_or_below():
    col = naive.numbers([-1.0, 0.0, -0.0, 0.5, 1.0, 9.0, INF, -INF, NAN])
    assert naive.bucketize(col, [0.0, 1.0]).x.tolist()[:8] == [0, 1, 1, 1, 2, 2, 2, 0]
    assert naive.bucketize(col, [0.0, 1.0]).missing.tolist() == [False] * 8 + [True]
    assert naive.bucketize(naive.log1p(naive.numbers([-2.0])), [0.0]).x.tolist() == [0]


def test_canonical_nan():
    odd = np.array([0x7FC00001, 0xFFC00000, 0x7F800001, 0x3F800000], np.uint32).view(np.float32)
    assert bits(naive.canonical(odd)) == [naive.CANONICAL_NAN_BITS] * 3 + [0x3F800000]


# --------------------------------------------------------------------------------------------------------------- log1p


def fma_exact(a: float, b: float, c: float) -> float:
    """Return the fused multiply-add of three finite float32 values exactly: what `naive.fma` is judged by."""
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if total == 0:
        return float(np.float64(a) * np.float64(b) + np.float64(c))  # exact, and gives the zero its sign
    guess = np.float32(float(total))
    with np.errstate(over="ignore", under="ignore"):
        near = (np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf)))
    best = min(
        (v for v in near if np.isfinite(v)), key=lambda v: (abs(Fraction(float(v)) - total), int(v.view(np.uint32)) & 1)
    )
    return float(best) if best != 0 else float(np.copysign(0.0, float(total.numerator)))


@given(FLOAT32, FLOAT32, FLOAT32)
def test_fma_rounds_once(a, b, c):
    got = naive.fma(f32(a), f32(b), f32(c))
    if np.isfinite(got[0]):
        assert bits(got) == bits(f32(fma_exact(a, b, c)))


def test_fma_where_two_roundings_go_wrong():
    a, b, c = 1.0 + 2.0**-23, 1.0 + 2.0**-23, 2.0**-120
    assert bits(naive.fma(f32(a), f32(b), f32(c))) == bits(f32(fma_exact(a, b, c)))
    a, b, c = 2.0**-24, 1.0, 1.0  # a tie, and just beside it
    assert naive.fma(f32(a), f32(b), f32(c))[0] == 1.0
    assert naive.fma(f32(a), f32(1.0 + 2.0**-23), f32(c))[0] == np.float32(1.0 + 2.0**-23)


def spread(count: int, seed: int = 0) -> np.ndarray:
    """Return finite float32 above -1, spread evenly over the bit patterns, with both sides of every power of two."""
    patterns = np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    powers = (np.arange(256, dtype=np.uint32) << 23)[:, None] + np.arange(-3, 4, dtype=np.int32).astype(np.uint32)
    x = np.concatenate([patterns, powers.ravel(), powers.ravel() | np.uint32(2**31)]).view(np.float32)
    return np.unique(x[np.isfinite(x) & (x > -1)])


def test_log1p_rounded_against_mpmath():
    mpmath = pytest.importorskip("mpmath")
    x = spread(400, seed=5)[::3]
    with mpmath.workprec(400):
        exact = [mpmath.log1p(mpmath.mpf(float(v))) for v in x]
        got = naive.log1p_rounded(x)
        for value, result in zip(exact, got, strict=True):
            here = abs(value - mpmath.mpf(float(result)))
            for direction in (-INF, INF):
                other = np.nextafter(result, np.float32(direction))
                assert here <= abs(value - mpmath.mpf(float(other)))


def test_log1p_model_is_within_1_ulp_and_monotone():
    x = spread(300_000)
    got, right = naive.log1p_model(x), naive.log1p_rounded(x)
    distance = naive.ulps(got, right)
    assert distance.max() <= 1
    assert (distance == 0).mean() > 0.98  # NUMERICS.md: 98.3 %
    assert (np.diff(got) >= 0).all()


@pytest.mark.parametrize("start", [0x3E800000, 0x3EFFFF00, 0x3F000000, 0xBE7FFF00, 0xBE800000, 0xBF7FFF00])
def test_log1p_model_is_monotone_step_by_step(start):
    x = np.arange(start, start + 0x10000, dtype=np.uint32).view(np.float32)
    steps = np.diff(naive.log1p_model(x[x > -1]))
    assert (steps >= 0).all() if start < 2**31 else (steps <= 0).all()


def test_log1p_special_values():
    x = f32(0.0, -0.0, -1.0, INF, -INF, NAN, -2.0, np.nextafter(f32(-1)[0], f32(-2)[0]), 1e-45, -1e-45)
    nan = naive.CANONICAL_NAN_BITS
    expected = [*bits(f32(0.0, -0.0, -INF, INF)), nan, nan, nan, nan, *bits(f32(1e-45, -1e-45))]
    assert bits(naive.log1p_model(x)) == expected
    assert bits(naive.log1p_rounded(x)) == expected


def test_log1p_known_values():
    x = f32(1.0, 9.0, -0.5, 3.4028235e38)
    exact = [0.6931471805599453, 2.302585092994046, -0.6931471805599453, 88.722839111673]
    assert bits(naive.log1p_rounded(x)) == bits(np.array(exact, np.float32))


# ------------------------------------------------------------------------------------------------------- whole recipes


def op(kind: str, /, **fields: object) -> object:
    return type(kind, (SimpleNamespace,), {})(**fields)


@dataclass
class FakeRecipe:
    dense: dict[str, list[object]]
    sparse: dict[str, list[object]]
    label: str = "y"
    types: dict[str, str] | None = None
    seed: int = 3


def test_transform_by_hand():
    columns = {
        "y": [1, 0, 1],
        "I": [None, 4, -3],
        "h": ["ff", "", None],
        "s": ["", "a", None],
        "g": [["a", None, "b"], None, []],
    }
    recipe = FakeRecipe(
        dense={
            "I": [op("FillMissing", value=1.0), op("Clip", min=0.0, max=None)],
            "flag": [op("Column", name="I"), op("MissingFlag")],
        },
        sparse={
            "h": [op("Modulo", n=100)],
            "s": [op("HashBucket", num_buckets=50, reserved=2, salt=None)],
            "g": [op("FirstK", k=2), op("HashBucket", num_buckets=50, reserved=1, salt="t")],
            "b": [op("Column", name="I"), op("Bucketize", borders=(0.0, 4.0))],
            "x": [op("Cross", columns=("s", "I"), num_buckets=99, reserved=1, salt=None)],
        },
        types={"h": "hex32"},
    )
    dense, sparse, label = naive.transform(columns, recipe)
    assert dense.tolist() == [[1, 1], [4, 0], [0, 0]]
    assert dense.dtype == label.dtype == np.float32
    assert label.tolist() == [1, 0, 1]
    s, t, x = (naive.feature_seed(salt, 3) for salt in "stx")
    assert sparse == {
        "h": [[55], [0], [0]],
        "s": [[2 + naive.bucket(naive.id64(v, s), 48)] for v in ("", "a")] + [[0]],
        "g": [[1 + naive.bucket(naive.id64("a", t), 49), 0], [], []],
        "b": [[0], [2], [0]],
        "x": [[naive.cross(row, 99, 1, x)] for row in (("", None), ("a", 4), (None, -3))],
    }


def test_transform_needs_to_be_told_of_lists_that_are_all_missing():
    recipe = FakeRecipe(dense={}, sparse={"g": [op("Modulo", n=5)]})
    columns = {"y": [0], "g": [None]}
    assert naive.transform(columns, recipe)[1] == {"g": [[0]]}
    assert naive.transform(columns, recipe, lists=["g"])[1] == {"g": [[]]}
    assert naive.transform(columns, recipe)[0].shape == (1, 0)
