"""`python -m intune_gpu.train`: train a DLRM on click logs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from intune_gpu.core.errors import IntuneError
from intune_gpu.train import checkpoint
from intune_gpu.train.config import Config, UsageError, parse
from intune_gpu.train.stop import exit_code_of_signal


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return 0, 1 for a failure, 2 for wrong flags, 130 or 143 when a signal stopped it."""
    # torch's threads would spin on cores that the loader's threads need: 5 times slower on two cores. Read at import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        config, resumed = _configure(arguments)
        from intune_gpu.train.packages import require_packages  # behind --help, which needs not wait for torch

        require_packages()
        from intune_gpu.train.job import run

        return run(config, resumed)
    except UsageError as error:
        return _failed(error, 2)
    except IntuneError as error:
        return _failed(error, 1)
    except BaseException as error:
        code = exit_code_of_signal(error)
        if code is None:
            raise
        return _failed("stopped", code)


def _configure(arguments: Sequence[str]) -> tuple[Config, Path | None]:
    """Return what is asked for, and the checkpoint to go on from, whose flags stand where none are given."""
    config = parse(arguments)
    keeping = config.keeping
    if keeping.resume is None:
        return config, None
    root = keeping.checkpoint_dir or (keeping.run_dir and f"{keeping.run_dir}/checkpoints")
    folder = checkpoint.find(keeping.resume, Path(root) if root else None)
    if folder is None:
        print(f"note: no checkpoint in {root} yet; starting from the beginning", file=sys.stderr)
        return config, None
    return parse(arguments, Config.from_json(checkpoint.read(folder).config)), folder


def _failed(message: object, code: int) -> int:
    rank = os.environ.get("RANK", "0")
    where = "" if os.environ.get("WORLD_SIZE", "1") == "1" else f" (rank {rank})"
    print(f"intune_gpu.train{where}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    done = main(sys.argv[1:])
    # gloo's threads end with the process group, which the model's reference cycles hold. One that still has a tensor of
    # the last call to let go of while Python ends would abort the process, behind all its work.
    gc.collect()
    sys.exit(done)
