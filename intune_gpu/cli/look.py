"""From what a user names as data to a sample of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from intune_gpu.cli.config import InspectConfig, RecipeConfig
from intune_gpu.cli.screen import progress
from intune_gpu.opening import locate
from intune_gpu.recipe.ready import CRITEO_COLUMNS
from intune_gpu.sources.sampling import Sample
from intune_gpu.sources.sampling_parquet import sample_parquet
from intune_gpu.sources.sampling_text import sample_text
from intune_gpu.sources.text_format import TextFormat, read_head
from intune_gpu.train.config import UsageError

_SHOWN_FIELDS = 10


def look(config: InspectConfig | RecipeConfig, label: str | None = None) -> Sample:
    """Sample the data that was named.

    Args:
        config: names data, format, columns, rows and seed.
        label: a column that a header must have.

    Raises:
        DataError: there is no such file, or one cannot be read.
        UsageError: text files have neither a header nor names.
    """
    files, kind = locate(list(config.data), config.format)
    if kind == "parquet" and config.columns:
        raise UsageError("--columns: expected none for Parquet files, which name their columns; take it out")
    with progress("looking") as tell:
        if kind == "parquet":
            return sample_parquet(files, config.rows, config.seed, tell)
        text_format, names = _text_names(files[0], kind, config.columns, label)
        return sample_text(files, text_format, names, config.rows, config.seed, tell)


def _text_names(path: str, kind: str, columns: Sequence[str], label: str | None) -> tuple[TextFormat, tuple[str, ...]]:
    """Tell a header from a row: it is `columns`, or has the label, or no number and nothing twice or empty."""
    delimiter, quoted = (",", True) if kind == "csv" else ("\t", False)
    fields = read_head(path, TextFormat(delimiter, False, quoted)).fields
    named = len(set(fields)) == len(fields) and not any(field == "" or _is_number(field) for field in fields)
    if columns:
        header, names = fields == tuple(columns), tuple(columns)
        if len(names) != len(fields):
            raise UsageError(f"--columns: expected {len(fields)} names, one a field of {path}, found {len(names)}")
    elif named or (label is not None and label in fields):
        header, names = True, fields
    elif len(fields) == len(CRITEO_COLUMNS) and fields[0] in ("0", "1"):
        header, names = False, tuple(CRITEO_COLUMNS)
    else:
        shown = ", ".join(map(repr, fields[:_SHOWN_FIELDS])) + (", ..." if len(fields) > _SHOWN_FIELDS else "")
        raise UsageError(
            f"{path}: expected a header line, found a first row of {len(fields)} fields, {shown}; "
            "name all fields in order with --columns, or correct --format"
        )
    return TextFormat(delimiter, header, quoted), names


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
