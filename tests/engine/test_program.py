import numpy as np
import pytest

import intune_gpu as ig
from intune_gpu.core.columns import ColumnType, FlatColumn, RawBatch
from intune_gpu.engine import program
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
    monkeypatch.setattr(program, "MAX_IDS", 7)
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
    assert len(made._plain) <= program.MAX_SIZES
    assert len(made._layouts) <= program.MAX_SIZES


def test_columns_in_any_order() -> None:
    made, rows = Program(SINGLE, SCHEMA), raw(6)
    turned = RawBatch(dict(reversed(rows.columns.items())), 6)
    assert made.run(rows).sparse.values().tolist() == made.run(turned).sparse.values().tolist()
