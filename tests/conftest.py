"""What every test shares: a fixed seed, and a header that says what a failure ran with."""

from __future__ import annotations

import os
import platform
import signal
from importlib import metadata
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from intune_gpu.kernels import memory
from intune_gpu.kernels.generating import kernel_digest

SEED = int(os.environ.get("INTUNE_TEST_SEED", "0"))
SHOWN = ("numpy", "numba", "torch", "torchrec", "pyarrow", "polars", "hypothesis")

# The same examples each time, so that a failure is never luck; no deadline, since the first call compiles.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True, database=None)
hypothesis.settings.load_profile("fixed")


def pytest_configure() -> None:
    """Hear Ctrl-C, and drop compiled kernels of other sources.

    A shell starts what runs in its background deaf to Ctrl-C, and so would be every process that a test starts. Numba's
    cache looks at a kernel's own file, not at the rules it calls.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(memory.__file__).parent / "__pycache__"
    stamp = folder / "kernel_digest"
    digest = kernel_digest()
    if not stamp.exists() or stamp.read_text() != digest:
        for compiled in folder.glob("*.nb[ic]"):
            compiled.unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        stamp.write_text(digest)


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def pytest_report_header() -> list[str]:
    versions = ", ".join(f"{package} {version_of(package)}" for package in SHOWN)
    return [f"versions: python {platform.python_version()}, {versions}", f"seed: {SEED} (INTUNE_TEST_SEED)"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with slow tests go first: with several workers, a file that begins last is waited for alone.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch  # slow, and most runs collect no such test

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)
