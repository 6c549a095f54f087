"""The suite `peers`: what it refuses, what it says of peers that are not there, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bench import names, report
from bench.harness import CheckError
from bench.peers import data, environments, judging, processes, reference, rounds, suite, table
from bench.peers.child import Child, EngineError
from bench.peers.environments import Environment, NoEnvironmentError
from bench.peers.rounds import Case, Runner
from bench.peers.table import Engine
from tests.test_bench import ROOT, conforms

CORES = sorted(os.sched_getaffinity(0))[:1]
JOB = """
import sys, time, os, subprocess
import numpy as np
sys.path.insert(0, {root!r})
from bench.peers.serving import serve

class Job:
    def __init__(self, threads):
        self.child = subprocess.Popen(["sleep", "600"])
    def variants(self, spec):
        return {{"slow": lambda: self.batches(spec, 0.02), "fast": lambda: self.batches(spec, 0.0)}}
    def batches(self, spec, wait):
        {before}
        with np.load({data!r}) as file:
            dense, ids, lengths, label = (file[name] for name in ("dense", "ids", "lengths", "label"))
        {wrong}
        time.sleep(wait)
        yield dense, ids, lengths, label
    def arrays(self, batch):
        return batch
    def close(self):
        pass

serve(["numpy"], Job)
"""


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Return 300 rows with missing fields, a negative integer, and few distinct ids."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"label": pa.array(rng.integers(0, 2, 300), pa.int32())}
    for name in data.DENSE:
        columns[name] = pa.array(rng.integers(-2, 1000, 300), pa.int32(), mask=rng.random(300) < 0.1)
    for name in data.SPARSE:
        words = [f"{word:08x}" for word in rng.integers(0, 2**32, 40)]
        columns[name] = pa.array(rng.choice(words, 300), pa.string(), mask=rng.random(300) < 0.1)
    return data.numbered(pa.table(columns), 2)


def outputs(table: pa.Table, format: str, order: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a right engine gives, its rows in some order."""
    wanted = reference.expected(data.as_format(table, format, 0), format, 0)
    ids = []
    for feature, lengths in zip(wanted.buckets, wanted.lengths, strict=True):
        ends = np.cumsum(lengths)
        ids += [feature[ends[row] - lengths[row] : ends[row]] for row in order]
    dense = np.log1p(np.maximum(wanted.integers, 0)).astype(np.float32)[order]
    return {
        "dense": dense,
        "ids": np.concatenate(ids),
        "lengths": wanted.lengths[:, order],
        "label": wanted.label[order],
    }


def engine(folder: Path, found: dict[str, np.ndarray], before: str = "", wrong: str = "", **options: Any) -> Engine:
    """Return an engine that gives what stands in arrays."""
    number = len(list(folder.glob("job-*.py")))
    np.savez(folder / f"{number}.npz", **{**found, "lengths": found["lengths"].reshape(-1)})
    script = folder / f"job-{number}.py"
    words = {
        "root": str(ROOT),
        "data": str(folder / f"{number}.npz"),
        "before": before or "pass",
        "wrong": wrong or "pass",
    }
    script.write_text(JOB.format(**words))
    return Engine(f"job-{number}", f"engine {number}", "peer", (str(script),), "a test", **{"ids": "xxh64", **options})


def case_of(table: pa.Table, format: str, folder: Path) -> Case:
    written = data.write(table, format, folder / f"files-{format}", 0, 2)
    wanted = reference.expected(data.as_format(table, format, 0), format, 0)
    return Case(format, 1, written, written, wanted, 64, 0, folder)


