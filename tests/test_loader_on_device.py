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
from intune_gpu.engine import order
from intune_gpu.opening import open_source
from intune_gpu.sources.subset import RowRange, RowSample
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


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Click logs as text, some of whose rows cannot be read."""
    folder = tmp_path_factory.mktemp("text")
    write_click_logs(folder, ROWS, format="tsv", seed=5, files=2, threads=1)
    path = sorted(folder.glob("*.tsv"))[0]
    lines = path.read_bytes().splitlines(keepends=True)
    for row in (0, 7, 8, 700, len(lines) - 1):
        lines[row] = lines[row].replace(b"\t", b"\tx", 1)
    path.write_bytes(b"".join(lines))
    return folder


@pytest.mark.parametrize("placement", ["gpu", {"text": "cpu"}, {"text": 0.5, "*": "cpu"}, {"text": "gpu", "*": 0.5}])
@pytest.mark.parametrize("shuffle", [False, True])
def test_text_is_a_group(text: Path, placement: Any, shuffle: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(order, "WINDOW_ROWS", 1500)
    seen, told, device = [], [], HostDevice(10)
    for name, where in (("cpu", {"device": "cpu"}), ("gpu", {"device": device, "placement": placement})):
        options = {"batch_size": 512, "shuffle": shuffle, "readers": 2, "quarantine_dir": tmp_path / name, **where}
        (tmp_path / name).mkdir()
        with ig.Loader(text, ig.recipes.criteo(1000), **options) as loader:
            assert ("text" in loader.groups) == (name == "gpu")
            seen.append([bytes_of(batch) for batch in loader])
            assert loader.stats().bad_rows == 5
        told.append((tmp_path / name / "bad_rows.jsonl").read_text())
    assert seen[0] == seen[1]
    assert told[0] == told[1]
    share = ig.Placement.of(placement).share("text")
    assert any(name == "parse_rows" for name, _ in device.launches) == (share > 0)


@pytest.mark.parametrize("part", ["range", "sample"])
def test_parts_of_text_are_read_on_the_device(text: Path, part: str) -> None:
    device, seen = HostDevice(11), []
    for where in ("cpu", device):
        source = open_source(text, ig.recipes.criteo(1000))
        chosen = RowRange(source, 5, 4321) if part == "range" else RowSample(source, 0.3, seed=1)
        with ig.Loader(chosen, ig.recipes.criteo(1000), batch_size=500, device=where, on_bad_row="drop") as loader:
            seen.append([bytes_of(batch) for batch in loader])
        chosen.close()
    assert seen[0] == seen[1]
    assert any(name == "parse_rows" for name, _ in device.launches)


def test_text_stays_where_the_device_has_no_room(text: Path) -> None:
    recipe, device = ig.recipes.criteo(1000), HostDevice(12)
    with ig.Loader(text, recipe, batch_size=512, device=device, gpu_budget_bytes=2 << 20, on_bad_row="drop") as loader:
        batches = [bytes_of(batch) for batch in loader]
    assert not any(name == "parse_rows" for name, _ in device.launches)
    with ig.Loader(text, recipe, batch_size=512, device="cpu", on_bad_row="drop") as loader:
        assert batches == [bytes_of(batch) for batch in loader]


def test_text_moves_between_windows(text: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(order, "WINDOW_ROWS", 1500)
    recipe, options, draw, seen = (
        ig.recipes.criteo(1000),
        {"batch_size": 200, "on_bad_row": "drop"},
        random.Random(3),
        [],
    )
    with ig.Loader(text, recipe, device=HostDevice(13), shuffle=True, **options) as loader:
        for batch in loader:
            seen.append(bytes_of(batch))
            placement = ig.Placement.of({"text": draw.choice(["cpu", "gpu"]), "*": draw.random()})
            loader.apply(ig.Plan(draw.randint(1, 3), 1, loader.plan.prefetch_bytes, placement))
    with ig.Loader(text, recipe, device="cpu", shuffle=True, **options) as loader:
        assert seen == [bytes_of(batch) for batch in loader]


def test_text_that_a_device_cannot_read_says_why(logs: Path, recipe: ig.Recipe) -> None:
    with pytest.raises(ValueError, match=r"found text \(text: the data is no text\)"):
        ig.Loader(logs, recipe, device=HostDevice(), placement={"text": "gpu"})


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
