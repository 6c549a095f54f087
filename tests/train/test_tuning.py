"""Training with a tuner: the same weights, and what is said and kept of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from intune_gpu.core.errors import MissingPackageError, ResumeError
from intune_gpu.train import tuning
from intune_gpu.train.config import DEFAULT_TUNER, Config, UsageError, parse
from intune_gpu.train.job import run
from intune_gpu.train.place import Place
from intune_gpu.train.progress import Screen, Snapshot
from intune_gpu.tuner.decisions import read_decisions
from tests.train.conftest import assert_same_weights, metrics_of
from tests.tuner.live import ByChance

Train = Callable[..., int]


def of(folder: str) -> Path:
    return max((Path(folder) / "checkpoints").glob("step-*"))


def asked(clicks: Path, run_dir: str, tuner: str, *flags: str) -> Config:
    """What a run is asked for; with any tuner, one that no flag names too."""
    small = f"--data {clicks} --num-buckets 200 --batch-size 64 --device cpu --epochs 2 --run-dir {run_dir}".split()
    config = parse([*small, "--tuner-every-s", "0.01", *flags])
    return replace(config, loading=replace(config.loading, tuner=tuner))  # type: ignore[arg-type]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("intune-")]


def test_weights_are_the_same_whatever_the_tuner_does(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    policy_of = tuning.policy_of
    monkeypatch.setattr(tuning, "policy_of", lambda name: ByChance() if name == "random" else policy_of(name))
    for tuner in ("off", "random", "rl"):
        assert run(asked(clicks, tuner, tuner), None) == 0
        assert_same_weights(of("off"), of(tuner))
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:  # one that was in the middle of a look ends by itself
        time.sleep(0.01)
    assert threads() == []
    off, by_chance = metrics_of(tmp_path / "off"), metrics_of(tmp_path / "random")
    assert off["tuner"] is None
    assert not (tmp_path / "off" / "decisions.jsonl").exists()
    assert by_chance["tuner"]["changes"] >= 1
    assert by_chance["tuner"]["plans_tried"] >= 1
    assert by_chance["tuner"]["ended"] is None
    assert by_chance["tuner"]["decisions"] == "decisions.jsonl"
    lines = read_decisions(tmp_path / "random" / "decisions.jsonl")
    assert sum(line["kind"] == "decision" for line in lines) == by_chance["tuner"]["changes"]
    assert {"epoch ends", "evaluation"} <= {line.get("what") for line in lines}
    out, _ = capfd.readouterr()
    assert "tuner by chance; writing to random" in out
    assert "tuner     by chance: " in out
    assert "why: intune-gpu explain random" in out


def test_a_tuner_goes_on_from_a_checkpoint(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--epochs", 2, "--run-dir", "run", "--tuner-every-s", 0.01, "--checkpoint-every", 10)
    assert train(*flags, "--max-steps", 20, "--tuner", "hillclimb") == 0
    folder = of("run")
    assert (folder / "tuner.safetensors").is_file()
    begun: list[bool] = []
    load = tuning.load
    monkeypatch.setattr(tuning, "load", lambda loader, path: begun.append(load(loader, path) is None))
    assert train("--resume", "run", "--max-steps", 40) == 0
    assert begun == [True]
    begins = [line for line in read_decisions(tmp_path / "run" / "decisions.jsonl") if line["kind"] == "begin"]
    assert len(begins) == 2
    (of("run") / "tuner.safetensors").write_bytes(b"nonsense")
    assert train("--resume", "run", "--max-steps", 50) == 1
    (of("run") / "tuner.safetensors").unlink()  # as a checkpoint of a run without one
    assert train("--resume", "run", "--max-steps", 50, "--tuner", "static") == 0


def test_a_state_with_arrays_comes_back(clicks: Path, tmp_path: Path) -> None:
    import intune_gpu as ig

    with ig.Loader(clicks, ig.recipes.criteo(50), tuner="hillclimb") as loader:
        assert loader.tuner is not None
        loader.tuner.begin()
        loader.apply(replace(loader.plan, readers=1, transformers=2))
        tuning.write(loader, tmp_path)
        state = loader.tuner.state()
    with ig.Loader(clicks, ig.recipes.criteo(50), tuner="hillclimb") as loader:
        assert loader.tuner is not None
        tuning.load(loader, tmp_path)
        loader.tuner.begin()
        assert (loader.plan.readers, loader.plan.transformers) == (1, 2)
        again = loader.tuner.state()
    assert state["knobs"] == again["knobs"]
    assert {name: value.tolist() for name, value in state["policy"].items() if name != "rate"} == {
        name: value.tolist() for name, value in again["policy"].items() if name != "rate"
    }
    with ig.Loader(clicks, ig.recipes.criteo(50)) as loader:
        tuning.write(loader, tmp_path / "nowhere")  # nothing to write
        tuning.load(loader, tmp_path)
    (tmp_path / "tuner.safetensors").write_bytes(b"")
    with (
        ig.Loader(clicks, ig.recipes.criteo(50), tuner="static") as loader,
        pytest.raises(ResumeError, match=r"tuner\.safetensors cannot be read .*remove it"),
    ):
        tuning.load(loader, tmp_path)


def test_where_a_tuner_lacks_its_package_another_one_tunes(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    policy_of = tuning.policy_of

    def without_weights(name: str) -> object:
        if name == "rl":
            raise MissingPackageError("tuner rl: needs its weights, which are not installed")
        return policy_of(name)

    monkeypatch.setattr(tuning, "policy_of", without_weights)
    config = replace(Config().loading, tuner="rl")
    with Screen(silent=False) as screen:
        options = tuning.options(config, place, tmp_path, screen)
    assert options["tuner"].name == "hillclimb"
    out, _ = capfd.readouterr()
    assert out.split("\n")[0] == (
        "note: tuner rl: needs its weights, which are not installed; until then hillclimb tunes this run"
    )
    with pytest.raises(UsageError, match=r"--tuner: expected one of .*, found 'best'"):
        tuning.options(replace(config, tuner="best"), place, tmp_path, screen)  # type: ignore[arg-type]
    with Screen(silent=True) as screen:
        assert tuning.options(replace(config, tuner="off"), place, tmp_path, screen) == {}


def test_the_live_line_and_the_flags_know_the_plan_and_the_tuner() -> None:
    line = str(Snapshot(1, 1, 10, 20, 5.0, 0.5, 1.0, 2.0, "readers 3, transformers 2"))
    assert line.endswith("wait 1.0 %  readers 3, transformers 2  ETA 0:00:02")
    assert parse([]).loading.tuner == DEFAULT_TUNER
    assert parse(["--tuner", "off"]).loading.tuner == "off"
    state = Config().to_json()
    del state["loading"]["tuner"], state["loading"]["tuner_every_s"]
    assert Config.from_json(json.loads(json.dumps(state))) == Config()