def test_engines_are_checked_tuned_and_run_in_turn(rows: pa.Table, tmp_path: Path) -> None:
    case = case_of(rows, "parquet-lists", tmp_path)
    right = outputs(rows, "parquet-lists", np.random.default_rng(1).permutation(300))
    one, two = engine(tmp_path, right), engine(tmp_path, right)
    with Child(one, Path(sys.executable), CORES, tmp_path) as a, Child(two, Path(sys.executable), CORES, tmp_path) as b:
        runners = []
        for child in (a, b):
            child.wait_until_ready()
            assert child.versions == {"numpy": np.__version__}
            runners.append(Runner(child))
            checks = rounds.prepare(case, runners[-1], 0.0)
            assert len(checks) == 2  # each way is checked
            assert "labels and lengths of 300 rows equal" in checks[0]
            assert runners[-1].variant == "fast"
        assert rounds.run(case, runners, 3) == {}
        record = rounds.record(case, runners, checks)
        figures = rounds.waits(case, runners) + rounds.idles(case, runners)
        assert a.ask({"do": "run", "spec": case.spec(one, case.whole), "variant": "fast", "passes": 2})["rows"] == 600
        with pytest.raises(EngineError, match="engine 0: KeyError: 'none'"):
            a.ask({"do": "run", "spec": case.spec(one, case.whole), "variant": "none", "passes": 1})
        below = processes.descendants(a.pid) + processes.descendants(b.pid)
        assert len(below) == 2  # each one's sleep
        assert processes.pss_bytes(a.pid) > 1 << 20
    assert not any(alive(pid) for pid in (a.pid, b.pid, *below))
    conforms(record, report.CaseRecord)
    for one_figure in figures:
        conforms(one_figure, report.Figure)
    assert [e["name"] for e in record["engines"]] == ["engine 0", "engine 1"]
    assert [len(e["samples"]) for e in record["engines"]] == [3, 3]
    assert record["details"]["ids_per_row"] == case.wanted.lengths.sum() / 300
    assert "chosen here: fast" in record["engines"][0]["note"]
    assert len(figures) == 4


@pytest.mark.parametrize(
    ("format", "spoil", "words"),
    [
        ("tsv", {"dense": (5, 3)}, "dense: row 5, I4: expected"),
        ("tsv", {"label": (7,)}, "labels: 1 of 300 values differ, the first at 7"),
        ("parquet-int", {"ids": (4 * 300 + 9,)}, "ids of C5: 1 of 300 values differ, the first at 9"),
        ("parquet-lists", {"lengths": (3, 4)}, "lengths: "),
        ("tsv", {"dense": (8, 0)}, "rows, by number: "),
    ],
)
def test_a_wrong_engine_is_refused(rows: pa.Table, tmp_path: Path, format: str, spoil: Any, words: str) -> None:
    wanted = reference.expected(data.as_format(rows, format, 0), format, 0)
    found = outputs(rows, format, np.arange(300))
    right = Engine("x", "x", "peer", (), "", ids="xxh64")
    np.savez(tmp_path / "right.npz", **found)
    reference.check(right, format, tmp_path / "right.npz", wanted)
    ((name, at),) = spoil.items()
    found[name][at] += 1
    np.savez(tmp_path / "wrong.npz", **found)
    with pytest.raises(CheckError, match=words):
        reference.check(right, format, tmp_path / "wrong.npz", wanted)


def test_a_hash_of_ones_own_must_be_one(rows: pa.Table, tmp_path: Path) -> None:
    wanted = reference.expected(rows, "tsv", 0)
    own = Engine("x", "x", "peer", (), "", ids="own")

    def check(ids: np.ndarray) -> str:
        np.savez(tmp_path / "own.npz", **{**found, "ids": ids})
        return reference.check(own, "tsv", tmp_path / "own.npz", wanted)

    found = outputs(rows, "tsv", np.arange(300))
    right = found["ids"]
    assert "are a hash of them" in check(right)
    with pytest.raises(CheckError, match="missing ids of C1"):
        check(np.where(right == 0, 1, right))
    with pytest.raises(CheckError, match="ids of C1: expected 0 to 99999"):
        check(right * 100_000)
    with pytest.raises(CheckError, match="ids of C1: expected about 40 for 40 numbers, found 5"):
        check(np.where(right == 0, 0, right % 5 + 1))
    with pytest.raises(CheckError, match="expected one for each of 40 numbers"):
        check(np.where(right == 0, 0, np.arange(len(right)) % 99_999 + 1))


