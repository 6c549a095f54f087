"""The training loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist

from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import IntuneError
from intune_gpu.loader import Loader
from intune_gpu.recipe import Recipe
from intune_gpu.train import checkpoint, tuning, weights
from intune_gpu.train.config import Config
from intune_gpu.train.evaluate import Evaluation, evaluate
from intune_gpu.train.feed import Feed, Taken
from intune_gpu.train.ideal import Ideal, Kept, measure
from intune_gpu.train.meter import WARM_STEPS, Meter
from intune_gpu.train.metrics import versions
from intune_gpu.train.model import Model
from intune_gpu.train.place import Place
from intune_gpu.train.progress import Screen, Snapshot
from intune_gpu.train.scalars import Scalars
from intune_gpu.train.stop import StopRequest
from intune_gpu.tuner.knobs import words

SCALARS_A_RUN = 1000
STEPS_A_QUESTION = 16
LEAST_STEPS_A_SCALAR = 20  # on a GPU, which is waited for each time


class DivergedError(IntuneError):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class Job:
    """Everything that training needs.

    Attributes:
        config: what was asked for.
        recipe: names the features.
        place: the device and the ranks.
        model: what is trained.
        loader: of the training rows.
        held_out: of the rows to evaluate on, or None.
        checkpoints: the folder to save in.
        screen: what the user sees.
        scalars: TensorBoard's.
        stop: what signals ask for.
    """

    config: Config
    recipe: Recipe
    place: Place
    model: Model
    loader: Loader
    held_out: Loader | None
    checkpoints: Path
    screen: Screen
    scalars: Scalars
    stop: StopRequest

    @property
    def sparse_dist(self) -> bool:
        """Whether TorchRec's `TrainPipelineSparseDist` is used, else `TrainPipelineBase`."""
        asked = self.config.training.pipeline
        overlaps = self.place.world_size > 1 or self.place.device.type == "cuda"
        return asked == "sparse-dist" or (asked == "auto" and overlaps)

    @property
    def pipeline_name(self) -> str:
        """TorchRec's name of the train pipeline."""
        return "TrainPipelineSparseDist" if self.sparse_dist else "TrainPipelineBase"


