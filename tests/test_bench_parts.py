"""Fresh processes, the report in Markdown, all suites in one run, and two commits side by side."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest

from bench import against, everything, fresh, page, report, scale
from bench.harness import Case, Effort, Engine, measure
from tests.test_bench import ROOT

RESULTS = ROOT / "bench" / "results"


def forked(code: str) -> subprocess.CompletedProcess[str]:
    """Run code that uses `fresh` in a process of one thread: pytest's may have several."""
    lines = f"import os, sys\nfrom bench import fresh\n{code}\n"
    return subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_job_runs_in_a_process_of_its_own():
    done = forked(
        "big = lambda: [len(b'x' * (300 << 20)), os.getpid(), len(os.sched_getaffinity(0))]\n"
        "found = fresh.run(big, cores=1)\n"
        "small = fresh.run(os.getpid)\n"
        "assert found.result[0] == 300 << 20 and found.result[2] == 1\n"
        "assert len({os.getpid(), found.result[1], small.result}) == 3\n"
        "assert found.peak_bytes > small.peak_bytes + (250 << 20)\n"
        "assert small.peak_bytes < 100 << 20"
    )
    assert done.returncode == 0, done.stderr


def test_a_job_that_fails_or_dies_is_an_error():
    done = forked(
        "for job in (lambda: 1 // 0, lambda: os._exit(7), lambda: os.kill(os.getpid(), 9)):\n"
        "    try:\n"
        "        fresh.run(job)\n"
        "    except fresh.JobError as error:\n"
        "        print(error)\n"
    )
    first, second, third = done.stdout.splitlines()
    assert first == "ZeroDivisionError: integer division or modulo by zero"
    assert second == "its process ended with status 7"
    assert third == "its process was ended by signal 9"


def test_a_process_with_threads_is_not_forked():
    wait = threading.Event()
    other = threading.Thread(target=wait.wait)
    other.start()
    try:
        with pytest.raises(fresh.JobError, match="expected a process of one thread to fork"):
            fresh.run(os.getpid)
    finally:
        wait.set()
        other.join()


def test_ctrl_c_ends_a_job_and_its_children():
    code = (
        "import subprocess, time\n"
        "def job():\n"
        "    subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
        "fresh.run(job)"
    )
    lines = f"import os, sys\nfrom bench import fresh\n{code}\n"
    process = subprocess.Popen(
        [sys.executable, "-c", lines], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) == 2
    process.send_signal(signal.SIGINT)  # to the parent alone: it hands it on
    assert process.wait(30) != 0
    process.stdout.close()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not alive


def recorded(path: Path, suite: str, date: str, **more: Any) -> Path:
    """Write a report of one case."""
    engines = [Engine(name, "ours", "what it is", lambda: None) for name in ("10 | x", "20 columns")]
    points = {"10 | x": 10.0, "20 columns": 20.0}
    one = report.header(suite, tiny=False, seed=3, repeats=2)
    case = measure(Case("features", "ours", 1, 10, engines, lambda: ["equal"], points), Effort(2, 0.0))
    one["cases"].append(case)
    one["date"] = date
    report.save({**one, **more}, path)  # type: ignore[typeddict-item]
    return path


def newest(suite: str) -> Any:
    return max((report.read(path) for path in RESULTS.glob(f"*-{suite}.json")), key=lambda found: found["date"])


