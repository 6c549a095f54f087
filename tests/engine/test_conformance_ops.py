"""One contract for every op (docs: STYLE 15). A new op adds one class of one or two lines and inherits all of it."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

import intune_gpu as ig
from intune_gpu.recipe.ops import OPS
from tests import edges, naive

NAMES = {op.__name__: op for op in OPS} | {"Recipe": ig.Recipe}
ROWS = 257


class OpConformance:
    """What holds for every op.

    Attributes:
        ops: the op with telling parameters, each way it can be given.
        place: "dense" or "sparse".
        before, after: what a chain needs around it.
        kinds: of the columns it runs over (keys of `edges.ARROW`).
    """

    ops: ClassVar[list[Any]]
    place: ClassVar[str] = "dense"
    before: ClassVar[list[Any]] = []
    after: ClassVar[list[Any]] = []
    kinds: ClassVar[tuple[str, ...]] = ("int64", "float32")  # each pair of kind and chain is compiled: few

    def recipe(self) -> ig.Recipe:
        """Return every way of the op over every kind of column."""
        names_its_own = isinstance(self.ops[0], ig.Column | ig.Cross)
        chains = {
            f"{kind} {i}": [*([] if names_its_own else [ig.Column(kind)]), *self.before, op, *self.after]
            for kind in self.kinds
            for i, op in enumerate(self.ops)
        }
        return ig.Recipe(label="y", seed=11, **{self.place: chains})

    def table(self, rows: int = ROWS) -> pa.Table:
        """Return mixed columns, sliced out of longer ones."""
        columns = {kind: edges.sliced(kind, rows, 3) for kind in (*self.kinds, "int64")}
        return pa.table(columns | {"y": pa.array(np.arange(rows) % 2, pa.int8())})

    # ------------------------------------------------------------------------------------------------ the op as a value

    def test_frozen(self) -> None:
        for op in self.ops:
            for field in dataclasses.fields(op):
                with pytest.raises(dataclasses.FrozenInstanceError):
                    setattr(op, field.name, 1)
            with pytest.raises((AttributeError, TypeError)):  # TypeError: CPython's, for slots and an unknown name
                op.unknown = 1

    def test_equal_and_hashable(self) -> None:
        for op in self.ops:
            twin = dataclasses.replace(op)
            assert twin == op
            assert hash(twin) == hash(op)
        assert len(set(self.ops)) == len(self.ops)

    def test_repr_evaluates_back(self) -> None:
        for op in self.ops:
            assert eval(repr(op), dict(NAMES)) == op
        recipe = self.recipe()
        assert eval(repr(recipe), dict(NAMES)) == recipe
        assert hash(eval(repr(recipe), dict(NAMES))) == hash(recipe)

    def test_saves_and_loads(self, tmp_path) -> None:
        recipe = self.recipe()
        recipe.save(tmp_path / "recipe.json")
        loaded = ig.Recipe.load(tmp_path / "recipe.json")
        assert loaded == recipe
        assert repr(loaded) == repr(recipe)
        assert (dict(loaded.dense), dict(loaded.sparse)) == (dict(recipe.dense), dict(recipe.sparse))
        loaded.save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == (tmp_path / "recipe.json").read_bytes()

    # -------------------------------------------------------------------------------------------------- the op at work

    @pytest.mark.parametrize("rows", [0, 1, ROWS])
    def test_spec_is_honest(self, rows: int) -> None:
        """What the recipe says before any row is read is what comes out."""
        recipe, table = self.recipe(), self.table(rows)
        batch = ig.transform(table, recipe)
        assert batch.dense.shape == (rows, len(recipe.dense_names))
        assert batch.label.shape == (rows,)
        assert batch.dense.is_contiguous()
        assert batch.sparse.keys() == list(recipe.sparse_names)
        assert batch.sparse.stride() == rows
        assert set(recipe.columns) <= set(table.column_names)
        for feature, ids in naive.jagged(batch.sparse).items():
            assert len(ids) == rows
            assert all(0 <= i < recipe.num_embeddings[feature] for row in ids for i in row)

    def test_input_unchanged(self) -> None:
        table = self.table()
        buffers = [b for column in table.columns for chunk in column.chunks for b in chunk.buffers() if b is not None]
        before = [b.to_pybytes() for b in buffers]
        ig.transform(table, self.recipe())
        assert [b.to_pybytes() for b in buffers] == before

    def test_reads_its_own_columns_only(self) -> None:
        """A column that no feature reads may be of any type, and changes nothing."""
        recipe, table = self.recipe(), self.table()
        strange = table.append_column("strange", pa.array([{"a": [1]}] * ROWS))
        assert_same(ig.transform(strange, recipe), ig.transform(table.select(recipe.columns), recipe))

    def test_deterministic(self) -> None:
        recipe, table = self.recipe(), self.table()
        first = ig.transform(table, recipe)
        made: list[Any] = []
        threads = [threading.Thread(target=lambda: made.append(ig.transform(table, recipe))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 3
        for batch in made:
            assert_same(batch, first)

    def test_rows_stand_alone(self) -> None:
        """A row's result does not depend on the rows around it."""
        recipe, table = self.recipe(), self.table()
        whole, part = ig.transform(table, recipe), ig.transform(table.slice(101, 90), recipe)
        bits = whole.dense.numpy().view(np.uint32)[101:191], part.dense.numpy().view(np.uint32)
        assert (bits[0] == bits[1]).all()
        ids = naive.jagged(part.sparse)
        assert {key: rows[101:191] for key, rows in naive.jagged(whole.sparse).items()} == ids

    def test_parity(self) -> None:
        recipe, table = self.recipe(), self.table()
        columns = {name: table[name].to_pylist() for name in table.column_names}
        lists = [kind for kind in self.kinds if "list<" in kind]
        assert naive.differences(ig.transform(table, recipe), columns, recipe, lists) == []


