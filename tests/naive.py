"""The plain meaning of every op, written from DESIGN.md 6 and 7 alone: what all implementations are compared with.

Slow on purpose. Nothing here imports `intune_gpu`: ops are told apart by their class's name. A column is a list of
Python values (`None`, int, bool, float, str, bytes, or a list of these; a missing list is `None`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import xxhash

CANONICAL_NAN_BITS = 0x7FC00000
WORD = 2**64

# ---------------------------------------------------------------------------------------------------- hash, version 1


def id64(value: int | str | bytes, seed: int) -> int:
    """Return XXH64 of an integer's 8 little-endian bytes, a string's UTF-8 bytes, or a binary's bytes."""
    if isinstance(value, str):
        data = value.encode("utf-8")
    elif isinstance(value, bytes):
        data = value
    elif isinstance(value, int):  # bool is an int
        data = (int(value) % WORD).to_bytes(8, "little")
    else:
        raise TypeError(f"id64: expected an integer, string or bytes, found {value!r}")
    return xxhash.xxh64_intdigest(data, seed=seed)


def feature_seed(salt: str, recipe_seed: int) -> int:
    """Return XXH64 of the salt's UTF-8 bytes, seeded by the recipe's seed."""
    return xxhash.xxh64_intdigest(salt.encode("utf-8"), seed=recipe_seed)


def bucket(h: int, n: int) -> int:
    """Return Lemire's multiply-shift of a 64-bit hash onto `0 .. n - 1`."""
    assert 1 <= n <= 2**31
    return ((h >> 32) * n) >> 32


def hash_bucket(value: int | str | bytes | None, n: int, reserved: int, seed: int) -> int:
    """Return 0 for a missing value, else `reserved + bucket(id64(value, seed), n - reserved)`."""
    return 0 if value is None else reserved + bucket(id64(value, seed), n - reserved)


def cross(values: Sequence[int | str | bytes | None], n: int, reserved: int, seed: int) -> int:
    """Return the bucket of XXH64 over the `id64(value, 0)` words; a missing value gives the word 0."""
    words = b"".join((0 if v is None else id64(v, 0)).to_bytes(8, "little") for v in values)
    return reserved + bucket(xxhash.xxh64_intdigest(words, seed=seed), n - reserved)


def modulo(value: int | None, n: int) -> int:
    """Return the non-negative remainder, 0 for a missing value."""
    return 0 if value is None else int(value) % n


def hex32(value: int | str | bytes | None) -> int | None:
    """Return the 32-bit id that 1 to 8 hex digits write, or an integer modulo 2**32; None for missing or empty."""
    if value is None or value in ("", b""):
        return None
    if isinstance(value, int):
        return int(value) % 2**32
    text = value.decode("ascii") if isinstance(value, bytes) else value
    if re.fullmatch(r"[0-9a-fA-F]{1,8}", text) is None:
        raise ValueError(f"hex32: expected 1 to 8 hex digits, found {text!r}")
    return int(text, 16)


def first_k(values: list[Any], k: int) -> list[Any]:
    """Return the first `k` elements."""
    return values[:k]


# ------------------------------------------------------------------------------------------------------------ numbers


@dataclass(frozen=True)
class Numbers:
    """A column in the middle of a chain.

    Missing is a fact about the input (null, or NaN in a float column) and travels beside the value: a NaN that an op
    computes, as Log1p of -2, is a value.
    """

    x: np.ndarray  # (rows,) f32, NaN where missing
    missing: np.ndarray  # (rows,) bool


def int_to_float32(value: int) -> float:
    """Return the integer rounded once, to nearest even, to 24 bits."""
    sign, magnitude = (-1, -value) if value < 0 else (1, value)
    shift = max(magnitude.bit_length() - 24, 0)
    kept, rest, half = magnitude >> shift, magnitude & ((1 << shift) - 1), (1 << shift) >> 1
    if shift and (rest > half or (rest == half and kept & 1)):
        kept += 1
    return float(sign * (kept << shift))  # at most 24 significant bits: exact


