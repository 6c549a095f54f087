"""The second simulator, for judging only: single chunks and batches, latencies, bursts and queues, event by event.

It shares no formula with `physics`: rates come out of what threads, cores, storage, the GPU and bounded queues do in
time. All machines take their next event at once, each on a clock of its own, so that NumPy does the work.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from intune_gpu.tuner.machines import Population
from intune_gpu.tuner.physics import Machine
from intune_gpu.tuner.seen import NAN, Limits, Numbers, Plans, Seen
from intune_gpu.tuner.solving import solve

BATCHES_PER_S = 50
"""That the trainer takes if it never waits; sets how many rows a batch has."""

CHUNK, RAW_ROOM, READY_ROOM = 3, 24, 8
"""Batches of a chunk; and how many may be decoded or being so, and how many ready."""

BURST = 0.5
"""Standard deviation of the logarithm of each piece of work."""

STALL_CHANCE, STALL = 0.04, 0.25
"""Of a step: that storage stalls, and what it then gives."""

IDLE, FIRST, SECOND = 0, 1, 2
"""A reader waits for storage first, then decodes. A transformer works on the CPU, then waits for the GPU."""

Flags = npt.NDArray[np.bool_]


class EventSimulator:
    """Steps a population as `Simulator` does.

    Args:
        population: machines and what happens to them.
        oracle: (phases, machines) rows/s of the best plans, as `find_oracle` finds them; None if nobody asks.
        seed: of work and bursts.
    """

    def __init__(self, population: Population, oracle: Numbers | None = None, *, seed: int = 0) -> None:
        self.population, self.limits = population, population.limits
        self.step_number = 0
        self._oracle = oracle
        self._rng = np.random.default_rng(seed)
        self._phase = np.zeros(len(population), np.int64)
        self._now = population.phases.take(0)
        self._state = _State(self._now, population.limits, self._rng)
        self._last: tuple[Numbers, Numbers] | None = None

    def __len__(self) -> int:
        return len(self.population)

    @property
    def phase(self) -> npt.NDArray[np.int64]:
        """(machines,) number of the phase that the step to come is in."""
        return self._phase

    @property
    def oracle_rows_per_s(self) -> Numbers:
        """(machines,) rows/s of the best plan, in the step to come."""
        assert self._oracle is not None, "made without an oracle"
        return self._oracle[self._phase, np.arange(len(self))]

    def step(self, plans: Plans) -> tuple[Seen, Numbers]:
        """Run one second; return what was seen, and the rows/s of it."""
        sums = self._state.run_second(self._now, plans, self._rng)
        seen = self._see(plans, sums)
        self.step_number += 1
        phase = self.population.phase(self.step_number)
        if np.any(phase != self._phase):
            self._phase = phase
            self._now = self.population.at(phase)
        return seen, sums.batches * self._state.rows

    def _see(self, plans: Plans, sums: _Sums) -> Seen:
        m, rows, tells = self._now, self._state.rows, self.population.tells
        with np.errstate(divide="ignore", invalid="ignore"):
            read_s = sums.read_busy_s / (sums.read * rows)
            transform_s = sums.made_busy_s / (sums.made * rows)
        alone = (m.read_cpu_s + m.read_io_s, m.transform_cpu_s)
        before = alone if self._last is None else self._last
        # A second in which a stage finished nothing says nothing new about it.
        read_s = np.where(sums.read > 0, read_s, before[0])
        transform_s = np.where(sums.made > 0, transform_s, before[1])
        self._last = (read_s, transform_s)
        used = np.where(plans.share > 0, 1.0, NAN)
        return Seen(
            plans=plans,
            limits=self.limits,
            rows_per_s=np.maximum(sums.batches, 0.1) * rows,
            wait=np.clip(sums.wait_s, 0.0, 1.0),
            read_s=read_s,
            transform_s=transform_s,
            read_busy=np.minimum(sums.read_busy_s / plans.readers, 1.0),
            transform_busy=np.minimum(sums.made_busy_s / plans.transformers, 1.0),
            fill=np.clip(sums.fill, 0.0, 1.0),
            busy_cores=np.where(tells["busy_cores"], np.minimum(sums.busy_cores + m.taken_cores, m.cores), NAN),
            process_cores=np.where(tells["process_cores"], np.maximum(sums.busy_cores, 0.01), NAN),
            gpu_busy=np.where(tells["gpu_busy"], np.minimum(sums.gpu_s + 1.0 - sums.wait_s, 1.0), NAN),
            gpu_transform_s=np.where(tells["gpu_transform_s"], m.gpu_transform_s, NAN) * used,
            gpu_copy_s=np.where(tells["gpu_copy_s"], 1.0 / m.copy_rows_per_s, NAN),
        )


def batch_rows(machine: Machine) -> Numbers:
    """Return the rows of a batch of each machine's job."""
    return 1.0 / machine.step_s / BATCHES_PER_S


