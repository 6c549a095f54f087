import weakref

import numpy as np
import numpy.typing as npt
import pytest
import torch

import intune_gpu as ig
from intune_gpu.core.columns import ColumnType, FlatColumn, RawBatch
from intune_gpu.engine import layouts, program
from intune_gpu.engine.program import Program

SCHEMA = {"y": ColumnType("int8", nullable=False), "a": ColumnType("int32"), "l": ColumnType("int64", is_list=True)}
SINGLE = ig.Recipe(label="y", sparse={"a": [ig.HashBucket(10)], "b": [ig.Column("a"), ig.Modulo(3)]})
LISTS = ig.Recipe(label="y", sparse={"a": [ig.HashBucket(10)], "l": [ig.FirstK(2), ig.HashBucket(10)]})


def raw(rows: int) -> RawBatch:
    columns = {
        "y": FlatColumn(np.zeros(rows, np.int8)),
        "a": FlatColumn(np.arange(rows, dtype=np.int32)),
        "l": FlatColumn(np.arange(3 * rows), row_offsets=np.arange(0, 3 * rows + 1, 3)),
    }
    return RawBatch(columns, rows)


@pytest.mark.parametrize(("recipe", "found"), [(SINGLE, 8), (LISTS, 12)])
def test_more_ids_than_a_batch_can_hold_are_refused(
    monkeypatch: pytest.MonkeyPatch, recipe: ig.Recipe, found: int
) -> None:
    monkeypatch.setattr(layouts, "MAX_IDS", 7)
    made = Program(recipe, SCHEMA)
    assert len(made.run(raw(2))) == 2
    with pytest.raises(ValueError, match=rf"batch of 4 rows: expected at most 7 ids, found {found}"):
        made.run(raw(4))


def test_lengths_that_are_all_one_are_shared_until_somebody_writes_into_them() -> None:
    made = Program(SINGLE, SCHEMA)
    first, second = made.run(raw(5)).sparse.lengths(), made.run(raw(5)).sparse.lengths()
    assert first.data_ptr() == second.data_ptr()
    first[0] = 7
    third = made.run(raw(5)).sparse.lengths()
    assert third.tolist() == [1] * 10
    assert made.run(raw(4)).sparse.lengths().tolist() == [1] * 8


def test_many_sizes_are_not_remembered_for_ever() -> None:
    made = Program(SINGLE, SCHEMA)
    for rows in range(1, 5 * program.MAX_SIZES):
        assert made.run(raw(rows)).sparse.lengths().tolist() == [1] * 2 * rows
    assert made._plain.cache_info().currsize <= program.MAX_SIZES
    assert made._layout.cache_info().currsize <= program.MAX_SIZES


def test_a_program_is_gone_with_its_last_name() -> None:
    """It may hold much idle memory, and collections of cycles are rare."""
    made = Program(SINGLE, SCHEMA)
    made.run(raw(6))
    made.run_parts(raw(6), 2)
    gone = weakref.ref(made)
    del made
    assert gone() is None


def test_columns_in_any_order() -> None:
    made, rows = Program(SINGLE, SCHEMA), raw(6)
    turned = RawBatch(dict(reversed(rows.columns.items())), 6)
    assert made.run(rows).sparse.values().tolist() == made.run(turned).sparse.values().tolist()


# --- several batches in one go ---------------------------------------------------------------------------------------

MIXED = ig.Recipe(
    label="y",
    dense={
        "d": [ig.Column("f"), ig.FillMissing(0.5), ig.Log1p()],
        "e": [ig.Column("a"), ig.FillMissing(0.0)],
        "g": [ig.Column("n"), ig.FillMissing(0.0)],
    },
    sparse={
        "a": [ig.HashBucket(1000)],
        "m": [ig.Column("n"), ig.Modulo(7)],
        "n": [ig.HashBucket(50)],
        "s": [ig.HashBucket(90)],
        "x": [ig.Cross(["a", "s"], 100)],
        "b": [ig.Column("f"), ig.FillMissing(0.0), ig.Bucketize([-1.0, 0.0, 2.0])],
    },
)
MIXED_SCHEMA = SCHEMA | {"f": ColumnType("float32"), "n": ColumnType("int64"), "s": ColumnType("string")}


def mixed(rows: int) -> RawBatch:
    rng = np.random.default_rng(rows)

    def bits() -> npt.NDArray[np.uint8]:
        return rng.integers(0, 256, rows // 8 + 2, dtype=np.uint8)

    words = [b"%d" % (i % 37) for i in range(rows)]
    offsets = np.cumsum([0, *map(len, words)]).astype(np.int64)
    columns = raw(rows).columns | {
        "y": FlatColumn(rng.integers(0, 2, rows).astype(np.int8)),
        "a": FlatColumn(rng.integers(-9, 9, rows).astype(np.int32), bits(), 5),
        "f": FlatColumn(rng.normal(size=rows).astype(np.float32), bits(), 1),
        "n": FlatColumn(rng.integers(-(2**40), 2**40, rows), bits(), 0),
        "s": FlatColumn(np.frombuffer(b"".join(words), np.uint8), bits(), 3, offsets),
    }
    return RawBatch(columns, rows)


@pytest.mark.parametrize("recipe", [MIXED, SINGLE, LISTS], ids=["mixed", "single", "lists"])
@pytest.mark.parametrize("index_dtype", ["int64", "int32"])
@pytest.mark.parametrize("most", [program.MAX_COLUMNS, 20, 1])
@pytest.mark.parametrize(("first", "rows", "size"), [(0, 64, 16), (13, 103, 25), (7, 3, 1), (0, 40, 40), (5, 30, 64)])
def test_parts_are_what_one_after_another_would_be(
    recipe: ig.Recipe, index_dtype: str, most: int, first: int, rows: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MAX_COLUMNS", most)
    made, whole = Program(recipe, MIXED_SCHEMA, index_dtype), mixed(first + rows + 2)
    parts = made.run_parts(whole.slice(first, first + rows), size)
    if recipe is LISTS or rows < 2 * size:
        assert parts is None
        return
    assert parts is not None
    assert [len(part) for part in parts] == [min(size, rows - i) for i in range(0, rows, size)]
    for i, part in enumerate(parts):
        start = first + i * size
        alone = made.run(whole.slice(start, min(start + size, first + rows)))
        for found, wanted in zip(tensors(part), tensors(alone), strict=True):
            assert found.dtype == wanted.dtype
            assert found.shape == wanted.shape
            assert found.numpy().tobytes() == wanted.numpy().tobytes()
            assert found.is_contiguous()


def tensors(batch: ig.Batch) -> list[torch.Tensor]:
    return [batch.dense, batch.label, batch.sparse.values(), batch.sparse.lengths(), batch.sparse.offsets()]


def test_parts_are_saved_without_one_another() -> None:
    parts = Program(MIXED, MIXED_SCHEMA).run_parts(mixed(400), 100)
    assert parts is not None
    for part in parts:
        for tensor in (part.dense, part.label, part.sparse.values()):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes  # `torch.save` writes the whole storage


def test_few_sizes_of_parts_are_remembered() -> None:
    made = Program(SINGLE, SCHEMA)
    for rows in range(2, 3 * program.MAX_SIZES):
        assert len(made.run_parts(raw(2 * rows), rows) or []) == 2
    assert made._repeated.cache_info().currsize <= program.MAX_SIZES