def test_ids_modulo_the_buckets_and_logs_from_the_least(rows: pa.Table, tmp_path: Path) -> None:
    for format in ("tsv", "parquet-int"):
        wanted = reference.expected(data.as_format(rows, format, 0), format, 0)
        ids = np.concatenate([np.where(m, 0, i) for i, m in zip(wanted.ids, wanted.missing, strict=True)])
        signed = ids.astype(np.uint32).view(np.int32) if format == "parquet-int" else ids
        found = outputs(rows, format, np.arange(300))
        found |= {"ids": signed % 100_000, "dense": np.log(wanted.integers - wanted.integers.min() + 2)}
        np.savez(tmp_path / "scripts.npz", **found)
        scripts = Engine("x", "x", "peer", (), "", ids="modulo", dense="least")
        assert "modulo 100,000" in reference.check(scripts, format, tmp_path / "scripts.npz", wanted)
        with pytest.raises(CheckError):
            reference.check(replace(scripts, dense="log1p"), format, tmp_path / "scripts.npz", wanted)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("os._exit(7)", "engine 0: died with status 7: it wrote nothing"),
        ("print('no memory', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)", "died with status -9: no memory"),
        ("time.sleep(600)", "engine 0: gave no answer in 1 s"),
        ("raise ValueError('no such column')", "engine 0: ValueError: no such column"),
    ],
)
def test_an_engine_that_dies_hangs_or_fails_says_so(rows: pa.Table, tmp_path: Path, before: str, words: str) -> None:
    case = case_of(rows, "tsv", tmp_path)
    bad = engine(tmp_path, outputs(rows, "tsv", np.arange(300)), before)
    with Child(bad, Path(sys.executable), CORES, tmp_path) as child:
        child.wait_until_ready()
        below = processes.descendants(child.pid)
        assert len(below) == 1
        with pytest.raises(EngineError, match=words):
            child.ask({"do": "tune", "spec": case.spec(bad, case.whole)}, 1.0)
    assert not any(alive(pid) for pid in (child.pid, *below))


def test_who_fails_in_a_round_is_left_out_with_its_reason(rows: pa.Table, tmp_path: Path) -> None:
    case = case_of(rows, "tsv", tmp_path)
    right = outputs(rows, "tsv", np.arange(300))
    engines = [engine(tmp_path, right), engine(tmp_path, right, wrong="dense, label = dense[1:], label[1:]")]
    a, b = (Child(each, Path(sys.executable), CORES, tmp_path) for each in engines)
    with a, b:
        a.wait_until_ready()
        b.wait_until_ready()
        failed = rounds.run(case, [Runner(a, "fast"), Runner(b, "fast")], 2)
    assert failed == {"engine 1": "engine 1: expected 300 rows of a run, found 299"}


def test_memory_and_start_of_a_process_of_its_own(rows: pa.Table, tmp_path: Path) -> None:
    case = case_of(rows, "tsv", tmp_path)
    large = engine(tmp_path, outputs(rows, "tsv", np.arange(300)), "held = np.ones(25_000_000); time.sleep(0.3)")
    peak, start = rounds.alone(case, large, Path(sys.executable), CORES, "fast")
    assert peak["value"]["median"] > 200e6
    assert peak["unit"] == "bytes"
    assert 0.3 < start["value"]["median"] < 120
    assert peak["name"] == "tsv, 1 thread: engine 0: peak memory"


def test_environments_that_are_not_there_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    some = Environment("some", ("a==1",))
    assert some.folder.parent == tmp_path / "intune_gpu" / "peers"
    assert some.folder != Environment("some", ("a==2",)).folder
    with pytest.raises(NoEnvironmentError, match="--no-install"):
        environments.prepare(some, False, said.append)
    nothing = Environment("nothing", (f"{tmp_path}/no-such-package.whl",))
    with pytest.raises(NoEnvironmentError, match=r"ERROR: .*no-such-package"):
        environments.prepare(nothing, True, said.append)
    assert len(said) == 1
    with pytest.raises(NoEnvironmentError, match="tried before"):
        environments.prepare(nothing, True, said.append)
    assert len(said) == 1
    empty = Environment("empty", ())
    empty.folder.mkdir(parents=True)
    (empty.folder / "ready").touch()
    assert environments.prepare(empty, False, said.append) == empty.python

    whole = suite.Suite(suite.Args(install=False))
    found = whole._engines()
    assert {engine.key for engine in found} == {e.key for e in table.ENGINES if e.environment is None}
    assert set(whole.result["skipped"]) == {"tf.data", "Ray Data", "pandas", "NVTabular", "RecIS"}
    assert "--no-install" in whole.result["skipped"]["tf.data"]


