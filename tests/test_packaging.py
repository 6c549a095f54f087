"""What is shipped, what it requires, what importing it costs, and how the set-up script behaves."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
HARD = [Requirement(line) for line in PROJECT["dependencies"]]
HEAVY = {"torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "cupy-cuda13x", "nvidia-dali-cuda130", "numba-cuda"}
CONDA_NAMES = {"python-xxhash": "xxhash"}


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "tools" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup = load_setup()


def run(*command: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command from the project's root, with the set-up script's variables as given only."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DEVICE", "TORCH", "TORCH_INDEX", "VENV")}
    return subprocess.run(command, env=kept | changes, cwd=ROOT, capture_output=True, text=True, check=False)


# --- what is shipped --------------------------------------------------------------------------------------------------


def build(source: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def files_in(wheel: Path) -> dict[str, int]:
    """Map each file of the package itself to its size."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist() if ".dist-info/" not in info.filename}


def test_wheel_holds_the_package_with_its_kernels_as_real_files_and_nothing_else(wheel: Path) -> None:
    files = files_in(wheel)
    assert {name.split("/")[0] for name in files} == {"intune_gpu"}
    assert {Path(name).suffix for name in files} <= {".py", ".typed", ".safetensors"}
    assert sum(size for name, size in files.items() if name.endswith(".safetensors")) < 1_000_000  # the agent's weights
    kernels = {f"intune_gpu/kernels/{path.name}": path.stat().st_size for path in (ROOT / "kernels").glob("*.py")}
    assert kernels.items() <= files.items()


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert files_in(build(source, "wheel", tmp_path / "wheel")) == files_in(wheel)