def find_oracle(population: Population, *, warm: int = 2, seconds: int = 6, seed: int = 0) -> Numbers:
    """Return (phases, machines) rows/s of the best plan found by running plans around the solver's: slow.

    The best of a first run is run again for its rate, so that luck in the first is not counted.
    """
    rates = []
    for number in range(len(population.starts)):
        machine = population.phases.take(number)
        candidates = _candidates(machine, population.limits)
        tries = candidates.readers.shape[1]
        many = np.repeat(np.arange(len(population)), tries)
        flat = Plans(*(getattr(candidates, f.name).ravel() for f in fields(Plans)))
        first = _rate(machine.take(many), population.limits, many, flat, warm, seconds, seed)
        at = (np.arange(len(population)), np.argmax(first.reshape(-1, tries), axis=1))
        top = Plans(*(getattr(candidates, f.name)[at] for f in fields(Plans)))
        rates.append(_rate(machine, population.limits, np.arange(len(population)), top, warm, 4 * seconds, seed + 1))
    return np.stack(rates)


def _candidates(machine: Machine, limits: Limits) -> Plans:
    plans, _ = solve(machine, limits)
    factor = np.array([0.6, 1.0, 1.6, 2.6])
    readers, transformers, share = (one.ravel() for one in np.meshgrid(factor, factor, [0, 1, 2], indexing="ij"))
    other = np.where(plans.share > 0.5, 0.5 * plans.share, 0.5 + 0.5 * plans.share)
    shares = np.stack([plans.share, other, np.where(plans.share > 0.5, 0.0, 1.0)])
    return limits.take(np.s_[:, None]).clip(
        Plans(
            plans.readers[:, None] * readers,
            plans.transformers[:, None] * transformers,
            np.moveaxis(shares[share.astype(int)], 0, 1),
        )
    )


def _rate(
    machine: Machine,
    limits: Limits,
    of: npt.NDArray[np.int64],
    plans: Plans,
    warm: int,
    seconds: int,
    seed: int,
) -> Numbers:
    rng = np.random.default_rng(seed)
    state = _State(machine, limits.take(of), rng)
    for _ in range(warm):
        state.run_second(machine, plans, rng)
    return state.rows * sum(state.run_second(machine, plans, rng).batches for _ in range(seconds)) / seconds


@dataclass(slots=True)
class _Sums:
    """What one second counted, arrays over machines; of `read` and `made` the unit is a batch."""

    batches: Numbers
    wait_s: Numbers
    read: Numbers
    read_busy_s: Numbers
    made: Numbers
    made_busy_s: Numbers
    fill: Numbers
    busy_cores: Numbers
    gpu_s: Numbers

    @classmethod
    def zero(cls, count: int) -> _Sums:
        return cls(*(np.zeros(count) for _ in fields(cls)))


