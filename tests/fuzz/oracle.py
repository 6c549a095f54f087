"""A plain parser of text files, written from what the documents promise: what all others are compared with.

Nothing here imports `intune_gpu`. Bytes become rows, rows become fields, fields become values; a row that has none gets
the column and the kind of its first fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

BOM = b"\xef\xbb\xbf"
NEITHER_HEX = bytes(sorted(b"0123456789abcdefABCDEF"))
DECIMAL = re.compile(rb"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity|nan))")
INTEGER = re.compile(rb"[+-]?[0-9]+")
IN_QUOTES = re.compile(rb'"((?:[^"]|"")*)"', re.DOTALL)
FLOAT32_END = 2.0**128 - 2.0**103
"""From here on a number is infinite as float32, which a label must not be."""

FIELDS, OPEN, PAIRS = "a wrong number of fields", "an open quote", "text behind a quote"
LABEL, FINITE = "no label", "a label that is not finite"
INT, RANGE, HEX, WIDE, NUMBER = (
    "no integer",
    "an integer beyond int64",
    "no hex digits",
    "over 8 hex digits",
    "no number",
)
REASONS = {
    FIELDS: "expected {} field",
    OPEN: "expected a closing quote",
    PAIRS: "expected quotes in pairs",
    LABEL: "expected a label, ",
    FINITE: "expected a finite label, ",
    INT: "expected an integer, ",
    RANGE: "expected an integer within int64, ",
    HEX: "expected hex digits, ",
    WIDE: "expected at most 8 hex digits, ",
    NUMBER: "expected a decimal number, ",
}
"""How the product's words for each kind of fault begin."""


class FaultError(Exception):
    """A field has no value; the argument is the kind of fault."""


@dataclass(frozen=True)
class Fault:
    """A bad row: its line, the column (None: the row as a whole), the kind of fault, the row as it is written."""

    line: int
    column: str | None
    kind: str
    text: bytes


@dataclass
class Parsed:
    """What a file holds.

    Attributes:
        rows: how many there are, bad ones included.
        good: the number of each good row.
        columns: by name, the value of each good row; None where missing.
        bad: the others, by number.
    """

    rows: int = 0
    good: list[int] = field(default_factory=list)
    columns: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    bad: dict[int, Fault] = field(default_factory=dict)


def hex32(written: bytes) -> int | None:
    """1 to 8 hex digits."""
    if not written:
        return None
    if len(written) > 8:
        raise FaultError(WIDE)
    if written.translate(None, NEITHER_HEX):
        raise FaultError(HEX)
    return int(written, 16)


def int64(written: bytes) -> int | None:
    """A sign or none, and digits."""
    if not written:
        return None
    if not written.isdigit() and INTEGER.fullmatch(written) is None:
        raise FaultError(INT)
    if len(written) > 18:
        sign, digits = written[:1].strip(b"0123456789"), written.lstrip(b"+-").lstrip(b"0")
        if len(digits) > 19 or not -(2**63) <= int(sign + (digits or b"0")) < 2**63:
            raise FaultError(RANGE)
        return int(sign + (digits or b"0"))
    return int(written)


def float64(written: bytes) -> float | None:
    """A decimal number, an infinity, or NaN."""
    if not written:
        return None
    if DECIMAL.fullmatch(written) is None:
        raise FaultError(NUMBER)
    return float(written)


def string(written: bytes) -> bytes | None:
    """The bytes as they are."""
    return written or None


KINDS: dict[str, Callable[[bytes], Any]] = {"hex32": hex32, "int64": int64, "float64": float64, "string": string}


def value_of(declared: str, written: bytes, quoted: bool) -> Any:
    """Return what a field stands for, None where it is missing."""
    if quoted and declared == "string" and written[:1] == b'"':
        inner = IN_QUOTES.fullmatch(written)
        if inner is None:
            raise FaultError(PAIRS)
        return inner[1].replace(b'""', b'"')
    if quoted and len(written) >= 2 and written[:1] == written[-1:] == b'"':
        written = written[1:-1].replace(b'""', b'"')
    return KINDS[declared](written)


def rows_of(content: bytes, delimiter: bytes, quoted: bool) -> Iterator[tuple[list[bytes], bytes, int, bool]]:
    """Yield each row as (fields as written, the row as written, its line from 1, whether a quote stays open)."""
    content = content.removeprefix(BOM)
    if not quoted:
        lines = content.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for line, text in enumerate(lines, 1):
            text = text.removesuffix(b"\r")
            yield text.split(delimiter), text, line, False
        return
    plain = re.compile(rb"[^\n" + re.escape(delimiter) + rb"]*")
    place, line = 0, 1
    while place < len(content):
        begin, fields, is_open = place, list[bytes](), False
        while True:
            start = place
            if content[place : place + 1] == b'"':
                place, is_open = behind_quotes(content, place)
            if not is_open:
                place = plain.match(content, place).end()  # type: ignore[union-attr]
            fields.append(content[start:place])
            if content[place : place + 1] != delimiter:
                break
            place += 1
        text = content[begin:place].removesuffix(b"\r")
        fields[-1] = fields[-1].removesuffix(b"\r")
        yield fields, text, line, is_open
        line += text.count(b"\n") + 1
        place += 1


def behind_quotes(content: bytes, place: int) -> tuple[int, bool]:
    """Return the place behind the quote that closes the one at `place`, and whether there is none."""
    while True:
        place = content.find(b'"', place + 1)
        if place < 0:
            return len(content), True
        if content[place + 1 : place + 2] != b'"':
            return place + 1, False
        place += 1


def parse(
    content: bytes, types: dict[str, str], label: str | None, delimiter: bytes = b"\t", quoted: bool = False
) -> Parsed:
    """Parse a whole file.

    Args:
        content: its bytes.
        types: what each field is declared, in order.
        label: the column that may be neither missing nor infinite.
        delimiter: between fields.
        quoted: whether quotes count.
    """
    parsed, kept = Parsed(), []
    readers = [(name, declared, KINDS[declared]) for name, declared in types.items()]
    for number, (fields, text, line, is_open) in enumerate(rows_of(content, delimiter, quoted)):
        parsed.rows = number + 1
        if is_open or len(fields) != len(readers):
            parsed.bad[number] = Fault(line, None, OPEN if is_open else FIELDS, text)
            continue
        try:
            name = readers[0][0]
            row: list[Any] = []
            for (name, declared, read), written in zip(readers, fields, strict=True):
                value = value_of(declared, written, True) if quoted else read(written)
                if name == label:
                    check_label(value)
                row.append(value)
        except FaultError as fault:
            parsed.bad[number] = Fault(line, name, str(fault), text)
        else:
            parsed.good.append(number)
            kept.append(row)
    parsed.columns = dict(zip(types, zip(*kept, strict=True), strict=True)) if kept else dict.fromkeys(types, ())
    return parsed


def check_label(value: Any) -> None:
    """Refuse a label that is missing, or not finite as float32."""
    if value is None:
        raise FaultError(LABEL)
    if isinstance(value, float) and not abs(value) < FLOAT32_END:
        raise FaultError(FINITE)


def words_of(kind: str, fields: int) -> str:
    """Return how the product's reason begins, for rows of so many fields."""
    return REASONS[kind].format(fields)
