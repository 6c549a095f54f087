"""Text that is read on a device and stays there: the same batches and bad rows as from host memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intune_gpu as ig
from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import ColumnType, FlatColumn, RawBatch
from intune_gpu.core.errors import DataError
from intune_gpu.core.placement import Placement
from intune_gpu.core.plan import Plan
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.gpu.columns import DeviceRows
from intune_gpu.engine.gpu.device import DeviceMemoryError
from intune_gpu.engine.gpu.keeping import DeviceJoiner, TextKeeping, stays
from intune_gpu.engine.gpu.program import GpuProgram
from intune_gpu.engine.gpu.rows import Mover, Target
from intune_gpu.engine.gpu.sharing import MixedJoiner, PlacedText, run_anywhere
from intune_gpu.engine.gpu.text import TextOnDevice
from intune_gpu.engine.joining import Joiner
from intune_gpu.engine.keeping import InHostMemory
from intune_gpu.engine.order import Run, epoch_order
from intune_gpu.engine.pipeline import Pipeline
from intune_gpu.engine.program import Program
from intune_gpu.engine.stages import Clocks
from intune_gpu.engine.state import Transform
from intune_gpu.sources.text import TextSource
from intune_gpu.sources.text_format import TextFormat
from tests import fakes
from tests.conftest import SEED
from tests.devices import HostDevice
from tests.engine.gpu.test_text import back, layout_of

TYPES = {"label": "int64", "i": "int64", "j": "int64", "f": "float64", "c": "hex32", "d": "hex32"}
RECIPE = ig.Recipe(
    label="label",
    dense={"i": [ig.FillMissing(-1.0), ig.Clip(min=0.0)], "f": [ig.FillMissing(0.5)], "j": [ig.FillMissing(7.0)]},
    sparse={
        "c": [ig.HashBucket(1000)],
        "d": [ig.Modulo(77)],
        "cd": [ig.Cross(["c", "d"], num_buckets=500)],
        "bins": [ig.Column("j"), ig.Bucketize([-1.0, 0.0, 3.0])],
    },
    types=TYPES,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def text_of(rows: int, spoilt: float, rng: np.random.Generator) -> bytes:
    lines = []
    for row in range(rows):
        fields = [
            b"%d" % (row % 2),
            b"%d" % row,
            *(b"%d" % v for v in rng.integers(-9, 10**12, 1)),
            b"%.3f" % rng.normal(),
        ]
        fields += [b"%x" % v for v in rng.integers(0, 2**32, 2)]
        if rng.random() < 0.4:
            fields[rng.integers(1, 6)] = b""
        if rng.random() < spoilt:
            fields[rng.integers(0, 6)] = rng.choice([b"x", b"123456789012345678901", b"1e999", b"1\t2"])
        lines.append(b"\t".join(fields))
    return b"\n".join(lines) + b"\n"


def source_of(path: Path, chunk_bytes: int) -> TextSource:
    return TextSource(
        [str(path)],
        text_format=TextFormat(),
        needed=list(TYPES),
        types=TYPES,
        columns=list(TYPES),
        label="label",
        chunk_bytes=chunk_bytes,
    )


def batches_of(
    source: TextSource, run: Run, plan: Plan, device: HostDevice | None, share: float = 1.0
) -> list[tuple[Batch, Any, Any]]:
    program = Program(RECIPE, source.schema, "int64", BufferPool())
    keeping, transform = None, Transform(program.run, lambda batch: 1, 1 << 20)
    if device is not None:
        gpu, there = GpuProgram(program, device), TextKeeping(device, source)
        keeping = there if share == 1.0 else PlacedText(InHostMemory(BufferPool()), there, lambda: Placement(share))
        transform = Transform(run_anywhere(gpu), lambda made: made.nbytes, 1 << 20)
    pipeline = Pipeline(source, run, transform, plan, Clocks(), BufferPool(), keeping=keeping)
    found = []
    try:
        while (delivery := pipeline.take()) is not None:
            made = delivery.value
            if device is not None:
                made.mark.wait()
                made = made.batch
            found.append((made, delivery.bad, delivery.first_bad))
    finally:
        pipeline.close()
    return found


def same(found: Batch, expected: Batch) -> None:
    for a, b in ((found.dense, expected.dense), (found.label, expected.label)):
        np.testing.assert_array_equal(a.numpy().view(np.uint32), b.numpy().view(np.uint32))
    np.testing.assert_array_equal(found.sparse.values().numpy(), expected.sparse.values().numpy())
    np.testing.assert_array_equal(found.sparse.lengths().numpy(), expected.sparse.lengths().numpy())


@pytest.mark.parametrize("segments", [None, ((20, 310), (377, 600))], ids=["all", "part"])
@pytest.mark.parametrize("spoilt", [0.0, 0.1, 1.0], ids=["good", "some bad", "all bad"])
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_the_same_batches(
    tmp_path: Path, rng: np.random.Generator, shuffle: bool, spoilt: float, segments: Any
) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(text_of(641, spoilt, rng))
    source = source_of(path, 4000)
    assert len(source.chunks) > 5
    order = epoch_order(source.chunks, seed=5, epoch=1, shuffle=shuffle, window_rows=250)
    for seed, batch_size in enumerate((32, 150, 700)):
        run = Run(order, segments or ((0, 641),), batch_size, drop_last=False)
        expected = batches_of(source, run, Plan(readers=1, transformers=1), None)
        for readers, share in ((1, 1.0), (3, 1.0), (2, 0.5), (1, 0.3), (2, 0.0)):
            plan = Plan(readers=readers, transformers=2)
            found = batches_of(source, run, plan, HostDevice(seed + readers), share)
            assert len(found) == len(expected) == run.batches
            for (batch, bad, first), (like, bad_like, first_like) in zip(found, expected, strict=True):
                same(batch, like)
                assert (bad, first) == (bad_like, first_like)
    assert (sum(len(bad) for _, bad, _ in expected) > 0) == (spoilt > 0)
    source.close()


def test_a_file_that_changes(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(text_of(100, 0.0, rng))
    source = source_of(path, 1 << 20)
    run = Run(epoch_order(source.chunks, seed=0, epoch=0, shuffle=False, window_rows=1), ((0, 100),), 10, False)
    path.write_bytes(text_of(90, 0.0, rng))
    with pytest.raises(DataError, match="found it changed"):
        batches_of(source, run, Plan(readers=1, transformers=1), HostDevice(SEED))


def test_what_stays(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(text_of(10, 0.0, rng))
    source = source_of(path, 1 << 20)
    program = Program(RECIPE, source.schema, "int64", BufferPool())
    assert stays(source, program) is None
    assert stays(fakes.FakeSource([3]), program) == "the data is no text"
    types = {"label": "int64", "c": "string"}
    strings = TextSource(
        [str(path)], text_format=TextFormat(), needed=list(types), types=types, columns=list(TYPES), label="label"
    )
    own = ig.Recipe("label", dense={}, sparse={"c": [ig.HashBucket(9)]})
    assert (
        stays(strings, Program(own, strings.schema, "int64", BufferPool())) == "string columns are read on the CPU: c"
    )
    with pytest.raises(ValueError, match="string columns"):
        TextKeeping(HostDevice(), strings)


# --- rows that are moved ---------------------------------------------------------------------------------------------


def rows_there(device: HostDevice, rows: int, nulls: bool = True) -> tuple[DeviceRows, dict[str, Any]]:
    """Rows on a device, and the same as arrays: values, and which are there."""
    text = b"".join(b"%d\t%x\n" % (7 * r, r) if r % 3 or not nulls else b"\t%x\n" % r for r in range(rows))
    chunk = TextOnDevice(device, layout_of({"a": "int64", "b": "hex32"}, None)).parse(
        np.frombuffer(text, np.uint8), rows, 1, "a"
    )
    flat = {name: back(column) for name, column in chunk.columns.items()}
    arrays = {
        n: (c.values, np.ones(rows) if c.validity is None else bits(c.validity, 0, rows)) for n, c in flat.items()
    }
    return DeviceRows(chunk.columns, 0, rows), arrays


def bits(validity: Any, first: int, rows: int) -> Any:
    return np.unpackbits(validity, bitorder="little")[first : first + rows]


def check_rows(device: HostDevice, found: DeviceRows, arrays: dict[str, Any], rows: Any) -> None:
    device.mark().wait()
    assert found.rows == len(rows)
    for name, (values, present) in arrays.items():
        column = found.columns[name]
        there = column.values.numpy()[found.first :][: found.rows].view(values.dtype)
        np.testing.assert_array_equal(there, values[rows])
        if column.validity is None:
            assert present[rows].all()
        else:
            np.testing.assert_array_equal(bits(column.validity.numpy(), found.first, found.rows), present[rows])


@pytest.mark.parametrize("nulls", [True, False])
@pytest.mark.parametrize("rows", [1, 8, 33, 300])
def test_moved_rows(rows: int, nulls: bool, rng: np.random.Generator) -> None:
    device = HostDevice(SEED)
    mover = Mover(device, slots=2)
    whole, arrays = rows_there(device, rows, nulls)
    for first in (0, rows // 3):
        part, own = whole.slice(first, rows), np.arange(first, rows)
        check_rows(device, part, arrays, own)
        numbers = rng.integers(0, rows - first, rows + 5).astype(np.int32)
        check_rows(device, mover.take(part, numbers), arrays, own[numbers])
        check_rows(device, mover.take(part, numbers[:0]), arrays, own[:0])
        places = rng.permutation(rows - first).astype(np.int32)
        target = Target(mover, part.addresses, rows - first)
        half = (rows - first) // 2
        target.add(part.slice(half, rows - first), places[half:])
        target.add(part.slice(0, half), places[:half])
        check_rows(device, target.finish(), arrays, own[np.argsort(places)])
        joined = Target(mover, part.addresses, 2 * rows + 9)  # with more room than rows come
        joined.add(part, 0)
        joined.add(whole, rows - first)
        check_rows(device, joined.finish(2 * rows - first), arrays, np.concatenate([own, np.arange(rows)]))


@pytest.mark.parametrize("kinds", ["hhd", "dhh", "hdhd", "hh", "d"])
@pytest.mark.parametrize("nulls", [True, False])
def test_parts_of_both_kinds(kinds: str, nulls: bool) -> None:
    device = HostDevice(SEED)
    whole, arrays = rows_there(device, 100, nulls)
    there = {name: FlatColumn(*_flat(values, present, nulls)) for name, (values, present) in arrays.items()}
    in_host = RawBatch(there, 100)
    joiner = MixedJoiner(Joiner(400, BufferPool()), DeviceJoiner(400, Mover(device)))
    rows: list[Any] = []
    for i, kind in enumerate(kinds):
        start, stop = 7 * i + 3, 90 - i
        joiner.add((in_host if kind == "h" else whole).slice(start, stop))
        rows.append(np.arange(start, stop))
    found = joiner.finish()
    assert isinstance(found, RawBatch if "d" not in kinds else DeviceRows)
    if isinstance(found, DeviceRows):
        check_rows(device, found, arrays, np.concatenate(rows))


def _flat(values: Any, present: Any, nulls: bool) -> tuple[Any, Any]:
    return values, np.packbits(present.astype(bool), bitorder="little") if nulls else None


def test_parts_from_several_threads(rng: np.random.Generator) -> None:
    device = HostDevice(SEED)
    mover = Mover(device, slots=2)
    whole, arrays = rows_there(device, 400)
    places = rng.permutation(400).astype(np.int32)
    target = Target(mover, whole.addresses, 400)
    parts = [(whole.slice(a, a + 50), places[a : a + 50]) for a in range(0, 400, 50)]
    threads = [threading.Thread(target=target.add, args=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_rows(device, target.finish(), arrays, np.argsort(places))


def test_other_columns_are_refused() -> None:
    device = HostDevice(SEED)
    whole, _ = rows_there(device, 5)
    target = Target(Mover(device), whole.addresses, 5)
    other = DeviceRows({"a": whole.columns["a"]}, 0, 5)
    with pytest.raises(TypeError, match="expected columns of the types"):
        target.add(other)


def test_no_room_on_the_device() -> None:
    """Rows on a device cannot go back to the CPU: an error, and no endless retry."""
    device = HostDevice(SEED)
    whole, _ = rows_there(device, 200)
    recipe = ig.Recipe("a", dense={}, sparse={"b": [ig.HashBucket(10)]}, types={"b": "hex32"})
    program = Program(recipe, {"a": ColumnType("int64"), "b": ColumnType("uint32")}, "int64", BufferPool())
    gpu = GpuProgram(program, device)
    gpu.run_there(whole).mark.wait()
    device._room_bytes = 1000
    with pytest.raises(DeviceMemoryError, match="no room"):
        gpu.run_there(whole)
