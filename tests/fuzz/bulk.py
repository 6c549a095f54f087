"""The long run: random files through the product and the plain parser until so many fields were compared."""

from __future__ import annotations

import faulthandler
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from intune_gpu.sources.text_index import cache_folder
from tests.fuzz.compare import DifferenceError, check_loader, check_source
from tests.fuzz.lines import CRITEO, Fuzzed, Writer

HANG_S = 120
LOADER_EVERY = 4


@dataclass
class Counts:
    """What a run compared.

    Attributes:
        seed: from which all files follow.
        fields: fields of all rows, as many as the rows were to have.
        rows: physical rows, bad ones included.
        bad_rows: by kind of fault.
        files: how many.
        loader_files: how many of them also went through the loader, batch by batch.
        file_bytes: of all files.
        seconds: in which it was done, all of it.
        parser_s: of these, reading with the product and with the plain parser, and comparing.
        commit: of the product.
        python: its version.
        differences: what did not agree.
    """

    seed: int
    fields: int = 0
    rows: int = 0
    bad_rows: dict[str, int] = field(default_factory=dict)
    files: int = 0
    loader_files: int = 0
    file_bytes: int = 0
    seconds: float = 0.0
    parser_s: float = 0.0
    commit: str = ""
    python: str = platform.python_version()
    differences: list[str] = field(default_factory=list)


def run(seed: int, fields: int, seconds: float, rows: int = 40_000) -> Counts:
    """Compare until `fields` fields were seen or `seconds` are over; stop at the first difference, and keep its file.

    Args:
        seed: of the files.
        fields: how many, at least.
        seconds: at most, to the end of a file.
        rows: of a large file.
    """
    began, counts, writer = perf_counter(), Counts(seed, commit=commit()), Writer(seed, rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.tsv"
        while counts.fields < fields and perf_counter() - began < seconds and not counts.differences:
            file = writer.file()
            faulthandler.dump_traceback_later(HANG_S, exit=True)  # a hang ends the run, and says where it was
            before = perf_counter()
            compare(file, path, counts)
            counts.parser_s += perf_counter() - before
            faulthandler.cancel_dump_traceback_later()
            if counts.files % 20 == 0:
                print(f"{counts.fields:,} fields, {perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        for index in cache_folder().glob("*.json"):
            if folder in index.read_text():
                index.unlink()
    counts.seconds = perf_counter() - began
    return counts


def compare(file: Fuzzed, path: Path, counts: Counts) -> None:
    """Compare one file, and count it."""
    try:
        parsed, kinds = check_source(file, path)
        if file.types is CRITEO and parsed.rows and counts.files % LOADER_EVERY == 0:
            check_loader(file, path, parsed, batch_size=4096)
            counts.loader_files += 1
    except DifferenceError as difference:
        keep = Path(f"fuzz-{counts.seed}-{counts.files}.txt")
        keep.write_bytes(file.content)
        counts.differences.append(f"{keep}, chunk_bytes={file.chunk_bytes}, quoted={file.quoted}: {difference}")
        return
    counts.fields += parsed.rows * len(file.types)
    counts.rows += parsed.rows
    counts.bad_rows = dict(Counter(counts.bad_rows) + kinds)
    counts.files += 1
    counts.file_bytes += len(file.content)


def commit() -> str:
    """Return the commit of the working tree, "+" behind it where files differ from it; empty where there is no git."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
