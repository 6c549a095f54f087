"""Whole batches on a GPU: memory that runs out, placement that changes, arrays that are not copied."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch

import intune_gpu as ig
from tests.gpu.conftest import consumer, needs

one_shot = needs("torchrec", "intune_gpu.engine.gpu.one_shot")
same = needs("polars", "tests.test_loader_on_device")
logs, recipe = same.logs, same.recipe  # fixtures

STEPS = {"host": 30, "cuda": 1000}


def content(batch):
    tensors = (batch.dense, batch.sparse.values(), batch.sparse.lengths(), batch.label)
    return tuple(tensor.cpu().numpy().tobytes() for tensor in tensors)


def given(data, recipe, **options):
    with ig.Loader(data, recipe, batch_size=512, shuffle=True, **options) as loader:
        return [content(batch) for batch in loader]


@pytest.mark.parametrize("placement", ["cpu", "gpu", 0.5])
def test_placement_never_changes_a_batch(device, logs, recipe, placement):
    there = given(logs, recipe, device=device, placement=placement, transformers=3)
    assert there == given(logs, recipe, device="cpu")


def test_a_consumer_on_another_stream_that_lags(kind, device, logs, recipe):
    """It reads what it was given, although the loader is long ahead and the batches were let go."""
    kept = []
    options = {"batch_size": 512, "shuffle": True, "device": device, "transformers": 3}
    with consumer(kind), ig.Loader(logs, recipe, **options) as loader:
        for _ in range(1 if kind == "host" else 20):
            for batch in loader:
                if kind == "cuda":
                    torch.cuda._sleep(500_000)  # cycles
                tensors = (batch.dense, batch.sparse.values(), batch.sparse.lengths(), batch.label)
                kept.append([tensor.clone() for tensor in tensors])
        found = [tuple(tensor.cpu().numpy().tobytes() for tensor in tensors) for tensors in kept]
    expected = []
    with ig.Loader(logs, recipe, **options | {"device": "cpu"}) as loader:
        for _ in range(len(found) // len(loader)):
            expected += [content(batch) for batch in loader]
    assert found == expected


class Learner:
    """A model whose steps have one result, whatever the order in which a device adds: for equal weights at the end."""

    def __init__(self, where, features, dense):
        draw = torch.Generator().manual_seed(0)
        self.tables = torch.randn(features, 5001, 4, generator=draw).to(where)
        self.weights = torch.randn(dense, generator=draw).to(where)

    def step(self, batch):
        rows = len(batch.label)
        ids = batch.sparse.values().view(-1, rows)  # one id a row and feature
        found = torch.stack([table[own] for table, own in zip(self.tables, ids, strict=True)])
        error = (batch.dense * self.weights).sum(1) + found.sum((0, 2)) - batch.label
        self.weights -= 1e-7 * (batch.dense * error[:, None]).sum(0)
        for table, own in zip(self.tables, ids, strict=True):
            change = torch.zeros(len(table), dtype=torch.int64, device=table.device)  # sums of integers have no order
            change.index_add_(0, own, (error.clamp(-100, 100) * 1024).to(torch.int64))
            table -= 1e-7 * change[:, None]

    def content(self):
        return self.tables.cpu().numpy().tobytes() + self.weights.cpu().numpy().tobytes()


def trained(logs, recipe, device, steps, draw=None):
    """Train, with another plan before each step if `draw` is given; return the weights."""
    learner, done = None, 0
    with ig.Loader(logs, recipe, batch_size=512, shuffle=True, device=device, transformers=2) as loader:
        while done < steps:
            for batch in loader:
                if learner is None:
                    learner = Learner(batch.label.device, len(batch.sparse.keys()), batch.dense.shape[1])
                learner.step(batch)
                done += 1
                if done == steps:
                    break
                if draw is not None:
                    groups = {name: draw.choice(["cpu", "gpu", draw.random()]) for name in loader.groups}
                    plan, placed = loader.plan, ig.Placement.of(groups)
                    loader.apply(ig.Plan(plan.readers, draw.randint(1, 3), plan.prefetch_bytes, placed))
    return learner.content()


def test_a_thousand_changes_of_placement_leave_the_weights_alone(kind, on_kind, logs, recipe):
    steps = STEPS[kind]
    changed = trained(logs, recipe, on_kind(), steps, random.Random(3))
    assert changed == trained(logs, recipe, on_kind(), steps)
    assert changed != trained(logs, recipe, on_kind(), steps - 1)


@pytest.mark.gpu
def test_a_full_card_moves_groups_to_the_cpu(logs, recipe):
    """The rest of the card is taken while a loader runs: groups move, with a warning; batches stay the same."""
    expected = given(logs, recipe, device="cpu")
    torch.cuda.empty_cache()
    taken, seen, said = [], [], []
    with (
        warnings.catch_warnings(record=True) as caught,
        ig.Loader(logs, recipe, batch_size=512, shuffle=True, device="cuda", gpu_budget_bytes=8 << 20) as loader,
    ):
        warnings.simplefilter("always")
        try:
            for number, batch in enumerate(loader):
                seen.append(content(batch))
                if number == 1:
                    take_all(taken)
        except ig.StageError as error:  # not even the batches fit any more
            said.append(str(error))
        finally:
            taken.clear()
            torch.cuda.empty_cache()
    assert seen == expected[: len(seen)]
    assert len(seen) >= 2
    moved = [w for w in caught if "are made on the CPU from now on" in str(w.message)]
    assert moved or len(seen) == len(expected)
    assert all("take a smaller batch_size" in sentence for sentence in said)


@pytest.mark.gpu
@pytest.mark.parametrize("left_mib", [2, 8, 32])
def test_a_card_that_is_full_from_the_start(logs, recipe, left_mib):
    """Whatever fits is made there and the rest on the CPU, to the same batches, or one sentence says that none fits."""
    expected = given(logs, recipe, device="cpu")
    given(logs, recipe, device="cuda", gpu_budget_bytes=8 << 20)  # loads the kernels
    torch.cuda.empty_cache()
    left, taken, found, said = torch.empty(left_mib << 20, dtype=torch.uint8, device="cuda"), [], None, ""
    try:
        take_all(taken)
        del left
        torch.cuda.empty_cache()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = given(logs, recipe, device="cuda", gpu_budget_bytes=8 << 20)
    except ig.StageError as error:
        said = str(error)
    finally:
        taken.clear()
        torch.cuda.empty_cache()
    assert found == expected or "take a smaller batch_size" in said


def take_all(taken):
    """Allocate until not even a kilobyte is left."""
    size = 1 << 34
    while size >= 512:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.cuda.OutOfMemoryError:
            size //= 2


def test_no_room_for_a_batch_moves_a_group_or_is_said(kind, on_kind, logs, recipe):
    """The same, with the failure where it is wanted: scratch of the crosses."""
    device, empty = on_kind(), type(on_kind()).empty
    failed = []

    def full(nbytes):
        if nbytes == 8 * 2 * 512:
            failed.append(nbytes)
            if kind == "cuda":
                empty(device, 1 << 50)  # more than any card has: the allocator's own refusal
            device._room_bytes = 0
            try:
                return empty(device, nbytes)
            finally:
                device._room_bytes = None
        return empty(device, nbytes)

    device.empty = full
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert given(logs, recipe, device=device) == given(logs, recipe, device="cpu")
    assert failed
    assert any("the features of group 'crosses' are made on the CPU from now on" in str(w.message) for w in caught)


def arrays_of(kind):
    """The library whose arrays lie on the device."""
    return pytest.importorskip("cupy") if kind == "cuda" else np


def test_an_array_is_read_where_it_lies(kind):
    array = arrays_of(kind).arange(1000, dtype="int32")
    tensor = one_shot._tensor("x", array)
    assert tensor.data_ptr() == (array.data.ptr if kind == "cuda" else array.ctypes.data)
    assert one_shot.is_there(array) == (kind == "cuda")


def test_a_batch_becomes_arrays_without_a_copy(kind, device):
    xp = arrays_of(kind)
    columns = {"y": xp.arange(1000, dtype="int32") % 2, "x": xp.arange(1000, dtype="int64")}
    one = ig.Recipe(label="y", dense={"x": [ig.Log1p()]}, sparse={"id": [ig.Column("x"), ig.HashBucket(100)]})
    batch = ig.transform(columns, one, device=device)
    for tensor in (batch.dense, batch.label, batch.sparse.values()):
        array = xp.from_dlpack(tensor)
        assert (array.data.ptr if kind == "cuda" else array.ctypes.data) == tensor.data_ptr()
    host = {name: np.arange(1000) % 2 if name == "y" else np.arange(1000) for name in columns}
    assert content(batch) == content(ig.transform(host, one))
