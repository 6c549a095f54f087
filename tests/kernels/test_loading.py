"""Kernels run where their code cannot be kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import numpy as np
from intune_gpu.kernels.loading import njit

@njit(nogil=True, cache=True)
def doubled(values):
    return 2 * values

print(doubled(np.arange(3)).tolist(), doubled(np.arange(3.0)).tolist())
"""


def run(tmp_path: Path, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "code.py").write_text(CODE)
    command = ["bash", "-c", f"{before} exec {sys.executable} code.py"]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "TMPDIR": str(tmp_path), **environment}
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)


def test_no_folder_can_be_written_to(tmp_path: Path) -> None:
    done = run(tmp_path, NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator", NUMBA_CACHE_DIR="/proc/nowhere")
    assert (done.returncode, done.stdout) == (0, "[0, 2, 4] [0.0, 2.0, 4.0]\n"), done.stderr
    assert "found none that can be written to; they are compiled anew by each process" in done.stderr
    assert "set NUMBA_CACHE_DIR" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["code.py"]


@pytest.mark.parametrize("room", [0, 1])
def test_the_disk_is_full(tmp_path: Path, room: int) -> None:
    """A limit on files gives the same error as a disk: where nothing fits, and where only the index does."""
    kept = tmp_path / "kept"
    done = run(tmp_path, f"ulimit -f {room};", NUMBA_CACHE_DIR=str(kept))
    assert (done.returncode, done.stdout) == (0, "[0, 2, 4] [0.0, 2.0, 4.0]\n"), done.stderr
    assert done.stderr == ""
    assert list(kept.rglob("*.nbc")) == []
    assert run(tmp_path, NUMBA_CACHE_DIR=str(kept)).stdout == done.stdout
    assert len(list(kept.rglob("*.nbc"))) == 2
