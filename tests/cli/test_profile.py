"""What is said of a column: exact where all rows were seen, an honest estimate where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intune_gpu.cli.profile import Profile, estimate_distinct, profile
from intune_gpu.cli.rules import buckets, choose
from intune_gpu.recipe import Clip, FillMissing, HashBucket, Log1p, MissingFlag, Scale
from intune_gpu.sources.sampling_parquet import sample_parquet


@pytest.fixture
def profiled(tmp_path: Path) -> Any:
    """A function that profiles one column."""

    def look(values: Any, rows: int = 10**6, name: str = "x") -> Profile:
        pq.write_table(pa.table({name: values}), tmp_path / "a.parquet", row_group_size=1_000)
        return profile(name, sample_parquet([str(tmp_path / "a.parquet")], rows))

    return look


@pytest.mark.parametrize("values", [300, 3_000, 30_000, 10**6])
def test_distinct_values_are_estimated_from_a_tenth_of_the_rows(values: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, values, 200_000)
    _, counts = np.unique(rng.choice(rows, 20_000, replace=False), return_counts=True)
    assert estimate_distinct(counts, len(rows)) == pytest.approx(len(np.unique(rows)), rel=0.1)


def test_an_estimate_is_exact_at_the_ends() -> None:
    ones = np.ones(50, np.int64)
    assert estimate_distinct(ones, 50) == 50  # all rows seen
    assert estimate_distinct(ones, 5_000) == 5_000  # every value once: every row is another
    assert estimate_distinct(np.full(10, 5), 5_000) == 10  # no value seen once: no more to come
    assert estimate_distinct(np.array([], np.int64), 0) == 0


def test_missing_is_null_and_nan(profiled: Any) -> None:
    found = profiled(pa.array([None, float("nan"), 1.0, 2.0]))
    assert (found.missing, found.missing_exact, found.distinct, found.minimum, found.maximum) == (
        0.5,
        True,
        2,
        1.0,
        2.0,
    )
    nan = [float("nan"), *[1.0] * 9_999]
    found = profiled(nan, rows=10_000)
    assert (found.missing, found.missing_exact) == (0.0001, True)
    found = profiled([1.0, *[float("nan")] * 9_999], rows=100)
    assert found.missing_exact is False
    found = profiled([None, *[1.0] * 9_999], rows=100)
    assert (found.missing, found.missing_exact, found.distinct_exact) == (0.0001, True, False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["x"] * 100, "constant"),
        (pa.nulls(100, pa.string()), "all missing"),
        ([f"{i}-{i * 7}" for i in range(100)], "nearly every value is different"),
        ([f"{i * 2654435761 % 2**32:08x}" for i in range(30)] * 4, "8 hex digits"),
        (["1", "-22", "3"] * 40, "integers stored as text"),
        (["x"] * 995 + ["y"] * 5, "one value in 99.5 % of rows"),
        ([None, "x"] * 50, "one value, or missing"),
        (pa.array([1] * 100, pa.timestamp("s")), "is a time"),
    ],
)
def test_what_looks_odd_is_said(profiled: Any, values: Any, words: str) -> None:
    assert any(words in each for each in profiled(values).odd)


def test_what_looks_usual_is_not(profiled: Any) -> None:
    for values in (["a", "b", None] * 40, [1, 2, 3] * 40, [1.5, 2.5] * 60, [[1], [2, 3]] * 50):
        assert profiled(values).odd == ()


@pytest.mark.parametrize(
    ("name", "values", "use", "ops"),
    [
        ("user_id", np.arange(500) % 100, "sparse", (HashBucket(512),)),
        ("itemId", np.arange(500) % 100, "sparse", (HashBucket(512),)),
        ("level", np.arange(500) % 7, "sparse", (HashBucket(32),)),
        ("n_clicks", np.arange(490) % 7, "dense", (FillMissing(3), Scale(3, 2))),
        ("x", np.random.default_rng(0).integers(0, 2**60, 20)[np.arange(500) % 20], "sparse", (HashBucket(128),)),
        ("x", np.random.default_rng(0).integers(0, 2**60, 200)[np.arange(500) % 200], "sparse", (HashBucket(1024),)),
        ("x", (np.arange(500) % 250) ** 4, "dense", (FillMissing(), Clip(min=0.0), Log1p())),
        ("income", np.arange(500) * 130 + 20_000, "left out", ()),
        ("income", np.arange(500) % 400 * 130 + 20_000, "dense", (FillMissing(42035), Scale(42035, 15618))),
        ("x", [None, 3.5] * 250, "dense", (MissingFlag(),)),
        ("ok", [True, None] * 250, "dense", (MissingFlag(),)),
        ("ok", [True, False] * 250, "dense", (FillMissing(0.0),)),
        ("row", np.arange(500), "left out", ()),
        ("user_id", np.random.default_rng(0).permutation(500), "left out", ()),
        ("price", np.random.default_rng(0).permutation(500), "dense", (FillMissing(249.5), Scale(249.5, 144.337))),
        ("x", np.full(500, 7), "left out", ()),
        ("big", np.arange(500) * 1e300, "left out", ()),
    ],
)
def test_what_becomes_of_a_column(profiled: Any, name: str, values: Any, use: str, ops: tuple[Any, ...]) -> None:
    (choice,) = choose([profiled(values, name=name)], "label", {})
    assert (choice.use, choice.ops) == (use, ops), choice.why
    assert choice.why or use == "sparse"


def test_buckets_are_four_times_the_values_within_bounds() -> None:
    assert [buckets(n) for n in (0, 1, 4, 5, 1_000, 1_024, 10**9)] == [16, 16, 16, 32, 4096, 4096, 1 << 20]
