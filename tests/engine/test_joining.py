import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import FlatColumn, RawBatch
from intune_gpu.engine.gather import ordered_chunk
from intune_gpu.engine.joining import Joiner
from tests import fakes


def joined(parts: list[RawBatch]) -> RawBatch:
    joiner = Joiner(sum(part.rows for part in parts), BufferPool())
    for part in parts:
        joiner.add(part)
    return joiner.finish()


def test_parts_of_every_kind_of_column() -> None:
    source = fakes.FakeSource([10, 10], bad=[3])
    parts = [ordered_chunk(source.read(i), "f", i).rows(a, b) for i, a, b in ((0, 2, 10), (1, 0, 0), (1, 0, 4))]
    whole = joined(parts)
    assert fakes.rows_of(whole) == [fakes.value_of(n) for n in (2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)]
    assert len(whole.columns) == len(parts[0].columns)


@given(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 40), st.booleans()), min_size=1, max_size=5), st.data())
def test_values_and_null_bits_land_behind_each_other(parts: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    raws, values, present = [], [], []
    for rows, skipped, nulls in parts:
        numbers, bits = rng.integers(-9, 9, skipped + rows, np.int16), rng.random(skipped + rows) < 0.5
        validity = np.packbits(bits, bitorder="little") if nulls else None
        raws.append(RawBatch({"x": FlatColumn(numbers, validity)}, skipped + rows).slice(skipped, skipped + rows))
        values.append(numbers[skipped:])
        present.append(bits[skipped:] if nulls else np.ones(rows, bool))
    whole = joined(raws)
    column = whole.columns["x"]
    assert (column.values == np.concatenate(values)).all()
    assert (np.unpackbits(column.validity, bitorder="little")[: whole.rows] == np.concatenate(present)).all()
    assert whole.addresses.table[0, 0] == column.values.ctypes.data
    assert whole.addresses.table[0, 1] == column.validity.ctypes.data


def test_a_source_that_changes_types_is_refused() -> None:
    joiner = Joiner(4, BufferPool())
    joiner.add(RawBatch({"x": FlatColumn(np.zeros(2, np.int32))}, 2))
    with pytest.raises(TypeError, match=r"expected columns of the types \(dtype\('int32'\),\), found"):
        joiner.add(RawBatch({"x": FlatColumn(np.zeros(2, np.int64))}, 2))
