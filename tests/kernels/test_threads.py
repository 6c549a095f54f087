"""Threads that have ended go where a Ctrl-C cannot be raised."""

from __future__ import annotations

import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq

import intune_gpu as ig
from intune_gpu.kernels import threads
from intune_gpu.kernels.threads import keep_thread
from intune_gpu.loader import Loader
from tests import conformance

ROOT = Path(ig.__file__).parent


def start_one() -> weakref.ref[threading.Thread]:
    thread = threading.Thread(target=keep_thread)
    thread.start()
    thread.join()
    return weakref.ref(thread)


def test_a_thread_that_ended_stays_until_the_next_begins() -> None:
    first = start_one()
    assert first() is not None  # the main thread has let go of it
    gone_in: list[threading.Thread] = []
    last = first()
    assert last is not None
    weakref.finalize(last, lambda: gone_in.append(threading.current_thread()))
    del last
    second = start_one()
    assert first() is None
    assert gone_in != [threading.main_thread()]
    assert len(gone_in) == 1
    assert second() is not None
    assert len(threads._kept) < 100


def test_those_of_a_pool_and_of_a_loader_do(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1, "own", keep_thread) as pool:
        kept = pool.submit(lambda: weakref.ref(threading.current_thread())).result()
    del pool
    assert kept() is not None
    pq.write_table(conformance.table(), tmp_path / "t.parquet", row_group_size=90)
    found: dict[int, weakref.ref[threading.Thread]] = {}
    with Loader(tmp_path / "t.parquet", conformance.RECIPE, batch_size=16, readers=2, transformers=2) as loader:
        for _ in loader:
            found.update({id(t): weakref.ref(t) for t in threading.enumerate() if re.match("intune-(read|tr)", t.name)})
    assert len(found) == 4
    assert kept() is None
    assert all(each() is not None for each in found.values())


def test_every_pool_has_its_threads_kept() -> None:
    sources = "".join(path.read_text() for path in [*ROOT.rglob("*.py"), *(ROOT / "kernels").glob("*.py")])
    pools = re.findall(r"ThreadPoolExecutor\(.*", sources)
    assert len(pools) >= 5
    assert [pool for pool in pools if "keep_thread" not in pool] == []
