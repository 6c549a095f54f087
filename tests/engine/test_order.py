from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intune_gpu.core.columns import ChunkInfo
from intune_gpu.core.cursor import Cursor
from intune_gpu.engine import order

MASK = 2**64 - 1
FROZEN_0 = [2, 8, 6, 7, 3, 9, 4, 5, 0, 1]
FROZEN_1 = [2, 7, 5, 8, 0, 4, 1, 3, 9, 6]


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def naive_permutation(words: list[int], count: int) -> list[int]:
    state = 0
    for word in words:
        state = mix(((state ^ word) + 0x9E3779B97F4A7C15) & MASK)
    out = list(range(count))
    for i in range(count - 1, 0, -1):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        j = (mix(state) >> 32) * (i + 1) >> 32
        out[i], out[j] = out[j], out[i]
    return out


def infos(sizes: list[int], streams: list[int | None] | None = None) -> list[ChunkInfo]:
    return [ChunkInfo("f", 0, n, 10 * n, None if streams is None else streams[i]) for i, n in enumerate(sizes)]


def rows_in_order(epoch: order.EpochOrder, chunks: list[ChunkInfo]) -> list[tuple[int, int]]:
    """The (chunk, row) at each place of the epoch, worked out one by one."""
    out: list[tuple[int, int]] = []
    for window in range(len(epoch.windows) - 1):
        numbers, starts = epoch.window_chunks(window)
        rows = [(chunk, row) for chunk in numbers for row in range(chunks[chunk].rows)]
        assert [rows[start][0] for start in starts] == list(numbers)
        placed: list[tuple[int, int] | None] = [None] * len(rows)
        places = epoch.places(window) if epoch.shuffled else range(len(rows))
        for row, place in zip(rows, places, strict=True):
            placed[place] = row
        out += [row for row in placed if row is not None]
    return out


def test_permutation_is_frozen() -> None:
    assert order.permutation(0, 0, 0, 10).tolist() == FROZEN_0
    assert order.permutation(2**64 - 1, 3, 17, 10).tolist() == FROZEN_1


@given(st.integers(0, MASK), st.integers(0, 2**32), st.integers(0, 2**32), st.integers(0, 300))
def test_permutation_equals_the_written_rule(seed: int, epoch: int, which: int, count: int) -> None:
    got = order.permutation(seed, epoch, which, count)
    assert got.dtype == np.int32
    assert got.tolist() == naive_permutation([seed, epoch, which], count)


def test_permutations_are_even() -> None:
    firsts = np.bincount([order.permutation(7, 0, w, 5)[0] for w in range(5000)], minlength=5)
    assert np.all(np.abs(firsts - 1000) < 150)


chunk_lists = st.lists(st.integers(0, 12), min_size=1, max_size=12)


@given(chunk_lists, st.booleans(), st.integers(1, 30), st.data())
def test_every_row_has_one_place(sizes: list[int], shuffle: bool, window_rows: int, data: st.DataObject) -> None:
    streams = data.draw(st.lists(st.sampled_from([None, None, 1, 2]), min_size=len(sizes), max_size=len(sizes)))
    chunks = infos(sizes, streams)
    epoch = order.epoch_order(chunks, seed=1, epoch=2, shuffle=shuffle, window_rows=window_rows)
    rows = rows_in_order(epoch, chunks)
    assert sorted(rows) == [(c, r) for c, n in enumerate(sizes) for r in range(n)]
    if not shuffle and streams.count(None) == len(streams):
        assert rows == sorted(rows)
    taken = epoch.chunks.tolist()
    for stream in (1, 2):
        of_stream = [c for c in taken if streams[c] == stream]
        assert of_stream == sorted(of_stream)
        if of_stream:  # a stream is one unit: nothing comes in between
            at = taken.index(of_stream[0])
            assert taken[at : at + len(of_stream)] == of_stream
    if shuffle:
        held = np.diff(epoch.window_starts)
        assert np.all(held[:-1] >= window_rows)
        last = [chunks[epoch.chunks[i - 1]].rows for i in epoch.windows[1:]]
        assert np.all(held - last < window_rows)


def test_order_depends_on_seed_and_epoch() -> None:
    chunks = infos([40] * 20)

    def rows(seed: int, epoch: int) -> list[tuple[int, int]]:
        return rows_in_order(order.epoch_order(chunks, seed=seed, epoch=epoch, shuffle=True, window_rows=100), chunks)

    assert rows(0, 0) == rows(0, 0)
    assert rows(0, 0) != rows(0, 1)
    assert rows(0, 0) != rows(1, 0)


