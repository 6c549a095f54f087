"""docs/telemetry.md names every field, in order, with the unit that its name says."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from intune_gpu.core.signals import GpuSignals, HostSignals, Signals, StageSignals

TEXT = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
UNITS = {
    "_rows_per_s": "rows/s",
    "_bytes_per_s": "bytes/s",
    "_bytes": "bytes",
    "_pct": "%",
    "_watts": "W",
    "_cores": "cores",
    "_windows": "windows",
    "_batches": "batches",
    "_s": "s",
}


def table_of(kind: type) -> dict[str, tuple[str, str, str]]:
    """Return (unit, source, absent when) of each field, in the order of the text."""
    (section,) = re.findall(rf"^## {kind.__name__}$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| `")
    ]
    return {name.strip("`"): (unit, source, absent) for name, unit, source, absent in cells}


@pytest.mark.parametrize("kind", [Signals, StageSignals, HostSignals, GpuSignals])
def test_every_field_is_explained(kind: type) -> None:
    table = table_of(kind)
    assert list(table) == [field.name for field in fields(kind)]
    for name, (unit, source, _) in table.items():
        expected = next((unit for end, unit in UNITS.items() if f"_{name}".endswith(end)), None)
        assert source, name
        assert expected in (None, unit), name


@pytest.mark.parametrize("kind", [Signals, StageSignals, HostSignals, GpuSignals])
def test_what_may_be_absent_says_when(kind: type) -> None:
    table = table_of(kind)
    there = {"process_cores", "host"}  # absent in a span of nothing only; in signals that were not made here only
    for field in fields(kind):
        may_be = ("None" in str(field.type) or field.name == "gpus") and field.name not in there
        assert bool(table[field.name][2]) == may_be, field.name
