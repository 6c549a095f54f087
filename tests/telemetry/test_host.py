"""How large a machine is for this process: folders of files as kernels and containers show them, and the real thing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import psutil
import pytest

from intune_gpu.core.signals import HostSignals
from intune_gpu.telemetry.cgroups import Groups, Room
from intune_gpu.telemetry.host import Host, parse_cpus

GIB = 1 << 30


def make(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def version_2(root: Path, own: str, top: str = "/", cpus: str = "0-7", **files: object) -> Path:
    """Make a machine with version 2 only, and files below its mount."""
    return make(
        root,
        {
            "proc/self/cgroup": f"0::{own}",
            "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda rw\n"
            f"30 22 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
            "proc/self/status": f"Name:\tpython\nCpus_allowed_list:\t{cpus}\nThreads:\t1",
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        },
    )


def version_1(root: Path, own: str, top: str = "/", cpus: str = "0-7", **files: object) -> Path:
    """Make a machine with version 1: each controller by itself, as older Dockers and Kubernetes have it."""
    mounts = [
        f"{30 + i} 22 0:{26 + i} {top} /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}"
        for i, name in enumerate(("memory", "cpu,cpuacct", "cpuset"))
    ]
    return make(
        root,
        {
            "proc/self/cgroup": f"4:memory:{own}\n3:cpu,cpuacct:{own}\n2:cpuset:/\n1:name=systemd:/other\n0::/other",
            "proc/self/mountinfo": "\n".join(mounts),
            "proc/self/status": f"Cpus_allowed_list:\t{cpus}",
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        },
    )


# --- quotas of CPUs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8.0),
        ("150000 100000", 1.5),
        ("50000 10000", 5.0),
        ("900000 100000", 8.0),
        ("max", 8.0),
        ("", 8.0),
    ],
)
def test_a_quota_of_version_2(tmp_path: Path, quota: str, cores: float) -> None:
    root = version_2(tmp_path, "/job", **{"job/cpu.max": quota})
    assert Host(root).size().cores == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, 8.0), (150_000, 1.5), (900_000, 8.0), ("", 8.0)])
def test_a_quota_of_version_1(tmp_path: Path, quota: object, cores: float) -> None:
    files = {"cpu,cpuacct/job/cpu.cfs_quota_us": quota, "cpu,cpuacct/job/cpu.cfs_period_us": 100_000}
    assert Host(version_1(tmp_path, "/job", **files)).size().cores == cores


@pytest.mark.parametrize(
    ("inner", "middle", "outer", "cores"), [(4, 2, 3, 2), (1, 2, 3, 1), (4, 3, 2, 2), (9, 9, 9, 8)]
)
def test_the_tightest_quota_on_the_way_up_counts(
    tmp_path: Path, inner: int, middle: int, outer: int, cores: int
) -> None:
    quotas = {"a/b/c": inner, "a/b": middle, "a": outer}
    of_2 = {f"{group}/cpu.max": f"{quota}00000 100000" for group, quota in quotas.items()}
    assert Host(version_2(tmp_path / "2", "/a/b/c", **of_2)).size().cores == cores
    of_1: dict[str, object] = {}
    for group, quota in quotas.items():
        folder = f"cpu,cpuacct/{group}"
        of_1 |= {f"{folder}/cpu.cfs_quota_us": quota * 50_000, f"{folder}/cpu.cfs_period_us": 50_000}
    assert Host(version_1(tmp_path / "1", "/a/b/c", **of_1)).size().cores == cores


def test_groups_beside_the_way_up_do_not_count(tmp_path: Path) -> None:
    quotas = {"a/other/cpu.max": "100000 100000", "a/b/inner/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}
    assert Host(version_2(tmp_path, "/a/b", **quotas)).size().quota is None


def test_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    files = {"cpu.max": "200000 100000", "memory.max": 3 * GIB, "memory.current": GIB, "memory.stat": "anon 5"}
    for i, (own, top) in enumerate([("/", "/"), ("/docker/abc", "/docker/abc"), ("/../..", "/")]):
        root = version_2(tmp_path / str(i), own, top, **files)
        assert Host(root).size().cores == 2.0
        assert Groups(root).memory_room() == Room(3 * GIB, 2 * GIB)
    folder = "cpu,cpuacct"
    of_1 = {f"{folder}/cpu.cfs_quota_us": 200_000, f"{folder}/cpu.cfs_period_us": 100_000}
    assert Host(version_1(tmp_path / "v1", "/docker/abc", "/docker/abc", **of_1)).size().cores == 2.0
    of_1 |= {f"{folder}/in/cpu.cfs_quota_us": 100_000, f"{folder}/in/cpu.cfs_period_us": 100_000}
    assert Host(version_1(tmp_path / "v1in", "/docker/abc/in", "/docker/abc", **of_1)).size().cores == 1.0


def test_both_versions_at_once(tmp_path: Path) -> None:
    root = version_1(tmp_path, "/job", **{"memory/job/memory.limit_in_bytes": 2 * GIB})
    version_2_of = {"sys/fs/cgroup/unified/other/cpu.max": "300000 100000"}
    mount = "40 22 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    make(root, {**version_2_of, "proc/self/mountinfo": (root / "proc/self/mountinfo").read_text() + mount})
    assert Host(root).size().cores == 3.0
    assert Groups(root).memory_room() == Room(2 * GIB, 2 * GIB)


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), (" 2-2 , 5\n", (2, 5)), ("", ()), ("x", ())]
)
def test_lists_of_cpus(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text) == cpus


def test_affinity_counts_beside_the_quota(tmp_path: Path) -> None:
    loose = version_2(tmp_path / "a", "/job", cpus="1,4-6", **{"job/cpu.max": "600000 100000"})
    size = Host(loose).size()
    assert (size.cores, size.cpus, size.quota) == (4.0, (1, 4, 5, 6), None)
    tight = version_2(tmp_path / "b", "/job", cpus="1,4-6", **{"job/cpu.max": "250000 100000"})
    assert (Host(tight).size().cores, Host(tight).size().quota) == (2.5, 2.5)


def test_a_quota_that_changes_is_seen(tmp_path: Path) -> None:
    host = Host(version_2(tmp_path, "/job", **{"job/cpu.max": "max 100000"}))
    assert host.take().cores == 8.0
    (tmp_path / "sys/fs/cgroup/job/cpu.max").write_text("100000 100000")
    assert host.take().cores == 1.0
    (tmp_path / "sys/fs/cgroup/job/cpu.max").unlink()  # the group is gone, and so is its quota
    assert host.take().cores == 8.0


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_of_version_2(tmp_path: Path) -> None:
    files = {
        "a/memory.max": 4 * GIB,
        "a/memory.current": 7 * GIB // 2,
        "a/memory.stat": f"anon 1\ninactive_file {GIB}\nactive_file 7",
        "a/b/memory.max": "max",
        "a/b/memory.current": GIB,
        "a/b/memory.stat": "inactive_file 5",
    }
    groups = Groups(version_2(tmp_path, "/a/b", **files))
    assert groups.memory_room() == Room(4 * GIB, 3 * GIB // 2)  # what is cached of files can be dropped


def test_the_limit_that_is_met_first_decides_what_is_left(tmp_path: Path) -> None:
    files = {"a/memory.max": 8 * GIB, "a/memory.current": 7 * GIB, "a/b/memory.max": 4 * GIB, "a/b/memory.current": GIB}
    assert Groups(version_2(tmp_path, "/a/b", **files)).memory_room() == Room(4 * GIB, GIB)


def test_memory_of_version_1(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": 9223372036854771712,  # none
        "memory/memory.usage_in_bytes": 60 * GIB,
        "memory/a/memory.limit_in_bytes": 2 * GIB,
        "memory/a/memory.usage_in_bytes": GIB,
        "memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}",
    }
    assert Groups(version_1(tmp_path, "/a", **files)).memory_room() == Room(2 * GIB, 3 * GIB // 2)


def test_more_used_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    files = {"a/memory.max": GIB, "a/memory.current": 2 * GIB}
    assert Groups(version_2(tmp_path, "/a", **files)).memory_room() == Room(GIB, 0)


def test_a_limit_above_the_machine_is_none(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    files = {"a/memory.max": 1 << 50, "a/memory.current": 0}
    told = Host(version_2(tmp_path, "/a", **files)).take()
    assert told.memory_limit_bytes == total
    assert told.memory_available_bytes is not None
    assert told.memory_available_bytes < total


@pytest.mark.parametrize("root", ["nothing", "broken"])
def test_where_nothing_tells_the_machine_is_what_there_is(tmp_path: Path, root: str) -> None:
    make(tmp_path / "broken", {"proc/self/cgroup": "0::/a", "proc/self/mountinfo": "what\n1 2 3\n- cgroup2", "x": ""})
    size = Host(tmp_path / root).size()
    assert (size.cores, size.quota) == (float(os.cpu_count() or 1), None)
    assert size.memory_bytes == psutil.virtual_memory().total


# --- who is busy ------------------------------------------------------------------------------------------------------


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_this_process_shows_as_busy() -> None:
    host = Host()
    burn(0.3)
    told = host.take()
    assert {f.name for f in fields(HostSignals) if getattr(told, f.name) is None} == set()
    assert told.process_cores is not None
    assert told.busy_cores is not None
    assert 0 < told.process_cores <= told.cores + 0.1
    assert 0 < told.busy_cores <= told.cores  # a clock of the kernel's, of 10 ms
    assert told.process_rss_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    idle = host.take()
    time.sleep(0.1)
    idle = host.take()
    assert idle.process_cores is not None
    assert idle.process_cores < told.process_cores / 2


def test_what_the_group_took_counts_under_a_quota(tmp_path: Path) -> None:
    stat = tmp_path / "sys/fs/cgroup/job/cpu.stat"
    host = Host(
        version_2(tmp_path, "/job", cpus="0", **{"job/cpu.max": "50000 100000", "job/cpu.stat": "usage_usec 0"})
    )
    time.sleep(0.05)
    stat.write_text("nr_periods 5\nusage_usec 1000000000\n")  # more than it can have been: all that it may
    assert host.take().busy_cores == 0.5


def test_what_the_group_took_is_in_nanoseconds_in_version_1(tmp_path: Path) -> None:
    folder = "cpu,cpuacct/job"
    files = {f"{folder}/cpu.cfs_quota_us": 50_000, f"{folder}/cpu.cfs_period_us": 100_000}
    files |= {f"{folder}/cpuacct.usage": 1_500_000_000}
    quota = Groups(version_1(tmp_path, "/job", **files)).cpu_quota()
    assert quota is not None
    assert quota[1].used_s() == 1.5


HIDDEN = """
import json, psutil, sys
from dataclasses import asdict
from pathlib import Path
from intune_gpu.telemetry.host import Host
psutil.PROCFS_PATH = sys.argv[1]
print(json.dumps(asdict(Host(Path(sys.argv[1])).take())))
"""


def test_without_proc_fields_are_absent(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN, tmp_path], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told.pop("cores") == os.cpu_count()
    assert told.pop("process_cores") >= 0  # needs no /proc
    assert set(told.values()) == {None}


# --- the real thing ---------------------------------------------------------------------------------------------------

INSIDE = """
import json, os, sys, time
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
from intune_gpu.telemetry.host import Host
host = Host()
end = time.monotonic() + 0.4
while time.monotonic() < end:
    pass
told = host.take()
print(json.dumps([told.cores, told.busy_cores]))
"""


def test_a_real_quota_is_the_size_of_the_machine(group: Path) -> None:
    done = subprocess.run([sys.executable, "-c", INSIDE, group], capture_output=True, text=True, check=True)
    cores, busy = json.loads(done.stdout)
    assert cores == 0.3
    assert 0 < busy <= 0.3
