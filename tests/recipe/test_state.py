"""State of fitted ops. No op of this version is fitted, so the tests bring one of their own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

import intune_gpu as ig
from intune_gpu import RecipeError
from intune_gpu.recipe import features, saving


@dataclass(frozen=True, slots=True)
class Centre:
    """x less the mean it was fitted with."""

    state_columns: ClassVar = ("mean", "rows")


MEANS = pa.table({"mean": pa.array([1.5], pa.float32()), "rows": pa.array([10], pa.int64())})


@pytest.fixture(autouse=True)
def centre(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Centre an op like any other."""
    monkeypatch.setattr(features, "OPS", (*features.OPS, Centre))
    monkeypatch.setattr(features, "NUMERIC_OPS", (*features.NUMERIC_OPS, Centre))
    monkeypatch.setitem(saving._OP_BY_NAME, "Centre", Centre)


def fitted(table: pa.Table = MEANS, **changes: object) -> ig.Recipe:
    arguments = {"label": "y", "dense": {"age": [Centre()], "year": []}, "state": {"age": table}}
    return ig.Recipe(**(arguments | changes))


def test_state_reaches_its_feature_alone() -> None:
    age, year = fitted().dense_features
    assert age.state.equals(MEANS)
    assert year.state is None


def test_saved_and_loaded_it_is_the_same_recipe(tmp_path: Path) -> None:
    made = fitted(pa.concat_tables([MEANS.slice(0, 0), MEANS.replace_schema_metadata({"of": "yesterday"})]))
    made.save(tmp_path / "r.json")
    loaded = ig.Recipe.load(tmp_path / "r.json")
    assert loaded == made
    assert loaded.state["age"].equals(MEANS)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".parquet"]
    assert json.loads((tmp_path / "r.json").read_text())["format_version"] == 2


def test_state_is_part_of_the_meaning() -> None:
    other = MEANS.set_column(0, "mean", pa.array([2.0], pa.float32()))
    assert fitted() != fitted(other)
    assert fitted() == fitted(MEANS.slice(0))
    assert "state of age" in repr(fitted())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": {}}, 'feature "age": its op is fitted, and Recipe.state holds nothing for it; fit it'),
        ({"state": [MEANS]}, "Recipe.state: expected a mapping"),
        ({"state": {"age": {"mean": 1}}}, r'Recipe.state\["age"\]: expected an Arrow table'),
        ({"state": {"age": MEANS.select(["mean"])}}, "expected the columns mean, rows, found mean"),
        ({"state": {"age": MEANS, "year": MEANS}}, r'Recipe.state\["year"\]: expected a feature with a fitted op'),
        ({"state": {"age": pa.table({"mean": [None], "rows": [1]})}}, 'expected no nulls in "mean", found 1'),
    ],
)
def test_state_that_does_not_fit_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        fitted(**changes)


def test_a_recipe_never_meets_another_ones_state(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    fitted().save(path)
    (table,) = tmp_path.glob("*.parquet")
    fitted(MEANS.set_column(0, "mean", pa.array([9.0], pa.float32()))).save(tmp_path / "other.json")
    (other,) = tmp_path.glob("other.json.*.parquet")
    table.write_bytes(other.read_bytes())
    with pytest.raises(RecipeError, match=r"r\.json.*holds another table than was saved; copy it again, or fit anew"):
        ig.Recipe.load(path)
    table.write_bytes(b"nothing of the kind")
    with pytest.raises(RecipeError, match=r'the state of feature "age": .* cannot be read'):
        ig.Recipe.load(path)
    table.unlink()
    with pytest.raises(RecipeError, match="found no such file; copy both"):
        ig.Recipe.load(path)


def test_state_in_the_json_must_be_digests(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    fitted().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": ["age"]}))
    with pytest.raises(RecipeError, match="state: expected an object of feature to digest"):
        ig.Recipe.load(path)
