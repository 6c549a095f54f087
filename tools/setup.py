"""Make the environment that `make train` and `make test` run in; say and do nothing when it is up to date.

Usage: python tools/setup.py run|test|fuzz

`run` is what the package can use on this machine; `test` adds the tools; `fuzz` adds atheris. Package names and
versions come from pyproject.toml; intune_gpu/core/pairing.py says which versions of torch, TorchRec and fbgemm belong
together, and this file what the CPU and the CUDA stack are. The Makefile's help lists the variables that are read from
the environment.
"""

import csv
import fcntl
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

if not (3, 11) <= sys.version_info[:2] <= (3, 13):  # an older one must get this far to be told
    sys.exit(
        f"intune_gpu: needs Python 3.11, 3.12 or 3.13, and {sys.executable} is {sys.version_info[0]}."
        f"{sys.version_info[1]}; name another one, as in `make train PYTHON=python3.12`."
    )
import tomllib  # since 3.11

ROOT = Path(__file__).resolve().parent.parent
# torch: (torch, TorchRec, fbgemm) that belong together; the file stands alone, since nothing is installed yet.
PAIRING = ROOT / "intune_gpu" / "core" / "pairing.py"
TRIPLES: dict[str, tuple[str, str, str]] = runpy.run_path(str(PAIRING))["TRIPLES"]


# What a level has besides the stack; each holds those before it.
LEVELS = {"run": [], "test": ["bench", "dev"], "fuzz": ["bench", "dev", "fuzz"]}


def fail(sentence: str) -> NoReturn:
    """Stop with one sentence."""
    sys.exit(f"intune_gpu: {sentence}")


def find_device(dev: Path = Path("/dev")) -> str:
    """Return "cuda" where there is an NVIDIA GPU, else "cpu"; $DEVICE decides if it is set."""
    device = os.environ.get("DEVICE", "")
    if device in ("cpu", "cuda"):
        return device
    if device:
        fail(f"DEVICE={device} is neither cpu nor cuda.")
    if any(dev.glob("nvidia[0-9]*")):
        return "cuda"
    if not shutil.which("nvidia-smi"):  # WSL has it, and no /dev/nvidia*
        return "cpu"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "cuda" if listed.stdout.startswith("GPU ") else "cpu"


def find_torch() -> str:
    """Return which torch to install: $TORCH, or the newest that is supported."""
    torch = os.environ.get("TORCH") or max(TRIPLES)
    if torch not in TRIPLES:
        fail(f"TORCH={torch} is not supported: choose one of {', '.join(TRIPLES)}.")
    return torch


def requirements(project: dict[str, Any], device: str, torch: str, level: str) -> tuple[list[str], list[str]]:
    """List what to install: with its dependencies, and without.

    Args:
        project: pyproject.toml, parsed.
        device: "cpu" or "cuda".
        torch: a key of `TRIPLES`.
        level: of `LEVELS`.
    """
    extras = ["torch", "train", device, "compile", "dali", *LEVELS[level]]
    named = project["build-system"]["requires"] + project["project"]["dependencies"]
    for extra in extras:
        named += project["project"]["optional-dependencies"][extra]
    torch_version, torchrec_version, fbgemm_version = TRIPLES[torch]
    fbgemm = "fbgemm-gpu" if device == "cuda" else "fbgemm-gpu-cpu"
    pinned = [f"torch=={torch_version}", f"{fbgemm}=={fbgemm_version}"]
    kept = [line for line in named if not line.startswith(("torchrec", "intune_gpu"))]
    return kept + pinned, [f"torchrec=={torchrec_version}"]


def held_by(level: str) -> list[str]:
    """Return the levels that are installed with one: itself, and those before it."""
    return list(LEVELS)[: list(LEVELS).index(level) + 1]


