"""What every source of rows promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import Chunk, ChunkInfo, Schema


@dataclass(frozen=True, slots=True)
class HalfRead:
    """A chunk that is half decoded: how large it will be is known before the memory for it is taken.

    Attributes:
        nbytes: of the chunk.
        held_bytes: held for it now.
        scratch_bytes: held besides while it is finished, what is held now included.
        finish: does the rest; to be called once.
    """

    nbytes: int
    held_bytes: int
    scratch_bytes: int
    finish: Callable[[], Chunk]


class Source(ABC):
    """Rows in chunks that can be read again, in any order, from any thread.

    Attributes:
        schema: the type of every column that `read` gives.
        chunks: one entry a chunk, in file order. Fixed by the files and by constants, never by workers or budgets.
        fingerprint: names the data (files, sizes, types), so that a saved cursor is not used on other data.
        pool: where memory of its chunks comes from, if from any; who reads keeps what is idle there within bounds.
        reader_bytes: what each thread that reads keeps from chunk to chunk.
    """

    schema: Schema
    chunks: Sequence[ChunkInfo]
    fingerprint: str
    pool: BufferPool | None = None
    reader_bytes: int = 0

    @abstractmethod
    def read(self, index: int) -> Chunk:
        """Decode chunk `index`; the same bytes at every call.

        Raises:
            DataError: the file is gone, changed, truncated or not readable; the message names it.
        """

    def half_read(self, index: int) -> HalfRead | None:
        """Begin to decode chunk `index`, as far as that takes no more than `ChunkInfo.scratch_bytes`.

        None where its size is not known before it is there, or where `ChunkInfo.nbytes` is never too small: then it is
        `read` as a whole. Raises what `read` does.
        """
        return None

    @property
    def row_nbytes(self) -> int:
        """Decoded bytes of a row, about."""
        return -(-sum(chunk.nbytes for chunk in self.chunks) // max(1, self.rows))

    @property
    def rows(self) -> int:
        """Physical rows of all chunks."""
        return sum(chunk.rows for chunk in self.chunks)

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Let go of open files. May be called more than once."""
