"""`python -m intune_gpu.train`, inside this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import intune_gpu as ig
from intune_gpu.core.errors import DataError
from intune_gpu.core.source import HalfRead
from intune_gpu.sources.subset import RowRange
from intune_gpu.train.__main__ import main
from intune_gpu.train.meter import Meter
from tests.shared_data import CRITEO_TINY, needs
from tests.train.conftest import ROWS, assert_same_weights, metrics_of, weights_of

Train = Callable[..., int]

PROMISED = """
rows epochs steps rows_per_s exposed_wait_pct time_to_first_batch_s peak_rss_bytes loss_first loss_last auc auc_ceiling
device plan bad_rows versions
"""


def test_trains_evaluates_and_writes_what_it_promises(
    train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train("--epochs", 2, "--run-dir", "run") == 0
    out, err = capfd.readouterr()
    found = metrics_of(tmp_path / "run")
    assert [name for name in PROMISED.split() if name not in found] == []
    assert (found["rows"], found["steps"], found["epochs"], found["bad_rows"]) == (7_200, 58, 2, 0)
    assert found["loss_last"] < found["loss_first"]
    assert 0.6 < found["auc"] < found["auc_ceiling"] < 1.0
    assert found["device"] == "cpu"
    assert set(found["plan"]) == {"readers", "transformers", "prefetch_bytes", "placement"}
    assert 0 <= found["exposed_wait_pct"] <= 100
    assert found["time_to_first_step_s"] > found["startup_s"] > 0
    assert err == ""
    assert "of the lift that is possible" in out
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


def test_the_same_seed_gives_the_same_weights_through_both_pipelines(train: Train) -> None:
    runs = [("a", 5, "base"), ("b", 5, "base"), ("c", 5, "sparse-dist"), ("d", 6, "base")]
    for name, seed, pipeline in runs:
        assert train("--run-dir", name, "--seed", seed, "--pipeline", pipeline, "--readers", 1 + seed % 2) == 0
    a, b, c, d = (next((Path(name) / "checkpoints").iterdir()) for name, _, _ in runs)
    assert_same_weights(a, b)
    assert_same_weights(a, c)
    first = "model.dlrm.over_arch.model.1.weight"
    assert not torch.equal(weights_of(a)[first], weights_of(d)[first])


@pytest.mark.parametrize("pipeline", ["base", "sparse-dist"])
def test_stopped_and_resumed_is_as_never_stopped(train: Train, pipeline: str) -> None:
    flags = ("--epochs", 2, "--pipeline", pipeline)
    assert train(*flags, "--run-dir", "whole") == 0
    with _signal_at_step(29 + 11, signal.SIGTERM):
        assert train(*flags, "--run-dir", "parts") == 143
    assert metrics_of(Path("parts"))["stopped_by"] == "SIGTERM"
    assert main(["--resume", "parts"]) == 0  # data and all other flags are those of the checkpoint
    assert_same_weights(Path("whole/checkpoints/step-000000058"), Path("parts/checkpoints/step-000000058"))
    whole, parts = metrics_of(Path("whole")), metrics_of(Path("parts"))
    same = ("rows", "steps", "epochs", "auc", "loss_first", "bad_rows")
    assert {name: whole[name] for name in same} == {name: parts[name] for name in same}


def test_steps_in_two_goes_are_as_in_one(train: Train) -> None:
    assert train("--max-steps", 40, "--epochs", 2, "--run-dir", "whole") == 0
    assert train("--max-steps", 29, "--epochs", 2, "--run-dir", "parts") == 0  # the end of an epoch
    assert train("--max-steps", 40, "--epochs", 2, "--run-dir", "parts", "--resume", "latest") == 0
    assert_same_weights(Path("whole/checkpoints/step-000000040"), Path("parts/checkpoints/step-000000040"))


def test_ctrl_c_saves_and_says_how_to_go_on(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    with _signal_at_step(3, signal.SIGINT):
        assert train("--run-dir", "run") == 130
    out, err = capfd.readouterr()
    assert "python -m intune_gpu.train --resume run/checkpoints/step-000000003" in out
    assert "Ctrl-C again quits at once" in err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_file_that_fails_half_way_costs_no_step(
    train: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ("--no-shuffle", "--readers", 1)
    assert train(*flags, "--run-dir", "whole") == 0
    read = RowRange.half_read

    def fail_at_5(self: RowRange, index: int) -> HalfRead | None:
        if index == 5:
            raise DataError("part-00001.parquet: gone")
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(RowRange, "half_read", fail_at_5)
        assert train(*flags, "--run-dir", "parts") == 1
    out, err = capfd.readouterr()
    assert err == "intune_gpu.train: part-00001.parquet: gone\n"
    assert (
        "when what follows is set right, go on with: python -m intune_gpu.train --resume parts/checkpoints/step-0000000"
        in out
    )
    assert main(["--resume", "parts"]) == 0
    assert_same_weights(Path("whole/checkpoints/step-000000029"), Path("parts/checkpoints/step-000000029"))


def test_resuming_a_run_that_is_over_only_evaluates(train: Train) -> None:
    assert train("--run-dir", "run") == 0
    before = metrics_of(Path("run"))
    assert train("--run-dir", "run", "--resume") == 0
    after = metrics_of(Path("run"))
    assert (after["steps"], after["auc"], after["epochs"]) == (before["steps"], before["auc"], 1)


def test_keeps_the_last_two_checkpoints(train: Train) -> None:
    assert train("--run-dir", "run", "--checkpoint-every", 10, "--checkpoint-dir", "kept") == 0
    assert sorted(f.name for f in Path("kept").iterdir()) == ["step-000000020", "step-000000029"]


def test_a_new_run_in_an_old_folder_loses_no_checkpoint(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("--run-dir", "run", "--max-steps", 3) == 0
    assert train("--run-dir", "run", "--max-steps", 4) == 0
    assert "checkpoints of an earlier run are now in run/checkpoints.1" in capfd.readouterr().out
    assert Path("run/checkpoints.1/step-000000003").is_dir()


def test_latest_without_a_checkpoint_yet_starts_anew(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("--run-dir", "run", "--resume", "latest", "--max-steps", 2) == 0
    assert "no checkpoint in run/checkpoints yet" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ("--data gone.parquet", 1, "gone.parquet"),
        ("--recipe nonsense", 2, "--recipe: expected criteo or a JSON file"),
        ("--recipe gone.json", 1, "no such file"),
        ("--resume gone", 1, "--resume gone: expected a checkpoint"),
        ("--batch-size 0", 2, "--batch-size: expected at least 1"),
        ("--prefetch-mib 1 --batch-size 100000", 1, "prefetch_bytes: expected at least"),
        ("--readers 100000", 2, "readers"),
        ("--run-dir /proc/none", 2, "--run-dir /proc/none: expected a folder to write in"),
        pytest.param(
            "--device cuda",
            2,
            "--device cuda: expected",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_fault_is_one_line(
    train: Train, capfd: pytest.CaptureFixture[str], flags: str, code: int, words: str
) -> None:
    assert train(*flags.split()) == code
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_a_checkpoint_of_another_recipe_or_shape_is_refused(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("--run-dir", "run", "--max-steps", 2) == 0
    capfd.readouterr()
    for flags, words in [
        (("--num-buckets", 300), "found one of another recipe"),
        (("--embedding-dim", 8), "expected the model of these flags, but"),
        (("--table-optimizer", "rowwise-adagrad"), "expected the model of these flags, but"),
        (("--batch-size", 64), "batch_size"),
        (("--seed", 1), "seed"),
    ]:
        assert train("--run-dir", "run", "--resume", "latest", *flags) == 1
        err = capfd.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_without_dense_features_it_trains(train: Train) -> None:
    recipe = ig.Recipe("label", sparse={"C1": [ig.HashBucket(50)], "C2": [ig.HashBucket(50)]}, types=_HEX)
    recipe.save("sparse.json")
    assert train("--recipe", "sparse.json", "--run-dir", "run") == 0
    assert metrics_of(Path("run"))["loss_last"] < 0.65


def test_without_sparse_features_it_says_what_to_do(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    ig.Recipe("label", dense={"I1": [ig.FillMissing()]}).save("dense.json")
    assert train("--recipe", "dense.json") == 1
    assert "expected at least one sparse feature" in capfd.readouterr().err


def test_held_out_rows_of_one_class_have_no_auc(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    _write_clicks(Path("ones.parquet"), [1] * 50)
    assert train("--eval-data", "ones.parquet", "--max-steps", 2, "--run-dir", "run") == 0
    found = metrics_of(Path("run"))
    assert (found["auc"], found["eval_rows"]) == (None, 50)
    assert "all of one class" in found["auc_note"]
    assert "all of one class" in capfd.readouterr().out


def test_resuming_a_finished_run_keeps_its_metrics(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    assert train("--run-dir", "run") == 0
    written = Path("run/metrics.json").read_bytes()
    assert train("--run-dir", "run", "--resume", "latest") == 0
    assert "nothing is left to train" in capfd.readouterr().out
    assert Path("run/metrics.json").read_bytes() == written


def test_folders_that_cannot_be_written_are_refused_before_training(
    train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    assert train("--run-dir", "file") == 2
    assert train("--run-dir", "run", "--checkpoint-dir", "file") == 2
    assert capfd.readouterr().err.splitlines() == [
        "intune_gpu.train: --run-dir file: expected a folder to write in, found a file; name another",
        "intune_gpu.train: --checkpoint-dir file: expected a folder to write in, found a file; name another",
    ]


def test_a_run_that_cannot_begin_leaves_no_folder(train: Train) -> None:
    ig.Recipe("label", sparse={"nope": [ig.HashBucket(50)]}).save("recipe.json")
    assert train("--recipe", "recipe.json") == 1
    assert not Path("runs").exists()


def test_a_batch_of_bad_rows_only_harms_nothing(train: Train) -> None:
    labels: list[int | None] = [0, 1] * 100
    labels[64:96] = [None] * 32
    _write_clicks(Path("bad.parquet"), labels)
    flags = ("--batch-size", 32, "--no-shuffle", "--max-bad-fraction", 0.5, "--eval-fraction", 0, "--run-dir", "run")
    for pipeline in ("base", "sparse-dist"):
        assert train("--data", "bad.parquet", *flags, "--pipeline", pipeline) == 0
        found = metrics_of(Path("run"))
        assert (found["rows"], found["bad_rows"], found["steps"], found["auc"]) == (168, 32, 7, None)
        assert found["auc_note"] == "no rows were held out"
        assert found["loss_last"] == found["loss_last"] is not None
    assert Path("run/bad_rows.jsonl").read_bytes().count(b"\n") == 32


def test_the_splits_share_no_row(train: Train) -> None:
    for split in ("time", "random"):
        assert train("--split", split, "--eval-fraction", 0.25, "--run-dir", split) == 0
        found = metrics_of(Path(split))
        assert found["rows"] + found["eval_rows"] == ROWS
        assert abs(found["eval_rows"] - ROWS / 4) < 150


def test_without_data_it_makes_some_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("intune_gpu.train.data.SYNTHETIC_ROWS", 3_000)
    monkeypatch.setattr("intune_gpu.train.job.SYNTHETIC_ROWS", 3_000)
    for _ in range(2):
        assert main(["--num-buckets", "100", "--max-steps", "2"]) == 0
    assert len(list((tmp_path / "cache" / "intune_gpu").iterdir())) == 1
    first, second = sorted((tmp_path / "runs").iterdir())
    assert metrics_of(first)["auc"] == metrics_of(second)["auc"]


@needs(CRITEO_TINY)
def test_trains_on_real_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data", str(CRITEO_TINY), "--recipe", "criteo", "--epochs", "5", "--num-buckets", "1000"]
    assert main([*flags, "--batch-size", "256", "--run-dir", "run"]) == 0
    found = metrics_of(tmp_path / "run")
    assert (found["rows"], found["auc_ceiling"]) == (5 * 1_800, None)
    assert found["auc"] > 0.6


_HEX = {"C1": "hex32", "C2": "hex32"}


def _write_clicks(path: Path, labels: list[int | None]) -> None:
    columns = {"label": pa.array(labels, pa.int32())}
    columns |= {f"I{i}": pa.array(range(len(labels)), pa.int32()) for i in range(1, 14)}
    columns |= {f"C{i}": pa.array(range(len(labels)), pa.int32()) for i in range(1, 27)}
    pq.write_table(pa.table(columns), path)


@contextmanager
def _signal_at_step(step: int, number: signal.Signals) -> Iterator[None]:
    note = Meter.note

    def note_and_signal(self: Meter, *arguments: Any) -> None:
        note(self, *arguments)
        if self.step == step:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Meter, "note", note_and_signal)
        yield
