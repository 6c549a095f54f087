"""Kernels run where their code cannot be kept."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from intune_gpu.kernels import loading

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


TWO = """
import sys
import time
from pathlib import Path
import numpy as np
from intune_gpu.kernels.loading import njit

@njit(nogil=True, cache=True)
def doubled(values):
    return 2 * values

kind = sys.argv[1]
if len(sys.argv) > 2:  # all at once
    Path(f"ready_{kind}").touch()
    while len(list(Path().glob("ready_*"))) < int(sys.argv[2]):
        time.sleep(0.001)
assert doubled(np.arange(3, dtype=kind)).tolist() == [0, 2, 4]
print(len(doubled.stats.cache_hits), len(doubled.stats.cache_misses))
"""
KINDS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")


def test_processes_that_compile_one_kernel_for_several_types_at_once(tmp_path: Path) -> None:
    """Each type finds its own code ever after."""
    (tmp_path / "code.py").write_text(TWO)
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "NUMBA_CACHE_DIR": str(tmp_path / "kept")}

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "code.py", *arguments]
        return subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    for together in ([str(len(KINDS))], []):
        processes = [start(kind, *together) for kind in KINDS]
        ends = [process.communicate() for process in processes]
        assert [process.returncode for process in processes] == [0] * len(KINDS), ends
    assert [out for out, _ in ends] == ["1 0\n"] * len(KINDS)


def test_a_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    inside = threading.Event()

    def enter() -> None:
        with loading.alone(tmp_path):
            inside.set()

    with loading.alone(tmp_path):
        other = threading.Thread(target=enter)
        other.start()
        assert not inside.wait(0.3)
    assert inside.wait(30)
    other.join()
    with loading.alone(Path("/proc/nowhere")):  # no lock there, and no error
        pass
