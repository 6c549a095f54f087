from __future__ import annotations

import gc
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import intune_gpu as ig
from intune_gpu.core.errors import (
    BadRowError,
    BudgetError,
    DataError,
    IntuneError,
    RecipeError,
    ResumeError,
    TooManyBadRowsError,
)
from intune_gpu.engine import order
from intune_gpu.loader import Loader
from intune_gpu.opening import open_source, text_types
from intune_gpu.recipe.ready import CRITEO_COLUMNS, CRITEO_DENSE, CRITEO_SPARSE
from intune_gpu.sources.subset import RowRange, RowSample
from tests import conformance
from tests.conftest import SEED
from tests.shared_data import CRITEO_TINY, needs

CRITEO = ig.recipes.criteo(1000)


class TestLoader(conformance.LoaderConformance):
    def open(self, data: Path, **options: Any) -> Loader:
        return Loader(data, conformance.RECIPE, **options)

    def content(self, batch: ig.Batch) -> dict[str, np.ndarray[Any, Any]]:
        return content(batch)


def content(batch: ig.Batch) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "dense": batch.dense.numpy(),
        "label": batch.label.numpy(),
        "values": batch.sparse.values().numpy(),
        "lengths": batch.sparse.lengths().numpy(),
    }


def all_bytes(batches: Any) -> list[dict[str, bytes]]:
    return [{name: array.tobytes() for name, array in content(batch).items()} for batch in batches]


# --- formats ---------------------------------------------------------------------------------------------------------


def criteo_rows(count: int = 1500) -> list[list[str]]:
    """Rows in Criteo's text format, made up."""
    rng = random.Random(SEED)

    def field(text: str) -> str:
        return "" if rng.random() < 0.2 else text

    return [
        [
            str(rng.randint(0, 1)),
            *(field(str(rng.randint(-3, 10**4))) for _ in CRITEO_DENSE),
            *(field(f"{rng.getrandbits(32):08x}") for _ in CRITEO_SPARSE),
        ]
        for _ in range(count)
    ]


def write_all_formats(rows: list[list[str]], folder: Path) -> dict[str, Path]:
    columns = dict(zip(CRITEO_COLUMNS, zip(*rows, strict=True), strict=True))
    numbers = {
        name: pa.array([int(v) if v else None for v in columns[name]], pa.int32()) for name in ("label", *CRITEO_DENSE)
    }
    texts = {name: pa.array([v or None for v in columns[name]], pa.string()) for name in CRITEO_SPARSE}
    ints = {
        name: pa.array(np.array([int(v or "0", 16) for v in columns[name]], np.uint32).view(np.int32))
        for name in CRITEO_SPARSE
    }
    ints = {
        n: pa.array(a.to_pylist(), mask=np.array([not v for v in columns[n]]), type=pa.int32()) for n, a in ints.items()
    }
    paths = {name: folder / name for name in ("rows.tsv", "rows.tsv.gz", "rows.csv", "hex.parquet", "ints.parquet")}
    text = "".join("\t".join(row) + "\n" for row in rows)
    paths["rows.tsv"].write_text(text)
    paths["rows.tsv.gz"].write_bytes(gzip.compress(text.encode()))
    paths["rows.csv"].write_text(",".join(CRITEO_COLUMNS) + "\n" + text.replace("\t", ","))
    pq.write_table(pa.table(numbers | texts), paths["hex.parquet"], row_group_size=400)
    pq.write_table(pa.table(numbers | ints), paths["ints.parquet"], row_group_size=333)
    return paths