class Trainer:
    """Trains what is left of a job, and knows how far it is.

    Args:
        job: what to train.
        meter: what was trained before, where training is resumed.

    Attributes:
        meter: counts rows, steps, times and losses.
        evaluation: the last one.
        ideal: how fast training is without loading, where that was asked for.
        saved: the last checkpoint.
        stopped_by: the signal that ended training, or 0.
        first_batch_s: when the first batch came, a `perf_counter`.
        first_step_s: when the first step was over.
    """

    def __init__(self, job: Job, meter: Meter) -> None:
        self.job = job
        self.meter = meter
        self.evaluation: Evaluation | None = None
        self.ideal: Ideal | None = None
        self.saved: Path | None = None
        self.stopped_by = 0
        self.first_batch_s: float | None = None
        self.first_step_s: float | None = None
        self._saved_step = -1
        self._cursor: Cursor | None = None
        self._feed: Feed | None = None
        self._kept = Kept() if job.config.training.measure_ideal else None
        kind = TrainPipelineSparseDist if job.sparse_dist else TrainPipelineBase
        self._pipeline = kind(job.model.module, job.model.optimizer, job.place.device)
        steps = job.config.training.max_steps or job.config.training.epochs * len(job.loader)
        least = 1 if job.place.device.type == "cpu" else LEAST_STEPS_A_SCALAR
        self._scalars_every = max(least, steps // SCALARS_A_RUN)

    def run(self) -> None:
        """Train until the epochs or the steps that were asked for are over, or a signal came; save, and evaluate.

        Raises:
            IntuneError: the data or the disk failed, or the loss is not a number.
        """
        for feed in self._feeds():
            self._feed = feed
            self.job.model.module.train()
            for taken, loss in self._steps(feed):
                self.meter.note(taken, loss, feed.wait_s)
                self._report()
                self.stopped_by = self._asked_to_stop()
                every = self.job.config.keeping.checkpoint_every
                if self.stopped_by or (every and self.meter.step % every == 0):
                    self.save()
                if self.stopped_by or self._enough_steps:
                    break
            self._free_model()
            if self.stopped_by:
                return
            if self._enough_steps or self.meter.epoch + 1 == self.job.config.training.epochs:
                self.save()
            self._evaluate()
            if self.stopped_by:
                self.save()
                return
        if self.evaluation is None:  # nothing was left to train
            self._evaluate()

    def save(self) -> None:
        """Save a checkpoint behind the last trained batch, unless there is one; all ranks do it together.

        A model that was trained on a batch that it should not have seen is never saved.
        """
        if self.meter.step == self._saved_step or self._cursor is None or self.spoiled:
            return
        with tuning.away(self.job.loader, "checkpoint"):
            self._save(self._cursor)

    def _save(self, cursor: Cursor) -> None:
        job, meter = self.job, self.meter
        self._catch_up()
        if self._feed is not None:
            self._feed.look()
        self._check_loss()
        if job.place.leads:
            checkpoint.begin(job.checkpoints, meter.step)
        job.place.wait()
        partial = checkpoint.partial_folder(job.checkpoints, meter.step)
        weights.write(job.model, partial, job.place)
        job.place.wait()
        rows = job.place.sum(meter.rows)
        if job.place.leads:
            tuning.write(job.loader, partial)
            saved = checkpoint.Saved(
                step=meter.step,
                epoch=meter.epoch,
                rows=rows,
                loss_first=meter.loss_first or 0.0,
                bad_rows=meter.bad_rows,
                loader=job.loader.state_dict(cursor=cursor),
                config=job.config.to_json(),
                recipe=job.recipe.digest,
                tensor_files=[weights.file_name(rank) for rank in range(job.place.world_size)],
                versions=versions(),
                saved_at_ns=checkpoint.now_ns(),
            )
            checkpoint.finish(job.checkpoints, saved)
        job.place.wait()
        self.saved, self._saved_step = checkpoint.whole_folder(job.checkpoints, meter.step), meter.step

    def measure_ideal(self) -> None:
        """Time the steps without loading, where that was asked for, and put the weights back; all ranks call this."""
        job = self.job
        if self._kept is None or self._feed is None or self.saved is None or self._saved_step != self.meter.step:
            return
        self._feed.close()
        self._pipeline.reset()  # --max-steps leaves batches in it
        job.model.module.train()
        self.ideal = measure(self._pipeline, self._kept, job.place, job.stop)
        self._free_model()
        self._pipeline.reset()
        weights.load(job.model, self.saved, [weights.file_name(rank) for rank in range(job.place.world_size)])
        self.stopped_by = job.place.any(job.stop.signal)

    @property
    def spoiled(self) -> bool:
        """Whether a batch was trained that should not have been, which a GPU tells many steps later."""
        return self._feed is not None and self._feed.spoiled

    def _feeds(self) -> Iterator[Feed]:
        """Give each epoch that is left."""
        pin = self.job.place.device.type == "cuda"
        while not self._enough_steps:
            feed = Feed(iter(self.job.loader), self.job.recipe, pin=pin, keep=self._kept)
            if feed.epoch is None or feed.epoch >= self.job.config.training.epochs:
                return
            self.first_batch_s = self.first_batch_s or perf_counter()
            self.meter.begin_epoch(feed.epoch, feed.wait_s)
            yield feed

    def _steps(self, feed: Feed) -> Iterator[tuple[Taken, torch.Tensor]]:
        """Train one epoch, batch by batch."""
        while True:
            began = perf_counter()
            try:
                loss, _, _ = self._pipeline.progress(feed)
            except StopIteration:
                return
            taken = feed.trained()
            self._cursor = taken.cursor
            now = perf_counter()
            self.meter.train_s += now - began
            if self.meter.steps_here + 1 == WARM_STEPS:
                self._catch_up()  # what follows is measured by itself
            self.first_step_s = self.first_step_s or now
            yield taken, loss

    @property
    def _enough_steps(self) -> bool:
        most = self.job.config.training.max_steps
        return most is not None and self.meter.step >= most

    def _asked_to_stop(self) -> int:
        """Return the signal that any rank got, or 0; asking waits for GPUs, so there it is done in some steps only."""
        place = self.job.place
        waits = place.device.type == "cuda" and place.world_size > 1
        return 0 if waits and self.meter.step % STEPS_A_QUESTION else place.any(self.job.stop.signal)

    def _free_model(self) -> None:
        """Take the model out of the pipeline, so that it can be called directly."""
        self._catch_up()
        if isinstance(self._pipeline, TrainPipelineSparseDist):
            self._pipeline.detach()
        else:
            self._pipeline.reset()

    def _catch_up(self) -> None:
        """Wait for a GPU, which is behind the host, before its numbers are read: that is time of the steps."""
        if self.job.place.device.type == "cuda":
            began = perf_counter()
            torch.cuda.synchronize(self.job.place.device)
            self.meter.train_s += perf_counter() - began

    def _evaluate(self) -> None:
        job = self.job
        if job.held_out is None:
            return
        job.screen.end_line()
        with tuning.away(job.loader, "evaluation"):
            self.evaluation = evaluate(job.model, job.held_out, job.recipe, job.place, job.stop)
        if self.evaluation is None:
            self.stopped_by = job.place.any(job.stop.signal)
            return
        auc, loss = self.evaluation.auc, self.evaluation.loss
        shown = "none" if auc is None else f"{auc:.4f}"
        job.screen.say(
            f"step {self.meter.step}: AUC {shown}, loss {loss:.4f} on {self.evaluation.rows:,} held-out rows"
        )
        job.scalars.add(self.meter.step, {"eval/auc": auc, "eval/loss": loss})

    def _report(self) -> None:
        meter, job = self.meter, self.job
        if meter.step % self._scalars_every == 0:
            self._catch_up()
            self._check_loss()
            values = {
                "train/loss": meter.loss(),
                "train/rows_per_s": meter.rows_per_s() * job.place.world_size,
                "train/wait_pct": meter.wait_pct,
            }
            job.scalars.add(meter.step, values)
        if job.screen.due and meter.steps_here > 1:
            self._catch_up()
            self._check_loss()
            job.screen.show(self._snapshot())

    def _snapshot(self) -> Snapshot:
        meter, job, training = self.meter, self.job, self.job.config.training
        assert self._cursor is not None
        ranks = job.place.world_size
        of_epoch = job.loader.source.rows // ranks
        done, total = meter.epoch * of_epoch + self._cursor.rows_done, training.epochs * of_epoch
        if training.max_steps is not None:
            left_steps = training.max_steps - meter.step
            total = min(total, done + left_steps * job.config.data.batch_size)
        rows_per_s = meter.recent_rows_per_s()
        return Snapshot(
            epoch=meter.epoch + 1,
            epochs=training.epochs,
            rows=done * ranks,
            total_rows=total * ranks,
            rows_per_s=rows_per_s * ranks,
            loss=meter.loss(),
            wait_pct=meter.wait_pct,
            eta_s=(total - done) / max(rows_per_s, 1e-9),
            plan=words(job.loader.plan, job.loader.groups),
        )

    def _check_loss(self) -> None:
        if not self.meter.finite:
            if self._feed is not None:
                self._feed.look()  # what the batches held is a better reason
            raise DivergedError(
                f"loss: expected a number, found {self.meter.loss()} at step {self.meter.step}; lower --lr "
                f"(it is {self.job.config.model.lr:g}) and resume from the last checkpoint, or start anew"
            )
