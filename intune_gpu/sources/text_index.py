"""Which rows each chunk of a text file holds: counted once, then kept on disk.

A chunk is a range of 4 MiB of the (decompressed) file, moved to row ends: it begins behind the first row end at or
after its range's start, and ends behind the first row end at or after its range's end. So the chunks depend on the
file alone, and ranges can be counted in any order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from intune_gpu.core.errors import DataError
from intune_gpu.kernels.text_index import PADDING, QUOTE_STATE, find_rows_cpu
from intune_gpu.kernels.threads import keep_thread, results_of
from intune_gpu.sources.files import file_identity, fill, is_url, unreadable
from intune_gpu.sources.text_format import Head, TextFormat, read_head
from intune_gpu.sources.text_stream import codec_of, open_text

CHUNK_BYTES = 4 << 20
MAX_ROW_BYTES = 64 << 20
"""A longer row is refused: it is no text, or a quote was never closed."""

CACHE_VERSION = 1
_SPAN_RANGES = 16
_MAX_THREADS = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk's place in its file.

    Attributes:
        start, stop: its bytes, of the decompressed file.
        rows: physical rows.
        first_row: number of the first, from 0; a header does not count.
        first_line: line of the first, from 1; a header counts.
    """

    start: int
    stop: int
    rows: int
    first_row: int
    first_line: int


@dataclass(frozen=True, slots=True)
class FileIndex:
    """The chunks of one file, as it was at `mtime_ns`.

    Attributes:
        file: path or URL.
        size: bytes on disk.
        mtime_ns: see `file_identity`.
        pieces: in file order.
    """

    file: str
    size: int
    mtime_ns: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """What was found in one range of a file; places are bytes from the file's start.

    Attributes:
        ends: row ends.
        first, last: places of the first and last row end, -1 where there is none.
        lines_to_first: newlines up to the first row end.
        lines: newlines.
        size: bytes of the range.
    """

    ends: int
    first: int
    last: int
    lines_to_first: int
    lines: int
    size: int


def index_files(
    files: Sequence[str], text_format: TextFormat, chunk_bytes: int = CHUNK_BYTES
) -> tuple[list[FileIndex], list[Head]]:
    """Return the index and the first row of every file.

    Raises:
        DataError: a file has no rows, cannot be read, or has a row longer than `MAX_ROW_BYTES`.
    """
    heads = [read_head(file, text_format) for file in files]
    identities = [file_identity(file) for file in files]
    known = [_load(file, identity, text_format, chunk_bytes) for file, identity in zip(files, identities, strict=True)]
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, "intune-index", keep_thread) as pool:
        counted: list[list[Future[list[Counted]]]] = []
        for file, identity, head, pieces in zip(files, identities, heads, known, strict=True):
            spans = [] if pieces else _spans(file, identity[0], text_format, chunk_bytes)
            counted.append([pool.submit(_count, file, span, head, text_format, chunk_bytes) for span in spans])
        indexes = []
        try:
            for file, identity, head, pieces, parts in zip(files, identities, heads, known, counted, strict=True):
                if pieces is None:
                    ranges = [found for part in results_of(parts) for found in part]
                    pieces = cut(file, ranges, head, text_format.header, chunk_bytes)
                    _save(file, identity, text_format, chunk_bytes, pieces)
                indexes.append(FileIndex(file, *identity, pieces))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return indexes, heads


