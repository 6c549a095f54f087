"""One training run, from flags to `metrics.json`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

from intune_gpu.core.errors import DataError, IntuneError, ResumeError
from intune_gpu.core.source import Source
from intune_gpu.loader import Loader
from intune_gpu.recipe import Recipe
from intune_gpu.sources.synthetic import write_click_logs
from intune_gpu.train import checkpoint, tuning, weights
from intune_gpu.train.checkpoint import Saved
from intune_gpu.train.config import Config, LoadingConfig, UsageError, share_on_gpu
from intune_gpu.train.data import SYNTHETIC_ROWS, SYNTHETIC_SEED, load_recipe, open_data, synthetic_folder
from intune_gpu.train.loop import Job, Trainer
from intune_gpu.train.meter import Meter
from intune_gpu.train.metrics import Origin, collect
from intune_gpu.train.model import build
from intune_gpu.train.place import Place, joined
from intune_gpu.train.progress import Screen
from intune_gpu.train.scalars import Scalars
from intune_gpu.train.stop import sigterm_as_ctrl_c, stop_on_signals
from intune_gpu.train.summary import how_to_resume, summary
from intune_gpu.tuner.knobs import words


def run(config: Config, resumed: Path | None) -> int:
    """Train as asked, and write what came of it.

    Args:
        config: what was asked for.
        resumed: the checkpoint to go on from, or None.

    Returns:
        0; or 128 and the number of the signal that stopped it.

    Raises:
        IntuneError: something that the user can set right.
    """
    recipe = load_recipe(config.data)
    with ExitStack() as stack:
        place = stack.enter_context(joined(config.training.device, _share(config.loading)))
        screen = stack.enter_context(Screen(silent=not place.leads))
        for note in place.notes:
            screen.say(note)
        config = _named(config, place)
        run_dir = Path(config.keeping.run_dir or "")
        if not config.data.data:
            _make_synthetic(place, screen)
        data = open_data(config.data, recipe, config.training.seed)
        stack.callback(data.close)
        origin = Origin(data.auc_ceiling, resumed, perf_counter())
        tuner = tuning.options(config.loading, place, run_dir, screen)
        loader = stack.enter_context(_loader(data.train, recipe, config, place, run_dir, tuner))
        held_out = None
        if data.held_out is not None:
            test_config = replace(config, data=replace(config.data, shuffle=False))
            held_out = stack.enter_context(_loader(data.held_out, recipe, test_config, place, run_dir / "held-out"))
        model = build(recipe, config.model, config.training.seed, place)
        meter = Meter()
        if resumed is not None:
            saved = _checked(resumed, recipe, config)
            loader.load_state_dict(saved.loader)
            weights.load(model, resumed, saved.tensor_files)
            tuning.load(loader, resumed)
            rows = saved.rows if place.leads else 0  # of all ranks: counted once
            meter = Meter(saved.step, saved.epoch, rows, saved.loss_first, saved.bad_rows)
        _make_folders(config, resumed, place, screen)  # last: a run that cannot begin leaves nothing behind
        scalars = stack.enter_context(Scalars(run_dir if place.leads else None))
        stop = stack.enter_context(stop_on_signals(silent=not place.leads))
        job = Job(config, recipe, place, model, loader, held_out, _checkpoints(config), screen, scalars, stop)
        screen.say(_heading(job, resumed, meter.step))
        trainer = Trainer(job, meter)
        try:
            trainer.run()
        except DataError:
            screen.end_line()
            if place.world_size == 1:  # others would wait in vain for the rank that failed
                trainer.save()
                good = trainer.saved or resumed
                if good is not None or not trainer.spoiled:
                    screen.say(how_to_resume(good, "when what follows is set right, go on with"))
            raise
        screen.end_line()
        if not trainer.stopped_by:
            trainer.measure_ideal()
        if resumed is not None and meter.steps_here == 0 and not trainer.stopped_by:
            screen.say(
                f"nothing is left to train: {resumed} is the end of its run; for more, raise --epochs or --max-steps"
            )
            return 0
        metrics = collect(trainer, origin)
        if place.leads:
            metrics.write(run_dir / "metrics.json")
            screen.say(summary(metrics, run_dir))
        if trainer.stopped_by:
            screen.say(how_to_resume(trainer.saved or resumed))
            return 128 + trainer.stopped_by
        return 0


def _named(config: Config, place: Place) -> Config:
    """Give the run's folder a name, the same on all ranks."""
    name = config.keeping.run_dir
    if name is None:
        at = int(time.time())
        while place.world_size == 1 and Path(_dated(at)).exists():
            at += 1
        name = _dated(place.any(at if place.leads else 0))
    return replace(config, keeping=replace(config.keeping, run_dir=name, resume=None))


