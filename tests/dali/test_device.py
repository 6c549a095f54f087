"""The GPU's path as far as it goes without a GPU: under DALI's executor on a device in host memory, and as a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from nvidia.dali import Pipeline, fn, types

import intune_gpu as ig
from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import ColumnType
from intune_gpu.core.errors import DeviceError, RecipeError, StageError
from intune_gpu.dali import stages
from intune_gpu.dali.device_node import DeviceNode
from intune_gpu.dali.fn import to_sparse, transform
from intune_gpu.dali.graph import Graph
from intune_gpu.dali.stages import DeviceStage, HostStage
from intune_gpu.engine.gpu import masks
from intune_gpu.engine.gpu.device import DeviceMemoryError
from intune_gpu.engine.program import Program
from tests import conformance
from tests.dali.hosted import STREAM, HostedLoader, OnStream, on_the_stream
from tests.test_loader import all_bytes

RECIPE = ig.Recipe(
    "label",
    dense={
        "row": [ig.FillMissing(0.0)],
        "gap": [ig.FillMissing(-1.0), ig.Clip(max=90.0), ig.Log1p()],
        "gap_flag": [ig.Column("gap"), ig.MissingFlag()],
    },
    sparse={
        "id": [ig.HashBucket(1000)],
        "id_2": [ig.Column("id"), ig.HashBucket(77)],
        "word": [ig.HashBucket(50)],
        "tags": [ig.FirstK(2), ig.HashBucket(30)],
        "numbers": [ig.HashBucket(40)],
        "id_x_word": [ig.Cross(["id", "word"], 100)],
        "bins": [ig.Column("gap"), ig.Bucketize([1.0, 9.0])],
    },
)


def table() -> pa.Table:
    given = conformance.table()
    numbers = pa.array(
        [None if n % 9 == 2 else list(range(n % 5)) for n in range(given.num_rows)], pa.list_(pa.int32())
    )
    return given.append_column("numbers", numbers)


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    on_the_stream(monkeypatch)
    path = tmp_path / "t.parquet"
    pq.write_table(table(), path, row_group_size=90)
    return path


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_the_loaders(parquet: Path, shuffle: bool, coded: bool) -> None:
    if coded:
        plain = table()
        coded_word = plain["word"].dictionary_encode()
        pq.write_table(plain.set_column(4, "word", coded_word), parquet, row_group_size=300, use_dictionary=True)
    options: dict[str, Any] = {"batch_size": 64, "shuffle": shuffle, "index_dtype": "int32"}
    with ig.Loader(parquet, RECIPE, device="cpu", **options) as loader:
        want = [all_bytes(loader) for _ in range(2)]
    for seed in range(3):
        with HostedLoader(parquet, RECIPE, seed=seed, **options) as loader:
            assert [all_bytes(loader) for _ in range(2)] == want
            assert [device.stream for device in loader.stage.devices] == [STREAM]


def test_a_launch_a_group(parquet: Path) -> None:
    recipe = ig.recipes.criteo(100)
    columns = {"label": np.arange(640) % 2} | {name: np.arange(640, dtype=np.int32) for name in recipe.columns[1:]}
    pq.write_table(pa.table(columns), parquet)
    with HostedLoader(parquet, recipe, batch_size=64, prefetch_queue_depth=3) as loader:
        list(loader)
        (device,) = loader.stage.devices
        device.launches.clear()
        copies = device.copies
        batches = list(loader)
        assert len(batches) == 10
        assert sum(Counter(name for name, _ in device.launches).values()) == 3 * 10  # label, dense features, hashes
        assert device.copies - copies == 10  # a table of addresses each; columns came through DALI


def test_a_device_that_keeps_up_is_never_waited_for(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch loads constants; from the second epoch on no mark is waited for, in any thread."""
    with HostedLoader(parquet, RECIPE, batch_size=64) as loader:
        monkeypatch.setattr(loader.stage, "_opened", lambda where, stream: OnStream(where, stream, eager=True))
        list(loader)
        (program,) = loader.stage._programs.values()
        device = program.device
        assert isinstance(device, OnStream)
        before = device.waits
        assert len(list(loader)) == 16
        assert device.waits == before


