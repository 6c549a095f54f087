import numpy as np
import pytest

from intune_gpu.kernels.transposing import TILE, rows_of_columns

GUARD = 16


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 9, 13, 16, 17, 25])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 40, 64])
def test_rows_of_columns(width: int, count: int) -> None:
    rng = np.random.default_rng(width * 100 + count)
    block = rng.random(((width + TILE - 1) // TILE * TILE, 64), np.float32)
    memory = np.full(count * width + GUARD, -1, np.float32)
    matrix = memory[: count * width]
    for first in range(0, count, 24):  # as a chain does it: some rows at a time
        size = min(24, count - first)
        done = rows_of_columns(block[:, first:].copy(), size, matrix, first, width, count)
        assert done % TILE == 0
        assert size - TILE * 8 <= done <= size
        rest = slice(first + done, first + size)
        matrix.reshape(count, width)[rest] = block[:width, rest].T
    assert (matrix.reshape(count, width) == block[:width, :count].T).all()
    assert (memory[count * width :] == -1).all(), "nothing is written behind the matrix"


def test_most_rows_are_done() -> None:
    block, matrix = np.zeros((16, 256), np.float32), np.zeros(1000 * 13, np.float32)
    assert rows_of_columns(block, 256, matrix, 0, 13, 1000) == 256
