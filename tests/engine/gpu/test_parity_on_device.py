"""Every op over the edge table once more, on a device: the kernels' own code, compiled for the CPU, against the oracle.

Each pair of chain and type is compiled, so fewer pairs are tried than on the CPU; `make nightly` tries all of them.
"""

from __future__ import annotations

import itertools

import pytest

from tests.devices import HostDevice
from tests.engine import test_parity
from tests.engine.test_parity import (
    EDGES,
    test_crosses_of_edges,
    test_crosses_of_every_pair_of_kinds,
    test_hex32_of_integers,
    test_hex32_of_lists,
    test_hex32_of_text,
    test_ids_as_int32,
)

AGAIN = (
    test_crosses_of_edges,
    test_crosses_of_every_pair_of_kinds,
    test_hex32_of_integers,
    test_hex32_of_lists,
    test_hex32_of_text,
    test_ids_as_int32,
)


@pytest.fixture(autouse=True)
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = itertools.count()
    monkeypatch.setattr(test_parity, "device", lambda: HostDevice(next(seeds)))


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name)
def test_chains_over_every_edge(edge, monkeypatch):
    monkeypatch.setattr(test_parity, "EVERY_CHAIN", ("float32",))
    monkeypatch.setattr(test_parity, "FEW_CHAINS", ("criteo", "as_is") if edge.kind == "int32" else ("as_is",))
    test_parity.test_every_chain_over_every_edge(edge)


@pytest.mark.nightly
@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name)
def test_every_chain_over_every_edge(edge):
    test_parity.test_every_chain_over_every_edge(edge)


@pytest.mark.nightly
@pytest.mark.parametrize("rows", [0, 1, 33, 1000])
def test_many_kinds_in_one_recipe(rows):
    test_parity.test_many_kinds_in_one_recipe(rows)
