"""`intune-gpu calibrate`: a profile of a real loader on this machine, and what a wrong flag gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from intune_gpu.cli.command import main
from intune_gpu.sources.synthetic import write_click_logs
from intune_gpu.tuner.calibrating import Profile


def test_a_profile_of_a_real_loader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_click_logs(tmp_path / "logs", 6_000, seed=1, files=2, threads=1)
    flags = ["--check", "2", "--seconds", "0.05", "--rounds", "1", "--batch-size", "256", "--json"]
    assert main(["calibrate", "logs/*.parquet", *flags]) == 0
    told = json.loads(capfd.readouterr().out)
    assert len(told["checks"]) == 2
    for check in told["checks"]:
        assert check["rows_per_s"] > 0
        off = abs(check["predicted_rows_per_s"] / check["rows_per_s"] - 1) * 100
        assert check["error_pct"] == pytest.approx(off)
    profile = Profile.load(tmp_path / "profile.json")
    assert profile.machine == told["machine"]
    assert profile.plans == 7
    assert profile.machine["cores"] >= 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "DATA: expected files to run over"),
        (["a.parquet", "--check", "30"], "--check: expected 0 to 29 plans, found 30"),
        (["a.parquet", "--seconds", "0"], "--seconds: expected more than 0, found 0.0"),
        (["a.parquet", "--rounds", "0"], "--rounds: expected at least 1, found 0"),
        (["a.parquet", "--trainer-rows-per-s", "-1"], "--trainer-rows-per-s: expected more than 0, found -1.0"),
        (["nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_what_is_wrong_is_said(flags: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *flags]) == 2
    assert says in capfd.readouterr().err
