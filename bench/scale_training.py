"""End to end into training: the same steps of a TorchRec DLRM, fed by ours, by DALI, by a `DataLoader`, and by nothing.

All feeds share one model, on this machine's device, and take turns: a sample is a few steps that warm up and the steps
that are timed. The ideal is the same steps on batches that lie on the device already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from time import perf_counter, process_time
from typing import Any, TypedDict

import psutil
import torch
from torch.utils.data import DataLoader
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import intune_gpu as ig
from bench import dataloader_peer, names
from bench.checks import PEER_MAX_ULP, check_equal
from bench.clicks import SPARSE
from bench.dataloader_peer import Item
from bench.harness import CaseRecord, Engine, Role, Sample, ratio, record
from bench.report import Figure, figure
from bench.scale_data import Data
from intune_gpu.core.errors import MissingPackageError
from intune_gpu.engine.order import epoch_start
from intune_gpu.train.config import ModelConfig
from intune_gpu.train.feed import Feed
from intune_gpu.train.ideal import Kept
from intune_gpu.train.meter import WARM_STEPS
from intune_gpu.train.model import build
from intune_gpu.train.place import Place, joined

KEPT = 16


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        data: Parquet with int32 ids.
        batch_size: rows of a step.
        steps: that are timed in a sample.
        rounds: each with a sample of every feed.
        seed: of weights and hashes.
        tiny: small tables.
    """

    data: Data
    batch_size: int
    steps: int
    rounds: int
    seed: int
    tiny: bool


class Found(TypedDict):
    """What was measured."""

    case: CaseRecord
    figures: list[Figure]
    skipped: dict[str, str]


@dataclass
class Feeding:
    """One way to get batches.

    Attributes:
        name: as tables show it.
        role: ours, a peer, or the bound.
        note: what it is.
        epoch: begins an epoch.
        resident: whether its batches are on the device already, and end never.
        samples: of the timed steps.
        wait_pct: of their time, spent waiting for a batch, sample by sample.
    """

    name: str
    role: Role
    note: str
    epoch: Callable[[], Iterator[ig.Batch]]
    resident: bool = False
    samples: list[Sample] = field(default_factory=list)
    wait_pct: list[float] = field(default_factory=list)


class _Steps:
    """Runs samples on one model.

    Args:
        job: what is trained.
        place: the device.
    """

    def __init__(self, job: Job, place: Place) -> None:
        self._job, self._place = job, place
        self._recipe = job.data.recipe
        size = ModelConfig(embedding_dim=4, bottom_mlp=(8,), top_mlp=(8,)) if job.tiny else ModelConfig()
        self._model = build(self._recipe, size, job.seed, place)

    def sample(self, feeding: Feeding) -> None:
        """Train some steps, time the next ones, and add them to the feeding's samples."""
        on_gpu = self._place.device.type == "cuda"
        pipeline = (TrainPipelineSparseDist if on_gpu else TrainPipelineBase)(
            self._model.module, self._model.optimizer, self._place.device
        )
        self._model.module.train()
        feed = _Resident(feeding.epoch()) if feeding.resident else Feed(feeding.epoch(), self._recipe, pin=on_gpu)
        for _ in range(WARM_STEPS):
            pipeline.progress(feed)
            feed.trained()
        self._finish()
        waited, cpu, begin = feed.wait_s, _cpu_s(), perf_counter()
        for _ in range(self._job.steps):
            pipeline.progress(feed)
            feed.trained()
        self._finish()
        seconds = perf_counter() - begin
        feeding.samples.append({"seconds": seconds, "cpu_seconds": _cpu_s() - cpu})
        feeding.wait_pct.append(100.0 * (feed.wait_s - waited) / seconds)
        feed.close()
        if on_gpu:
            pipeline.detach()
        else:
            pipeline.reset()

    def _finish(self) -> None:
        if self._place.device.type == "cuda":
            torch.cuda.synchronize(self._place.device)


