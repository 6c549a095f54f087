"""Paths, directories, globs and URLs: which files they mean."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from intune_gpu.core.errors import DataError
from intune_gpu.sources.files import expand, file_identity, fill, open_file, read_into

SUFFIXES = (".tsv", ".csv")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def names(files: list[str], folder: Path) -> list[str]:
    return [os.path.relpath(file, folder) for file in files]


def test_numbers_sort_by_value(tmp_path: Path) -> None:
    touch(tmp_path, "day_10.tsv", "day_2.tsv", "day_1.tsv", "day_x.tsv")
    expected = ["day_1.tsv", "day_2.tsv", "day_10.tsv", "day_x.tsv"]
    assert names(expand(tmp_path, SUFFIXES), tmp_path) == expected
    assert names(expand(f"{tmp_path}/day_*.tsv", SUFFIXES), tmp_path) == expected


def test_a_directory_gives_its_data_files_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "a.tsv", "b/c.CSV", "b/d.txt", "_SUCCESS", ".hidden.tsv", "_old/e.tsv", "b/.x/f.tsv")
    assert names(expand(str(tmp_path), SUFFIXES), tmp_path) == ["a.tsv", "b/c.CSV"]
    assert names(expand(f"{tmp_path}/", SUFFIXES), tmp_path) == ["a.tsv", "b/c.CSV"]


def test_a_hidden_folder_above_the_data_does_not_hide_it(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/_x/a.tsv")
    assert names(expand(tmp_path / ".cache" / "_x", SUFFIXES), tmp_path) == [".cache/_x/a.tsv"]


def test_a_list_keeps_its_order_and_its_repeats(tmp_path: Path) -> None:
    touch(tmp_path, "b.tsv", "a.bin")
    given = [tmp_path / "b.tsv", str(tmp_path / "a.bin"), tmp_path / "b.tsv"]
    assert names(expand(given, SUFFIXES), tmp_path) == ["b.tsv", "a.bin", "b.tsv"]


def test_a_glob_takes_any_ending_and_looks_into_directories(tmp_path: Path) -> None:
    touch(tmp_path, "day_1/a.tsv", "day_1/skip.bin", "day_2", "other")
    assert names(expand(f"{tmp_path}/day_*", SUFFIXES), tmp_path) == ["day_1/a.tsv", "day_2"]
    assert names(expand(f"{tmp_path}/**/*.tsv", SUFFIXES), tmp_path) == ["day_1/a.tsv"]


def test_a_name_with_glob_characters_is_a_name_first(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].tsv", "a1.tsv")
    assert names(expand(tmp_path / "a[1].tsv", SUFFIXES), tmp_path) == ["a[1].tsv"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere.tsv", "found nothing there; check the path"),
        ("no_*.tsv", "no file matches this glob"),
        ("empty", "expected files that end in .tsv, .csv in this directory, found none"),
    ],
)
def test_what_matches_nothing_is_named(tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        expand(tmp_path / path, SUFFIXES)
    assert str(caught.value).startswith(str(tmp_path / path))
    assert says in str(caught.value)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(DataError, match="at least one path"):
        expand([], SUFFIXES)


def test_urls(tmp_path: Path) -> None:
    touch(tmp_path, "day_10.tsv", "day_2.tsv")
    assert expand(f"file://{tmp_path}/day_2.tsv", SUFFIXES) == [f"{tmp_path}/day_2.tsv"]
    memory = fsspec.filesystem("memory")
    for name in ("logs/day_10.tsv", "logs/day_2.tsv", "logs/_SUCCESS"):
        memory.pipe(f"/{name}", name.encode())
    days = ["memory:///logs/day_2.tsv", "memory:///logs/day_10.tsv"]
    normal = [path.replace("///", "//") for path in days]
    for given in ("memory://logs/day_*.tsv", "memory://logs"):
        assert [path.replace("///", "//") for path in expand(given, SUFFIXES)] == normal
    with pytest.raises(DataError, match="no file matches this glob"):
        expand("memory://logs/x_*", SUFFIXES)
    with pytest.raises(DataError, match="found nothing there"):
        expand("memory://logs/x", SUFFIXES)
    with pytest.raises(DataError, match="nosuch"):
        expand("nosuch://x", SUFFIXES)
    assert expand("simplecache::memory://logs/day_2.tsv", SUFFIXES) == ["simplecache::memory://logs/day_2.tsv"]
    size, version = file_identity(days[0])
    assert size == len("logs/day_2.tsv")
    memory.pipe("/logs/day_2.tsv", b"another")
    assert file_identity(days[0]) != (size, version)
    target = bytearray(4)
    assert read_into(days[0], 2, memoryview(target)) == 4
    assert target == b"othe"
    with open_file(days[0]) as file:
        assert file.read() == b"another"


def test_reading_stops_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    target = bytearray(8)
    assert read_into(str(path), 7, memoryview(target)) == 3
    assert target[:3] == b"789"
    with open_file(str(path)) as file:
        assert fill(file, memoryview(target)) == 8
        assert fill(file, memoryview(target)) == 2
    assert file_identity(str(path)) == (10, path.stat().st_mtime_ns)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "gone")
    for call in (open_file, file_identity, lambda p: read_into(p, 0, memoryview(bytearray(1)))):
        with pytest.raises(DataError, match=r"gone: expected a readable file, found none; check the path"):
            call(path)
