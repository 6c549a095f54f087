"""Every op over the edge table on a GPU, against the oracle; a few of them in host memory."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gpu.conftest import each, needs, opened

test_parity = needs("torchrec", "tests.engine.test_parity")

EDGES = {edge.name: edge for edge in test_parity.EDGES}
CROSSES = ("no_rows", "all_missing", "sliced_at_13", "none_missing", "hidden")
OPENED: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def on_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = OPENED.setdefault(kind, opened(kind))  # its kernels are loaded once
    monkeypatch.setattr(test_parity, "device", lambda: one)
    if kind == "host":
        monkeypatch.setattr(test_parity, "EVERY_CHAIN", ())
        monkeypatch.setattr(test_parity, "FEW_CHAINS", ("criteo",))


@pytest.mark.parametrize(("kind", "name"), each(EDGES, ("int32-mixed_33", "string-hidden")))
def test_every_chain_over_every_edge(name):
    test_parity.test_every_chain_over_every_edge(EDGES[name])


@pytest.mark.parametrize(("kind", "shape"), each(CROSSES, ("no_rows",)))
def test_crosses_of_edges(shape):
    test_parity.test_crosses_of_edges(shape)


@pytest.mark.parametrize(("kind", "rows"), each((0, 1, 33, 1000), ()))
def test_many_kinds_in_one_recipe(rows):
    test_parity.test_many_kinds_in_one_recipe(rows)


@pytest.mark.parametrize(("kind", "rows"), each(test_parity.edges.ROWS, ()))
def test_crosses_of_every_pair_of_kinds(rows):
    test_parity.test_crosses_of_every_pair_of_kinds(rows)


@pytest.mark.parametrize(("kind", "text"), each(("string", "binary", "dictionary<string>"), ("string",)))
def test_hex32_of_text(text):
    test_parity.test_hex32_of_text(text)


def test_ids_as_int32():
    test_parity.test_ids_as_int32()
