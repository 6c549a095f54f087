"""`intune-gpu inspect`: what a data set holds, column by column."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from intune_gpu.cli.config import InspectConfig
from intune_gpu.cli.look import look
from intune_gpu.cli.profile import Profile, profile_all
from intune_gpu.cli.screen import columns, console, percent, print_json, size
from intune_gpu.sources.sampling import Sample


def run(config: InspectConfig) -> int:
    """Look at the data and print what was found; return the exit code.

    Raises:
        DataError: there is no such file, or one cannot be read.
        UsageError: text files have neither a header nor names.
    """
    sample = look(config)
    profiles = profile_all(sample)
    if config.json:
        print_json({**summary(sample), "columns": [column_json(found) for found in profiles]})
        return 0
    screen = console()
    screen.print(headline(sample), markup=False)
    table = columns("column", "type", "missing", "distinct", "range, or commonest values", "look at")
    for found in profiles:
        cells = (found.name, found.type, missing(found), distinct(found), _values(found), "; ".join(found.odd))
        table.add_row(*map(Text, cells))
    screen.print(table)
    return 0


def summary(sample: Sample) -> dict[str, Any]:
    """Return what is known of the data set as a whole, as JSON takes it."""
    return {
        "rows": sample.rows,
        "files": len(sample.files),
        "chunks": sample.chunks,
        "bytes": sample.nbytes,
        "rows_looked_at": sample.table.num_rows + sample.bad_rows,
        "bad_rows_looked_at": sample.bad_rows,
    }


def headline(sample: Sample) -> str:
    """Return the same in a line for people."""
    files = f"{len(sample.files):,} file{'s' if len(sample.files) > 1 else ''}"
    chunks = f"{sample.chunks:,} {'chunk' if sample.is_text else 'row group'}{'s' if sample.chunks > 1 else ''}"
    looked = sample.table.num_rows + sample.bad_rows
    seen = "all looked at" if sample.is_whole else f"{looked:,} looked at, spread over all"
    bad = f"; {sample.bad_rows:,} of them cannot be read" if sample.bad_rows else ""
    return f"{sample.rows:,} rows ({seen}{bad}) in {files}, {chunks}, {size(sample.nbytes)}"


def column_json(found: Profile) -> dict[str, Any]:
    """Return what is known of a column, as JSON takes it."""
    return {
        "name": found.name,
        "type": found.type,
        "kind": f"list of {found.kind}" if found.is_list else found.kind,
        "missing": found.missing,
        "missing_exact": found.missing_exact,
        "distinct": found.distinct,
        "distinct_exact": found.distinct_exact,
        "min": found.minimum,
        "max": found.maximum,
        "top": [{"value": value, "share": share} for value, share in found.top],
        "look_at": list(found.odd),
    }


def missing(found: Profile) -> str:
    """Return the share of rows that miss a value, for people; ~ before what is not known of all rows."""
    if found.missing is None:
        return "?"
    return percent(found.missing) if found.missing_exact else f"~{percent(found.missing)}"


def distinct(found: Profile) -> str:
    """Return the number of values, for people; ~ before an estimate."""
    if found.distinct is None:
        return "?"
    return f"{found.distinct:,}" if found.distinct_exact else f"~{float(f'{found.distinct:.2g}'):,.0f}"


def _values(found: Profile) -> str:
    if found.minimum is not None:
        return f"{_short(found.minimum)} to {_short(found.maximum)}"
    return ", ".join(f"{_short(value)} ({percent(share)})" for value, share in found.top)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
