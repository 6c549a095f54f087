"""What the threads of a loader make of raw rows where batches stay in host memory."""

from __future__ import annotations

from collections.abc import Sequence

from intune_gpu.core.buffers import size_class
from intune_gpu.core.columns import RawBatch
from intune_gpu.core.source import Source
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.program import Program
from intune_gpu.engine.state import Transform


def host_transform(program: Program, source: Source, batch_size: int) -> Transform[Batch]:
    """Return what makes batches of a recipe in host memory.

    Args:
        program: the recipe, compiled.
        source: of the rows.
        batch_size: rows of a batch.
    """

    def run_parts(raw: RawBatch, rows: int) -> tuple[list[Batch], int] | None:
        batches = program.run_parts(raw, rows)
        return None if batches is None else (batches, _nbytes_together(batches))

    row_bytes = program.row_nbytes + program.scratch_row_nbytes + source.row_nbytes
    return Transform(
        program.run,
        _batch_nbytes,
        batch_size * row_bytes + 2 * size_class(1),  # rows that are copied, and the batch, in two buffers of the pool
        lambda batch: len(batch.label),
        cost=program.cost,
        window_bytes=program.window_bytes,
        run_parts=None if program.groups.lists else run_parts,
    )


def _batch_nbytes(batch: Batch) -> int:
    return size_class(_made_nbytes(batch)) + int(batch.sparse.lengths().nbytes)


def _made_nbytes(batch: Batch) -> int:
    return sum(int(t.nbytes) for t in (batch.dense, batch.label, batch.sparse.values()))


def _nbytes_together(batches: Sequence[Batch]) -> int:
    """Return the bytes of batches that share one buffer, but for a last one of fewer rows, which has its own."""
    alike, first = len(batches), batches[0]
    nbytes = 0
    if len(batches[-1].label) != len(first.label):
        alike, nbytes = alike - 1, _batch_nbytes(batches[-1])
    return nbytes + size_class(alike * _made_nbytes(first)) + alike * int(first.sparse.lengths().nbytes)
