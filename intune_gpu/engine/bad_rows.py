"""What happens to rows that cannot be used: raise, drop or quarantine."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from intune_gpu.core.columns import BadRow
from intune_gpu.core.errors import BadRowError, DataError, TooManyBadRowsError

POLICIES = ("raise", "drop", "quarantine")
JUDGED_FROM_ROWS = 100_000
"""Rows after which the fraction of bad ones is judged by the rows seen; before, by all rows of the epoch."""

_SHOWN_BYTES = 200


@dataclass(frozen=True, slots=True)
class FoundBadRow:
    """A bad row and where it was found.

    Attributes:
        file: path or URL.
        chunk: the number of its chunk, so that (chunk, bad.row) is the order of the files.
        bad: the row.
    """

    file: str
    chunk: int
    bad: BadRow

    @property
    def place(self) -> tuple[int, int]:
        """Its place in the order of the files."""
        return self.chunk, self.bad.row


class BadRowBook:
    """Carries out the policy, in the order in which batches are given out.

    Args:
        on_bad_row: `"raise"`, `"drop"` or `"quarantine"`.
        max_fraction: above this share of bad rows the run stops.
        folder: where `bad_rows.jsonl` is created at the first bad row.
        rank: of this process; with several ranks each has a file of its own.
        world_size: number of ranks.
    """

    def __init__(
        self, on_bad_row: str, max_fraction: float, folder: str | os.PathLike[str], rank: int = 0, world_size: int = 1
    ) -> None:
        if on_bad_row not in POLICIES:
            raise ValueError(f"on_bad_row: expected one of {', '.join(POLICIES)}, found {on_bad_row!r}")
        try:
            good = 0.0 <= max_fraction <= 1.0
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"max_bad_fraction: expected 0 to 1, found {max_fraction!r}")
        self.on_bad_row = on_bad_row
        self.max_fraction = max_fraction
        name = "bad_rows.jsonl" if world_size == 1 else f"bad_rows-rank{rank}.jsonl"
        try:
            self.path = Path(folder) / name
        except TypeError as error:
            raise ValueError(f"quarantine_dir: expected a folder's path, found {folder!r}") from error
        self._file: FileIO | None = None
        self._written: set[tuple[str, int]] = set()
        self._read_bytes: dict[Path, int] = {}
        self._examples: list[str] = []
        self._first_reason = ""

    def record(self, found: Sequence[FoundBadRow], first: FoundBadRow | None) -> None:
        """Do what the policy says with the bad rows of one batch, before the batch is given out.

        Args:
            found: the batch's bad rows, in the batch's order.
            first: the one to raise; by default the first of `found`.

        Raises:
            BadRowError: there is one and the policy is `"raise"`.
            DataError: the quarantine file cannot be written.
        """
        if not found:
            return
        if self.on_bad_row == "raise":
            raise bad_row_error(first or found[0])
        self._examples += [f"{f.file}:{f.bad.line}" for f in found[: 3 - len(self._examples)]]
        self._first_reason = self._first_reason or _reason(found[0].bad)
        if self.on_bad_row == "quarantine":
            try:
                self._write(found)
            except OSError as error:
                self.close()  # opened again, it is rid of a line that is torn
                raise DataError(
                    f"{self.path}: expected to be able to write bad rows there, found {error.strerror or error}; "
                    'pass another quarantine_dir, or on_bad_row="drop"'
                ) from error

    def judge(self, bad_rows: int, rows: int, of_rows: int) -> None:
        """Stop the run when too many of the epoch's rows are bad.

        Before enough rows were seen, it stops once the epoch is certain to end with too many, were all that is left
        good; so a small file that is misdescribed stops at its first batches, and no run stops that would not anyway.

        Args:
            bad_rows: bad rows so far.
            rows: rows so far, bad ones included.
            of_rows: rows of the whole epoch.

        Raises:
            TooManyBadRowsError: too many are bad.
        """
        if bad_rows <= self.max_fraction * (rows if rows >= JUDGED_FROM_ROWS else of_rows):
            return
        where = f"they are in {self.path}" if self.on_bad_row == "quarantine" else "none of them was kept"
        shown = f", such as {', '.join(self._examples)}; the first: {self._first_reason}" if self._examples else ""
        raise TooManyBadRowsError(
            f"bad rows: expected at most {self.max_fraction:.4%} of the rows, found {bad_rows} of {rows} "
            f"({bad_rows / rows:.4%}){shown}; {where}; check the files and declared types, "
            "or raise max_bad_fraction (in training: --max-bad-fraction)"
        )

    def close(self) -> None:
        """Close the quarantine file; it is read and opened again when needed. May be called more than once."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, found: Sequence[FoundBadRow]) -> None:
        if self._file is None:
            self._read_written()
        new = {key: row for row in found if (key := (row.file, row.bad.line)) not in self._written}
        if not new:
            return
        lines = b"".join(json.dumps(_as_json(row), ensure_ascii=False).encode() + b"\n" for row in new.values())
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(self.path)
            # Stays open from batch to batch. No buffer, which would keep what a full disk refused, and fail in `close`.
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        try:
            left = memoryview(lines)
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self.close()  # so that a torn line is cut off before the next is written
            raise
        self._written.update(new)
        self._read_bytes[self.path] = self._file.tell()

    def _read_written(self) -> None:
        """Learn which rows earlier runs, earlier epochs and other ranks have written."""
        for path in sorted(self.path.parent.glob("bad_rows*.jsonl")):
            known = self._read_bytes.get(path, 0)
            if path.stat().st_size <= known:
                continue
            with open(path, "rb") as file:
                file.seek(known)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read_bytes[path] = known + len(new)
            self._written.update(key for line in new.splitlines() if (key := _key(line)) is not None)


def bad_row_error(row: FoundBadRow) -> BadRowError:
    """Return the error for a bad row under the policy `"raise"`."""
    column = "" if row.bad.column is None else f", column {row.bad.column!r}"
    text = row.bad.text[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    more = "..." if len(row.bad.text) > _SHOWN_BYTES else ""
    return BadRowError(
        f"{row.file}, line {row.bad.line}{column}: {row.bad.reason}; the row is {text + more!r}; "
        'correct it, or pass on_bad_row="quarantine" or "drop"'
    )


def _reason(row: BadRow) -> str:
    return row.reason if row.column is None else f"column {row.column!r}: {row.reason}"


def _as_json(row: FoundBadRow) -> dict[str, Any]:
    entry: dict[str, Any] = {"file": row.file, "line": row.bad.line, "column": row.bad.column, "reason": row.bad.reason}
    try:
        entry["text"] = row.bad.text.decode("utf-8")
    except UnicodeDecodeError:
        entry["text_base64"] = base64.b64encode(row.bad.text).decode("ascii")
    return entry


def _key(line: bytes) -> tuple[str, int] | None:
    try:
        entry = json.loads(line)
        return str(entry["file"]), int(entry["line"])
    except (ValueError, KeyError, TypeError):
        return None  # a line that somebody else wrote into the file


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that a kill left without its end."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            begin = max(0, keep - 65536)
            file.seek(begin)
            newline = file.read(keep - begin).rfind(b"\n")
            if newline >= 0:
                keep = begin + newline + 1
                break
            keep = begin
        if keep < end:
            file.truncate(keep)