def test_the_page_of_results_of_both_versions(tmp_path, capsys):
    recorded(tmp_path / "new.json", "scale", "2026-12-01T00:00:00+00:00", skipped={"training, DALI": "is not there"})
    assert page.main([str(RESULTS), str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    cpu, tuner = newest("cpu"), newest("tuner")
    for case in cpu["cases"]:
        assert f"**{case['section']}: {case['name']}; " in text
    for target in cpu["targets"]:
        assert target["name"] in text
    assert "* scale: training, DALI: is not there" in text
    assert ("* Suite gpu: there are no results of it here." in text) == (not list(RESULTS.glob("*-gpu.json")))
    assert "10 \\| x" in text
    assert "`python -m bench --suite scale --sections features --repeats 2 --seed 3`" in text
    assert f"`python -m bench --suite tuner --runs {tuner['repeats']}`" in text
    shown = re.findall(r"!\[.*\]\((figures/.*\.svg)\)", text)
    assert {Path(name).name for name in shown} >= {
        "cpu-transform-roofline.svg",
        "memory-memory.svg",
        "scale-features.svg",
    }
    for name in shown:
        ElementTree.parse(tmp_path / "out" / name)
    assert len(shown) == len(list((tmp_path / "out" / "figures").iterdir()))
    assert "left out: 2026-11-23-tuner-simulated.json: expected a report" in capsys.readouterr().err


def test_the_same_results_give_the_same_page(tmp_path):
    recorded(tmp_path / "new.json", "scale", "2026-12-01T00:00:00+00:00")
    for name in "ab":
        page.main([str(tmp_path / "new.json"), "--out", str(tmp_path / name)])
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_newest_of_a_suite_counts(tmp_path):
    old = recorded(tmp_path / "z-old.json", "scale", "2026-11-01T00:00:00+00:00")
    new = recorded(tmp_path / "a-new.json", "scale", "2026-12-01T00:00:00+00:00")
    (found,), left_out = page.gather([new, old])
    assert found["date"].startswith("2026-12")
    assert left_out == ["z-old.json (there is a newer one of suite scale)"]


def test_no_results_are_one_sentence(tmp_path, capsys):
    assert page.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "expected results of at least one suite, found none" in capsys.readouterr().err


def test_a_suite_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        everything,
        "STEPS",
        (everything.Step("cpu", ("--rows", "0"), 1), everything.Step("scale", ("--sections", "lists", "--help"), 1)),
    )
    assert everything.main(everything.Args(only=("cpu", "scale"), out=tmp_path)) == 1
    result = report.read(tmp_path / "all.json")
    assert result["skipped"] == {"suite cpu": "FAILED: it ended with status 2"}
    assert "* all: suite cpu: FAILED: it ended with status 2" in (tmp_path / "report.md").read_text()
    said = capfd.readouterr().err
    assert "about 2 minutes on two cores: cpu 1, scale 1" in said
    assert "suite scale: python -m bench" in said


def test_ctrl_c_keeps_what_was_finished(tmp_path):
    command = [sys.executable, "-m", "bench", "--suite", "all", "--only", "cpu", "scale", "--out", str(tmp_path)]
    recorded(tmp_path / "cpu.json", "cpu", "2026-12-01T00:00:00+00:00")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "writing" in line:
            break
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == everything.STOPPED, rest
    assert "stopped by Ctrl-C; kept: cpu" in rest
    assert "* all: what has no results: stopped by Ctrl-C" in (tmp_path / "report.md").read_text()
    assert below
    assert not psutil.wait_procs(below, timeout=10)[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"rows": (0,)}, "--rows: expected numbers of at least 1, found (0,)"),
        ({"unit_rows": 0}, "--unit-rows: expected at least 1, found 0"),
    ],
)
def test_wrong_numbers_of_scale_are_refused(flags, words, capsys):
    assert scale.main(scale.Args(**flags)) == 2
    assert words in capsys.readouterr().err


def test_threads_go_up_to_all_cores():
    assert [scale._counts(cores) for cores in (1, 2, 3, 8, 12)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 8],
        [1, 2, 4, 8, 12],
    ]


