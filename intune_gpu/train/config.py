"""What a user can ask of `python -m intune_gpu.train`: one frozen dataclass a concern, a flag a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import tyro

from intune_gpu.core.errors import IntuneError, ResumeError

Tuner = Literal["rl", "model", "search", "hillclimb", "static", "off"]
DEFAULT_TUNER: Tuner = "rl"
FALLBACK_TUNER: Tuner = "hillclimb"
"""What tunes where the package or the weights of another one are missing."""


class UsageError(IntuneError, ValueError):
    """A flag has a value that cannot be used here."""


@dataclass(frozen=True)
class DataConfig:
    """What is read."""

    data: tuple[str, ...] = ()
    """Files, folders, globs or URLs of click logs. Without it: a million synthetic rows, made once and kept."""
    format: Literal["auto", "parquet", "tsv", "csv"] = "auto"
    """Format of the files; auto goes by their endings."""
    columns: tuple[str, ...] = ()
    """Names of all fields, in order, of text without a header line. Criteo's own 40 fields need none."""
    recipe: str = "criteo"
    """Which features: criteo, or a JSON file that Recipe.save wrote."""
    num_buckets: int = 100_000
    """Rows of each embedding table of the criteo recipe."""
    eval_data: tuple[str, ...] = ()
    """Other files, for evaluation only. Without it a part of the data is held out."""
    eval_fraction: float = 0.1
    """Share of the rows that is held out for evaluation; 0 evaluates nothing."""
    split: Literal["time", "random"] = "time"
    """Which rows are held out: the last ones in file order, or a random sample."""
    shuffle: bool = True
    """Train in a new random order in each epoch; --no-shuffle trains in file order."""
    batch_size: int = 4096
    """Rows of a batch, for each rank."""
    on_bad_row: Literal["quarantine", "drop", "raise"] = "quarantine"
    """What becomes of a row that cannot be read: written to bad_rows.jsonl in the run's folder, left out, or an end."""
    max_bad_fraction: float = 0.01
    """Share of bad rows above which the run stops."""


@dataclass(frozen=True)
class LoadingConfig:
    """How reading is spread over threads; it changes speed, never a batch."""

    loader: Literal["native", "dali"] = "native"
    """What makes the batches: this package's own threads, or NVIDIA DALI, in host memory. Both make the same ones."""
    readers: int | None = None
    """Threads that decode files. By default as many as there are cores, up to 16."""
    transformers: int | None = None
    """Threads that make batches. By default half as many as there are cores, up to 4."""
    prefetch_mib: int | None = None
    """Memory for rows and batches that wait for the trainer, in MiB. By default 512, or what is needed at least."""
    placement: str | None = None
    """How much of the preprocessing the GPU does: all-cpu, all-gpu, or a share from 0 to 1. By default all of it where
    the model is on a GPU. It changes speed, never a batch."""
    tuner: Tuner = DEFAULT_TUNER
    """Who moves readers, transformers and placement while training runs: the trained agent (rl), a model that is solved
    again and again, profile and search, hill-climbing, nobody but with all signals logged (static), or nobody (off)."""
    tuner_every_s: float = 1.0
    """Seconds between two steps of the tuner."""
    gpu_budget_mib: int | None = None
    """Memory of the GPU that preprocessing may hold, in MiB. By default a share of what is free."""


@dataclass(frozen=True)
class ModelConfig:
    """The DLRM, and how it learns."""

    embedding_dim: int = 16
    """Width of each embedding, a multiple of 4."""
    bottom_mlp: tuple[int, ...] = (64,)
    """Hidden layers between the dense features and the interaction."""
    top_mlp: tuple[int, ...] = (64, 32)
    """Hidden layers between the interaction and the answer."""
    lr: float = 0.02
    """Learning rate of embeddings and MLPs, both with Adagrad."""
    table_optimizer: Literal["adagrad", "rowwise-adagrad"] = "adagrad"
    """Optimizer fused into the embedding tables; rowwise-adagrad needs nearly half the memory, and learns less."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers in which the dense layers compute; embeddings, weights and optimizers stay float32 in any case."""
    tf32: bool = True
    """Let a GPU multiply float32 matrices with the precision of TF32, which is faster; --no-tf32 keeps all bits."""


@dataclass(frozen=True)
class TrainingConfig:
    """How long, on what."""

    epochs: int = 1
    """Passes over the training rows."""
    max_steps: int | None = None
    """Stop after so many steps, counted from the very first one."""
    seed: int = 0
    """Of the model's first weights, the order of rows and the random split. The same seed gives the same weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model is; auto takes an NVIDIA GPU if there is one."""
    pipeline: Literal["auto", "base", "sparse-dist"] = "auto"
    """TorchRec's train pipeline; auto is sparse-dist on a GPU or with several ranks, else base. Both learn the same."""
    measure_ideal: bool = False
    """After training, time the same steps on batches that lie on the device already, and tell how far the run was below
    that. It takes 120 steps, 600 on a GPU, and reads the checkpoint back; the trained weights stay as they are."""


@dataclass(frozen=True)
class KeepingConfig:
    """What is written, and where."""

    run_dir: str | None = None
    """Folder of this run: metrics, TensorBoard scalars, bad rows. By default runs/<date>-<time>."""
    checkpoint_dir: str | None = None
    """Folder of checkpoints, of which the last two are kept. By default checkpoints in the run's folder."""
    checkpoint_every: int = 0
    """Steps between checkpoints. One is saved at the end, on Ctrl-C and on SIGTERM in any case."""
    resume: str | None = None
    """Go on from a checkpoint: latest, or a folder. Flags that are not given are those of the checkpoint."""


