"""`ig.transform` equals `tests/naive.py`, bit for bit, over the whole edge table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import intune_gpu as ig
from tests import edges, naive
from tests.edges import Edge

BORDERS = (-1e9, -2.5, -0.0, 1e-45, 0.5, 1.0, 1.0 + 1e-12, 3.1, 100.0, 2.0**31)  # two are one in float32

FILLED = {
    "fill": [ig.FillMissing(0.1)],
    "flag": [ig.MissingFlag()],
    "criteo": [ig.FillMissing(0.0), ig.Clip(min=0.0), ig.Log1p()],
    "late_fill": [ig.Clip(-1.0, 10.0), ig.FillMissing(-1.5)],
    "scaled": [ig.FillMissing(-0.0), ig.Scale(0.1, 3.7)],
    "late_flag": [ig.Scale(1.0, 0.3), ig.Clip(max=2.0), ig.MissingFlag()],
    "binned": [ig.FillMissing(1.0), ig.Bucketize(BORDERS)],
    "flag_binned": [ig.MissingFlag(), ig.Bucketize([0.5]), ig.Scale(0.5, 0.5)],
    "long": [ig.FillMissing(-3.0), ig.Clip(-0.0, 3e38), ig.Log1p(), ig.Log1p(), ig.Bucketize(BORDERS), ig.Scale(4, 2)],
}
UNFILLED = {
    "as_is": [],
    "log": [ig.Log1p()],
    "clip": [ig.Clip(min=0.0)],
    "clip_both": [ig.Clip(-0.5, 0.5)],
    "scale": [ig.Scale(-2.5, 0.1)],
    "chain": [ig.Clip(max=1e30), ig.Log1p(), ig.Scale(1, 3)],
}
HASHED = {
    "hash": [ig.HashBucket(100_000)],
    "hash_two": [ig.HashBucket(2)],
    "hash_most": [ig.HashBucket(2**31, reserved=1000, salt="other")],
}
MODULO = {f"modulo_{n}": [ig.Modulo(n)] for n in (1, 7, 300, 2**31 - 1, 2**32 + 5, 2**63 - 1)}


EVERY_CHAIN = ("int64", "float32")
"""Kinds that take every chain; the others take a few, since each pair of kind and chain is compiled."""
FEW_CHAINS = ("criteo", "as_is")


def dense_chains_of(kind: str, nullable: bool) -> dict[str, list[Any]]:
    """Return the dense chains for a column of this kind."""
    filled = {name: ops for name, ops in FILLED.items() if kind in EVERY_CHAIN or name in FEW_CHAINS}
    unfilled = {name: ops for name, ops in UNFILLED.items() if kind == "float32" or name in FEW_CHAINS}
    return filled if nullable else filled | unfilled


def features(edge: Edge) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Return the dense and sparse chains that this column can take."""
    kind, number = edge.kind, "list<" not in edge.kind and any(name in edge.kind for name in ("int", "float", "bool"))
    dense = dense_chains_of(kind, edge.nullable) if number else {}
    sparse = dict(HASHED) if "float" not in kind else {}
    if "int" in kind:
        sparse |= MODULO
    if number:
        sparse["bins"] = [ig.FillMissing(0.75), ig.Clip(min=-5.0), ig.Bucketize(BORDERS)]
    if "list<" in kind:
        for k in (1, 2, 5):
            sparse |= {f"{name}_first_{k}": [ig.FirstK(k), *ops] for name, ops in sparse.items() if "first" not in name}
    return dense, sparse


def from_x(chains: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [ig.Column("x"), *ops] for name, ops in chains.items()}


def label_of(rows: int) -> pa.Array:
    return pa.array(np.arange(rows) % 3, pa.int8())


def device() -> Any:
    """What `check` transforms on; tests/engine/gpu puts others here and runs the same tests again."""
    return "cpu"


def check(
    data: Any, columns: dict[str, Sequence[Any]], recipe: ig.Recipe, lists: Sequence[str] = (), **how: Any
) -> None:
    """Transform and compare."""
    batch = ig.transform(data, recipe, device=device(), **how)
    assert batch.cursor is None
    batch = batch.to(torch.device("cpu"))  # the oracle is plain NumPy
    assert naive.differences(batch, columns, recipe, lists, **how) == []


