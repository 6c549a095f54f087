"""Parts of a source that are sources themselves: a run of rows, or a random sample of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import Chunk, ChunkInfo, FlatColumn
from intune_gpu.core.rows import compact, take
from intune_gpu.core.source import HalfRead, Source
from intune_gpu.kernels.gather import sample_cpu

Rows = npt.NDArray[np.int64]


class Part(Source, ABC):
    """Some rows of a source.

    Args:
        source: closed with this one.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.pool, self.reader_bytes = source.pool, source.reader_bytes

    @abstractmethod
    def taken(self, index: int) -> tuple[int, Rows | None]:
        """Return which chunk of the source chunk `index` is made of, and which of its rows, ascending; None for all."""

    def close(self) -> None:
        """Close the source."""
        self.source.close()


class RowRange(Part):
    """Rows `start` to `stop` of a source, in file order; columns are shared, not copied, but for large dictionaries.

    Args:
        source: closed with this one.
        start: number of the first row, counted over all files from 0.
        stop: number behind the last.

    Raises:
        ValueError: the range does not lie in the source.
    """

    def __init__(self, source: Source, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= source.rows:
            raise ValueError(
                f"RowRange: expected 0 <= start <= stop <= {source.rows} (the source's rows), found {start} and {stop}"
            )
        super().__init__(source)
        self._parts: list[tuple[int, int, int]] = []  # chunk of the source, its first row taken, the one behind
        chunks: list[ChunkInfo] = []
        at = 0
        for number, info in enumerate(source.chunks):
            first, last = max(start - at, 0), min(stop - at, info.rows)
            if first < last:
                self._parts.append((number, first, last))
                # A slice keeps its whole buffers alive, so that the bytes stay those of the chunk.
                chunks.append(replace(info, first_row=info.first_row + first, rows=last - first))
            at += info.rows
        self.chunks: Sequence[ChunkInfo] = tuple(chunks)
        self.schema = source.schema
        self.fingerprint = f"{source.fingerprint} rows {start}:{stop}"

    def read(self, index: int) -> Chunk:
        """Decode the chunk and slice it."""
        return self._sliced(index, self.source.read(self._parts[index][0]))

    def half_read(self, index: int) -> HalfRead | None:
        """Decode half of the chunk."""
        half = self.source.half_read(self._parts[index][0])
        if half is None:
            return None
        return replace(half, finish=lambda: self._sliced(index, half.finish()))

    def _sliced(self, index: int, chunk: Chunk) -> Chunk:
        _, start, stop = self._parts[index]
        if (start, stop) == (0, chunk.rows):
            return chunk
        columns = {name: compact(column.slice(start, stop)) for name, column in chunk.columns.items()}
        bad = tuple(replace(b, row=b.row - start) for b in chunk.bad if start <= b.row < stop)
        return Chunk(columns, stop - start, bad, chunk.nbytes)

    def taken(self, index: int) -> tuple[int, Rows | None]:
        """Return which chunk it is, and which of its rows."""
        number, start, stop = self._parts[index]
        whole = (start, stop) == (0, self.source.chunks[number].rows)
        return number, None if whole else np.arange(start, stop)


class RowSample(Part):
    """A random sample of a source's rows, in file order, or all rows outside of it.

    Whether a row is in the sample depends on the seed and its number over all files alone (`sample_cpu`), so that a
    sample and its complement share no row and together are the source.

    Args:
        source: closed with this one.
        fraction: chance of a row to be in the sample, 0 to 1.
        seed: 0 to 2**64 - 1.
        complement: give the rows outside of the sample instead.

    Raises:
        ValueError: a parameter is out of range.
    """

    def __init__(self, source: Source, fraction: float, seed: int, complement: bool = False) -> None:
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"RowSample: expected a fraction from 0 to 1, found {fraction!r}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"RowSample: expected a seed from 0 to 2**64 - 1, found {seed!r}")
        super().__init__(source)
        self._words = np.array([seed], np.uint64)
        self._limit = np.uint64(min(int(fraction * 2.0**64), 2**64 - 1))
        self._complement = complement
        self._first = np.concatenate([[0], np.cumsum([info.rows for info in source.chunks])]).astype(np.int64)
        self.chunks: Sequence[ChunkInfo] = tuple(
            # The whole chunk is there while rows are copied out of it.
            replace(
                info,
                rows=count,
                nbytes=-(-info.nbytes * count // max(info.rows, 1)),
                scratch_bytes=info.scratch_bytes + info.nbytes,
                pooled_bytes=0,
            )
            for info, count in zip(source.chunks, map(self._count, range(len(source.chunks))), strict=True)
        )
        self.schema = source.schema
        part = "without" if complement else "only"
        self.fingerprint = f"{source.fingerprint} {part} sample {fraction!r} seed {seed}"

    def read(self, index: int) -> Chunk:
        """Decode the chunk and copy the rows that are wanted."""
        return self._sampled(index, self.source.read(index))

    def half_read(self, index: int) -> HalfRead | None:
        """Decode half of the chunk."""
        half, rows = self.source.half_read(index), max(1, self.source.chunks[index].rows)
        if half is None:
            return None
        nbytes = -(-half.nbytes * self.chunks[index].rows // rows)
        scratch = half.scratch_bytes + half.nbytes
        return HalfRead(nbytes, half.held_bytes, scratch, lambda: self._sampled(index, half.finish()))

    def _sampled(self, index: int, chunk: Chunk) -> Chunk:
        mask = self._mask(index)[0]
        if len(mask) != chunk.rows:
            return chunk  # its file changed; the loader finds that the rows do not fit, and says so
        rows = np.flatnonzero(mask)
        position = np.cumsum(mask, dtype=np.int64) - 1
        bad = tuple(replace(b, row=int(position[b.row])) for b in chunk.bad if mask[b.row])
        columns: dict[str, FlatColumn] = {name: compact(take(column, rows)) for name, column in chunk.columns.items()}
        return Chunk(columns, len(rows), bad)

    def taken(self, index: int) -> tuple[int, Rows | None]:
        """Return the same chunk, and which of its rows."""
        return index, np.flatnonzero(self._mask(index)[0])

    def _count(self, index: int) -> int:
        return self._mask(index)[1]

    def _mask(self, index: int) -> tuple[npt.NDArray[Any], int]:
        mask = np.empty(self.source.chunks[index].rows, np.uint8)
        count = int(sample_cpu(self._words, int(self._first[index]), self._limit, mask))
        if self._complement:
            np.subtract(1, mask, out=mask)
            count = len(mask) - count
        return mask, count