class Environment:
    """A virtual environment, and the file in it that says what was installed there.

    The file holds `stack` (device, torch, Python), `index` (a hash of $TORCH_INDEX), `levels` (for each, a hash of the
    files that said what to install) and `step` ("venv" or "packages" while that is under way, else "done").
    """

    def __init__(self, folder: Path, stack: str, index: str) -> None:
        self.folder, self.stack, self.index = folder, stack, index
        self.python = folder / "bin" / "python"
        self.file = folder / "intune_gpu-setup.json"
        self.state: dict[str, Any] = {}

    def read(self) -> None:
        """Read the file."""
        try:
            self.state = json.loads(self.file.read_text())
        except (OSError, ValueError):
            self.state = {}

    def write(self, **changes: Any) -> None:
        """Change the file, wholly or not at all."""
        self.state.update(changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.state))
        new.replace(self.file)

    def is_ours(self) -> bool:
        """Tell whether it holds this stack. An index that is not named any more does not matter."""
        return self.state.get("stack") == self.stack and self.index in ("", self.state.get("index"))

    def is_ready(self, level: str, key: str) -> bool:
        """Tell whether there is nothing to do."""
        done = self.state.get("step") == "done" and self.state["levels"].get(level) == key
        return done and self.is_ours() and self.python.exists()

    def make(self, own: bool) -> None:
        """Create it; anew if it is half made, or, if it is ours to remove, made for another stack."""
        if self.state.get("step") == "venv":
            shutil.rmtree(self.folder)
        elif self.state and not self.is_ours():
            if not own:
                fail(f"{self.folder} was made for {self.state['stack']}; name another folder for {self.stack}.")
            print(f"intune_gpu: .venv was made for {self.state['stack']}; making it anew", flush=True)
            shutil.rmtree(self.folder)
        if not self.python.exists():
            self.write(step="venv", stack=self.stack, index=self.index, levels={})
            # Not sys.executable, which may be the very one that was removed just now.
            base: str = sys._base_executable  # type: ignore[attr-defined]
            if subprocess.run([base, "-m", "venv", str(self.folder)], check=False).returncode:
                fail(f"{base} made no {self.folder}, for the reason above; Debian and Ubuntu want python3-venv for it.")

    def pip(self, *arguments: str) -> None:
        """Run `pip install` in it."""
        quiet = [] if sys.stdout.isatty() else ["-qq"]
        command = [str(self.python), "-I", "-m", "pip", "--disable-pip-version-check", "install", *quiet, *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            fail(
                "pip stopped, for the reason above; the same command goes on from there. Without a network, name a "
                "folder that holds the wheels, as in `PIP_NO_INDEX=1 PIP_FIND_LINKS=<folder> make train`."
            )

    def drop_half_installed(self) -> None:
        """Forget the packages that an interrupted pip left incomplete, so that pip installs them again."""
        for info in self.folder.glob("lib/python3*/site-packages/*.dist-info"):
            record = info / "RECORD"  # pip writes it last
            if record.exists():
                with record.open(newline="") as lines:
                    names = [line[0] for line in csv.reader(lines)]
                if all((info.parent / name).exists() for name in names if not name.endswith(".pyc")):
                    continue
            shutil.rmtree(info)


def install(env: Environment, device: str, torch: str, level: str, index_url: str) -> None:
    """Install what a level needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted, alone = requirements(project, device, torch, level)
    if env.state.get("step") == "packages":
        env.drop_half_installed()
    env.write(step="packages", stack=env.stack, index=env.index or env.state.get("index", ""))
    if index_url:  # by itself, so that no other index can offer its own build; what it needs comes with the rest
        env.pip("--no-deps", "--index-url", index_url, f"torch=={TRIPLES[torch][0]}")
    env.pip(*wanted)
    env.pip("--no-deps", "--no-build-isolation", *alone, "--editable", ".")


def main(level: str) -> None:
    """Bring the environment up to date for a level."""
    own = os.environ.get("VENV", ".venv") == ".venv"
    device, torch, index_url = find_device(), find_torch(), os.environ.get("TORCH_INDEX", "")
    stack = f"{device}, torch {torch}, Python {sys.version_info.major}.{sys.version_info.minor}"
    index = hashlib.sha256(index_url.encode()).hexdigest() if index_url else ""  # a url may hold a password
    said = (ROOT / "pyproject.toml", Path(__file__), PAIRING)
    key = hashlib.sha256(b"".join(path.read_bytes() for path in said)).hexdigest()
    env = Environment(ROOT / ".venv" if own else Path(os.environ["VENV"]).absolute(), stack, index)
    env.read()
    if env.is_ready(level, key):
        return
    if (sys.platform, os.uname().machine) != ("linux", "x86_64"):
        fail(
            f"`make` installs on Linux with x86_64 only, and this is {sys.platform} with {os.uname().machine}; "
            "`pip install .` works with a torch and a TorchRec of your own."
        )
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another make may be at it
        env.read()
        if env.is_ready(level, key):
            return
        env.make(own)
        print(f"intune_gpu: installing into {env.folder.name}: {stack}", flush=True)
        if device == "cpu" and not index_url and not env.state.get("levels"):
            print("intune_gpu: if torch comes with gigabytes of CUDA, see TORCH_INDEX in the README", flush=True)
        begin = time.monotonic()
        install(env, device, torch, level, index_url)
        env.write(step="done", levels=env.state.get("levels", {}) | dict.fromkeys(held_by(level), key))
        print(f"intune_gpu: installed in {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in LEVELS:
        fail("usage: python tools/setup.py run|test|fuzz")
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from there.")
