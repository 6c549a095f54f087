"""Checkpoints: a folder of safetensors and one JSON file, there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from intune_gpu.core.errors import IntuneError, ResumeError

FORMAT_VERSION = 1
STATE_FILE = "state.json"
KEPT = 2

_NAME = re.compile(r"step-\d+")


class CheckpointError(IntuneError):
    """A checkpoint could not be written."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint's JSON file says.

    Attributes:
        step: steps trained.
        epoch: the running one, from 0.
        rows: rows trained, on all ranks.
        loss_first: loss of the very first step.
        bad_rows: the most bad rows that an epoch had, up to here.
        loader: `Loader.state_dict` behind the last trained batch.
        config: `Config.to_json`.
        recipe: the recipe's digest.
        tensor_files: names of the files that hold the tensors, one a rank.
        versions: of what wrote it.
        saved_at_ns: wall-clock time since 1970.
        format_version: of this file.
    """

    step: int
    epoch: int
    rows: int
    loss_first: float
    bad_rows: int
    loader: dict[str, Any]
    config: dict[str, Any]
    recipe: str
    tensor_files: list[str]
    versions: dict[str, str]
    saved_at_ns: int
    format_version: int = FORMAT_VERSION


def begin(root: Path, step: int) -> Path:
    """Make an empty folder for the files of a checkpoint; `finish` gives it its name.

    Raises:
        CheckpointError: it cannot be made.
    """
    partial = partial_folder(root, step)
    try:
        for left_over in root.glob(".step-*.partial"):
            shutil.rmtree(left_over)
        partial.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(root, error) from error
    return partial


def partial_folder(root: Path, step: int) -> Path:
    """Return where a checkpoint is while it is written."""
    return root / f".step-{step:09d}.partial"


def whole_folder(root: Path, step: int) -> Path:
    """Return where a checkpoint is once it is whole."""
    return root / f"step-{step:09d}"


def finish(root: Path, saved: Saved) -> Path:
    """Write the JSON file, give the folder its name, and remove all but the last `KEPT` checkpoints.

    Raises:
        CheckpointError: no space, no permission.
    """
    partial, target = partial_folder(root, saved.step), whole_folder(root, saved.step)
    try:
        with open(partial / STATE_FILE, "w", encoding="utf-8") as file:
            json.dump(asdict(saved), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        sync(partial)
        if target.exists():  # of the same step, before a resume
            shutil.rmtree(target)
        partial.replace(target)
        sync(root)
        for old in saved_under(root)[:-KEPT]:
            shutil.rmtree(old)
    except OSError as error:
        raise cannot_write(root, error) from error
    return target


def sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(root: Path, error: OSError) -> CheckpointError:
    """Return the error to raise when a checkpoint cannot be written."""
    return CheckpointError(
        f"checkpoint: expected to be able to write under {root}, found {error.strerror or error}; "
        "make room there, or name another folder with --checkpoint-dir"
    )


def read(folder: Path) -> Saved:
    """Read a checkpoint's JSON file.

    Raises:
        ResumeError: it is not there, damaged, or of another version.
    """
    try:
        values = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        version = values["format_version"]
        if version == FORMAT_VERSION:
            return Saved(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(
            f"checkpoint {folder}: expected a readable {STATE_FILE}, found {error}; name another"
        ) from error
    raise ResumeError(
        f"checkpoint {folder}: expected format version {FORMAT_VERSION}, found {version}; "
        "resume with the version of intune_gpu that wrote it"
    )


def saved_under(root: Path) -> list[Path]:
    """Return the whole checkpoints in a folder, the newest last."""
    folders = [f for f in root.glob("step-*") if _NAME.fullmatch(f.name) and (f / STATE_FILE).is_file()]
    return sorted(folders, key=lambda folder: read(folder).saved_at_ns)


def find(wanted: str, root: Path | None) -> Path | None:
    """Return the checkpoint that `--resume` means.

    Args:
        wanted: a checkpoint, a folder of checkpoints, a run's folder, or `"latest"`.
        root: the folder of checkpoints that other flags name; None where they name none, and `"latest"` means the
            newest of all runs in `runs/`.

    Returns:
        Its folder; None where `"latest"` is asked of a run that has not saved one yet.

    Raises:
        ResumeError: there is none.
    """
    if wanted == "latest":
        if root is not None:
            return next(reversed(saved_under(root)), None)
        found = [folder for run in Path("runs").glob("*/checkpoints") for folder in saved_under(run)]
        if not found:
            raise ResumeError(
                "--resume latest: expected a checkpoint in runs/*/checkpoints, found none; name its folder"
            )
        return max(found, key=lambda folder: read(folder).saved_at_ns)
    folder = Path(wanted)
    if (folder / STATE_FILE).is_file():
        return folder
    found = saved_under(folder) or saved_under(folder / "checkpoints")
    if not found:
        raise ResumeError(
            f"--resume {wanted}: expected a checkpoint, a folder of checkpoints or a run's folder, found none there; "
            "name one, or start anew without --resume"
        )
    return found[-1]


def set_aside(root: Path) -> Path | None:
    """Rename a folder that holds checkpoints of an earlier run, so that a new run removes none of them.

    Returns:
        Where they are now; None where there were none.
    """
    if not saved_under(root):
        return None
    number = 1
    while (target := root.with_name(f"{root.name}.{number}")).exists():
        number += 1
    return root.rename(target)


def now_ns() -> int:
    """Return the wall-clock time since 1970."""
    return time.time_ns()
