"""One tiny run of all suites: they check what they time, and write what their schemas say. No test looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from bench import __main__ as bench_main
from bench import names, report, scale, tuner_report
from tests.test_bench import ROOT, conforms


class Run(NamedTuple):
    """What a tiny run of all suites left: their files, and what it said."""

    folder: Path
    said: str

    def of(self, suite: str) -> Any:
        """Return the results of a suite."""
        return json.loads((self.folder / f"{suite}.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("all")
    command = [sys.executable, "-m", "bench", "--suite", "all", "--tiny", "--out", str(folder)]
    command += ["--only", "cpu", "dali", "scale", "tuner", "gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return Run(folder, done.stdout)


@pytest.mark.slow
def test_cpu(run: Run) -> None:
    result = run.of("cpu")
    conforms(result, report.Report)
    assert result["tiny"]
    assert result["repeats"] == 2
    threads = {
        section: {c["threads"] for c in result["cases"] if c["section"] == section} for section in bench_main.ROWS
    }
    assert threads["transform"] == {1}
    assert threads["text"] == threads["parquet"] == ({1, 2} if result["machine"]["cores_usable"] > 1 else {1})
    for case in result["cases"]:
        assert case["checks"]
        assert case["rows"] == bench_main.TINY_ROWS
        assert case["engines"][0]["role"] == "ours"
        for engine in case["engines"]:
            assert len(engine["samples"]) == 2
            assert min(sample["seconds"] for sample in engine["samples"]) > 0
        assert [r["other"] for r in case["ratios"]] == [e["name"] for e in case["engines"][1:]]
    peers = {e["name"] for c in result["cases"] for e in c["engines"]}
    assert {"NumPy", names.POLARS, names.PYARROW, names.COPY} <= peers
    assert result["targets"]
    assert f"written: {run.folder / 'cpu.json'}" in run.said.replace("\n", "")


@pytest.mark.slow
def test_dali(run: Run) -> None:
    result = run.of("dali")
    conforms(result, report.Report)
    assert result["suite"] == "dali"
    assert result["targets"] == []
    assert len(result["cases"]) == 4
    for case in result["cases"]:
        assert case["checks"]
        engines = [engine["name"] for engine in case["engines"]]
        if case["name"].startswith(names.NODE):
            assert engines == [names.NODE, "ig.transform"]
        else:
            assert engines == [names.DALI, names.NATIVE, names.CHECKPOINTS, names.EMPTY]
        assert f"dali, {case['name']}, {names.threads(case['threads'])}: " in run.said


@pytest.mark.slow
def test_tuner(run: Run) -> None:
    result = run.of("tuner")
    conforms(result, tuner_report.TunerReport)
    assert set(result["skipped"]) <= {"taking a core"}
    assert [case["name"] for case in result["cases"]] == [
        f"{format}, {phase}" for format in ("parquet", "tsv") for phase in ("before", "core taken", "core back")
    ]
    for case in result["cases"]:
        assert [engine["name"] for engine in case["engines"]] == ["rl", "hillclimb", names.BEST_STATIC]
        assert all(len(engine["samples"]) == 2 for engine in case["engines"])
        assert "byte for byte" in case["checks"][0]
    assert sum(plan["best"] for plan in result["static_plans"]) == 2
    assert len(result["series"]) == 2 * 2 * 3
    assert all(len(one["rows_per_s"]) == len(one["plans"]) == 10 for one in result["series"])
    changes = [each for each in result["intervals"] if each["name"] == names.RANDOM_CHANGES]
    assert [(each["section"], each["unit"], each["runs"]) for each in changes] == [("parquet", "%", 2), ("tsv", "%", 2)]
    assert {target["name"].split(":")[0].split(",")[0] for target in result["targets"]} == {"parquet", "tsv"}
    assert "best static plan" in run.said


@pytest.mark.slow
def test_scale(run: Run) -> None:
    result = run.of("scale")
    conforms(result, report.Report)
    assert result["skipped"] == {}
    found = {(case["section"], case["name"]): case for case in result["cases"]}
    rows = scale.TINY["rows"]
    for format in scale.FORMATS:
        case = found["rows", format]
        assert case["details"] == {f"{count:,} rows": float(count) for count in rows}
        assert [engine["name"] for engine in case["engines"]] == list(case["details"])
        assert len(found["threads", format]["engines"]) == len(scale._counts(result["machine"]["cores_usable"]))
        assert [e["name"] for e in found["batch size", format]["engines"]] == ["batches of 256", "batches of 4,096"]
    for section in ("features", "lists"):
        (case,) = (case for case in result["cases"] if case["section"] == section)
        assert all("add up to ig.transform's" in sentence for sentence in case["checks"])
        assert len(case["checks"]) == len(case["engines"]) == 2
    (training,) = (case for case in result["cases"] if case["section"] == "training")
    engines = {engine["name"]: engine["role"] for engine in training["engines"]}
    assert list(engines)[:2] == [names.OURS, names.BY_DALI]
    assert list(engines.values()) == ["ours", "ours", "peer", "bound"]
    assert any("DataLoader" in sentence for sentence in training["checks"])
    figures = {(one["section"], one["name"].split(": ")[-1]) for one in result["figures"]}
    assert figures >= {
        ("rows", "peak memory"),
        ("rows", "in flight"),
        ("rows", "rate of the second epoch"),
        ("training", "exposed wait"),
    }
    assert all(one["value"]["min"] > 30e6 for one in result["figures"] if one["name"].endswith("peak memory"))
    assert len(result["targets"]) == 6
    assert len([one for one in result["targets"] if "second epoch" in one["name"]]) == 2


@pytest.mark.slow
def test_what_cannot_run_here_is_said(run: Run) -> None:
    result = run.of("all")
    conforms(result, report.Report)
    assert (run.folder / "gpu.json").exists() != ("suite gpu" in result["skipped"])
    page = (run.folder / "report.md").read_text()
    for name, reason in result["skipped"].items():
        assert f"* all: {name}: {reason}" in page


@pytest.mark.slow
def test_the_page_has_every_case_and_says_that_it_is_tiny(run: Run) -> None:
    page = (run.folder / "report.md").read_text()
    assert "Tiny runs" in page
    for suite in ("cpu", "dali", "scale", "tuner"):
        assert f"## Suite `{suite}`" in page
        for case in run.of(suite)["cases"]:
            assert f"**{case['section']}: {case['name']}; " in page
    drawings = sorted((run.folder / "figures").iterdir())
    assert len(drawings) >= 12
    for path in drawings:
        ElementTree.parse(path)
        assert f"](figures/{path.name})" in page