def table_of(**columns: Edge) -> pa.Table:
    """Return a table of these columns and a label."""
    rows = len(next(iter(columns.values())).array)
    fields = [edge.field.with_name(name) for name, edge in columns.items()] + [pa.field("y", pa.int8(), nullable=False)]
    return pa.table([*(edge.array for edge in columns.values()), label_of(rows)], schema=pa.schema(fields))


def python_of(table: pa.Table) -> dict[str, list[Any]]:
    return {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}


EDGES = edges.by_kind(*edges.NUMBERS, *edges.TEXTS, *edges.LISTS, *edges.OTHERS)


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name)
def test_every_chain_over_every_edge(edge):
    dense, sparse = features(edge)
    recipe = ig.Recipe(label="y", dense=from_x(dense), sparse=from_x(sparse), seed=2**64 - 1)
    table = table_of(x=edge)
    check(table, python_of(table), recipe, ["x"] if "list<" in edge.kind else ())


def test_the_edge_table_has_every_string_length():
    assert {len(t.encode()) for t in edges.texts()} >= set(range(71))
    assert {len(b) for b in edges.pool("binary")} >= set(range(71))


# ------------------------------------------------------------------------------------------------- columns side by side

SCALAR_IDS = (
    *(dtype.name for dtype in edges.INTEGERS),
    "bool",
    "string",
    "binary",
    "large_string",
    "dictionary<string>",
)


@pytest.mark.parametrize("rows", edges.ROWS)
def test_crosses_of_every_pair_of_kinds(rows):
    table = table_of(**{k: Edge(k, "", edges.array(k, edges.draw(k, rows, 0.2, "cross"))) for k in SCALAR_IDS})
    pairs = [(a, b) for i, a in enumerate(SCALAR_IDS) for b in SCALAR_IDS[i::3]]
    sparse = {f"{a} x {b}": [ig.Cross([a, b], 2**31)] for a, b in pairs}
    sparse |= {f"{b} x {a}": [ig.Cross([b, a], 2**31)] for a, b in pairs if a != b}
    sparse["all"] = [ig.Cross(SCALAR_IDS, 1000, reserved=10, salt="")]
    check(table, python_of(table), ig.Recipe(label="y", sparse=sparse))


@pytest.mark.parametrize("shape", ["no_rows", "all_missing", "sliced_at_13", "none_missing", "hidden"])
def test_crosses_of_edges(shape):
    kinds = ("int8", "int64", "uint64", "bool", "string", "binary")
    found = {k: next(e for e in edges.edges(k) if e.shape == shape) for k in kinds}
    table = table_of(**found)
    sparse = {"six": [ig.Cross(kinds, 997)], "two": [ig.Cross(["string", "int8"], 997)]}
    check(table, python_of(table), ig.Recipe(label="y", sparse=sparse, seed=5))


@pytest.mark.parametrize("rows", [0, 1, 33, 1000])
def test_many_kinds_in_one_recipe(rows):
    """Columns are grouped by type and chain; features must come out in the recipe's order all the same."""
    kinds = [*edges.NUMBERS, *edges.TEXTS, *edges.LISTS, *edges.OTHERS]
    columns = {k: Edge(k, "", edges.array(k, edges.draw(k, rows, 0.1, "many"))) for k in kinds}
    dense, sparse = {}, {}
    for turn in range(3):
        for kind in kinds[turn:] + kinds[:turn]:
            for chains, made in zip(features(columns[kind]), (dense, sparse), strict=True):
                chosen = list(chains.items())[turn::3]
                made |= {f"{kind} {name}": [ig.Column(kind), *ops] for name, ops in chosen}
    table = table_of(**columns)
    lists = [kind for kind in kinds if "list<" in kind]
    check(table, python_of(table), ig.Recipe(label="y", dense=dense, sparse=sparse, seed=1), lists)


