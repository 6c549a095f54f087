"""Text on a GPU: the tests of `tests/engine/gpu/test_text.py` and of loaders that read text, on the device itself."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("polars")

from tests.engine.gpu import test_text as on_host
from tests.gpu.conftest import opened
from tests.shared_data import CRITEO_TINY, needs

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_host, "HostDevice", lambda *_, **__: opened("cuda"))


@needs(CRITEO_TINY)
def test_criteo() -> None:
    on_host.test_criteo()


@pytest.mark.parametrize("chunk_bytes", [1 << 14, 1 << 22])
def test_generated_clicks(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    on_host.test_generated_clicks(tmp_path, monkeypatch, chunk_bytes)


def test_every_length_of_a_field_at_every_place() -> None:
    on_host.test_every_length_of_a_field_at_every_place()


def test_slots_are_used_again() -> None:
    on_host.test_slots_are_used_again()


def test_random_files() -> None:
    on_host.test_random_files()
