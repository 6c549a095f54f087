"""Small click logs, and training inside this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from intune_gpu.sources.synthetic import write_click_logs
from intune_gpu.train.__main__ import main
from intune_gpu.train.place import Place, joined

ROWS = 4_000


@pytest.fixture(scope="session")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic click logs."""
    folder = tmp_path_factory.mktemp("train") / "clicks"
    write_click_logs(folder, ROWS, files=2, row_group_rows=500)
    return folder


@pytest.fixture
def place() -> Iterator[Place]:
    """This process alone, on the CPU."""
    with joined("cpu") as here:
        yield here


@pytest.fixture
def train(clicks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that trains inside this process, in a folder of its own, and returns the exit code."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # main sets OMP_WAIT_POLICY, which comes too late in a process that has torch

    def run(*arguments: object) -> int:
        small = ["--data", clicks, "--num-buckets", 200, "--batch-size", 128, "--device", "cpu"]
        return main([str(word) for word in [*small, *arguments]])

    return run


def metrics_of(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "metrics.json").read_text()))


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(checkpoint.glob("rank*.safetensors")):
        tensors |= load_file(file)
    return tensors


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert set(first) == set(second)
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []
