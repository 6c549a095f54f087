"""Recipes as JSON: strict both ways, so that a saved recipe means one thing."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intune_gpu.core.errors import RecipeError
from intune_gpu.recipe import state as fitted
from intune_gpu.recipe.ops import OPS, Op

if TYPE_CHECKING:
    from intune_gpu.recipe.recipe import Recipe

FORMAT_VERSION = 1
FITTED_VERSION = 2
"""The format of a recipe with state: a package that knows none refuses it by its version."""
HASH_VERSION = 1
_OP_BY_NAME = {op.__name__: op for op in OPS}
_KEYS = ("format_version", "hash_version", "label", "dense", "sparse", "types", "seed")


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Return plain values that `json.dumps` takes and `from_json` reads."""
    plain = {
        "format_version": FITTED_VERSION if recipe.state else FORMAT_VERSION,
        "hash_version": HASH_VERSION,
        "label": recipe.label,
        "dense": {name: [_op_to_json(op) for op in ops] for name, ops in recipe.dense.items()},
        "sparse": {name: [_op_to_json(op) for op in ops] for name, ops in recipe.sparse.items()},
        "types": dict(recipe.types),
        "seed": recipe.seed,
    }
    return plain | {"state": fitted.digests(recipe.state)} if recipe.state else plain


def from_json(state: Any, where: str = "recipe") -> dict[str, Any]:
    """Return the arguments of the `Recipe` that `to_json` was given; of state only the digests.

    Args:
        state: the parsed JSON.
        where: names the recipe in errors, a path for instance.

    Raises:
        RecipeError: a key is missing or unknown, an op is unknown, or a version is newer than this package's.
    """
    if not isinstance(state, dict):
        raise RecipeError(f"{where}: expected a JSON object with {', '.join(_KEYS)}, found {type(state).__name__}")
    known = {"format_version": (FORMAT_VERSION, FITTED_VERSION), "hash_version": (HASH_VERSION,)}
    for name, mine in known.items():
        if state.get(name) not in mine or isinstance(state[name], bool):
            raise RecipeError(
                f"{where}: expected {name} {' or '.join(map(str, mine))}, found {state.get(name)!r}; "
                "use the version of intune_gpu that wrote it, or write the recipe anew"
            )
    keys = _KEYS if state["format_version"] == FORMAT_VERSION else (*_KEYS, "state")
    unknown, missing = sorted(set(state) - set(keys)), sorted(set(keys) - set(state))
    if unknown or missing:
        raise RecipeError(
            f"{where}: expected the keys {', '.join(keys)}; unknown: {unknown}, missing: {missing}; "
            "write the recipe anew with Recipe.save(path)"
        )
    chains: dict[str, dict[str, list[Op]]] = {}
    for kind in ("dense", "sparse"):
        if not isinstance(state[kind], dict):
            raise RecipeError(f"{where}: {kind}: expected an object of features, found {state[kind]!r}")
        chains[kind] = {name: _chain(f'{where}: {kind} feature "{name}"', ops) for name, ops in state[kind].items()}
    arguments = {"label": state["label"], "types": state["types"], "seed": state["seed"], **chains}
    return arguments | ({"state": state["state"]} if "state" in state else {})


def write(recipe: Recipe, path: Path) -> None:
    """Write JSON beside the target first and rename, so that a crash leaves the old file or the new one."""
    state = to_json(recipe)
    try:
        fitted.write(recipe.state, path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RecipeError(
            f"recipe {path}: expected a folder to write in, found {error.strerror}; name another path"
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(state, file, indent=1, ensure_ascii=False)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise RecipeError(
                f"recipe {path}: expected room to write it, found {error.strerror}; name another path"
            ) from error
        raise


def read(path: Path) -> dict[str, Any]:
    """Return the arguments of a saved `Recipe`; every fault is a RecipeError that names the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"recipe {path}: no such file; write one with Recipe.save(path)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: cannot be read as UTF-8 text: {error}") from error
    try:
        state = json.loads(text, object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"recipe {path}: expected JSON, found: {error}; write it with Recipe.save(path)") from error
    arguments = from_json(state, f"recipe {path}")
    return arguments | ({"state": fitted.read(arguments["state"], path)} if "state" in arguments else {})


def _op_to_json(op: Op) -> dict[str, Any]:
    state: dict[str, Any] = {"op": type(op).__name__}
    for item in fields(op):
        value = getattr(op, item.name)
        state[item.name] = list(value) if isinstance(value, tuple) else value
    return state


def _chain(where: str, ops: Any) -> list[Op]:
    if not isinstance(ops, list):
        raise RecipeError(f"{where}: expected a list of ops, found {ops!r}")
    return [_op_from_json(where, op) for op in ops]


def _op_from_json(where: str, state: Any) -> Op:
    name = state.get("op") if isinstance(state, dict) else None
    if not isinstance(name, str) or name not in _OP_BY_NAME:
        raise RecipeError(f"{where}: expected an op, one of {', '.join(_OP_BY_NAME)}, found {state!r}")
    kind = _OP_BY_NAME[name]
    parameters = {name: value for name, value in state.items() if name != "op"}
    try:
        return kind(**parameters)
    except TypeError as error:
        names = ", ".join(item.name for item in fields(kind)) or "none"
        raise RecipeError(f"{where}: {kind.__name__} has the parameters {names}, found {parameters!r}") from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'the key "{name}" stands twice')
    return dict(pairs)
