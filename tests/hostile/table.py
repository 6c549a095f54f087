"""docs/hostile.md: a line a case, with what was really said and kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from tests.hostile import arguments, files, parquet, recipes, rows, training
from tests.hostile.case import CASES, Case, Seen

PAGE = Path(__file__).parents[2] / "docs" / "hostile.md"
ROOMS = (rows, files, parquet, recipes, arguments, training)  # the order of their cases
OPENING = """\
# Hostile input

What is said of broken input, and what is kept of it. `python -m tests.hostile` runs every case and writes this page;
the tests run them again and compare. Paths are shortened, and `...` stands for the words of other packages and the
numbers of one machine. Where nothing is said, nothing is wrong. Rows count from 1; "in bad_rows.jsonl" gives their
lines (of Parquet: row numbers from 0), and each was compared with the file that it came from. Where a row is bad, the
sentence is that of `on_bad_row="raise"`.
"""


def line(case: Case, seen: Seen) -> str:
    """Return a case's line of the table."""
    return f"| {_cell(case.what)} | {_code(seen.says)} | {_cell(seen.kept)} |"


def line_of(case: Case, page: str) -> str | None:
    """Return the line that a page has for a case."""
    begins = f"| {_cell(case.what)} | "
    return next((text for text in page.splitlines() if text.startswith(begins)), None)


def page(lines: Iterable[tuple[Case, str]]) -> str:
    """Return the whole page."""
    return "\n".join(_page(lines)) + "\n"


def _page(lines: Iterable[tuple[Case, str]]) -> Iterator[str]:
    yield OPENING.rstrip()
    for group, members in groupby(lines, key=lambda pair: pair[0].group):
        yield from ("", f"## {group}", "", "| input | what is said | what is kept |", "|---|---|---|")
        yield from (text for _, text in members)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    if not text:
        return ""
    quotes = "``" if "`" in text else "`"
    return f"{quotes}{_cell(text)}{quotes}"


__all__ = ["CASES", "PAGE", "ROOMS", "line", "line_of", "page"]
