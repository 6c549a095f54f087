"""The click logs of the text, Parquet and DALI cases: synthetic, in one file each, in a temporary folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from intune_gpu.sources.synthetic import write_click_logs


class Layout(NamedTuple):
    """How one case's file is written."""

    format: Literal["parquet", "tsv"]
    hex_ids: bool


LAYOUTS: dict[str, dict[str, Layout]] = {
    "text": {"Criteo TSV": Layout("tsv", True)},
    "parquet": {"integer ids": Layout("parquet", False), "hex string ids": Layout("parquet", True)},
    "dali": {"integer ids": Layout("parquet", False)},
}
"""Section → case → layout."""


def write(section: str, rows: int, seed: int, folder: Path) -> dict[str, str]:
    """Write the file of each case of a section, and return their paths by case."""
    paths = {}
    for number, (case, layout) in enumerate(LAYOUTS[section].items()):
        target = folder / f"{section}-{number}"
        write_click_logs(target, rows, format=layout.format, hex_ids=layout.hex_ids, seed=seed, files=1)
        paths[case] = str(target / f"part-00000.{layout.format}")
    return paths
