"""A control group of the machine that runs the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from intune_gpu.telemetry.cgroups import folders_of


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of our own that may use 0.3 of a core, below the one that this process is in."""
    here = folders_of(Path("/"), "cpu") or folders_of(Path("/"), "")
    if not here:
        pytest.skip("there are no control groups here")
    own = here[0] / f"intune_gpu-test-{os.getpid()}"
    try:
        own.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here ({error})")
    try:
        quota = own / "cpu.max"
        if not quota.exists():
            (own / "cpu.cfs_period_us").write_text("100000")
            quota = own / "cpu.cfs_quota_us"
        quota.write_text("30000 100000" if quota.name == "cpu.max" else "30000")
    except OSError as error:
        own.rmdir()
        pytest.skip(f"no quota can be set here ({error})")
    yield own / "cgroup.procs"
    own.rmdir()
