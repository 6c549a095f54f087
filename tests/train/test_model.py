"""The model around TorchRec's DLRM: its loss, its scaling of dense features, its plan."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import intune_gpu as ig
from intune_gpu.core.errors import RecipeError
from intune_gpu.train.config import ModelConfig
from intune_gpu.train.model import Standardize, build, ranks_of_tables, table_name
from intune_gpu.train.place import Place
from tests.train.conftest import assert_same_weights

RECIPE = ig.Recipe("y", dense={"a": [ig.FillMissing()]}, sparse={"s": [ig.Modulo(9)], "t": [ig.Modulo(5)]})
CONFIG = ModelConfig(embedding_dim=4, bottom_mlp=(8,), top_mlp=(8,))


def batch_of(labels: list[float]) -> ig.Batch:
    rows = len(labels)
    ids = KeyedJaggedTensor(["s", "t"], torch.arange(2 * rows) % 5, lengths=torch.ones(2 * rows, dtype=torch.int32))
    return ig.Batch(torch.arange(rows, dtype=torch.float32).unsqueeze(-1), ids, torch.tensor(labels))


def test_standardize_is_the_mean_and_deviation_of_all_rows_so_far(rng: np.random.Generator, place: Place) -> None:
    data = (rng.normal(size=(700, 3)) * [1.0, 1e4, 1e-3] + [0.0, 1.7e9, 5.0]).astype(np.float32)
    data[:, 2] = 7.0  # always the same
    module = Standardize(3)
    for start, stop in ((0, 1), (1, 100), (100, 700)):
        known = torch.ones(stop - start, dtype=torch.bool)
        out = module(torch.from_numpy(data[start:stop]), known)
        seen = data[:stop].astype(np.float64)
        deviation = seen.std(axis=0)
        expected = (data[start:stop] - seen.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
        np.testing.assert_allclose(module.mean, seen.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(out[:, [0, 2]], expected[:, [0, 2]], atol=1e-4)
        np.testing.assert_allclose(out[:, 1], expected[:, 1], atol=1e-2)  # float32 has steps of 128 up there
    before = {name: value.clone() for name, value in module.named_buffers()}
    module.eval()(torch.zeros(5, 3), torch.ones(5, dtype=torch.bool))
    assert all(torch.equal(value, before[name]) for name, value in module.named_buffers())


def test_the_loss_is_the_mean_over_rows_with_a_label(place: Place) -> None:
    model = build(RECIPE, CONFIG, 0, place)
    model.module.eval()
    loss, (_, logits, _) = model.module(batch_of([0.0, math.nan, 1.0, math.nan]))
    kept = logits[[0, 2]]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(kept, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(loss, expected)


def test_rows_without_a_label_teach_nothing(place: Place) -> None:
    model = build(RECIPE, CONFIG, 0, place)
    loss, _ = model.module(batch_of([math.nan]))
    model.optimizer.zero_grad()
    loss.backward()
    assert float(loss.detach()) == 0.0
    gradients = [p.grad for _, p in model.module.named_parameters() if p.grad is not None]
    assert gradients
    assert all(not gradient.any() for gradient in gradients)


def test_the_seed_decides_the_first_weights(place: Place) -> None:
    def first_weights(seed: int) -> list[torch.Tensor]:
        return [p.detach().clone() for p in build(RECIPE, CONFIG, seed, place).module.parameters()]

    one, same, other = first_weights(1), first_weights(1), first_weights(2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_tables_are_shared_out_by_rows() -> None:
    assert ranks_of_tables({"a": 10, "b": 100, "c": 60, "d": 50}, 2) == {"b": 0, "c": 1, "d": 1, "a": 0}


ODD_NAMES = ("x.y", "x%2Ey", "x%y", "type", "%type", "keys", "training", "_modules", "a b", "a/b", "weight", ".", "%")


def test_a_feature_may_have_any_name(place: Place) -> None:
    """The same first weights and the same answer as with plain names, whatever torch calls its own."""
    plain = {f"s{number}": [ig.Column("c"), ig.Modulo(5 + number)] for number in range(len(ODD_NAMES))}
    odd = dict(zip(ODD_NAMES, plain.values(), strict=True))
    answers = []
    for sparse in (plain, odd):
        recipe = ig.Recipe("y", dense={"a": [ig.FillMissing()]}, sparse=sparse)
        model = build(recipe, CONFIG, 0, place)
        rows = {"y": np.float32([0, 1, 0]), "a": np.float32([1, 2, 3]), "c": np.int64([0, 7, 3])}
        batch = ig.transform(rows, recipe, device="cpu")
        assert batch.sparse.keys() == list(sparse)
        loss, (_, logits, _) = model.module(batch)
        model.optimizer.zero_grad()
        loss.backward()
        model.optimizer.step()
        answers.append(logits)
    assert torch.equal(*answers)
    assert len({table_name(name) for name in ODD_NAMES}) == len(ODD_NAMES)


@pytest.mark.parametrize("pipeline", ["base", "sparse-dist"])
def test_odd_names_train_and_resume(train: Any, tmp_path: Path, pipeline: str) -> None:
    sparse = {name: [ig.Column(f"C{number}"), ig.HashBucket(50)] for number, name in enumerate(ODD_NAMES, 1)}
    ig.Recipe("label", sparse=sparse, types={f"C{n}": "hex32" for n in range(1, 1 + len(ODD_NAMES))}).save(
        tmp_path / "odd.json"
    )
    flags = ("--recipe", tmp_path / "odd.json", "--pipeline", pipeline, "--run-dir")
    assert train(*flags, "whole", "--max-steps", 9) == 0
    assert train(*flags, "parts", "--max-steps", 4) == 0
    assert train(*flags, "parts", "--max-steps", 9, "--resume", "latest") == 0
    name = "checkpoints/step-000000009"
    assert_same_weights(tmp_path / "whole" / name, tmp_path / "parts" / name)


def test_plain_names_stand_in_checkpoints_as_they_are() -> None:
    assert [table_name(name) for name in ("C1", "user-id", "t_x", "ü")] == ["C1", "user-id", "t_x", "ü"]


def test_no_sparse_features_are_refused(place: Place) -> None:
    recipe = ig.Recipe("y", dense=RECIPE.dense)
    with pytest.raises(RecipeError, match="expected at least one sparse feature"):
        build(recipe, replace(CONFIG), 0, place)
