"""Which files a data path means, and how they are opened: local paths and fsspec URLs alike."""

from __future__ import annotations

import glob
import os
import re
import stat
import zlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, BinaryIO, cast

import fsspec

from intune_gpu.core.errors import DataError

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def is_url(path: str) -> bool:
    """Whether fsspec has to open `path`."""
    return "://" in path


def expand(paths: Paths, suffixes: Sequence[str]) -> list[str]:
    """Return every file that `paths` means, as local paths and URLs.

    Args:
        paths: a file, a directory, a glob (`*`, `?`, `[...]`, `**`), an fsspec URL (with `*` or `[...]`), or a list of
            these. A list keeps its order; the files of a directory or glob are sorted by name, numbers in it by value,
            so that `day_2` comes before `day_10`.
        suffixes: endings (with the dot, lower case) of the files that are taken from a directory, at any depth. Names
            that start with `.` or `_` are left out. A file that is named, or that a glob matches, may end in anything.

    Raises:
        DataError: a path matches no file, or what is no file; or a directory may not be read.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    elif not isinstance(paths, Iterable) or isinstance(paths, bytes):  # type: ignore[redundant-expr]
        raise DataError(f"data: expected a file, directory, glob, URL or a list of these, found {paths!r}")
    found: list[str] = []
    for given in paths:
        path = os.fspath(given)
        if not isinstance(path, str):
            raise DataError(f"data path {given!r}: expected a str or a Path, found {type(path).__name__}")
        path = path.removeprefix("file://")
        found += _expand_url(path, suffixes) if is_url(path) else _expand_local(os.path.expanduser(path), suffixes)
    if not found:
        raise DataError("data: expected at least one path, found an empty list; pass a file, directory or glob")
    for path in found:
        if not is_url(path):
            _check_regular(path)
    return found


def open_file(path: str) -> BinaryIO:
    """Open `path` for reading, seekable where its file system can.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        if is_url(path):
            return cast(BinaryIO, fsspec.open(path, "rb").open())
        return open(path, "rb")
    except (OSError, ValueError, ImportError) as error:
        raise unreadable(path, error) from error


def file_identity(path: str) -> tuple[int, int]:
    """Return (size in bytes, a number that changes when the file is written: its mtime in ns where there is one).

    Raises:
        DataError: the file is gone or cannot be looked at.
    """
    try:
        if not is_url(path):
            found = os.stat(path)
            return found.st_size, found.st_mtime_ns
        fs, inner = fsspec.core.url_to_fs(path)
        info: dict[str, Any] = fs.info(inner)
        return int(info["size"] or 0), _version(info)
    except (OSError, ValueError, ImportError) as error:
        raise unreadable(path, error) from error


def fill(file: Any, target: memoryview) -> int:
    """Read from an open file until `target` is full or the file ends; return the bytes read."""
    done = 0
    while done < len(target) and (count := file.readinto(target[done:])):
        done += count
    return done


def read_into(path: str, start: int, target: memoryview) -> int:
    """Read the bytes of `path` from `start` on into `target`; return how many there were, fewer where the file ends.

    Raises:
        DataError: the file is gone or cannot be read.
    """
    try:
        if is_url(path):
            fs, inner = fsspec.core.url_to_fs(path)
            data = fs.cat_file(inner, start=start, end=start + len(target))
            target[: len(data)] = data
            return len(data)
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return fill(file, target)
    except (OSError, ValueError, ImportError) as error:
        raise unreadable(path, error) from error


