"""What the threads of a loader make of raw rows where batches stay in host memory."""

from __future__ import annotations

from intune_gpu.core.buffers import size_class
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
    row_bytes = program.row_nbytes + program.scratch_row_nbytes + source.row_nbytes
    return Transform(
        program.run,
        _batch_nbytes,
        batch_size * row_bytes + 2 * size_class(1),  # rows that are copied, and the batch, in two buffers of the pool
        lambda batch: len(batch.label),
        cost=program.cost,
        window_bytes=program.window_bytes,
        run_parts=program.run_parts,
    )


def _batch_nbytes(batch: Batch) -> int:
    made = sum(int(t.nbytes) for t in (batch.dense, batch.label, batch.sparse.values()))
    return size_class(made) + int(batch.sparse.lengths().nbytes)
