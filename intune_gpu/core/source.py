"""What every source of rows promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from intune_gpu.core.columns import Chunk, ChunkInfo, Schema


class Source(ABC):
    """Rows in chunks that can be read again, in any order, from any thread.

    Attributes:
        schema: the type of every column that `read` gives.
        chunks: one entry a chunk, in file order. Fixed by the files and by constants, never by workers or budgets.
        fingerprint: names the data (files, sizes, types), so that a saved cursor is not used on other data.
    """

    schema: Schema
    chunks: Sequence[ChunkInfo]
    fingerprint: str

    @abstractmethod
    def read(self, index: int) -> Chunk:
        """Decode chunk `index`; the same bytes at every call.

        Raises:
            DataError: the file is gone, changed, truncated or not readable; the message names it.
        """

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
