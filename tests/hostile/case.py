"""A hostile case: what is fed in, what the user has to see, and what has to be kept."""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import intune_gpu as ig
from intune_gpu.core.errors import IntuneError

RECIPE = ig.Recipe("y", dense={"n": [ig.FillMissing(-1.0)]}, sparse={"id": [ig.HashBucket(100)]})
HEAD = b"y\tn\tid\n"


@dataclass(frozen=True)
class Seen:
    """What came of a case.

    Attributes:
        says: every word of the error, or "" where there was none.
        kept: what was kept, in words that `Case.kept` has to equal.
    """

    says: str
    kept: str


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: of the function that makes it.
        group: heading that it stands under.
        what: the input, in words.
        says: a pattern that the whole sentence has to match somewhere; "" means that there must be no error.
        kept: what is kept.
        run: makes the input in an empty folder, feeds it in, and returns what came of it.
        needs: whether this machine can run it.
    """

    name: str
    group: str
    what: str
    says: str
    kept: str
    run: Callable[[Path], Seen]
    needs: Callable[[], bool]


CASES: list[Case] = []

_ELSEWHERE = (
    (r"(\((?:\w+(?:Error|Exception|Invalid)): )[^;]*(\);)", r"\1...\2"),
    (r"(found (?:OSError|ValueError): )[^;]*;", r"\1...;"),
    (r"(expected JSON, found: )(?!the key)[^;]*;", r"\1...;"),
    (r"(as UTF-8 text: ).*", r"\1..."),
    (r"found [^;]*(File too large)[^;]*;", r"found ... \1;"),
    (r"(found no NVIDIA driver) \([^;]*\);", r"\1 (...);"),
    (r"[\d.]+ GiB", "... GiB"),
    (r"\(\d{3,} bytes\)", "(... bytes)"),
    (r"(prefetch_bytes: expected at least )\d+(?= for)", r"\1..."),
    (r"(\w)\1{39,}(?:'\.\.\.|\.\.\.')?", r"\1\1\1...'"),
    (r".*?[─-]{9,} ?(.*?) ?[─-]{9,}.*", r"\1"),  # tyro's box
)


def case(
    group: str, what: str, says: str, kept: str, needs: Callable[[], bool] = lambda: True, name: str = ""
) -> Callable[[Callable[[Path], Seen]], Callable[[Path], Seen]]:
    """Put a function into the table."""

    def add(run: Callable[[Path], Seen]) -> Callable[[Path], Seen]:
        CASES.append(Case(name or run.__name__, group, what, says, kept, run, needs))
        return run

    return add


def observe(case: Case) -> Seen:
    """Run a case in a folder of its own, which is left out of what it says.

    It is the working directory, too.
    """
    with tempfile.TemporaryDirectory() as folder, _inside(Path(folder)):
        os.chmod(folder, 0o755)  # a case that gives up its rights has to come this far
        seen = case.run(Path(folder))
        return Seen(plain(seen.says, folder), seen.kept)


def fault(case: Case, seen: Seen) -> str | None:
    """Return in what way a case is not as it has to be, or None."""
    if bool(seen.says) != bool(case.says) or not re.search(case.says, seen.says):
        return f"expected it to say {case.says!r}, found {seen.says!r}"
    return None if seen.kept == case.kept else f"expected it to keep {case.kept!r}, found {seen.kept!r}"


def plain(says: str, folder: str) -> str:
    """Return a sentence without what differs from machine to machine: paths, numbers, the words of other packages."""
    says = re.sub(r"\s+", " ", says.replace(f"{folder}/", "").replace(folder, "."))
    for pattern, instead in _ELSEWHERE:
        says = re.sub(pattern, instead, says)
    return says.strip()


def write(path: Path, *pieces: bytes) -> Path:
    """Write a file, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(pieces))
    return path


def rows(first: int, last: int) -> bytes:
    """Good rows, whose column n is their number."""
    return b"".join(b"%d\t%d\tid%d\n" % (n % 2, n, n) for n in range(first, last + 1))


def load(data: Any, recipe: ig.Recipe = RECIPE, *, between: Callable[[], object] | None = None, **options: Any) -> Seen:
    """Load an epoch in batches of two rows.

    Args:
        data: for the loader.
        recipe: its first dense feature is the number of the row.
        between: called once, behind the first batch.
        options: of the loader.
    """
    given: list[int] = []
    options = {"batch_size": 2, "readers": 1, "transformers": 1, "max_bad_fraction": 1.0} | options

    def read() -> None:
        with ig.Loader(data, recipe, **options) as loader:
            for number, batch in enumerate(loader):
                given.extend(int(v) for v in batch.dense[:, 0].tolist())
                if number == 0 and between is not None:
                    between()

    return Seen(message_of(read), _kept(given))


def message_of(do: Callable[[], object]) -> str:
    """Return what an error on purpose says, "" where there is none; any other error goes through."""
    try:
        do()
    except (IntuneError, ValueError) as error:
        return str(error)
    return ""


def refused(do: Callable[[], object]) -> Seen:
    """Do what has to be refused before anything happens: nothing may stand in the working directory behind it."""
    before = sorted(Path().rglob("*"))
    says = message_of(do)
    left = [path for path in sorted(Path().rglob("*")) if path not in before]
    return Seen(says, f"left behind: {left}" if left else "nothing was read or written")


def _kept(given: list[int]) -> str:
    parts = [f"rows {_runs(given)} given" if given else "no row given"]
    quarantined = list(_quarantined())
    if quarantined:
        parts.append(f"{_runs(quarantined)} in bad_rows.jsonl")
    return "; ".join(parts)


def _quarantined() -> Iterator[int]:
    """Yield the line of every row in quarantine, each compared with the file it came from."""
    path = Path("bad_rows.jsonl")
    if not path.is_file():
        return
    for text in path.read_bytes().splitlines():
        row = json.loads(text)
        as_it_is = base64.b64decode(row["text_base64"]) if "text_base64" in row else row["text"].encode()
        if row["file"].endswith((".tsv", ".csv")):
            assert as_it_is in Path(row["file"]).read_bytes()
        yield row["line"]


def _runs(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1 to 3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
