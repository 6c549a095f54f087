"""The machine as this process may use it: its cores, its memory, and who keeps them busy."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from intune_gpu.core.signals import HostSignals
from intune_gpu.telemetry.cgroups import CpuGroup, Groups, read

T = TypeVar("T")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class Size:
    """What there is for this process, the tightest of machine, affinity and control groups.

    Attributes:
        cores: that it may keep busy.
        cpus: numbers of the CPUs that it may run on.
        quota: cores by a control group's quota; None where that is not below the CPUs.
        quota_of: the group that has it.
        memory_bytes: that it may take; None where nothing tells.
        available_bytes: that it may still take, likewise.
    """

    cores: float
    cpus: tuple[int, ...]
    quota: float | None
    quota_of: CpuGroup | None
    memory_bytes: int | None
    available_bytes: int | None


@dataclass(frozen=True, slots=True)
class Clocks:
    """Sums at one moment; None is what cannot be told."""

    at_s: float
    idle_s: tuple[float, ...] | None
    process_s: float
    group: CpuGroup | None
    group_s: float | None


class Host:
    """Asks the machine.

    Args:
        root: of the file system, for control groups and affinity; the rest comes from psutil.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root, self._groups = root, Groups(root)
        self._process = _asked(psutil.Process)
        self._before = self._clocks(self.size())

    def size(self) -> Size:
        """Return what this process may use, as it is now."""
        cpus, quota = self._allowed(), self._groups.cpu_quota()
        machine, room = _asked(psutil.virtual_memory), self._groups.memory_room()
        limits = [] if machine is None else [int(machine.total)]
        left = [] if machine is None else [int(machine.available)]
        limits += [] if room is None else [room.limit_bytes]
        left += [] if room is None else [room.available_bytes]
        cores, group = (float(len(cpus)), None) if quota is None or quota[0] >= len(cpus) else quota
        return Size(
            cores, cpus, None if group is None else cores, group, min(limits, default=None), min(left, default=None)
        )

    def take(self) -> HostSignals:
        """Return what happened since the last call, or since the beginning, and what is held now."""
        size = self.size()
        before, now = self._before, self._clocks(size)
        self._before = now
        span = now.at_s - before.at_s
        return HostSignals(
            cores=size.cores,
            busy_cores=busy_cores(size, before, now),
            process_cores=(now.process_s - before.process_s) / span if span > 0 else None,
            memory_limit_bytes=size.memory_bytes,
            memory_available_bytes=size.available_bytes,
            process_rss_bytes=_asked(self._rss_bytes),
        )

    def _rss_bytes(self) -> int | None:
        return None if self._process is None else int(self._process.memory_info().rss)

    def _allowed(self) -> tuple[int, ...]:
        """Return the CPUs that affinity and cpuset leave, all of them where nothing tells."""
        for line in (read(self._root / "proc/self/status") or "").splitlines():
            if line.startswith("Cpus_allowed_list:"):
                return parse_cpus(line.partition(":")[2])
        return tuple(range(os.cpu_count() or 1))

    def _clocks(self, size: Size) -> Clocks:
        group = size.quota_of
        return Clocks(
            time.monotonic(), _asked(_idle_s), time.process_time(), group, None if group is None else group.used_s()
        )


def parse_cpus(text: str) -> tuple[int, ...]:
    """Return the numbers that a list such as "0-3,8" names."""
    found = (_RANGE.fullmatch(part.strip()) for part in text.split(","))
    ranges = ((int(match[1]), int(match[2] or match[1])) for match in found if match is not None)
    return tuple(cpu for first, last in ranges for cpu in range(first, last + 1))


def _idle_s() -> tuple[float, ...]:
    """Return seconds that each CPU had nothing to do; waiting for storage is nothing to do."""
    return tuple(cpu.idle + getattr(cpu, "iowait", 0.0) for cpu in psutil.cpu_times(percpu=True))


def busy_cores(size: Size, before: Clocks, now: Clocks) -> float | None:
    """Return how many of the cores that the process may use were taken, by itself or others.

    Under a quota both may be short: what the group has left of it, and the CPUs that nobody uses.
    """
    span = now.at_s - before.at_s
    if span <= 0 or before.idle_s is None or now.idle_s is None or len(before.idle_s) != len(now.idle_s):
        return None
    gained = [after - then for then, after in zip(before.idle_s, now.idle_s, strict=True)]
    idle = sum(min(span, max(0.0, gained[cpu])) for cpu in size.cpus if cpu < len(gained)) / span
    # Where the group's own use cannot be read, what this process used is known at least.
    busy = max(size.cores - idle, (now.process_s - before.process_s) / span)
    if now.group == before.group and now.group_s is not None and before.group_s is not None:
        busy = max(busy, (now.group_s - before.group_s) / span)
    return min(size.cores, max(0.0, busy))


def _asked(question: Callable[[], T]) -> T | None:
    """Return an answer of psutil's, or None where it has none: some containers hide /proc."""
    try:
        return question()
    except (psutil.Error, OSError, NotImplementedError, RuntimeError):
        return None
