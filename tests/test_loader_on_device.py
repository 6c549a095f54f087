"""A loader whose batches come to stand on a device keeps every promise of one whose batches do not."""

from __future__ import annotations

import random
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import intune_gpu as ig
from intune_gpu.sources.synthetic import write_click_logs
from tests import conformance
from tests.devices import HostDevice
from tests.test_loader import content

ROWS = 6_000


class TestLoaderOnDevice(conformance.LoaderConformance):
    def open(self, data: Path, **options: Any) -> AbstractContextManager[Any]:
        return ig.Loader(data, conformance.RECIPE, device=HostDevice(1), **options)

    def content(self, batch: Any) -> dict[str, np.ndarray[Any, Any]]:
        return content(batch)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_click_logs(folder, ROWS, format="parquet", hex_ids=False, seed=5, files=2, row_group_rows=1000, threads=1)
    return folder


@pytest.fixture(scope="module")
def recipe() -> ig.Recipe:
    criteo = ig.recipes.criteo(num_buckets=1000)
    crossed = {"C1_x_C2": [ig.Cross(["C1", "C2"], 5000)], "bins": [ig.Column("I1"), ig.Bucketize([0, 1, 5, 50])]}
    return ig.Recipe(label="label", dense=criteo.dense, sparse={**criteo.sparse, **crossed}, types=criteo.types)


def given(data: Path, recipe: ig.Recipe, **options: Any) -> list[tuple[bytes, ...]]:
    with ig.Loader(data, recipe, batch_size=512, shuffle=True, **options) as loader:
        return [bytes_of(batch) for batch in loader]


def bytes_of(batch: ig.Batch) -> tuple[bytes, ...]:
    tensors = (batch.dense, batch.sparse.values(), batch.sparse.lengths(), batch.label)
    return tuple(tensor.numpy().tobytes() for tensor in tensors)


@pytest.mark.parametrize("placement", ["cpu", "gpu", 0.3, {"crosses": 0.5, "*": "cpu"}])
def test_placement_never_changes_a_batch(logs: Path, recipe: ig.Recipe, placement: Any) -> None:
    expected = given(logs, recipe, device="cpu")
    assert given(logs, recipe, device=HostDevice(2), placement=placement, transformers=3) == expected


def test_placement_changes_between_batches(logs: Path, recipe: ig.Recipe) -> None:
    draw, seen = random.Random(9), []
    with ig.Loader(logs, recipe, batch_size=512, shuffle=True, device=HostDevice(3), transformers=2) as loader:
        for batch in loader:
            seen.append(bytes_of(batch))
            groups = {name: draw.choice(["cpu", "gpu", draw.random()]) for name in loader.groups}
            plan = loader.plan
            loader.apply(ig.Plan(plan.readers, draw.randint(1, 3), plan.prefetch_bytes, ig.Placement.of(groups)))
    assert seen == given(logs, recipe, device="cpu")


def test_all_on_the_cpu_launches_nothing(logs: Path, recipe: ig.Recipe) -> None:
    device = HostDevice(4)
    batches = given(logs, recipe, device=device, placement="cpu")
    assert device.launches == []
    assert device.copies == len(batches)  # one copy a batch


def test_three_launches_and_one_copy_a_batch_of_criteo(logs: Path) -> None:
    device = HostDevice(5)
    with ig.Loader(logs, ig.recipes.criteo(num_buckets=1000), batch_size=1024, device=device) as loader:
        count = sum(1 for _ in loader)
    assert device.copies == count
    assert [name for name, _ in device.launches[:3]] == [
        "dense convert",
        "dense fill_missing_clip_min_log1p",
        "hash_ints",
    ]
    assert len(device.launches) == 3 * count


def test_batches_are_the_users(logs: Path, recipe: ig.Recipe) -> None:
    with ig.Loader(logs, recipe, batch_size=512, shuffle=True, device=HostDevice(6)) as loader:
        kept = list(loader)
    assert [bytes_of(batch) for batch in kept] == given(logs, recipe, device="cpu")


