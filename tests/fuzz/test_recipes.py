"""Random recipes: saved and loaded, damaged, and run over random tables by the loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import intune_gpu as ig
from tests import naive
from tests.engine.test_parity import QUIET, jobs, python_of
from tests.fuzz.guided import check_recipe

CORPUS = sorted((Path(__file__).parent / "corpus" / "recipe").iterdir())


@settings(max_examples=100, suppress_health_check=QUIET)
@given(jobs(free=True))
def test_saved_and_loaded_is_the_same(tmp_path_factory: pytest.TempPathFactory, job: Any) -> None:
    recipe = job[1]
    path = tmp_path_factory.getbasetemp() / "recipe.json"
    recipe.save(path)
    assert check_recipe(path.read_bytes(), path)
    assert ig.Recipe.load(path) == recipe


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["HashBucket", "op"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.data())
def test_damaged_it_is_refused_by_name_or_means_something(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any value in any place of a whole recipe; what is still one is saved and loaded again."""
    state = json.loads((CORPUS[0]).read_text())
    place: Any = state
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    check_recipe(json.dumps(state).encode(), tmp_path_factory.getbasetemp() / "recipe.json")


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus(tmp_path: Path, path: Path) -> None:
    assert check_recipe(path.read_bytes(), tmp_path / "recipe.json") is (path.name in ("all_ops", "least"))


@settings(max_examples=20, suppress_health_check=QUIET)
@given(job=jobs(free=False), batch_size=st.sampled_from([1, 7, 64, 1000]), group=st.sampled_from([1, 10, 1000]))
def test_any_recipe_over_any_file(
    tmp_path_factory: pytest.TempPathFactory, job: Any, batch_size: int, group: int
) -> None:
    table, recipe, lists = job
    if not table.num_rows:
        return
    note(repr(recipe))
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    pq.write_table(table, path, row_group_size=group)
    given = 0
    with ig.Loader(path, recipe, batch_size=max(batch_size, table.num_rows // 20), on_bad_row="raise") as loader:
        for batch in loader:
            rows = len(batch.label)
            part: pa.Table = table.slice(given, rows)
            assert naive.differences(batch, python_of(part), recipe, lists) == []
            given += rows
    assert given == table.num_rows
