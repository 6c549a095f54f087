from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intune_gpu.core.columns import RawBatch
from intune_gpu.core.source import Source
from intune_gpu.sources.subset import RowRange, RowSample
from tests import fakes

SIZES = [10, 0, 1, 30, 7, 19]
BAD = [0, 9, 10, 11, 40, 66]


def all_rows(source: Source) -> list[int]:
    """The row numbers that a source gives, after checking all it says of its chunks."""
    seen: list[int] = []
    for index, info in enumerate(source.chunks):
        chunk = source.read(index)
        assert chunk.rows == info.rows
        rows = fakes.rows_of(RawBatch(chunk.columns, chunk.rows))
        assert rows == [fakes.value_of(row[0]) for row in rows]
        numbers = [row[0] for row in rows]
        for bad in chunk.bad:
            assert bad.text == f"row {numbers[bad.row]}".encode()
        assert [numbers[bad.row] for bad in chunk.bad] == [n for n in numbers if n in BAD]
        assert chunk.nbytes <= info.nbytes * 1.5 + 200
        seen += numbers
    assert source.rows == len(seen)
    return seen


@given(st.integers(0, 67), st.integers(0, 67))
def test_range(start: int, stop: int) -> None:
    start, stop = sorted((start, stop))
    source = fakes.FakeSource(SIZES, bad=BAD)
    part = RowRange(source, start, stop)
    assert all_rows(part) == list(range(start, stop))
    assert all(info.rows for info in part.chunks)
    assert part.schema is source.schema
    firsts = {info.file: info.first_row for info in part.chunks}
    assert all(first == 0 or file == part.chunks[0].file for file, first in firsts.items())


def test_range_keeps_lines_and_streams() -> None:
    source = fakes.FakeSource([10, 10], bad=[4, 12], streams=[5, 5])
    part = RowRange(source, 3, 13)
    assert [info.stream for info in part.chunks] == [5, 5]
    assert [(bad.row, bad.line) for i in range(2) for bad in part.read(i).bad] == [(1, 5), (2, 3)]
    assert [(info.first_row, info.rows) for info in part.chunks] == [(3, 7), (0, 3)]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 68)])
def test_range_outside(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=f"stop <= 67 .*found {start} and {stop}"):
        RowRange(fakes.FakeSource(SIZES), start, stop)


@given(st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_sample_and_complement(fraction: float, seed: int) -> None:
    source = fakes.FakeSource(SIZES, bad=BAD)
    sample, rest = RowSample(source, fraction, seed), RowSample(source, fraction, seed, complement=True)
    inside, outside = all_rows(sample), all_rows(rest)
    assert inside == sorted(inside)
    assert sorted(inside + outside) == list(range(67))
    assert len(sample.chunks) == len(SIZES)


def test_samples_hold_their_fraction_and_differ_by_seed() -> None:
    source = fakes.FakeSource([500] * 4, bad=BAD)
    rows = [all_rows(RowSample(source, 0.25, seed)) for seed in range(2)]
    assert rows[0] != rows[1]
    assert all(400 < len(r) < 600 for r in rows)
    assert all_rows(RowSample(source, 0.0, 1)) == []
    assert all_rows(RowSample(source, 1.0, 1)) == list(range(2000))


def test_a_row_is_chosen_by_its_number_alone() -> None:
    assert all_rows(RowSample(fakes.FakeSource([100, 50], bad=BAD), 0.5, 3)) == all_rows(
        RowSample(fakes.FakeSource([30, 120], bad=BAD), 0.5, 3)
    )


def test_fingerprints_differ() -> None:
    source = fakes.FakeSource(SIZES)
    parts: list[Source] = [source, RowRange(source, 0, 3), RowRange(source, 0, 4), RowSample(source, 0.5, 1)]
    parts += [RowSample(source, 0.5, 2), RowSample(source, 0.25, 1), RowSample(source, 0.5, 1, complement=True)]
    assert len({part.fingerprint for part in parts}) == len(parts)


def test_arguments() -> None:
    source = fakes.FakeSource(SIZES)
    with pytest.raises(ValueError, match="fraction"):
        RowSample(source, 1.1, 0)
    with pytest.raises(ValueError, match="seed"):
        RowSample(source, 0.1, -1)
