"""`intune-gpu doctor` on this machine, and on machines that lack things or have them broken.

What is broken stands in a folder ahead of the environment's own packages; what is absent is left out of an environment
that is made of links. Each doctor is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intune_gpu.cli.doctor import nvml
from intune_gpu.cli.findings import Finding, packages, pairing, python
from intune_gpu.cli.probe import ask
from intune_gpu.core.pairing import TRIPLES, misfits
from tests.fake_driver import make_driver
from tests.telemetry.fake_nvml import make_library

ROOT = Path(__file__).parents[2]
NAMES = ["python", "packages", "pairing", "import", "gpu", "compiler", "nvml", "dali"]
NAMES += ["cores", "memory", "cache", "signals"]
TORCH = """
__version__ = "{version}"
class version:
    cuda = {cuda}
class cuda:
    is_available = staticmethod(lambda: False)
"""
BROKEN = {  # so that no test waits for them to be imported
    "numba_cuda": "raise OSError('libnvvm.so.4: no such file')",
    "nvidia": "raise ImportError('not this time')",
}

Doctor = Callable[..., tuple[int, dict[str, Finding], dict[str, Any]]]


def package(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)


def distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """A function that runs the doctor: (exit code, findings by name, the whole document).

    Its arguments are packages to break, by name; versions of distributions to pretend; and environment variables.
    """

    def examine(
        broken: dict[str, str] | None = None,
        versions: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        interpreter: str | Path = sys.executable,
    ) -> tuple[int, dict[str, Finding], dict[str, Any]]:
        folder = tmp_path / "ahead"
        folder.mkdir()
        for name, source in (broken or {}).items():
            package(folder, name, source)
        for name, version in (versions or {}).items():
            distribution(folder, name, version)
        env = {**os.environ, **(variables or {}), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        command = [interpreter, "-m", "intune_gpu", "doctor", "--json"]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        document = json.loads(done.stdout)
        findings = {each["name"]: Finding(**each) for each in document["findings"]}
        assert document["ok"] == (done.returncode == 0) == all(f.state != "fault" for f in findings.values())
        assert all(f.cure for f in findings.values() if f.state == "fault")
        return done.returncode, findings, document

    return examine


def test_the_versions_that_are_here() -> None:
    assert [look().state for look in (python, packages, pairing)] == ["ok", "ok", "ok"]
    assert pairing().found.endswith("they belong together")


@pytest.mark.nightly
def test_this_machine(doctor: Doctor) -> None:
    code, findings, document = doctor()
    assert list(findings) == NAMES
    assert (code, document["ok"]) == (0, True)
    assert findings["import"] == Finding("import", "ok", "torch, fbgemm_gpu, torchrec can be imported")
    assert findings["dali"].found.startswith("DALI 2.")
    assert findings["compiler"].state == "ok"
    assert document["versions"]["numpy"] == __import__("numpy").__version__


def test_what_is_absent_is_told_with_what_to_install(doctor: Doctor, tmp_path: Path) -> None:
    lacking = make_environment(tmp_path, without=("torch", "fbgemm", "numba_cuda", "_numba_cuda", "nvidia_dali"))
    code, findings, document = doctor(interpreter=lacking)
    assert code == 1
    pair = findings["pairing"]
    assert (pair.state, pair.found.partition(":")[0]) == ("fault", "torch absent, torchrec absent, fbgemm absent")
    assert pair.cure is not None
    assert pair.cure.startswith("pip install torch==2.13.0 fbgemm-gpu-cpu==1.8.0 && pip install --no-deps torchrec==")
    assert "import" not in findings
    assert "numba-cuda is not installed" in findings["compiler"].found
    assert findings["compiler"].state == findings["dali"].state == "ok"
    assert document["versions"]["torch"] is None


def test_a_broken_fbgemm_beside_the_wrong_torchrec(doctor: Doctor) -> None:
    broken = {
        "torch": TORCH.format(version="2.13.0", cuda=None),
        "fbgemm_gpu": "raise OSError('libcuda.so.1: cannot open shared object file')",
        **BROKEN,
    }
    code, findings, _ = doctor(broken, {"torchrec": "1.9.0", "psutil": "1.0", "nvidia-dali-cuda130": "1.5"})
    assert code == 1
    assert findings["pairing"].found.startswith("expected torchrec 1.8.0 beside torch 2.13, found torch 2.13.0")
    assert "pip install --no-deps torchrec==1.8.0" in str(findings["pairing"].cure)
    assert findings["import"].state == "fault"
    assert "fbgemm_gpu cannot be imported (libcuda.so.1: cannot open" in findings["import"].found
    assert findings["packages"].found == "expected psutil>=7.0, found 1.0"
    assert findings["packages"].cure == 'pip install "psutil>=7.0"'
    assert (findings["compiler"].state, findings["dali"].state) == ("warn", "warn")
    assert "libnvvm.so.4: no such file" in findings["compiler"].found
    assert "expected nvidia-dali-cuda130<3,>=2.4, found 1.5" in findings["dali"].found


def test_a_package_that_crashes_ends_nothing_else(tmp_path: Path) -> None:
    """And the table for people."""
    for name, source in {"torch": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", **BROKEN}.items():
        package(tmp_path, name, source)
    distribution(tmp_path, "torch", "2.99[b]")  # no markup of rich's
    (tmp_path / "file").touch()
    paths = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "XDG_CACHE_HOME": str(tmp_path / "file")}
    command = [sys.executable, "-m", "intune_gpu", "doctor"]
    done = subprocess.run(command, env=os.environ | paths, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    table = " ".join(done.stdout.split())
    assert "torch cannot be imported (the process died of SIGSEGV)" in table
    assert "found torch 2.99[b], torchrec" in table
    assert "set XDG_CACHE_HOME to a folder that can be written" in table
    assert [name for name in NAMES if f" {name} " not in table] == []
    assert table.endswith("2 faults")


def test_a_gpu_that_torch_cannot_use(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "driver").mkdir()
    variables = make_library(tmp_path / "driver")
    make_driver(tmp_path / "driver" / "libcuda.so.1", version=12040, gpus=2)
    stack = {"torch": TORCH.format(version="2.13.0", cuda="'13.0'"), "fbgemm_gpu": "", "torchrec": "", **BROKEN}
    code, findings, _ = doctor(stack, variables=variables)
    assert code == 1
    gpu = findings["gpu"]
    assert gpu.state == "fault"
    assert "expected a driver for CUDA 13.0 or newer" in gpu.found
    assert str(gpu.cure).startswith("update the driver")
    assert findings["compiler"].state == "fault"  # there is a GPU to compile for
    assert findings["nvml"] == Finding("nvml", "ok", "GPU 0: 700 bytes free, GPU 1: 700 bytes free")
    assert "gpus" not in findings["signals"].found


def test_a_gpu_without_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_driver(tmp_path / "libcuda.so.1", version=13000, gpus=1)
    (tmp_path / "libnvidia-ml.so.1").touch()  # no library at all
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    answer = ask(["nvml"])["nvml"]
    assert answer.told["driver"]["gpus"] == 1
    found = nvml(answer, 1)
    assert (found.state, found.found) == (
        "warn",
        "no signals of GPUs (NVML does not start (NVML Shared Library Not Found))",
    )
    assert "NVIDIA_DRIVER_CAPABILITIES" in str(found.cure)


def test_a_package_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "torch", "import time\ntime.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    answer = ask(["stack"], timeout_s=1.0)["stack"]
    assert answer.fault == "it does not come to an end"
    assert "torch" not in answer.told


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"torch": "2.14.0"}, "expected torch 2.11 or 2.12 or 2.13, found torch 2.14.0"),
        ({"torch": "2.12.1"}, "expected torchrec 1.7.0 and fbgemm-gpu-cpu 1.7.0 beside torch 2.12, found torch 2.12.1"),
        ({"fbgemm-gpu": "1.8.0"}, "both builds of fbgemm"),
    ],
)
def test_versions_that_do_not_belong_together(
    versions: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in ({"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"} | versions).items():
        distribution(tmp_path, name, version)
    monkeypatch.syspath_prepend(tmp_path)
    found = pairing()
    assert found.state == "fault"
    assert words in found.found
    assert found.cure is not None


@pytest.mark.parametrize("torch", TRIPLES)
def test_the_pairs_that_are_installed_belong_together(torch: str) -> None:
    assert misfits(*TRIPLES[torch]) == ()
    of_torch, torchrec, fbgemm = TRIPLES[torch]
    assert misfits(f"{of_torch}+cu130", torchrec, fbgemm) == ()
    assert [name for name, *_ in misfits(of_torch, "1.5.0", "1.5.0")] == ["torchrec", "fbgemm"]


def make_environment(folder: Path, without: tuple[str, ...]) -> Path:
    """Make an environment of links to this one's packages, without some; return its Python."""
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env" / "lib").glob("python3*/site-packages")
    for entry in Path(__import__("numpy").__file__).parents[1].iterdir():
        if not entry.name.startswith(without) and not entry.name.endswith(".pth"):
            (site / entry.name).symlink_to(entry)
    return folder / "env" / "bin" / "python"
