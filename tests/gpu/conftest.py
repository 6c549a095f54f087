"""The devices of these tests: always one in host memory, so that they cannot rot, and an NVIDIA GPU under `gpu`."""

from __future__ import annotations

import importlib
from collections.abc import Container, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

from tests.devices import HostDevice


def opened(kind: str) -> Any:
    """Return a new device of this kind, "host" or "cuda"."""
    if kind == "host":
        return HostDevice(1)
    from intune_gpu.engine.gpu.opening import open_device

    return open_device("cuda")


def each(names: Iterable[str], host: Container[str]) -> list[Any]:
    """Return (kind, name) for "kind" and a further argument: all names on a GPU, these ones in host memory.

    Each type of a column is a kernel that is compiled, for the CPU too: seconds, and other tests do it as well.
    """
    on_host = [pytest.param("host", name, id=f"host-{name}") for name in names if name in host]
    return on_host + [pytest.param("cuda", name, id=f"cuda-{name}", marks=pytest.mark.gpu) for name in names]


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def device(kind: str) -> Any:
    return opened(kind)


@pytest.fixture
def size(kind: str) -> Any:
    """A function that chooses between what a Python loop over threads can do and what a GPU should."""
    return lambda host, cuda: host if kind == "host" else cuda


@pytest.fixture
def on_kind(kind: str) -> Any:
    """A function that opens further devices of the test's kind."""
    return lambda: opened(kind)


def consumer(kind: str) -> AbstractContextManager[Any]:
    """A stream that the batches' user works on; in host memory the user does at once what is asked."""
    return torch.cuda.stream(torch.cuda.Stream()) if kind == "cuda" else nullcontext()


def needs(package: str, module: str) -> Any:
    """Return a module that needs a package; skip by name where that cannot be imported."""
    try:
        importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: fbgemm's library for another torch
        pytest.skip(f"needs {package}, which cannot be imported here ({error})", allow_module_level=True)
    return importlib.import_module(module)
