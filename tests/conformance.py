"""What every way to iterate over batches promises; the tests of `Loader` and of its kin inherit it."""

from __future__ import annotations

import gc
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intune_gpu.core.errors import ResumeError
from intune_gpu.engine import order
from intune_gpu.recipe import Clip, FillMissing, FirstK, HashBucket, Recipe

ROWS = 1003
BATCH = 64
RECIPE = Recipe(
    label="label",
    dense={"row": [FillMissing(0.0)], "gap": [FillMissing(-1.0), Clip(max=90.0)]},
    sparse={"id": [HashBucket(1000)], "word": [HashBucket(50)], "tags": [FirstK(2), HashBucket(30)]},
)


def table() -> pa.Table:
    """Rows that name themselves: `row` is the row's number."""
    rows = range(ROWS)
    return pa.table(
        {
            "label": pa.array([n % 2 for n in rows], pa.int8()),
            "row": pa.array(rows, pa.int32()),
            "gap": pa.array([None if n % 7 == 0 else n % 100 / 3 for n in rows], pa.float32()),
            "id": pa.array([None if n % 11 == 0 else n * n for n in rows], pa.int64()),
            "word": pa.array([None if n % 5 == 0 else "w" * (n % 9) for n in rows], pa.string()),
            "tags": pa.array([None if n % 6 == 0 else [f"t{k}" for k in range(n % 4)] for n in rows]),
        }
    )


