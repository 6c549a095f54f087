"""Optional packages that are not there, each in a process that cannot import it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from intune_gpu.core.errors import MissingPackageError
from intune_gpu.core.packages import EXTRAS, missing, need

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise {error}

sys.meta_path.insert(0, Block())
from intune_gpu.core.packages import need
try:
    print(need({package!r}, "the test").__name__)
except ImportError as error:
    print(type(error).__name__, error)
"""


def said(package: str, error: str) -> str:
    code = BLOCKED.format(package=package, error=error)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    return done.stdout


@pytest.mark.parametrize("package", EXTRAS)
def test_a_package_that_is_not_installed_is_named_with_its_extra(package: str) -> None:
    sentence = said(package, f"ModuleNotFoundError('nothing there', name={package!r})")
    assert sentence.startswith(
        f"MissingPackageError the test: needs the package {package}, which is not installed; "
        f'pip install "intune_gpu[{EXTRAS[package]}]"'
    )
    assert ("make train" in sentence) == (package in ("torch", "torchrec", "fbgemm_gpu"))


@pytest.mark.parametrize("error", ["OSError('libx.so: no such file')", "ImportError('libx.so: no such file')"])
def test_a_package_that_is_broken_says_how(error: str) -> None:
    assert "which cannot be imported (libx.so: no such file); pip install" in said("cupy", error)


def test_the_package_around_it_may_be_what_is_missing() -> None:
    code = BLOCKED.format(package="nvidia", error="ModuleNotFoundError('nothing there', name='nvidia')")
    code = code.replace("need('nvidia'", "need('nvidia.dali'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs the package nvidia.dali, which is not installed" in done.stdout


def test_a_package_that_is_there_is_returned() -> None:
    assert need("torch", "the test") is sys.modules["torch"]


def test_what_a_package_itself_lacks_is_not_taken_for_the_package() -> None:
    error = missing("torch", "the test", ModuleNotFoundError("No module named 'absent'", name="absent"))
    assert isinstance(error, MissingPackageError)
    assert "torch, which cannot be imported (No module named 'absent')" in str(error)


@pytest.mark.parametrize("extras", sorted(set(EXTRAS.values())))
def test_the_extras_are_those_of_the_project(extras: str) -> None:
    assert set(extras.split(",")) <= set(PYPROJECT["optional-dependencies"])