def test_what_fails_there_fails_in_its_place(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HostedLoader(parquet, RECIPE, batch_size=64) as loader:
        want = all_bytes(loader)
        (device,) = loader.stage.devices
        empty, calls = device.empty, []

        def full(nbytes: int) -> torch.Tensor:
            calls.append(nbytes)
            if len(calls) == 30:
                raise DeviceMemoryError("cpu: no room for a batch")
            return empty(nbytes)

        monkeypatch.setattr(device, "empty", full)
        given: list[Any] = []
        with pytest.raises(StageError, match="transform stage in DALI: DeviceMemoryError: cpu: no room for a batch"):
            given += list(loader)
        assert loader.state_dict()["cursor"]["batches_done"] > 0
        assert all_bytes(loader) == want


def test_dalis_own_checkpoints(parquet: Path) -> None:
    options: dict[str, Any] = {"batch_size": 64, "shuffle": True, "enable_checkpointing": True}
    with HostedLoader(parquet, RECIPE, **options) as loader:
        batches = iter(loader)
        for _ in range(5):
            next(batches)
        saved, rest = loader.checkpoint(), all_bytes(batches)
    with HostedLoader(parquet, RECIPE, checkpoint=saved, **options) as loader:
        assert all_bytes(loader) == rest


def test_ops_that_only_the_cpu_has_are_refused(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "without_cuda", lambda program: masks.without_cuda(program, (ig.HashBucket,)))
    with pytest.raises(
        RecipeError, match=r"recipe: expected ops that a GPU can do.*found the group '.*', which only the CPU"
    ):
        HostedLoader(parquet, RECIPE, batch_size=64)


# --- the graph --------------------------------------------------------------------------------------------------------


def words_of(pipeline: Pipeline) -> str:
    """What DALI is told of the last operator of a pipeline that is defined and not built, which takes a GPU."""
    pipeline._build_graph()
    return str(pipeline._ops[-1].spec)


def test_the_graph_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Pipeline] = []

    class Defined(Pipeline):
        """Stops where a GPU would be asked for."""

        _iterator_data = None

        def build(self) -> None:
            built.append(self)

    monkeypatch.setattr("intune_gpu.dali.graph.Pipeline", Defined)
    recipe = ig.Recipe("y", dense={"x": []})
    program = Program(recipe, dict.fromkeys("yx", ColumnType("float32", nullable=False)))
    for stage in (DeviceStage(program, 3, 4), HostStage(program, BufferPool())):
        Graph(stage)
    there, here = built
    assert there.device_id == 3
    assert here.device_id is None
    words = words_of(there)
    for line in ("__ExternalSource_0_gpu", "device: gpu", "synchronize_stream: False", "batch_processing: True"):
        assert line in words
    assert "__ExternalSource_0_cpu" in words_of(here)


# --- a node over columns on the GPU -----------------------------------------------------------------------------------

NODE = ig.Recipe(
    "y",
    dense={"x": [ig.FillMissing(0.5), ig.Log1p()], "k": [ig.FillMissing(0)]},
    sparse={"a": [ig.HashBucket(100)], "h": [ig.HashBucket(100)], "a_x_k": [ig.Cross(["a", "k"], 1000)]},
    types={"h": "hex32"},
)


class HostedNode(DeviceNode):
    backend = "cpu"


def rows_of(rows: int, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "y": rng.random(rows, np.float32),
        "x": np.where(rng.random(rows) < 0.2, np.nan, rng.random(rows)).astype(np.float32),
        "k": rng.integers(-50, 50, rows, np.int16),
        "a": rng.integers(-(2**62), 2**62, rows),
        "h": rng.integers(-(2**31), 2**31, rows).astype(np.int32),
    }


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[OnStream]:
    on_the_stream(monkeypatch)
    return []


def run(batches: list[dict[str, list[Any]]], opened: list[OnStream], recipe: ig.Recipe = NODE) -> list[list[Any]]:
    """Run a hosted node over samples; return dense, ids and label of each batch."""
    names = list(batches[0])

    def device(where: torch.device, stream: int) -> OnStream:
        opened.append(OnStream(where, stream, eager=True))
        return opened[-1]

    pipeline = Pipeline(batch_size=64, num_threads=1, device_id=None)
    with pipeline:
        nodes = fn.external_source(source=[[b[n] for n in names] for b in batches], num_outputs=len(names))
        pipeline.set_outputs(*HostedNode(names, recipe, "int64", device).operator(nodes))
    return [[[np.array(sample) for sample in out] for out in pipeline.run()] for _ in batches]


