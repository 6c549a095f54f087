"""The tuner in training: its options, what a checkpoint keeps of it, and what metrics say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from intune_gpu.core.errors import MissingPackageError, ResumeError
from intune_gpu.loader import Loader
from intune_gpu.train.checkpoint import cannot_write, sync
from intune_gpu.train.config import FALLBACK_TUNER, LoadingConfig, UsageError
from intune_gpu.train.place import Place
from intune_gpu.train.progress import Screen
from intune_gpu.tuner.attaching import policy_of
from intune_gpu.tuner.decisions import FILE_NAME

STATE_FILE = "tuner.safetensors"
_ARRAY = "$array"


def options(config: LoadingConfig, place: Place, run_dir: Path, screen: Screen) -> dict[str, Any]:
    """Return what the training loader is told; nothing without a tuner.

    Each rank tunes its own loader. Where the package or the weights of a tuner are missing, another one does it, and
    the screen says so.

    Raises:
        UsageError: this version has no such tuner.
    """
    if config.tuner == "off":
        return {}
    try:
        tuner = policy_of(config.tuner)
    except MissingPackageError as error:
        screen.say(f"note: {error}; until then {FALLBACK_TUNER} tunes this run")
        tuner = policy_of(FALLBACK_TUNER)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    file = FILE_NAME if place.leads else FILE_NAME.replace(".", f"-rank{place.rank}.")
    return {"tuner": tuner, "decisions": run_dir / file, "tuner_every_s": config.tuner_every_s}


def name_of(loader: Loader) -> str:
    """Return the name of a loader's tuner, or "off"."""
    return "off" if loader.tuner is None else loader.tuner.account.name


def account(loader: Loader) -> dict[str, Any] | None:
    """Return what a loader's tuner did, as JSON takes it; None without one."""
    if loader.tuner is None:
        return None
    found = asdict(loader.tuner.account)
    found["decisions"] = None if found["decisions"] is None else Path(found["decisions"]).name
    return found


def away(loader: Loader, what: str) -> AbstractContextManager[None]:
    """For as long as no batches are trained: what a loader does meanwhile says nothing about its plan."""
    return nullcontext() if loader.tuner is None else loader.tuner.away(what)


def write(loader: Loader, folder: Path) -> None:
    """Write what a loader's tuner remembers into a checkpoint's folder; nothing without one.

    Raises:
        CheckpointError: no space, no permission.
    """
    if loader.tuner is None:
        return
    arrays: dict[str, npt.NDArray[Any]] = {}
    text = json.dumps(_without_arrays(loader.tuner.state(), "", arrays))
    try:
        save_file(arrays, folder / STATE_FILE, metadata={"state": text})
        sync(folder / STATE_FILE)
    except OSError as error:
        raise cannot_write(folder.parent, error) from error
    except SafetensorError as error:
        raise cannot_write(folder.parent, OSError(str(error))) from error


def load(loader: Loader, folder: Path) -> None:
    """Let a loader's tuner go on from a checkpoint, if it is of the same policy, and the checkpoint has one.

    Raises:
        ResumeError: what it has is damaged.
    """
    path = folder / STATE_FILE
    if loader.tuner is None or not path.exists():
        return
    try:
        with safe_open(path, framework="np") as stored:
            text = (stored.metadata() or {})["state"]
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
        loader.tuner.load_state(_with_arrays(json.loads(text), arrays))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ResumeError(
            f"checkpoint {folder}: {STATE_FILE} cannot be read ({error}); remove it to let the tuner begin anew"
        ) from error


def _without_arrays(value: Any, name: str, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    """Return a state with its arrays taken out, into `arrays`, by the names that lead to them."""
    if isinstance(value, np.ndarray):
        arrays[name] = np.ascontiguousarray(value)
        return {_ARRAY: name}
    if isinstance(value, Mapping):
        return {key: _without_arrays(inner, f"{name}/{key}", arrays) for key, inner in value.items()}
    return value


def _with_arrays(value: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _with_arrays(inner, arrays) for key, inner in value.items()}
    return value
