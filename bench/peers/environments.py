"""The peers' own environments: made once a set of requirements, in the user's cache folder, and never the project's.

Where packages come from is pip's own business: nothing here names an index.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_READY, _FAILED = "ready", "failed.txt"


class NoEnvironmentError(Exception):
    """A peer cannot run here; the message says why."""


@dataclass(frozen=True)
class Environment:
    """What a peer needs.

    Attributes:
        name: of its folder.
        requirements: for pip, pinned.
        module: that must import once they are installed.
    """

    name: str
    requirements: tuple[str, ...]
    module: str = "sys"

    @property
    def folder(self) -> Path:
        """Where it is, or will be: another set of requirements or another Python has another folder."""
        said = "\n".join((platform.python_version(), platform.machine(), self.module, *self.requirements))
        return cache_folder() / f"{self.name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"

    @property
    def python(self) -> Path:
        """Return its interpreter."""
        return self.folder / "bin" / "python"

    def ready(self) -> bool:
        """Return whether it was made, to its end."""
        return (self.folder / _READY).exists()


TENSORFLOW = Environment("tensorflow", ("tensorflow-cpu==2.21.0", "pyarrow==26.0.1"), "tensorflow")
RAY = Environment("ray", ("ray[data]==2.60.0", "pandas==2.3.3", "pyarrow==26.0.1", "aiohttp==3.14.5"), "ray.data")
PANDAS = Environment("pandas", ("pandas==3.1.1", "pyarrow==26.0.1"), "pandas")
NVTABULAR = Environment("nvtabular", ("nvtabular==23.8.0",), "nvtabular")
RECIS = Environment("recis", ("recis==1.0.0",), "recis")


def cache_folder() -> Path:
    """Return where environments are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base if base and os.path.isabs(base) else Path.home() / ".cache") / "intune_gpu" / "peers"


def prepare(environment: Environment, install: bool, say: Callable[[str], None]) -> Path:
    """Return the interpreter of an environment; make it first, if need be.

    Args:
        environment: which.
        install: whether it may be made.
        say: told that something begins that takes long.

    Raises:
        NoEnvironmentError: it is not there and may not be made, or pip refused: the last line that it wrote.
    """
    if environment.ready():
        return environment.python
    folder, failed = environment.folder, environment.folder / _FAILED
    if failed.exists():
        raise NoEnvironmentError(
            f"{failed.read_text(encoding='utf-8')} (tried before; remove {_short(folder)} to try again)"
        )
    if not install:
        raise NoEnvironmentError("its environment was not made yet, and --no-install or --tiny makes none")
    say(f"{environment.name}: installing {', '.join(environment.requirements)} into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once make it once
        if not environment.ready():
            _make(environment)
    return environment.python


def _make(environment: Environment) -> None:
    folder = environment.folder
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted install left
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(environment.python)]
    try:
        if environment.requirements:
            _run([*pip, "install", "--quiet", "--no-input", *environment.requirements])
        _run(
            [str(environment.python), "-c", f"import {environment.module}"], "pip installs it, but it does not import: "
        )
    except NoEnvironmentError as error:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / _FAILED).write_text(str(error), encoding="utf-8")
        raise
    (folder / _READY).touch()


def _run(command: list[str], said: str = "") -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if ran.returncode:
        written = [line.strip() for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
        errors = [line for line in written if line.lower().startswith("error")]
        raise NoEnvironmentError(said + (errors or written or [f"ended with status {ran.returncode}"])[-1])


def _short(folder: Path) -> str:
    """Return a folder as a user would write it: results are shown to others, who have another home."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)
