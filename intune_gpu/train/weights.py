"""The tensors of a checkpoint: of the model, of the tables' optimizer and of the MLPs' optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from intune_gpu.core.errors import ResumeError
from intune_gpu.train.checkpoint import cannot_write, sync
from intune_gpu.train.model import Model
from intune_gpu.train.place import Place


def live_tensors(model: Model) -> dict[str, torch.Tensor]:
    """Return every tensor that training changes and this rank holds, by name; writing into one changes the model.

    Tables lie whole on one rank each, so names and shapes do not depend on the number of ranks.
    """
    states: Mapping[str, Any] = {
        "model": model.module.state_dict(),
        "table_optimizer": model.table_optimizer.state_dict()["state"],
        "mlp_optimizer": model.mlp_optimizer.state_dict()["state"],
    }
    return {name: tensor for part, state in states.items() for name, tensor in _leaves(part, state)}


def write(model: Model, folder: Path, place: Place) -> str:
    """Write this rank's tensors into a folder, and return the file's name; every rank calls this.

    The first rank's file holds the MLPs, which all ranks share.

    Raises:
        CheckpointError: no space, no permission.
    """
    tensors = live_tensors(model)
    if not place.leads:
        tables = _tables(model)
        tensors = {name: tensor for name, tensor in tensors.items() if name in tables}
    path = folder / file_name(place.rank)
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
        sync(path)
    except OSError as error:
        raise cannot_write(folder.parent, error) from error
    except SafetensorError as error:
        raise cannot_write(folder.parent, OSError(str(error))) from error
    return path.name


def file_name(rank: int) -> str:
    """Return the name of a rank's file."""
    return f"rank{rank}.safetensors"


def load(model: Model, folder: Path, files: Sequence[str]) -> None:
    """Put a checkpoint's tensors into a model.

    Raises:
        ResumeError: a file is missing or damaged, or the model has other tensors or shapes.
    """
    mine = live_tensors(model)
    missing = set(mine)
    for file in files:
        try:
            with safe_open(folder / file, framework="pt") as stored, torch.no_grad():
                for name in missing & set(stored.keys()):
                    _put(mine[name], stored.get_tensor(name), name, folder)
                    missing.remove(name)
        except (OSError, SafetensorError) as error:
            raise ResumeError(
                f"checkpoint {folder}: {file} cannot be read ({error}); name another checkpoint"
            ) from error
    if missing:
        raise _other_shape(folder, f"it holds no {min(missing)}")


def _put(target: torch.Tensor, value: torch.Tensor, name: str, folder: Path) -> None:
    if target.shape != value.shape:
        expected, found = (" x ".join(map(str, t.shape)) or "one value" for t in (target, value))
        raise _other_shape(folder, f"{name} is {found} in it, and {expected} here")
    target.copy_(value)


def _other_shape(folder: Path, what: str) -> ResumeError:
    return ResumeError(
        f"checkpoint {folder}: expected the model of these flags, but {what}; "
        "give the recipe, --embedding-dim and MLP flags of that run, or start anew without --resume"
    )


def _tables(model: Model) -> set[str]:
    """Return the names of the tensors that lie on this rank alone."""
    names = {f"model.{name}" for name, value in model.module.state_dict().items() if hasattr(value, "local_shards")}
    return names | {name for name in live_tensors(model) if name.startswith("table_optimizer.")}


def _leaves(name: str, value: Any) -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in _leaves(f"{name}.{key}", inner)]
    if hasattr(value, "local_shards"):
        return [(name, shard.tensor) for shard in value.local_shards()]
    return [(name, value)]
