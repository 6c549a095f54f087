"""The package's face: what it exports, and what it says when an optional package is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import intune_gpu as ig

BLOCKED = """
import sys

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
