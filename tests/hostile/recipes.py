"""Recipes that mean nothing, or not what the data is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import intune_gpu as ig
from tests.hostile.case import HEAD, RECIPE, Seen, case, refused, rows, write

FIT = "Recipes that do not fit the data"
CHAIN = "Recipes that are impossible"
JSON = "Recipes as JSON"
NOTHING = "nothing was read or written"
LABEL = "y"


def recipe(**features: Any) -> Seen:
    """Make a recipe, which is refused."""
    return refused(lambda: ig.Recipe(LABEL, **features))


def fit(here: Path, **features: Any) -> Seen:
    """Open good rows with a recipe that does not fit them."""
    write(here / "a.tsv", HEAD, rows(1, 3))
    made = ig.Recipe(LABEL, **features)
    return refused(lambda: ig.Loader(here / "a.tsv", made, columns=["y", "n", "id"]))


def saved(here: Path, change: Callable[[dict[str, Any]], object]) -> Seen:
    """Save a recipe, change its JSON, and load it."""
    RECIPE.save(here / "r.json")
    state = json.loads((here / "r.json").read_text())
    change(state)
    (here / "r.json").write_text(json.dumps(state))
    return refused(lambda: ig.Recipe.load(here / "r.json"))


@case(FIT, "A column that the files do not have", r"column \"age\"|column 'age'", NOTHING)
def unknown_column(here: Path) -> Seen:
    return fit(here, dense={"age": [ig.FillMissing()]})


@case(
    FIT,
    "A declared type for a column that nothing reads",
    r'types\["idd"\]: expected a column that the recipe reads, found none; did you mean "id"\?',
    NOTHING,
)
def type_of_nothing(here: Path) -> Seen:
    return recipe(sparse={"id": [ig.HashBucket(9)]}, types={"idd": "hex32"})


@case(
    FIT,
    "A declared type that there is none of",
    r'types\["id"\]: expected one of hex32, int64, float64, string, found \'hex\'',
    NOTHING,
)
def unknown_type(here: Path) -> Seen:
    return recipe(sparse={"id": [ig.HashBucket(9)]}, types={"id": "hex"})


@case(
    FIT,
    "Missing values that nobody fills",
    r'column "n" can have missing values and the chain never fills them; add FillMissing',
    NOTHING,
)
def never_filled(here: Path) -> Seen:
    return fit(here, dense={"n": [ig.Log1p()]})


@case(FIT, "A text column as a number and as an id", r"expected one use, found it as a number and as an id", NOTHING)
def two_uses(here: Path) -> Seen:
    return fit(here, dense={"n": [ig.FillMissing()]}, sparse={"n_id": [ig.Column("n"), ig.HashBucket(9)]})


@case(FIT, "The first values of a column that holds no lists", r"FirstK expects a list column", NOTHING)
def first_of_one(here: Path) -> Seen:
    return fit(here, sparse={"id": [ig.FirstK(2), ig.HashBucket(9)]})


@case(FIT, "A label that is a feature's text", r"label", NOTHING)
def label_is_text(here: Path) -> Seen:
    write(here / "a.tsv", HEAD, rows(1, 3))
    made = ig.Recipe("id", dense={"n": [ig.FillMissing()]}, types={"id": "string"})
    return refused(lambda: ig.Loader(here / "a.tsv", made))


@case(CHAIN, "A number out of a hash", r"expected a numeric op, found HashBucket", NOTHING)
def hash_in_dense(here: Path) -> Seen:
    return recipe(dense={"id": [ig.HashBucket(9)]})


@case(CHAIN, "The logarithm of a hash", r"expected its chain to end in an op that bounds the ids", NOTHING)
def log_of_hash(here: Path) -> Seen:
    return recipe(sparse={"id": [ig.HashBucket(9), ig.Log1p()]})


@case(CHAIN, "A hash of a hash", r"HashBucket.* cannot stand before HashBucket", NOTHING)
def hash_of_hash(here: Path) -> Seen:
    return recipe(sparse={"id": [ig.HashBucket(9), ig.HashBucket(9)]})


@case(CHAIN, "The logarithm of an id", r"Log1p\(\) cannot stand before HashBucket", NOTHING)
def log_of_id(here: Path) -> Seen:
    return recipe(sparse={"id": [ig.Log1p(), ig.HashBucket(9)]})


@case(CHAIN, "An id with no op", r"expected its chain to end in an op that bounds the ids, found no op", NOTHING)
def no_op(here: Path) -> Seen:
    return recipe(sparse={"id": []})


@case(CHAIN, "A fill behind a fill", r"which leaves no missing value", NOTHING)
def filled_twice(here: Path) -> Seen:
    return recipe(dense={"n": [ig.FillMissing(), ig.FillMissing(1.0)]})


@case(CHAIN, "A column named in the middle of a chain", r"expected a numeric op, found Column", NOTHING)
def column_later(here: Path) -> Seen:
    return recipe(dense={"n": [ig.FillMissing(), ig.Column("id")]})


@case(CHAIN, "A cross of one column", r"Cross\(columns\): expected two or more", NOTHING)
def cross_of_one(here: Path) -> Seen:
    return refused(lambda: ig.Cross(["id"], 9))


@case(
    CHAIN,
    "A circle of names: a from b, b from a. A feature reads columns, never features",
    r"expected a header|expected a column|expected one of",
    NOTHING,
)
def circle(here: Path) -> Seen:
    return fit(here, sparse={"a": [ig.Column("b"), ig.HashBucket(9)], "b": [ig.Column("a"), ig.HashBucket(9)]})


@case(CHAIN, "A cross of itself", r"expected a header|expected a column|expected one of", NOTHING)
def cross_of_itself(here: Path) -> Seen:
    return fit(here, sparse={"x": [ig.Cross(["x", "id"], 9)]})


@case(CHAIN, "No features", r"expected at least one feature", NOTHING)
def no_features(here: Path) -> Seen:
    return recipe()


@case(CHAIN, "One bucket", r"HashBucket\(num_buckets\): expected a whole number from 2 to 2147483648, found 1", NOTHING)
def one_bucket(here: Path) -> Seen:
    return refused(lambda: ig.HashBucket(1))


@case(CHAIN, "2⁴⁰ buckets", r"found 1099511627776", NOTHING)
def too_many_buckets(here: Path) -> Seen:
    return refused(lambda: ig.HashBucket(2**40))


@case(
    CHAIN,
    "As many reserved ids as buckets",
    r"HashBucket\(reserved\): expected a whole number from 1 to 9, found 10",
    NOTHING,
)
def all_reserved(here: Path) -> Seen:
    return refused(lambda: ig.HashBucket(10, reserved=10))


@case(CHAIN, "Half a bucket", r"found 9\.5", NOTHING)
def half_a_bucket(here: Path) -> Seen:
    return refused(lambda: ig.HashBucket(9.5))  # type: ignore[arg-type]


@case(CHAIN, "A modulo of 0", r"Modulo\(n\): expected a whole number from 1", NOTHING)
def modulo_0(here: Path) -> Seen:
    return refused(lambda: ig.Modulo(0))


@case(CHAIN, "A standard deviation of 0", r"Scale\(std\): expected above 0", NOTHING)
def scale_by_0(here: Path) -> Seen:
    return refused(lambda: ig.Scale(0.0, 0.0))


@case(
    CHAIN,
    "A fill with infinity",
    r"FillMissing\(value\): expected a number that is finite in float32, found inf",
    NOTHING,
)
def fill_infinity(here: Path) -> Seen:
    return refused(lambda: ig.FillMissing(float("inf")))


@case(CHAIN, "Bounds the wrong way round", r"Clip\(max\): expected at least min = 2", NOTHING)
def clip_reversed(here: Path) -> Seen:
    return refused(lambda: ig.Clip(2.0, 1.0))


@case(CHAIN, "Borders that do not ascend", r"Bucketize\(borders\): expected ascending", NOTHING)
def borders_descend(here: Path) -> Seen:
    return refused(lambda: ig.Bucketize([1.0, 3.0, 2.0]))


@case(JSON, "No such file", r"recipe r\.json: no such file", NOTHING)
def no_json(here: Path) -> Seen:
    return refused(lambda: ig.Recipe.load(here / "r.json"))


@case(JSON, "JSON that is torn", r"recipe r\.json: expected JSON, found", NOTHING)
def torn_json(here: Path) -> Seen:
    RECIPE.save(here / "r.json")
    write(here / "r.json", (here / "r.json").read_bytes()[:40])
    return refused(lambda: ig.Recipe.load(here / "r.json"))


@case(JSON, "Bytes that are not UTF-8", r"recipe r\.json: cannot be read as UTF-8", NOTHING)
def json_of_bytes(here: Path) -> Seen:
    write(here / "r.json", b"\xff\xfe{}")
    return refused(lambda: ig.Recipe.load(here / "r.json"))


@case(JSON, "A list", r"expected a JSON object", NOTHING)
def json_list(here: Path) -> Seen:
    write(here / "r.json", b"[]")
    return refused(lambda: ig.Recipe.load(here / "r.json"))


@case(JSON, "A key that nobody knows", r"unknown: \['colour'\]", NOTHING)
def unknown_key(here: Path) -> Seen:
    return saved(here, lambda state: state.update(colour="red"))


@case(JSON, "A key that is missing", r"missing: \['seed'\]", NOTHING)
def missing_key(here: Path) -> Seen:
    return saved(here, lambda state: state.pop("seed"))


@case(JSON, "A feature that stands twice", r'the key "n" stands twice', NOTHING)
def twin_key(here: Path) -> Seen:
    RECIPE.save(here / "r.json")
    text = (here / "r.json").read_text().replace('"n": [', '"n": [],\n"n": [')
    (here / "r.json").write_text(text)
    return refused(lambda: ig.Recipe.load(here / "r.json"))


@case(
    JSON,
    "A newer `hash_version`",
    r"expected hash_version 1, found 2; use the version of intune_gpu that wrote it",
    NOTHING,
)
def newer_hash(here: Path) -> Seen:
    return saved(here, lambda state: state.update(hash_version=2))


@case(JSON, "A newer `format_version`", r"expected format_version 1 or 2, found 3", NOTHING)
def newer_format(here: Path) -> Seen:
    return saved(here, lambda state: state.update(format_version=3))


@case(JSON, "An op that nobody knows", r"expected an op, one of Column", NOTHING)
def unknown_op(here: Path) -> Seen:
    return saved(here, lambda state: state["dense"]["n"].append({"op": "Sqrt"}))


@case(JSON, "A parameter that the op has not", r"FillMissing has the parameters value, found", NOTHING)
def unknown_parameter(here: Path) -> Seen:
    return saved(here, lambda state: state["dense"]["n"][0].update(colour="red"))


@case(JSON, "A seed that is a text", r"Recipe\.seed: expected a whole number", NOTHING)
def text_seed(here: Path) -> Seen:
    return saved(here, lambda state: state.update(seed="7"))


@case(JSON, "Types that are a list", r"Recipe\.types: expected a mapping", NOTHING)
def types_list(here: Path) -> Seen:
    return saved(here, lambda state: state.update(types=["hex32"]))


@case(JSON, "Lists in lists, 100,000 deep", r"expected JSON, found", NOTHING)
def deep_json(here: Path) -> Seen:
    write(here / "r.json", b"[" * 100_000)
    return refused(lambda: ig.Recipe.load(here / "r.json"))
