"""`make gpu-check` works where there is no GPU as far as it can: it says so, and its plumbing runs in host memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu, names, targets
from bench.gpu_report import GpuReport
from bench.harness import spread
from bench.report import figure
from tests.test_bench import conforms
from tools import gpu_check

ROOT = Path(__file__).resolve().parent.parent
ALL = {name: {"version": "1.0", "reason": ""} for name in (*gpu_check.NEEDED, *gpu_check.OPTIONAL)}


def run(*arguments: object, absent: tuple[str, ...] = (), folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool, with packages that cannot be imported."""
    folder.mkdir(exist_ok=True)
    for name in absent:
        (folder / f"{name}.py").write_text(f'raise ModuleNotFoundError("No module named {name!r}", name={name!r})')
    command = [sys.executable, ROOT / "tools" / "gpu_check.py", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_plumbing_runs_without_a_gpu_and_without_torchrec(tmp_path):
    out = tmp_path / "out"
    given = ["--dry", "--parts", "tests", "bench", "--select", "memory_is_aligned", "--sections", "copy"]
    done = run(*given, "--out", out, absent=("torchrec", "tyro", "rich"), folder=tmp_path / "absent")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((out / "gpu-check.json").read_text())
    assert record["passed"]
    assert record["device"] == "host memory, not a measurement"
    tests, bench = record["parts"]
    assert tests["counts"] == {"passed": 1, "failed": 0, "skipped": 2}
    assert [reason.split(",")[0] for reason in tests["skipped"]] == ["needs torchrec"]
    assert "torchrec     not installed: these parts are skipped: whole batches" in done.stdout
    assert any(line.startswith("tests/train/test_on_gpu.py: needs torchrec") for line in tests["left_out"])
    assert bench["status"] == "passed"
    figures = json.loads((out / "bench.json").read_text())
    conforms(figures, GpuReport)
    assert (figures["device"], figures["gpu"], figures["targets"]) == ("host memory, not a measurement", None, [])
    assert {one["name"] for one in figures["figures"]} >= {names.DEVICE_COPY, "pinned to device"}


def test_no_gpu_is_one_sentence(tmp_path, capsys, monkeypatch):
    machine = {"packages": ALL, "gpu": None, "built": None, "compute_sanitizer": None}
    monkeypatch.setattr(gpu_check, "probe", lambda environment: machine)
    assert gpu_check.main(["--out", str(tmp_path)]) == gpu_check.NO_GPU
    said = capsys.readouterr().err
    assert said.startswith("gpu-check: expected an NVIDIA GPU, and torch 1.0 is built for the CPU only: nothing was")
    assert said.count("\n") == 1
    assert json.loads((tmp_path / "gpu-check.json").read_text())["refused"] in said


def test_what_is_needed_and_missing_is_named():
    packages = ALL | {"numba_cuda": {"version": None, "reason": ""}}
    assert "found no numba_cuda;" in (gpu_check.why_not({"packages": packages, "gpu": "x"}, dry=True) or "")
    assert gpu_check.why_not({"packages": ALL, "gpu": "x"}, dry=False) is None
    broken = {"packages": ALL, "gpu": "x", "compile_fault": "no NVVM"}
    assert gpu_check.why_not(broken, dry=False) == "numba-cuda cannot compile here: no NVVM"


def test_a_probe_that_ends_is_told():
    ended = gpu_check.probe(dict(os.environ), "/bin/false")
    assert ended["packages"]["torch"] == {"version": None, "reason": "the import ended the process"}


def test_every_file_with_tests_for_a_gpu_is_run():
    files, left_out = gpu_check.test_files("tests", ALL)
    found = {Path(file).relative_to(ROOT).as_posix() for file in files}
    assert not left_out
    assert found >= {"tests/gpu/test_streams.py", "tests/gpu/test_batches.py", "tests/train/test_on_gpu.py"}
    parity = {Path(file).relative_to(ROOT).as_posix() for file in gpu_check.test_files("parity", ALL)[0]}
    assert parity == {"tests/gpu/test_edges.py", "tests/gpu/test_values.py"}
    assert not parity & found


def test_a_part_has_a_limit_and_leaves_nothing_running(tmp_path):
    log = tmp_path / "log"
    code = "import subprocess, sys; print('began', flush=True); subprocess.run(['sleep', '600'])"
    assert gpu_check.run_within([sys.executable, "-c", code], 3.0, log, dict(os.environ)) is None
    assert log.read_text().startswith("began\n")
    assert "KeyboardInterrupt" in log.read_text()  # it was asked to end, and could write down what it had
    assert gpu_check.run_within([sys.executable, "-c", "raise SystemExit(4)"], 30.0, log, dict(os.environ)) == 4


JUNIT = """<testsuites><testsuite>
<testcase classname="a" name="one"/>
<testcase classname="a" name="two"><failure message="assert 1 == 2&#10;more">text</failure></testcase>
<testcase classname="a" name="three"><skipped message="needs an NVIDIA GPU"/></testcase>
<testcase classname="" name="b"><error message="collection failure">E No module named 'torchrec'</error></testcase>
<testcase classname="" name="c"><skipped message="collection skipped">('c.py', 9, 'Skipped: needs x')</skipped>
</testcase>
</testsuite></testsuites>"""


def test_results_are_read(tmp_path):
    (tmp_path / "x.xml").write_text(JUNIT)
    found = gpu_check.read_junit(tmp_path / "x.xml", ["torchrec"])
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 3}
    assert found["failures"] == ["a::two: assert 1 == 2"]
    assert set(found["skipped"]) == {"needs an NVIDIA GPU", "needs torchrec", "needs x"}
    assert len(gpu_check.read_junit(tmp_path / "x.xml", [])["failures"]) == 2
    assert gpu_check.read_junit(tmp_path / "none.xml", [])["failures"]


