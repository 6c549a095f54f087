"""TSV and CSV files as a source: Criteo's format, and any other of integers, hex ids, decimal numbers and strings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import DECLARED, Chunk, ChunkInfo, ColumnType, LabelRange
from intune_gpu.core.errors import DataError, RecipeError
from intune_gpu.core.source import Source
from intune_gpu.sources.files import file_identity, is_url, read_into
from intune_gpu.sources.text_decode import ChunkDecoder, Layout, Scratch, changed
from intune_gpu.sources.text_format import TextFormat
from intune_gpu.sources.text_index import CHUNK_BYTES, FileIndex, Piece, index_files
from intune_gpu.sources.text_stream import TextStream, codec_of

SUFFIXES = tuple(kind + codec for kind in (".tsv", ".csv", ".txt") for codec in ("", ".gz", ".zst"))
"""Endings that a directory's text files have, for `files.expand`."""


@dataclass(frozen=True, slots=True)
class RawText:
    """A chunk before it is decoded: whole rows.

    Attributes:
        file: path or URL.
        first_line: line of the first row, from 1.
        rows: how many the index counted.
        nbytes: of text.
        fill: reads the text into (nbytes,) uint8; the same bytes at every call.
    """

    file: str
    first_line: int
    rows: int
    nbytes: int
    fill: Callable[[npt.NDArray[np.uint8]], None]


class TextSource(Source):
    """Rows of text files, decoded by our own parser.

    An empty field is missing; in quotes and declared a string it is an empty string. A number that is NaN stays one. A
    row is bad when its number of fields is wrong (so a blank line is, unless there is one field only), a needed field
    cannot be read, or the label is missing or not finite. Fields that are not needed are not looked at.

    Args:
        files: paths and URLs, as `files.expand` gives them; `.gz` and `.zst` are decompressed.
        text_format: how they are written.
        needed: the columns to decode.
        types: of every needed column: hex32, int64, float64 or string.
        columns: names of all fields, in order, where the files have no header.
        label: the column that no row may lack.
        label_range: (least, most) that a label may be, or None.
        chunk_bytes: bytes of text a chunk; for tests.

    Attributes:
        layout: what is made of a row.

    Raises:
        DataError: a file is empty, cannot be read, or has another header than the first.
        RecipeError: a needed column is not there, or has no such type.
    """

    pool: BufferPool

    def __init__(
        self,
        files: Sequence[str],
        *,
        text_format: TextFormat,
        needed: Sequence[str],
        types: Mapping[str, str],
        columns: Sequence[str] | None = None,
        label: str | None = None,
        label_range: LabelRange | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        if text_format.header == (columns is not None):
            raise RecipeError(
                f"columns: expected the names of all fields for files without a header, and None for files with one, "
                f"found {columns!r} with header={text_format.header}"
            )
        self._indexes, heads = index_files(files, text_format, chunk_bytes)
        names = heads[0].fields if columns is None else tuple(columns)
        for file, head in zip(files, heads, strict=True):
            if text_format.header and head.fields != names:
                raise DataError(
                    f"{file}: expected the header of {files[0]}, {', '.join(names)}, found {', '.join(head.fields)}; "
                    "write all files with one header, or load them apart"
                )
        _check_layout(names, needed, types, label, "columns" if columns else f"{files[0]}: header")
        self.layout = Layout(names, {name: types[name] for name in needed}, label, text_format, label_range)
        self.schema = {name: _column_type(types[name]) for name in needed}
        self._streams = [
            TextStream(index.file, index.pieces[-1].stop) if codec_of(index.file) else None for index in self._indexes
        ]
        self._places = [(number, piece) for number, index in enumerate(self._indexes) for piece in index.pieces]
        sizes = [self.layout.nbytes(piece.rows, piece.stop - piece.start) for _, piece in self._places]
        self.chunks = [
            ChunkInfo(
                file=self._indexes[number].file,
                first_row=piece.first_row,
                rows=piece.rows,
                nbytes=size,
                stream=None if self._streams[number] is None else number,
                pooled_bytes=size,
            )
            for size, (number, piece) in zip(sizes, self._places, strict=True)
        ]
        self.fingerprint = _fingerprint(self._indexes, self.layout, chunk_bytes)
        self._scratch, self.pool = Scratch(), BufferPool()
        fields = len(self.layout.names)
        self.reader_bytes = max(
            (Scratch.most_bytes(piece.stop - piece.start, piece.rows, fields) for _, piece in self._places), default=0
        )

    def read(self, index: int) -> Chunk:
        """Decode chunk `index`.

        Raises:
            DataError: the file is gone, changed since it was indexed, truncated or not readable.
        """
        raw = self.raw(index)
        text = self._scratch.text(raw.nbytes, len(self.layout.names))
        raw.fill(text[: raw.nbytes])
        decoder = ChunkDecoder(text, raw.nbytes, self.layout, self._scratch, self.pool)
        return decoder.decode(raw.rows, raw.first_line, raw.file)

    def raw(self, index: int) -> RawText:
        """Return chunk `index` as text that somebody else decodes; nothing is read yet."""
        number, piece = self._places[index]
        size, fill = piece.stop - piece.start, partial(self._fill, number, piece)
        return RawText(self._indexes[number].file, piece.first_line, piece.rows, size, fill)

    def _fill(self, number: int, piece: Piece, target: npt.NDArray[np.uint8]) -> None:
        where, stream = self._indexes[number], self._streams[number]
        if not is_url(where.file) and file_identity(where.file) != (where.size, where.mtime_ns):
            raise changed(where.file)
        read = partial(read_into, where.file) if stream is None else stream.read_into
        count = read(piece.start, target.data)
        if count != len(target):
            raise changed(where.file)

    def close(self) -> None:
        """Let go of the compressed files that are open."""
        for stream in self._streams:
            if stream is not None:
                stream.close()


def _check_layout(
    names: tuple[str, ...], needed: Sequence[str], types: Mapping[str, str], label: str | None, where: str
) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(
            f"{where}: expected each name once, found {', '.join(twice)} more than once; give each field its own name"
        )
    if label is not None and label not in needed:
        raise RecipeError(f"label {label!r}: expected one of the needed columns, found {', '.join(needed)}")
    for name in needed:
        if name not in names:
            raise RecipeError(
                f"{where}: expected a column {name!r}, found {', '.join(names)}; "
                "check the recipe, and what names the fields"
            )
        if types.get(name) not in DECLARED:
            raise RecipeError(f"column {name!r}: expected a type of {', '.join(DECLARED)}, found {types.get(name)!r}")


def _column_type(declared: str) -> ColumnType:
    return ColumnType("uint32" if declared == "hex32" else declared, hex32=declared == "hex32")


def _fingerprint(indexes: Sequence[FileIndex], layout: Layout, chunk_bytes: int) -> str:
    # Names without folders and no times, so that a copy of the data elsewhere resumes.
    content = {
        "files": [(os.path.basename(index.file), index.size) for index in indexes],
        "types": {column.name: column.declared for column in layout.columns},
        "columns": layout.names,
        "label": layout.label,
        "format": astuple(layout.text_format),
        "chunk_bytes": chunk_bytes,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
