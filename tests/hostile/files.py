"""Files that are not what they were, not where they should be, or no files."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import intune_gpu as ig
from tests.hostile.case import HEAD, RECIPE, Seen, case, load, refused, rows, write

WHERE = "Paths"
WHILE = "Files that change while they are read"
ZIPPED = "Compressed files"
NOBODY = 65534


def opened(data: object) -> Seen:
    """Make a loader, which is refused."""
    return refused(lambda: ig.Loader(data, RECIPE))  # type: ignore[arg-type]


@case(
    WHERE,
    "An empty file of text",
    r"a\.tsv: expected rows, found an empty file.*leave it out",
    "nothing was read or written",
)
def empty_file(here: Path) -> Seen:
    return opened(write(here / "a.tsv"))


@case(WHERE, "A path where nothing is", r"found nothing there; check the path", "nothing was read or written")
def no_file(here: Path) -> Seen:
    return opened(here / "nowhere.tsv")


@case(WHERE, "A glob that matches nothing", r"no file matches this glob", "nothing was read or written")
def no_match(here: Path) -> Seen:
    return opened(f"{here}/day_*.tsv")


@case(
    WHERE,
    "A glob with a bracket that is never closed",
    r"found nothing there|no file matches",
    "nothing was read or written",
)
def broken_glob(here: Path) -> Seen:
    write(here / "day_1.tsv", HEAD, rows(1, 2))
    return opened(f"{here}/day_[1.tsv")


@case(WHERE, "An empty list", r"expected at least one path, found an empty list", "nothing was read or written")
def no_paths(here: Path) -> Seen:
    return opened([])


@case(
    WHERE,
    "A number instead of a path",
    r"data: expected a file, directory, glob, URL or a list of these, found 7",
    "nothing was read or written",
)
def no_path(here: Path) -> Seen:
    return opened(7)


@case(
    WHERE,
    "An empty directory",
    r"expected files that end in .* in this directory, found none",
    "nothing was read or written",
)
def empty_directory(here: Path) -> Seen:
    (here / "logs").mkdir()
    return opened(here / "logs")


@case(WHERE, "A directory that is named as a file is", r"expected files that end in", "nothing was read or written")
def directory_as_file(here: Path) -> Seen:
    (here / "a.parquet").mkdir()
    return opened(here / "a.parquet")


@case(WHERE, "An ending that tells no format", r"expected a name that ends in", "nothing was read or written")
def unknown_ending(here: Path) -> Seen:
    return opened(write(here / "a.log", HEAD, rows(1, 2)))


@case(WHERE, "Files of two formats", r"expected files of one format", "nothing was read or written")
def two_formats(here: Path) -> Seen:
    return opened([write(here / "a.tsv", HEAD, rows(1, 2)), write(here / "a.parquet", b"PAR1")])


@case(
    WHERE,
    "A URL of a kind that nobody knows",
    r"expected a readable file, found ValueError",
    "nothing was read or written",
)
def unknown_url(here: Path) -> Seen:
    return opened("carrier-pigeon://logs/a.tsv")


@case(
    WHERE,
    "A second file with another header",
    r"b\.tsv: expected the header of a\.tsv, y, n, id, found n, y, id",
    "nothing was read or written",
)
def another_header(here: Path) -> Seen:
    return opened([write(here / "a.tsv", HEAD, rows(1, 2)), write(here / "b.tsv", b"n\ty\tid\n", rows(1, 2))])


@case(
    WHERE,
    "A pipe",
    r"a\.tsv: expected a file that can be read more than once, found a pipe",
    "nothing was read or written",
)
def pipe(here: Path) -> Seen:
    os.mkfifo(here / "a.tsv")
    return opened(here / "a.tsv")


@case(
    WHERE,
    "A link to nothing among the files of a directory",
    r"logs/b\.tsv: expected a readable file, found none",
    "nothing was read or written",
)
def broken_link(here: Path) -> Seen:
    write(here / "logs/a.tsv", HEAD, rows(1, 2))
    (here / "logs/b.tsv").symlink_to(here / "gone.tsv")
    return opened(here / "logs")


@case(
    WHERE,
    "A file that may not be read",
    r"a\.tsv: expected a readable file, found no permission",
    "nothing was read or written",
)
def unreadable_file(here: Path) -> Seen:
    write(here / "a.tsv", HEAD, rows(1, 2)).chmod(0)
    with _without_rights():
        return opened(here / "a.tsv")


@case(
    WHERE,
    "A file in a directory that may not be entered",
    r"a\.tsv: expected a readable file, found no permission",
    "nothing was read or written",
)
def locked_parent(here: Path) -> Seen:
    path = write(here / "logs/a.tsv", HEAD, rows(1, 2))
    return _locked(here / "logs", lambda: opened(path))


@case(
    WHERE,
    "A directory with one in it that may not be entered: no part is left out in silence",
    r"logs/day_2: expected a readable directory, found Permission denied",
    "nothing was read or written",
)
def locked_directory(here: Path) -> Seen:
    write(here / "logs/day_1/a.tsv", HEAD, rows(1, 2))
    write(here / "logs/day_2/a.tsv", HEAD, rows(3, 4))
    return _locked(here / "logs/day_2", lambda: opened(here / "logs"))


@case(
    ZIPPED,
    "A file that ends in .gz and is none",
    r"a\.tsv\.gz: expected a readable file, found OSError",
    "nothing was read or written",
)
def no_gzip(here: Path) -> Seen:
    return opened(write(here / "a.tsv.gz", HEAD, rows(1, 3)))


@case(
    ZIPPED,
    "A .gz that ends in mid-stream",
    r"a\.tsv\.gz: expected a readable file, found",
    "nothing was read or written",
)
def torn_gzip(here: Path) -> Seen:
    whole = gzip.compress(HEAD + b"".join(b"1\t%d\tid%d\n" % (n, n * 7919) for n in range(20_000)))
    return opened(write(here / "a.tsv.gz", whole[: len(whole) // 2]))


@case(
    ZIPPED,
    "A .zst that ends in mid-stream",
    r"a\.tsv\.zst: expected a readable file, found",
    "nothing was read or written",
)
def torn_zstd(here: Path) -> Seen:
    whole = pa.Codec("zstd").compress(HEAD + b"".join(b"1\t%d\tid%d\n" % (n, n * 7919) for n in range(20_000)))
    return opened(write(here / "a.tsv.zst", whole.to_pybytes()[: len(whole) // 2]))


@case(ZIPPED, "A .gz of nothing", r"found an empty file", "nothing was read or written")
def empty_gzip(here: Path) -> Seen:
    return opened(write(here / "a.tsv.gz", gzip.compress(b"")))


@contextmanager
def _without_rights() -> Iterator[None]:
    """Be somebody who may not read everything; for a root, who may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def _locked(folder: Path, do: Callable[[], Seen]) -> Seen:
    folder.chmod(0)
    try:
        with _without_rights():
            return do()
    finally:
        folder.chmod(0o755)