def cut(file: str, ranges: Sequence[Counted], head: Head, header: bool, chunk_bytes: int) -> tuple[Piece, ...]:
    """Join what was counted, in file order, into chunks.

    Raises:
        DataError: there are no rows, or one is too long.
    """
    size = sum(found.size for found in ranges)
    bounds = [(0, 0, 0)]  # place, rows before it, lines before it
    rows, lines, last = 0, 0, -1
    for number, found in enumerate(ranges):
        if number > 0 and found.first >= 0:
            bounds.append((found.first + 1, rows + 1, lines + found.lines_to_first))
        rows, lines, last = rows + found.ends, lines + found.lines, max(last, found.last)
    bounds.append((size, rows + (last + 1 < size), lines))
    if header:  # the header is the first row of the first chunk
        bounds[0] = (head.stop, 1, head.lines)
    else:
        bounds[0] = (head.start, 0, 0)
    pieces = []
    for (start, row, line), (stop, row_after, _) in pairwise(bounds):
        if stop - start > chunk_bytes + MAX_ROW_BYTES:
            raise DataError(
                f"{file}: expected rows of at most {MAX_ROW_BYTES} bytes, found a longer one at line {line + 1} or "
                "soon after; is this text, and is every quote closed?"
            )
        if row_after > row and stop > start:
            pieces.append(Piece(start, stop, row_after - row, row - header, line + 1))
    if not pieces:
        raise DataError(f"{file}: expected rows, found none; leave it out")
    return tuple(pieces)


def _spans(file: str, size: int, text_format: TextFormat, chunk_bytes: int) -> list[tuple[int, int | None]]:
    """Return the parts of a file that can be counted at the same time: (first byte, end or None)."""
    if text_format.quoted or codec_of(file) is not None or is_url(file):
        return [(0, None)]
    step = _SPAN_RANGES * chunk_bytes
    return [(start, start + step) for start in range(0, size, step)]


def _count(
    file: str, span: tuple[int, int | None], head: Head, text_format: TextFormat, chunk_bytes: int
) -> list[Counted]:
    text = np.empty(chunk_bytes + PADDING, np.uint8)
    found, state = np.zeros(5, np.int64), np.array(QUOTE_STATE)
    counted: list[Counted] = []
    start, stop = span
    source = open_text(file)
    try:
        if start:
            source.seek(start)
        while stop is None or start < stop:
            size = fill(source, text.data[:chunk_bytes])
            if size == 0:
                break
            skip = max(0, min(head.start - start, size))  # the byte order mark
            find_rows_cpu(text[skip:], size - skip, text_format.delimiter_byte, text_format.quote_byte, state, found)
            ends, first, last, to_first, lines = found.tolist()
            place = start + skip
            counted.append(
                Counted(ends, first + place if ends else -1, last + place if ends else -1, to_first, lines, size)
            )
            start += size
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from error
    finally:
        source.close()
    return counted


# --- the copy on disk ------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return where indexes are kept: `$XDG_CACHE_HOME`, or else `~/.cache`, and `intune_gpu/index` in it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intune_gpu" / "index"


def _key(file: str, text_format: TextFormat, chunk_bytes: int) -> dict[str, object]:
    path = file if is_url(file) else os.path.abspath(file)
    return {"version": CACHE_VERSION, "file": path, "format": list(astuple(text_format)), "chunk_bytes": chunk_bytes}


def _cache_file(key: dict[str, object]) -> Path:
    return cache_folder() / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"


def _load(file: str, identity: tuple[int, int], text_format: TextFormat, chunk_bytes: int) -> tuple[Piece, ...] | None:
    key = _key(file, text_format, chunk_bytes)
    expected = {**key, "size": identity[0], "mtime_ns": identity[1]}
    try:
        saved = json.loads(_cache_file(key).read_text())
        if {name: saved.get(name) for name in expected} != expected:
            return None
        return tuple(Piece(*map(int, piece)) for piece in saved["pieces"]) or None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None  # not there, or not ours: count again


def _save(
    file: str, identity: tuple[int, int], text_format: TextFormat, chunk_bytes: int, pieces: Sequence[Piece]
) -> None:
    if identity[1] == 0:
        return  # a change could not be seen
    key = _key(file, text_format, chunk_bytes)
    content = {**key, "size": identity[0], "mtime_ns": identity[1], "pieces": [astuple(piece) for piece in pieces]}
    with contextlib.suppress(OSError, RuntimeError):  # the cache only saves time; a home may be read-only or unknown
        target = _cache_file(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w") as out:
                json.dump(content, out)
            os.replace(temporary, target)
        except OSError:
            os.unlink(temporary)
            raise