def float_to_float32(values: Any) -> np.ndarray:
    """Round float64 values to float32, to nearest even; beyond the range gives an infinity."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values, np.float64).astype(np.float32)


def numbers(values: Sequence[int | float | None]) -> Numbers:
    """Bring a numeric column to float32: integers directly, never through float64."""
    missing = [v is None or v != v for v in values]
    exact = [int_to_float32(int(v)) if isinstance(v, int) else np.nan if v is None else v for v in values]
    return Numbers(float_to_float32(exact), np.array(missing, bool))


def fill_missing(col: Numbers, value: float) -> Numbers:
    """Put `value` where the input was missing."""
    return Numbers(np.where(col.missing, np.float32(value), col.x), np.zeros_like(col.missing))


def clip(col: Numbers, low: float | None, high: float | None) -> Numbers:
    """Compare and select: NaN stays, and -0.0 is not below 0.0."""
    x = col.x
    if low is not None:
        x = np.where(x < np.float32(low), np.float32(low), x)
    if high is not None:
        x = np.where(x > np.float32(high), np.float32(high), x)
    return Numbers(x, col.missing)


def scale(col: Numbers, mean: float, std: float) -> Numbers:
    """Return `(x - mean) / std`, each step rounded to float32."""
    with np.errstate(all="ignore"):
        return Numbers((col.x - np.float32(mean)) / np.float32(std), col.missing)


def bucketize(col: Numbers, borders: Sequence[float]) -> Numbers:
    """Return the number of borders <= x; none is <= NaN. Missing stays missing."""
    count = np.zeros(len(col.x), np.float32)
    for border in borders:
        count += (np.float32(border) <= col.x).astype(np.float32)
    return Numbers(np.where(col.missing, np.float32(np.nan), count), col.missing)


def missing_flag(col: Numbers) -> Numbers:
    """Return 1.0 where the input was missing, else 0.0."""
    return Numbers(col.missing.astype(np.float32), np.zeros_like(col.missing))


def log1p(col: Numbers) -> Numbers:
    """Return `log(1 + x)`, bit for bit the published recipe."""
    return Numbers(log1p_model(col.x), col.missing)


def canonical(x: np.ndarray) -> np.ndarray:
    """Map every NaN to 0x7fc00000."""
    return np.where(np.isnan(x), np.array(CANONICAL_NAN_BITS, np.uint32).view(np.float32), x)


# ------------------------------------------------------------------------------------- log1p, as NUMERICS.md writes it

LOG1P_Q = (
    -0.5,
    0.33333471417427063,
    -0.24996362626552582,
    0.19982294738292694,
    -0.167887344956398,
    0.14904600381851196,
    -0.12114960700273514,
    0.05560488998889923,
)
LN2 = np.float32(0.6931471805599453)


def fma(a: Any, b: Any, c: Any) -> np.ndarray:
    """Return `a * b + c` of float32 arrays, rounded once.

    The product is exact in float64. The sum is rounded to odd there (Boldo and Melquiond, "Emulation of FMA and
    correctly rounded sums", 2008), which makes the second rounding, to float32, the right one.
    """
    with np.errstate(all="ignore"):
        product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
        addend = np.asarray(c, np.float64)
        total = product + addend
        part = total - product
        error = (product - (total - part)) + (addend - part)
        even = (total.view(np.uint64) & np.uint64(1)) == 0
        inexact = np.isfinite(total) & (error != 0)
        odd = np.where(inexact & even, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
        return odd.astype(np.float32)


def log1p_model(x: np.ndarray) -> np.ndarray:
    """Return the float32-exact result of the recipe in NUMERICS.md: `p(m) + k ln 2`, `p(m) = m + m^2 q(m)`.

    Of the orders that "Estrin" can mean, pairs and then Horner in m^2 is the one that has the published error, 1.40 ulp
    (with m^4 it would be 1.49).
    """
    x = np.atleast_1d(np.asarray(x, np.float32))
    with np.errstate(all="ignore"):
        domain = (x > -1) & np.isfinite(x)
        safe = np.where(domain, x, np.float32(0))
        u = safe + np.float32(1)
        # u = 2^k * v with v in [0.75, 1.5)
        k = (u.view(np.int32) - np.int32(0x3F400000)) >> 23
        scaled = np.ldexp(safe.astype(np.float64), -k).astype(np.float32)  # exact
        less_one = (1.0 - np.ldexp(1.0, -k)).astype(np.float32)
        m = scaled - less_one
        q01, q23, q45, q67 = (fma(np.float32(LOG1P_Q[i + 1]), m, np.float32(LOG1P_Q[i])) for i in (0, 2, 4, 6))
        m2 = m * m
        q = fma(fma(fma(q67, m2, q45), m2, q23), m2, q01)
        result = fma(k.astype(np.float32), LN2, fma(m2, q, m))
    result = np.where(safe == 0, safe, result)
    result = np.where(domain, result, np.where(x == -1, np.float32(-np.inf), x))
    return canonical(np.where(x < -1, np.float32(np.nan), result))


def log1p_rounded(x: np.ndarray) -> np.ndarray:
    """Return `log(1 + x)` correctly rounded: float64 where that decides, 120 decimal digits where not."""
    x = np.asarray(x, np.float32)
    with np.errstate(all="ignore"):
        near = np.log1p(x.astype(np.float64))
        slack = np.abs(near) * 2.0**-50
        result = near.astype(np.float32)
        unsure = np.isfinite(near) & ((near - slack).astype(np.float32) != (near + slack).astype(np.float32))
    with localcontext() as context:
        context.prec = 120
        for i in np.flatnonzero(unsure):
            exact = (Decimal(1) + Decimal(float(x[i]))).ln()
            low, high = np.float32(near[i] - slack[i]), np.float32(near[i] + slack[i])
            middle = (Decimal(float(low)) + Decimal(float(high))) / 2
            result[i] = low if exact < middle else high
    return canonical(result)


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how many float32 steps lie between a and b (0 between NaN and NaN, huge between NaN and a number)."""

    def line(v: np.ndarray) -> np.ndarray:
        bits = np.asarray(v, np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    nan_a, nan_b = np.isnan(a), np.isnan(b)
    return np.where(nan_a | nan_b, np.where(nan_a & nan_b, 0, 2**32), np.abs(line(a) - line(b)))


# ------------------------------------------------------------------------------------------------------- whole recipes

Chain = Sequence[Any]
STEPS: dict[str, Callable[[Numbers, Any], Numbers]] = {
    "FillMissing": lambda col, op: fill_missing(col, op.value),
    "Clip": lambda col, op: clip(col, op.min, op.max),
    "Log1p": lambda col, op: log1p(col),
    "Scale": lambda col, op: scale(col, op.mean, op.std),
    "Bucketize": lambda col, op: bucketize(col, op.borders),
    "MissingFlag": lambda col, op: missing_flag(col),
}


def kind(op: Any) -> str:
    """Return the op's name."""
    return type(op).__name__


def numeric(values: Sequence[Any], chain: Chain) -> Numbers:
    """Run a chain of numeric ops over one column's values."""
    col = numbers(values)
    for op in chain:
        col = STEPS[kind(op)](col, op)
    return col


def input_of(feature: str, chain: Chain) -> tuple[str, list[Any]]:
    """Return the column that a feature reads and the ops behind it."""
    ops = list(chain)
    if ops and kind(ops[0]) == "Column":
        return ops[0].name, ops[1:]
    return feature, ops


def ids_of(values: Sequence[Any], ops: Chain, feature: str, seed: int) -> list[int]:
    """Return one id a value by the terminal op; a missing value gives 0."""
    op = ops[-1]
    values = [None if isinstance(v, float) and v != v else v for v in values]
    if kind(op) == "HashBucket":
        salt = feature_seed(feature if op.salt is None else op.salt, seed)
        return [hash_bucket(v, op.num_buckets, op.reserved, salt) for v in values]
    if kind(op) == "Modulo":
        return [modulo(v, op.n) for v in values]
    assert kind(op) == "Bucketize", op
    col = numeric(values, ops)
    return [0 if missing else int(x) for x, missing in zip(col.x, col.missing, strict=True)]


def sparse_feature(columns: Mapping[str, Sequence[Any]], feature: str, chain: Chain, seed: int) -> list[list[int]]:
    """Return a list of ids a row."""
    name, ops = input_of(feature, chain)
    if kind(ops[-1]) == "Cross":
        op = ops[-1]
        salt = feature_seed(feature if op.salt is None else op.salt, seed)
        rows = zip(*(columns[c] for c in op.columns), strict=True)
        return [[cross(row, op.num_buckets, op.reserved, salt)] for row in rows]
    values = columns[name]
    if not any(isinstance(v, list) for v in values):
        return [[i] for i in ids_of(values, ops, feature, seed)]
    values = [[] if v is None else v for v in values]
    if kind(ops[0]) == "FirstK":
        values, ops = [first_k(v, ops[0].k) for v in values], ops[1:]
    return [ids_of(v, ops, feature, seed) for v in values]


def transform(
    columns: Mapping[str, Sequence[Any]], recipe: Any, lists: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, list[list[int]]], np.ndarray]:
    """Interpret a whole recipe.

    Args:
        columns: by name, as long as each other.
        recipe: anything with `label`, `dense`, `sparse`, `types` and `seed`.
        lists: columns of lists in which no row need hold one.

    Returns:
        dense (rows, D) float32; by sparse feature, one list of ids a row; label (rows,) float32.
    """
    columns = dict(columns)
    for name, declared in (recipe.types or {}).items():
        if declared == "hex32" and name in columns:
            columns[name] = [[hex32(e) for e in v] if isinstance(v, list) else hex32(v) for v in columns[name]]
    for name in lists:
        columns[name] = [[] if v is None else v for v in columns[name]]
    rows = len(next(iter(columns.values())))
    dense = np.empty((rows, len(recipe.dense)), np.float32)
    for i, (feature, chain) in enumerate(recipe.dense.items()):
        name, ops = input_of(feature, chain)
        dense[:, i] = canonical(numeric(columns[name], ops).x)
    sparse = {f: sparse_feature(columns, f, chain, recipe.seed) for f, chain in recipe.sparse.items()}
    return dense, sparse, numbers(columns[recipe.label]).x


# ------------------------------------------------------------------------------------------------------- comparing


def jagged(sparse: Any) -> dict[str, list[list[int]]]:
    """Return a KeyedJaggedTensor's ids, by key, one list a row."""
    keys, values = sparse.keys(), sparse.values().tolist()
    lengths = sparse.lengths().reshape(len(keys), -1).tolist() if keys else []
    rest = iter(values)
    made = {key: [[next(rest) for _ in range(n)] for n in row] for key, row in zip(keys, lengths, strict=True)}
    assert next(rest, None) is None, "more values than lengths"
    return made


def differences(
    batch: Any, columns: Mapping[str, Sequence[Any]], recipe: Any, lists: Sequence[str] = (), index_dtype: str = "int64"
) -> list[str]:
    """Return what a batch has otherwise than this file, one line a feature; nothing where every bit agrees."""
    dense, sparse, label = transform(columns, recipe, lists)
    types = [str(t.dtype) for t in (batch.dense, batch.label, batch.sparse.lengths(), batch.sparse.values())]
    expected = ["torch.float32", "torch.float32", "torch.int32", f"torch.{index_dtype}"]
    found = [f"types: expected {expected}, found {types}"] if types != expected else []
    if tuple(batch.dense.shape) != dense.shape or tuple(batch.label.shape) != label.shape:
        return [*found, f"shape: expected {dense.shape} {label.shape}, found {batch.dense.shape} {batch.label.shape}"]
    if batch.sparse.keys() != list(sparse):
        return [*found, f"keys: expected {list(sparse)}, found {batch.sparse.keys()}"]
    numeric = [("label", recipe.label, label, batch.label.numpy())]
    for i, (feature, chain) in enumerate(recipe.dense.items()):
        numeric.append((feature, input_of(feature, chain)[0], dense[:, i], batch.dense[:, i].numpy()))
    for feature, column, right, got in numeric:
        a, b = (np.ascontiguousarray(v).view(np.uint32) for v in (right, got))
        if (a != b).any():
            i = int(np.flatnonzero(a != b)[0])
            words = f"expected {right[i]!r} {a[i]:#x}, found {got[i]!r} {b[i]:#x}"
            found.append(f"{feature} {recipe.dense.get(feature)}: row {i} of {columns[column][i]!r}: {words}")
    got_ids = jagged(batch.sparse)
    for feature, right_ids in sparse.items():
        for row, (a, b) in enumerate(zip(right_ids, got_ids[feature], strict=True)):
            if a != b:
                found.append(f"{feature} {recipe.sparse[feature]}: row {row}: expected {a[:9]}, found {b[:9]}")
                break
    return found