@pytest.mark.parametrize("rows", [0, 1, 9])
@pytest.mark.parametrize("kinds", ["dense", "sparse"])
def test_recipes_of_one_kind(rows, kinds):
    table = table_of(x=Edge("int32", "", edges.array("int32", edges.draw("int32", rows, 0.2))))
    recipe = ig.Recipe(label="y", **{kinds: from_x(FILLED if kinds == "dense" else HASHED)})
    check(table, python_of(table), recipe)


def test_ids_as_int32():
    edge = next(e for e in edges.edges("list<string>") if e.shape == "mixed_257")
    table = table_of(x=edge)
    recipe = ig.Recipe(label="y", sparse=from_x(HASHED))
    check(table, python_of(table), recipe, ["x"], index_dtype="int32")


# --------------------------------------------------------------------------------------------------------------- hex32

HEX = [
    "",
    "0",
    "f",
    "F",
    "00000000",
    "ffffffff",
    "FFFFFFFF",
    "68fd1e64",
    "68FD1e64",
    "80000000",
    "1",
    "abc",
    "0001f",
    None,
]


@pytest.mark.parametrize("kind", ["string", "large_string", "binary", "string_view", "dictionary<string>"])
def test_hex32_of_text(kind):
    values = [v.encode() if v is not None and kind == "binary" else v for v in HEX * 5]
    table = table_of(x=Edge(kind, "", edges.array(kind, values).slice(3)))
    sparse = from_x(HASHED | MODULO) | {"cross": [ig.Cross(["x", "y"], 1000)]}
    check(table, python_of(table), ig.Recipe(label="y", sparse=sparse, types={"x": "hex32"}))


@pytest.mark.parametrize("kind", [*(dtype.name for dtype in edges.INTEGERS), "dictionary<int64>"])
def test_hex32_of_integers(kind):
    table = table_of(x=Edge(kind, "", edges.sliced(kind, 300, 5)))
    sparse = from_x(HASHED | MODULO) | {"cross": [ig.Cross(["x", "y"], 1000)]}
    check(table, python_of(table), ig.Recipe(label="y", sparse=sparse, types={"x": "hex32"}))


@pytest.mark.parametrize("kind", ["list<string>", "list<int64>", "list<int32>"])
def test_hex32_of_lists(kind):
    rows = [HEX, [], None, [None], HEX[::-1], ["7"]] if "string" in kind else edges.draw(kind, 99, 0.2)
    table = table_of(x=Edge(kind, "", edges.array(kind, rows)))
    sparse = from_x(HASHED | MODULO | {"first": [ig.FirstK(3), ig.Modulo(2**32)]})
    check(table, python_of(table), ig.Recipe(label="y", sparse=sparse, types={"x": "hex32"}), ["x"])


def test_hex32_text_and_integers_agree():
    values = [None if not v else int(v, 16) for v in HEX]
    table = table_of(text=Edge("string", "", pa.array(HEX)), number=Edge("uint32", "", pa.array(values, pa.uint32())))
    sparse = {f"{c} {n}": [ig.Column(c), *ops] for c in ("text", "number") for n, ops in MODULO.items()}
    recipe = ig.Recipe(label="y", sparse=sparse, types={"text": "hex32", "number": "hex32"})
    got = naive.jagged(ig.transform(table, recipe).sparse)
    assert all(got[f"text {name}"] == got[f"number {name}"] for name in MODULO)


# ------------------------------------------------------------------------------------------------- ways to hand data in


def test_table_record_batch_and_slices_agree():
    table = table_of(
        x=Edge("int64", "", edges.array("int64", edges.draw("int64", 200, 0.2))),
        s=Edge("string", "", edges.array("string", edges.draw("string", 200, 0.2))),
        g=Edge("list<string>", "", edges.array("list<string>", edges.draw("list<string>", 200, 0.2))),
    )
    recipe = ig.Recipe(
        label="y",
        dense=from_x(FILLED),
        sparse={"s": [ig.HashBucket(99)], "g": [ig.HashBucket(99)], "c": [ig.Cross(["s", "x"], 99)]},
    )
    batch = table.combine_chunks().to_batches()[0]
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 32), table.slice(33, 0), table.slice(33)])
    for data in (
        table,
        batch,
        table.slice(13, 77),
        batch.slice(13, 77),
        pieces,
        pieces.slice(20, 100),
        table.slice(200),
    ):
        columns = {name: column.to_pylist() for name, column in zip(data.schema.names, data.columns, strict=True)}
        check(data, columns, recipe, ["g"])