def _make_folders(config: Config, resumed: Path | None, place: Place, screen: Screen) -> None:
    """Make the folders that are written to at the end, and move checkpoints of another run out of the way."""
    if not place.leads:
        return
    folders = {"--run-dir": Path(config.keeping.run_dir or "")}
    if config.keeping.checkpoint_dir is not None:
        folders["--checkpoint-dir"] = _checkpoints(config)
    for flag, folder in folders.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            found = "a file" if isinstance(error, FileExistsError) else error.strerror
            raise UsageError(f"{flag} {folder}: expected a folder to write in, found {found}; name another") from error
    moved = None if resumed is not None else checkpoint.set_aside(_checkpoints(config))
    if moved is not None:
        screen.say(f"note: checkpoints of an earlier run are now in {moved}; --resume latest would have gone on")


def _dated(at_s: int) -> str:
    return time.strftime("runs/%Y%m%d-%H%M%S", time.localtime(at_s))


def _checkpoints(config: Config) -> Path:
    return Path(config.keeping.checkpoint_dir or f"{config.keeping.run_dir}/checkpoints")


def _make_synthetic(place: Place, screen: Screen) -> None:
    """Make the synthetic rows, if they are not there yet; one rank does it, all wait."""
    folder = synthetic_folder()
    if place.leads and not folder.is_dir():
        screen.say(f"making {SYNTHETIC_ROWS:,} synthetic rows in {folder}, once")
        began = perf_counter()
        with sigterm_as_ctrl_c():
            write_click_logs(folder, SYNTHETIC_ROWS, seed=SYNTHETIC_SEED)
        screen.say(f"made them in {perf_counter() - began:.1f} s")
    place.wait()


def _loader(
    source: Source,
    recipe: Recipe,
    config: Config,
    place: Place,
    bad_rows: Path,
    tuner: Mapping[str, Any] = MappingProxyType({}),
) -> Loader:
    data, loading = config.data, config.loading
    mib = loading.prefetch_mib
    kind, where = _kind(loading, place)
    try:
        return kind(
            source,
            recipe,
            batch_size=data.batch_size,
            shuffle=data.shuffle,
            seed=config.training.seed,
            rank=place.rank,
            world_size=place.world_size,
            readers=loading.readers,
            transformers=loading.transformers,
            prefetch_bytes=None if mib is None else mib << 20,
            on_bad_row=data.on_bad_row,
            max_bad_fraction=data.max_bad_fraction,
            quarantine_dir=bad_rows,
            **where,
            **tuner,
        )
    except IntuneError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _share(config: LoadingConfig) -> float | None:
    """Return the share of the preprocessing that the GPU is to do; None takes all of it where it can."""
    return 0.0 if config.loader == "dali" else share_on_gpu(config.placement)


def _kind(config: LoadingConfig, place: Place) -> tuple[type[Loader], dict[str, Any]]:
    """Return what makes the batches, and what it is told of where they belong."""
    if config.loader == "native":
        return Loader, _gpu_options(config, place)
    from intune_gpu.dali.loader import DALILoader  # loads DALI, which others need not have

    return DALILoader, {}


def _gpu_options(config: LoadingConfig, place: Place) -> dict[str, Any]:
    """Return what a loader is told of where its batches belong."""
    if place.device.type == "cpu":
        return {"device": "cpu"}
    mib = config.gpu_budget_mib
    return {
        "device": str(place.device),
        "placement": place.placement,
        "gpu_budget_bytes": None if mib is None else mib << 20,
    }


def _checked(folder: Path, recipe: Recipe, config: Config) -> Saved:
    """Read a checkpoint, and refuse one of another recipe."""
    saved = checkpoint.read(folder)
    if saved.recipe != recipe.digest:
        raise ResumeError(
            f"checkpoint {folder}: expected one of the recipe {config.data.recipe}, found one of another recipe; "
            "give the recipe of that run with --recipe, or start anew without --resume"
        )
    return saved


def _heading(job: Job, resumed: Path | None, step: int) -> str:
    config, loader = job.config, job.loader
    ranks = "" if job.place.world_size == 1 else f", {job.place.world_size} ranks"
    held_out = 0 if job.held_out is None else job.held_out.source.rows
    lines = [
        f"DLRM of {len(job.recipe.dense_names)} dense and {len(job.recipe.sparse_names)} sparse features, "
        f"{sum(job.recipe.num_embeddings.values()):,} embeddings of {config.model.embedding_dim}, "
        f"on {job.place.device_name}{ranks}, {job.pipeline_name}",
        f"{loader.source.rows:,} rows to train on, {held_out:,} held out; {len(loader):,} batches an epoch; "
        f"{words(loader.plan, loader.groups)}, tuner {tuning.name_of(loader)}; "
        f"{'batches made by DALI; ' * (config.loading.loader == 'dali')}writing to {config.keeping.run_dir}",
    ]
    if resumed is not None:
        lines.append(f"going on from {resumed}, behind step {step:,}")
    return "\n".join(lines)
