"""The command itself: help, JSON, exit codes, and `inspect`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intune_gpu.cli import inspect
from intune_gpu.cli.command import main
from intune_gpu.cli.screen import percent, size
from intune_gpu.train import job
from intune_gpu.train.__main__ import main as train_main
from intune_gpu.train.stop import Terminated
from tests.cli.conftest import ROWS, Run


@pytest.mark.parametrize("heavy", ["torch", "torchrec", "numba", "polars", "pyarrow"])
def test_help_waits_for_nothing_heavy(heavy: str) -> None:
    code = (
        "import sys\nfrom intune_gpu.cli.command import main\n"
        f"try:\n main(['recipe', '--help'])\nfinally:\n print({heavy!r} in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert "--label" in done.stdout


def test_looking_at_data_needs_no_torch(stranger: Path) -> None:
    code = (
        "import sys\nfrom intune_gpu.cli.command import main\n"
        f"assert main(['inspect', {str(stranger)!r}, '--json']) == 0\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["rows"] == ROWS


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "intune_gpu", "inspect", "nope.parquet"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    expected = "intune-gpu: nope.parquet: expected a file, directory or glob, found nothing there; check the path\n"
    assert done.stderr == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect"], "DATA: expected files to look at"),
        (["recipe", "--label", "y"], "DATA: expected files to look at"),
        (["synth"], "OUT: expected the folder to make"),
        (["inspect", "a.parquet", "--rows", "0"], "--rows: expected at least 1, found 0"),
        (["inspect", "a.parquet", "--seed", "-1"], "--seed: expected 0 to 2**63 - 1, found -1"),
        (["synth", "a", "--files", "0"], "--files: expected at least 1, found 0"),
        (["inspect", "a.parquet", "--columns", "x"], "--columns: expected none for Parquet files"),
    ],
)
def test_wrong_flags_are_one_sentence(run: Run, tmp_path: Path, arguments: list[str], words: str) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"intune-gpu: {words}")
    assert err.count("\n") == 1


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "run", interrupted)
    assert run("inspect", "a.parquet") == (130, "", "intune-gpu: stopped\n")


@pytest.mark.parametrize(("signal", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
@pytest.mark.parametrize("program", ["intune-gpu", "train"])
def test_a_signal_that_met_a_lock(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], program: str, signal: type, code: int
) -> None:
    """As Python's `Condition.wait` may do to it."""

    def interrupted(config: object, resumed: object = None) -> int:
        lock = threading.Lock()
        try:
            raise signal
        finally:
            lock.release()

    monkeypatch.setattr(inspect, "run", interrupted)
    monkeypatch.setattr(job, "run", interrupted)
    found = main(["inspect", "a.parquet"]) if program == "intune-gpu" else train_main([])
    assert (found, capfd.readouterr().err) == (code, f"{program.replace('train', 'intune_gpu.train')}: stopped\n")


def test_another_error_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: object) -> int:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(inspect, "run", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["inspect", "a.parquet"])


def test_an_unknown_subcommand_ends_with_2() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["inspct"])
    assert ended.value.code == 2


def test_inspect_shows_what_is_there(run: Run, stranger: Path) -> None:
    code, table, err = run("inspect", stranger)
    assert (code, err) == (0, "")
    assert f"{ROWS:,} rows (all looked at) in 1 file, 3 row groups" in table
    assert "integers stored as text" not in table
    assert "8 hex digits" in table
    code, out, err = run("inspect", stranger, "--json", "--rows", 1_000)
    assert (code, err) == (0, "")
    document = json.loads(out)
    columns = {column["name"]: column for column in document["columns"]}
    assert document["bytes"] == stranger.stat().st_size
    assert (document["files"], document["chunks"], document["rows_looked_at"]) == (1, 3, 992)
    assert columns["price"]["missing_exact"]
    assert 0.08 < columns["price"]["missing"] < 0.12
    assert columns["city"]["distinct"] == 12
    assert not columns["city"]["distinct_exact"]
    assert columns["tags"]["kind"] == "list of integer"
    assert columns["instant"]["min"].endswith(" ns")
    assert columns["infinite"]["max"] == "inf"
    assert columns["row"]["look_at"] == ["nearly every value is different: a row id, or free text"]


def test_inspect_reads_text_with_rich_markup_in_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("[red]name,[/x]\n[bold]1,2\n[/]x,3\n")
    code, table, err = run("inspect", "a.csv")
    assert (code, err) == (0, "")
    assert all(word in table for word in ("[red]name", "[/x]", "[bold]1 (50.0%)", "[/]x"))


def test_a_reader_that_goes_away_is_no_failure(stranger: Path) -> None:
    command = f"set -o pipefail; {sys.executable} -m intune_gpu inspect '{stranger}' --json | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_numbers_for_people() -> None:
    assert [percent(share) for share in (0.0, 1e-6, 0.25, 0.99999, 1.0)] == ["0%", "0.1%", "25.0%", "99.9%", "100%"]
    assert [size(n) for n in (0, 1023, 1536, 5 << 30)] == ["0 bytes", "1023 bytes", "1.5 KiB", "5.0 GiB"]