@pytest.mark.parametrize(
    "dtype", [*edges.INTEGERS, np.dtype("bool"), np.dtype("float32"), np.dtype("float64")], ids=str
)
@pytest.mark.parametrize(
    "view",
    [lambda a: a, lambda a: a[::2], lambda a: a[::-1], lambda a: a[5:-3], lambda a: np.tile(a, (3, 1)).T[:, 1]],
    ids=["whole", "every_second", "backwards", "middle", "column_of_matrix"],
)
def test_numpy_arrays(dtype, view):
    x = view(np.array(edges.pool(dtype.name) * 3, dtype))
    data = {"x": x, "y": (np.arange(2 * len(x)) % 2)[::2].astype(np.float32)}
    before = x.tobytes()
    chains = dense_chains_of(dtype.name, nullable=dtype.kind == "f")
    sparse = {} if dtype.kind == "f" else HASHED | MODULO if dtype.kind != "b" else HASHED
    recipe = ig.Recipe(label="y", dense=from_x(chains), sparse=from_x(sparse))
    check(data, {name: array.tolist() for name, array in data.items()}, recipe)
    assert x.tobytes() == before


@pytest.mark.parametrize("kind", ["bool", "int8", "int64", "uint64", "float32", "float64"])
def test_labels(kind):
    values = [0, 1, 1, 0] if kind == "bool" else [0, 1, 5, 100]
    if "64" in kind:
        values += [2**24 + 1, 2**60 + 2**36 + 1]
    if "float" in kind:
        values = [0.0, -0.0, 1.0, 0.1, 1e-45, -3e38]
    array = pa.array([bool(v) if kind == "bool" else v for v in values], edges.ARROW[kind])
    recipe = ig.Recipe(label="y", dense={"x": [ig.FillMissing(0.0)]})
    table = pa.table({"x": pa.array([1.0] * len(values)), "y": array})
    check(table, python_of(table), recipe)


def test_a_labels_own_column_can_be_a_feature():
    table = table_of(x=Edge("int32", "", pa.array([1, 2, 3], pa.int32())))
    recipe = ig.Recipe(label="y", dense={"y": [ig.FillMissing(0.0), ig.Log1p()]}, sparse={"y": [ig.Modulo(2)]})
    check(table, python_of(table), recipe)


# -------------------------------------------------------------------------------------------------- rules worth a name


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_a_computed_nan_is_a_value(kind):
    """DESIGN 7: missing is a null, an empty text field, or NaN in a float *column*; Log1p(-2) is none of them."""
    values = [-2.0, None, float("nan"), -np.inf, 1.0]
    table = table_of(x=Edge(kind, "", edges.array(kind, values)))
    dense = {
        "filled": [ig.Log1p(), ig.FillMissing(5.0)],
        "flagged": [ig.Log1p(), ig.MissingFlag()],
        "binned": [ig.FillMissing(-2.0), ig.Log1p(), ig.Bucketize([0.0])],
    }
    check(table, python_of(table), ig.Recipe(label="y", dense=from_x(dense)))


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_missing_passes_through_bucketize(kind):
    """DESIGN 7: missing passes through every dense op but FillMissing and MissingFlag."""
    table = table_of(x=Edge(kind, "", edges.array(kind, [1, None, 3, None])))
    dense = {
        "filled": [ig.Bucketize([0.0, 2.0]), ig.FillMissing(-1.0)],
        "flagged": [ig.Bucketize([0.0, 2.0]), ig.MissingFlag()],
        "scaled": [ig.Bucketize([0.0, 2.0]), ig.Scale(1.0, 2.0), ig.FillMissing(-1.0)],
    }
    check(table, python_of(table), ig.Recipe(label="y", dense=from_x(dense)))


