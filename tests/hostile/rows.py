"""Text whose rows are broken."""

from __future__ import annotations

from pathlib import Path

import intune_gpu as ig
from tests.hostile.case import HEAD, Seen, case, load, rows, write

ROWS = "Rows of text"
LINES = "Lines and bytes"
POLICY = "What is done with bad rows"
TYPED = ig.Recipe(
    "y",
    dense={"n": [ig.FillMissing(-1.0)]},
    sparse={"hex": [ig.HashBucket(100)], "int": [ig.HashBucket(100)]},
    types={"hex": "hex32", "int": "int64", "n": "int64"},
)
NAMES = ["y", "n", "hex", "int"]


def typed(here: Path, *bad: bytes) -> Seen:
    """A good row, bad ones, and a good one, of label, integer, hex and integer; raised where it is read, then kept."""
    path = write(here / "a.tsv", b"0\t1\tff\t7\n", *bad, b"1\t9\tff\t8\n")
    first = load(path, TYPED, columns=NAMES, on_bad_row="raise")
    assert not Path("bad_rows.jsonl").exists()
    return Seen(first.says, load(path, TYPED, columns=NAMES).kept)


@case(
    ROWS,
    "A letter in a number",
    r"a\.tsv, line 2, column 'n': expected an integer, found '2x'",
    "rows 1, 9 given; 2 in bad_rows.jsonl",
)
def letter_in_a_number(here: Path) -> Seen:
    return typed(here, b"1\t2x\tff\t7\n")


@case(ROWS, "A number beyond int64", r"expected an integer within int64", "rows 1, 9 given; 2 in bad_rows.jsonl")
def number_beyond_int64(here: Path) -> Seen:
    return typed(here, b"1\t2\tff\t9223372036854775808\n")


@case(ROWS, "Nine hex digits", r"expected at most 8 hex digits", "rows 1, 9 given; 2 in bad_rows.jsonl")
def nine_hex_digits(here: Path) -> Seen:
    return typed(here, b"1\t2\t123456789\t7\n")


@case(
    ROWS, "A letter that is no hex digit", r"expected hex digits, found 'xyz'", "rows 1, 9 given; 2 in bad_rows.jsonl"
)
def no_hex_digit(here: Path) -> Seen:
    return typed(here, b"1\t2\txyz\t7\n")


@case(ROWS, "A field too few", r"line 2: expected 4 fields, found 3", "rows 1, 9 given; 2 in bad_rows.jsonl")
def field_too_few(here: Path) -> Seen:
    return typed(here, b"1\t2\tff\n")


@case(ROWS, "A field too many", r"line 2: expected 4 fields, found 5", "rows 1, 9 given; 2 in bad_rows.jsonl")
def field_too_many(here: Path) -> Seen:
    return typed(here, b"1\t2\tff\t7\t\n")


@case(ROWS, "An empty line", r"line 2: expected 4 fields, found an empty line", "rows 1, 9 given; 2 in bad_rows.jsonl")
def empty_line(here: Path) -> Seen:
    return typed(here, b"\n")


@case(
    ROWS,
    "Two bad fields in one row, then a row of none",
    r"line 2, column 'n'",
    "rows 1, 9 given; 2 to 3 in bad_rows.jsonl",
)
def several_faults(here: Path) -> Seen:
    return typed(here, b"1\t?\t?\t?\n", b"\t\t\n")


@case(
    ROWS,
    "An empty label",
    r"column 'y': expected a label, found an empty field",
    "rows 1, 9 given; 2 in bad_rows.jsonl",
)
def empty_label(here: Path) -> Seen:
    return typed(here, b"\t2\tff\t7\n")


@case(
    ROWS,
    "A quote that is never closed",
    r"expected a closing quote, found the end of the file",
    "rows 1 given; 3 in bad_rows.jsonl",
)
def unclosed_quote(here: Path) -> Seen:
    path = write(here / "a.csv", b'y,n,id\n0,1,a\n1,2,"b\n0,3,c\n')
    return Seen(load(path, on_bad_row="raise").says, load(path).kept)


