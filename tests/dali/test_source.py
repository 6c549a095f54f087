"""DALI pipelines of a user's own as a source: a Loader over them keeps all of its promises."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from nvidia.dali import Pipeline, fn, pipeline_def, types

import intune_gpu as ig
from intune_gpu.core.errors import DataError, RecipeError, StageError
from intune_gpu.dali import PipelineSource
from tests import conformance
from tests.test_loader import all_bytes

CHUNK = 210
RECIPE = ig.Recipe(
    "label",
    dense={"row": [ig.FillMissing(0.0)], "gap": [ig.FillMissing(-1.0), ig.Clip(max=90.0)]},
    sparse={
        "id": [ig.HashBucket(1000)],
        "word": [ig.HashBucket(50)],
        "numbers": [ig.FirstK(2), ig.HashBucket(30)],
    },
)
NAMES = ("picture", "label", "row", "gap", "id", "word", "numbers", "has_id", "has_word")


def numbers_of(row: int) -> list[int]:
    return [] if row % 6 == 0 else list(range(row % 4))


def samples(row: dict[str, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    """A row of the conformance table as DALI takes it."""
    return (
        np.full((2, 2, 3), row["row"] % 256, np.uint8),
        np.int8(row["label"]),
        np.int32(row["row"]),
        np.float32(np.nan if row["gap"] is None else row["gap"]),
        np.int64(row["id"] or 0),
        np.frombuffer((row["word"] or "").encode(), np.uint8),
        np.array(numbers_of(row["row"]), np.int32),
        np.uint8(row["id"] is not None),
        np.uint8(row["word"] is not None),
    )


ROWS = [samples(row) for row in conformance.table().to_pylist()]


@pipeline_def(batch_size=80, num_threads=1, device_id=None, prefetch_queue_depth=1)
def rows_from(chunk: int) -> Any:
    """Give rows from a chunk's first one on, until there are no more: 80 to a batch, and what is left."""

    def give(index: int) -> list[list[Any]]:
        first = CHUNK * chunk + 80 * index
        if first >= len(ROWS):
            raise StopIteration
        return [list(column) for column in zip(*ROWS[first : first + 80], strict=True)]

    return tuple(fn.external_source(source=give, num_outputs=len(NAMES)))


def source_of(recipe: ig.Recipe = RECIPE, **options: Any) -> PipelineSource:
    chosen: dict[str, Any] = {
        "rows": [CHUNK] * 4 + [conformance.ROWS - 4 * CHUNK],
        "version": "1",
        "strings": ["word"],
        "lists": ["numbers"],
        "present": {"id": "has_id", "word": "has_word"},
    }
    return PipelineSource(rows_from, NAMES, recipe, **{**chosen, **options})


class TestLoaderOverPipelines(conformance.LoaderConformance):
    def open(self, data: Path, **options: Any) -> ig.Loader:
        return ig.Loader(source_of(), RECIPE, device="cpu", **options)

    def content(self, batch: Any) -> dict[str, np.ndarray[Any, Any]]:
        return {
            "dense": batch.dense.numpy(),
            "label": batch.label.numpy(),
            "values": batch.sparse.values().numpy(),
            "lengths": batch.sparse.lengths().numpy(),
        }


def test_rows_are_those_of_the_table() -> None:
    table = conformance.table()
    numbers = pa.array([numbers_of(n) for n in range(table.num_rows)], pa.list_(pa.int32()))
    want = ig.transform(table.append_column("numbers", numbers), RECIPE)
    with ig.Loader(source_of(), RECIPE, batch_size=table.num_rows, device="cpu") as loader:
        assert all_bytes(loader) == all_bytes([want])


def test_pipelines_that_were_read_let_go_of_their_threads() -> None:
    source = source_of()
    source.read(0)  # what DALI starts once a process
    gc.collect()
    before = len(os.listdir("/proc/self/task"))
    for _ in range(4):
        for chunk in range(5):
            source.read(chunk)
    gc.collect()
    assert len(os.listdir("/proc/self/task")) < before + 10


def test_readers_of_dalis_own_are_sharded(tmp_path: Path) -> None:
    """A chunk is a shard of a DALI reader, which goes round when it is through: what is too much is left."""
    for n in range(10):
        np.save(tmp_path / f"{n}.npy", np.array([n, 10 * n], np.float32))

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def shard(chunk: int) -> Any:
        pair = fn.readers.numpy(file_root=str(tmp_path), shard_id=chunk, num_shards=2)
        return pair[0], fn.cast(pair[1], dtype=types.INT32)

    recipe = ig.Recipe("y", dense={"x": []})
    source = PipelineSource(shard, ["x", "y"], recipe, rows=[5, 5], version="1")
    with ig.Loader(source, recipe, batch_size=4, shuffle=True, device="cpu") as loader:
        for _ in range(2):
            batches = list(loader)
            assert sorted(float(x) for b in batches for x in b.dense[:, 0]) == list(range(10))
            assert all((b.label == 10 * b.dense[:, 0]).all() for b in batches)