class LoaderConformance(ABC):
    """Inherit, and say how a loader is opened and what its batches hold."""

    @abstractmethod
    def open(self, data: Path, **options: Any) -> AbstractContextManager[Any]:
        """Open a loader of `RECIPE` over a folder of Parquet files; `options` are those of `Loader`."""

    @abstractmethod
    def content(self, batch: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Return a batch's `dense`, `label`, `values` and `lengths`, as they are."""

    @pytest.fixture
    def data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "data"
        folder.mkdir()
        for i, (start, stop) in enumerate(((0, 400), (400, 410), (410, ROWS))):
            pq.write_table(table().slice(start, stop - start), folder / f"part-{i}.parquet", row_group_size=90)
        monkeypatch.setattr(order, "WINDOW_ROWS", 200)
        return folder

    @pytest.fixture(autouse=True)
    def no_thread_is_left(self) -> Iterator[None]:
        yield
        gc.collect()
        assert [t.name for t in threading.enumerate() if t.name.startswith("intune-")] == []

    def rows(self, batch: Any) -> list[int]:
        """The numbers of a batch's rows."""
        return [int(n) for n in self.content(batch)["dense"][:, 0]]

    def bytes_of(self, batches: Any) -> list[dict[str, bytes]]:
        """All bytes, to be compared."""
        return [{name: array.tobytes() for name, array in self.content(b).items()} for b in batches]

    def epoch(self, data: Path, **options: Any) -> list[dict[str, bytes]]:
        with self.open(data, batch_size=BATCH, **options) as loader:
            return self.bytes_of(loader)

    def test_file_order_and_sizes(self, data: Path) -> None:
        with self.open(data, batch_size=BATCH) as loader:
            batches = list(loader)
            assert len(loader) == len(batches)
        assert [len(self.rows(b)) for b in batches] == [BATCH] * (ROWS // BATCH) + [ROWS % BATCH]
        assert [n for b in batches for n in self.rows(b)] == list(range(ROWS))
        for batch in batches:
            content = self.content(batch)
            assert content["label"].tolist() == [n % 2 for n in self.rows(batch)]
            assert content["dense"].dtype == content["label"].dtype == np.float32
            assert len(content["lengths"]) == 3 * len(self.rows(batch))
            assert content["lengths"].sum() == len(content["values"])

    def test_drop_last(self, data: Path) -> None:
        whole = self.epoch(data)
        with self.open(data, batch_size=BATCH, drop_last=True) as loader:
            assert len(loader) == ROWS // BATCH
            assert self.bytes_of(loader) == whole[:-1]

    def test_batches_of_any_size_hold_the_same_rows(self, data: Path) -> None:
        for size in (1, 7, 400, 5000):
            with self.open(data, batch_size=size) as loader:
                assert [n for b in loader for n in self.rows(b)] == list(range(ROWS))

    def test_shuffle(self, data: Path) -> None:
        with self.open(data, batch_size=BATCH, shuffle=True, seed=3) as loader:
            first, second = ([n for b in loader for n in self.rows(b)] for _ in range(2))
        assert sorted(first) == sorted(second) == list(range(ROWS))
        assert first != second != list(range(ROWS))
        with self.open(data, batch_size=BATCH, shuffle=True, seed=3) as loader:
            assert [n for b in loader for n in self.rows(b)] == first
        with self.open(data, batch_size=BATCH, shuffle=True, seed=4) as loader:
            assert [n for b in loader for n in self.rows(b)] != first

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_workers_and_budget_change_nothing(self, data: Path, shuffle: bool) -> None:
        want = self.epoch(data, shuffle=shuffle, readers=1, transformers=1)
        assert self.epoch(data, shuffle=shuffle, readers=8, transformers=4) == want
        assert self.epoch(data, shuffle=shuffle, readers=3, transformers=1, prefetch_bytes=160_000) == want

    def test_batches_stay_as_they_are(self, data: Path) -> None:
        with self.open(data, batch_size=BATCH, shuffle=True) as loader:
            kept = list(loader)
            before = self.bytes_of(kept)
            list(loader)
        gc.collect()
        assert self.bytes_of(kept) == before

    @pytest.mark.parametrize("stop", [1, 5, 15, 16])
    def test_resume(self, data: Path, stop: int) -> None:
        options = {"batch_size": BATCH, "shuffle": True, "seed": 9}
        with self.open(data, **options) as loader:
            epochs = [self.bytes_of(loader) for _ in range(3)]
        with self.open(data, **options) as loader:
            list(loader)
            batches = iter(loader)
            for _ in range(stop):
                next(batches)
            state = json.loads(json.dumps(loader.state_dict()))
        with self.open(data, **options) as loader:
            loader.load_state_dict(state)
            assert json.loads(json.dumps(loader.state_dict())) == state
            rest = self.bytes_of(loader)
            if stop < len(epochs[1]):
                assert rest == epochs[1][stop:]
                rest = self.bytes_of(loader)
            assert rest == epochs[2]

    def test_resume_before_the_first_batch(self, data: Path) -> None:
        with self.open(data, batch_size=BATCH, shuffle=True) as loader:
            state = loader.state_dict()
            first = self.bytes_of(loader)
            loader.load_state_dict(state)
            assert self.bytes_of(loader) == first

    def test_leaving_a_loop_ends_the_epoch(self, data: Path) -> None:
        with self.open(data, batch_size=BATCH, shuffle=True) as loader:
            epochs = [self.bytes_of(loader) for _ in range(2)]
        with self.open(data, batch_size=BATCH, shuffle=True) as loader:
            for _ in loader:
                break
            assert self.bytes_of(loader) == epochs[1]

    def test_a_new_iterator_closes_the_old_one(self, data: Path) -> None:
        with self.open(data, batch_size=BATCH) as loader:
            old = iter(loader)
            next(old)
            assert len(list(loader)) == len(loader)
            with pytest.raises(Exception, match="closed"):
                next(old)

    @pytest.mark.parametrize("world_size", [2, 3])
    def test_ranks_share_the_rows(self, data: Path, world_size: int) -> None:
        seen: list[int] = []
        counts = set()
        for rank in range(world_size):
            with self.open(data, batch_size=BATCH, shuffle=True, rank=rank, world_size=world_size) as loader:
                batches = [self.rows(b) for b in loader]
                assert len(loader) == len(batches)
            counts.add(tuple(map(len, batches)))
            seen += [n for rows in batches for n in rows]
        assert len(counts) == 1
        assert len(seen) == len(set(seen)) == ROWS // world_size * world_size

    def test_the_number_of_ranks_changes(self, data: Path) -> None:
        options = {"batch_size": BATCH, "shuffle": True}
        seen: list[int] = []
        state: dict[str, Any] | None = None
        for world_size, steps in ((2, 2), (3, 1), (1, 100)):
            states = []
            for rank in range(world_size):
                with self.open(data, rank=rank, world_size=world_size, **options) as loader:
                    if state is not None:
                        loader.load_state_dict(state)
                    for step, batch in enumerate(loader, 1):
                        seen += self.rows(batch)
                        if step == steps:
                            break
                    states.append(loader.state_dict())
            assert all(s == states[0] for s in states)
            state = states[0]
        assert len(seen) == len(set(seen))
        assert len(seen) >= ROWS - 1 - 2

    def test_a_state_of_another_loader_is_refused(self, data: Path) -> None:
        with self.open(data, batch_size=BATCH) as loader:
            state = loader.state_dict()
        for change in ({"batch_size": BATCH + 1}, {"seed": 1}, {"shuffle": True}, {"drop_last": True}):
            with (
                self.open(data, **{"batch_size": BATCH, **change}) as loader,
                pytest.raises(ResumeError, match=next(iter(change))),
            ):
                loader.load_state_dict(state)
