"""What `intune-gpu` prints: tables, one JSON document for programs, a progress bar, the command that trains."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

_PIPE_WIDTH = 200
"""Columns of a table that goes into a file or a pipe."""


def console() -> Console:
    """Return where tables are printed: as wide as the terminal is."""
    wide = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(highlight=False, soft_wrap=False, width=wide)


def columns(*names: str) -> Table:
    """Return an empty table, whose cells break rather than lose their ends."""
    return Table(*(Column(name, overflow="fold") for name in names))


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    json.dump(document, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far something is, on stderr if that is a terminal; give the function to tell it (done, total)."""
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen = Console(stderr=True)
    with Progress(*parts, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def training(*flags: str) -> str:
    """Return the command that trains with these flags, for a shell: with this Python, by the shortest name it has."""
    running = Path(sys.executable)
    found = shutil.which("python")
    if found is not None and Path(found).absolute().parent == running.parent:
        name = "python"
    else:
        name = str(running.relative_to(Path.cwd())) if running.is_relative_to(Path.cwd()) else str(running)
    return shlex.join([name, "-m", "intune_gpu.train", *flags])


def percent(share: float) -> str:
    """Return a share in percent, never rounded to none or to all of what is neither."""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(100 * share, 0.1), 99.9):.1f}%"


def size(nbytes: int) -> str:
    """Return a number of bytes in a unit that suits it."""
    amount = float(nbytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
