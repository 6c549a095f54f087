"""No kernel reads or writes where it should not: `compute-sanitizer` over a small run, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

RUN = [sys.executable, "-m", "tests.gpu.small_run"]


def test_the_small_run_runs():
    done = subprocess.run([*RUN, "host"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 parts, 1003 rows: equal" in done.stdout


@pytest.mark.gpu
def test_the_sanitizer_finds_nothing():
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer, which is not on the PATH")
    command = [sanitizer, "--tool", "memcheck", "--error-exitcode", "9", *RUN, "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    if "Device not supported" in done.stdout:
        pytest.skip("compute-sanitizer does not support this device here")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "ERROR SUMMARY: 0 errors" in done.stdout