@pytest.mark.slow
def test_a_tiny_run_measures_and_reports(tmp_path: Path) -> None:
    out = tmp_path / "peers.json"
    command = [sys.executable, "-m", "bench", "--suite", "peers", "--tiny", "--out", str(out)]
    command += ["--engines", "ours", "dataloader", "tf", "--formats", "tsv", "parquet-lists"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    conforms(result, report.Report)
    assert result["suite"] == "peers"
    assert "tiny" in result["skipped"].pop("tf.data")
    assert set(result["skipped"]) == {"NVTabular", "RecIS"}
    assert [case["name"] for case in result["cases"]] == ["tsv", "parquet-lists"]
    for case in result["cases"]:
        assert [e["name"] for e in case["engines"]] == [table.OURS, table.DATALOADER]
        assert len(case["checks"]) == 1 + 2  # every way of each
        assert [ratio["other"] for ratio in case["ratios"]] == [table.DATALOADER]
    assert len([f for f in result["figures"] if f["name"].endswith("time to first batch")]) == 2 * 2
    assert any("over every peer" in target["name"] for target in result["targets"])


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--suite", "peers", "--tiny", "--engines", "ours", "--formats", "tsv"]
    run = subprocess.Popen(
        [*command, "--repeats", "100000"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert run.stderr is not None
    for line in run.stderr:
        if "starting" in line:
            break
    deadline = time.monotonic() + 30
    while not (below := processes.descendants(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert below
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode != 0
    assert not any(alive(pid) for pid in below)
    assert not list(tmp_path.glob("intune_gpu-bench-*"))


def test_wrong_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for args, words in (
        (suite.Args(rows=0), "--rows: expected at least 1, found 0"),
        (suite.Args(threads=()), "--threads: expected at least 1, found none"),
        (suite.Args(engines=("tf",)), "--engines: expected ours"),
        (suite.Args(engines=("ours", "dask")), "--engines: expected ours"),
    ):
        assert suite.main(args) == 2
        assert words in capsys.readouterr().err


def test_a_real_file_must_be_criteo_text(tmp_path: Path) -> None:
    path = tmp_path / "real.tsv"
    path.write_text("\t".join(["1", *["3"] * 12, "", *["0badcafe"] * 25, ""]) + "\n")
    read = data.real(path, 5)
    assert read.num_rows == 1
    assert read.column("I13")[0].as_py() is read.column("C26")[0].as_py() is None
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match=r"--data: .*expected Criteo text of 40 fields"):
        data.real(path, 5)


def test_targets_are_judged_by_the_closest_peer() -> None:
    def case(name: str, speeds: dict[str, float]) -> Any:
        ratios = [{"ours": table.OURS, "other": other, "speed": {"median": speed}} for other, speed in speeds.items()]
        roles = {table.OURS: "ours", table.FIRST_SIGHT: "ours", table.OURS_DALI: "ours"}
        engines = [{"name": each, "role": roles.get(each, "peer")} for each in (table.OURS, *speeds)]
        return {"name": name, "threads": 2, "engines": engines, "ratios": ratios}

    speeds = {table.FIRST_SIGHT: 1.1, table.OURS_DALI: 1.2, table.TENSORFLOW: 9.0, table.POLARS: 3.5}
    found = judging.judge([case("tsv", speeds), case("parquet-int", {table.TENSORFLOW: 2.0})])
    assert [(t["name"], t["wanted"], t["met"]) for t in found] == [
        ("peers, tsv, 2 threads: over tf.data", 10.0, False),
        (f"peers, tsv, 2 threads: over {table.POLARS}", 3.0, True),
        (f"peers, tsv, 2 threads: over every peer ({table.POLARS} is closest)", 2.29, True),
        ("peers, parquet-int, 2 threads: over every peer (tf.data is closest)", 2.29, False),
    ]
    assert names.OURS == table.OURS


def alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
