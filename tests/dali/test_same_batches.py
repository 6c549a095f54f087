"""What comes out of DALI is what comes out of a Loader, bit for bit, and is resumed, refused and ended like it."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator

import intune_gpu as ig
from intune_gpu.core.errors import BadRowError, IntuneError, ResumeError, StageError
from intune_gpu.core.source import Source
from intune_gpu.dali import DALILoader, DALIRecIterator, LastBatchPolicy
from intune_gpu.engine.program import Program
from intune_gpu.opening import open_source
from tests import conformance
from tests.conftest import SEED
from tests.engine.runs import wait_until
from tests.shared_data import CRITEO_TINY, MOVIELENS, needs
from tests.test_loader import all_bytes, criteo_rows

FILMS = ig.Recipe(
    label="rating",
    dense={"age": [ig.FillMissing(0), ig.Scale(30, 10)], "no_year": [ig.Column("release_year"), ig.MissingFlag()]},
    sparse={
        "user": [ig.Column("user_id"), ig.HashBucket(500)],
        "zip_code": [ig.HashBucket(300)],
        "genres": [ig.FirstK(3), ig.HashBucket(50)],
        "taste": [ig.Cross(["occupation", "gender"], 200)],
        "decade": [ig.Column("release_year"), ig.Bucketize([1950, 1960, 1970, 1980, 1990])],
    },
)
CRITEO = ig.recipes.criteo(1000)


def bytes_of(steps: Any) -> list[dict[str, bytes]]:
    """All bytes of what a DALI iterator gave, as `all_bytes` has them of batches."""
    return all_bytes(ig.Batch(one["dense"], one["sparse"], one["label"]) for (one,) in steps)


def check_same(data: Path | Source, recipe: ig.Recipe, epochs: int = 2, **options: Any) -> None:
    """Compare several epochs, and the cursors."""
    with ig.Loader(data, recipe, device="cpu", **options) as loader:
        given = [list(loader) for _ in range(epochs)]
        want, cursors = [all_bytes(batches) for batches in given], [[b.cursor for b in batches] for batches in given]
    policy = LastBatchPolicy.DROP if options.pop("drop_last", False) else LastBatchPolicy.PARTIAL
    with DALIRecIterator(data, recipe, last_batch_policy=policy, **options) as iterator:
        for epoch in range(epochs):
            steps = list(iterator)
            assert bytes_of(steps) == want[epoch]
            assert [one["cursor"] for (one,) in steps] == cursors[epoch]
            assert len(iterator) == len(steps)
            assert all(one["sparse"].keys() == list(recipe.sparse_names) for (one,) in steps)


@needs(CRITEO_TINY)
@pytest.mark.parametrize("shuffle", [False, True])
def test_criteo(shuffle: bool) -> None:
    check_same(CRITEO_TINY, CRITEO, batch_size=128, shuffle=shuffle, drop_last=shuffle, index_dtype="int32")


@needs(MOVIELENS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_movielens(shuffle: bool) -> None:
    source = open_source(MOVIELENS, FILMS)
    check_same(source, FILMS, batch_size=6000, shuffle=shuffle, rank=1, world_size=2, seed=3)
    source.close()


def test_dictionaries_and_nulls(tmp_path: Path) -> None:
    table = conformance.table()
    coded = table.set_column(4, "word", table["word"].dictionary_encode())
    pq.write_table(coded, tmp_path / "t.parquet", row_group_size=90, use_dictionary=True)
    for size in (4, 300):
        check_same(tmp_path, conformance.RECIPE, epochs=1, batch_size=size)


def test_no_features_of_one_kind(tmp_path: Path) -> None:
    pq.write_table(conformance.table(), tmp_path / "t.parquet")
    check_same(tmp_path, ig.Recipe("label", dense={"row": [ig.FillMissing(0)]}), batch_size=100)
    check_same(tmp_path, ig.Recipe("label", sparse={"id": [ig.HashBucket(9)]}), batch_size=100)


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.parquet"
    pq.write_table(conformance.table(), path, row_group_size=90)
    return path


# --- bad rows, errors -------------------------------------------------------------------------------------------------


@pytest.fixture
def bad_tsv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = criteo_rows(500)
    for n in (17, 170, *range(300, 320)):
        rows[n][5] = "x"
    path = tmp_path / "rows.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def test_bad_rows(bad_tsv: Path, tmp_path: Path) -> None:
    check_same(bad_tsv, CRITEO, batch_size=20, max_bad_fraction=1.0, on_bad_row="drop")  # one batch is of bad rows only
    with DALIRecIterator(bad_tsv, CRITEO, 20, max_bad_fraction=1.0, quarantine_dir="q") as iterator:
        assert sum(len(one["label"]) for (one,) in iterator) == 500 - 22
    assert len((tmp_path / "q" / "bad_rows.jsonl").read_text().splitlines()) == 22
    with DALIRecIterator(bad_tsv, CRITEO, 10, on_bad_row="raise") as iterator:
        next(iterator)
        with pytest.raises(BadRowError, match=r"rows\.tsv, line 18, column 'I5'.*'x'"):
            next(iterator)


def test_a_source_that_fails_ends_behind_the_last_good_batch(parquet: Path) -> None:
    with DALIRecIterator(parquet, conformance.RECIPE, 64) as iterator:
        want = bytes_of(iterator)
    source = FailingSource(open_source(parquet, conformance.RECIPE))
    with DALIRecIterator(source, conformance.RECIPE, 64) as iterator:
        given = []
        with pytest.raises(StageError, match=r"read stage in .*t\.parquet.*OSError: gone"):
            given += list(iterator)
        assert iterator.state_dict()["cursor"]["batches_done"] == 7
        source.failing = False
        assert bytes_of(iterator) == want  # the next epoch; rows come in file order


@pytest.mark.parametrize("rows", [1, 200, 8192])
def test_small_batches_go_in_groups(parquet: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("intune_gpu.dali.loader.GROUP_ROWS", rows)
    check_same(parquet, conformance.RECIPE, batch_size=64, shuffle=True)
    with DALILoader(parquet, conformance.RECIPE, batch_size=64) as loader:
        batches = iter(loader)
        next(batches)
        assert loader._graph is not None
        groups = [len(group) for group in loader._graph._source.groups]
    assert groups == {1: [1, 1], 200: [3, 3], 8192: []}[rows]


class FailingSource(Source):
    """Chunk 5 cannot be read."""

    def __init__(self, source: Source) -> None:
        self._source, self.failing = source, True
        self.schema, self.chunks, self.fingerprint = source.schema, source.chunks, source.fingerprint

    def read(self, index: int) -> Any:
        if index == 5 and self.failing:
            raise OSError("gone")
        return self._source.read(index)

    def close(self) -> None:
        self._source.close()


def test_a_transform_that_fails_ends_in_its_place(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DALIRecIterator(parquet, conformance.RECIPE, 64) as iterator:
        want = bytes_of(iterator)
    run = Program.run

    def failing(self: Program, raw: Any) -> Any:
        made = run(self, raw)
        if int(made.dense[0, 0]) == 64 * 4:
            raise ValueError("too odd")
        return made

    with DALIRecIterator(parquet, conformance.RECIPE, 64, prefetch_queue_depth=4) as iterator:
        monkeypatch.setattr(Program, "run", failing)
        given = []
        with pytest.raises(StageError, match="transform stage in DALI: ValueError: too odd") as caught:
            given += list(iterator)
        assert caught.value.stage == "transform"
        assert iterator.state_dict()["cursor"]["batches_done"] == 4
        monkeypatch.setattr(Program, "run", run)
        assert bytes_of(iterator) == want


def test_arguments(parquet: Path) -> None:
    for wrong, words in (
        ({"device_id": 99}, "device_id: expected None for host memory"),
        ({"last_batch_policy": LastBatchPolicy.FILL}, "expected LastBatchPolicy.PARTIAL or DROP, since a batch never"),
        ({"last_batch_policy": "drop"}, "found 'drop'; take PARTIAL"),
        ({"auto_reset": "maybe"}, "auto_reset: expected True, False"),
        ({"prefetch_queue_depth": 0}, "prefetch_queue_depth: expected at least 1, found 0"),
        ({"num_threads": 1.5}, "num_threads: expected at least 1, found 1.5"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"readers": 0}, "Plan.readers"),
    ):
        with pytest.raises(ValueError, match=words):
            DALIRecIterator(parquet, conformance.RECIPE, **{"batch_size": 64, **wrong})


# --- DALI's conventions -----------------------------------------------------------------------------------------------


def test_epochs_end_as_in_dali(parquet: Path, caplog: pytest.LogCaptureFixture) -> None:
    with DALIRecIterator(parquet, conformance.RECIPE, 100, shuffle=True) as iterator:
        assert (len(iterator), iterator.size, iterator.batch_size) == (11, 1003, 100)
        first = [iterator.next() for _ in range(11)]
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(iterator)
        iterator.reset()
        second = [next(iterator) for _ in range(4)]
        iterator.reset()
        assert "ignored" in caplog.text
        second += list(iterator)  # iter() goes on in mid-epoch
        assert len(bytes_of(second)) == 11
        assert bytes_of(first) != bytes_of(second)
    with DALIRecIterator(parquet, conformance.RECIPE, 100, shuffle=True, auto_reset="yes") as iterator:
        again = [next(iterator) for _ in range(11)]
        with pytest.raises(StopIteration):
            next(iterator)
        again += [next(iterator) for _ in range(11)]
        assert bytes_of(again) == bytes_of(first) + bytes_of(second)


@pipeline_def(batch_size=100, num_threads=1, device_id=None, exec_dynamic=True)
def someones_pipeline(rows: list[dict[str, Any]]) -> Any:
    """What a user may have had before: numbers that Python feeds to DALI."""

    def give(i: Any) -> tuple[Any, Any]:
        if i.idx_in_epoch >= 1000:
            raise StopIteration
        row = rows[i.idx_in_epoch]
        return np.array([row["row"]], np.float32), np.float32(row["label"])

    dense, label = fn.external_source(source=give, num_outputs=2, batch=False, dtype=[types.FLOAT] * 2)
    return dense, label


def test_it_takes_the_place_of_a_generic_iterator(parquet: Path) -> None:
    def losses(iterator: Any) -> list[float]:
        """A loop that was written for DALIGenericIterator."""
        weight, found = torch.zeros(1), []
        for _ in range(2):
            for data in iterator:
                x, y = data[0]["dense"], data[0]["label"].reshape(-1)
                error = x[:, 0] / 1000 * weight - y
                weight = weight - 0.1 * (error * x[:, 0] / 1000).mean()
                found.append(float(error.square().mean()))
            iterator.reset()
        return found

    recipe = ig.Recipe("label", dense={"row": [ig.FillMissing(0.0)]})
    rows = conformance.table().select(["row", "label"]).to_pylist()
    before = losses(DALIGenericIterator(someones_pipeline(rows), ["dense", "label"]))
    with DALIRecIterator(parquet, recipe, batch_size=100, last_batch_policy=LastBatchPolicy.DROP) as iterator:
        assert losses(iterator) == before
    assert len(before) == 20


def test_dalis_own_checkpoints(parquet: Path) -> None:
    options: dict[str, Any] = {"batch_size": 64, "shuffle": True, "enable_checkpointing": True}
    with DALIRecIterator(parquet, conformance.RECIPE, **options) as iterator:
        whole = [bytes_of(iterator) for _ in range(3)]
    for stop in (0, 5, 16):
        with DALIRecIterator(parquet, conformance.RECIPE, **options) as iterator:
            list(iterator)
            iterator.reset()
            for _ in range(stop):
                next(iterator)
            (saved,) = iterator.checkpoints()
        with DALIRecIterator(parquet, conformance.RECIPE, checkpoint=saved, **options) as iterator:
            assert bytes_of(iterator) == (whole[1][stop:] or whole[2])
            if stop < 16:
                assert bytes_of(iterator) == whole[2]
    with pytest.raises(ResumeError, match="seed"):
        DALIRecIterator(parquet, conformance.RECIPE, checkpoint=saved, seed=5, **options)
    with pytest.raises(ResumeError, match=r"checkpoint: expected what DALIRecIterator.checkpoints gave, found 7 other"):
        DALIRecIterator(parquet, conformance.RECIPE, checkpoint=b"nothing", **options)
    with (
        DALIRecIterator(parquet, conformance.RECIPE, 64) as iterator,
        pytest.raises(ValueError, match="expected enable_checkpointing=True, found False"),
    ):
        iterator.checkpoints()


def test_states_go_from_one_kind_to_the_other(parquet: Path) -> None:
    options: dict[str, Any] = {"batch_size": 64, "shuffle": True}
    with ig.Loader(parquet, conformance.RECIPE, **options) as loader:
        want = all_bytes(loader)
    with DALIRecIterator(parquet, conformance.RECIPE, **options) as iterator:
        cursor = [next(iterator) for _ in range(6)][4][0]["cursor"]
        with ig.Loader(parquet, conformance.RECIPE, **options) as loader:
            loader.load_state_dict(iterator.state_dict(cursor))
            assert all_bytes(loader) == want[5:]
            batches = iter(loader)
            iterator.load_state_dict(loader.state_dict(next(batches).cursor))
        assert len(list(iterator)) == 15


# --- ends -------------------------------------------------------------------------------------------------------------


def test_no_thread_is_left(parquet: Path) -> None:
    def turn() -> None:
        iterator = DALIRecIterator(parquet, conformance.RECIPE, 64, enable_checkpointing=True)
        next(iterator)
        iterator.close()
        iterator.close()
        with pytest.raises(IntuneError, match="closed"):
            next(iterator)

    turn()  # what DALI starts once a process
    gc.collect()
    before = len(os.listdir("/proc/self/task"))
    for _ in range(3):
        turn()
    gc.collect()
    wait_until(lambda: len(os.listdir("/proc/self/task")) <= before)  # a join ends a little ahead of the thread
    assert [t.name for t in threading.enumerate() if t.name.startswith("intune-")] == []


def test_an_iterator_that_is_dropped_lets_go(parquet: Path) -> None:
    iterator = DALIRecIterator(parquet, conformance.RECIPE, 64)
    next(iterator)
    graph = weakref.ref(iterator._loader._graph)
    assert graph() is not None
    del iterator
    gc.collect()
    assert graph() is None  # and with it DALI's threads


def test_a_loader_that_is_left_lets_go(parquet: Path) -> None:
    with DALILoader(parquet, conformance.RECIPE, batch_size=64) as loader:
        batches = iter(loader)
        next(batches)
        other = iter(loader)
        assert len(all_bytes(other)) == len(loader)
        with pytest.raises(IntuneError, match="closed"):
            next(batches)
        last = iter(loader)
        next(last)
    with pytest.raises(IntuneError, match="closed"):
        next(last)
    assert repr(loader).startswith("DALILoader(1,003 rows")


KILLED = """
import json, sys
from intune_gpu.dali import DALIRecIterator
from tests import conformance
with DALIRecIterator(sys.argv[1], conformance.RECIPE, 8, shuffle=True, readers=3) as iterator:
    for step in iterator:
        print(json.dumps([len(step[0]["label"]), iterator.state_dict()]), flush=True)
"""


@pytest.mark.slow
def test_killed_and_resumed(parquet: Path) -> None:
    options: dict[str, Any] = {"batch_size": 8, "shuffle": True}
    with ig.Loader(parquet, conformance.RECIPE, **options) as loader:
        want = all_bytes(loader)
    env, taken = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, random.Random(SEED).randint(3, 60)
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(parquet)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(taken)]
        process.send_signal(signal.SIGKILL)
    with DALIRecIterator(parquet, conformance.RECIPE, **options) as iterator:
        iterator.load_state_dict(json.loads(lines[-1])[1])
        assert bytes_of(iterator) == want[taken:]