@dataclass(frozen=True)
class Config:
    """Everything that was asked for."""

    data: tyro.conf.OmitArgPrefixes[DataConfig] = DataConfig()
    loading: tyro.conf.OmitArgPrefixes[LoadingConfig] = LoadingConfig()
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = ModelConfig()
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = TrainingConfig()
    keeping: tyro.conf.OmitArgPrefixes[KeepingConfig] = KeepingConfig()

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `json.dumps` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Config:
        """Rebuild what `to_json` gave.

        Raises:
            ResumeError: a field is unknown; one that is missing keeps its default.
        """
        parts: dict[str, Any] = {}
        for part, kind in _PARTS.items():
            given = {k: tuple(v) if isinstance(v, list) else v for k, v in state.get(part, {}).items()}
            try:
                parts[part] = kind(**given)
            except TypeError as error:
                raise ResumeError(
                    f"checkpoint: its configuration has a flag that this version does not know ({error}); "
                    "resume with the version of intune_gpu that wrote it"
                ) from error
        return cls(**parts)


_PLACEMENTS = {"all-cpu": 0.0, "all-gpu": 1.0}
_PARTS: dict[str, type] = {
    "data": DataConfig,
    "loading": LoadingConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "keeping": KeepingConfig,
}


def parse(arguments: Sequence[str], default: Config | None = None) -> Config:
    """Read flags; those not given are as in `default`. Ends the process after --help or a flag that is wrong.

    Raises:
        UsageError: a value is out of range.
    """
    config = tyro.cli(
        Config,
        prog="python -m intune_gpu.train",
        description="Train a TorchRec DLRM on click logs. With no flags: on synthetic ones.",
        args=_with_resume_value(arguments),
        default=default or Config(),
        config=(tyro.conf.AvoidSubcommands,),
    )
    check(config)
    return config


def check(config: Config) -> None:
    """Refuse numbers that are out of range, whatever the data.

    Raises:
        UsageError: names the flag, what was expected and what was found.
    """
    data, loading, model, training = config.data, config.loading, config.model, config.training
    counts = {
        "--batch-size": data.batch_size,
        "--readers": loading.readers,
        "--transformers": loading.transformers,
        "--prefetch-mib": loading.prefetch_mib,
        "--gpu-budget-mib": loading.gpu_budget_mib,
        "--epochs": training.epochs,
        "--max-steps": training.max_steps,
        **{f"--bottom-mlp {size}": size for size in model.bottom_mlp},
        **{f"--top-mlp {size}": size for size in model.top_mlp},
    }
    for flag, count in counts.items():
        _require(count is None or count >= 1, flag, "at least 1", count)
    _require(config.keeping.checkpoint_every >= 0, "--checkpoint-every", "0 or more", config.keeping.checkpoint_every)
    _require(data.num_buckets >= 2, "--num-buckets", "at least 2", data.num_buckets)
    _require(0.0 <= data.eval_fraction < 1.0, "--eval-fraction", "0 or more, below 1", data.eval_fraction)
    _require(0.0 <= data.max_bad_fraction <= 1.0, "--max-bad-fraction", "0 to 1", data.max_bad_fraction)
    _require(0.0 < model.lr < float("inf"), "--lr", "above 0 and finite", model.lr)
    _require(0.0 < loading.tuner_every_s < float("inf"), "--tuner-every-s", "above 0", loading.tuner_every_s)
    _require(0 <= training.seed < 2**63, "--seed", "0 to 2**63 - 1", training.seed)
    share = share_on_gpu(loading.placement)
    _require(not share or training.device != "cpu", "--placement", "all-cpu with --device cpu", loading.placement)
    if loading.loader == "dali":  # it makes batches in host memory
        _require(not share, "--placement", "all-cpu with --loader dali", loading.placement)
        _require(loading.gpu_budget_mib is None, "--gpu-budget-mib", "none with --loader dali", loading.gpu_budget_mib)
    width = model.embedding_dim
    _require(width >= 4 and width % 4 == 0, "--embedding-dim", "a multiple of 4 (fbgemm's tables need it)", width)


def share_on_gpu(placement: str | None) -> float | None:
    """Return the share of the preprocessing that `--placement` gives to the GPU, 0 to 1; None where nothing was asked.

    Raises:
        UsageError: it is neither of the two words nor such a number.
    """
    if placement is None or placement in _PLACEMENTS:
        return None if placement is None else _PLACEMENTS[placement]
    try:
        share = float(placement)
    except ValueError:
        share = -1.0
    _require(0.0 <= share <= 1.0, "--placement", "all-cpu, all-gpu or a share from 0 to 1", placement)
    return share


def _require(good: bool, flag: str, expected: str, found: object) -> None:
    if not good:
        raise UsageError(f"{flag}: expected {expected}, found {found}")


def _with_resume_value(arguments: Sequence[str]) -> list[str]:
    """Let `--resume` without a value mean `--resume latest`."""
    out: list[str] = []
    for i, argument in enumerate(arguments):
        out.append(argument)
        alone = i + 1 == len(arguments) or arguments[i + 1].startswith("--")
        if argument == "--resume" and alone:
            out.append("latest")
    return out
