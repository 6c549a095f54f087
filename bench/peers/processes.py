"""A process and all that it started: CPU seconds and memory, as Linux tells them. The standard library alone."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SWEEPS = 20


class _Seen(NamedTuple):
    """One process, as /proc/<pid>/stat has it; `ticks` are its own and those of the children that it waited for."""

    parent: int
    session: int
    state: str
    ticks: int


def descendants(pid: int) -> list[int]:
    """Return the living children of a process, theirs, and so on; and whoever else is in its session."""
    return _below(pid, _all())


def started_cpu_seconds() -> float:
    """Return the CPU seconds of all that this process started, ended ones included.

    Of the living it is known in steps of a clock tick, 10 ms on most machines.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seen = _all()
    living = sum(seen[pid].ticks for pid in _below(os.getpid(), seen)) / _TICKS_PER_S
    return ended.ru_utime + ended.ru_stime + living


def pss_bytes(pid: int) -> int:
    """Return the memory of a process and of all that it started; a page that several share counts in parts."""
    total = 0
    for each in (pid, *descendants(pid)):
        # One that ends meanwhile has none; ProcessLookupError is what an ended one's file says when it is read.
        with contextlib.suppress(OSError), open(f"/proc/{each}/smaps_rollup", "rb") as lines:
            total += next((int(line.split()[1]) << 10 for line in lines if line.startswith(b"Pss:")), 0)
    return total


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and all that it started."""
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, number)


def kill(pid: int) -> None:
    """End a process and all that it started, also what has lost its parent but kept its session."""
    for _ in range(_SWEEPS):
        left = [pid, *descendants(pid)]
        send(pid, signal.SIGKILL)
        time.sleep(0.01)
        if all(seen.state in "ZX" for each, seen in _all().items() if each in left or seen.session == pid):
            return


def _below(pid: int, seen: dict[int, _Seen]) -> list[int]:
    children: dict[int, list[int]] = {}
    for each, one in seen.items():
        children.setdefault(one.parent, []).append(each)
    found = {each: None for each, one in seen.items() if one.session == pid and each != pid}
    waiting = [pid, *found]
    while waiting:
        below = children.get(waiting.pop(), [])
        waiting += [each for each in below if each not in found]
        found |= dict.fromkeys(below)
    return list(found)


def _all() -> dict[int, _Seen]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name of a program stands in brackets and may hold anything.
                state, parent, _, session, *rest = file.read().rpartition(b")")[2].split()
                found[int(name)] = _Seen(int(parent), int(session), state.decode(), sum(map(int, rest[7:11])))
    return found
