"""What a user can ask of `intune-gpu`: one frozen dataclass a subcommand, a flag a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from intune_gpu.train.config import UsageError

PROG = "intune-gpu"
Format = Literal["auto", "parquet", "tsv", "csv"]


@dataclass(frozen=True)
class InspectConfig:
    """Show rows, chunks, types, missing values, distinct values and suspicious columns of a data set."""

    data: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, folders, globs or URLs: Parquet, TSV or CSV."""
    format: Format = "auto"
    """Format of the files; auto goes by their endings."""
    columns: tuple[str, ...] = ()
    """Names of all fields, in order, of text without a header line. Criteo's own 40 fields need none."""
    rows: int = 200_000
    """Rows to look at, spread over the data set."""
    seed: int = 0
    """Of which rows are looked at."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON document instead of a table."""


@dataclass(frozen=True)
class RecipeConfig:
    """Write a starter recipe from a data set's schema and a sample, and print the command that trains with it."""

    data: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, folders, globs or URLs: Parquet, TSV or CSV."""
    label: str | None = None
    """The column to learn: 0 or 1."""
    out: str | None = None
    """Where the recipe goes. By default <name of the data>.recipe.json in the working directory."""
    force: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the recipe if it is there already."""
    format: Format = "auto"
    """Format of the files; auto goes by their endings."""
    columns: tuple[str, ...] = ()
    """Names of all fields, in order, of text without a header line. Criteo's own 40 fields need none."""
    rows: int = 200_000
    """Rows to look at, spread over the data set."""
    seed: int = 0
    """Of which rows are looked at."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON document instead of a table."""


@dataclass(frozen=True)
class SynthConfig:
    """Write synthetic click logs in the schema of Criteo, of any size, with the AUC that no model can pass."""

    out: tyro.conf.Positional[str | None] = None
    """The folder to make."""
    rows: int = 1_000_000
    """Number of rows."""
    format: Literal["parquet", "parquet-hex", "tsv"] = "parquet"
    """Parquet with integer ids, Parquet with ids of 8 hex digits, or Criteo's text."""
    files: int = 4
    """Number of files, each an equal run of the rows."""
    seed: int = 0
    """What every row derives from: the same rows in every format."""
    force: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace a folder that this command wrote before."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON document instead of lines for people."""


@dataclass(frozen=True)
class ExplainConfig:
    """Tell what the tuner of a training run saw and did, in words and in one picture in the run's folder."""

    run: tyro.conf.Positional[str | None] = None
    """The run's folder, as in runs/20260102-030405."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON document instead of words."""


@dataclass(frozen=True)
class DoctorConfig:
    """Say what this machine can and cannot do: packages, GPU, limits, cache; and what to do about each fault."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON document instead of a table."""


@dataclass(frozen=True)
class CalibrateConfig:
    """Run some plans over a data set, fit the tuner's simulator to this machine, and check it with other plans."""

    data: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, folders, globs or URLs: Parquet, TSV or CSV."""
    recipe: str = "criteo"
    """What is made of them: criteo, or a recipe's JSON file."""
    out: str = "profile.json"
    """Where the profile goes."""
    format: Format = "auto"
    """Format of the files; auto goes by their endings."""
    batch_size: int = 8192
    """Rows of a batch."""
    trainer_rows_per_s: float | None = None
    """Rows/s that the trainer could take; by default it takes no time at all."""
    check: int = 24
    """Plans that are run and not fitted to, to see how far the profile is off; at most 29."""
    seconds: float = 1.5
    """Of each plan, in each round."""
    rounds: int = 3
    """In which all plans are run, each time in another order."""
    seed: int = 0
    """Of that order, and of the fit."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON document instead of a table."""


Command = InspectConfig | RecipeConfig | SynthConfig | ExplainConfig | CalibrateConfig | DoctorConfig

_Commands = (
    Annotated[InspectConfig, tyro.conf.subcommand("inspect", prefix_name=False)]
    | Annotated[RecipeConfig, tyro.conf.subcommand("recipe", prefix_name=False)]
    | Annotated[SynthConfig, tyro.conf.subcommand("synth", prefix_name=False)]
    | Annotated[ExplainConfig, tyro.conf.subcommand("explain", prefix_name=False)]
    | Annotated[CalibrateConfig, tyro.conf.subcommand("calibrate", prefix_name=False)]
    | Annotated[DoctorConfig, tyro.conf.subcommand("doctor", prefix_name=False)]
)


def parse(arguments: Sequence[str]) -> Command:
    """Read the command line. Ends the process after --help or a flag that is wrong.

    Raises:
        UsageError: a value is missing or out of range.
    """
    command: Command = tyro.cli(
        _Commands,
        prog=PROG,
        description="Look at your data or machine, write a starter recipe, make synthetic click logs, explain a run.",
        args=list(arguments),
    )
    if isinstance(command, ExplainConfig):
        _require(command.run is not None, "RUN", "a run's folder, as in `intune-gpu explain runs/mine`", "none")
    if isinstance(command, ExplainConfig | DoctorConfig):
        return command
    if isinstance(command, CalibrateConfig):
        _check_calibrate(command)
        return command
    if isinstance(command, SynthConfig):
        _require(command.out is not None, "OUT", "the folder to make, as in `intune-gpu synth clicks`", "none")
        _require(command.files >= 1, "--files", "at least 1", command.files)
    else:
        name = "recipe" if isinstance(command, RecipeConfig) else "inspect"
        _require(bool(command.data), "DATA", f"files to look at, as in `intune-gpu {name} logs.parquet`", "none")
    _require(command.rows >= 1, "--rows", "at least 1", command.rows)
    _require(0 <= command.seed < 2**63, "--seed", "0 to 2**63 - 1", command.seed)
    return command


def _check_calibrate(command: CalibrateConfig) -> None:
    _require(bool(command.data), "DATA", "files to run over, as in `intune-gpu calibrate logs.parquet`", "none")
    _require(command.batch_size >= 1, "--batch-size", "at least 1", command.batch_size)
    _require(0 <= command.check <= 29, "--check", "0 to 29 plans", command.check)
    _require(command.rounds >= 1, "--rounds", "at least 1", command.rounds)
    _require(command.seconds > 0, "--seconds", "more than 0", command.seconds)
    _require(0 <= command.seed < 2**63, "--seed", "0 to 2**63 - 1", command.seed)
    pace = command.trainer_rows_per_s
    _require(pace is None or pace > 0, "--trainer-rows-per-s", "more than 0", pace)


def _require(good: bool, flag: str, expected: str, found: object) -> None:
    if not good:
        raise UsageError(f"{flag}: expected {expected}, found {found}")
