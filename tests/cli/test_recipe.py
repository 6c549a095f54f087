"""`intune-gpu recipe`: from a stranger's data to a training that has learnt something."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import intune_gpu as ig
from intune_gpu.cli.recipe import batch_size
from intune_gpu.opening import open_source
from intune_gpu.train.config import parse
from tests.cli.conftest import ROWS, Run
from tests.shared_data import CRITEO_TINY, MOVIELENS, needs

LEFT_OUT = {
    "row": "a row id",
    "when": "is a time",
    "instant": "is a time",
    "seen_at": "a time in seconds",
    "bid": "write it as float64",
    "geo": "a struct",
    "attributes": "nested",
    "nested": "nested",
    "embedding": "a list of floats",
    "nothing": "all missing",
    "void": "all missing",
    "one": "constant",
    "copy": "gives the label away: one value a class",
    "paid": "gives the label away: it is missing",
}


def write(path: Path, rows: int = 400, **columns: Any) -> Path:
    """Write a Parquet file with a label `y` and a city, and these columns."""
    rng = np.random.default_rng(0)
    base = {"y": (rng.random(rows) < 0.3).astype(np.int8), "city": rng.choice(["x", "y", "z"], rows)}
    pq.write_table(pa.table(base | columns), path)
    return path


def chosen(out: str) -> dict[str, dict[str, Any]]:
    return {choice["column"]: choice for choice in json.loads(out)["choices"]}


# --- the whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_strangers_parquet_trains_in_two_commands(stranger: Path, tmp_path: Path) -> None:
    def shell(line: str) -> subprocess.CompletedProcess[str]:
        path = os.environ | {"PYTHONPATH": str(Path(ig.__file__).parents[1])}
        words = ["bash", "-c", line]
        return subprocess.run(words, cwd=tmp_path, env=path, capture_output=True, text=True, check=False)

    first = shell(f"{sys.executable} -m intune_gpu recipe '{stranger}' --label clicked")
    assert (first.returncode, first.stderr) == (0, "")
    second = shell(first.stdout.splitlines()[-1].removeprefix("train ") + " --run-dir run --device cpu")
    assert second.returncode == 0, second.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["rows"] == ROWS - ROWS // 10
    assert metrics["auc"] > 0.75


def test_every_column_is_used_or_left_out_with_a_reason(run: Run, stranger: Path) -> None:
    code, out, err = run("recipe", stranger, "--label", "clicked", "--json")
    assert (code, err) == (0, "")
    choices = chosen(out)
    assert {name for name, choice in choices.items() if choice["use"] == "left out"} == set(LEFT_OUT)
    for name, reason in LEFT_OUT.items():
        assert reason in choices[name]["why"]
    recipe = ig.Recipe.load("my_logs.recipe.json")
    assert recipe.label == "clicked"
    assert recipe.dense["price"] == (ig.FillMissing(0), ig.Clip(min=0), ig.Log1p())
    assert [type(op) for op in recipe.dense["views"]] == [ig.FillMissing, ig.Scale]
    assert recipe.dense["views"][1].mean == pytest.approx(9, abs=0.1)
    assert recipe.dense["is_new"] == (ig.FillMissing(0),)
    assert isinstance(recipe.dense["infinite"][1], ig.Clip)
    assert "half" in recipe.dense
    assert recipe.sparse["user_id"] == (ig.Column("user.id"), ig.HashBucket(1024))  # torch allows no dot
    assert recipe.sparse["city"] == (ig.HashBucket(64),)
    assert recipe.sparse["history"] == (ig.FirstK(32), ig.HashBucket(16))
    assert {"tags", "words", "view", "cookie"} <= set(recipe.sparse)
    assert dict(recipe.types) == {"cookie": "hex32"}


def test_the_table_and_the_json_say_the_same(run: Run, stranger: Path) -> None:
    _, out, _ = run("recipe", stranger, "--label", "clicked", "--json")
    code, table, err = run("recipe", stranger, "--label", "clicked", "--force")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert [column["name"] for column in document["columns"]] == list(chosen(out))
    assert document["rows"] == ROWS
    assert document["command"] in table
    assert all(name in table for name in chosen(out))
    assert "left out" in table
    assert "HashBucket(1024)" in table


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_csv_with_a_header(run: Run, tmp_path: Path) -> None:
    rows = "".join(f'{i},"c, {i % 3}",{i % 7 / 2},{i % 11},{int(i % 3 == 0 and i % 2)}\n' for i in range(600))
    with gzip.open(tmp_path / "logs.csv.gz", "wt") as file:
        file.write("row,city,price,user_id,y\n" + rows)
    code, out, err = run("recipe", "logs.csv.gz", "--label", "y")
    assert (code, err) == (0, "")
    recipe = ig.Recipe.load("logs.recipe.json")
    assert (list(recipe.dense), list(recipe.sparse)) == (["price"], ["city", "user_id"])
    assert open_source("logs.csv.gz", recipe).read(0).bad == ()
    assert out.splitlines()[-1].endswith("--data logs.csv.gz --recipe logs.recipe.json --batch-size 64")


def test_text_without_a_header_needs_names_and_the_command_repeats_them(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{i % 2}\t{i % 5}\tx{i % 3}\n" for i in range(300)))
    code, _, err = run("recipe", "a.txt", "--label", "y")
    assert code == 2
    assert "expected a header line, found a first row of 3 fields, '0', '0', 'x0'; name all fields" in err
    assert run("recipe", "a.txt", "--label", "y", "--columns", "y", "n")[0] == 2
    code, out, err = run("recipe", "a.txt", "--label", "y", "--columns", "y", "n", "word", "--json")
    assert (code, err) == (0, "")
    words = shlex.split(json.loads(out)["command"])
    config = parse(words[3:]).data
    assert config.columns == ("y", "n", "word")
    open_source(list(config.data), ig.Recipe.load(config.recipe), columns=config.columns).close()


def test_rows_that_training_leaves_out_are_allowed_for(run: Run, tmp_path: Path) -> None:
    rows = [f"{i % 2}\t{i % 5}\tx{i % 3}\n" for i in range(300)]
    (tmp_path / "a.tsv").write_text("y\tn\tword\n" + "".join(["broken\n", *rows, "\t1\tno label\n"] * 9 + rows))
    code, out, err = run("recipe", "a.tsv", "--label", "y", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["bad_rows_looked_at"] == 9
    assert len(document["notes"]) == 2
    assert "--max-bad-fraction 0.02" in document["command"]


@needs(CRITEO_TINY)
def test_criteo_needs_no_names(run: Run) -> None:
    code, out, err = run("recipe", CRITEO_TINY, "--label", "label")
    assert (code, err) == (0, "")
    recipe = ig.Recipe.load("criteo_tiny.recipe.json")
    assert recipe.types["C1"] == "hex32"
    assert recipe.dense["I2"] == (ig.FillMissing(0), ig.Clip(min=0), ig.Log1p())  # hardly ever negative
    assert "--columns" not in out


@needs(MOVIELENS)
def test_movielens_leaves_out_what_the_label_was_made_of(run: Run) -> None:
    code, out, _ = run("recipe", MOVIELENS, "--label", "label", "--rows", 20_000, "--json")
    assert code == 0
    choices = chosen(out)
    assert {name for name, choice in choices.items() if choice["use"] == "left out"} == {"rating", "timestamp"}
    assert "all values of one class lie above" in choices["rating"]["why"]
    assert choices["user_id"]["use"] == "sparse"
    assert choices["age"]["use"] == "dense"


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (None, "--label: expected the column to learn, found none; these hold 0 and 1 only: y"),
        ("citi", '--label: expected a column, found none named "citi"; did you mean "city"?'),
        ("q", '--label: expected a column, found none named "q"; there are: y, city, day, '),
        ("city", '--label "city": expected numbers 0 and 1, found text such as'),
        ("stars", '--label "stars": expected values from 0 to 1, found 1 to 5; training learns a probability'),
        ("void", '--label "void": expected 0 and 1, found no value at all'),
        ("ids", '--label "ids": expected one number a row, 0 or 1, found list<element: int64>'),
        ("day", '--label "day": expected one number a row, 0 or 1, found date32[day]'),
        ("zero", '--label "zero": expected both 0 and 1, found 0 only'),
    ],
)
def test_a_label_that_cannot_be_learnt(run: Run, tmp_path: Path, label: str | None, sentence: str) -> None:
    stars = np.arange(400) % 5 + 1
    columns = {"stars": stars, "void": pa.nulls(400), "ids": [[1]] * 400, "zero": [0] * 400}
    write(tmp_path / "a.parquet", day=pa.array([1] * 400, pa.date32()), **columns)
    code, out, err = run("recipe", "a.parquet", *(["--label", label] if label else []))
    assert (code, out) == (2, "")
    assert err.startswith(f"intune-gpu: {sentence}")
    assert err.count("\n") == 1
    assert not Path("a.recipe.json").exists()


@pytest.mark.parametrize(("words", "one"), [(["no", "yes"], "yes"), (["keep", "buy"], "buy"), (["0", "1"], "1")])
def test_a_label_in_words_is_told_how_to_become_numbers(run: Run, tmp_path: Path, words: list[str], one: str) -> None:
    write(tmp_path / "a.parquet", bought=[words[i % 5 == 0] for i in range(400)])
    code, _, err = run("recipe", "a.parquet", "--label", "bought")
    assert code == 2
    assert f"pyarrow.compute.equal(column, '{one}').cast('int8')" in err


def test_a_recipe_that_is_there_is_not_replaced_unasked(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    Path("a.recipe.json").write_text("mine")
    code, _, err = run("recipe", "a.parquet", "--label", "y")
    assert code == 2
    assert "expected a new file, found it there; name another with --out, or pass --force" in err
    assert Path("a.recipe.json").read_text() == "mine"
    assert run("recipe", "a.parquet", "--label", "y", "--out", "b.json")[0] == 0
    assert run("recipe", "a.parquet", "--label", "y", "--force")[0] == 0
    assert ig.Recipe.load("a.recipe.json") == ig.Recipe.load("b.json")


def test_nothing_to_learn_from(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", city=["x"] * 400)
    code, _, err = run("recipe", "a.parquet", "--label", "y")
    assert code == 2
    assert "expected a column to learn y from, found none that can be used: city (constant)" in err


@pytest.mark.parametrize("arguments", [["nope.parquet"], [], ["a.txt.bz2"]])
def test_data_that_is_not_there(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "a.txt.bz2").touch()
    code, out, err = run("recipe", *arguments, "--label", "y")
    assert (code, out) == (2, "")
    assert "expected" in err
    assert "found" in err or "which tells the format" in err


def test_a_folder_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    code, _, err = run("recipe", "a.parquet", "--label", "y", "--out", "no/such/folder.json")
    assert code == 2
    assert "expected a folder to write in" in err


# --- details ----------------------------------------------------------------------------------------------------------


def test_numbers_alone_get_one_in_buckets(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", city=np.random.default_rng(1).normal(size=400))
    assert run("recipe", "a.parquet", "--label", "y")[0] == 0
    recipe = ig.Recipe.load("a.recipe.json")
    (ops,) = recipe.sparse.values()
    assert isinstance(ops[-1], ig.Bucketize)
    assert len(ops[-1].borders) == 9
    open_source("a.parquet", recipe).close()


def test_files_that_disagree_about_a_column_do_without_it(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", n=[1, 2] * 200)
    write(tmp_path / "b.parquet", n=["1", "2"] * 200, late=[1, 2] * 200)
    code, out, err = run("recipe", "a.parquet", "b.parquet", "--label", "y", "--json")
    assert (code, err) == (0, "")
    choices = chosen(out)
    assert choices["n"]["why"] == "its type differs: int64 in a.parquet, string in b.parquet"
    assert choices["late"]["why"] == "it is in b.parquet, and not in a.parquet"
    open_source(["a.parquet", "b.parquet"], ig.Recipe.load("a.recipe.json")).close()


def test_the_command_repeats_a_glob_quoted(run: Run, tmp_path: Path) -> None:
    for day in (1, 2):
        write(tmp_path / f"day_{day}.parquet")
    code, out, _ = run("recipe", "day_*.parquet", "--label", "y", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["recipe"] == "day.recipe.json"
    assert "--data 'day_*.parquet'" in document["command"]
    assert document["rows"] == 800


def test_data_sorted_by_its_label_is_held_out_at_random(run: Run, tmp_path: Path) -> None:
    for name, y in (("sorted", [0] * 300 + [1] * 100), ("mixed", [0, 1] * 200)):
        write(tmp_path / f"{name}.parquet", y=np.array(y, np.int8))
    _, out, _ = run("recipe", "sorted.parquet", "--label", "y", "--json")
    assert "--split random" in json.loads(out)["command"]
    assert "of one class" in json.loads(out)["notes"][0]
    _, out, _ = run("recipe", "mixed.parquet", "--label", "y", "--json")
    assert "--split" not in json.loads(out)["command"]
    assert json.loads(out)["notes"] == []


def test_the_command_names_the_python_that_runs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet")

    def first_word() -> str:
        out = run("recipe", "a.parquet", "--label", "y", "--force", "--json")[1]
        return shlex.split(json.loads(out)["command"])[0]

    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert first_word() == "python"
    monkeypatch.setenv("PATH", "")
    assert first_word() == sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert first_word() == ".venv/bin/python"


@pytest.mark.parametrize(("rows", "batch"), [(1, 64), (20_000, 128), (100_000, 512), (10**9, 4096)])
def test_small_data_gets_small_batches(rows: int, batch: int) -> None:
    assert batch_size(rows) == batch