def git(*arguments: object, folder: Path = ROOT) -> str:
    return subprocess.run(
        ["git", "-C", folder, *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_side_has_the_commits_package_and_this_bench():
    with against.side("HEAD") as folder:
        assert git("rev-parse", "HEAD", folder=folder) == git("rev-parse", "HEAD")
        assert str(folder) in git("worktree", "list")
        for path in (ROOT / "bench").glob("*.py"):
            assert (folder / "bench" / path.name).read_bytes() == path.read_bytes()
        code = "import intune_gpu, intune_gpu.kernels as k; print(intune_gpu.__file__); print(k.__file__)"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        assert all(Path(line).is_relative_to(folder) for line in done.stdout.split())
    assert not folder.exists()
    assert str(folder) not in git("worktree", "list")


def test_ctrl_c_removes_the_worktrees():
    command = [sys.executable, "-m", "bench.against", "HEAD", "HEAD", "--sections", "text", "--tiny"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "  warming up: base (HEAD)\n"
    while not (below := psutil.Process(process.pid).children(recursive=True)):
        time.sleep(0.01)
    places = [line.split()[0] for line in git("worktree", "list").splitlines() if "intune_gpu-against-" in line]
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 130
    assert rest == "against: stopped by Ctrl-C; the worktrees are removed\n"
    assert len(places) >= 2
    assert not [place for place in places if Path(place).exists()]
    assert not psutil.wait_procs(below, timeout=10)[1]


def test_this_tree_as_it_is_can_be_a_side():
    with against.side(against.HERE) as folder:
        for path in (ROOT / "intune_gpu").glob("*.py"):
            assert (folder / "intune_gpu" / path.name).read_bytes() == path.read_bytes()
        assert (folder / "intune_gpu" / "kernels").resolve() == (folder / "kernels").resolve()
    assert not folder.exists()


def test_a_commit_that_is_not_there_is_one_sentence(capsys):
    assert against.main(against.Args("no-such-commit", "HEAD")) == 2
    assert "against: git worktree add" in capsys.readouterr().err


def make_package(folder: Path) -> None:
    """Make a package that comes before an installed one of the same name, as a folder alone does not."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()


def stub(folder: Path, rates: list[float]) -> Path:
    """Make a side whose bench tells one rate after the other, and writes down when it ran."""
    make_package(folder / "tree" / "bench")
    recorded(folder / "tree" / "form.json", "cpu", "2026-12-01T00:00:00+00:00")
    (folder / "tree" / "bench" / "__main__.py").write_text(
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "form, log = json.loads(Path('form.json').read_text()), Path('log')\n"
        "before = log.read_text().splitlines() if log.exists() else []\n"
        f"rates = {rates!r}\n"
        "log.write_text('\\n'.join([*before, str(time.monotonic())]))\n"
        "for engine in form['cases'][0]['engines']:\n"
        "    engine['rows_per_s']['median'] = rates[len(before)]\n"
        "Path(sys.argv[sys.argv.index('--out') + 1]).write_text(json.dumps(form))\n"
    )
    return folder / "tree"


def test_commits_take_turns_and_the_first_round_does_not_count(tmp_path):
    sides = {
        "base": stub(tmp_path / "b", [1.0, 10.0, 20.0, 30.0]),
        "head": stub(tmp_path / "h", [9.0, 5.0, 10.0, 15.0]),
    }
    rates = against._in_turns(against.Args("a", "b", rounds=3), sides)
    found = against.compared(rates)
    assert [one["engine"] for one in found] == ["10 | x", "20 columns"]
    assert found[0]["rounds"] == [0.5, 0.5, 0.5]
    assert (found[0]["ratio"], found[0]["low"], found[0]["high"]) == (0.5, 0.5, 0.5)
    times = {name: [float(t) for t in (folder / "log").read_text().splitlines()] for name, folder in sides.items()}
    order = [name for _, name in sorted((t, name) for name, each in times.items() for t in each)]
    assert order == ["base", "head", "head", "base", "base", "head", "head", "base"]


def test_only_what_is_clearly_slower_fails():
    def one(ratio: float, high: float) -> dict[str, Any]:
        return {"section": "text", "name": "x", "engine": "ours", "ratio": ratio, "high": high}

    found = [one(0.90, 0.94), one(0.90, 1.02), one(0.96, 0.97)]
    assert against.slower_than(found, 0.95) == [found[0]]
    assert against.slower_than(found, None) == []


def test_a_bench_that_fails_is_told(tmp_path):
    make_package(tmp_path / "tree" / "bench")
    (tmp_path / "tree" / "bench" / "__main__.py").write_text("raise SystemExit('no such case')")
    with pytest.raises(against.AgainstError, match="ended with status 1: no such case"):
        against._measured(against.Args("a", "b"), tmp_path / "tree")