def check_formats(rows: list[list[str]], folder: Path) -> None:
    given = {}
    for name, path in write_all_formats(rows, folder).items():
        with Loader(path, CRITEO, batch_size=128, on_bad_row="raise") as loader:
            given[name] = all_bytes(loader)
    assert len(given["rows.tsv"]) == -(-len(rows) // 128)
    assert all(batches == given["rows.tsv"] for batches in given.values())


def test_every_format_gives_the_same_batches(tmp_path: Path) -> None:
    check_formats(criteo_rows(), tmp_path)


@needs(CRITEO_TINY)
def test_every_format_gives_the_same_batches_of_real_rows(tmp_path: Path) -> None:
    check_formats([line.split("\t") for line in CRITEO_TINY.read_text().splitlines()], tmp_path)


def test_one_shot_and_loader_agree(tmp_path: Path) -> None:
    pq.write_table(conformance.table(), tmp_path / "t.parquet", row_group_size=100)
    with Loader(tmp_path, conformance.RECIPE, batch_size=10**4) as loader:
        (batch,) = loader
    once = ig.transform(conformance.table(), conformance.RECIPE)
    assert all_bytes([batch]) == all_bytes([once])


def test_windows_of_the_real_size(tmp_path: Path) -> None:
    rows = 700_000
    data = pa.table({"label": np.zeros(rows, np.int8), "row": np.arange(rows, dtype=np.int32)})
    pq.write_table(data, tmp_path / "t.parquet", row_group_size=50_000)
    recipe = ig.Recipe("label", dense={"row": [ig.FillMissing(0.0)]})
    orders = []
    for readers in (1, 5):
        with Loader(tmp_path, recipe, shuffle=True, batch_size=4096, readers=readers, transformers=2) as loader:
            orders.append(np.concatenate([b.dense.numpy()[:, 0] for b in loader]).astype(np.int64))
    assert np.array_equal(orders[0], orders[1])
    assert np.array_equal(np.sort(orders[0]), np.arange(rows))
    window = order.WINDOW_ROWS + 50_000
    assert len(np.unique(orders[0][: order.WINDOW_ROWS] // 50_000)) == -(-order.WINDOW_ROWS // 50_000)
    assert not np.array_equal(np.sort(orders[0][:window]), orders[0][:window])


# --- opening ---------------------------------------------------------------------------------------------------------

PLAIN = ig.Recipe("y", dense={"x": [ig.FillMissing(0.0)]}, sparse={"c": [ig.HashBucket(10)], "m": [ig.Modulo(7)]})


def dense_of(path: Path, recipe: ig.Recipe = PLAIN, **options: Any) -> list[float]:
    with Loader(path, recipe, max_bad_fraction=1.0, on_bad_row="drop", **options) as loader:
        return [float(v) for batch in loader for v in batch.dense[:, 0]]


def test_csv_has_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('other,c,m,x,y\n,"a, b",5,1.5,0\n,"",6,2.5,1\n')
    assert dense_of(path) == [1.5, 2.5]
    assert dense_of(path, columns=["other", "c", "m", "x", "y"]) == [1.5, 2.5]
    source = open_source(path, PLAIN)
    assert {name: str(kind) for name, kind in source.schema.items()} == {
        "y": "float64",
        "x": "float64",
        "c": "string",
        "m": "int64",
    }
    source.close()


def test_headerless_text_needs_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("0\t1.5\ta\t5\n1\t2.5\tb\t6\n")
    with pytest.raises(
        RecipeError, match=r"a\.tsv: expected a header with the columns y, x, c, m.*found a first row of 4"
    ):
        dense_of(path)
    assert dense_of(path, columns=["y", "x", "c", "m"]) == [1.5, 2.5]
    path.write_text("y\tx\tc\tm\n0\t1.5\ta\t5\n")
    assert dense_of(path) == [1.5]
    renamed = path.rename(tmp_path / "a.log")
    with pytest.raises(DataError, match=r'a\.log: .*pass format="parquet", "tsv" or "csv"'):
        dense_of(renamed)
    assert dense_of(renamed, format="tsv") == [1.5]


def test_types_of_text() -> None:
    crossed = ig.Recipe("y", sparse={"x": [ig.Cross(["a", "b"], 10)], "b": [ig.Bucketize([1.0])]}, types={"a": "hex32"})
    with pytest.raises(RecipeError, match=r'column "b": expected one use.*types={"b": "int64"}'):
        text_types(crossed)
    assert text_types(ig.Recipe("y", sparse={"a": [ig.HashBucket(9)]}, types={"a": "int64"}))["a"] == "int64"
    undeclared = ig.Recipe("label", dense={"I1": [ig.FillMissing(0)]}, sparse={"C1": [ig.HashBucket(9)]})
    assert text_types(undeclared, criteo=True) == {"label": "int64", "I1": "int64", "C1": "hex32"}


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing there"):
        Loader(tmp_path / "none.parquet", PLAIN)
    (tmp_path / "a.csv").write_text("y,x\n0,1\n")
    pq.write_table(pa.table({"y": [1]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="expected files of one format"):
        Loader(tmp_path, PLAIN)
    with pytest.raises(RecipeError, match="columns: expected None for Parquet"):
        Loader(tmp_path / "b.parquet", PLAIN, columns=["y"])
    with pytest.raises(IntuneError, match="x"):
        Loader(tmp_path / "b.parquet", PLAIN)
    with pytest.raises(ValueError, match="format: expected one of auto, parquet, tsv, csv, found 'json'"):
        Loader(tmp_path, PLAIN, format="json")


# --- arguments, plan, stats ------------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(order, "WINDOW_ROWS", 200)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.parquet"
    pq.write_table(conformance.table(), path, row_group_size=90)
    return path


def test_arguments(parquet: Path) -> None:
    for wrong, words in (
        ({"device": "tpu"}, 'device: expected "auto", "cpu", "cuda"'),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"seed": -1}, "seed: expected 0"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to world_size - 1"),
        ({"readers": 0}, "Plan.readers: expected 1"),
        ({"on_bad_row": "ignore"}, "on_bad_row"),
        ({"index_dtype": "int16"}, "index_dtype"),
    ):
        with pytest.raises(ValueError, match=words):
            Loader(parquet, conformance.RECIPE, **wrong)  # type: ignore[arg-type]


def test_a_budget_that_is_too_small_names_what_is_needed(parquet: Path) -> None:
    options: dict[str, Any] = {"shuffle": True, "batch_size": 64}
    with Loader(parquet, conformance.RECIPE, **options) as loader:
        least = loader.min_prefetch_bytes(3, 2)
    with pytest.raises(
        BudgetError, match=f"expected at least {least} .*3 readers and 2 transformers, found {least - 1}"
    ):
        Loader(parquet, conformance.RECIPE, readers=3, transformers=2, prefetch_bytes=least - 1, **options)
    with Loader(parquet, conformance.RECIPE, readers=3, transformers=2, prefetch_bytes=least, **options) as loader:
        assert loader.plan == ig.Plan(3, 2, least)
        loader.apply(ig.Plan(40, 2, least))  # clipped
        clipped = loader.plan
        assert (
            loader.min_prefetch_bytes(clipped.readers, clipped.transformers) <= least < loader.min_prefetch_bytes(40, 2)
        )
        assert loader.max_workers()[0] >= clipped.readers
        assert loader.max_workers(loader.min_prefetch_bytes(7, 1))[0] == 7
        with pytest.raises(BudgetError, match="1 readers and 1 transformers"):
            loader.apply(ig.Plan(4, 2, 1000))
        loader.apply(ig.Plan(3, 2, least))
        assert loader.plan == ig.Plan(3, 2, least)
        assert len(list(loader)) == len(loader)
        assert loader.stats().peak_in_flight_bytes <= least
        least = loader.min_prefetch_bytes(1, 1)
    with Loader(parquet, conformance.RECIPE, prefetch_bytes=least, **options) as loader:  # no workers were asked for
        assert loader.plan == ig.Plan(1, 1, least)


@pytest.mark.parametrize("seed", range(3))
def test_apply_at_random(parquet: Path, seed: int) -> None:
    rng = random.Random(100 * SEED + seed)
    options: dict[str, Any] = {"shuffle": True, "batch_size": 16}
    with Loader(parquet, conformance.RECIPE, readers=1, transformers=1, **options) as loader:
        want = [all_bytes(loader) for _ in range(2)]
    with Loader(parquet, conformance.RECIPE, **options) as loader:
        for epoch in want:
            got = []
            for batch in loader:
                got += all_bytes([batch])
                if rng.random() < 0.3:
                    workers = rng.randint(1, 8), rng.randint(1, 4)
                    loader.apply(ig.Plan(*workers, loader.min_prefetch_bytes(*workers) + rng.randint(0, 10**5)))
            assert got == epoch


def test_stats(parquet: Path) -> None:
    with Loader(parquet, conformance.RECIPE, batch_size=64, readers=2, transformers=2) as loader:
        assert loader.stats().rows == 0
        batches = iter(loader)
        next(batches)
        running = loader.stats()
        assert (running.rows, running.batches, running.readers, running.transformers) == (64, 1, 2, 2)
        assert running.prefetch_bytes == loader.plan.prefetch_bytes
        assert 0 <= running.queue_fill_pct <= 100
        list(batches)
        ended = loader.stats()
        assert ended.rows == ended.transform_rows == ended.read_rows == conformance.ROWS
        assert ended.batches == len(loader)
        assert (ended.readers, ended.transformers, ended.in_flight_bytes, ended.ready_batches) == (0, 0, 0, 0)
        assert ended.read_busy_s > 0
        assert ended.transform_busy_s > 0
        assert 0 < ended.exposed_wait_s <= ended.elapsed_s
        assert ended.rows_per_s == pytest.approx(ended.rows / ended.elapsed_s)


def test_a_closed_loader(parquet: Path) -> None:
    loader = Loader(parquet, conformance.RECIPE, batch_size=64)
    batches = iter(loader)
    next(batches)
    loader.close()
    loader.close()
    with pytest.raises(IntuneError, match="closed"):
        next(batches)
    with pytest.raises(IntuneError, match="expected to be open, found closed; make a new Loader"):
        iter(loader)


def test_a_closed_loader_leaves_its_memory_to_nobody(parquet: Path) -> None:
    """Collections of cycles are rare: what waits for one adds up from loader to loader."""
    gc.collect()
    gc.disable()
    try:
        with Loader(parquet, conformance.RECIPE, batch_size=100, shuffle=True, readers=2) as loader:
            for number, _batch in enumerate(loader):
                loader.apply(ig.Plan(1 + number % 3, 1))
        left = [weakref.ref(loader._pool), weakref.ref(loader.source), weakref.ref(loader)]
        del loader, _batch
        assert [there() for there in left] == [None] * 3
    finally:
        gc.enable()


def test_memory_goes_with_the_close_and_the_last_batch(parquet: Path) -> None:
    with Loader(parquet, conformance.RECIPE, batch_size=100, readers=2, tuner="static") as loader:
        batches = list(loader)
        del batches[1:]
        assert loader._pool.free_bytes > 0
    assert loader._pool.free_bytes == 0
    kept = batches[0].dense.clone()
    assert batches[0].dense.equal(kept)
    del batches
    assert loader._pool.free_bytes == 0


def test_a_source_of_ones_own(parquet: Path) -> None:
    source = open_source(parquet, conformance.RECIPE)
    for part, want in (
        (RowRange(source, 100, 900), set(range(100, 900))),
        (RowSample(source, 0.3, 1), None),
        (RowSample(source, 0.3, 1, complement=True), None),
    ):
        seen = []
        for _ in range(2):  # it stays open when a loader is closed
            with Loader(part, conformance.RECIPE, batch_size=50, shuffle=True) as loader:
                seen.append([int(n) for b in loader for n in b.dense[:, 0]])
        assert seen[0] == seen[1]
        assert len(seen[0]) == len(set(seen[0])) == part.rows
        assert want is None or set(seen[0]) == want


def test_epochs_of_one_rank_with_nothing(parquet: Path) -> None:
    with Loader(
        RowRange(open_source(parquet, conformance.RECIPE), 0, 2), conformance.RECIPE, rank=1, world_size=3
    ) as loader:
        assert len(loader) == 0
        assert list(loader) == []


# --- states ----------------------------------------------------------------------------------------------------------


def test_a_state_names_what_differs(parquet: Path) -> None:
    with Loader(parquet, conformance.RECIPE, batch_size=64) as loader:
        batches = iter(loader)
        cursor = next(batches).cursor
        next(batches)
        assert loader.state_dict(cursor)["cursor"] == cursor.to_json()
        state = loader.state_dict(cursor)
    other = ig.Recipe("label", dense={"row": [ig.FillMissing(0.0)]})
    with Loader(parquet, other, batch_size=64) as loader, pytest.raises(ResumeError, match=r"recipe|data"):
        loader.load_state_dict(state)
    with Loader(parquet, conformance.RECIPE, batch_size=64) as loader:
        for wrong, words in (
            ({}, "expected what Loader.state_dict gave"),
            (state | {"version": 2}, "expected version 1, found 2"),
            (state | {"fingerprint": 3}, "data"),
            (state | {"cursor": {"epoch": 1}}, "cursor"),
            (state | {"cursor": state["cursor"] | {"segments": [[0, 10**9]]}}, "damaged"),
            (state | {"cursor": state["cursor"] | {"rows_done": 10**9}}, "damaged"),
            (state | {"cursor": state["cursor"] | {"world_size": 0}}, "damaged"),
        ):
            with pytest.raises(ResumeError, match=words):
                loader.load_state_dict(wrong)


def test_a_cursor_of_an_earlier_batch(parquet: Path) -> None:
    with Loader(parquet, conformance.RECIPE, batch_size=64, shuffle=True) as loader:
        batches = list(loader)
        loader.load_state_dict(loader.state_dict(batches[3].cursor))
        assert all_bytes(loader) == all_bytes(batches[4:])


# --- bad rows --------------------------------------------------------------------------------------------------------

BAD_ROWS = (17, 300, 301, 302, 1499)


@pytest.fixture
def bad_tsv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = criteo_rows()
    for n in BAD_ROWS:
        rows[n][5] = "x"
    (tmp_path / "rows.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return tmp_path / "rows.tsv"


@pytest.mark.parametrize("shuffle", [False, True])
def test_quarantine(bad_tsv: Path, shuffle: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 100, "shuffle": shuffle, "quarantine_dir": tmp_path / "q"}
    with Loader(bad_tsv, CRITEO, **options) as loader:
        for _ in range(2):
            batches = list(loader)
            assert len(batches) == len(loader) == 15
            assert sum(map(len, batches)) == 1495
            assert batches[-1].cursor.bad_rows == 5
            counts = [b.cursor.bad_rows for b in batches]
            assert counts == [100 * (i + 1) - sum(map(len, batches[: i + 1])) for i in range(15)]
        assert loader.stats().bad_rows == 10
    lines = (tmp_path / "q" / "bad_rows.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["line"] for line in lines) == [n + 1 for n in BAD_ROWS]
    entry = json.loads(lines[0])
    assert (entry["file"], entry["column"]) == (str(bad_tsv), "I5")
    assert entry["text"].split("\t")[5] == "x"


def test_only_what_was_given_out_is_written(bad_tsv: Path, tmp_path: Path) -> None:
    with Loader(bad_tsv, CRITEO, batch_size=100) as loader:
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        assert len((tmp_path / "bad_rows.jsonl").read_text().splitlines()) == 1
    with Loader(bad_tsv, CRITEO, batch_size=100) as loader:
        loader.load_state_dict(state)
        assert list(loader)[-1].cursor.bad_rows == 5
    assert len((tmp_path / "bad_rows.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize("readers", [1, 6])
def test_raise(bad_tsv: Path, readers: int, tmp_path: Path) -> None:
    with Loader(bad_tsv, CRITEO, batch_size=10, readers=readers, on_bad_row="raise") as loader:
        batches = iter(loader)
        next(batches)
        with pytest.raises(BadRowError, match=r"rows\.tsv, line 18, column 'I5'.*'x'"):
            next(batches)
    with Loader(bad_tsv, CRITEO, batch_size=10, readers=readers, on_bad_row="raise", shuffle=True) as loader:
        with pytest.raises(BadRowError, match=r"rows\.tsv, line 18"):
            list(loader)
        assert loader.state_dict()["cursor"]["batches_done"] < 150
    assert not list(tmp_path.glob("bad_rows*"))


def test_too_many_bad_rows(bad_tsv: Path) -> None:
    with Loader(bad_tsv, CRITEO, batch_size=100, on_bad_row="drop", max_bad_fraction=0.003) as loader:
        given = []
        with pytest.raises(TooManyBadRowsError, match=r"found 5 of 1500 \(0\.3333%\)"):
            given += list(loader)
        assert loader.state_dict()["cursor"]["batches_done"] == 14


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_whose_rows_are_all_bad(tmp_path: Path, shuffle: bool) -> None:
    (tmp_path / "a.csv").write_text("y,x,c,m\n" + "0,1,a,2\n" * 8 + "0,?,a,2\n" * 8 + "0,1,a,2\n")
    options: dict[str, Any] = {"batch_size": 4, "shuffle": shuffle, "on_bad_row": "drop", "max_bad_fraction": 1.0}
    with Loader(tmp_path / "a.csv", PLAIN, **options) as loader:
        batches = list(loader)
    assert len(batches) == len(loader) == 5
    assert sum(map(len, batches)) == 9
    if not shuffle:
        assert [len(batch) for batch in batches] == [4, 4, 0, 0, 1]
        assert batches[2].dense.shape == (0, 1)
        assert batches[2].sparse.keys() == ["c", "m"]


def test_ranks_quarantine_apart(bad_tsv: Path, tmp_path: Path) -> None:
    for _ in range(2):
        for rank in range(2):
            with Loader(bad_tsv, CRITEO, batch_size=100, shuffle=True, rank=rank, world_size=2) as loader:
                assert len(list(loader)) == 8
    lines = [line for f in tmp_path.glob("bad_rows-rank?.jsonl") for line in f.read_text().splitlines()]
    assert sorted(json.loads(line)["line"] for line in lines) == [n + 1 for n in BAD_ROWS]


# --- processes -------------------------------------------------------------------------------------------------------

KILLED = """
import json, sys
import intune_gpu as ig
from tests.test_loader import all_bytes
from tests import conformance
import hashlib
with ig.Loader(sys.argv[1], conformance.RECIPE, batch_size=8, shuffle=True, readers=3, transformers=2) as loader:
    if len(sys.argv) > 2:
        loader.load_state_dict(json.loads(sys.argv[2]))
    for batch in loader:
        digest = hashlib.sha256(repr(all_bytes([batch])).encode()).hexdigest()
        print(json.dumps([digest, loader.state_dict(batch.cursor)]), flush=True)
"""


def run_killed(path: Path, *args: str) -> subprocess.Popen[str]:
    root = Path(__file__).parent.parent
    env = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(path), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=path.parent)


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(conformance.table(), path, row_group_size=90)
    with Loader(path, conformance.RECIPE, batch_size=8, shuffle=True) as loader:
        want = all_bytes(loader)
    digests = [hashlib.sha256(repr([batch]).encode()).hexdigest() for batch in want]
    with run_killed(path) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(random.Random(SEED).randint(3, 60))]
        process.send_signal(signal.SIGKILL)
    first = [json.loads(line) for line in lines]
    with run_killed(path, json.dumps(first[-1][1])) as process:
        out, _ = process.communicate(timeout=120)
    rest = [json.loads(line)[0] for line in out.splitlines()]
    assert [digest for digest, _ in first] + rest == digests
