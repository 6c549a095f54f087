"""Checkpoints: the same bits come back, only whole ones count, and a wrong one is refused in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist

import intune_gpu as ig
from intune_gpu.core.errors import ResumeError
from intune_gpu.train import checkpoint, weights
from intune_gpu.train.checkpoint import Saved
from intune_gpu.train.config import ModelConfig
from intune_gpu.train.model import Model, build
from intune_gpu.train.place import Place

RECIPE = ig.recipes.criteo(50)
CONFIG = ModelConfig(embedding_dim=4, bottom_mlp=(8,), top_mlp=(8,))


@pytest.fixture(scope="module")
def batches(clicks: Path) -> list[ig.Batch]:
    with ig.Loader(clicks, RECIPE, batch_size=100, readers=1) as loader:
        return list(loader)


def steps(model: Model, batches: Iterator[ig.Batch], kind: type = TrainPipelineBase) -> None:
    pipeline = kind(model.module, model.optimizer, torch.device("cpu"))
    model.module.train()
    while True:
        try:
            pipeline.progress(batches)
        except StopIteration:
            return


def saved(root: Path, model: Model, place: Place, step: int = 7, at: int = 1) -> Path:
    folder = checkpoint.begin(root, step)
    file = weights.write(model, folder, place)
    return checkpoint.finish(root, Saved(step, 0, 1, 0.5, 0, {}, {}, RECIPE.digest, [file], {}, at))


@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise-adagrad"])
@pytest.mark.parametrize("kind", [TrainPipelineBase, TrainPipelineSparseDist])
def test_every_bit_comes_back_and_training_goes_on_alike(
    batches: list[ig.Batch], place: Place, tmp_path: Path, optimizer: str, kind: type
) -> None:
    config = replace(CONFIG, table_optimizer=optimizer)
    first, second = build(RECIPE, config, 1, place), build(RECIPE, config, 2, place)
    steps(first, iter(batches[:5]), kind)
    weights.load(second, saved(tmp_path, first, place), ["rank0.safetensors"])
    assert_equal(first, second)
    steps(first, iter(batches[5:9]), kind)
    steps(second, iter(batches[5:9]), kind)
    assert_equal(first, second)


def assert_equal(one: Model, other: Model) -> None:
    first, second = weights.live_tensors(one), weights.live_tensors(other)
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


def test_all_that_training_changes_is_in_it(batches: list[ig.Batch], place: Place) -> None:
    model = build(RECIPE, CONFIG, 1, place)
    before = {name: tensor.clone() for name, tensor in weights.live_tensors(model).items()}
    steps(model, iter(batches[:3]))
    after = weights.live_tensors(model)
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert still == set()
    per_table = [name for name in after if re.search(r"\bC7\b", name)]
    assert len(per_table) == 2, "a table, and its optimizer's state"
    # What torch itself would save, and nothing less.
    assert {f"model.{name}" for name in model.module.state_dict()} <= set(after)
    assert len([name for name in after if name.startswith("mlp_optimizer")]) == 2 * len(list(_mlp_parameters(model)))


def _mlp_parameters(model: Model) -> Iterator[str]:
    return (name for name, _ in model.module.named_parameters() if "embedding_bags" not in name)


def test_only_whole_checkpoints_count_and_the_last_two_stay(place: Place, tmp_path: Path) -> None:
    model = build(RECIPE, CONFIG, 1, place)
    for step in (5, 10, 15):
        last = saved(tmp_path, model, place, step, at=step)
    weights.write(model, checkpoint.begin(tmp_path, 20), place)  # and killed
    assert [f.name for f in checkpoint.saved_under(tmp_path)] == ["step-000000010", "step-000000015"]
    assert checkpoint.find(str(tmp_path), None) == last == checkpoint.find("latest", tmp_path)
    saved(tmp_path, model, place, 25, at=25)
    assert not list(tmp_path.glob(".step*"))


def test_the_newest_counts_not_the_furthest(place: Place, tmp_path: Path) -> None:
    model = build(RECIPE, CONFIG, 1, place)
    saved(tmp_path, model, place, 90, at=1)
    saved(tmp_path, model, place, 30, at=2)  # resumed from an earlier one
    assert checkpoint.find("latest", tmp_path) == tmp_path / "step-000000030"


def test_a_damaged_file_is_named(place: Place, tmp_path: Path) -> None:
    model = build(RECIPE, CONFIG, 1, place)
    folder = saved(tmp_path, model, place)
    tensors = folder / "rank0.safetensors"
    whole = tensors.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\xff" * 100):
        tensors.write_bytes(damaged)
        with pytest.raises(ResumeError, match=r"rank0\.safetensors cannot be read"):
            weights.load(model, folder, ["rank0.safetensors"])
    tensors.unlink()
    with pytest.raises(ResumeError, match=r"rank0\.safetensors cannot be read"):
        weights.load(model, folder, ["rank0.safetensors"])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 1, "wings": 2}'])
def test_a_damaged_state_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ResumeError, match=r"expected a readable state\.json"):
        checkpoint.read(tmp_path)


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(ResumeError, match="expected format version 1, found 99"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(CONFIG, embedding_dim=8), "is .* in it, and .* here"),
        (replace(CONFIG, top_mlp=(8, 8)), "it holds no"),
        (replace(CONFIG, table_optimizer="rowwise-adagrad"), "momentum1 is 50 x 4 in it, and 50 here"),
    ],
)
def test_a_model_of_another_shape_is_refused(place: Place, tmp_path: Path, config: ModelConfig, words: str) -> None:
    folder = saved(tmp_path, build(RECIPE, CONFIG, 1, place), place)
    with pytest.raises(ResumeError, match=words):
        weights.load(build(RECIPE, config, 1, place), folder, ["rank0.safetensors"])


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(checkpoint.CheckpointError, match="expected to be able to write under /proc/none"):
        checkpoint.begin(Path("/proc/none"), 1)