def test_a_failed_allocation_moves_a_group_to_the_cpu_for_good(logs: Path, recipe: ig.Recipe) -> None:
    words = 8 * 2 * 512  # of the crosses: the batches themselves are larger, and come from a roomier place
    device = Scratchless(words)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert given(logs, recipe, device=device) == given(logs, recipe, device="cpu")
    (told,) = (str(w.message) for w in caught if issubclass(w.category, RuntimeWarning))
    assert "no room for 8192 bytes: the features of group 'crosses' are made on the CPU from now on" in told


class Scratchless(HostDevice):
    """A device without room for scratch of one size."""

    def __init__(self, size: int) -> None:
        super().__init__(8)
        self._size = size

    def empty(self, nbytes: int) -> torch.Tensor:
        if nbytes == self._size:
            self._room_bytes = 0
        try:
            return super().empty(nbytes)
        finally:
            self._room_bytes = None


def test_no_room_at_all_is_said(logs: Path, recipe: ig.Recipe) -> None:
    device = HostDevice(9)
    with ig.Loader(logs, recipe, batch_size=512, device=device) as loader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        device._room_bytes = 4096 * 4
        with pytest.raises(ig.StageError, match="take a smaller batch_size"):
            list(loader)


def test_a_budget_bounds_what_is_ahead(logs: Path, recipe: ig.Recipe) -> None:
    with pytest.raises(ig.BudgetError, match=r"gpu_budget_bytes: expected at least \d+ for two batches of 512 rows"):
        ig.Loader(logs, recipe, batch_size=512, device=HostDevice(), gpu_budget_bytes=1000)
    least = int(str(_refusal(logs, recipe)).split("at least ")[1].split()[0])
    with ig.Loader(logs, recipe, batch_size=512, device=HostDevice(), gpu_budget_bytes=least, transformers=3) as loader:
        most = 0
        for _ in loader:
            most = max(most, loader.stats().ready_batches)
        assert most <= 1
    assert given(logs, recipe, device=HostDevice(), gpu_budget_bytes=least) == given(logs, recipe, device="cpu")


def _refusal(logs: Path, recipe: ig.Recipe) -> Exception:
    with pytest.raises(ig.BudgetError) as caught:
        ig.Loader(logs, recipe, batch_size=512, device=HostDevice(), gpu_budget_bytes=1000)
    return caught.value


def test_wrong_placements(logs: Path, recipe: ig.Recipe) -> None:
    for wrong in ("tpu", 1.5, -0.1, True, {"crosses": "both"}):
        with pytest.raises(ValueError, match="share of the batches from 0 to 1"):
            ig.Loader(logs, recipe, device=HostDevice(), placement=wrong)
    with pytest.raises(ValueError, match=r"expected groups out of label, .*found hashes"):
        ig.Loader(logs, recipe, device=HostDevice(), placement={"hashes": 0.5})
    with pytest.raises(ValueError, match='placement: expected "cpu", since batches stay in host memory'):
        ig.Loader(logs, recipe, device="cpu", placement=0.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_sentence(logs: Path, recipe: ig.Recipe) -> None:
    with pytest.raises(ig.DeviceError, match=r'device cuda: expected an NVIDIA GPU, and torch .* use device="cpu"'):
        ig.Loader(logs, recipe, device="cuda")
    with pytest.raises(ig.DeviceError, match="device cuda:1"):
        ig.transform({"label": [1], "I1": [1]}, ig.Recipe(label="label", dense={"I1": []}), device="cuda:1")
    with pytest.raises(ValueError, match='expected "auto", "cpu", "cuda" or "cuda:<number>", found \'gpu\''):
        ig.Loader(logs, recipe, device="gpu")
    with ig.Loader(logs, recipe, device="auto") as loader:
        assert loader.groups == ()