class _Resident(Iterator[ig.Batch]):
    """Batches on the device, given as a `Feed` gives them, without a look at them."""

    wait_s = 0.0

    def __init__(self, batches: Iterator[ig.Batch]) -> None:
        self._batches = batches

    def __next__(self) -> ig.Batch:
        return next(self._batches)

    def trained(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


class _Workers:
    """A `DataLoader` and its workers, who run already.

    Args:
        job: what is read.
        count: of workers.
    """

    def __init__(self, job: Job, count: int) -> None:
        self._loader: DataLoader[Item] | None = dataloader_peer.loader(job.data.path, job.batch_size, job.seed, count)
        self._cursor = epoch_start(0, job.data.rows, 1)
        self._lengths: dict[int, torch.Tensor] = {}
        self.items: Iterator[Item] = iter(self._loader)
        self.feeding = Feeding(
            f"DataLoader, {count} worker{'s' * (count > 1)}",
            "peer",
            "the whole job in pyarrow and NumPy, row groups over workers, an item a batch; the better of 1 and all",
            self._epoch,
        )

    def close(self) -> None:
        """End the workers. May be called more than once."""
        self.items = iter(())
        self._loader = None

    def _epoch(self) -> Iterator[ig.Batch]:
        assert self._loader is not None
        for dense, ids, label in self._loader:
            rows = len(label)
            lengths = self._lengths.setdefault(rows, torch.ones(len(SPARSE) * rows, dtype=torch.int32))
            sparse = KeyedJaggedTensor(list(SPARSE), ids.view(-1), lengths=lengths, stride=rows)
            yield ig.Batch(dense, sparse, label, self._cursor)


def measured(job: Job) -> Found:
    """Train in turns, and return what was found."""
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        # Workers are forked here, before anything has started threads.
        workers = [_Workers(job, count) for count in sorted({1, len(os.sched_getaffinity(0))})]
        for each in workers:
            stack.callback(each.close)
        place = stack.enter_context(joined("auto"))
        ours = _ours(job, place, stack, skipped)
        checks = _checked(job, ours, workers)
        steps = _Steps(job, place)
        for each in workers:
            steps.sample(each.feeding)
        workers.sort(key=lambda each: each.feeding.samples[0]["seconds"])
        for slower in workers[1:]:
            slower.close()
        feedings = [*ours, workers[0].feeding, _ideal(ours[0], place)]
        for feeding in feedings:
            steps.sample(feeding)  # warms up
            feeding.samples, feeding.wait_pct = [], []
        for _ in range(job.rounds):
            for feeding in feedings:
                steps.sample(feeding)
        name = f"DLRM on {place.device.type}, {names.batches(job.batch_size)}"
    return {"case": _case(job, name, feedings, checks), "figures": _figures(name, feedings), "skipped": skipped}


def _ours(job: Job, place: Place, stack: ExitStack, skipped: dict[str, str]) -> list[Feeding]:
    on_gpu = place.device.type == "cuda"
    where: dict[str, Any] = {"device": str(place.device), "placement": place.placement} if on_gpu else {"device": "cpu"}
    loader = stack.enter_context(ig.Loader(job.data.path, job.data.recipe, batch_size=job.batch_size, **where))
    found = [Feeding(names.OURS, "ours", "Loader, its default plan", lambda: iter(loader))]
    try:
        from intune_gpu.dali.loader import DALILoader

        dali = stack.enter_context(DALILoader(job.data.path, job.data.recipe, batch_size=job.batch_size))
    except (ImportError, MissingPackageError) as error:
        skipped["training, DALI"] = str(error)
        return found
    note = "DALILoader, which is behind DALIRecIterator, in host memory"
    return [*found, Feeding(names.BY_DALI, "ours", note, lambda: iter(dali))]


def _ideal(ours: Feeding, place: Place) -> Feeding:
    kept = Kept()
    for batch in islice(ours.epoch(), KEPT):
        kept.offer(batch)
    resident = [batch.to(place.device) for batch in kept.batches]
    note = f"the same steps on {len(resident)} batches that are on the device already: nothing is loaded"
    return Feeding(names.RESIDENT, "bound", note, lambda: cycle(resident), resident=True)


def _checked(job: Job, ours: Sequence[Feeding], workers: Sequence[_Workers]) -> list[str]:
    """Compare all batches of an epoch."""
    native, *others = [[_item(batch) for batch in feeding.epoch()] for feeding in ours]
    found = []
    for feeding, items in zip(ours[1:], others, strict=True):
        for mine, wanted in zip(items, native, strict=True):
            for part, other in zip(mine, wanted, strict=True):
                check_equal(feeding.name, "batches", part.numpy(), other.numpy())
        found.append(f"{feeding.name}: {len(items)} batches equal {names.OURS}'s")
    for each in workers:
        items = list(each.items)
        ulps = dataloader_peer.check(items, native, PEER_MAX_ULP)
        found.append(
            f"{each.feeding.name}: ids and labels of {len(items)} batches equal {names.OURS}'s, dense within {ulps} ulp"
        )
    return found


def _item(batch: ig.Batch) -> Item:
    ids = batch.sparse.values().view(len(SPARSE), -1)
    return batch.dense.cpu().clone(), ids.cpu().clone(), batch.label.cpu().clone()


def _case(job: Job, name: str, feedings: Sequence[Feeding], checks: list[str]) -> CaseRecord:
    rows = job.batch_size * job.steps
    engines = [record(Engine(f.name, f.role, f.note, lambda: None), rows, f.samples) for f in feedings]
    return {
        "section": "training",
        "name": name,
        "threads": len(os.sched_getaffinity(0)),
        "rows": rows,
        "details": {"batch_rows": float(job.batch_size), "steps": float(job.steps)},
        "checks": checks,
        "engines": engines,
        "ratios": [ratio(engines[0], other) for other in engines[1:]],
    }


def _figures(name: str, feedings: Sequence[Feeding]) -> list[Figure]:
    *fed, ideal = feedings
    found = []
    for feeding in fed:
        pairs = zip(feeding.samples, ideal.samples, strict=True)
        below = [100.0 * (1.0 - best["seconds"] / mine["seconds"]) for mine, best in pairs]
        found.append(
            figure("training", f"{name}: {feeding.name}: exposed wait", "%", feeding.wait_pct, "of the steps' time")
        )
        note = "than the same steps on resident batches of the same round; below zero it was faster"
        found.append(figure("training", f"{name}: {feeding.name}: below ideal", "%", below, note))
    return found


def _cpu_s() -> float:
    """Return the CPU seconds of this process and its workers."""
    others = (child.cpu_times() for child in psutil.Process().children(recursive=True))
    return float(process_time() + sum(times.user + times.system for times in others))
