"""How fast a pipeline runs under a plan: the quasi-static model that simulator, solver and calibration share.

Every quantity is a rate at which one resource alone would let rows through; the pipeline runs at a soft minimum of
them. All arrays broadcast, so that (machines, 1) parameters meet (machines, plans) plans.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from intune_gpu.tuner.seen import Numbers, Plans


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, a job and its data. Arrays over machines; seconds and bytes are of one row.

    Attributes:
        cores: that the process may keep busy.
        taken_cores: of these, what others keep busy.
        read_cpu_s: core seconds to decode.
        read_io_s: seconds that one reader waits for storage beside that.
        storage_rows_per_s: what storage gives to all readers together.
        transform_cpu_s: core seconds to transform on the CPU.
        pack_cpu_s: core seconds of the host where the transform is done on the GPU.
        serial_s: seconds that only one thread can spend at a time: locks, the interpreter.
        memory_rows_per_s: what the memory's bandwidth lets through with all on the CPU.
        copy_rows_per_s: what the bus lets through where all is made on the GPU.
        step_s: seconds of the trainer.
        step_cpu_s: core seconds of the trainer.
        gpu_transform_s: GPU seconds of the transform; 0 without a GPU.
        contention: share of these that the trainer's own steps wait for.
        crowding: loss of the cores' work for each thread beyond them, as a share.
        sharpness: exponent of the soft minimum; queues and bursts blunt it.
        read_scaling: n readers do the work of `n ** read_scaling`: caches, memory and locks are shared.
        transform_scaling: likewise.
    """

    cores: Numbers
    taken_cores: Numbers
    read_cpu_s: Numbers
    read_io_s: Numbers
    storage_rows_per_s: Numbers
    transform_cpu_s: Numbers
    pack_cpu_s: Numbers
    serial_s: Numbers
    memory_rows_per_s: Numbers
    copy_rows_per_s: Numbers
    step_s: Numbers
    step_cpu_s: Numbers
    gpu_transform_s: Numbers
    contention: Numbers
    crowding: Numbers
    sharpness: Numbers
    read_scaling: Numbers
    transform_scaling: Numbers

    def __len__(self) -> int:
        return len(self.cores)

    def take(self, these: object) -> Machine:
        """Return the machines of an index or a mask; `np.s_[:, None]` makes room for an axis of plans."""
        return Machine(*(getattr(self, f.name)[these] for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Running:
    """How a plan runs; arrays over machines, and over plans where there are several.

    Attributes:
        rows_per_s: what the trainer gets.
        supply_rows_per_s: what it could get, if it took no time.
        demand_rows_per_s: what it could take.
        slowdown: of a thread at work, since cores are shared.
        busy_cores: kept busy by this process.
    """

    rows_per_s: Numbers
    supply_rows_per_s: Numbers
    demand_rows_per_s: Numbers
    slowdown: Numbers
    busy_cores: Numbers


def run(machine: Machine, plans: Plans) -> Running:
    """Return how plans run on machines; arrays of both broadcast."""
    m, on_cpu = machine, 1.0 - plans.share
    read_s, transform_s = worker_s(m, plans)
    threads = plans.readers + plans.transformers
    free = np.maximum(m.cores - m.taken_cores, 0.25)
    crowded = np.maximum(threads / free - 1.0, 0.0)
    free = free / (1.0 + m.crowding * crowded)
    cpu_s = read_s - m.read_io_s + transform_s + m.step_cpu_s + m.serial_s
    cores_cap = free / cpu_s
    with np.errstate(divide="ignore"):
        supply = _soft_min(
            m.sharpness,
            plans.readers / read_s,
            m.storage_rows_per_s + 0.0 * threads,
            plans.transformers / transform_s,
            1.0 / (m.serial_s * (1.0 + 0.01 * threads)),
            m.memory_rows_per_s / (0.25 + 0.75 * on_cpu),
            m.copy_rows_per_s / np.maximum(plans.share, 1e-9),
            1.0 / np.maximum(m.gpu_transform_s * plans.share, 1e-12),
        )
    demand = 1.0 / (m.step_s + m.contention * m.gpu_transform_s * plans.share)
    rate = _soft_min(m.sharpness, supply, demand, cores_cap)
    supply = _soft_min(m.sharpness, supply, free / (cpu_s - m.step_cpu_s))
    # Where the cores are what binds, every thread of the slowest stage is busy, and its rows take that much longer.
    stretched = np.minimum(plans.readers / read_s, plans.transformers / transform_s) / rate
    slowdown = 1.0 + np.maximum(stretched - 1.0, 0.0) * power(rate / cores_cap, 8.0)
    return Running(rate, supply, demand, slowdown, rate * cpu_s)


def worker_s(machine: Machine, plans: Plans) -> tuple[Numbers, Numbers]:
    """Return the seconds a row of one reader and of one transformer, on cores of their own."""
    m = machine
    work_s = m.transform_cpu_s * (1.0 - plans.share) + m.pack_cpu_s * plans.share
    read_s = m.read_cpu_s * power(plans.readers, 1.0 - m.read_scaling) + m.read_io_s
    return read_s, work_s * power(plans.transformers, 1.0 - m.transform_scaling)


def power(base: Numbers, exponent: Numbers | float) -> Numbers:
    """Return `base ** exponent` of a base that is not negative; several times as fast as `**` in float32."""
    return np.asarray(np.exp(exponent * np.log(base)))


def _soft_min(sharpness: Numbers, *caps: Numbers) -> Numbers:
    low = caps[0]
    for cap in caps[1:]:
        low = np.minimum(low, cap)
    total = power(low / caps[0], sharpness)
    for cap in caps[1:]:
        total = total + power(low / cap, sharpness)
    return np.asarray(low * power(total, -1.0 / sharpness))
