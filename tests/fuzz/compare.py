"""Reads a file with the product and with the plain parser, and finds where they differ."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import intune_gpu as ig
from intune_gpu.core.columns import BadRow, FlatColumn
from intune_gpu.core.errors import DataError
from intune_gpu.loader import Loader
from intune_gpu.sources.text import TextSource
from intune_gpu.sources.text_format import TextFormat
from tests.fuzz import oracle
from tests.fuzz.lines import Fuzzed
from tests.fuzz.oracle import Fault, Parsed

DTYPES = {"hex32": np.uint32, "int64": np.int64, "float64": np.float64}


class DifferenceError(AssertionError):
    """The product and the plain parser do not agree."""


def open_source(file: Fuzzed, path: Path) -> TextSource:
    """Write the file, and open it as the product does."""
    path.write_bytes(file.content)
    return TextSource(
        [str(path)],
        text_format=TextFormat(file.delimiter.decode(), quoted=file.quoted),
        needed=list(file.types),
        types=file.types,
        columns=list(file.types),
        label="label",
        chunk_bytes=file.chunk_bytes,
    )


def check_source(file: Fuzzed, path: Path) -> tuple[Parsed, Counter[str]]:
    """Compare every row, value, and fault.

    Returns:
        What the plain parser found, and how many bad rows of each kind.

    Raises:
        DifferenceError: something is not as the plain parser has it.
    """
    parsed = oracle.parse(file.content, file.types, "label", file.delimiter, file.quoted)
    if not parsed.rows:
        try:
            open_source(file, path)
        except DataError as error:
            if "no rows" in str(error) or "found none" in str(error):
                return parsed, Counter()
        raise DifferenceError("expected a file without rows to be refused")
    source = open_source(file, path)
    chunks = [source.read(index) for index in range(len(source.chunks))]
    same("rows", sum(chunk.rows for chunk in chunks), parsed.rows)
    same("rows of the index", [info.rows for info in source.chunks], [chunk.rows for chunk in chunks])
    firsts = np.cumsum([0, *(chunk.rows for chunk in chunks)]).tolist()
    found = {first + bad.row: bad for first, chunk in zip(firsts, chunks, strict=False) for bad in chunk.bad}
    check_faults(found, parsed, len(file.types))
    good = np.ones(parsed.rows, bool)
    good[list(found)] = False
    for name, declared in file.types.items():
        check_column([chunk.columns[name] for chunk in chunks], good, name, declared, parsed.columns[name])
    source.close()
    return parsed, Counter(fault.kind for fault in parsed.bad.values())


def check_faults(found: dict[int, BadRow], parsed: Parsed, fields: int) -> None:
    """Compare which rows are bad, and what is said of them."""
    same("numbers of bad rows", sorted(found), sorted(parsed.bad))
    for number, fault in parsed.bad.items():
        bad = found[number]
        same(f"row {number}", (bad.line, bad.column, bad.text), (fault.line, fault.column, fault.text))
        check_words(bad.reason, fault, fields)


def check_words(reason: str, fault: Fault, fields: int) -> None:
    """Compare the reason that is told."""
    if not reason.startswith(oracle.words_of(fault.kind, fields)):
        raise DifferenceError(f"line {fault.line}: expected {fault.kind}, found {reason!r}")


def check_column(parts: list[FlatColumn], good: Any, name: str, declared: str, values: tuple[Any, ...]) -> None:
    """Compare the values of all good rows, bit by bit."""
    there = np.concatenate([present_of(part) for part in parts])[good]
    same(f"{name}: missing", there.tolist(), [value is not None for value in values])
    if declared == "string":
        texts = [text for part in parts for text in texts_of(part)]
        kept = [text for text, is_good in zip(texts, good, strict=True) if is_good]
        same(name, [t for t, here in zip(kept, there, strict=True) if here], [v for v in values if v is not None])
        return
    expected = np.array([0 if value is None else value for value in values], DTYPES[declared])
    whole = np.concatenate([part.values for part in parts])
    same(f"{name}: type", whole.dtype, expected.dtype)
    differ = whole[good] != expected
    if declared == "float64":
        whole_nan, expected_nan = np.isnan(whole[good]), np.isnan(expected)
        differ = (whole[good].view(np.uint64) != expected.view(np.uint64)) & ~(whole_nan & expected_nan)
    if (wrong := np.flatnonzero(differ & there)).size:
        at = int(wrong[0])
        raise DifferenceError(f"{name}: good row {at}: expected {expected[at]!r}, found {whole[good][at]!r}")


def present_of(column: FlatColumn) -> Any:
    """(rows,) bool: where there is a value."""
    if column.validity is None:
        return np.ones(column.rows, bool)
    return np.unpackbits(column.validity, count=column.rows, bitorder="little").astype(bool)


def texts_of(column: FlatColumn) -> list[bytes]:
    """The strings of a column."""
    assert column.offsets is not None
    data, offsets = column.values.tobytes(), column.offsets.tolist()
    return [data[a:b] for a, b in itertools.pairwise(offsets)]


NUMBERS = ["label", *(f"I{i}" for i in range(1, 14))]
IDS = [f"C{i}" for i in range(1, 27)]
PLAIN = ig.Recipe(
    "label",
    dense={name: [ig.FillMissing(-1.5)] for name in NUMBERS[1:]},
    sparse={name: [ig.Modulo(2**33)] for name in IDS},
    types=dict.fromkeys(IDS, "hex32") | dict.fromkeys(NUMBERS, "int64"),
)
"""A recipe that changes as little as one can: its batches show the values."""


def check_loader(file: Fuzzed, path: Path, parsed: Parsed, batch_size: int) -> None:
    """Compare batches, counts and the quarantine file; the file is Criteo's, and written to `path`."""
    folder = path.parent / "quarantine"
    kept = folder / "bad_rows.jsonl"
    kept.unlink(missing_ok=True)
    options: dict[str, Any] = {"columns": list(file.types), "max_bad_fraction": 1.0, "quarantine_dir": folder}
    with Loader(path, PLAIN, batch_size=batch_size, readers=2, transformers=2, **options) as loader:
        batches = list(loader)
        stats = loader.stats()
    same("batches", len(batches), -(-parsed.rows // batch_size))
    same("counts", (stats.rows, stats.bad_rows), (parsed.rows, len(parsed.bad)))
    dense = np.concatenate([batch.dense.numpy() for batch in batches])
    ids = np.concatenate([batch.sparse.values().numpy().reshape(len(IDS), -1) for batch in batches], axis=1)
    same("labels", np.concatenate([b.label.numpy() for b in batches]).tolist(), floats(parsed.columns["label"], 0.0))
    for at, name in enumerate(NUMBERS[1:]):
        same(f"{name} of the batches", dense[:, at].tolist(), floats(parsed.columns[name], -1.5))
    for at, name in enumerate(IDS):
        same(f"{name} of the batches", ids[at].tolist(), [value or 0 for value in parsed.columns[name]])
    lines = kept.read_bytes().splitlines() if kept.exists() else []
    same("lines of the quarantine", len(lines), len(parsed.bad))
    for line, fault in zip(map(json.loads, lines), parsed.bad.values(), strict=True):
        same("quarantined", (line["line"], line["column"]), (fault.line, fault.column))
        check_words(line["reason"], fault, len(file.types))


def floats(values: tuple[Any, ...], missing: float) -> list[float]:
    """The values as float32, which int64 becomes in one rounding."""
    there = [value is not None for value in values]
    numbers = np.array([value if value is not None else 0 for value in values], np.int64).astype(np.float32)
    return np.where(there, numbers, np.float32(missing)).tolist()


def same(what: str, found: Any, expected: Any) -> None:
    """Raise where two things are not equal."""
    if found != expected:
        if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
            at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
            what, found, expected = f"{what} [{at}]", found[at], expected[at]
        raise DifferenceError(f"{what}: expected {expected!r:.300}, found {found!r:.300}")