def unreadable(path: str, error: BaseException) -> DataError:
    """Return the error for a file that cannot be read, to be raised from `error`."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: expected a readable file, found none; check the path")
    if isinstance(error, PermissionError):
        return DataError(f"{path}: expected a readable file, found no permission to read it; change its rights")
    return DataError(
        f"{path}: expected a readable file, found {type(error).__name__}: {error}; "
        "check the path, and whether the file is whole"
    )


def _expand_local(path: str, suffixes: Sequence[str]) -> list[str]:
    if os.path.isdir(path):
        return _in_directory(path, suffixes)
    if os.path.exists(path) or _is_hidden_from_us(path):
        return [path]
    if not glob.has_magic(path):
        raise DataError(f"{path}: expected a file, directory or glob, found nothing there; check the path")
    found: list[str] = []
    for match in sorted(glob.glob(path, recursive=True), key=_by_numbers):
        found += _in_directory(match, suffixes, must=False) if os.path.isdir(match) else [match]
    if not found:
        raise DataError(f"{path}: expected files, but no file matches this glob; check the path")
    return sorted(set(found), key=_by_numbers)


def _in_directory(path: str, suffixes: Sequence[str], must: bool = True) -> list[str]:
    files: list[str] = []
    for folder, folders, names in os.walk(path, onerror=_refuse_directory):
        folders[:] = [name for name in folders if name[0] not in "._"]  # not looked into, whether it may be or not
        files += [os.path.join(folder, name) for name in names]
    return _with_suffix(path, files, suffixes, must)


def _refuse_directory(error: OSError) -> None:
    """Raise what `os.walk` would pass over, since the files in there would be missing in silence."""
    raise DataError(
        f"{error.filename}: expected a readable directory, found {error.strerror}; change its rights, or name the files"
    ) from error


def _check_regular(path: str) -> None:
    """Refuse what cannot be read twice, as counting rows and reading them needs; opening a pipe would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        found = "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise DataError(
            f"{path}: expected a file that can be read more than once, found {found}; write its content to a file"
        )


def _is_hidden_from_us(path: str) -> bool:
    """Whether a directory on the way there may not be entered, so that nobody can say what is there."""
    try:
        os.stat(path)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _expand_url(url: str, suffixes: Sequence[str]) -> list[str]:
    magic = "*" in url or "[" in url
    # A chained URL (`simplecache::s3://...`) cannot be rebuilt from the paths it lists, and http has no directories.
    if "::" in url or (not magic and url.startswith(("http://", "https://"))):
        return [url]
    try:
        fs, inner = fsspec.core.url_to_fs(url)
        if magic:
            found = [p for p in fs.glob(inner) if fs.isfile(p)]
            if not found:
                raise DataError(f"{url}: expected files, but no file matches this glob; check the URL")
            return sorted((str(fs.unstrip_protocol(p)) for p in found), key=_by_numbers)
        if fs.isdir(inner):
            return _with_suffix(url, [str(fs.unstrip_protocol(p)) for p in fs.find(inner)], suffixes, True)
        if not fs.exists(inner):
            raise DataError(f"{url}: expected a file, directory or glob, found nothing there; check the URL")
        return [url]
    except (OSError, ValueError, ImportError) as error:
        raise unreadable(url, error) from error


def _with_suffix(root: str, files: list[str], suffixes: Sequence[str], must: bool) -> list[str]:
    root = root.rstrip("/")
    hidden = re.compile(r"(^|/)[._]")
    kept = [f for f in files if f.lower().endswith(tuple(suffixes)) and not hidden.search(f[len(root) :].lstrip("/"))]
    if must and not kept:
        raise DataError(
            f"{root}: expected files that end in {', '.join(suffixes)} in this directory, found none; "
            "name the files or pass a glob"
        )
    return sorted(kept, key=_by_numbers)


def _by_numbers(path: str) -> tuple[list[str | tuple[int, str]], str]:
    # re.split alternates text and digits, so that equal positions always compare equal types.
    parts = re.split(r"(\d+)", path)
    return [(int(p), "") if i % 2 else p for i, p in enumerate(parts)], path


def _version(info: dict[str, Any]) -> int:
    for key in ("mtime", "LastModified", "last_modified", "updated", "created", "ETag", "etag"):
        value = info.get(key)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e9)
        if isinstance(value, int | float):
            return int(value * 1e9) if isinstance(value, float) else value
        if isinstance(value, str):
            return zlib.crc32(value.encode())
    return 0