def test_nan_in_a_column_that_is_never_null_passes_through():
    values = pa.array([1.0, float("nan"), -0.0], pa.float32())
    table = table_of(x=Edge("float32", "", values, nullable=False))
    dense = UNFILLED | {"bins": [ig.Bucketize([0.0, 2.0])], "bins_scaled": [ig.Bucketize([0.0]), ig.Scale(1.0, 2.0)]}
    check(table, python_of(table), ig.Recipe(label="y", dense=from_x(dense)))


@pytest.mark.parametrize("kind", ["int32", "uint8", "float64"])
def test_a_missing_scalar_gives_bin_0(kind):
    """DESIGN 6: a missing scalar gives id 0 and length 1, whatever op gives the ids."""
    table = table_of(x=Edge(kind, "", edges.array(kind, [1, None, 3, None])))
    check(table, python_of(table), ig.Recipe(label="y", sparse=from_x({"bins": [ig.Bucketize([0.0, 2.0])]})))


def test_flush_to_zero_is_cleared_and_restored():
    tiny = pa.array([1e-45, -1e-45, 1e-39, None], pa.float32())
    table = table_of(x=Edge("float32", "", tiny))
    columns, recipe = (
        python_of(table),
        ig.Recipe(label="y", dense=from_x(FILLED | {"small": [ig.Clip(0.0), ig.FillMissing(1e-40)]})),
    )
    ig.transform(table, recipe)
    half = torch.tensor([2e-38])
    try:
        assert torch.set_flush_denormal(True)
        batch = ig.transform(table, recipe)
        assert (half * 0.1).item() == 0.0  # the caller's setting is as it was
    finally:
        torch.set_flush_denormal(False)
    assert naive.differences(batch, columns, recipe) == []
    ig.transform(table, recipe)
    assert (half * 0.1).item() != 0.0


def test_log1p_over_the_whole_range():
    """Every 9973rd float32 and both ends of every binade, against the published recipe."""
    patterns = np.concatenate(
        [np.arange(0, 2**32, 9973), *(np.arange(b - 3, b + 4) for b in range(3, 2**32 - 4, 2**23))]
    )
    x = patterns.astype(np.uint32).view(np.float32)
    recipe = ig.Recipe(label="y", dense={"x": [ig.Log1p()]})
    got = ig.transform({"x": x, "y": np.zeros(len(x), np.float32)}, recipe).dense[:, 0].numpy()
    right = naive.canonical(naive.log1p_model(x))
    wrong = np.flatnonzero(got.view(np.uint32) != right.view(np.uint32))
    assert [(x[i], got[i], right[i]) for i in wrong[:3]] == []


# ---------------------------------------------------------------------------------------------------------- hypothesis

NUMBER = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, 3.5, 1e-40, 1e30, -2e5]) | st.floats(
    -1e6, 1e6, width=32, allow_subnormal=True
)
BOTH = st.builds(lambda a, b: ig.Clip(min(a, b), max(a, b)), NUMBER, NUMBER)
LOW, HIGH = st.builds(lambda a: ig.Clip(min=a), NUMBER), st.builds(lambda a: ig.Clip(max=a), NUMBER)
LOG, FLAG = st.builds(ig.Log1p), st.builds(ig.MissingFlag)
SCALE = st.builds(ig.Scale, NUMBER, st.sampled_from([0.1, 1.0, 3.0, 1e-40, 1e38]))
BINS = st.builds(
    lambda b: ig.Bucketize(sorted(set(b))), st.lists(NUMBER.map(lambda x: x + 0.0), min_size=1, max_size=6)
)
FILL = st.builds(ig.FillMissing, NUMBER)
SALT = st.none() | st.sampled_from(["", "salt", "日本"])
BUCKETS = st.sampled_from([20, 1000, 2**31]) | st.integers(20, 2**31)
HASH = st.builds(ig.HashBucket, BUCKETS, reserved=st.integers(1, 19), salt=SALT)
MODULUS = st.builds(ig.Modulo, st.sampled_from([1, 2, 2**31]) | st.integers(1, 2**63 - 1))


