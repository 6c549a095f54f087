"""Loader: joins source, engine and bad-row policy; what people iterate over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import BudgetError, IntuneError
from intune_gpu.core.placement import ALL_ON_GPU, Placement
from intune_gpu.core.plan import Plan
from intune_gpu.core.source import Source
from intune_gpu.engine import order
from intune_gpu.engine.bad_rows import BadRowBook
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.budget import Budget, costs_of
from intune_gpu.engine.gpu.opening import open_device
from intune_gpu.engine.making import host_transform
from intune_gpu.engine.pipeline import Pipeline
from intune_gpu.engine.program import Program
from intune_gpu.engine.resume import checked_cursor, saved_state
from intune_gpu.engine.stages import NO_STREAMS, Clocks, Gauges, LoaderStats
from intune_gpu.engine.state import Transform
from intune_gpu.opening import check_arguments, checked_placement, open_source
from intune_gpu.recipe import Recipe
from intune_gpu.sources.files import Paths
from intune_gpu.telemetry.host import Host
from intune_gpu.tuner.attaching import attach, capped, limits_of
from intune_gpu.tuner.controller import Controller
from intune_gpu.tuner.policy import Policy
from intune_gpu.tuner.seen import Limits

if TYPE_CHECKING:
    from intune_gpu.engine.gpu.stage import GpuStage

MAX_DEFAULT_READERS = 16


class Loader:
    """Batches of a recipe over files, in a fixed order, prefetched by threads. One `for` is one epoch.

    Which rows a batch holds, and every byte of it, depends on the data, the recipe, `batch_size`, `shuffle`, `seed`,
    the epoch, `drop_last`, `rank`, `world_size` and `on_bad_row` only; never on workers, budget or timing. Leaving a
    loop ends its epoch; a new iterator closes the one before it.

    Args:
        data: a file, directory, glob, URL or list of these; or a `Source`, which stays open when the loader is closed.
        recipe: what to compute.
        batch_size: rows of a batch; a bad row is missing from it, never made up for.
        format: `"auto"` (by the files' endings), `"parquet"`, `"tsv"` or `"csv"`.
        columns: names of all fields of headerless text; see `opening.open_source`.
        device: where batches come to stand: `"cpu"`, `"cuda"`, `"cuda:1"`, or `"auto"`, a GPU if there is one.
        shuffle: permute chunks, and the rows within windows of several chunks, anew in each epoch.
        seed: of the shuffle, 0 to 2**64 - 1.
        drop_last: leave out a last batch of fewer rows.
        rank: of this process, from 0.
        world_size: processes that share the rows; each gets the same number of them, and at most `world_size - 1` rows
            of an epoch are given to nobody.
        readers: threads that decode; by default one a core, at most 16.
        transformers: threads that transform; by default one a core, at most 4.
        prefetch_bytes: bytes in flight, what workers need included; by default 512 MiB, or the least that will do. Rows
            that turn out larger than they were estimated cost depth and workers; the budget is passed only by what
            the next batch needs of them (docs/design.md, Bytes in flight).
        on_bad_row: `"quarantine"` (write it to a file), `"drop"` or `"raise"`.
        max_bad_fraction: above this share of bad rows, iterating raises.
        quarantine_dir: where `bad_rows.jsonl` is made; by default the working directory.
        index_dtype: of the sparse ids, `"int64"` or `"int32"`.
        placement: on a GPU, where features are made: `"cpu"`, `"gpu"`, a share of the batches from 0 to 1, or a mapping
            of group names (see `groups`; `"*"` for all others) to those. By default all on the GPU.
        gpu_budget_bytes: bytes on the GPU for batches that nobody has taken and for what they are made of; by default a
            quarter of what is free.
        tuner: who moves readers, transformers and placement while batches are taken: `"rl"`, `"model"` or
            another name of `tuner.policies`, a `Policy` of one's own, or None or `"off"`. It begins with what
            `readers` and `transformers` say, where they do.
        decisions: a file to which the tuner adds what it saw and did, a line of JSON each; None keeps none.
        tuner_every_s: seconds between two of its steps.

    Raises:
        RecipeError: the recipe does not fit the data.
        DataError: the data cannot be read.
        BudgetError: `prefetch_bytes` or `gpu_budget_bytes` is below what is needed.
        DeviceError: there is no such device, or it cannot be used.
        MissingPackageError: the device needs a package that is not installed.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        data: Paths | Source,
        recipe: Recipe,
        *,
        batch_size: int = 8192,
        format: str = "auto",
        columns: Sequence[str] | None = None,
        device: Any = "auto",
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        readers: int | None = None,
        transformers: int | None = None,
        prefetch_bytes: int | None = None,
        on_bad_row: str = "quarantine",
        max_bad_fraction: float = 0.01,
        quarantine_dir: str | os.PathLike[str] | None = None,
        index_dtype: str = "int64",
        placement: Placement | str | float | Mapping[str, str | float] | None = None,
        gpu_budget_bytes: int | None = None,
        tuner: str | Policy | None = None,
        decisions: str | os.PathLike[str] | None = None,
        tuner_every_s: float = 1.0,
    ) -> None:
        check_arguments(recipe, batch_size, seed, rank, world_size)
        there = open_device(device)
        placed = checked_placement(placement, there is not None)
        self._batch_size, self._shuffle, self._seed, self._drop_last = batch_size, shuffle, seed, drop_last
        self._rank, self._world_size = rank, world_size
        self._closed = False
        self._limits: tuple[int, Limits] | None = None
        self._run: Pipeline[Any] | None = None
        self._book = BadRowBook(on_bad_row, max_bad_fraction, quarantine_dir or ".", rank, world_size)
        self._owns_source = not isinstance(data, Source)
        self._source = data if isinstance(data, Source) else open_source(data, recipe, format=format, columns=columns)
        self._recipe = recipe
        self._pool = self._source.pool or BufferPool()
        program = Program(recipe, self._source.schema, index_dtype, self._pool)
        self._gpu: GpuStage | None = None
        if there is not None:
            from intune_gpu.engine.gpu.stage import GpuStage  # loads numba-cuda, which a CPU's user need not have

            self._gpu = GpuStage(program, there, placed or ALL_ON_GPU, batch_size, self._source, gpu_budget_bytes)
        self._transform: Transform[Any] = self._transform_of(program)
        self._budget = self._new_budget()
        self._plan = replace(self._first_plan(readers, transformers, prefetch_bytes), placement=placed)
        self._clocks = Clocks()
        self._next = order.epoch_start(0, self._source.rows, world_size)
        self._cursor = self._next
        chosen = readers is not None or transformers is not None
        index = None if there is None else there.where.index
        self._tuner = attach(self, tuner, decisions, tuner_every_s, batch_size, seed, start=not chosen, gpu=index)

    def __len__(self) -> int:
        """Batches of a whole epoch for this rank."""
        return order.batch_count(self._source.rows // self._world_size, self._batch_size, self._drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """Begin the next epoch, or go on where `load_state_dict` said."""
        if self._closed:
            raise IntuneError("loader: expected to be open, found closed; make a new Loader")
        self._end_run()
        start, rows = self._next, self._source.rows
        self._next = order.epoch_start(start.epoch + 1, rows, self._world_size)
        of_epoch = order.epoch_order(
            self._source.chunks,
            seed=self._seed,
            epoch=start.epoch,
            shuffle=self._shuffle,
            window_rows=order.WINDOW_ROWS,
        )
        mine = order.share(start.segments, self._rank, self._world_size)
        left = order.between(mine, start.rows_done, order.total(mine))
        run = order.Run(of_epoch, left, self._batch_size, self._drop_last)
        self._run = self._pipeline(run)
        return self._batches(self._run, run, start)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        rows, epoch = self._source.rows, self._next.epoch
        return f"Loader({rows:,} rows, {len(self):,} batches of {self._batch_size} an epoch, next epoch {epoch})"

    @property
    def source(self) -> Source:
        """Where the rows come from."""
        return self._source

    @property
    def plan(self) -> Plan:
        """Workers and budget, as they are now: fewer workers than asked for where the budget has no room for them."""
        run = self._run
        plan = self._budget.costs.fit(self._plan) if run is None else run.plan
        return replace(self._plan, readers=plan.readers, transformers=plan.transformers)

    def apply(self, plan: Plan) -> None:
        """Change workers and budget, at once and at any time; the batches stay the same.

        A plan with more workers than its budget allows is clipped before it runs, and again whenever rows grow: `plan`
        tells what is left. The budget itself is never raised; one that holds no worker of each stage is refused.

        Raises:
            BudgetError: the plan's `prefetch_bytes` is below `min_prefetch_bytes(1, 1)`, by what was known at first.
        """
        if not isinstance(plan, Plan):
            raise ValueError(f"plan: expected a Plan, found {plan!r}; write Plan(readers=2, transformers=1)")
        self._check_budget(replace(plan, readers=1, transformers=1))
        checked_placement(plan.placement, self._gpu is not None)
        running = self._running_plan(plan)
        self._plan = plan
        run = self._run  # the tuner calls from a thread of its own, and the epoch may end in between
        if run is not None:
            run.apply(running)

    def max_workers(self, prefetch_bytes: int | None = None) -> tuple[int, int]:
        """Return what a budget allows by the sizes that are known now: (most readers, most transformers).

        Each is the most beside a single worker of the other stage; `apply` clips what is too much together.

        Args:
            prefetch_bytes: the budget; by default the present one.
        """
        return self._budget.costs.most_workers(self._plan.prefetch_bytes if prefetch_bytes is None else prefetch_bytes)

    @property
    def tuner(self) -> Controller | None:
        """What tunes this loader, or None."""
        return self._tuner

    @property
    def limits(self) -> Limits:
        """Between what a plan may move: cores, the most readers and transformers, and whether there is a GPU."""
        budget = self._plan.prefetch_bytes
        if self._limits is None or self._limits[0] != budget:
            cores = Host().size().cores
            known = self._source.chunks, budget, self.min_prefetch_bytes, bool(self.groups), cores
            self._limits = budget, limits_of(*known)
        return capped(self._limits[1], *self.max_workers())  # rows that grew leave room for fewer

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of features that a placement can tell apart; none where batches stay in host memory."""
        return () if self._gpu is None else self._gpu.groups

    def min_prefetch_bytes(self, readers: int, transformers: int) -> int:
        """Return the smallest budget for so many workers: a window, a chunk a reader, a batch a transformer.

        By estimates from before the first row; rows that turn out larger may need more.
        """
        return self._estimates.floor(readers, transformers)

    def stats(self) -> LoaderStats:
        """Return what was done since the loader was made, and what is in flight."""
        run = self._run
        streams = NO_STREAMS if self._gpu is None else self._gpu.device.times()
        return self._clocks.picture(Gauges() if run is None else run.gauges(), self._plan.prefetch_bytes, streams)

    def state_dict(self, cursor: Cursor | None = None) -> dict[str, Any]:
        """Return plain values that `json.dumps` takes, from which `load_state_dict` resumes.

        Args:
            cursor: of the last batch that was trained; by default of the last one given out, which behind anything that
                prefetches is too far.
        """
        at = self._cursor if cursor is None else cursor
        return saved_state(at, self._fingerprint())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next `for` go on behind the batch that a state was taken at; a running one ends.

        With another `world_size` than the state's, the rows that all old ranks had left are shared out anew; the states
        of all ranks must be of the same step, and any of them will do.

        Raises:
            ResumeError: the state is of other data, recipe or settings, or not a state.
        """
        cursor = checked_cursor(state, self._fingerprint(), self._source.rows)
        self._end_run()
        self._cursor = cursor
        over = order.is_over(cursor, self._batch_size, self._drop_last)
        here = order.reshare(cursor, self._world_size)
        if over or order.is_over(here, self._batch_size, self._drop_last):
            here = order.epoch_start(cursor.epoch + 1, self._source.rows, self._world_size)
        self._next = here

    def close(self) -> None:
        """Stop all threads and close what the loader opened. May be called more than once."""
        self._closed = True
        self._end_run()
        if self._tuner is not None:
            self._tuner.close()
        if self._owns_source:
            self._source.close()
        if self._owns_source or self._source.pool is None:
            self._pool.drain()  # a tuner or DALI holds the loader in a cycle, until the next collection of these

    def _transform_of(self, program: Program) -> Transform[Any]:
        """Return what the threads make of raw rows; a loader of another kind lets them make something else.

        What they make is a dataclass with a `cursor`.
        """
        return host_transform(program, self._source, self._batch_size) if self._gpu is None else self._gpu.transform()

    def _pipeline(self, run: order.Run) -> Pipeline[Any]:
        plan = self._running_plan(self._plan)
        keeping = None if self._gpu is None else self._gpu.keeping(self._pool)
        return Pipeline(
            self._source, run, self._transform, plan, self._clocks, self._pool, keeping=keeping, budget=self._budget
        )

    def _new_budget(self) -> Budget:
        self._estimates = costs_of(
            self._source,
            shuffle=self._shuffle,
            window_rows=order.WINDOW_ROWS,
            batch_bytes=self._transform.batch_bytes,
            kept_bytes=self._transform.kept_bytes(),
        )
        return Budget(self._estimates)

    def _running_plan(self, plan: Plan) -> Plan:
        """Return a plan with the budget that the device leaves to it."""
        if self._gpu is None:
            return plan
        clipped = self._estimates.fit(plan)
        return self._gpu.apply(plan, self.min_prefetch_bytes(clipped.readers, clipped.transformers))

    def _batches(self, pipeline: Pipeline[Any], run: order.Run, start: Cursor) -> Iterator[Batch]:
        bad_rows, rows_done = start.bad_rows, start.rows_done
        of_rows = start.rows_done + run.rows_through(run.batches - 1)
        try:
            for number in range(run.batches):
                delivery = pipeline.take()
                assert delivery is not None
                if self._tuner is not None:
                    self._tuner.resume()
                made, bad, first_bad = delivery.value, delivery.bad, delivery.first_bad
                del delivery
                self._book.record(bad, first_bad)
                before, rows_done = rows_done, start.rows_done + run.rows_through(number)
                bad_rows += len(bad)
                self._clocks.bad_rows += len(bad)
                self._book.judge(bad_rows, rows_done, of_rows)
                self._clocks.rows += rows_done - before
                self._clocks.batches += 1
                batches_done = start.batches_done + number + 1
                self._cursor = Cursor(start.epoch, start.segments, start.world_size, rows_done, batches_done, bad_rows)
                batch = made if self._gpu is None else self._gpu.hand_over(made)
                given = [replace(batch, cursor=self._cursor)]
                del batch, made
                yield given.pop()  # nothing here holds it while it is used, so that its memory can come back
        finally:
            self._end_run(pipeline)

    def _end_run(self, pipeline: Pipeline[Any] | None = None) -> None:
        """End the running epoch: `pipeline` only, where it is given."""
        ended = pipeline or self._run
        if ended is not None:
            ended.close()
        if ended is self._run:
            self._run = None
            self._book.close()
            if self._tuner is not None:
                self._tuner.pause()

    def _first_plan(self, readers: int | None, transformers: int | None, prefetch_bytes: int | None) -> Plan:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        plan = Plan(
            readers=min(cores, MAX_DEFAULT_READERS) if readers is None else readers,
            transformers=min(cores, 4) if transformers is None else transformers,
            prefetch_bytes=Plan().prefetch_bytes if prefetch_bytes is None else prefetch_bytes,
        )
        if prefetch_bytes is None:
            least = self.min_prefetch_bytes(plan.readers, plan.transformers)
            return replace(plan, prefetch_bytes=max(plan.prefetch_bytes, least))
        # Where the budget was chosen and the workers were not, fewer of them are better than a refusal.
        plan = self._estimates.fit(plan, (readers is None, transformers is None))
        self._check_budget(plan)
        return plan

    def _check_budget(self, plan: Plan) -> None:
        least = self.min_prefetch_bytes(plan.readers, plan.transformers)
        if plan.prefetch_bytes < least:
            raise BudgetError(
                f"prefetch_bytes: expected at least {least} for the "
                f"largest {'shuffle window' if self._shuffle else 'chunk'}, {plan.readers} readers and "
                f"{plan.transformers} transformers, found {plan.prefetch_bytes}; raise it (in training: "
                "--prefetch-mib), take fewer workers or a smaller batch_size, or write the files in smaller row groups"
            )

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "data": self._source.fingerprint,
            "recipe": self._recipe.digest,
            "seed": self._seed,
            "batch_size": self._batch_size,
            "shuffle": self._shuffle,
            "drop_last": self._drop_last,
        }
