"""Training in processes of its own: killed at a random step, and on two ranks."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from intune_gpu.sources.synthetic import write_click_logs
from tests.conftest import SEED
from tests.train.conftest import assert_same_weights, metrics_of, weights_of

FLAGS = ("--num-buckets", "200", "--batch-size", "32", "--epochs", "2", "--device", "cpu", "--checkpoint-every", "4")
STEPS = 226  # 3,600 rows: 113 batches an epoch, the last of 16 rows

LOOK_AT_THREADS = """
import atexit, runpy
from pathlib import Path

def look():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert "python" in names
    print("threads of gloo:", [name for name in names if "gloo" in name])

atexit.register(look)
runpy.run_module("intune_gpu.train", run_name="__main__", alter_sys=True)
"""

pytestmark = pytest.mark.slow


def command(clicks: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "intune_gpu.train", "--data", str(clicks), *FLAGS, *map(str, arguments)]


def kill_behind(process: subprocess.Popen[bytes], checkpoints: Path, step: int) -> None:
    """Kill a training process at any moment after it saved the checkpoint of a step."""
    until = time.monotonic() + 300
    while not any(checkpoints.glob("step-*")) or max(checkpoints.glob("step-*")).name < f"step-{step:09d}":
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < until, "training saved no checkpoint"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_anywhere_and_resumed_is_as_never_killed(clicks: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    subprocess.run(command(clicks, "--run-dir", whole), check=True, cwd=tmp_path)
    seed = random.SystemRandom().randrange(2**32) if SEED == 0 else SEED
    print(f"set INTUNE_TEST_SEED={seed} to kill near the same steps again")
    draw = random.Random(seed)
    for pipeline in ("base", "sparse-dist"):
        killed = tmp_path / pipeline
        flags = ("--run-dir", killed, "--pipeline", pipeline)
        process = subprocess.Popen(command(clicks, *flags), cwd=tmp_path)
        kill_behind(process, killed / "checkpoints", 4 * draw.randrange(1, STEPS // 4 - 5))
        subprocess.run(command(clicks, *flags, "--resume", "latest"), check=True, cwd=tmp_path)
        last = f"checkpoints/step-{STEPS:09d}"
        assert_same_weights(whole / last, killed / last)
        expected, found = metrics_of(whole), metrics_of(killed)
        assert (expected["auc"], expected["rows"]) == (found["auc"], found["rows"])
        assert found["resumed_from"] is not None
        assert [f.name for f in (killed / "checkpoints").iterdir() if "partial" in f.name] == []


def test_two_ranks_train_on_all_rows_and_one_can_go_on_alone(clicks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    one_rank = command(clicks, "--run-dir", run, "--checkpoint-every", 0, "--measure-ideal")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, *one_rank[1:]], check=True, cwd=tmp_path, capture_output=True, text=True)
    found = metrics_of(run)
    assert (found["world_size"], found["rows"], found["steps"]) == (2, 7_200, 114)
    assert found["eval_rows"] == 400
    assert found["below_ideal_pct"] == 100 * (1 - found["steady_rows_per_s"] / found["ideal_rows_per_s"])
    assert 0.6 < found["auc"] < found["auc_ceiling"]
    assert done.stdout.count("trained ") == 1, "only the first rank prints"
    saved = run / "checkpoints" / "step-000000114"
    assert sorted(f.name for f in saved.glob("rank*")) == ["rank0.safetensors", "rank1.safetensors"]
    alone = subprocess.run([*one_rank, "--resume", "latest"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "going on from" in alone.stdout
    after = metrics_of(run)
    assert after["auc"] == pytest.approx(found["auc"], abs=1e-6)
    assert "model.dlrm.over_arch.model.1.weight" in weights_of(saved)


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--on-bad-row", "raise"), 1)])
def test_no_thread_of_gloo_outlives_training(clicks: Path, tmp_path: Path, flags: tuple[str, ...], code: int) -> None:
    # One that does may end the process with an abort: tests/test_ranks.py did, 1 of 30 times beside busy loops.
    data = tmp_path / "clicks"
    write_click_logs(data, 600, format="tsv")
    with next(data.glob("*.tsv")).open("a") as rows:
        rows.write("x\t1\n")
    given = ("--data", data, *FLAGS, "--max-steps", 30, "--run-dir", tmp_path / "run", *flags)
    arguments = [sys.executable, "-c", LOOK_AT_THREADS, *map(str, given)]
    ended = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (code, "threads of gloo: []"), ended.stderr