def another(op: Any) -> st.SearchStrategy[Any]:
    """Return ops that differ from this one in their numbers only, so that the same compiled loop runs them."""
    if isinstance(op, ig.Clip):
        return BOTH if None not in (op.min, op.max) else LOW if op.max is None else HIGH
    return {ig.FillMissing: FILL, ig.Log1p: LOG, ig.Scale: SCALE, ig.Bucketize: BINS, ig.MissingFlag: FLAG}[type(op)]


@st.composite
def dense_chain(draw: Any, edge: Edge, free: bool) -> list[Any]:
    """Draw a valid dense chain: any at all where `free`, else one in the shape of those above."""
    if not free:
        shape = draw(st.sampled_from(list(dense_chains_of(edge.kind, edge.nullable).values())))
        return [draw(another(op)) for op in shape]
    plain = st.lists(st.one_of(BOTH, LOW, HIGH, LOG, SCALE, BINS), max_size=3)
    fills = [draw(FILL | FLAG)] if edge.nullable or draw(st.booleans()) else []
    return [*draw(plain), *fills, *draw(plain)]


@st.composite
def sparse_chain(draw: Any, kind: str) -> list[Any]:
    """Draw a valid sparse chain for a column of this kind, Cross excepted."""
    if "float" in kind or (kind in edges.NUMBERS and draw(st.booleans())):
        return [draw(FILL), draw(LOW), draw(BINS)]
    last = draw(HASH | MODULUS if "int" in kind else HASH)
    return [*([ig.FirstK(draw(st.integers(1, 5)))] if "list<" in kind and draw(st.booleans()) else []), last]


@st.composite
def columns(draw: Any, rows: int) -> Edge:
    """Draw a column of any kind, sliced from a longer one, with or without missing values."""
    kind = draw(st.sampled_from([*edges.NUMBERS, *edges.TEXTS, *edges.LISTS]))
    missing = draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]))
    offset, stir = draw(st.integers(0, 40)), draw(st.integers(0, 2**20))
    whole = edges.array(kind, edges.draw(kind, offset + rows, missing, stir))
    return Edge(kind, "", whole.slice(offset), nullable=missing > 0)


@st.composite
def jobs(draw: Any, free: bool) -> tuple[pa.Table, ig.Recipe, list[str]]:
    """Draw a table and a recipe that fits it."""
    rows = draw(st.integers(0, 70) | st.sampled_from([127, 128, 129, 513]))
    data = {f"c{i}": draw(columns(rows)) for i in range(draw(st.integers(1, 4)))}
    dense, sparse = {}, {}
    for i in range(draw(st.integers(1, 5))):
        name, edge = draw(st.sampled_from(sorted(data.items(), key=lambda item: item[0])))
        if edge.kind in edges.NUMBERS and draw(st.booleans()):
            dense[f"d{i}"] = [ig.Column(name), *draw(dense_chain(edge, free))]
        else:
            sparse[f"s{i}"] = [ig.Column(name), *draw(sparse_chain(edge.kind))]
    singles = [n for n, edge in data.items() if "list<" not in edge.kind and "float" not in edge.kind]
    if singles and draw(st.booleans()):
        crossed = draw(st.lists(st.sampled_from(singles), min_size=2, max_size=4))
        sparse["x"] = [ig.Cross(crossed, draw(BUCKETS), draw(st.integers(1, 19)), draw(SALT))]
    recipe = ig.Recipe(label="y", dense=dense, sparse=sparse, seed=draw(st.integers(0, 2**64 - 1)))
    return table_of(**data), recipe, [n for n, edge in data.items() if "list<" in edge.kind]


QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)


@settings(max_examples=80, deadline=None, suppress_health_check=QUIET)
@given(jobs(free=False))
def test_any_recipe_over_any_table(job):
    table, recipe, lists = job
    note(repr(recipe))
    check(table, python_of(table), recipe, lists)


@pytest.mark.slow  # nearly each example compiles
@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(jobs(free=True))
def test_any_chain_over_any_table(job):
    table, recipe, lists = job
    note(repr(recipe))
    check(table, python_of(table), recipe, lists)
