"""A loader beside a trainer, step by step, for many machines at once: quasi-static, with noise and drift.

Within a step the pipeline runs at the rate that `physics` gives for its plan; what the loader would measure of that is
told with noise. A second simulator, of another structure, is in `events`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from intune_gpu.tuner.machines import Population
from intune_gpu.tuner.physics import Machine, Running, run, worker_s
from intune_gpu.tuner.seen import NAN, Numbers, Plans, Seen
from intune_gpu.tuner.solving import search, solve


class Simulator:
    """Steps a population under plans.

    Args:
        population: machines and what happens to them.
        noise: standard deviation of each signal, as a share of it.
        seed: of the noise.
        rates: (phases, machines) of the oracle, as `oracle` returns them; by default the fast ones.
    """

    def __init__(
        self, population: Population, *, noise: float = 0.05, seed: int = 0, rates: Numbers | None = None
    ) -> None:
        self.population = population
        self.limits = population.limits
        self.step_number = 0
        self._noise = noise
        self._rng = np.random.default_rng(seed)
        self._oracle = oracle(population, exact=False) if rates is None else rates
        self._phase = np.zeros(len(population), np.int64)
        self._now = population.phases.take(0)

    def __len__(self) -> int:
        return len(self.population)

    @property
    def machine(self) -> Machine:
        """The machines as they are in the step to come."""
        return self._now

    @property
    def phase(self) -> npt.NDArray[np.int64]:
        """(machines,) number of the phase that the step to come is in."""
        return self._phase

    @property
    def oracle_rows_per_s(self) -> Numbers:
        """(machines,) rows/s of the best plan, in the step to come."""
        return self._oracle[self._phase, np.arange(len(self))]

    def truth(self, plans: Plans) -> Numbers:
        """Return the rows/s that plans would give in the step to come, without noise: (machines,) or (machines, n)."""
        wide = plans.readers.ndim == 2
        return run(self._now.take(np.s_[:, None]) if wide else self._now, plans).rows_per_s

    def step(self, plans: Plans) -> tuple[Seen, Numbers]:
        """Run one step; return what was seen, and the true rows/s."""
        running = run(self._now, plans)
        seen = self._see(plans, running)
        self.step_number += 1
        phase = self.population.phase(self.step_number)
        if np.any(phase != self._phase):
            self._phase = phase
            self._now = self.population.at(phase)
        return seen, running.rows_per_s

    def _see(self, plans: Plans, running: Running) -> Seen:
        m, rate, slow = self._now, running.rows_per_s, running.slowdown
        read_alone_s, transform_alone_s = worker_s(m, plans)
        # Storage that gives less than is asked looks like a longer wait of each reader.
        starved = np.maximum(plans.readers / m.storage_rows_per_s - read_alone_s, 0.0)
        starved *= np.minimum(rate / m.storage_rows_per_s, 1.0) ** 8
        read_s = (read_alone_s - m.read_io_s) * slow + m.read_io_s + starved
        transform_s = transform_alone_s * slow
        gpu_s = m.gpu_transform_s * plans.share
        tells, noisy = self.population.tells, self._noisy
        wait = np.clip(1.0 - rate / running.demand_rows_per_s, 0.0, 1.0)
        fill = 1.0 / (1.0 + (running.demand_rows_per_s / running.supply_rows_per_s) ** 6)
        busy = np.minimum(running.busy_cores + m.taken_cores, m.cores)
        on_gpu = np.where(plans.share > 0, 1.0, NAN)
        return Seen(
            plans=plans,
            limits=self.limits,
            rows_per_s=noisy(rate),
            wait=np.clip(wait + self._noise * self._rng.standard_normal(len(self)) * np.sqrt(wait + 0.01), 0.0, 1.0),
            read_s=noisy(read_s),
            transform_s=noisy(transform_s),
            read_busy=np.minimum(noisy(np.minimum(rate * read_s / plans.readers, 1.0)), 1.0),
            transform_busy=np.minimum(noisy(np.minimum(rate * transform_s / plans.transformers, 1.0)), 1.0),
            fill=np.minimum(noisy(fill), 1.0),
            busy_cores=np.where(tells["busy_cores"], noisy(busy), NAN),
            process_cores=np.where(tells["process_cores"], noisy(running.busy_cores), NAN),
            gpu_busy=np.where(tells["gpu_busy"], np.minimum(noisy(rate * (m.step_s + gpu_s)), 1.0), NAN),
            gpu_transform_s=np.where(tells["gpu_transform_s"], noisy(m.gpu_transform_s), NAN) * on_gpu,
            gpu_copy_s=np.where(tells["gpu_copy_s"], noisy(1.0 / m.copy_rows_per_s), NAN),
        )

    def _noisy(self, value: Numbers) -> Numbers:
        return value * np.exp(self._noise * self._rng.standard_normal(value.shape))


def oracle(population: Population, *, exact: bool) -> Numbers:
    """Return (phases, machines) rows/s of the best plans: searched for judging, or solved, which is fast, to train."""
    find = search if exact else solve
    return np.stack(
        [find(population.phases.take(number), population.limits)[1] for number in range(len(population.starts))]
    )
