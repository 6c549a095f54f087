"""A chain of dense rules as one compiled loop, written to disk so that it compiles once on a machine.

Numba's file cache does not find a loop that was composed from closures: every process would compile it again. So a
chain becomes a small module in a cache folder whose name holds a digest of all kernel sources; chains that differ
only in parameters share it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

# rule → (number of float32 parameters, reads borders, looks at missing)
RULES: dict[str, tuple[int, bool, bool]] = {
    "fill_missing": (1, False, True),
    "missing_flag": (0, False, True),
    "clip_min": (1, False, False),
    "clip_max": (1, False, False),
    "scale": (2, False, False),
    "log1p": (0, False, False),
    "bucketize": (0, True, False),
}

UNUSED_S = 90 * 24 * 3600.0
"""A folder of compiled kernels that was not opened for so long is removed."""

_MODULE = '''"""The chain {title}. Written by intune_gpu.kernels.fusing; safe to delete."""
import numpy as np
from numba import carray

from intune_gpu.kernels import numeric
from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.memory import BLOCK, expand_missing, pointer
from intune_gpu.kernels.transposing import rows_of_columns
from intune_gpu.kernels.widths import narrow

NAN = np.float32(np.nan)
canonical_nan_rule = numeric.canonical_nan_rule
{imports}


@njit(nogil=True, cache=True, error_model="numpy")
def run(
    columns,  # (columns, 4) int64: address of the values, of the null bits or 0, first null bit, address of offsets
    which,  # (features, 2) int64: row of `columns`, column of `out`
    params,  # (features, parameters) f32
    borders,  # flat f32
    spans,  # (features, 2 * bucketize steps) int64: first border, number of borders
    count,  # rows
    like,  # (0,) of the values' dtype
    out,  # (rows, dense) f32
):
    width = len(which)
    missing = np.empty(BLOCK, np.uint8)
    block = np.empty(((width + 7) // 8 * 8, BLOCK), np.float32)
    narrowed = np.empty(BLOCK, np.float32)
    flat, stride = out.reshape(-1), out.shape[1]
    whole = width == stride  # this chain fills the matrix, in order
    for c in range(width):
        whole &= which[c, 1] == c
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        for c in range(width):
            values = carray(pointer(columns[which[c, 0], 0]), (count,), like.dtype)
            expand_missing(columns[which[c, 0], 1], columns[which[c, 0], 2] + start, size, count - start, missing)
            target = block[c]
            {source}
{loads}
            for i in range(size):
                x = np.float32(source[i])
                absent = (missing[i] != 0) | (x != x)
{steps}
                target[i] = canonical_nan_rule(x)
        done = rows_of_columns(block, size, flat, start, stride, count) if whole else 0
        # Out of the first cache level, column by column: row by row takes 1.5 times as long, and without the block 2.4.
        for c in range(width):
            source = block[c]
            target = flat[start * stride + which[c, 1] :]
            for i in range(done, size):
                target[np.uint64(i) * np.uint64(stride)] = source[i]  # unsigned: no check for an index from the end
'''

_lock = threading.Lock()
_loaded: dict[tuple[tuple[str, ...], bool], Callable[..., None]] = {}


def dense_loop(rules: tuple[str, ...], itemsize: int) -> Callable[..., None]:
    """Return the CPU loop of a chain; its arguments stand in `_MODULE` above.

    Args:
        rules: names out of `RULES`, in order; an empty chain only converts to float32.
        itemsize: bytes of a value.
    """
    wide = itemsize == 8
    with _lock:
        if (rules, wide) not in _loaded:
            name = ("wide_" if wide else "") + ("_".join(rules) or "convert")
            _loaded[rules, wide] = _load(name, dense_source(rules, wide)).run
        return _loaded[rules, wide]


def dense_source(rules: tuple[str, ...], wide: bool) -> str:
    """Return the module that holds a chain's loop.

    Values of 8 bytes become float32 in a loop of their own: in one loop, all of it would run on vectors of half as many
    lanes.
    """
    loads: list[str] = []
    steps: list[str] = []
    slot = span = 0
    for rule in rules:
        parameters, reads_borders, sees_missing = RULES[rule]
        arguments = ["x"] + ["absent"] * sees_missing
        for _ in range(parameters):
            loads.append(f"p{slot} = params[c, {slot}]")
            arguments.append(f"p{slot}")
            slot += 1
        if reads_borders:
            loads.append(f"first{span}, number{span} = spans[c, {2 * span}], spans[c, {2 * span + 1}]")
            arguments += ["borders", f"first{span}", f"number{span}"]
            span += 1
        steps.append(f"x = {rule}_rule({', '.join(arguments)})")
    if not {"fill_missing", "missing_flag"} & set(rules):
        steps.append("x = NAN if absent else x")  # what no op filled comes out as it went in, through Bucketize too
    return _MODULE.format(
        title=", ".join(rules) or "(none): conversion to float32",
        imports="\n".join(f"{rule}_rule = numeric.{rule}_rule" for rule in dict.fromkeys(rules)),
        source="source = narrow(values[start : start + size], narrowed)"
        if wide
        else "source = values[start : start + size]",
        loads="\n".join(" " * 12 + line for line in loads),
        steps="\n".join(" " * 16 + line for line in steps),
    )


@cache
def kernel_digest() -> str:
    """Digest of every kernel source and of Numba's version: names the cache folder."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "intune_gpu" / f"kernels-{kernel_digest()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        with tempfile.TemporaryFile(dir=folder):
            _remove_unused(folder)
            return folder
    except OSError:  # no home, or a read-only one: compile for this process alone
        return Path(tempfile.mkdtemp(prefix="intune_gpu-kernels-"))


def _remove_unused(folder: Path) -> None:
    """Remove the folders of other kernels, of versions before, that no process has opened for long."""
    for other in folder.parent.glob("kernels-*"):
        if other != folder and time.time() - other.stat().st_mtime > UNUSED_S:
            shutil.rmtree(other, ignore_errors=True)


def _load(name: str, source: str) -> Any:
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    module_name = f"_intune_gpu_{name[:60]}_{digest}"
    path = _folder() / f"{module_name}.py"
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
