"""Machines, jobs and drift that the agent is trained on and judged by, drawn at random.

The ranges are wide on purpose: 2 to 128 cores, no GPU to a fast one, storage and trainers that do and do not bind.
`Prior.shifted` moves what no signal tells, which a policy cannot have learned by heart.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from intune_gpu.tuner.physics import Machine
from intune_gpu.tuner.seen import Limits, Numbers

PHASES = 4
"""Of one episode at most: three events."""

DRIFTS = (
    "cores taken",
    "cores given back",
    "slower storage",
    "dearer reads",
    "wider rows",
    "dearer transforms",
    "slower model",
    "faster model",
    "GPU co-tenant",
)


@dataclass(frozen=True, slots=True)
class Prior:
    """Ranges of what is hidden: each is drawn evenly between its two numbers, or evenly in its logarithm.

    Attributes:
        cores: of a machine (logarithm).
        crowding: loss for each thread beyond the cores.
        sharpness: of the soft minimum (logarithm).
        contention: share of the GPU's transform that steps wait for.
        io: a reader's wait for storage, as a multiple of its work.
        pack: the host's work a row on the GPU, as a share of the work on the CPU (logarithm).
        scaling: exponent of readers, and of transformers.
        speedup: of the GPU's transform over one core (logarithm).
        spare: how many times the trainer's demand all cores together could feed, were it CPU alone (logarithm).
        storage: what storage gives, as a multiple of the demand (logarithm).
    """

    cores: tuple[float, float] = (2, 128)
    crowding: tuple[float, float] = (0.0, 0.5)
    sharpness: tuple[float, float] = (3.0, 16.0)
    contention: tuple[float, float] = (0.0, 1.2)
    io: tuple[float, float] = (0.0, 3.0)
    pack: tuple[float, float] = (0.03, 0.5)
    scaling: tuple[float, float] = (0.65, 1.0)
    speedup: tuple[float, float] = (4.0, 200.0)
    spare: tuple[float, float] = (0.4, 4.0)
    storage: tuple[float, float] = (0.5, 20.0)

    @classmethod
    def shifted(cls) -> Prior:
        """Return ranges outside of those that were trained on."""
        return cls(
            crowding=(0.5, 0.8),
            sharpness=(2.0, 4.0),
            contention=(1.0, 1.8),
            io=(2.0, 5.0),
            pack=(0.3, 0.8),
            scaling=(0.5, 0.8),
            speedup=(2.0, 15.0),
        )


@dataclass(frozen=True, slots=True)
class Population:
    """Machines with what will happen to them.

    Attributes:
        phases: what each machine is like in each phase; (phases, machines) arrays.
        starts: (phases, machines) step at which a phase begins; beyond the episode's end where there is none.
        limits: of the knobs.
        tells: which signals each machine gives: `(machines,)` masks by the name of the field in `Seen`.
        events: (phases, machines) number in `DRIFTS` of what began a phase, -1 for none.
    """

    phases: Machine
    starts: npt.NDArray[np.int64]
    limits: Limits
    tells: dict[str, npt.NDArray[np.bool_]]
    events: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.starts.shape[1])

    def take(self, these: npt.NDArray[np.bool_]) -> Population:
        """Return the machines of a (machines,) mask."""
        return Population(
            self.phases.take(np.s_[:, these]),
            self.starts[:, these],
            self.limits.take(these),
            {name: tells[these] for name, tells in self.tells.items()},
            self.events[:, these],
        )

    def phase(self, step: int) -> npt.NDArray[np.int64]:
        """Return (machines,) the number of the phase that a step is in."""
        return np.asarray((step >= self.starts).sum(axis=0) - 1, np.int64)

    def at(self, phase: npt.NDArray[np.int64]) -> Machine:
        """Return what each machine is like in a phase of its own; `phase` is (machines,)."""
        return self.phases.take((phase, np.arange(len(self))))


def draw(
    rng: np.random.Generator, count: int, *, drifting: float, steps: int, prior: Prior | None = None
) -> Population:
    """Draw `count` machines, of which a share `drifting` has one to three events within `steps` steps."""
    first, limits = _first(rng, count, Prior() if prior is None else prior)
    phases, events = [first], [np.full(count, -1)]
    starts = np.full((PHASES, count), np.iinfo(np.int64).max)
    starts[0] = 0
    happens = rng.integers(1, PHASES, count) * (np.arange(count) < round(drifting * count))
    when = np.sort(rng.integers(steps // 8, steps - steps // 8, (PHASES - 1, count)), axis=0)
    for number in range(1, PHASES):
        there = happens >= number
        kinds = _kinds(rng, phases[-1])
        phases.append(_where(there, _drifted(rng, phases[-1], first, kinds), phases[-1]))
        events.append(np.where(there, kinds, -1))
        starts[number] = np.where(there, when[number - 1], starts[number])
    gpu = limits.has_gpu > 0
    tells = {
        "busy_cores": rng.random(count) < 0.9,
        "process_cores": rng.random(count) < 0.9,
        "gpu_busy": gpu & (rng.random(count) < 0.8),
        "gpu_transform_s": gpu & (rng.random(count) < 0.9),
        "gpu_copy_s": gpu & (rng.random(count) < 0.9),
    }
    stacked = Machine(*(np.stack([getattr(one, f.name) for one in phases]) for f in fields(Machine)))
    return Population(stacked, starts, limits, tells, np.stack(events))


def _first(rng: np.random.Generator, count: int, prior: Prior) -> tuple[Machine, Limits]:
    def even(low: float, high: float) -> Numbers:
        return rng.uniform(low, high, count)

    def log(low: float, high: float) -> Numbers:
        return np.exp(rng.uniform(np.log(low), np.log(high), count))

    cores = np.round(log(*prior.cores))
    has_gpu = (rng.random(count) < 0.6).astype(np.float64)
    read_cpu_s, transform_cpu_s = log(1e-7, 4e-6), log(1e-7, 4e-6)
    step_cores = np.minimum(log(0.05, 1.5), 0.5 * cores)
    # The trainer wants what all cores together could feed it, over `spare`.
    demand = (cores - step_cores) / (read_cpu_s + transform_cpu_s) / log(*prior.spare)
    machine = Machine(
        cores=cores,
        taken_cores=np.where(rng.random(count) < 0.3, even(0.0, 0.4), 0.0) * cores,
        read_cpu_s=read_cpu_s,
        read_io_s=read_cpu_s * even(*prior.io),
        storage_rows_per_s=demand * log(*prior.storage),
        transform_cpu_s=transform_cpu_s,
        pack_cpu_s=transform_cpu_s * log(*prior.pack),
        serial_s=1.0 / (demand * log(1.5, 50.0)),
        memory_rows_per_s=demand * log(0.9, 20.0),
        copy_rows_per_s=demand * log(1.0, 50.0),
        step_s=1.0 / demand,
        step_cpu_s=step_cores / demand,
        gpu_transform_s=has_gpu * transform_cpu_s / log(*prior.speedup) / np.sqrt(cores),
        contention=even(*prior.contention),
        crowding=even(*prior.crowding),
        sharpness=log(*prior.sharpness),
        read_scaling=even(*prior.scaling),
        transform_scaling=even(*prior.scaling),
    )
    most = np.minimum(np.maximum(2 * cores, 8), 256)
    return machine, Limits(cores, most, most.copy(), has_gpu)


def _kinds(rng: np.random.Generator, now: Machine) -> npt.NDArray[np.int64]:
    """Draw what happens next; the milder kinds less often, so that drift matters."""
    chance = np.array([0.26, 0.08, 0.14, 0.16, 0.12, 0.14, 0.03, 0.03, 0.04])
    kinds = rng.choice(len(DRIFTS), len(now), p=chance)
    returned = (kinds == DRIFTS.index("cores given back")) & (now.taken_cores < 0.05 * now.cores)
    kinds[returned] = DRIFTS.index("cores taken")
    no_gpu = (kinds == DRIFTS.index("GPU co-tenant")) & (now.gpu_transform_s == 0)
    kinds[no_gpu] = DRIFTS.index("dearer transforms")
    return np.asarray(kinds, np.int64)


def _drifted(rng: np.random.Generator, now: Machine, first: Machine, kinds: npt.NDArray[np.int64]) -> Machine:
    much = np.exp(rng.uniform(np.log(2.0), np.log(12.0), len(now)))

    def by(*names: str) -> Numbers:
        return np.where(np.isin(kinds, [DRIFTS.index(name) for name in names]), much, 1.0)

    wider, reads, transforms = by("wider rows"), by("dearer reads", "wider rows"), by("dearer transforms", "wider rows")
    tenant, model = by("GPU co-tenant"), by("slower model") / by("faster model")
    taken = np.where(kinds == 0, np.maximum(now.taken_cores, rng.uniform(0.45, 0.9, len(now)) * now.cores), 0.0)
    kept = np.where(kinds == 1, 0.0, now.taken_cores)
    return replace(
        now,
        taken_cores=np.maximum(taken, kept),
        read_cpu_s=now.read_cpu_s * reads,
        read_io_s=now.read_io_s * reads,
        storage_rows_per_s=now.storage_rows_per_s / by("slower storage") / wider,
        transform_cpu_s=now.transform_cpu_s * transforms,
        pack_cpu_s=now.pack_cpu_s * wider,
        memory_rows_per_s=now.memory_rows_per_s / wider,
        copy_rows_per_s=now.copy_rows_per_s / wider,
        step_s=np.maximum(now.step_s * model, first.step_s / 4) * np.sqrt(tenant),
        gpu_transform_s=now.gpu_transform_s * transforms * tenant,
    )


def _where(these: npt.NDArray[np.bool_], one: Machine, other: Machine) -> Machine:
    return Machine(*(np.where(these, getattr(one, f.name), getattr(other, f.name)) for f in fields(Machine)))
