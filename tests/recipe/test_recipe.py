"""Recipes: what is refused, in which words, and that a saved recipe means the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import intune_gpu as ig
import intune_gpu.recipe as recipe_room
from intune_gpu.core.columns import ColumnType
from intune_gpu.core.errors import RecipeError

INT, FLOAT, STRING = ColumnType("int64", nullable=False), ColumnType("float32"), ColumnType("string")
SCHEMA = {
    "label": ColumnType("int8"),
    "age": INT,
    "year": ColumnType("int32", nullable=True),
    "price": FLOAT,
    "city": STRING,
    "device": ColumnType("uint32", hex32=True),
    "genres": ColumnType("string", is_list=True),
    "scores": ColumnType("float32", is_list=True),
}


def recipe(**features) -> ig.Recipe:
    return ig.Recipe(label="label", **features)


BAD_OPS = [
    (lambda: ig.HashBucket(1), r"HashBucket\(num_buckets\): expected a whole number from 2 to 2147483648, found 1"),
    (lambda: ig.HashBucket(2**31 + 1), "num_buckets"),
    (lambda: ig.HashBucket(True), "num_buckets"),
    (lambda: ig.HashBucket(10, reserved=0), r"HashBucket\(reserved\): expected a whole number from 1 to 9, found 0"),
    (lambda: ig.HashBucket(10, reserved=10), "reserved"),
    (lambda: ig.HashBucket(10, salt=3), "salt"),
    (lambda: ig.Cross("ab", 10), r"Cross\(columns\): expected a list of names, found 'ab'"),
    (lambda: ig.Cross(["a"], 10), "two or more"),
    (lambda: ig.Modulo(0), r"Modulo\(n\)"),
    (lambda: ig.FirstK(0), r"FirstK\(k\)"),
    (lambda: ig.FillMissing(float("nan")), r"FillMissing\(value\): expected a number that is finite in float32"),
    (lambda: ig.FillMissing(1e39), "finite in float32"),
    (lambda: ig.FillMissing("0"), "found '0'"),
    (lambda: ig.Clip(), "at least one bound"),
    (lambda: ig.Clip(2, 1), r"Clip\(max\): expected at least min = 2.0, found 1.0"),
    (lambda: ig.Scale(0, 0), r"Scale\(std\): expected above 0"),
    (lambda: ig.Scale(0, 1e-60), r"Scale\(std\)"),
    (lambda: ig.Bucketize([]), "at least one"),
    (lambda: ig.Bucketize([1, 1]), "ascending"),
    (lambda: ig.Bucketize(3), "a list"),
    (lambda: ig.Column(""), "a column's name"),
]


@pytest.mark.parametrize(("make", "message"), BAD_OPS)
def test_an_op_refuses_a_bad_parameter(make, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()


BAD_RECIPES = [
    ({}, "at least one feature"),
    ({"dense": {"age": ig.Log1p()}}, 'dense feature "age": expected a list of ops'),
    ({"dense": {"age": [ig.Log1p]}}, r"write Log1p\(\.\.\.\)"),
    ({"dense": {"age": [ig.HashBucket(5)]}}, "an id belongs under sparse"),
    ({"dense": {"age": [ig.Log1p(), ig.Column("x")]}}, "expected a numeric op"),
    ({"dense": {"age": [ig.FillMissing(0), ig.MissingFlag()]}}, "which leaves no missing value"),
    ({"dense": {3: []}}, "named by a text"),
    ({"sparse": {"city": []}}, "found no op"),
    ({"sparse": {"city": [ig.Log1p()]}}, "bounds the ids"),
    ({"sparse": {"city": [ig.Log1p(), ig.HashBucket(5)]}}, "cannot stand before"),
    ({"sparse": {"city": [ig.Column("a"), ig.Cross(["a", "b"], 5)]}}, "Cross alone"),
    ({"sparse": {"g": [ig.FirstK(2), ig.Bucketize([1])]}}, "FirstK is for lists of ids"),
    ({"sparse": {"g": [ig.MissingFlag(), ig.Bucketize([1])]}}, "cannot stand before"),
    ({"sparse": {"g": [ig.HashBucket(5)]}, "types": {"g": "hex"}}, "expected one of hex32, int64"),
    ({"sparse": {"g": [ig.HashBucket(5)]}, "seed": -1}, "Recipe.seed"),
    ({"sparse": [ig.HashBucket(5)]}, "Recipe.sparse: expected a mapping"),
]


@pytest.mark.parametrize(("features", "message"), BAD_RECIPES)
def test_a_recipe_refuses_an_impossible_chain(features: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**features)


MISFITS = [
    ({"dense": {"agee": []}}, 'dense feature "agee": expected a column "agee", found .*did you mean "age"'),
    ({"dense": {"city": [ig.Log1p()]}}, 'found "city" of string; hash it under sparse'),
    ({"dense": {"device": [ig.FillMissing(0)]}}, "of hex32"),
    ({"dense": {"scores": [ig.FillMissing(0)]}}, "of list of float32"),
    ({"dense": {"year": [ig.Log1p()]}}, r'column "year" can have missing values .* add FillMissing'),
    ({"sparse": {"price": [ig.HashBucket(5)]}}, "a float is no id"),
    ({"sparse": {"city": [ig.Modulo(5)]}}, "Modulo expects integers"),
    ({"sparse": {"x": [ig.Cross(["city", "genres"], 5)]}}, "Cross expects single values"),
    ({"sparse": {"city": [ig.FirstK(2), ig.HashBucket(5)]}}, "FirstK expects a list column"),
    ({"sparse": {"city": [ig.Bucketize([1])]}}, "single numbers"),
]


@pytest.mark.parametrize(("features", "message"), MISFITS)
def test_a_schema_that_does_not_fit_is_refused(features: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**features).check(SCHEMA)


def test_the_label_must_be_a_number() -> None:
    with pytest.raises(RecipeError, match='label "city": expected a number, found string'):
        ig.Recipe(label="city", dense={"age": []}).check(SCHEMA)


def test_int32_ids_must_fit() -> None:
    wide = recipe(sparse={"age": [ig.Modulo(2**31 + 1)]})
    wide.check(SCHEMA, "int64")
    with pytest.raises(RecipeError, match="do not fit"):
        wide.check(SCHEMA, "int32")


def everything() -> ig.Recipe:
    return recipe(
        dense={
            "age": [ig.Clip(min=0, max=120), ig.Log1p()],
            "year": [ig.FillMissing(1990), ig.Scale(1990, 12.5)],
            "year_missing": [ig.Column("year"), ig.MissingFlag()],
            "price": [ig.FillMissing(-0.0), ig.Bucketize([1, 2.5, 10])],
        },
        sparse={
            "city": [ig.HashBucket(1000, reserved=2, salt="town")],
            "genres": [ig.FirstK(3), ig.HashBucket(50)],
            "age": [ig.Modulo(7)],
            "age_group": [ig.Column("age"), ig.Bucketize([18, 65])],
            "city_x_device": [ig.Cross(["city", "device"], 5000)],
        },
        types={"device": "hex32"},
        seed=2**64 - 1,
    )


def test_a_good_recipe_fits_and_knows_its_shape() -> None:
    made = everything()
    made.check(SCHEMA, "int32")
    assert made.columns == ("label", "age", "year", "price", "city", "genres", "device")
    assert made.dense_names == ("age", "year", "year_missing", "price")
    assert made.num_embeddings == {"city": 1000, "genres": 50, "age": 7, "age_group": 3, "city_x_device": 5000}


def test_saved_and_loaded_is_equal(tmp_path: Path) -> None:
    made = everything()
    made.save(tmp_path / "recipe.json")
    loaded = ig.Recipe.load(tmp_path / "recipe.json")
    assert loaded == made
    assert hash(loaded) == hash(made)
    assert loaded.digest == made.digest
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.json"]


def test_repr_makes_it_again() -> None:
    made = everything()
    names = {name: getattr(recipe_room, name) for name in recipe_room.__all__}
    assert eval(repr(made), names) == made


def test_numbers_of_numpy_are_taken() -> None:
    assert ig.FillMissing(np.float32(0.5)) == ig.FillMissing(0.5)
    assert ig.HashBucket(np.int64(5)) == ig.HashBucket(5)
    assert ig.Bucketize(np.array([1, 2])) == ig.Bucketize([1.0, 2.0])
    assert repr(ig.Modulo(np.uint8(5))) == "Modulo(n=5)"


def test_equal_means_the_same_batches() -> None:
    one = recipe(dense={"age": [], "year": [ig.FillMissing(0)]})
    assert one == recipe(dense={"age": [], "year": [ig.FillMissing(0.0)]})
    assert one != recipe(dense={"year": [ig.FillMissing(0)], "age": []}), (
        "the order of features is the order of columns"
    )
    assert one != recipe(dense={"age": [], "year": [ig.FillMissing(1)]})


def test_a_recipe_is_frozen() -> None:
    made = everything()
    with pytest.raises(AttributeError):
        made.seed = 1
    with pytest.raises(TypeError):
        made.dense["age"] = []


BAD_FILES = [
    ("no json", "expected JSON"),
    ("[]", "expected a JSON object"),
    ('{"hash_version": 1}', "expected format_version 1 or 2, found None"),
    ({"hash_version": 2}, "expected hash_version 1, found 2; use the version of intune_gpu that wrote it"),
    ({"extra": 1}, r"unknown: \['extra'\]"),
    ({"seed": None}, "Recipe.seed"),
    ({"dense": {"age": [{"op": "Sqrt"}]}}, 'dense feature "age": expected an op, one of Column'),
    ({"dense": {"age": [{"op": "Clip", "low": 1}]}}, "Clip has the parameters min, max"),
    ({"dense": {"age": [{"op": "Scale", "mean": 0, "std": 0}]}}, r'dense feature "age": Scale\(std\)'),
    ({"dense": {"age": "Log1p"}}, "expected a list of ops"),
    ({"dense": []}, "expected an object of features"),
    ('{"seed": 1, "seed": 2}', "stands twice"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: str | dict, message: str) -> None:
    path = tmp_path / "recipe.json"
    everything().save(path)
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content)
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        ig.Recipe.load(path)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.json: no such file"):
        ig.Recipe.load(tmp_path / "nothing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.json: cannot be read as UTF-8"):
        ig.Recipe.load(tmp_path / "binary.json")


def test_criteo() -> None:
    made = ig.recipes.criteo(num_buckets=1000)
    assert len(made.dense) == 13
    assert len(made.sparse) == 26
    assert set(made.num_embeddings.values()) == {1000}
    assert made.types["C1"] == "hex32"