def assert_same(a: Any, b: Any) -> None:
    """Assert that two batches agree bit for bit."""
    assert a.sparse.keys() == b.sparse.keys()
    for x, y in zip(tensors(a), tensors(b), strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()


def tensors(batch: Any) -> list[np.ndarray]:
    return [t.numpy() for t in (batch.dense, batch.label, batch.sparse.lengths(), batch.sparse.values())]


IDS = (*(dtype.name for dtype in edges.INTEGERS), "bool", "string", "binary", "list<int32>", "list<string>")
INTEGER_IDS = (*(dtype.name for dtype in edges.INTEGERS), "list<int64>", "list<uint64>")


class TestColumn(OpConformance):
    ops: ClassVar = [ig.Column("int64")]
    after: ClassVar = [ig.FillMissing(0.0)]
    kinds = ("int64",)


class TestFillMissing(OpConformance):
    ops: ClassVar = [ig.FillMissing(0.0), ig.FillMissing(-0.1), ig.FillMissing(3)]


class TestClip(OpConformance):
    ops: ClassVar = [ig.Clip(min=0.0), ig.Clip(max=7), ig.Clip(-0.1, 0.1), ig.Clip(-2, -2)]
    before: ClassVar = [ig.FillMissing(1.0)]


class TestLog1p(OpConformance):
    ops: ClassVar = [ig.Log1p()]
    before: ClassVar = [ig.FillMissing(1.0)]


class TestScale(OpConformance):
    ops: ClassVar = [ig.Scale(0.0, 1.0), ig.Scale(0.1, 0.3), ig.Scale(mean=-5, std=2)]
    before: ClassVar = [ig.FillMissing(1.0)]


class TestBucketize(OpConformance):
    ops: ClassVar = [ig.Bucketize([0.0]), ig.Bucketize((-1, 0.1, 1e30)), ig.Bucketize([float(i) for i in range(100)])]
    before: ClassVar = [ig.FillMissing(1.0)]


class TestBucketizeSparse(TestBucketize):
    place = "sparse"


class TestMissingFlag(OpConformance):
    ops: ClassVar = [ig.MissingFlag()]


class TestHashBucket(OpConformance):
    ops: ClassVar = [ig.HashBucket(2), ig.HashBucket(1000, reserved=9), ig.HashBucket(2**31, salt="日本")]
    place, kinds = "sparse", IDS


class TestCross(OpConformance):
    ops: ClassVar = [ig.Cross(["string", "int64"], 1000), ig.Cross(("int64", "string", "int8"), 2**31, 5, "")]
    place, kinds = "sparse", ("string", "int8")


class TestModulo(OpConformance):
    ops: ClassVar = [ig.Modulo(1), ig.Modulo(1000), ig.Modulo(2**63 - 1)]
    place, kinds = "sparse", INTEGER_IDS


class TestFirstK(OpConformance):
    ops: ClassVar = [ig.FirstK(1), ig.FirstK(3), ig.FirstK(10_000)]
    after: ClassVar = [ig.HashBucket(1000)]
    place, kinds = "sparse", edges.LISTS


def test_every_op_is_here() -> None:
    suites = [suite for suite in globals().values() if isinstance(suite, type) and issubclass(suite, OpConformance)]
    assert {type(op) for suite in suites for op in getattr(suite, "ops", [])} == set(OPS)
