"""What goes wrong in a stage reaches the consumer by name, ends every thread, and spoils no batch."""

from __future__ import annotations

import gc
import gzip
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import intune_gpu as ig
from intune_gpu.core.errors import DataError, IntuneError, StageError
from intune_gpu.engine import order, pipeline
from intune_gpu.sources import text
from tests import conformance, faults
from tests.engine.runs import wait_until
from tests.faults import STEPS, Fault, FaultyFileSystem, FaultyLoader
from tests.test_loader import all_bytes, criteo_rows

CAUSE = ZeroDivisionError("by nought")
WORKERS = [{"readers": 1, "transformers": 1}, {"readers": 4, "transformers": 3}]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert [t.name for t in threading.enumerate() if t not in before] == []


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve row groups, windows of several of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(order, "WINDOW_ROWS", 200)
    pq.write_table(conformance.table(), tmp_path / "t.parquet", row_group_size=90)
    return tmp_path / "t.parquet"


def loader_of(path: Path, fault: Fault | None, **options: Any) -> FaultyLoader:
    loader = FaultyLoader(path, conformance.RECIPE, batch_size=32, seed=3, **options)
    loader.step = fault
    return loader


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("intune-")]


def until_error(batches: Any) -> tuple[list[dict[str, bytes]], Exception | None]:
    got: list[dict[str, bytes]] = []
    try:
        for batch in batches:
            got += all_bytes([batch])
    except IntuneError as error:
        return got, error
    return got, None


def epochs_of(path: Path, **options: Any) -> list[list[dict[str, bytes]]]:
    with loader_of(path, None, **options) as loader:
        return [all_bytes(loader) for _ in range(2)]


def first_window(loader: ig.Loader, shuffle: bool) -> frozenset[int]:
    """Return the chunks of the first epoch's first window."""
    chunks = loader.source.chunks
    of_epoch = order.epoch_order(chunks, seed=3, epoch=0, shuffle=shuffle, window_rows=order.WINDOW_ROWS)
    return frozenset(of_epoch.chunks[: of_epoch.windows[1]].tolist())


# --- the steps of the workers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["error", "short"])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_fails(parquet: Path, name: str, shuffle: bool, workers: dict[str, int], kind: str) -> None:
    first, second = epochs_of(parquet, shuffle=shuffle)
    for at in (0, 2, 7) if name != "order" or not shuffle else (0, 1, 2):  # fewer windows than chunks or batches
        fault = Fault(name, at, error=CAUSE if kind == "error" else None, cut=kind == "short")
        with loader_of(parquet, fault, shuffle=shuffle, **workers) as loader:
            got, error = until_error(loader)
            assert isinstance(error, StageError | DataError)
            check_place(error, loader, fault, shuffle)
            assert got == first[: len(got)]
            if STEPS[name] == "transform":
                assert len(got) == fault.number
            else:
                assert len(got) < len(first)
            assert (error.__cause__ is CAUSE) is (kind == "error")
            assert loader.stats().in_flight_bytes == loader.stats().readers == loader.stats().transformers == 0
            loader.step = None  # the fault is gone: the loader goes on with the next epoch
            assert all_bytes(loader) == second


def check_place(error: StageError | DataError, loader: FaultyLoader, fault: Fault, shuffle: bool) -> None:
    """It names the stage, the file, and the first row of the piece of work that failed."""
    assert error.stage == STEPS[fault.name]
    assert error.file is not None
    assert error.file in str(error)
    assert fault.number is not None
    chunks = loader.source.chunks
    if error.stage == "read":
        assert error.row == chunks[fault.number].first_row
    elif shuffle:
        assert error.row in [info.first_row for info in chunks]
    else:
        assert error.row == fault.number * 32


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_takes_its_time(parquet: Path, name: str, shuffle: bool) -> None:
    first, _ = epochs_of(parquet, shuffle=shuffle)
    fault = Fault(name, 3, stall=threading.Event())
    assert fault.stall is not None
    release = threading.Timer(0.2, fault.stall.set)
    with loader_of(parquet, fault, shuffle=shuffle, **WORKERS[1]) as loader:
        release.start()
        assert all_bytes(loader) == first
    release.join()
    assert fault.reached.is_set()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_closing_while_a_step_stalls(parquet: Path, name: str, shuffle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "JOIN_S", 0.3)
    first, second = epochs_of(parquet, shuffle=shuffle)
    fault = Fault(name, 5, stall=threading.Event())
    assert fault.stall is not None
    loader = loader_of(parquet, fault, shuffle=shuffle, **WORKERS[1])
    # The first batch is awaited: what it is made of must not be what stalls.
    made_of_chunks = name not in ("gather", "transform")
    fault.spared = first_window(loader, shuffle) if made_of_chunks else frozenset({0})
    batches = iter(loader)
    assert all_bytes([next(batches)]) == first[:1]
    assert fault.reached.wait(30)
    loader.step = None
    assert all_bytes(loader) == second  # it closes the epoch that stalls, and goes on beside it
    loader.close()
    wait_until(lambda: len(workers()) == 1)  # nothing makes a thread leave what it is in
    left = workers()
    fault.stall.set()
    left[0].join(30)
    assert not left[0].is_alive()
    assert loader.stats().in_flight_bytes == 0