def changed(here: Path, change: Callable[[Path], object], suffix: str = "tsv") -> Seen:
    """Read ten files of 2,000 rows with the smallest budget; behind the first batch the last file is changed.

    The budget lets two or three chunks be in flight, so that the last file is unread by then.
    """
    files = [_write(here / f"logs/{n}.{suffix}", 2000 * n - 1999) for n in range(1, 11)]
    with ig.Loader(here / "logs", RECIPE, batch_size=500, readers=1, transformers=1) as loader:
        least = loader.min_prefetch_bytes(1, 1)
    before = files[-1].stat()

    def behind_the_first() -> None:
        change(files[-1])
        if files[-1].exists() and files[-1].stat().st_mtime_ns == before.st_mtime_ns:
            os.utime(files[-1], ns=(before.st_atime_ns, before.st_mtime_ns + 1))

    return load(here / "logs", between=behind_the_first, prefetch_bytes=least, batch_size=500)


def _write(path: Path, first: int) -> Path:
    if path.suffix == ".tsv":
        return write(path, HEAD, rows(first, first + 1999))
    path.parent.mkdir(exist_ok=True)
    numbers = list(range(first, first + 2000))
    pq.write_table(pa.table({"y": [0, 1] * 1000, "n": numbers, "id": [f"id{n}" for n in numbers]}), path)
    return path


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(rows(1, 2))


def _replace(path: Path) -> None:
    os.replace(_write(path.with_name(f"new{path.suffix}"), 10_001), path)


@case(
    WHILE,
    "Text that grows",
    r"logs/10\.tsv: expected the file as it was indexed, found it changed",
    "rows 1 to 18000 given",
)
def text_grows(here: Path) -> Seen:
    return changed(here, _append)


@case(
    WHILE,
    "Text that is cut short",
    r"logs/10\.tsv: expected the file as it was indexed, found it changed",
    "rows 1 to 18000 given",
)
def text_is_cut(here: Path) -> Seen:
    return changed(here, lambda path: os.truncate(path, 500))


@case(
    WHILE,
    "Text that another file of the same size takes the place of",
    r"logs/10\.tsv: expected the file as it was indexed",
    "rows 1 to 18000 given",
)
def text_is_replaced(here: Path) -> Seen:
    return changed(here, _replace)


@case(WHILE, "Text that is deleted", r"logs/10\.tsv: expected a readable file, found none", "rows 1 to 18000 given")
def text_is_deleted(here: Path) -> Seen:
    return changed(here, Path.unlink)


@case(WHILE, "Parquet that is cut short", r"logs/10\.parquet: expected the file as it was", "rows 1 to 18000 given")
def parquet_is_cut(here: Path) -> Seen:
    return changed(here, lambda path: os.truncate(path, 100), "parquet")


@case(
    WHILE,
    "Parquet that another file takes the place of",
    r"logs/10\.parquet: expected the file as it was",
    "rows 1 to 18000 given",
)
def parquet_is_replaced(here: Path) -> Seen:
    return changed(here, _replace, "parquet")


@case(
    WHILE, "Parquet that is deleted", r"logs/10\.parquet: expected a readable file, found none", "rows 1 to 18000 given"
)
def parquet_is_deleted(here: Path) -> Seen:
    return changed(here, Path.unlink, "parquet")