@case(ROWS, "Letters behind a closing quote", r"expected quotes in pairs", "rows 1, 3 given; 3 in bad_rows.jsonl")
def letters_behind_a_quote(here: Path) -> Seen:
    path = write(here / "a.csv", b'y,n,id\n0,1,a\n1,2,"b"x\n0,3,c\n')
    return Seen(load(path, on_bad_row="raise").says, load(path).kept)


@case(
    LINES,
    "NUL bytes in a number, and in a text",
    r"column 'n': expected a decimal number, found '\\x00'",
    "rows 1, 3 given; 3 in bad_rows.jsonl",
)
def nul_bytes(here: Path) -> Seen:
    path = write(here / "a.tsv", HEAD, rows(1, 1), b"1\t\0\ta\n0\t3\t\0\0\n")
    return Seen(load(path, on_bad_row="raise").says, load(path).kept)


@case(LINES, "Bytes that are not UTF-8: a text is an id by its bytes", "", "rows 1 to 3 given")
def not_utf8(here: Path) -> Seen:
    return load(write(here / "a.tsv", HEAD, rows(1, 1), b"1\t2\t\xff\xfe\n", rows(3, 3)))


@case(
    LINES,
    "Bytes that are not UTF-8 in a number",
    r"expected a decimal number, found '.*xff'",
    "rows 1, 3 given; 3 in bad_rows.jsonl",
)
def not_utf8_in_a_number(here: Path) -> Seen:
    path = write(here / "a.tsv", HEAD, rows(1, 1), b"1\t\xff\ta\n", rows(3, 3))
    return Seen(load(path, on_bad_row="raise").says, load(path).kept)


@case(LINES, "UTF-16, as a spreadsheet saves it", r"UTF-16", "no row given")
def utf16(here: Path) -> Seen:
    return load(write(here / "a.tsv", (HEAD + rows(1, 3)).decode().encode("utf-16")))


@case(LINES, "A line of 10 MB", "", "rows 1 to 3 given")
def long_line(here: Path) -> Seen:
    return load(write(here / "a.tsv", HEAD, rows(1, 1), b"1\t2\t", b"x" * 10_000_000, b"\n", rows(3, 3)))


@case(
    LINES,
    "A line of 10 MB in a number",
    r"expected a decimal number, found 'x.*; the row is",
    "rows 1, 3 given; 3 in bad_rows.jsonl",
)
def long_bad_line(here: Path) -> Seen:
    path = write(here / "a.tsv", HEAD, rows(1, 1), b"1\t", b"x" * 10_000_000, b"\tid\n", rows(3, 3))
    return Seen(load(path, on_bad_row="raise").says, load(path).kept)


@case(
    LINES,
    "A first line of 10 MB",
    r"expected lines of text, found none that ends within the first 1048576 bytes",
    "no row given",
)
def long_first_line(here: Path) -> Seen:
    return load(write(here / "a.tsv", b"x" * 10_000_000, b"\n", rows(1, 3)))


@case(
    LINES,
    "A line of 75 MB",
    r"expected rows of at most 67108864 bytes, found a longer one at line 2 or soon after",
    "no row given",
)
def too_long_line(here: Path) -> Seen:
    return load(write(here / "a.tsv", HEAD, rows(1, 1), b"1\t2\t", b"x" * 75_000_000, b"\n", rows(3, 3)))


@case(LINES, "No newline at the end", "", "rows 1 to 3 given")
def no_last_newline(here: Path) -> Seen:
    return load(write(here / "a.tsv", HEAD, rows(1, 3)[:-1]))


@case(LINES, "No newline at all: a header and nothing else", r"expected rows, found none", "no row given")
def no_newline(here: Path) -> Seen:
    return load(write(here / "a.tsv", HEAD[:-1]))


