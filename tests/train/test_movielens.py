"""Default flags learn real ratings: strings, integers, nulls and a list."""

from __future__ import annotations

from pathlib import Path

import pytest

import intune_gpu as ig
from intune_gpu.train.__main__ import main
from tests.shared_data import MOVIELENS, needs
from tests.train.conftest import metrics_of

RECIPE = ig.Recipe(
    label="label",
    dense={"age": [ig.FillMissing(30.0)], "release_year": [ig.FillMissing(1990.0)]},
    sparse={
        name: [ig.HashBucket(10_000)] for name in ("user_id", "item_id", "gender", "occupation", "zip_code", "genres")
    },
)


@needs(MOVIELENS)
@pytest.mark.parametrize(("split", "at_least"), [("random", 0.77), ("time", 0.695)])
def test_auc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, split: str, at_least: float) -> None:
    monkeypatch.chdir(tmp_path)
    RECIPE.save("recipe.json")
    flags = ["--recipe", "recipe.json", "--batch-size", "1024", "--epochs", "4", "--split", split, "--run-dir", "run"]
    assert main(["--data", str(MOVIELENS), *flags]) == 0
    assert metrics_of(Path("run"))["auc"] >= at_least