class _State:
    """What stands in every queue and what every thread is at; (machines, threads) arrays."""

    def __init__(self, machine: Machine, limits: Limits, rng: np.random.Generator) -> None:
        count = len(machine)
        slots = int(max(limits.max_readers.max(), limits.max_transformers.max()))
        self.rows = batch_rows(machine)  # the job's, whatever drifts later
        self._slot = np.arange(slots)
        self._read_phase, self._read_left = np.zeros((count, slots), np.int8), np.zeros((count, slots))
        self._make_phase, self._make_left = np.zeros((count, slots), np.int8), np.zeros((count, slots))
        self._on_gpu = np.zeros((count, slots), bool)
        self._raw, self._ready, self._step_left = np.zeros(count), np.zeros(count), np.zeros(count)
        self._raw_room, self._ready_room = RAW_ROOM + 4.0 * limits.cores, READY_ROOM + limits.cores

    def run_second(self, m: Machine, plans: Plans, rng: np.random.Generator) -> _Sums:
        """Run every machine for one second."""
        sums, left = _Sums.zero(len(m)), np.ones(len(m))
        storage = m.storage_rows_per_s * np.where(rng.random(len(m)) < STALL_CHANCE, STALL, 1.0)
        while (left > 0).any():
            self._start(m, plans, rng)
            left = left - self._advance(m, storage, plans, left, sums, rng)
            left[left < 1e-9] = 0.0
        return sums

    def _start(self, m: Machine, plans: Plans, rng: np.random.Generator) -> None:
        """Let every idle thread that may start do so; the trainer too."""
        takes = (self._step_left <= 0) & (self._ready >= 1)
        step_s = m.step_s + m.serial_s + m.contention * m.gpu_transform_s * plans.share
        self._step_left = np.where(takes, self.rows * step_s * _burst(rng, 0.1, takes.shape), self._step_left)
        self._ready = self._ready - takes
        reading = (self._read_phase != IDLE).sum(axis=1)
        room = np.floor((self._raw_room - self._raw) / CHUNK - reading)
        starts = self._first_idle(self._read_phase, plans.readers, room)
        if starts.any():
            io_s = CHUNK * self.rows * (m.read_io_s + 0.1 * m.read_cpu_s)
            self._read_left[starts] = _drawn(io_s, starts, rng)
            self._read_phase[starts] = FIRST
        making = (self._make_phase != IDLE).sum(axis=1)
        room = np.minimum(self._raw, np.floor(self._ready_room - self._ready - making))
        starts = self._first_idle(self._make_phase, plans.transformers, room)
        if starts.any():
            self._raw = self._raw - starts.sum(axis=1)
            of = np.nonzero(starts)[0]
            on_gpu = rng.random(len(of)) < plans.share[of]
            crowd = self.rows * np.maximum(making, 1) ** (1.0 - m.transform_scaling)
            work_s = np.where(on_gpu, m.pack_cpu_s[of], m.transform_cpu_s[of]) * crowd[of]
            self._on_gpu[starts] = on_gpu
            self._make_left[starts] = work_s * _burst(rng, BURST, of.shape)
            self._make_phase[starts] = FIRST

    def _first_idle(self, phase: npt.NDArray[np.int8], workers: Numbers, room: Numbers) -> Flags:
        idle = (phase == IDLE) & (self._slot < workers[:, None])
        return np.asarray(idle & (np.cumsum(idle, axis=1) <= room[:, None]))

    def _advance(
        self, m: Machine, storage: Numbers, plans: Plans, left: Numbers, sums: _Sums, rng: np.random.Generator
    ) -> Numbers:
        """Go to the next event of each machine, and let what ends there end; return the seconds gone."""
        io, decoding = self._read_phase == FIRST, self._read_phase == SECOND
        working, on_gpu = self._make_phase == FIRST, self._make_phase == SECOND
        stepping = self._step_left > 0
        of_step = m.step_cpu_s / m.step_s
        free = np.maximum(m.cores - m.taken_cores, 0.25)
        active = decoding.sum(axis=1) + working.sum(axis=1) + of_step * stepping
        many = np.maximum(active, 1e-9)
        speed = np.minimum(1.0, free / many) / (1.0 + m.crowding * np.maximum(many / free - 1.0, 0.0))
        step_speed = 1.0 - np.minimum(of_step, 1.0) * (1.0 - speed)
        asked = io.sum(axis=1) / (m.read_io_s + 0.1 * m.read_cpu_s)
        io_speed = np.minimum(1.0, storage / np.maximum(asked, 1e-9))
        made_speed = np.minimum(speed, m.memory_rows_per_s * m.transform_cpu_s / np.maximum(working.sum(axis=1), 1))
        gpu_speed = 1.0 / np.maximum(on_gpu.sum(axis=1), 1)
        read_speed = io * io_speed[:, None] + decoding * speed[:, None]
        make_speed = working * made_speed[:, None] + on_gpu * gpu_speed[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            read_s = np.where(read_speed > 0, self._read_left / read_speed, np.inf).min(axis=1)
            make_s = np.where(make_speed > 0, self._make_left / make_speed, np.inf).min(axis=1)
            step_s = np.where(stepping, self._step_left / step_speed, np.inf)
        gone = np.minimum(np.minimum(read_s, make_s), np.minimum(step_s, left))
        self._read_left = self._read_left - read_speed * gone[:, None]
        self._make_left = self._make_left - make_speed * gone[:, None]
        self._step_left = np.where(stepping, self._step_left - step_speed * gone, self._step_left)
        sums.wait_s += gone * ~stepping
        sums.read_busy_s += gone * (io.sum(axis=1) + decoding.sum(axis=1))
        sums.made_busy_s += gone * (working.sum(axis=1) + on_gpu.sum(axis=1))
        sums.fill += gone * (self._raw + self._ready) / (self._raw_room + self._ready_room)
        sums.busy_cores += gone * np.minimum(active, free)
        sums.gpu_s += gone * (on_gpu.any(axis=1))
        self._end(m, io, decoding, working, on_gpu, stepping, sums, rng)
        return np.asarray(gone)

    def _end(
        self,
        m: Machine,
        io: Flags,
        decoding: Flags,
        working: Flags,
        on_gpu: Flags,
        stepping: Flags,
        sums: _Sums,
        rng: np.random.Generator,
    ) -> None:
        done = stepping & (self._step_left <= 1e-9)
        self._step_left[done] = 0.0
        sums.batches += done
        read = self._read_left <= 1e-9
        came, decoded = io & read, decoding & read
        if came.any():
            crowd = np.maximum((io | decoding).sum(axis=1), 1) ** (1.0 - m.read_scaling)
            self._read_left[came] = _drawn(CHUNK * self.rows * m.read_cpu_s * crowd, came, rng)
            self._read_phase[came] = SECOND
        self._read_phase[decoded] = IDLE
        chunks = decoded.sum(axis=1)
        self._raw = self._raw + CHUNK * chunks
        sums.read += CHUNK * chunks
        made = self._make_left <= 1e-9
        packed = working & made & self._on_gpu
        if packed.any():
            gpu_s = self.rows * np.maximum(m.gpu_transform_s, 1.0 / m.copy_rows_per_s)
            self._make_left = np.where(packed, gpu_s[:, None], self._make_left)
            self._make_phase[packed] = SECOND
        ended = (working & made & ~self._on_gpu) | (on_gpu & made)
        self._make_phase[ended] = IDLE
        batches = ended.sum(axis=1)
        self._ready = self._ready + batches
        sums.made += batches


def _drawn(work_s: Numbers, those: Flags, rng: np.random.Generator) -> Numbers:
    """Return one draw for each thread of a (machines, threads) mask, around its machine's mean."""
    of = np.nonzero(those)[0]
    return work_s[of] * _burst(rng, BURST, of.shape)


def _burst(rng: np.random.Generator, spread: float, shape: tuple[int, ...]) -> Numbers:
    return np.asarray(np.exp(spread * rng.standard_normal(shape) - spread**2 / 2))
