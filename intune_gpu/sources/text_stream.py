"""Text files as bytes: plain or compressed, from the start or from any place."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa

from intune_gpu.core.errors import DataError
from intune_gpu.sources.files import fill, open_file, unreadable

_CODECS = {".gz": "gzip", ".zst": "zstd"}
_SKIP_BYTES = 1 << 20


def codec_of(path: str) -> str | None:
    """Return the codec that a file's ending names, or None for plain text."""
    return next((codec for ending, codec in _CODECS.items() if path.lower().endswith(ending)), None)


def open_text(path: str) -> Any:
    """Open a file for reading its decompressed bytes: an object with `readinto` and `close`.

    Raises:
        DataError: it cannot be opened.
    """
    codec = codec_of(path)
    file = open_file(path)
    return file if codec is None else pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)


class TextStream:
    """The decompressed bytes of one compressed file, for many threads.

    Reading goes forward; a place behind the present one means to decompress from the file's start.

    Args:
        path: a `.gz` or `.zst` file.
        size: its decompressed bytes; the file is let go of when the last is read.
    """

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self._lock = threading.Lock()
        self._let_go = False
        self._file: Any = None
        self._place = 0

    def read_into(self, start: int, target: memoryview) -> int:
        """Read the bytes from `start` on into `target`; return how many there were.

        Raises:
            DataError: the file is gone, truncated or cannot be decompressed.
        """
        try:
            with self._lock:
                return self._read_into(start, target)
        finally:
            if self._let_go:
                self.close()

    def close(self) -> None:
        """Let go of the file, or have a read that is under way do so behind it; a later read opens it again."""
        self._let_go = True
        if self._lock.acquire(blocking=False):  # a read may take for ever, and closing must not
            try:
                self._close()
                self._let_go = False
            finally:
                self._lock.release()

    def _read_into(self, start: int, target: memoryview) -> int:
        try:
            if self._file is None or self._place > start:
                self._close()
                self._file = open_text(self.path)
            skip = memoryview(bytearray(min(_SKIP_BYTES, start - self._place)))
            while self._place < start and (count := fill(self._file, skip[: start - self._place])):
                self._place += count
            count = fill(self._file, target) if self._place == start else 0
            self._place += count
            if self._place >= self.size:
                self._close()
            return count
        except DataError:
            self._close()
            raise
        except (OSError, ValueError) as error:
            self._close()
            raise unreadable(self.path, error) from error

    def _close(self) -> None:
        file, self._file, self._place = self._file, None, 0
        if file is not None:
            file.close()
