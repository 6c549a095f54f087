"""`intune-gpu synth`: synthetic click logs of any size."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from intune_gpu.cli.config import SynthConfig
from intune_gpu.cli.screen import print_json, progress, training
from intune_gpu.sources.synthetic import SIDECAR, write_click_logs
from intune_gpu.train.config import UsageError
from intune_gpu.train.stop import sigterm_as_ctrl_c

_MAX_THREADS = 8


def run(config: SynthConfig) -> int:
    """Write the logs, and print where they are and how to train on them; return the exit code.

    Raises:
        DataError: the folder cannot be written; nothing of it is left.
        UsageError: the folder is there already.
        Terminated: SIGTERM came; nothing of the folder is left.
    """
    assert config.out is not None
    target = Path(config.out)
    with sigterm_as_ctrl_c(), _making(target, config.force) as folder, progress("rows") as tell:
        info = write_click_logs(
            folder,
            config.rows,
            format="tsv" if config.format == "tsv" else "parquet",
            hex_ids=config.format != "parquet",
            seed=config.seed,
            files=config.files,
            threads=min(_MAX_THREADS, config.files, os.cpu_count() or 1),
            on_progress=lambda rows: tell(rows, config.rows),
        )
    command = training("--data", config.out)
    if config.json:
        print_json({"folder": config.out, "command": command, **asdict(info)})
        return 0
    print(f"written   {target}: {info.rows:,} rows in {info.files} files, {info.positive_rate:.1%} of labels are 1")
    print(f"ceiling   AUC {info.auc_ceiling:.4f}, which no model can pass\ntrain     {command}")
    return 0


@contextmanager
def _making(target: Path, force: bool) -> Iterator[Path]:
    """Give the folder to write: the target, or one beside it that takes an older one's place when all went well."""
    if not target.exists() or (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
        yield target
        return
    if not force:
        raise UsageError(f"{target}: expected a new folder, found it there; name another one, or pass --force")
    if target.is_symlink() or not (target / SIDECAR).is_file():
        raise UsageError(
            f"{target}: expected a folder that this command wrote ({SIDECAR} in it), which alone --force replaces, "
            "found another; remove it yourself, or name another one"
        )
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        yield fresh
        shutil.rmtree(target)
        fresh.replace(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
