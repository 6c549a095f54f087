"""Kernels that are composed while the program runs, written to disk so that they compile once on a machine.

Numba's file cache does not find a loop that was composed from closures: every process would compile it again. So what
is composed becomes a small module in a cache folder whose name holds a digest of all kernel sources.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numba

from intune_gpu.kernels.loading import passing_folder

UNUSED_S = 90 * 24 * 3600.0
"""A folder of compiled kernels that was not opened for so long is removed."""


@cache
def kernel_digest() -> str:
    """Digest of every kernel source and of Numba's version: names the cache folder."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def folder() -> Path:
    """Return where generated modules stand, and what Numba compiled of them."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    own = root / "intune_gpu" / f"kernels-{kernel_digest()}"
    try:
        own.mkdir(parents=True, exist_ok=True)
        os.utime(own)
        with tempfile.TemporaryFile(dir=own):
            _remove_unused(own)
            return own
    except OSError:  # no home, or a read-only one: compile for this process alone
        return passing_folder()


def _remove_unused(own: Path) -> None:
    """Remove the folders of other kernels, of versions before, that no process has opened for long."""
    for other in own.parent.glob("kernels-*"):
        if other != own and time.time() - other.stat().st_mtime > UNUSED_S:
            shutil.rmtree(other, ignore_errors=True)


def load_module(name: str, source: str) -> Any:
    """Return the module that holds `source`, written to disk unless it stands there."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    module_name = f"_intune_gpu_{name[:60]}_{digest}"
    path = folder() / f"{module_name}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != source:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(source)
        os.replace(temporary, path)
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # Numba imports it by name when it loads the compiled loop from disk
    spec.loader.exec_module(module)
    return module
