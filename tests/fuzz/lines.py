"""Files of random rows: whole ones, broken ones, and ones that were whole until a byte was changed."""

from __future__ import annotations

import random
from dataclasses import dataclass

CRITEO = {"label": "int64"} | {f"I{i}": "int64" for i in range(1, 14)} | {f"C{i}": "hex32" for i in range(1, 27)}
MIXED = {"label": "float64", "i": "int64", "h": "hex32", "f": "float64", "s": "string", "t": "string"}
POOL = 4096

ODD_INTEGERS = [
    *b"0 -0 +5 00000000000000000000042 9223372036854775807 -9223372036854775808 9223372036854775808".split(b" "),
    *b"-9223372036854775809 99999999999999999999 - + --1 1- 1.0 1e3 1_0 0x1 12345678x x2345678901234567".split(b" "),
    *(b" 1", b"1 ", b"\x00", b"1\x00", b"1\r", b"\xd9\xa1", b"-" + b"0" * 300),
]
ODD_HEX = [
    *b"0 00000000 FfFfFfFf 123456789 0x1 -1 g 1g abcdefgh \xb0\xb1 00000000000".split(b" "),
    *(b"1 ", b"12\x0034"),
]
ODD_FLOATS = [
    *b".5 5. +1e3 -1E-3 1e23 9007199254740993 5e-324 2.2250738585072011e-308 1.7976931348623157e308 1e400".split(b" "),
    *b"1e-400 inf -Infinity nan 1e99999999999999999999 0x1p3 1_0 1e 1e+ . - 1.2.3 infi 3.4028235677973366e38".split(
        b" "
    ),
    b"123456789012345678901234567890",
    b"0.1000000000000000055511151231257827021181583404541015625",
]
ODD_STRINGS = [
    b" ",
    b"\x00",
    b"\xff\xfe",
    b"x" * 300,
    b"a\rb",
    b'a"b',
    b'"',
    b'"a"',
    b'""',
    b"\xc3\xbc",
    b"\xef\xbb\xbf",
]
ODD_QUOTES = [
    b'"a,b"',
    b'"a\nb"',
    b'"a\r\n""b"',
    b'"1"',
    b'"ff"',
    b'"0.5"',
    b'"x"y',
    b'"x" "',
    b'"""a"',
    b'5" pipe',
    b"a,b",
]
BYTES = b'\t\n\r,"0159afgAFG+-.eE \x00\x7f\x80\xff_xni'


@dataclass(frozen=True)
class Fuzzed:
    """One file, and how to read it.

    Attributes:
        content: its bytes.
        types: what its fields are declared, by name.
        delimiter: between them.
        quoted: whether quotes count.
        chunk_bytes: text a chunk.
    """

    content: bytes
    types: dict[str, str]
    delimiter: bytes
    quoted: bool
    chunk_bytes: int

    @property
    def fields(self) -> int:
        """Fields that its rows should have, over all rows."""
        return (self.content.count(b"\n") + 1) * len(self.types)


class Writer:
    """Makes files from a seed: the same seed makes the same files.

    Args:
        seed: of everything.
        rows: of a large file.
    """

    def __init__(self, seed: int, rows: int) -> None:
        self._random = random.Random(seed)
        self._rows = rows
        draw = self._random
        whole = {
            "int64": [str(int(draw.gauss(0, 10 ** draw.randint(0, 18)))).encode() for _ in range(POOL)],
            "hex32": [b"%08x" % draw.getrandbits(32) if draw.random() < 0.9 else b"%x" % draw.getrandbits(28)
                      for _ in range(POOL)],
            "float64": [self._float() for _ in range(POOL)],
            "string": [bytes(draw.choices(b"abcdefghijklmnop 0123456789", k=draw.randint(1, 24))) for _ in range(POOL)],
        }  # fmt: skip
        # One value in 8 is missing.
        self._whole = {declared: pool + [b""] * (POOL // 8) for declared, pool in whole.items()}
        odd = {"int64": ODD_INTEGERS, "hex32": ODD_HEX, "float64": ODD_FLOATS, "string": ODD_STRINGS}
        self._odd = {declared: [*fields, b""] for declared, fields in odd.items()}

    def file(self) -> Fuzzed:
        """Make the next file: four in five are Criteo's, the others have other types; some are tiny, in tiny chunks."""
        draw = self._random
        criteo = draw.random() < 0.8
        quoted = not criteo and draw.random() < 0.6
        types, delimiter = CRITEO if criteo else MIXED, b"," if quoted else b"\t"
        small = draw.random() < 0.3
        rows = draw.randint(1, 400) if small else self._rows
        spoilt = draw.choice([0.0, 0.001, 0.02, 0.2])
        content = self._content(types, delimiter, quoted, rows, spoilt)
        chunk_bytes = draw.choice([1, 100, 5_000, 1 << 16]) if small else draw.choice([1 << 18, 1 << 20, 4 << 20])
        return Fuzzed(content, types, delimiter, quoted, chunk_bytes)

    def _content(self, types: dict[str, str], delimiter: bytes, quoted: bool, rows: int, spoilt: float) -> bytes:
        draw = self._random
        columns = [
            draw.choices((b"0", b"1"), k=rows) if name == "label" else draw.choices(self._whole[declared], k=rows)
            for name, declared in types.items()
        ]
        lines = [delimiter.join(fields) for fields in zip(*columns, strict=True)]
        for _ in range(round(rows * spoilt)):
            at = draw.randrange(rows)
            lines[at] = self._spoil(lines[at], types, delimiter, quoted)
        end = b"\r\n" if draw.random() < 0.2 else b"\n"
        content = end.join(lines) + (end if draw.random() < 0.7 else b"")
        return (b"\xef\xbb\xbf" if draw.random() < 0.1 else b"") + content

    def _spoil(self, line: bytes, types: dict[str, str], delimiter: bytes, quoted: bool) -> bytes:
        """Change a row; not every change breaks it."""
        draw, fields = self._random, line.split(delimiter)
        at = draw.randrange(len(fields)) if draw.random() < 0.9 else 0  # the label is one of 40
        declared = list(types.values())[min(at, len(types) - 1)]
        kind = draw.randrange(7)
        if kind == 0:
            fields[at] = draw.choice(self._odd[declared])
        elif kind == 1:
            fields[at] = draw.choice(ODD_QUOTES if quoted else self._odd[draw.choice(list(self._odd))])
        elif kind == 2:
            del fields[at]
        elif kind == 3:
            fields.insert(at, draw.choice(fields))
        elif kind == 4:
            fields = fields[:at]
        else:
            place, byte = draw.randrange(len(line) + 1), bytes([draw.choice(BYTES)])
            return line[:place] + byte + line[place + (kind == 5) :]
        return delimiter.join(fields)

    def _float(self) -> bytes:
        draw = self._random
        return repr(draw.choice([draw.random(), draw.gauss(0, 100), 10 ** draw.uniform(-300, 300)])).encode()
