"""Optional packages: which extra brings each, and one sentence where one is not there."""

from __future__ import annotations

import importlib
from types import ModuleType

from intune_gpu.core.errors import MissingPackageError

# Extras of pyproject.toml, by the name that is imported.
EXTRAS = {
    "torch": "train,cpu",
    "torchrec": "train,cpu",
    "fbgemm_gpu": "train,cpu",
    "numba_cuda": "cuda",
    "cupy": "cuda",
    "nvidia.dali": "dali",
    "matplotlib": "explain",
}
_MADE_TO_FIT = ("torch", "torchrec", "fbgemm_gpu")


def need(package: str, what_for: str) -> ModuleType:
    """Import an optional package and return it.

    Args:
        package: one of `EXTRAS`.
        what_for: what cannot be done without it; the message begins with it.

    Raises:
        MissingPackageError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: a library of it is for another machine or another version
        raise missing(package, what_for, error) from error


def missing(package: str, what_for: str, error: Exception) -> MissingPackageError:
    """Return the error to raise when importing a package of `EXTRAS` raised `error`."""
    found = "is not installed" if is_absent(package, error) else f"cannot be imported ({error})"
    fits = ", or run make train, which picks versions that fit" if package in _MADE_TO_FIT else ""
    return MissingPackageError(
        f'{what_for}: needs the package {package}, which {found}; pip install "intune_gpu[{EXTRAS[package]}]"{fits}'
    )


def is_absent(package: str, error: Exception) -> bool:
    """Return whether `error` says that a package itself, or a package around it, is not there."""
    around = [package[:end] for end, sign in enumerate(package) if sign == "."]
    return isinstance(error, ModuleNotFoundError) and error.name in (package, *around)
