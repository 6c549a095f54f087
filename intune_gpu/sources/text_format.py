"""How a text file is written, and what its first row says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from intune_gpu.core.errors import DataError
from intune_gpu.kernels.text_index import PADDING, QUOTE_STATE, find_rows_cpu
from intune_gpu.sources.files import fill, unreadable
from intune_gpu.sources.text_stream import open_text

BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
HEAD_BYTES = 1 << 20
"""A first row longer than this is taken for something that is not text."""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """How rows and fields are written.

    A row ends with a newline (a carriage return before it does not count) or where the file ends, so a newline at the
    very end begins no row. A byte order mark at the file's start is skipped.

    Attributes:
        delimiter: one ASCII character between fields.
        header: whether the first row of every file names the fields.
        quoted: whether a field that begins with `"` ends at the next `"` that is not doubled (RFC 4180). Without it a
            quote is a character like others.
    """

    delimiter: str = "\t"
    header: bool = False
    quoted: bool = False

    def __post_init__(self) -> None:
        ok = len(self.delimiter) == 1 and self.delimiter.isascii() and not self.delimiter.isalnum()
        if not ok or self.delimiter in '"\r\n+-._\0':
            raise ValueError(
                f"TextFormat.delimiter: expected one ASCII character that no number is written with, found "
                f"{self.delimiter!r}; use a tab, comma, semicolon or bar"
            )

    @property
    def delimiter_byte(self) -> int:
        """The delimiter as kernels take it."""
        return ord(self.delimiter)

    @property
    def quote_byte(self) -> int:
        """The quote as kernels take it: 0 where quotes mean nothing."""
        return ord('"') if self.quoted else 0

    def split(self, row: bytes) -> list[bytes]:
        """Return the fields of one row, as they are written."""
        delimiter = self.delimiter.encode()
        if not self.quoted or b'"' not in row:
            return row.split(delimiter)
        fields: list[bytes] = []
        begin = 0
        while begin <= len(row):
            place = begin
            while row[place : place + 1] == b'"':  # each turn passes one quoted run; a doubled quote begins the next
                closing = row.find(b'"', place + 1)
                place = len(row) if closing < 0 else closing + 1
            end = row.find(delimiter, place)
            end = len(row) if end < 0 else end
            fields.append(row[begin:end])
            begin = end + 1
        return fields

    def unquote(self, field: bytes) -> bytes:
        """Return what a field stands for."""
        if self.quoted and len(field) >= 2 and field[:1] == field[-1:] == b'"':
            return field[1:-1].replace(b'""', b'"')
        return field


@dataclass(frozen=True, slots=True)
class Head:
    """The first row of a file.

    Attributes:
        fields: its fields, decoded; a byte that is not UTF-8 becomes U+FFFD.
        start: where it begins, in bytes: behind a byte order mark.
        stop: where the next row begins.
        lines: lines that it takes: more than one where a newline stands in quotes.
    """

    fields: tuple[str, ...]
    start: int
    stop: int
    lines: int


def read_head(path: str, text_format: TextFormat, *, sniff: bool = False) -> Head:
    """Read the first row of a file.

    Args:
        path: a file or URL.
        text_format: how it is written.
        sniff: refuse UTF-16, Parquet, and lines that end in carriage returns alone, which are all read as one row of
            something else.

    Raises:
        DataError: the file is empty, cannot be read, has no newline in its first 1 MiB, or is what `sniff` refuses.
    """
    text = np.zeros(HEAD_BYTES + PADDING, np.uint8)
    file = open_text(path)
    try:
        size = fill(file, text.data[:HEAD_BYTES])
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    finally:
        file.close()
    start = len(BOM) if text[: len(BOM)].tobytes() == BOM else 0
    if size == start:
        raise DataError(f"{path}: expected rows, found an empty file, which has no rows; leave it out")
    if sniff:
        _refuse_what_is_no_text(path, text[:size].tobytes())
    found = np.zeros(5, np.int64)
    state = np.array(QUOTE_STATE)
    find_rows_cpu(text[start:], size - start, text_format.delimiter_byte, text_format.quote_byte, state, found)
    end, lines = int(found[1]) + start, int(found[3])
    if found[1] < 0:
        if size == HEAD_BYTES:
            raise DataError(
                f"{path}: expected lines of text, found none that ends within the first {HEAD_BYTES} bytes; "
                "pass the format that it has, or leave it out"
            )
        end, lines = size, 1
    row = text[start:end].tobytes().removesuffix(b"\r")
    fields = tuple(text_format.unquote(field).decode(errors="replace") for field in text_format.split(row))
    return Head(fields, start, min(end + 1, size), lines)


def _refuse_what_is_no_text(path: str, head: bytes) -> None:
    if head.startswith(b"PAR1"):
        raise DataError(f'{path}: expected text, found Parquet; pass format="parquet"')
    if head.startswith(UTF_16):
        raise DataError(f"{path}: expected UTF-8 text, found the byte order mark of UTF-16; write it again as UTF-8")
    if b"\n" not in head and b"\r" in head[:-1] and b'"' not in head:
        raise DataError(
            f"{path}: expected lines that end in a newline, found carriage returns alone; "
            "convert it, as with tr '\\r' '\\n'"
        )
