"""Synthetic click logs in the schema of Criteo, written as Parquet or TSV, with the AUC that no model can pass."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from intune_gpu.core.errors import DataError
from intune_gpu.kernels import synthesis
from intune_gpu.kernels.threads import keep_thread, results_of
from intune_gpu.sources.synthetic_model import (
    CARDINALITIES,
    ID_FIELDS,
    INTEGER_FIELDS,
    MAX_AUC_ROWS,
    Array,
    Columns,
    draw_columns,
    exact_aucs,
    expected_auc,
    planted_model,
)

FORMAT_VERSION = 1
SIDECAR = "synthetic.json"

_MAX_SEED = 2**63 - 1
# A dictionary of more ids than this costs much time for each row group, and is given up half-way.
_MAX_DICTIONARY_IDS = 20_000
_ROW_BYTES = 250  # of text, the largest format


@dataclass(frozen=True)
class SyntheticInfo:
    """What is known of a folder of synthetic click logs; `synthetic.json` in the folder holds it.

    Rows count in file order, through all files by name.

    Args:
        rows: number of rows in all files.
        seed: what every row derives from.
        format: `"parquet"` or `"tsv"`.
        hex_ids: whether `C1` to `C26` are strings of 8 hex digits; else int32 with the same 32 bits.
        files: number of files.
        positive_rate: share of labels that are 1.
        auc_ceiling: AUC of the true probabilities over all rows.
        auc_ceiling_last_10_pct: the same over the last `max(1, rows // 10)` rows.
        auc_dense_only: AUC of the dense part of the true logit alone, over all rows.
        cardinalities: number of distinct ids that each of `C1` to `C26` draws from.
        format_version: version of this file and of how rows are drawn.
    """

    rows: int
    seed: int
    format: str
    hex_ids: bool
    files: int
    positive_rate: float
    auc_ceiling: float
    auc_ceiling_last_10_pct: float
    auc_dense_only: float
    cardinalities: dict[str, int]
    format_version: int = FORMAT_VERSION

    def ceiling(self, first_row: int = 0, rows: int | None = None) -> float:
        """Return the AUC ceiling of any run of rows, made again from the seed (about 0.5 s a million rows).

        Args:
            first_row: 0-based, in file order.
            rows: how many; None means all that follow.

        Raises:
            ValueError: the run is not inside the data.
        """
        count = self.rows - first_row if rows is None else rows
        if first_row < 0 or count < 1 or first_row + count > self.rows:
            raise ValueError(
                f"rows {first_row} to {first_row + count - 1} are not in this data of {self.rows} rows; "
                f"give a run inside 0 to {self.rows - 1}"
            )
        return exact_aucs(self.seed, first_row, count)[0]


def write_click_logs(
    out: str | os.PathLike[str],
    rows: int,
    *,
    format: Literal["parquet", "tsv"] = "parquet",
    hex_ids: bool = True,
    seed: int = 0,
    files: int = 4,
    row_group_rows: int = 65_536,
    threads: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> SyntheticInfo:
    """Write synthetic click logs into a new folder: `part-00000.parquet` (or `.tsv`), ..., and `synthetic.json`.

    Each row depends on the seed and its number only: the same `rows` and `seed` give the same rows in every format,
    whatever the threads, files and row groups. The folder appears whole or not at all.

    Args:
        out: the folder to make; it must not be there yet, or be empty.
        rows: number of rows.
        format: Parquet with columns `label`, `I1` to `I13` (int32) and `C1` to `C26`; or Criteo's text: tab-separated,
            no header, an empty field where missing.
        hex_ids: in Parquet, `C1` to `C26` as strings of 8 hex digits, else as int32 with the same 32 bits. Text always
            has hex digits.
        seed: what rows and planted model derive from.
        files: number of files, each an equal run of the rows; never more than rows.
        row_group_rows: rows of a row group, and of what one thread makes at a time (about 0.4 kB a row).
        threads: number of files written at once.
        on_progress: called with the number of rows written so far, from any thread, one call at a time.

    Returns:
        What `synthetic.json` says.

    Raises:
        ValueError: an argument is out of range.
        DataError: the folder is there already, or cannot be written (no space, no permission).
    """
    _check(rows, format, seed, {"files": files, "row_group_rows": row_group_rows, "threads": threads})
    target, files = Path(out), min(files, rows)
    progress = _Progress(rows, on_progress)
    part = _parquet_part(hex_ids) if format == "parquet" else _tsv_part
    starts = [rows * k // files for k in range(files + 1)]
    with _new_folder(target, rows) as folder, ThreadPoolExecutor(threads, "synthetic", keep_thread) as pool:
        try:
            aucs = None if rows <= MAX_AUC_ROWS else pool.submit(_sampled_aucs, seed, rows, progress)
            jobs: list[Future[None]] = []
            for k in range(files):
                chunks = _chunks(seed, starts[k], starts[k + 1], row_group_rows, progress)
                jobs.append(pool.submit(part, folder / f"part-{k:05}.{format}", chunks))
            all_jobs: list[Future[Any]] = [*jobs]
            if aucs is not None:
                all_jobs.append(aucs)
            results_of(all_jobs)
            overall, dense_only, last_10_pct = aucs.result() if aucs else _whole_aucs(*progress.truth)
        except BaseException:
            progress.stopped = True
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        info = SyntheticInfo(
            rows=rows,
            seed=seed,
            format=format,
            hex_ids=hex_ids or format == "tsv",
            files=files,
            positive_rate=progress.positives / rows,
            auc_ceiling=overall,
            auc_ceiling_last_10_pct=last_10_pct,
            auc_dense_only=dense_only,
            cardinalities=dict(CARDINALITIES),
        )
        (folder / SIDECAR).write_text(json.dumps(asdict(info), indent=2) + "\n")
    return info


def read_info(path: str | os.PathLike[str]) -> SyntheticInfo:
    """Read what is known of synthetic click logs.

    Args:
        path: their folder, or its `synthetic.json`.

    Raises:
        DataError: there is no such file, or it is not one that this version can read.
    """
    file = Path(path) / SIDECAR if Path(path).is_dir() else Path(path)
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as the description of synthetic click logs: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {version}, expected {FORMAT_VERSION}; write the synthetic click logs again"
        )
    names = {field.name for field in fields(SyntheticInfo)}
    if set(values) != names:
        odd = ", ".join(sorted(set(values) ^ names))
        raise DataError(f"{file} lacks or adds {odd}; write the synthetic click logs again")
    return SyntheticInfo(**values)


class _Progress:
    """Counts what all threads wrote, tells the caller, and stops the threads when one of them failed.

    `truth` keeps the true probability and the dense logit of each row, where their AUC needs no sampling.
    """

    def __init__(self, rows: int, on_progress: Callable[[int], None] | None) -> None:
        self.rows = 0
        self.positives = 0
        self.stopped = False
        self.truth = np.empty((2, rows if rows <= MAX_AUC_ROWS else 0))
        self._on_progress = on_progress
        self._lock = threading.Lock()

    def check(self) -> None:
        if self.stopped:
            raise CancelledError

    def add(self, rows: int, positives: int) -> None:
        with self._lock:
            self.rows += rows
            self.positives += positives
            if self._on_progress is not None:
                self._on_progress(self.rows)


_Chunk = tuple[Array, Columns]  # labels (rows,) int32, and the fields


def _chunks(seed: int, start: int, stop: int, chunk_rows: int, progress: _Progress) -> Iterator[_Chunk]:
    model = planted_model(seed)
    for first_row in range(start, stop, chunk_rows):
        progress.check()
        columns = draw_columns(seed, first_row, min(chunk_rows, stop - first_row))
        parts = model.parts(columns)
        truth = model.probabilities(parts)
        labels = model.labels(first_row, truth)
        if progress.truth.size:
            progress.truth[:, first_row : first_row + len(labels)] = truth, parts.dense
        yield labels, columns
        progress.add(len(labels), int(labels.sum()))


def _tsv_part(path: Path, chunks: Iterator[_Chunk]) -> None:
    buffer = np.empty(0, np.uint8)
    with open(path, "wb") as file:
        for labels, columns in chunks:
            if len(buffer) < len(labels) * synthesis.MAX_LINE_BYTES:
                buffer = np.empty(len(labels) * synthesis.MAX_LINE_BYTES, np.uint8)
            size = synthesis.tsv_lines_cpu(labels, columns.integers, columns.ids, columns.missing, buffer)
            file.write(buffer[:size].data)


def _parquet_part(hex_ids: bool) -> Callable[[Path, Iterator[_Chunk]], None]:
    id_type = pa.string() if hex_ids else pa.int32()
    schema = pa.schema(
        [
            pa.field("label", pa.int32(), nullable=False),
            *(pa.field(name, pa.int32()) for name in INTEGER_FIELDS),
            *(pa.field(name, id_type) for name in ID_FIELDS),
        ]
    )

    encoded = [*INTEGER_FIELDS, *(name for name in ID_FIELDS if CARDINALITIES[name] <= _MAX_DICTIONARY_IDS)]

    def write(path: Path, chunks: Iterator[_Chunk]) -> None:
        with pq.ParquetWriter(path, schema, use_dictionary=encoded) as writer:
            for labels, columns in chunks:
                values = [_arrow(labels, None), *map(_arrow, columns.integers, columns.missing)]
                to_arrow = _arrow_hex if hex_ids else _arrow
                values += map(to_arrow, columns.ids, columns.missing[len(INTEGER_FIELDS) :])
                writer.write_table(pa.Table.from_arrays(values, schema=schema), row_group_size=len(labels))

    return write


def _arrow(values: Array, missing: Array | None) -> pa.Array:
    return pa.Array.from_buffers(pa.int32(), len(values), [_validity(missing), pa.py_buffer(values)])


def _arrow_hex(ids: Array, missing: Array) -> pa.Array:
    digits = np.empty(len(ids) * 8, np.uint8)
    synthesis.hex_ids_cpu(ids, digits)
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * np.int32(8)
    return pa.Array.from_buffers(
        pa.string(), len(ids), [_validity(missing), pa.py_buffer(offsets), pa.py_buffer(digits)]
    )


def _validity(missing: Array | None) -> pa.Buffer | None:
    if missing is None or not missing.any():
        return None
    return pa.py_buffer(np.packbits(~missing, bitorder="little"))


def _sampled_aucs(seed: int, rows: int, progress: _Progress) -> tuple[float, float, float]:
    ceiling, dense_only = exact_aucs(seed, 0, rows, progress.check)
    return ceiling, dense_only, exact_aucs(seed, rows - rows // 10, rows // 10, progress.check)[0]


def _whole_aucs(truth: Array, dense: Array) -> tuple[float, float, float]:
    tail = truth[-max(1, len(truth) // 10) :]
    return expected_auc(truth, truth), expected_auc(truth, dense), expected_auc(tail, tail)


@contextmanager
def _new_folder(target: Path, rows: int) -> Iterator[Path]:
    """Give a folder beside `target` that takes its name when all went well, and is removed otherwise."""
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise DataError(f"{target} is there already; give a new folder for the synthetic click logs, or remove it")
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(target)
    except OSError as error:
        raise DataError(
            f"{rows} rows of synthetic click logs cannot be written to {target}: {error}; "
            f"give a folder that can be written to, with about {math.ceil(rows * _ROW_BYTES / 1e6)} MB free"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(rows: int, format: str, seed: int, counts: dict[str, int]) -> None:
    for name, count in {"rows": rows, **counts}.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; give at least 1")
    if format not in ("parquet", "tsv"):
        raise ValueError(f"format is {format!r}; give 'parquet' or 'tsv'")
    if not 0 <= seed <= _MAX_SEED:
        raise ValueError(f"seed is {seed}; give a number from 0 to {_MAX_SEED}")
