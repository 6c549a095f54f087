"""Flags: what is understood, what is refused and how, and what a checkpoint keeps of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from intune_gpu.core.errors import ResumeError
from intune_gpu.train.config import Config, DataConfig, UsageError, parse, share_on_gpu

FLAGS = """
--data --format --recipe --eval-data --eval-fraction --split --no-shuffle --batch-size --epochs --max-steps
--embedding-dim --lr --seed --device --readers --transformers --prefetch-mib --on-bad-row --checkpoint-dir
--checkpoint-every --resume --run-dir --columns --num-buckets --placement --gpu-budget-mib --precision --tf32
--no-tf32 --measure-ideal --no-measure-ideal
"""


def parse_line(line: str, default: Config | None = None) -> Config:
    return parse(line.split(), default)


def test_no_flags_are_the_defaults() -> None:
    assert parse([]) == Config()


def test_flags_are_lists_switches_and_numbers() -> None:
    config = parse_line("--data a b --columns x y --no-shuffle --batch-size 7 --top-mlp 8 4 --seed 3 --readers 2")
    assert config.data == DataConfig(data=("a", "b"), columns=("x", "y"), shuffle=False, batch_size=7)
    assert (config.model.top_mlp, config.training.seed, config.loading.readers) == ((8, 4), 3, 2)


def test_flags_not_given_are_those_of_the_default() -> None:
    before = parse_line("--data a --lr 0.5 --epochs 3")
    after = parse_line("--epochs 4", before)
    assert after == replace(before, training=replace(before.training, epochs=4))


@pytest.mark.parametrize("arguments", [["--resume"], ["--resume", "latest"], ["--resume", "--lr", "0.1"]])
def test_resume_alone_means_latest(arguments: list[str]) -> None:
    assert parse(arguments).keeping.resume == "latest"


def test_every_flag_has_a_line_of_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [flag for flag in FLAGS.split() if flag not in shown] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--batch-size 0", "--batch-size: expected at least 1, found 0"),
        ("--epochs -1", "--epochs: expected at least 1"),
        ("--max-steps 0", "--max-steps: expected at least 1"),
        ("--readers 0", "--readers: expected at least 1"),
        ("--prefetch-mib 0", "--prefetch-mib: expected at least 1"),
        ("--embedding-dim 6", "--embedding-dim: expected a multiple of 4"),
        ("--eval-fraction 1", "--eval-fraction: expected 0 or more, below 1"),
        ("--lr 0", "--lr: expected above 0"),
        ("--lr nan", "--lr: expected above 0"),
        ("--seed -1", "--seed: expected 0 to"),
        ("--checkpoint-every -1", "--checkpoint-every: expected 0 or more"),
        ("--num-buckets 1", "--num-buckets: expected at least 2"),
        ("--top-mlp 8 0", "--top-mlp"),
        ("--max-bad-fraction 2", "--max-bad-fraction: expected 0 to 1"),
        ("--gpu-budget-mib 0", "--gpu-budget-mib: expected at least 1, found 0"),
        ("--placement gpu", "--placement: expected all-cpu, all-gpu or a share from 0 to 1, found gpu"),
        ("--placement 1.5", "--placement: expected all-cpu, all-gpu or a share from 0 to 1, found 1.5"),
        ("--placement nan", "--placement: expected all-cpu, all-gpu or a share from 0 to 1, found nan"),
        ("--placement 0.5 --device cpu", "--placement: expected all-cpu with --device cpu, found 0.5"),
        ("--placement all-gpu --device cpu", "--placement: expected all-cpu with --device cpu, found all-gpu"),
    ],
)
def test_a_number_out_of_range_is_refused_in_one_sentence(arguments: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        parse(arguments.split())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("placement", "share"), [(None, None), ("all-cpu", 0.0), ("all-gpu", 1.0), ("0.25", 0.25), ("0", 0.0), ("1", 1.0)]
)
def test_a_placement_is_a_share_on_the_gpu(placement: str | None, share: float | None) -> None:
    assert share_on_gpu(placement) == share
    assert share or parse(["--device", "cpu", *(() if placement is None else ("--placement", placement))])


def test_what_was_asked_of_the_gpu_comes_back_from_a_checkpoint() -> None:
    asked = parse_line("--placement 0.5 --gpu-budget-mib 300 --precision bf16 --no-tf32 --measure-ideal")
    assert (asked.loading.placement, asked.loading.gpu_budget_mib) == ("0.5", 300)
    assert (asked.model.precision, asked.model.tf32, asked.training.measure_ideal) == ("bf16", False, True)
    assert parse([], Config.from_json(json.loads(json.dumps(asked.to_json())))) == asked
    assert parse(["--tf32"], asked).model.tf32


def test_a_checkpoint_from_before_these_flags_has_their_defaults() -> None:
    state = Config().to_json()
    for part, names in (("loading", ("placement", "gpu_budget_mib")), ("model", ("precision", "tf32"))):
        for name in names:
            del state[part][name]
    assert Config.from_json(state) == Config()


def test_json_and_back() -> None:
    config = parse_line("--data a b --top-mlp 8 4 --resume x --max-steps 5 --no-shuffle")
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_flag_of_another_version_is_refused() -> None:
    state = Config().to_json()
    state["model"]["wings"] = 2
    with pytest.raises(ResumeError, match="a flag that this version does not know"):
        Config.from_json(state)
