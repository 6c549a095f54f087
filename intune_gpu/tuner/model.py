"""The calibrated model: what one pipeline's signals say about its machine, solved for the best plan.

It has the simulator's own structure; what no signal tells stands at its mean. Solved again at every step it is the
strong baseline, and one of the agent's actions ("jump to the model's plan").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from intune_gpu.tuner.physics import Machine
from intune_gpu.tuner.seen import Numbers, Plans, Seen
from intune_gpu.tuner.solving import solve


@dataclass(frozen=True, slots=True)
class Hidden:
    """What no signal tells: means of `machines.Prior`.

    Attributes:
        crowding: loss for each thread beyond the cores.
        sharpness: of the soft minimum.
        contention: share of the GPU's transform that steps wait for.
        io: a reader's wait for storage, as a multiple of its work.
        pack: the host's work a row on the GPU, as a share of the work on the CPU.
        scaling: exponent of readers and of transformers.
        speedup: of the GPU's transform over one core, times the root of the cores.
        plenty: what is not seen to bind, as a multiple of the demand.
    """

    crowding: float = 0.25
    sharpness: float = 7.0
    contention: float = 0.6
    io: float = 1.2
    pack: float = 0.13
    scaling: float = 0.83
    speedup: float = 28.0
    plenty: float = 6.0


MEANS = Hidden()


def estimate(seen: Seen, hidden: Hidden = MEANS) -> Machine:
    """Return the machines that would show what was seen, as far as signals tell."""
    plans, cores = seen.plans, seen.limits.cores
    rate = np.maximum(seen.rows_per_s, 1e-9)
    demand = rate / np.maximum(1.0 - seen.wait, 0.05)
    active = plans.readers * seen.read_busy + plans.transformers * seen.transform_busy
    ours = np.where(np.isnan(seen.process_cores), np.minimum(active, cores), seen.process_cores)
    ours = np.maximum(ours, 1e-6)  # nobody worked: the budget was full
    busy = np.where(np.isnan(seen.busy_cores), ours, seen.busy_cores)
    taken = np.clip(busy - ours, 0.0, 0.9 * cores)
    # Threads at work beyond what the process got of the cores stood waiting, for cores if these were all busy.
    full = np.clip((busy / cores - 0.85) / 0.1, 0.0, 1.0)
    readers_active = plans.readers * seen.read_busy / (1.0 + hidden.io)
    slow = 1.0 + full * np.maximum((readers_active + plans.transformers * seen.transform_busy) / ours - 1.0, 0.0)
    crowd = plans.readers ** (1.0 - hidden.scaling)  # what one reader alone would take is less
    read_cpu_s = seen.read_s / (slow * crowd + hidden.io)
    speed = hidden.pack * plans.share + (1.0 - plans.share)
    transform_cpu_s = seen.transform_s / slow / speed / plans.transformers ** (1.0 - hidden.scaling)
    known = ~np.isnan(seen.gpu_transform_s)
    guess = transform_cpu_s / hidden.speedup / np.sqrt(cores)
    gpu_transform_s = np.where(known, seen.gpu_transform_s, guess) * seen.limits.has_gpu
    work_s = read_cpu_s * crowd + seen.transform_s / slow
    step_cpu_s = np.clip(ours / rate - work_s, 0.0, 0.5 * ours / rate)
    plenty = hidden.plenty * demand
    full_like = np.ones_like(rate)
    return Machine(
        cores=cores,
        taken_cores=taken,
        read_cpu_s=read_cpu_s,
        read_io_s=read_cpu_s * hidden.io,
        storage_rows_per_s=plenty,
        transform_cpu_s=transform_cpu_s,
        pack_cpu_s=transform_cpu_s * hidden.pack,
        serial_s=1.0 / plenty,
        memory_rows_per_s=plenty,
        copy_rows_per_s=np.where(np.isnan(seen.gpu_copy_s), plenty, 1.0 / np.maximum(seen.gpu_copy_s, 1e-12)),
        step_s=np.maximum(1.0 / demand - hidden.contention * gpu_transform_s * plans.share, 0.2 / demand),
        step_cpu_s=step_cpu_s,
        gpu_transform_s=gpu_transform_s,
        contention=hidden.contention * full_like,
        crowding=hidden.crowding * full_like,
        sharpness=hidden.sharpness * full_like,
        read_scaling=hidden.scaling * full_like,
        transform_scaling=hidden.scaling * full_like,
    )


def model_plans(seen: Seen, hidden: Hidden = MEANS) -> tuple[Plans, Numbers, Machine]:
    """Return the model's best plans, the rows/s it expects of them, and the machines it believes in."""
    machine = estimate(seen, hidden)
    plans, rates = solve(machine, seen.limits)
    return plans, rates, machine