def test_a_folder_without_wheels_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--wheels", str(tmp_path)])
    assert ended.value.code == 2
    assert "--wheels: expected a folder with *.whl, found none in" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--host"], ["--tiny", "--save"], ["--repeats", "0"]])
def test_a_bench_that_would_measure_nothing_is_refused(wrong):
    with pytest.raises(SystemExit) as ended:
        gpu.parse(wrong)
    assert ended.value.code == 2


def test_a_failed_section_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    def fails(self: gpu.Suite) -> None:
        raise gpu.CheckError("ids differ")

    monkeypatch.setattr(gpu.Suite, "_copy", fails)
    out = tmp_path / "bench.json"
    assert gpu.main(gpu.parse(["--tiny", "--host", "--sections", "copy", "text", "--out", str(out)])) == 1
    written = json.loads(out.read_text())
    assert written["skipped"]["copy"] == "A CHECK FAILED: ids differ"
    assert [case["section"] for case in written["cases"]] == ["text", "text"]


def test_targets_of_a_gpu():
    def case(seconds: float) -> dict[str, object]:
        samples = [{"seconds": seconds, "cpu_seconds": 1.0}] * 3
        return {"name": "", "passes": 1, "samples": samples, "rows_per_s": spread([1.0])}

    name = f"{names.ids('int32', 'int32')}, {1 << 20:,} rows"
    engines = [case(2.0) | {"name": names.OURS}, case(1.8) | {"name": names.COPY}]
    measured = [{"section": "transform", "name": name, "threads": 1, "engines": engines}]
    figures = [
        figure("host", names.HOST_SUBMIT, "us", spread([16.0]), ""),
        figure("training", "all-gpu: below_ideal_pct", "%", spread([1.0]), ""),
    ]
    copy, host, ideal = targets.judge_gpu(measured, figures)  # type: ignore[arg-type]
    assert (copy["found"], copy["met"]) == (0.9, True)
    assert (host["found"], host["met"]) == (16.0, False)
    assert (ideal["wanted"], ideal["met"]) == (1.5, True)


def test_no_result_without_a_gpu_is_in_the_repository():
    for file in (ROOT / "bench" / "results").glob("*.json"):
        written = json.loads(file.read_text())
        assert written.get("suite") != "gpu" or written["device"] == "cuda", file.name
