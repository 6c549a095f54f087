"""Training with dense layers in bfloat16, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist

import intune_gpu as ig
from intune_gpu.train import weights
from intune_gpu.train.config import ModelConfig
from intune_gpu.train.model import Model, build
from intune_gpu.train.place import Place
from tests.train.conftest import assert_same_weights, metrics_of

SMALL: dict[str, Any] = {"embedding_dim": 4, "bottom_mlp": (8,), "top_mlp": (8,)}


def trained(precision: Any, kind: type, clicks: Path, place: Place) -> tuple[Model, list[float], set[torch.dtype]]:
    """Train 15 steps; return the model, its losses, and what a layer of it computed in."""
    recipe = ig.recipes.criteo(50)
    model = build(recipe, ModelConfig(**SMALL, precision=precision), 0, place)
    dtypes: set[torch.dtype] = set()
    layer = next(module for module in model.module.modules() if isinstance(module, torch.nn.Linear))
    layer.register_forward_hook(lambda module, given, answer: dtypes.add(answer.dtype))
    model.module.train()
    pipeline = kind(model.module, model.optimizer, place.device)
    losses = []
    with ig.Loader(clicks, recipe, batch_size=200, readers=1) as loader:
        batches = iter(loader)
        for _ in range(15):
            loss, logits, _ = pipeline.progress(batches)
            assert (loss.dtype, logits.dtype) == (torch.float32, torch.float32)
            losses.append(float(loss))
    return model, losses, {dtype for dtype in dtypes if isinstance(dtype, torch.dtype)}  # not what tracing showed


@pytest.mark.parametrize("kind", [TrainPipelineBase, TrainPipelineSparseDist])
def test_bf16_learns_as_float32_does_and_keeps_float32(kind: type, clicks: Path, place: Place) -> None:
    _, exact, dtypes = trained("fp32", kind, clicks, place)
    assert dtypes == {torch.float32}
    model, near, dtypes = trained("bf16", kind, clicks, place)
    assert dtypes == {torch.bfloat16}
    assert np.isfinite(near).all()
    np.testing.assert_allclose(near, exact, rtol=0.02)
    kept = {name: tensor.dtype for name, tensor in weights.live_tensors(model).items()}
    in_64_bits = {f"model.standardize.{name}" for name in ("rows", "mean", "spread")}
    assert {name for name, dtype in kept.items() if dtype == torch.float64} == in_64_bits
    assert {dtype for name, dtype in kept.items() if name not in in_64_bits} == {torch.float32}


def test_a_run_in_bf16_is_resumed_in_bf16(train: Any, tmp_path: Path) -> None:
    assert train("--precision", "bf16", "--run-dir", "whole") == 0
    assert train("--precision", "bf16", "--run-dir", "parts", "--max-steps", 9) == 0
    assert train("--run-dir", "parts", "--resume", "latest", "--max-steps", 29) == 0
    assert train("--run-dir", "exact") == 0
    last = "checkpoints/step-000000029"
    assert_same_weights(tmp_path / "whole" / last, tmp_path / "parts" / last)
    assert metrics_of(tmp_path / "whole")["auc"] == pytest.approx(metrics_of(tmp_path / "exact")["auc"], abs=0.02)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "whole" / last, tmp_path / "exact" / last)


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_for_gpus_only(place: Place, tf32: bool) -> None:
    build(ig.recipes.criteo(50), ModelConfig(**SMALL, tf32=tf32), 0, place)
    assert torch.get_float32_matmul_precision() == "highest"
