"""`intune-gpu recipe`: a starter recipe for a data set, and the command that trains with it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from rich.text import Text

from intune_gpu.cli.config import RecipeConfig
from intune_gpu.cli.inspect import column_json, distinct, headline, missing, summary
from intune_gpu.cli.labels import check_label, give_aways
from intune_gpu.cli.look import look
from intune_gpu.cli.profile import Profile, profile_all
from intune_gpu.cli.rules import Choice, choose, with_buckets
from intune_gpu.cli.screen import columns, console, print_json, training
from intune_gpu.core.errors import RecipeError
from intune_gpu.opening import open_source
from intune_gpu.recipe import Recipe
from intune_gpu.recipe.ops import Op
from intune_gpu.sources.sampling import Sample
from intune_gpu.train.config import DataConfig, UsageError

_STEPS = 128
_MIN_BATCH = 64


def run(config: RecipeConfig) -> int:
    """Write the recipe and print what was chosen, and the training command; return the exit code.

    Raises:
        DataError: there is no such file, or one cannot be read.
        RecipeError: the recipe cannot be written.
        UsageError: the label cannot be learned, no column can be used, or the recipe is there already.
    """
    out = Path(config.out if config.out is not None else f"{_stem(config.data[0])}.recipe.json")
    if out.is_dir() or (out.exists() and not config.force):
        raise UsageError(f"--out {out}: expected a new file, found it there; name another with --out, or pass --force")
    sample = look(config, config.label)
    profiles = profile_all(sample)
    label = check_label(config.label, profiles, sample)
    usable = [
        p.name for p in profiles if p.name != label.name and not p.refused and p.name in sample.table.column_names
    ]
    choices = choose(profiles, label.name, give_aways(label.name, usable, sample))
    choices = with_buckets(choices, profiles)
    recipe = starter(choices)
    open_source(list(config.data), recipe, format=config.format, columns=config.columns or None).close()
    try:
        recipe.save(out)
    except OSError as error:
        raise RecipeError(f"recipe {out}: cannot be written: {error.strerror}; name another path with --out") from error
    command, notes = training_command(config, out, sample, label), _notes(sample, label, choices)
    if config.json:
        features = [_choice_json(choice) for choice in choices]
        found = [column_json(each) for each in profiles]
        data = {"recipe": str(out), "command": command, "notes": notes, "columns": found, "choices": features}
        print_json({**summary(sample), **data})
        return 0
    _show(sample, profiles, choices, notes)
    print(f"written   {out}\ntrain     {command}")
    return 0


def starter(choices: Sequence[Choice]) -> Recipe:
    """Return the recipe of what was chosen.

    Raises:
        UsageError: every column was left out.
    """
    label = next(choice.column for choice in choices if choice.use == "label")
    left_out = [f"{choice.column} ({choice.why})" for choice in choices if choice.use == "left out"]
    used = [choice for choice in choices if choice.use in ("dense", "sparse")]
    if not used:
        reasons = ", ".join(left_out) or "there is no other column"
        raise UsageError(f"data: expected a column to learn {label} from, found none that can be used: {reasons}")
    return Recipe(
        label=label,
        dense={choice.feature or "": choice.ops for choice in used if choice.use == "dense"},
        sparse={choice.feature or "": choice.ops for choice in used if choice.use == "sparse"},
        types={choice.column: choice.declared for choice in used if choice.declared},
    )


def training_command(config: RecipeConfig, out: Path, sample: Sample, label: Profile) -> str:
    """Return the command that trains on this data, for a shell."""
    flags = ["--data", *config.data, "--recipe", str(out)]
    if config.format != "auto":
        flags += ["--format", config.format]
    if config.columns:
        flags += ["--columns", *config.columns]
    batch = batch_size(sample.rows)
    if batch != DataConfig.batch_size:
        flags += ["--batch-size", str(batch)]
    if ends_in_one_class(sample, label):
        flags += ["--split", "random"]
    bad = bad_share(sample, label)
    if bad > DataConfig.max_bad_fraction / 2:
        flags += ["--max-bad-fraction", f"{min(1.0, math.ceil(200 * bad) / 100):g}"]
    return training(*flags)


def batch_size(rows: int) -> int:
    """Return a power of two with which an epoch has some 128 steps or more: at most training's own default."""
    wanted = max(_MIN_BATCH, rows // _STEPS)
    return int(min(DataConfig.batch_size, 1 << (wanted.bit_length() - 1)))


def bad_share(sample: Sample, label: Profile) -> float:
    """Return the share of rows that training will leave out: unreadable, or without a label."""
    looked = max(1, sample.table.num_rows + sample.bad_rows)
    return float(min(1.0, (label.missing or 0.0) + sample.bad_rows / looked))


def ends_in_one_class(sample: Sample, label: Profile) -> bool:
    """Whether the last tenth of the rows, which training holds out, has one class only: the data is sorted by it."""
    labels = sample.table.column(label.name).drop_null()
    tail = labels.slice(len(labels) - max(1, len(labels) // 10))
    return label.distinct != 1 and len(pc.unique(tail)) == 1


def _notes(sample: Sample, label: Profile, choices: Sequence[Choice]) -> list[str]:
    notes: list[str] = []
    if label.missing:
        notes.append(f"{missing(label)} of the rows have no label: training leaves them out")
    if label.distinct == 1:
        notes.append(f"all labels looked at are {label.top[0][0]}: look at more rows with --rows")
    if ends_in_one_class(sample, label):
        notes.append("the last rows are all of one class: training holds out a random part, not the last one")
    if sample.bad_rows:
        notes.append(
            f"{sample.bad_rows:,} of the rows looked at cannot be read: training writes them to bad_rows.jsonl"
        )
    if any(choice.feature != choice.column for choice in choices if choice.use == "sparse" and choice.feature):
        notes.append("a feature that is named otherwise than its column reads it with Column(...)")
    return notes


def _show(sample: Sample, profiles: Sequence[Profile], choices: Sequence[Choice], notes: Sequence[str]) -> None:
    screen = console()
    screen.print(headline(sample), markup=False)
    by_name = {found.name: found for found in profiles}
    table = columns("column", "type", "missing", "distinct", "becomes", "why")
    for choice in choices:
        found = by_name[choice.column]
        becomes = f"{choice.use}: {_chain(choice)}" if choice.ops else choice.use
        cells = (choice.column, found.type, missing(found), distinct(found), becomes, choice.why)
        table.add_row(*map(Text, cells), style="dim" if choice.use == "left out" else None)
    screen.print(table)
    for note in notes:
        screen.print(f"note: {note}", markup=False)


def _chain(choice: Choice) -> str:
    ops = ", ".join(map(_op, choice.ops))
    return f"{ops}, as {choice.declared}" if choice.declared else ops


def _op(op: Op) -> str:
    """Return an op as a person writes it: no defaults, and no name for the only one that is needed."""
    items = fields(op)
    needed = [item.name for item in items if item.default is MISSING or len(items) == 1]
    given = [item.name for item in items if item.name in needed or getattr(op, item.name) != item.default]
    texts = [f"{'' if [name] == needed else f'{name}='}{getattr(op, name)!r}" for name in given]
    return f"{type(op).__name__}({', '.join(texts)})"


def _choice_json(choice: Choice) -> dict[str, Any]:
    return {
        "column": choice.column,
        "use": choice.use,
        "feature": choice.feature,
        "ops": [_op(op) for op in choice.ops],
        "type": choice.declared,
        "why": choice.why,
    }


def _stem(path: str) -> str:
    """Return what a recipe of this data is called: the file's or folder's name, without endings and glob signs."""
    name = re.sub(r"(\.(parquet|pq|tsv|csv|txt|gz|zst))+$", "", Path(path.rstrip("/")).name, flags=re.IGNORECASE)
    return re.sub(r"[^\w.-]+", "_", name).strip("._-") or "data"