def test_ctrl_c_while_the_main_thread_waits_for_a_stalled_step(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives it to another thread, or it comes as the wait begins: nothing cuts the wait short."""
    monkeypatch.setattr(pipeline, "JOIN_S", 0.3)
    fault = Fault("decode", 3, stall=threading.Event())
    assert fault.stall is not None
    release = threading.Timer(20, fault.stall.set)
    release.start()
    began = time.monotonic()
    loader = loader_of(parquet, fault, readers=1, transformers=1)
    with pytest.raises(KeyboardInterrupt), faults.ctrl_c_elsewhere(0.3, fault.reached):
        for _ in loader:
            pass
    assert time.monotonic() - began < 10
    left = workers()  # closing waited for `JOIN_S`, not for what stalls
    assert left
    release.cancel()
    fault.stall.set()
    for thread in (release, *left):
        thread.join(30)
    loader.close()


def test_two_faults_give_the_first_in_order(parquet: Path) -> None:
    """A transform fails while the reader is still to fail: the batch that comes first decides."""
    first, _ = epochs_of(parquet)

    def both(name: str, number: int, work: Any) -> Any:
        if (name, number) in (("transform", 4), ("decode", 2)):
            raise ValueError(name)
        return work()

    for _ in range(5):
        loader = loader_of(parquet, both, **WORKERS[1])  # type: ignore[arg-type]
        got, error = until_error(loader)
        loader.close()
        assert (got, str(error)[-16:]) == (first[:4], "Error: transform")


# --- the file system -------------------------------------------------------------------------------------------------

COUNT = 900


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The same rows in three formats, in small chunks, in files that can be told to fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(text.TextSource.__init__, "__kwdefaults__", {**KEYWORDS, "chunk_bytes": 40_000})
    rows = "".join("\t".join(row) + "\n" for row in criteo_rows(COUNT)).encode()
    pq.write_table(conformance.table(), tmp_path / "t.parquet", row_group_size=90)
    faults.register()
    held = {"a.tsv": rows, "a.tsv.gz": gzip.compress(rows), "a.parquet": (tmp_path / "t.parquet").read_bytes()}
    monkeypatch.setattr(FaultyFileSystem, "files", held)
    FaultyFileSystem.set(None)
    yield
    FaultyFileSystem.set(None)


KEYWORDS = dict(text.TextSource.__init__.__kwdefaults__ or {})


def opened(name: str, folder: Path) -> FaultyLoader:
    """A loader that has to count the file's rows first."""
    recipe = conformance.RECIPE if name.endswith("parquet") else ig.recipes.criteo(1000)
    for kept in (folder / "cache").rglob("*.json"):
        kept.unlink()
    return FaultyLoader(f"faulty://{name}", recipe, batch_size=32, **WORKERS[1])


def read_url(name: str, folder: Path) -> tuple[list[dict[str, bytes]], Exception | None]:
    """Open and read a file; what was given before the first error, and the error."""
    try:
        loader = opened(name, folder)
    except DataError as error:
        return [], error
    with loader:
        return until_error(loader)


@pytest.mark.parametrize("kind", ["error", "short", "partial"])
@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.parquet"])
def test_every_read_of_a_file_may_fail(files: None, tmp_path: Path, name: str, kind: str) -> None:
    whole, error = read_url(name, tmp_path)
    assert error is None
    reads = FaultyFileSystem.reads
    assert reads > 4
    met = 0
    for at in range(reads):
        FaultyFileSystem.set(at, kind)
        got, error = read_url(name, tmp_path)
        assert got == whole[: len(got)]
        assert error is not None or got == whole
        if error is not None:
            met += 1
            assert isinstance(error, DataError)
            assert f"faulty://{name}" in str(error)
        elif kind == "error":
            assert FaultyFileSystem.reads <= at  # two threads that need one footer may both read it, or not
    assert met > reads // 2 or kind == "partial"


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.parquet"])
def test_closing_while_a_file_stalls(files: None, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "JOIN_S", 0.3)
    counts = []
    for _ in range(3):  # two readers ask for ranges of Parquet in no fixed number of reads
        FaultyFileSystem.set(None)
        read_url(name, tmp_path)
        counts.append(FaultyFileSystem.reads)
    done: list[bool] = []
    for tries, back in enumerate((1, 2, 3, 5, 8, 12), 1):  # a run may need fewer reads than those before it
        FaultyFileSystem.set(max(1, min(counts) - back), "stall")
        consumer = threading.Thread(target=lambda: done.append(read_to_stall(name, tmp_path)))
        consumer.start()
        consumer.join(30)
        assert len(done) == tries, "closing waits for a read that never comes back"
        if done[-1]:
            break
    assert done[-1]
    FaultyFileSystem.stall.set()
    for thread in workers():
        thread.join(30)


def read_to_stall(name: str, folder: Path) -> bool:
    """Return whether the read that stalls was asked for."""
    with opened(name, folder) as loader:
        batches = iter(loader)
        next(batches)
        return FaultyFileSystem.reached.wait(8)


# --- the file of bad rows --------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_when_a_bad_row_is_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = criteo_rows(300)
    rows[200][0] = "x"
    (tmp_path / "a.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    (tmp_path / "bad_rows.jsonl").symlink_to("/dev/full")
    with FaultyLoader(tmp_path / "a.tsv", ig.recipes.criteo(1000), batch_size=32, quarantine_dir=tmp_path) as loader:
        got, error = until_error(loader)
        assert len(got) == 200 // 32
        assert isinstance(error, DataError)
        assert "expected to be able to write bad rows there, found No space left" in str(error)
        (tmp_path / "bad_rows.jsonl").unlink()  # there is room again: the row was not written yet
        assert len(all_bytes(loader)) == 10
    assert (tmp_path / "bad_rows.jsonl").read_bytes().count(b"\n") == 1
