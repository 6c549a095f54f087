"""What the bench is made of: harness, checks, peers, targets, reports. No test here looks at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np
import pytest
import xxhash

from bench import __main__ as bench_main
from bench import checks, names, numpy_text, report, targets, tuner_report, worker
from bench.clicks import DENSE, SPARSE, clicks_from_arrow, random_clicks
from bench.harness import Case, CheckError, Effort, Engine, measure, spread
from bench.numpy_peer import NumpyTransform, Output, feature_seeds, xxh64, xxh64_words
from tests import naive

ROOT = Path(__file__).resolve().parent.parent


def conforms(value: Any, kind: Any, where: str = "report") -> None:
    """Assert that a JSON value is what a TypedDict, list, dict, union or plain type says."""
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        assert set(value) == set(hints), where
        for name, hint in hints.items():
            conforms(value[name], hint, f"{where}.{name}")
    elif get_origin(kind) is list:
        assert isinstance(value, list), where
        for i, item in enumerate(value):
            conforms(item, get_args(kind)[0], f"{where}[{i}]")
    elif get_origin(kind) is dict:
        for name, item in value.items():
            conforms(item, get_args(kind)[1], f"{where}[{name!r}]")
    elif isinstance(kind, UnionType):
        one, none = get_args(kind)
        assert none is NoneType, where
        if value is not None:
            conforms(value, one, where)
    elif isinstance(kind, type):
        assert isinstance(value, (int, float) if kind is float else kind), where
    else:
        assert value in get_args(kind), where  # a Literal


def test_engines_alternate_after_the_check_and_the_warm_up():
    calls: list[str] = []
    engines = [Engine(name, "peer", "", lambda name=name: calls.append(name)) for name in "AB"]

    def check() -> list[str]:
        calls.append("check")
        return ["equal"]

    record = measure(Case("text", "x", 1, 10, engines, check, {}), Effort(repeats=3, min_sample_s=0.0))
    assert "".join(calls) == "checkAABBABABAB"
    assert [e["name"] for e in record["engines"]] == ["A", "B"]
    assert [r["other"] for r in record["ratios"]] == ["B"]
    assert record["checks"] == ["equal"]


def test_nothing_is_timed_when_a_check_fails():
    def run() -> None:
        raise AssertionError("was run")

    def check() -> list[str]:
        raise CheckError("ids differ")

    with pytest.raises(CheckError, match="ids differ"):
        measure(Case("text", "x", 1, 10, [Engine("A", "ours", "", run)], check, {}), Effort(1, 0.0))


def test_a_failed_check_ends_the_bench_with_status_1(tmp_path, monkeypatch, capfd):
    def check() -> list[str]:
        raise CheckError("ids differ")

    failing = Case("transform", "x", 1, 10, [], check, {})
    task = worker.Task(1, {"transform": 10}, {}, 0, Effort(1, 0.0))
    monkeypatch.setattr(worker, "cases", lambda task: iter([failing]))
    monkeypatch.setattr(worker.os, "sched_setaffinity", lambda pid, cores: None)
    monkeypatch.setattr(sys, "argv", ["worker", task.to_json(), str(tmp_path / "out.json")])
    assert worker.main() == worker.CHECK_FAILED
    assert "the check of transform, x failed: ids differ" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())

    monkeypatch.setattr(bench_main, "_run", lambda task, folder, tiny: ([], worker.CHECK_FAILED))
    out = tmp_path / "bench.json"
    assert bench_main.main(bench_main.Args(sections=("transform",), out=out)) == 1
    assert "a check failed" in capfd.readouterr().err
    assert not out.exists()


def test_a_pass_of_other_rows_is_scaled_to_the_cases():
    engines = [Engine("A", "ours", "", lambda: None), Engine("B", "ours", "", lambda: None, rows=5)]
    taken = iter(range(1, 100))

    def sample(engine: Engine, passes: int) -> Any:
        seconds = float(next(taken)) if engine.name == "A" else 2.0
        return {"seconds": seconds, "cpu_seconds": seconds / 2}

    case = measure(Case("features", "x", 1, 20, engines, list, {}), Effort(2, 0.0), sample)
    assert [s["seconds"] for s in case["engines"][1]["samples"]] == [8.0, 8.0]
    assert case["engines"][1]["rows_per_s"]["median"] == 2.5
    assert case["engines"][1]["cpu_s_per_m_rows"] == pytest.approx(4.0 / 20 * 1e6)
    assert case["ratios"][0]["speed"]["max"] == 8.0 / case["engines"][0]["samples"][0]["seconds"]


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "results").glob("*.json")), ids=lambda path: path.name)
def test_results_of_every_version_can_be_read(path):
    written = json.loads(path.read_text())
    if "suite" not in written and "epochs" not in written:
        with pytest.raises(ValueError, match="expected a report of version 1 or 2"):
            report.read(path)
        return
    found = report.read(path)
    kind = tuner_report.TunerReport if found["suite"] == "tuner" else report.Report
    conforms(found, kind)
    assert found["schema_version"] == report.SCHEMA_VERSION
    assert found["cases"] or found["figures"]


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "x.json"
    report.save(report.header("cpu", tiny=True, seed=0, repeats=1) | {"schema_version": 3}, path)
    with pytest.raises(ValueError, match=r"x.json: expected a report of version 1 or 2, found version 3"):
        report.read(path)


def test_figures_and_gaps_are_lines():
    found = report.header("scale", tiny=True, seed=0, repeats=1)
    conforms(found, report.Report)
    found["figures"].append(report.figure("rows", "peak memory", "bytes", [3.0, 1.0, 2.0], "of all"))
    found["skipped"]["training, DALI"] = "is not installed"
    assert report.lines(found) == [
        "rows: peak memory: 2 bytes (1 to 3); of all",
        "skipped: training, DALI: is not installed",
    ]


@pytest.mark.parametrize(
    ("arguments", "suite"),
    [(["--suite", "gpu", "--tiny"], "gpu"), (["--tiny", "--suite=scale"], "scale"), ([], None), (["--suite"], None)],
)
def test_the_suite_that_is_asked_for(arguments, suite):
    assert bench_main.asked(arguments) == suite


def test_a_task_survives_its_way_to_the_worker():
    task = worker.Task(2, {"text": 5, "parquet": 6}, {"text": {"Criteo TSV": "/x"}}, 7, Effort(3, 0.2))
    assert worker.Task.from_json(task.to_json()) == task


@pytest.mark.parametrize("flag", ["rows", "repeats"])
def test_a_count_below_one_is_refused(flag, capsys):
    assert bench_main.main(bench_main.Args(**{flag: 0})) == 2
    assert f"--{flag}: expected at least 1, found 0" in capsys.readouterr().err


def test_spread_of_one_and_of_five_values():
    assert set(spread([3.0]).values()) == {3.0}
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == {"median": 3.0, "min": 1.0, "q1": 2.0, "q3": 4.0, "max": 5.0}


def test_numpys_hash_is_xxh64():
    rng = np.random.default_rng(0)
    values = np.concatenate([[0, 1, -1, 5, 2**63 - 1, -(2**63)], rng.integers(-(2**63), 2**63 - 1, 500)]).astype(
        np.int64
    )
    for seed in (0, 1, 2**64 - 1, 0x123456789ABCDEF):
        words = values.view(np.uint64).copy()
        xxh64_words(words, np.array([seed], np.uint64), np.empty_like(words))
        wanted = np.array([xxhash.xxh64_intdigest(v.tobytes(), seed) for v in values], np.uint64)
        np.testing.assert_array_equal(words >> np.uint64(32), wanted >> np.uint64(32))
        for text in ("", "C1", "label", "cöl", "seven 7", "eight 88", "a name of thirty-one characters"):
            assert xxh64(text.encode(), seed) == xxhash.xxh64_intdigest(text.encode(), seed)
    assert feature_seeds(3).tolist() == [naive.feature_seed(name, 3) for name in SPARSE]
    with pytest.raises(ValueError, match="less than 32 bytes"):
        xxh64(bytes(32), 0)


@pytest.mark.parametrize("id_dtype", ["int32", "int64"])
def test_numpys_transform_is_the_naive_one(id_dtype):
    clicks = random_clicks(300, id_dtype, 5)
    out = Output.empty(200, "int64")
    NumpyTransform(9).run(clicks, 50, 250, out)
    for i, name in enumerate(SPARSE):
        seed = naive.feature_seed(name, 9)
        column = [None if m else int(v) for v, m in zip(clicks.ids[i], clicks.missing[13 + i], strict=True)]
        assert out.ids[i].tolist() == [naive.hash_bucket(v, 100_000, 1, seed) for v in column[50:250]]
    assert checks.ulps(out.dense, checks.exact_dense(clicks, 50, 250)) <= checks.PEER_MAX_ULP
    np.testing.assert_array_equal(out.label, clicks.label[50:250])


def test_missing_values_are_as_many_as_promised():
    clicks = random_clicks(20_000, "int32", 1)
    rates = clicks.missing.mean(axis=1)
    assert rates.min() > 0.04
    assert rates.max() < 0.16


def test_arrow_and_back_gives_the_same_clicks():
    clicks = random_clicks(1_000, "int32", 2)
    back = clicks_from_arrow(clicks.arrow())
    np.testing.assert_array_equal(back.missing, clicks.missing)
    np.testing.assert_array_equal(back.label, clicks.label)
    np.testing.assert_array_equal(back.ids, np.stack(clicks.ids).view(np.uint32))
    np.testing.assert_array_equal(back.integers, clicks.integers)


def test_numpys_parser_reads_criteo_text():
    rows = [
        ["1", *(str(v) for v in (0, -2, 7, 99999999, -9999999, 10, 3, 4, 5, 6, 7, 8, 12345)), *["68fd1e64"] * 26],
        ["0", *[""] * 13, *[""] * 26],
        ["1", "", *["1"] * 12, "ffffffff", "00000000", "0000ABCD", *["deadbeef"] * 22, ""],
    ]
    text = "".join("\t".join(row) + "\n" for row in rows).encode()
    clicks = numpy_text.parse(text)
    assert clicks.label.tolist() == [1, 0, 1]
    for r, row in enumerate(rows):
        for i in range(len(DENSE)):
            assert clicks.missing[i, r] == (row[1 + i] == "")
            assert row[1 + i] == "" or clicks.integers[i][r] == int(row[1 + i])
        for i in range(len(SPARSE)):
            assert clicks.missing[13 + i, r] == (row[14 + i] == "")
            assert row[14 + i] == "" or clicks.ids[i][r] == int(row[14 + i], 16)
    with pytest.raises(ValueError, match="lines of 40 fields"):
        numpy_text.parse(text.replace(b"\t", b"", 1))


def test_checks_find_what_differs():
    exact = np.array([0.5, 1.0, -0.0], np.float32)
    two_off = np.nextafter(np.nextafter(exact, np.float32(9)), np.float32(9))
    assert checks.ulps(exact, np.abs(exact)) == 0
    with pytest.raises(CheckError, match=r"A: dense features: expected at most 1 ulp from float64, found 2"):
        checks.check_dense("A", two_off, exact, 1)
    with pytest.raises(CheckError, match="finite"):
        checks.check_dense("A", np.array([np.nan] * 3, np.float32), exact, 1)
    with pytest.raises(CheckError, match=r"A: ids: 1 of 3 values differ, the first at 2: expected 3, found 4"):
        checks.check_equal("A", "ids", np.array([1, 2, 4]), np.array([1, 2, 3]))
    with pytest.raises(CheckError, match="shape"):
        checks.check_equal("A", "ids", np.array([1, 2]), np.array([1, 2, 3]))


def test_which_is_faster_is_said():
    def engine(name: str, seconds: list[float]) -> dict[str, Any]:
        samples = [{"seconds": s, "cpu_seconds": s} for s in seconds]
        return {"name": name, "passes": 1, "samples": samples, "rows_per_s": spread([1e6 / s for s in seconds])}

    for theirs, words in (
        ([0.5, 1.0, 2.0], "Loader is faster; DALIRecIterator 2,000 µs a batch, Loader 1,000, rate over rate 0.50"),
        (
            [2.0, 4.0, 8.0],
            "DALIRecIterator is faster; DALIRecIterator 2,000 µs a batch, Loader 4,000, rate over rate 2.00",
        ),
        ([0.5, 2.0, 8.0], "neither is faster; DALIRecIterator 2,000 µs a batch, Loader 2,000, rate over rate 1.00"),
    ):
        case: Any = {
            "section": "dali",
            "name": "batches of 1,000",
            "threads": 2,
            "details": {"batch_rows": 1000.0},
            "engines": [engine(names.DALI, [1.0, 2.0, 4.0]), engine(names.NATIVE, theirs)],
        }
        (sentence,) = targets.compared([case])
        assert sentence.startswith(f"dali, batches of 1,000, 2 threads: {words} (")
        assert targets.judge([case]) == []


def test_targets_take_the_median_of_paired_ratios():
    def engine(name: str, seconds: list[float]) -> dict[str, Any]:
        samples = [{"seconds": s, "cpu_seconds": s} for s in seconds]
        return {"name": name, "passes": 2, "samples": samples}

    case: Any = {
        "section": "parquet",
        "name": "integer ids",
        "threads": 2,
        "engines": [
            engine(names.OURS, [1.0, 2.0, 4.0]),
            engine(names.POLARS, [0.7, 1.6, 3.6]),
            engine(names.PYARROW, [1.0, 2.0, 4.0]),
        ],
    }
    (target,) = targets.judge([case])
    assert target["name"] == "parquet, integer ids, 2 threads: over the faster bare read (Polars)"
    assert target["wanted"] == 0.75
    assert target["found"] == pytest.approx(0.8)
    assert target["met"]
