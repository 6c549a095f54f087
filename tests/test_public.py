"""The package's face: what it exports, and what it says when an optional package is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import intune_gpu as ig
from tests import conformance

BLOCKED = """
import sys
from pathlib import Path

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name={package!r})

sys.meta_path.insert(0, Block())
import intune_gpu
try:
    intune_gpu.{name}
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_every_exported_name_is_there() -> None:
    for name in ig.__all__:
        assert getattr(ig, name) is not None
        assert name in dir(ig)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Loadr'"):
        _ = ig.Loadr


@pytest.mark.parametrize("package", ["torch", "torchrec"])
@pytest.mark.parametrize("name", ["Loader"])
def test_a_missing_package_is_named_in_one_sentence(package: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(package=package, name=name)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(
        f"MissingPackageError intune_gpu.{name}: needs the package {package}, which is not installed; pip install"
    )
    assert done.stdout.count("\n") == 1


def test_recipes_need_no_torch() -> None:
    code = BLOCKED.format(package="torch", name="recipes.criteo().digest") + "\nprint('made')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "made\n"


def test_the_main_arguments_must_be_of_their_kind(tmp_path: Path) -> None:
    recipe = ig.Recipe("y", sparse={"a": [ig.Modulo(5)]})
    for table in (None, [1], "x", pa.chunked_array([[1]])):
        with pytest.raises(ig.DataError, match="expected an Arrow table, a record batch or a mapping"):
            ig.transform(table, recipe)
    with pytest.raises(ig.DataError, match="named by a text, found 3"):
        ig.transform({3: [1]}, recipe)
    for wrong in (None, "recipe.json"):
        with pytest.raises(ig.RecipeError, match="expected a Recipe"):
            ig.transform({"y": [1], "a": [1]}, wrong)
        with pytest.raises(ig.RecipeError, match="expected a Recipe"):
            ig.Loader("logs", wrong)
    with pytest.raises(ValueError, match=r"batch_size: expected a whole number, found 5\.0"):
        ig.Loader("logs", recipe, batch_size=5.0)
    for data in (3, b"x", []):
        with pytest.raises(ig.DataError, match="data: expected"):
            ig.Loader(data, recipe)
    with pytest.raises(ig.RecipeError, match=r"nothing/x\.json: expected a folder to write in, found No such file"):
        recipe.save(tmp_path / "nothing" / "x.json")


def test_without_a_label_column_labels_are_nan() -> None:
    recipe = ig.Recipe("y", sparse={"a": [ig.Modulo(5)]})
    asked = ig.transform({"a": [7, 8]}, recipe)
    assert asked.label.isnan().all()
    assert asked.sparse.values().tolist() == ig.transform({"a": [7, 8], "y": [0, 1]}, recipe).sparse.values().tolist()
    assert repr(asked) == "Batch(2 rows, 0 dense features, 1 sparse features, cursor=None)"


def test_reading_looks_for_no_pandas(tmp_path: Path) -> None:
    """Arrow does at the first of some calls, whether it is there or not, and drops a Ctrl-C that comes meanwhile."""
    table = conformance.table()
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=90)
    code = f"""
import sys
from intune_gpu.loader import Loader
from tests.conformance import RECIPE

class Note:
    asked = []
    def find_spec(self, name, path=None, target=None):
        self.asked.append(name.partition(".")[0])

sys.meta_path.insert(0, Note())
with Loader({str(tmp_path / "t.parquet")!r}, RECIPE, batch_size=16, shuffle=True) as loader:
    print(sum(len(batch) for batch in loader), Note.asked.count("pandas"))
import pyarrow
pyarrow.array([True]).to_numpy(zero_copy_only=False)
print(Note.asked.count("pandas") > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{len(table)} 0\nTrue\n", done.stderr
