"""Control groups: what a container, or whatever else holds this process, leaves it of the machine.

Versions 1 and 2, also both at once. A group is held by those around it, so the tightest on the way up counts; what is
above the mount cannot be seen from in here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOST_BYTES = 1 << 20
"""Of a file that is read here; the kernel writes each of them in one piece."""
_ANY_MEMORY = 1 << 60
"""From here on a limit of version 1 means that there is none."""


@dataclass(frozen=True, slots=True)
class CpuGroup:
    """Files of one group's CPU controller.

    Attributes:
        quota: version 2's `cpu.max`, or version 1's `cpu.cfs_quota_us`.
        period: version 1's `cpu.cfs_period_us`; None in version 2, whose quota file has both.
        used: `cpu.stat` or `cpuacct.usage`; None where there is none.
    """

    quota: Path
    period: Path | None
    used: Path | None

    def cores(self) -> float | None:
        """Return how many cores it may keep busy; None for as many as there are."""
        if self.period is None:
            quota, _, period = (read(self.quota) or "max").partition(" ")
        else:
            quota, period = read(self.quota) or "-1", read(self.period) or ""
        if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:  # "max", and version 1's -1
            return None
        return int(quota) / int(period)

    def used_s(self) -> float | None:
        """Return the CPU seconds that it took since it was made."""
        if self.used is None:
            return None
        if self.period is None:
            micros = _field(self.used, "usage_usec")
            return None if micros is None else micros / 1e6
        nanos = _number(self.used)
        return None if nanos is None else nanos / 1e9


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that control groups leave.

    Attributes:
        limit_bytes: what may be taken.
        available_bytes: what may still be taken, cached files that can be dropped included.
    """

    limit_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """Files of one group's memory controller.

    Attributes:
        limit: `memory.max`, or version 1's `memory.limit_in_bytes`.
        used: `memory.current`, or `memory.usage_in_bytes`.
        stat: `memory.stat`.
        idle_file: the field of it that counts cached pages of files which nobody looked at lately.
    """

    limit: Path
    used: Path
    stat: Path
    idle_file: str

    def room(self) -> Room | None:
        """Return what it leaves; None where it has no limit."""
        limit = _number(self.limit)
        if limit is None or limit >= _ANY_MEMORY:
            return None
        idle, used = _field(self.stat, self.idle_file) or 0, _number(self.used) or 0
        return Room(limit, max(0, limit - max(0, used - idle)))


class Groups:
    """The groups that hold this process, found once. Their limits are read anew each time, since they may be changed.

    Args:
        root: of the file system: the process is that of `proc/self` in it, and mounts stand below it.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.cpu = tuple(_cpu_groups(root))
        self.memory = tuple(_memory_groups(root))

    def cpu_quota(self) -> tuple[float, CpuGroup] | None:
        """Return the cores of the tightest quota, and the group that has it; None where there is no quota."""
        quotas = [(cores, group) for group in self.cpu if (cores := group.cores()) is not None]
        return min(quotas, key=lambda quota: quota[0], default=None)

    def memory_room(self) -> Room | None:
        """Return the tightest limit, and what is left of the one that is met first; None where there is no limit."""
        rooms = [room for group in self.memory if (room := group.room()) is not None]
        if not rooms:
            return None
        return Room(min(room.limit_bytes for room in rooms), min(room.available_bytes for room in rooms))


def read(path: Path) -> str | None:
    """Return what a file says, without blanks at its ends; None where it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY)  # a third of the time that Path.read_text takes; several are read a sample
    except OSError:
        return None
    try:
        return os.read(file, _MOST_BYTES).decode("utf-8", errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(file)


def _number(path: Path) -> int | None:
    text = read(path)
    return int(text) if text is not None and text.isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    """Return the number behind a name in a file of lines `name number`."""
    for line in (read(path) or "").splitlines():
        found, _, number = line.partition(" ")
        if found == name:
            return int(number) if number.isdecimal() else None
    return None


def _cpu_groups(root: Path) -> Iterator[CpuGroup]:
    for folder in folders_of(root, ""):
        if (folder / "cpu.max").exists():  # the outermost group of a machine has none
            yield CpuGroup(folder / "cpu.max", None, _if_there(folder / "cpu.stat"))
    folders, accounts = folders_of(root, "cpu"), folders_of(root, "cpuacct")
    if _own_group(root, "cpu") != _own_group(root, "cpuacct") or len(folders) != len(accounts):
        accounts = folders
    for folder, account in zip(folders, accounts, strict=True):
        if (folder / "cpu.cfs_quota_us").exists():
            used = _if_there(account / "cpuacct.usage")
            yield CpuGroup(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us", used)


def _memory_groups(root: Path) -> Iterator[MemoryGroup]:
    for folder in folders_of(root, ""):
        if (folder / "memory.max").exists():
            yield MemoryGroup(folder / "memory.max", folder / "memory.current", folder / "memory.stat", "inactive_file")
    for folder in folders_of(root, "memory"):
        limit, used = folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes"
        if limit.exists():
            yield MemoryGroup(limit, used, folder / "memory.stat", "total_inactive_file")


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def folders_of(root: Path, controller: str) -> list[Path]:
    """Return the folders of the groups that hold the process, its own first.

    Args:
        root: of the file system.
        controller: of version 1; "" for version 2.
    """
    own = _own_group(root, controller)
    if own is None:
        return []
    top, mount = next(_mounts(root, controller), (None, root))
    if top is None:
        return []
    inside = _inside(own, top)
    folders = [mount, *(mount.joinpath(*inside[: i + 1]) for i in range(len(inside)))]
    return [folder for folder in reversed(folders) if folder.is_dir()]


def _own_group(root: Path, controller: str) -> str | None:
    """Return the path of the process's group, as the kernel writes it."""
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if (controller in controllers.split(",")) if controller else controllers == "":
            return path
    return None


def _mounts(root: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Yield the group that each mount of the controller shows at its top, and where it is mounted."""
    for line in (read(root / "proc/self/mountinfo") or "").splitlines():
        mount, _, kind = line.partition(" - ")
        fields, (filesystem, _, options) = mount.split(" "), (*kind.split(" "), "", "", "")[:3]
        wanted = controller in options.split(",") if controller else True
        if filesystem == ("cgroup" if controller else "cgroup2") and wanted and len(fields) > 4:
            yield fields[3], root / fields[4].lstrip("/")


def _inside(own: str, top: str) -> tuple[str, ...]:
    """Return the names from a mount's top down to the own group.

    There are none where the mount does not show the own group by that path: a container without a name space of its own
    finds its group mounted as such, and one that was moved out of its name space has ".." in its path.
    """
    names, above = Path(own).parts[1:], Path(top).parts[1:]
    if ".." in names or names[: len(above)] != above:
        return ()
    return names[len(above) :]
