"""Which rows are trained on and which are held out, and the synthetic ones where the user names none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from intune_gpu.core.errors import DataError, RecipeError
from intune_gpu.core.source import Source
from intune_gpu.opening import open_source
from intune_gpu.recipe import Recipe
from intune_gpu.recipe.ready import criteo
from intune_gpu.sources import synthetic
from intune_gpu.sources.subset import RowRange, RowSample
from intune_gpu.train.config import DataConfig, UsageError

SYNTHETIC_ROWS = 1_000_000
SYNTHETIC_SEED = 0
CLICK_LABELS = (0.0, 1.0)
"""No click, click; and what lies between, a share of clicks. A row with another label is a bad row."""


@dataclass(frozen=True)
class Data:
    """What a run reads.

    Attributes:
        train: the rows to train on.
        held_out: the rows to evaluate on, or None.
        auc_ceiling: the AUC that no model can pass on them; known of synthetic rows only.
    """

    train: Source
    held_out: Source | None
    auc_ceiling: float | None

    def close(self) -> None:
        """Close the files. May be called more than once."""
        self.train.close()
        if self.held_out is not None:
            self.held_out.close()


def load_recipe(config: DataConfig) -> Recipe:
    """Return the recipe that was asked for.

    Raises:
        RecipeError: it cannot be read.
        UsageError: it is neither `criteo` nor the name of a JSON file.
    """
    if config.recipe == "criteo":
        return criteo(config.num_buckets)
    if not config.recipe.endswith(".json") and not Path(config.recipe).exists():
        raise UsageError(f"--recipe: expected criteo or a JSON file that Recipe.save wrote, found {config.recipe}")
    return Recipe.load(config.recipe)


def open_data(config: DataConfig, recipe: Recipe, seed: int) -> Data:
    """Open the files and split them.

    Args:
        config: names them.
        recipe: what is to be computed from them.
        seed: of a random split.

    Raises:
        DataError: there are no such files, they cannot be read, or no row is left to train on.
        RecipeError: the recipe does not fit them.
    """
    paths = config.data or (str(synthetic_folder()),)
    try:
        source = _open(paths, config, recipe)
    except (DataError, RecipeError) as error:
        if config.recipe == "criteo" and config.data and '"I1"' in str(error).replace("'", '"'):
            raise type(error)(f"{error}; --recipe is criteo unless another is named") from error
        raise
    if config.eval_data:
        held_out = _open(config.eval_data, config, recipe)
        data = Data(source, held_out, _ceiling(config.eval_data))
    elif config.eval_fraction == 0 or source.rows < 2:
        data = Data(source, None, None)
    elif config.split == "random":
        fraction = config.eval_fraction
        train, sample = RowSample(source, fraction, seed, complement=True), RowSample(source, fraction, seed)
        data = Data(train, sample, _ceiling(paths))
    else:
        stop = source.rows - max(1, int(source.rows * config.eval_fraction))
        rest = RowRange(source, stop, source.rows)
        data = Data(RowRange(source, 0, stop), rest, _ceiling(paths, stop))
    if data.train.rows == 0:
        raise DataError(f"data: expected rows to train on, found none in {', '.join(paths)}; name files that have some")
    return data


def _open(paths: Sequence[str], config: DataConfig, recipe: Recipe) -> Source:
    columns = config.columns or None
    return open_source(list(paths), recipe, format=config.format, columns=columns, label_range=CLICK_LABELS)


def synthetic_folder() -> Path:
    """Return where the synthetic rows are, or are to be made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "intune_gpu" / f"synthetic-v{synthetic.FORMAT_VERSION}-{SYNTHETIC_ROWS}-seed{SYNTHETIC_SEED}"


def _ceiling(paths: Sequence[str], first_row: int = 0) -> float | None:
    """Return the AUC ceiling of rows `first_row` and after, where they are synthetic."""
    if len(paths) != 1 or not (Path(paths[0]) / synthetic.SIDECAR).is_file():
        return None
    return synthetic.read_info(paths[0]).ceiling(first_row)