def test_a_bad_label_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    label = np.where(np.arange(30) == 7, np.inf, 1).astype(np.float32)
    recipe = ig.Recipe("y", dense={"x": []})

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def rows(chunk: int) -> Any:
        return tuple(fn.external_source(source=lambda: ([np.arange(30)], [label]), num_outputs=2))

    source = PipelineSource(rows, ["x", "y"], recipe, rows=[30], version="1")
    with ig.Loader(source, recipe, batch_size=30, device="cpu", max_bad_fraction=1.0) as loader:
        (batch,) = loader
    assert batch.dense[:, 0].tolist() == [n for n in range(30) if n != 7]
    assert "expected a finite label, found inf" in (tmp_path / "bad_rows.jsonl").read_text()


def test_states_are_of_one_version() -> None:
    one, other = source_of(), source_of(version="2")
    assert one.fingerprint == source_of().fingerprint
    assert one.fingerprint != other.fingerprint


def drawn(seed: int | None) -> Any:
    @pipeline_def(batch_size=4, num_threads=1, device_id=None, seed=seed)
    def rows(chunk: int) -> Any:
        return fn.random.uniform(range=[0.0, 1.0]), fn.random.coin_flip()

    return rows


def test_pipelines_without_a_seed_are_refused() -> None:
    recipe = ig.Recipe("y", dense={"x": []})
    PipelineSource(drawn(5), ["x", "y"], recipe, rows=[8], version="1")
    with pytest.raises(
        DataError, match=r"DALI pipeline 0: expected the same rows .* found others.*give the pipeline a"
    ):
        PipelineSource(drawn(None), ["x", "y"], recipe, rows=[8], version="1")


def failing(chunk: int) -> Any:
    raise OSError("gone")


def test_what_is_refused() -> None:
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    words = ig.Recipe("label", sparse={"word": [ig.HashBucket(9)]})
    for wrong, error, text in (
        (
            lambda: PipelineSource(pipeline, ["y"], RECIPE, rows=[1], version=""),
            ValueError,
            "make: expected a function",
        ),
        (
            lambda: PipelineSource(lambda chunk: [chunk], ["label"], words, rows=[1], version=""),
            RecipeError,
            "names: expected the outputs label, word among them, found label, and no word",
        ),
        (
            lambda: PipelineSource(lambda chunk: [chunk], ["label", "word"], words, rows=[1], version=""),
            RecipeError,
            r"make: expected a DALI pipeline for chunk 0, found \[0\]; return one",
        ),
        (lambda: source_of(rows=5), ValueError, r"rows: expected the rows of each chunk, at least 1, found 5"),
        (
            lambda: source_of(rows=[5, 0]),
            ValueError,
            r"rows: expected the rows of each chunk, at least 1, found \[5, 0\]",
        ),
        (lambda: source_of(ig.Recipe("label", dense={"age": []})), RecipeError, "names: .*and no age; name the"),
        (
            lambda: source_of(lists=["word", "numbers"]),
            RecipeError,
            "column 'word': .* holds no list of strings",
        ),
        (lambda: source_of(strings="word"), RecipeError, "strings: expected names of columns, found the text"),
        (lambda: source_of(present={"numbers": "has_id"}), RecipeError, "column 'numbers': expected no node"),
        (
            lambda: source_of(strings=["word", "picture"]),
            RecipeError,
            "strings: expected names out of .*picture",
        ),
        (
            lambda: source_of(words, strings=[], lists=[], present={}),
            RecipeError,
            "column 'word': expected 80 rows, as column 'label' has, found",
        ),
        (
            lambda: PipelineSource(failing, ["label", "word"], words, rows=[1], version=""),
            DataError,
            r"DALI pipeline 0: expected batches of rows, found OSError: gone; run it by itself",
        ),
        (
            lambda: PipelineSource(drawn(1), ["label"], ig.Recipe("label", dense={"label": []}), rows=[1], version=""),
            RecipeError,
            "names: expected a name for each of the pipeline's 2 outputs, found 1",
        ),
    ):
        with pytest.raises(error, match=text):
            wrong()


def test_too_few_rows_are_said() -> None:
    source = source_of(rows=[CHUNK] * 4 + [164])
    with (
        ig.Loader(source, RECIPE, batch_size=64, device="cpu") as loader,
        pytest.raises((DataError, StageError), match=r"DALI pipeline 4: expected 164 rows, found 163; correct rows="),
    ):
        list(loader)
