"""A chain of dense rules as one compiled loop: a small module, which chains that differ only in parameters share."""

from __future__ import annotations

import threading
from collections.abc import Callable

from intune_gpu.kernels.generating import load_module

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

_MODULE = '''"""The chain {title}. Written by intune_gpu.kernels.fusing; safe to delete."""
import numpy as np
from numba import carray, njit

from intune_gpu.kernels import numeric
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
    flat, stride, edges = out.reshape(-1), out.shape[1], borders.ctypes.data
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
            _loaded[rules, wide] = load_module(name, dense_source(rules, wide)).run
        return _loaded[rules, wide]


def dense_source(rules: tuple[str, ...], wide: bool) -> str:
    """Return the module that holds a chain's loop.

    Values of 8 bytes become float32 in a loop of their own: in one loop, all of it would run on vectors of half as many
    lanes.
    """
    parameters, borders, steps = chain_steps(rules)
    loads = [f"p{i} = params[c, {i}]" for i in range(parameters)]
    loads += [f"first{i}, number{i} = spans[c, {2 * i}], spans[c, {2 * i + 1}]" for i in range(borders)]
    return _MODULE.format(
        title=chain_title(rules),
        imports=rule_imports(rules),
        source="source = narrow(values[start : start + size], narrowed)"
        if wide
        else "source = values[start : start + size]",
        loads="\n".join(" " * 12 + line for line in loads),
        steps="\n".join(" " * 16 + line for line in steps),
    )


def chain_steps(rules: tuple[str, ...]) -> tuple[int, int, list[str]]:
    """Return how many parameters and spans of borders a chain has, and its steps from `x` to `x` as Python.

    The steps read `absent`, `p0` and on, `edges`, `first0`, `number0` and on.
    """
    steps: list[str] = []
    slot = span = 0
    for rule in rules:
        parameters, reads_borders, sees_missing = RULES[rule]
        arguments = ["x"] + ["absent"] * sees_missing
        arguments += [f"p{i}" for i in range(slot, slot + parameters)]
        slot += parameters
        if reads_borders:
            arguments += ["edges", f"first{span}", f"number{span}"]
            span += 1
        steps.append(f"x = {rule}_rule({', '.join(arguments)})")
    if not {"fill_missing", "missing_flag"} & set(rules):
        steps.append("x = NAN if absent else x")  # what no op filled comes out as it went in, through Bucketize too
    return slot, span, steps


def chain_title(rules: tuple[str, ...]) -> str:
    """Return a chain in words."""
    return ", ".join(rules) or "(none): conversion to float32"


def rule_imports(rules: tuple[str, ...]) -> str:
    """Return the lines that name a chain's rules in a module which has imported `numeric`."""
    return "\n".join(f"{rule}_rule = numeric.{rule}_rule" for rule in dict.fromkeys(rules))
