"""What is passed to `ig.Loader`, `ig.transform` and `load_state_dict`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import intune_gpu as ig
from tests.hostile.case import HEAD, RECIPE, Seen, case, message_of, refused, rows, write

ARGUMENTS = "Arguments of `ig.Loader`"
TABLES = "Tables given to `ig.transform`"
STATES = "States given to `load_state_dict`"
NOTHING = "nothing was read or written"

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "batch_size: expected at least 1 row, found 0"),
    ({"batch_size": 8.5}, "batch_size: expected a whole number, found 8.5"),
    ({"seed": -1}, r"seed: expected 0 to 2\*\*64 - 1, found -1"),
    ({"seed": 2**64}, r"seed: expected 0 to 2\*\*64 - 1, found 18446744073709551616"),
    ({"rank": 1}, "rank: expected 0 to world_size - 1, found rank 1 of world_size 1"),
    ({"world_size": 0}, "rank: expected 0 to world_size - 1, found rank 0 of world_size 0"),
    ({"device": "gpu"}, 'device: expected "auto", "cpu", "cuda" or "cuda:<number>"'),
    ({"placement": "gpu"}, 'placement: expected "cpu", since batches stay in host memory'),
    ({"readers": 0}, "Plan.readers: expected 1 to 512, found 0"),
    ({"readers": 1.5}, "Plan.readers: expected a whole number, found 1.5"),
    ({"transformers": 513}, "Plan.transformers: expected 1 to 512, found 513"),
    ({"prefetch_bytes": 0}, "Plan.prefetch_bytes: expected at least 1 byte, found 0"),
    ({"prefetch_bytes": 1, "readers": 1, "transformers": 1}, "prefetch_bytes: expected at least"),
    ({"on_bad_row": "ignore"}, "on_bad_row: expected one of raise, drop, quarantine, found 'ignore'"),
    ({"max_bad_fraction": float("nan")}, "max_bad_fraction: expected 0 to 1, found nan"),
    ({"max_bad_fraction": "1 %"}, "max_bad_fraction: expected 0 to 1, found '1 %'"),
    ({"quarantine_dir": 3}, "quarantine_dir: expected a folder's path, found 3"),
    ({"index_dtype": "int16"}, "index_dtype: expected"),
    ({"format": "json"}, "format: expected one of auto, parquet, tsv, csv, found 'json'"),
    ({"columns": "y n id"}, "columns: expected the names of all fields, in order, found 'y n id'"),
    ({"columns": []}, r"columns: expected the names of all fields, in order, found \[\]"),
    ({"columns": ["y", "n"]}, "columns: expected a column 'id', found y, n"),
]


def wrong_argument(arguments: dict[str, Any], here: Path) -> Seen:
    """Make a loader, which is refused."""
    write(here / "a.tsv", HEAD, rows(1, 3))
    return refused(lambda: ig.Loader(here / "a.tsv", RECIPE, **arguments))


for _arguments, _says in WRONG:
    _what = ", ".join(f"{name}={value!r}" for name, value in _arguments.items())
    _name = re.sub(r"\W+", "_", f"loader_{_what}").strip("_")
    case(ARGUMENTS, f"`{_what}`", _says, NOTHING, name=_name)(partial(wrong_argument, _arguments))


@case(TABLES, "A column that is not there, in a table", r"table: expected a column 'n', found none", NOTHING)
def table_without_column(here: Path) -> Seen:
    return refused(lambda: ig.transform({"y": [0], "id": ["a"]}, RECIPE))


@case(TABLES, "Columns of unequal length", r"column 'n': expected 1 rows, as column 'y' has, found 2", NOTHING)
def unequal_columns(here: Path) -> Seen:
    return refused(lambda: ig.transform({"y": [0], "n": [1, 2], "id": ["a"]}, RECIPE))


@case(TABLES, "An array of three dimensions", r"column 'n': .* expected 1 or 2 dimensions, found 3", NOTHING)
def three_dimensions(here: Path) -> Seen:
    return refused(lambda: ig.transform({"y": [0, 1], "n": np.zeros((2, 2, 2)), "id": ["a", "b"]}, RECIPE))


@case(TABLES, "An infinite label, in a table", r"table: row 0, column 'y': expected a finite label, found inf", NOTHING)
def table_label(here: Path) -> Seen:
    return refused(lambda: ig.transform({"y": [np.inf], "n": [1.0], "id": ["a"]}, RECIPE))


@case(TABLES, "No table", r"table: expected an Arrow table.* found NoneType", NOTHING)
def no_table(here: Path) -> Seen:
    return refused(lambda: ig.transform(None, RECIPE))  # type: ignore[arg-type]


@case(TABLES, "A table of no rows", "", "a batch of 0 rows")
def table_of_no_rows(here: Path) -> Seen:
    batch = ig.transform({"y": np.zeros(0), "n": np.zeros(0), "id": np.zeros(0, np.int64)}, RECIPE)
    return Seen("", f"a batch of {len(batch)} rows")


def resumed(here: Path, change: Callable[[dict[str, Any]], object]) -> Seen:
    """Change a state behind the first batch, which is refused; what the loader goes on with has to be as before."""
    path = write(here / "a.tsv", HEAD, rows(1, 4))
    with ig.Loader(path, RECIPE, batch_size=2) as loader:
        next(iter(loader))
        state = loader.state_dict()
        change(state)
        says = message_of(lambda: loader.load_state_dict(state))
        given = [int(n) for batch in loader for n in batch.dense[:, 0].tolist()]
    return Seen(says, f"the next epoch, rows {given[0]} to {given[-1]}")


@case(
    STATES,
    "A state of nothing",
    r"state: expected what Loader.state_dict gave, found \{\}",
    "the next epoch, rows 1 to 4",
)
def empty_state(here: Path) -> Seen:
    return resumed(here, dict.clear)


@case(STATES, "A state of a newer version", r"state: expected version 1, found 2", "the next epoch, rows 1 to 4")
def newer_state(here: Path) -> Seen:
    return resumed(here, lambda state: state.update(version=2))


@case(
    STATES,
    "A state of another batch size",
    r"it was saved with batch_size 4, and this loader has 2",
    "the next epoch, rows 1 to 4",
)
def another_batch_size(here: Path) -> Seen:
    return resumed(here, lambda state: state["fingerprint"].update(batch_size=4))


@case(STATES, "A place behind the last row", r"expected a place in an epoch of 4 rows", "the next epoch, rows 1 to 4")
def place_beyond(here: Path) -> Seen:
    return resumed(here, lambda state: state["cursor"].update(rows_done=99))


@case(STATES, "An epoch before the first", r"expected a place in an epoch of 4 rows", "the next epoch, rows 1 to 4")
def epoch_before(here: Path) -> Seen:
    return resumed(here, lambda state: state["cursor"].update(epoch=-1))


@case(STATES, "A cursor that is text", r"cursor: expected epoch, segments", "the next epoch, rows 1 to 4")
def cursor_of_text(here: Path) -> Seen:
    return resumed(here, lambda state: state.update(cursor="end"))
