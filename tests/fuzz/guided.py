"""Coverage-guided fuzzing with atheris: `python -m tests.fuzz.guided text|recipe [libFuzzer's flags and folders]`.

The text kernels are compiled and tell atheris nothing. What guides it is Python: the sources, the recipe, and the plain
parser that they are compared with, which takes another way for nearly everything that the kernels tell apart.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import intune_gpu as ig
from intune_gpu import kernels
from intune_gpu.core.errors import RecipeError
from tests.fuzz.lines import MIXED, Fuzzed

CHUNKS = (1, 7, 64, 1 << 16)
INSTRUMENTED = ["intune_gpu.sources", "intune_gpu.recipe", "tests.fuzz.oracle"]


def text_of(data: bytes) -> Fuzzed:
    """Return the file that an input stands for: its first byte says how it is read."""
    how = data[0] if data else 0
    quoted = bool(how & 1)
    return Fuzzed(data[1:], MIXED, b"," if quoted else b"\t", quoted, CHUNKS[how >> 1 & 3])


def check_recipe(data: bytes, path: Path) -> bool:
    """Load a recipe: it is refused by name, or saved and loaded again it is the same. Return whether it was taken."""
    path.write_bytes(data)
    try:
        recipe = ig.Recipe.load(path)
    except RecipeError as error:
        if str(path) not in str(error):
            raise AssertionError(f"expected an error that names {path}, found {error}") from error
        return False
    again = path.with_name("again.json")
    recipe.save(again)
    loaded = ig.Recipe.load(again)
    assert loaded == recipe
    assert loaded.digest == recipe.digest
    return True


def target_of(name: str, folder: Path) -> Callable[[bytes], None]:
    """Return what is called with each input."""
    if name == "recipe":
        return lambda data: void(check_recipe(data, folder / "recipe.json"))
    from tests.fuzz.compare import check_source  # here, so that it is instrumented

    return lambda data: void(check_source(text_of(data), folder / "a.tsv"))


def void(_: object) -> None:
    """Return nothing, as libFuzzer wants it."""


def main(name: str, flags: list[str]) -> None:
    """Fuzz; never comes back."""
    import atheris

    folder = Path(tempfile.mkdtemp(prefix="intune-fuzz-"))
    os.environ["XDG_CACHE_HOME"] = "/dev/null"  # no index is kept
    for module in pkgutil.iter_modules(kernels.__path__):  # Numba cannot compile what atheris has instrumented
        if not module.name.endswith("_cuda"):
            importlib.import_module(f"intune_gpu.kernels.{module.name}")
    with atheris.instrument_imports(include=INSTRUMENTED):
        import tests.fuzz.compare  # noqa: F401

        target = target_of(name, folder)
    atheris.Setup([sys.argv[0], *flags], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