def test_wheel_is_importable_by_itself(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import intune_gpu, intune_gpu.kernels as k; print(k.__file__)"
    ran = run(sys.executable, "-I", "-c", code, tmp_path)
    assert Path(ran.stdout.strip()) == tmp_path / "intune_gpu" / "kernels" / "__init__.py", ran.stderr


@pytest.mark.parametrize("heavy", ["torch", "torchrec", "fbgemm_gpu", "numba.cuda", "nvidia.dali", "polars", "pyarrow"])
def test_importing_the_package_imports_nothing_heavy(heavy: str) -> None:
    ran = run(sys.executable, "-c", f"import sys, intune_gpu; sys.exit({heavy!r} in sys.modules)")
    assert ran.returncode == 0, f"`import intune_gpu` imports {heavy}\n{ran.stderr}"


# --- what is required -------------------------------------------------------------------------------------------------


def test_hard_requirements_leave_the_heavy_ones_to_the_user() -> None:
    assert not HEAVY & {requirement.name for requirement in HARD}
    assert not any("torch" in requirement.name for requirement in HARD)


def test_conda_users_get_the_same_versions() -> None:
    lines = re.findall(r"^  - ([\w-]+)(.*)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    conda = {CONDA_NAMES.get(name, name): Requirement(f"x{version}").specifier for name, version in lines}
    assert conda.pop("python") == Requirement(f"x{PROJECT['requires-python']}").specifier
    conda.pop("pip")
    conda.pop("conda-forge")
    for_pip_only = HEAVY | {
        "intune_gpu",
        "tensordict",
        "torchmetrics",
        "pyre-extensions",
        "iopath",
        "atheris",
        "nvidia-cuda-nvdisasm",
    }
    ours = HARD + [requirement for extra in EXTRAS.values() for requirement in extra]
    assert conda == {each.name: each.specifier for each in ours if each.name not in for_pip_only}


@pytest.mark.parametrize("torch", setup.TRIPLES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("level", setup.LEVELS)
def test_setup_installs_what_pyproject_allows(torch: str, device: str, level: str) -> None:
    pyproject: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted, alone = setup.requirements(pyproject, device, torch, level)
    names = [Requirement(line).name for line in wanted]
    other_build = "fbgemm-gpu" if device == "cpu" else "fbgemm-gpu-cpu"
    assert not {other_build, "torchrec", "intune_gpu"} & set(names)
    assert {each.name for each in HARD} <= set(names)
    assert {"numba-cuda", "nvidia-dali-cuda130"} <= set(names)
    assert ("pytest" in names) == (level != "run")
    assert ("atheris" in names) == (level == "fuzz")

    allowed = {each.name: each.specifier for each in EXTRAS["torch"] + EXTRAS[device]}
    pins = [Requirement(line) for line in wanted if re.match(r"(torch|fbgemm-gpu|fbgemm-gpu-cpu)==", line)]
    pins += [Requirement(line) for line in alone]
    assert len(pins) == 3
    for pin in pins:
        (version,) = [each.version for each in pin.specifier]
        assert version in allowed[pin.name], pin


# --- the set-up script ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"TORCH": "1.0"}, "TORCH=1.0 is not supported: choose one of 2.11, 2.12, 2.13."),
        ({"DEVICE": "tpu"}, "DEVICE=tpu is neither cpu nor cuda."),
    ],
)
def test_setup_refuses_in_one_sentence(changes: dict[str, str], sentence: str) -> None:
    ran = run(sys.executable, ROOT / "tools" / "setup.py", "run", **changes)
    assert (ran.returncode, ran.stderr) == (1, f"intune_gpu: {sentence}\n")


@pytest.mark.parametrize("version", [(3, 8), (3, 10), (3, 14)])
def test_setup_refuses_other_pythons_in_one_sentence(version: tuple[int, int]) -> None:
    code = "import runpy, sys; sys.version_info = eval(sys.argv[2]); runpy.run_path(sys.argv[1], run_name='__main__')"
    ran = run(sys.executable, "-c", code, ROOT / "tools" / "setup.py", str(version))
    assert ran.returncode == 1
    assert re.fullmatch(rf"intune_gpu: needs Python 3.11, .* is 3.{version[1]}; name another one.*\n", ran.stderr)


def test_setup_finds_a_gpu_by_its_device_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEVICE", raising=False)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    (tmp_path / "nvidiactl").touch()  # a driver without a GPU
    assert setup.find_device(tmp_path) == "cpu"
    (tmp_path / "nvidia3").touch()
    assert setup.find_device(tmp_path) == "cuda"
    monkeypatch.setenv("DEVICE", "cpu")
    assert setup.find_device(tmp_path) == "cpu"


def test_setup_forgets_half_installed_packages(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.12" / "site-packages"
    for name in ("whole", "missing_file", "no_record"):
        (site / f"{name}-1.dist-info").mkdir(parents=True)
    for name in ("whole", "missing_file"):
        (site / f"{name}-1.dist-info" / "RECORD").write_text(f'"{name}.py",sha256=x,1\n__pycache__/{name}.pyc,,\n')
    (site / "whole.py").touch()
    setup.Environment(tmp_path, "stack", "").drop_half_installed()
    assert [path.name for path in site.glob("*.dist-info")] == ["whole-1.dist-info"]


def test_setup_redoes_what_has_changed(tmp_path: Path) -> None:
    env = setup.Environment(tmp_path, "cpu, torch 2.13", "index")
    env.python.parent.mkdir()
    env.python.touch()
    env.write(step="done", stack="cpu, torch 2.13", index="index", levels={"run": "key"})

    def ready(stack: str = "cpu, torch 2.13", index: str = "index", level: str = "run", key: str = "key") -> bool:
        other = setup.Environment(tmp_path, stack, index)
        other.read()
        return bool(other.is_ready(level, key))

    assert ready()
    assert ready(index="")  # not named this time
    assert not ready(stack="cuda, torch 2.13")
    assert not ready(index="another")
    assert not ready(level="test")
    assert not ready(key="another")
    env.write(step="packages")
    assert not ready()
