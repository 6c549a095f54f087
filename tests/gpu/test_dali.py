"""Inside DALI on a GPU: batches of the Loader's bytes, on DALI's stream, for a consumer on another one."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import intune_gpu as ig
from tests.gpu.conftest import consumer, needs

needs("torchrec", "intune_gpu.engine.batch")
needs("polars", "polars")
dali = needs("nvidia.dali", "intune_gpu.dali")
same = needs("nvidia.dali", "tests.dali.test_device")

pytestmark = pytest.mark.gpu


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.parquet"
    pq.write_table(same.table(), path, row_group_size=90)
    return path


def content(dense, sparse, label):
    return tuple(t.cpu().numpy().tobytes() for t in (dense, sparse.values(), sparse.lengths(), label))


def wanted(data, epochs, **options):
    with ig.Loader(data, same.RECIPE, device="cpu", **options) as loader:
        return [[content(b.dense, b.sparse, b.label) for b in loader] for _ in range(epochs)]


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_the_loaders(data, shuffle, depth):
    options = {"batch_size": 64, "shuffle": shuffle}
    with dali.DALIRecIterator(data, same.RECIPE, device_id=0, prefetch_queue_depth=depth, **options) as iterator:
        for epoch in wanted(data, 3, **options):
            steps = [one for (one,) in iterator]
            assert all(step["dense"].device == torch.device("cuda", 0) for step in steps)
            assert [content(step["dense"], step["sparse"], step["label"]) for step in steps] == epoch
            iterator.reset()


def test_a_consumer_on_another_stream_that_lags(data):
    options = {"batch_size": 64, "shuffle": True}
    kept = []
    with consumer("cuda"), dali.DALIRecIterator(data, same.RECIPE, device_id=0, auto_reset=True, **options) as iterator:
        for _ in range(20):
            for (step,) in iterator:
                torch.cuda._sleep(500_000)  # cycles
                tensors = step["dense"], step["sparse"].values(), step["sparse"].lengths(), step["label"]
                kept.append([tensor.clone() for tensor in tensors])
        found = [tuple(tensor.cpu().numpy().tobytes() for tensor in tensors) for tensors in kept]
    assert found == [batch for epoch in wanted(data, 20, **options) for batch in epoch]


def test_checkpoints(data):
    options = {"batch_size": 64, "shuffle": True}
    (epoch,) = wanted(data, 1, **options)
    with dali.DALIRecIterator(data, same.RECIPE, device_id=0, enable_checkpointing=True, **options) as iterator:
        for _ in range(5):
            next(iterator)
        (saved,) = iterator.checkpoints()
    with dali.DALIRecIterator(data, same.RECIPE, device_id=0, checkpoint=saved, **options) as iterator:
        assert [content(one["dense"], one["sparse"], one["label"]) for (one,) in iterator] == epoch[5:]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_node_gives_what_a_transform_gives(rng, parts):
    from nvidia.dali import Pipeline, fn
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    table = same.rows_of(9_999, rng)
    samples = {name: np.split(column, parts) for name, column in table.items()}
    pipeline = Pipeline(batch_size=parts, num_threads=1, device_id=0, exec_dynamic=True)
    with pipeline:
        nodes = fn.external_source(source=[list(samples.values())] * 4, num_outputs=len(samples))
        given = {name: node.gpu() for name, node in zip(samples, nodes, strict=True)}
        pipeline.set_outputs(*dali.fn.transform(given, same.NODE))
    want = ig.transform(table, same.NODE)
    steps = 0
    for (step,) in DALIGenericIterator(pipeline, ["dense", "ids", "label"]):
        ids = step["ids"].reshape(-1, step["ids"].shape[-1])
        assert torch.equal(step["dense"].reshape(-1, 2).cpu(), want.dense)
        assert torch.equal(ids.t().reshape(-1).cpu(), want.sparse.values())
        assert torch.equal(step["label"].reshape(-1).cpu(), want.label)
        steps += 1
    assert steps == 4


def test_a_gpu_that_is_not_there(data):
    count = torch.cuda.device_count()
    with pytest.raises(ig.DeviceError, match=f"the number of a GPU 0 to {count - 1}, found {count}"):
        dali.DALIRecIterator(data, same.RECIPE, 64, device_id=count)
