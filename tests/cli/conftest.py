"""A stranger's data: every type that a Parquet file may bring, and a label that can be learnt from some of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intune_gpu.cli.command import main

ROWS = 12_000

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A function that runs the command inside this process, in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str, str]:
        code = main([str(word) for word in arguments])
        return code, *capfd.readouterr()

    return command


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file of `stranger_table`, with a space in its name, in several row groups."""
    path = tmp_path_factory.mktemp("cli") / "my logs.parquet"
    pq.write_table(stranger_table(), path, row_group_size=5_000)
    return path


def stranger_table() -> pa.Table:
    rng = np.random.default_rng(3)
    rows = np.arange(ROWS)
    user, city = rng.integers(0, 200, ROWS), rng.integers(0, 12, ROWS)
    tags = [rng.integers(0, 40, size).tolist() for size in rng.integers(0, 5, ROWS)]
    price = rng.lognormal(2, 1.2, ROWS)
    liked = rng.normal(size=40)
    logit = 1.8 * rng.normal(size=200)[user] + rng.normal(size=12)[city] - 0.8 * (np.log1p(price) - 2)
    logit += np.array([liked[each].mean() if each else 0.0 for each in tags])
    label = (rng.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    columns: dict[str, Any] = {
        "row": rows,
        "user.id": [f"u{each:04}" for each in user],
        "city": pa.array([f"c{each}" for each in city]).dictionary_encode(),
        "price": pa.array(price, mask=rng.random(ROWS) < 0.1),
        "temp": rng.normal(20, 5, ROWS).astype(np.float32),
        "views": rng.poisson(9, ROWS).astype(np.int32),
        "tags": pa.array(tags, pa.list_(pa.int64())),
        "words": [[f"w{tag}" for tag in each] or None for each in tags],
        "history": pa.array([[1, 2, 3] * 30, [4]] * (ROWS // 2)),
        "is_new": rng.random(ROWS) < 0.3,
        "cookie": [f"{each * 2654435761 % 2**32:08x}" for each in user.tolist()],
        "infinite": np.where(rng.random(ROWS) < 0.01, np.inf, rng.normal(size=ROWS)),
        "half": rng.normal(size=ROWS).astype(np.float16),
        "view": pa.array(["a", "b"] * (ROWS // 2), pa.string_view()),
        "when": [datetime(2024, 1, 1) + timedelta(minutes=each) for each in rows.tolist()],
        "instant": pa.array(rows * 1_000_001 + 7, pa.timestamp("ns")),
        "seen_at": 1_700_000_000 + rng.integers(0, 10**6, ROWS),
        "bid": pa.array([Decimal(int(each * 100)).scaleb(-2) for each in price], pa.decimal128(12, 2)),
        "geo": pa.array([{"lat": 1.0, "lon": 2.0}] * ROWS),
        "attributes": pa.array([[("k", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
        "nested": pa.array([[[1]]] * ROWS),
        "embedding": pa.array([[0.1, 0.2]] * ROWS),
        "nothing": pa.nulls(ROWS),
        "void": pa.nulls(ROWS, pa.float64()),
        "one": ["x"] * ROWS,
        "copy": np.where(label == 1, "yes", "no"),
        "paid": pa.array(price, mask=label == 0),
        "clicked": label,
    }
    return pa.table(columns)