segment_lists = (
    st.lists(st.integers(0, 30), min_size=0, max_size=10)
    .map(sorted)
    .map(lambda edges: tuple(zip(edges[::2], edges[1::2], strict=False)))
)


def spelled(segments: order.Segments) -> list[int]:
    return [place for start, stop in segments for place in range(start, stop)]


@given(segment_lists, st.integers(0, 40), st.integers(0, 40), st.integers(1, 5))
def test_segments(segments: order.Segments, first: int, last: int, world_size: int) -> None:
    assert spelled(order.between(segments, first, last)) == spelled(segments)[first:last]
    shares = [spelled(order.share(segments, rank, world_size)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    together = [place for share in shares for place in share]
    assert together == spelled(segments)[: len(together)]
    assert order.total(segments) - len(together) < world_size


@given(chunk_lists, st.booleans(), segment_lists, st.integers(1, 40), st.booleans())
def test_cuts_and_windows_agree(
    sizes: list[int], shuffle: bool, segments: order.Segments, batch_size: int, drop_last: bool
) -> None:
    epoch = order.epoch_order(infos(sizes), seed=0, epoch=0, shuffle=shuffle, window_rows=10)
    segments = tuple((min(a, epoch.rows), min(b, epoch.rows)) for a, b in segments)
    run = order.Run(epoch, segments, batch_size, drop_last)
    places: list[int] = []
    touching: dict[int, set[int]] = {}
    for batch in range(run.batches):
        before = len(places)
        for cut in run.cuts(batch):
            first, stop = epoch.span(cut.window)
            assert 0 <= cut.spans[0][0] < cut.spans[-1][1] <= stop - first
            places += [first + p for p in spelled(cut.spans)]
            assert batch not in touching.setdefault(cut.window, set())
            touching[cut.window].add(batch)
        assert len(places) == run.rows_through(batch)
        assert len(places) - before == batch_size or (batch == run.batches - 1 and not drop_last)
    assert places == spelled(segments)[: run.rows]
    uses = list(run.windows())
    assert [use.window for use in uses] == sorted(touching)
    assert all(use.batches == len(touching[use.window]) for use in uses)
    spans = [epoch.span(u.window)[0] + p for u in uses for p in spelled(u.spans)]
    assert spans == places


@given(st.integers(0, 200), st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=4))
def test_ranks_that_change_share_out_what_is_left(rows: int, phases: list[tuple[int, int]]) -> None:
    """Train some batches on so many ranks, then on another number, ...: each row once, up to the dropped tails."""
    batch_size = 7
    epoch = order.epoch_order(infos([rows]), seed=0, epoch=0, shuffle=False, window_rows=1)
    cursor = order.epoch_start(0, rows, phases[0][0])
    given_rows: list[int] = []
    dropped = 0
    for i, (world_size, batches) in enumerate(phases):
        cursor = order.reshare(cursor, world_size)
        dropped += order.total(cursor.segments) % world_size
        runs = []
        for rank in range(world_size):
            mine = order.share(cursor.segments, rank, world_size)
            runs.append(order.Run(epoch, order.between(mine, cursor.rows_done, rows), batch_size, False))
        assert len({run.batches for run in runs}) == 1
        todo = runs[0].batches if i == len(phases) - 1 else min(batches, runs[0].batches)
        for run in runs:
            for batch in range(todo):
                given_rows += [p for cut in run.cuts(batch) for p in spelled(cut.spans)]
        if todo:
            done = cursor.rows_done + runs[0].rows_through(todo - 1)
            cursor = Cursor(0, cursor.segments, world_size, done, cursor.batches_done + todo, 0)
        if i + 1 < len(phases) and phases[i + 1][0] == world_size:
            dropped -= order.total(cursor.segments) % world_size  # the same segments go on
    assert len(given_rows) == len(set(given_rows)) == rows - dropped
    assert order.is_over(cursor, batch_size, False)


def test_the_same_ranks_keep_their_cursor() -> None:
    cursor = Cursor(3, ((0, 100),), 2, 20, 2, 1)
    assert order.reshare(cursor, 2) is cursor
    assert order.reshare(cursor, 1) == Cursor(3, ((20, 50), (70, 100)), 1, 0, 2, 0)


@pytest.mark.parametrize(("rows_done", "drop_last", "over"), [(99, True, True), (99, False, False), (100, False, True)])
def test_is_over(rows_done: int, drop_last: bool, over: bool) -> None:
    assert order.is_over(Cursor(0, ((0, 201),), 2, rows_done, 1, 0), 10, drop_last) is over