def test_a_node_gives_what_a_transform_gives(rng: np.random.Generator, opened: list[OnStream]) -> None:
    tables = [rows_of(rows, rng) for rows in (64, 64, 17)]
    whole = run([{n: [t[n]] for n in t} for t in tables], opened)
    by_row = run([{n: list(t[n]) for n in t} for t in tables], opened)
    parts = run([{n: np.split(t[n], [3, 5]) for n in t} for t in tables], opened)
    assert [device.stream for device in opened] == [STREAM] * 3
    for t, one, rows, split in zip(tables, whole, by_row, parts, strict=True):
        want = ig.transform(t, NODE)
        wanted = want.dense.numpy(), want.sparse.values().numpy().reshape(3, -1).T, want.label.numpy()
        for found in (one, split):
            for part, expected in zip(found, wanted, strict=True):
                assert np.concatenate(part).tobytes() == np.ascontiguousarray(expected).tobytes()
        for part, expected in zip(rows, wanted, strict=True):
            assert np.stack(part).tobytes() == np.ascontiguousarray(expected).tobytes()
        assert to_sparse(torch.from_numpy(np.stack(rows[1])), NODE).values().tolist() == want.sparse.values().tolist()


def test_a_node_of_whole_batches_launches_once_a_group(rng: np.random.Generator, opened: list[OnStream]) -> None:
    tables = [rows_of(40, rng) for _ in range(6)]
    run([{n: [t[n]] for n in t} for t in tables], opened)
    (device,) = opened
    kernels = Counter(name for name, _ in device.launches)
    assert sum(kernels.values()) == 6 * (1 + 2 + 2 + 3)  # label; two types of dense; of hashes; two of words, a cross


def test_a_node_without_labels_and_with_bad_ones(rng: np.random.Generator, opened: list[OnStream]) -> None:
    t = rows_of(9, rng)
    without = {n: [c] for n, c in t.items() if n != "y"}
    ((_, _, label),) = run([without], opened)
    assert np.isnan(label[0]).all()
    bad = t | {"y": np.where(np.arange(9) == 4, np.inf, t["y"]).astype(np.float32)}
    good = {n: [c] for n, c in t.items()}
    with pytest.raises(RuntimeError, match=r"column 'y': expected finite labels, found one that is not in batch 1"):
        run([good, {n: [c] for n, c in bad.items()}, good, good], opened)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": np.zeros(9, np.float16)}, r"column 'k': expected int8.*found torch.float16 on the GPU; cast it with"),
        ({"h": np.zeros(9, np.int64)}, "column 'h': expected int32 or uint32, since it is declared hex32, found"),
        ({"k": np.zeros((3, 3), np.int16)}, r"column 'k': expected samples of one number .* found one of \(3, 3\)"),
    ],
)
def test_what_a_node_refuses(
    change: dict[str, Any], words: str, rng: np.random.Generator, opened: list[OnStream]
) -> None:
    with pytest.raises(RuntimeError, match=words):
        run([{n: [c] for n, c in (rows_of(9, rng) | change).items()}], opened)


def in_a_pipeline(define: Callable[[Callable[[bool], Any]], Any]) -> None:
    """Call `define` within a pipeline; its argument makes a node, on the GPU or not."""
    with Pipeline(batch_size=4, num_threads=1, device_id=0):

        def node(gpu: bool) -> Any:
            given = fn.external_source(source=lambda: None, batch=True, dtype=types.FLOAT)
            return given.gpu() if gpu else given

        define(node)


def test_what_is_refused_when_a_node_is_made() -> None:
    one = ig.Recipe("y", dense={"x": [ig.FillMissing(0)]})
    for wrong, error, words in (
        (
            lambda n: transform({"x": n(True), "y": n(False)}, one),
            RecipeError,
            "found 'y' on the CPU and 'x' on the GPU",
        ),
        (
            lambda n: transform({"x": n(True)}, one, present={"x": n(True)}),
            RecipeError,
            r"present: expected none for columns on the GPU.*found x; transform them on the CPU",
        ),
        (lambda n: transform({"x": n(True)}, one, strings=["x"]), RecipeError, "strings: expected none for columns on"),
    ):
        with pytest.raises(error, match=words):
            in_a_pipeline(wrong)
    if not torch.cuda.is_available():
        with pytest.raises(
            DeviceError, match=r"device_id: expected None for host memory, or the number of a GPU.*found 0"
        ):
            in_a_pipeline(lambda n: transform({"x": n(True)}, one))


def test_the_graph_of_a_node_on_a_gpu() -> None:
    pipeline = Pipeline(batch_size=4, num_threads=1, device_id=0)
    with pipeline:
        x = fn.external_source(source=lambda: None, batch=True, dtype=types.FLOAT).gpu()
        pipeline.set_outputs(*DeviceNode(["x"], ig.Recipe("y", dense={"x": []}), "int64").operator([x]))
    words = words_of(pipeline)
    for line in ("device: gpu", "synchronize_stream: False", "Function_1[2]_gpu", "num_outputs: 3"):
        assert line in words
