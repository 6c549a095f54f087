"""`intune-gpu synth`: whole folders, or none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from intune_gpu.sources.synthetic import read_info
from tests.cli.conftest import Run


@pytest.mark.parametrize(("format", "type"), [("parquet", "int32"), ("parquet-hex", "string"), ("tsv", None)])
def test_logs_are_written_as_asked(run: Run, tmp_path: Path, format: str, type: str | None) -> None:
    code, out, err = run("synth", "clicks", "--rows", 2_000, "--files", 2, "--format", format, "--seed", 5, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["rows"], document["seed"], document["files"]) == (2_000, 5, 2)
    assert document["command"].endswith("python -m intune_gpu.train --data clicks")
    assert document["auc_ceiling"] == read_info("clicks").auc_ceiling
    first = tmp_path / "clicks" / f"part-00000.{'tsv' if type is None else 'parquet'}"
    if type is not None:
        assert str(pq.read_schema(first).field("C1").type) == type
    assert [path.name for path in tmp_path.iterdir()] == ["clicks"]


def test_a_folder_that_is_there_is_replaced_only_when_told_and_ours(run: Run, tmp_path: Path) -> None:
    assert run("synth", "clicks", "--rows", 100)[0] == 0
    code, _, err = run("synth", "clicks", "--rows", 200)
    assert code == 2
    assert "clicks: expected a new folder, found it there; name another one, or pass --force" in err
    assert read_info("clicks").rows == 100
    assert run("synth", "clicks", "--rows", 200, "--force")[0] == 0
    assert read_info("clicks").rows == 200
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    code, _, err = run("synth", "mine", "--rows", 100, "--force")
    assert code == 2
    assert "expected a folder that this command wrote" in err
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clicks", "mine"]


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_what_was_there(run: Run, tmp_path: Path, force: bool) -> None:
    if force:
        assert run("synth", "clicks", "--rows", 100)[0] == 0
    command = f"ulimit -f 100; exec {sys.executable} -m intune_gpu synth clicks --rows 100000 {'--force' * force}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == (["clicks"] if force else [])
    if force:
        assert read_info("clicks").rows == 100


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "intune_gpu", "synth", "clicks", "--rows", "1000000000", "--format", "tsv"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(tmp_path.rglob("part-*")):
            pass
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (code, "", "intune-gpu: stopped\n")
    assert list(tmp_path.iterdir()) == []
