"""What only a GPU can show: that nothing waits for it, and that everything it needs is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import intune_gpu as ig
from intune_gpu.core.errors import DataError
from intune_gpu.train.config import ModelConfig
from intune_gpu.train.feed import Feed
from intune_gpu.train.model import build
from intune_gpu.train.place import joined

pytestmark = pytest.mark.gpu

RECIPE = ig.recipes.criteo(50)


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Make an error of whatever waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def batches(clicks: Path) -> list[ig.Batch]:
    with ig.Loader(clicks, RECIPE, batch_size=200, readers=1) as loader:
        return [batch.to(torch.device("cuda", 0)) for batch in loader]


def test_a_feed_of_batches_on_the_gpu_waits_for_nothing(batches: list[ig.Batch]) -> None:
    feed = Feed(iter(batches), RECIPE, pin=True)
    with nobody_waits():
        given = [next(feed) for _ in batches]
    assert all(one is other for one, other in zip(given, batches, strict=True))
    feed.look()


def test_what_is_wrong_is_found_from_another_stream(batches: list[ig.Batch]) -> None:
    batches[7].dense[3, 2] = float("nan")
    feed = Feed(iter(batches), RECIPE)
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(12):
            next(feed)
    with pytest.raises(DataError, match=r'dense feature "I3": expected finite numbers, found nan; .* \(batch 8 of'):
        feed.look()


def test_auto_takes_the_gpu_and_sets_its_precision() -> None:
    with joined("auto") as place:
        assert (place.device, place.placement) == (torch.device("cuda", 0), 1.0)
        for tf32, precision in ((True, "high"), (False, "highest")):
            build(RECIPE, ModelConfig(embedding_dim=4, bottom_mlp=(8,), top_mlp=(8,), tf32=tf32), 0, place)
            assert torch.get_float32_matmul_precision() == precision