@case(LINES, "Carriage returns before the newlines", "", "rows 1 to 3 given")
def crlf(here: Path) -> Seen:
    return load(write(here / "a.tsv", (HEAD + rows(1, 3)).replace(b"\n", b"\r\n")))


@case(LINES, "Carriage returns and no newline", r"carriage returns", "no row given")
def cr(here: Path) -> Seen:
    return load(write(here / "a.tsv", (HEAD + rows(1, 3)).replace(b"\n", b"\r")))


@case(LINES, "A byte order mark", "", "rows 1 to 3 given")
def bom(here: Path) -> Seen:
    return load(write(here / "a.tsv", b"\xef\xbb\xbf", HEAD, rows(1, 3)))


@case(LINES, "A byte order mark and nothing else", r"found an empty file", "no row given")
def only_bom(here: Path) -> Seen:
    return load(write(here / "a.tsv", b"\xef\xbb\xbf"))


@case(
    LINES,
    "A header in the middle of a file, as where files were joined",
    r"line 4, column 'y': expected a decimal number, found 'y'",
    "rows 1 to 4 given; 4 in bad_rows.jsonl",
)
def second_header(here: Path) -> Seen:
    path = write(here / "a.tsv", HEAD, rows(1, 2), HEAD, rows(3, 4))
    return Seen(load(path, on_bad_row="raise").says, load(path).kept)


@case(LINES, "The same column twice in a header", r"more than once", "no row given")
def column_twice(here: Path) -> Seen:
    return load(write(here / "a.tsv", b"y\tn\tid\tn\n0\t1\ta\t1\n"))


@case(LINES, "Text without a header, and no names given", r"expected a header with the columns", "no row given")
def no_header(here: Path) -> Seen:
    return load(write(here / "a.tsv", rows(1, 3)))


@case(LINES, "Commas in a file that ends in .tsv", r"expected a header with the columns", "no row given")
def wrong_delimiter(here: Path) -> Seen:
    return load(write(here / "a.tsv", (HEAD + rows(1, 3)).replace(b"\t", b",")))


@case(
    LINES,
    "Names for four fields where rows have three",
    r"expected at most|found \d+ of",
    "no row given; 1 to 3 in bad_rows.jsonl",
)
def wrong_names(here: Path) -> Seen:
    return load(write(here / "a.tsv", rows(1, 3)), columns=["y", "n", "id", "more"], max_bad_fraction=0.5, batch_size=8)


@case(
    POLICY, "One bad row in four, at most 1 % allowed", r"found 1 of 4 \(25", "rows 1 to 2 given; 4 in bad_rows.jsonl"
)
def too_many_bad_rows(here: Path) -> Seen:
    return load(write(here / "a.tsv", HEAD, rows(1, 2), b"?\t3\tc\n", rows(4, 4)), max_bad_fraction=0.01)


@case(
    POLICY,
    "3,000 rows of another file's columns: it stops at the first batch, not at the end",
    r"found \d+ of 100 ",
    "no row given; 2 to 101 in bad_rows.jsonl",
)
def misdescribed_file(here: Path) -> Seen:
    path = write(here / "a.tsv", HEAD, b"u\tv\tw\n" * 3000)
    return load(path, max_bad_fraction=0.01, batch_size=100)


@case(POLICY, "A bad row, to be dropped", "", "rows 1, 3 given")
def dropped(here: Path) -> Seen:
    path = write(here / "a.tsv", HEAD, rows(1, 1), b"?\t2\tb\n", rows(3, 3))
    return load(path, on_bad_row="drop")


@case(POLICY, "Every row is bad, and that is allowed", "", "no row given; 2 to 4 in bad_rows.jsonl")
def all_bad(here: Path) -> Seen:
    return load(write(here / "a.tsv", HEAD, b"?\t2\tb\n" * 3))
