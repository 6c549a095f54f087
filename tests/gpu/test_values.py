"""Every kernel over random values of every type: launched, and by the CPU's loops, to the same bits.

10 million values of each on a GPU; a few in host memory. Nothing here needs TorchRec.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import gpu_launches
from intune_gpu.core.columns import STRING, Addresses
from intune_gpu.engine.gpu import constants
from intune_gpu.engine.gpu.lists import ListPart
from intune_gpu.engine.gpu.parts import BinsPart
from intune_gpu.engine.groups import IdGroup, NumericGroup
from intune_gpu.kernels import hashing, hashing_cuda
from intune_gpu.recipe import Bucketize, Clip, FillMissing, Log1p, Scale
from tests.gpu import values
from tests.gpu.conftest import each

CHAINS = {
    "criteo": [FillMissing(0.0), Clip(min=0.0), Log1p()],
    "scaled": [Clip(-1e30, 1e30), Scale(0.1, 3.7), FillMissing(-0.0)],
    "binned": [FillMissing(1.0), Bucketize([-1e9, -2.5, -0.0, 1e-45, 0.5, 3.1, 100.0, 2.0**31])],
}
TWO_BIG = 2**31 - 5
COUNTS = 1001, 5_000_000
"""Rows of each of two columns: in host memory, and on a GPU."""


def check(launches):
    assert gpu_launches.differing(launches.launched(), launches.taken_over()) == []


def two(rng, physical, rows):
    return {name: values.column(rng, physical, rows) for name in "ab"}


@pytest.mark.parametrize(("kind", "physical"), each(values.NUMBERS, ("int32", "float32")))
def test_dense_chains(device, size, rng, physical):
    columns = two(rng, physical, rows := size(*COUNTS))
    table = Addresses.of(columns)
    for name, ops in CHAINS.items():
        part = gpu_launches.numbers(name, device, table, physical, [("a", ops), ("b", ops)])
        check(gpu_launches.Launches(device, columns, rows, [part], width=2))


@pytest.mark.parametrize("index", ["int64", "int32"])
@pytest.mark.parametrize(("kind", "physical"), each(values.NUMBERS[:8], ("int32", "uint64")))
def test_hashes_and_modulo(device, size, rng, physical, index):
    columns = two(rng, physical, rows := size(*COUNTS))
    table = Addresses.of(columns)
    group = gpu_launches.hashed(physical, "ab", 0, TWO_BIG, 2**64 - 1)
    divisors = np.array([7, 2**31 - 1], np.uint64 if physical == "uint64" else np.int64)
    parts = [
        gpu_launches.ids("hash", device, table, group),
        gpu_launches.ids("modulo", device, table, IdGroup(("b", "a"), np.array([2, 3]), physical, divisors)),
    ]
    check(gpu_launches.Launches(device, columns, rows, parts, features=4, index=index))


@pytest.mark.parametrize(("kind", "physical"), each(("int32", "float32", "float64"), ("float32",)))
def test_bins(device, size, rng, physical):
    columns = two(rng, physical, rows := size(*COUNTS))
    chains = [(0, "b", [*CHAINS["binned"]])]
    part = BinsPart("bins", 0, NumericGroup.build(physical, chains), Addresses.of(columns), device)
    check(gpu_launches.Launches(device, columns, rows, [part], features=1))


@pytest.mark.parametrize("index", ["int64", "int32"])
def test_strings(device, size, rng, index):
    columns = {"a": values.strings(rng, rows := size(301, 5_000_000)), "b": values.strings(rng, rows, longest=8)}
    group = gpu_launches.hashed(STRING, "ba", 0, TWO_BIG, 3)
    part = gpu_launches.ids("hash", device, Addresses.of(columns), group)
    check(gpu_launches.Launches(device, columns, rows, [part], features=2, index=index))


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize(("kind", "physical"), each(("int32", "int64", "uint64"), ("int64",)))
def test_lists(device, size, rng, physical, k):
    columns = {"a": values.lists(rng, physical, rows := size(301, 2_000_000))}
    divisor = np.array([77], np.uint64 if physical == "uint64" else np.int64)
    parts = [
        ListPart("list a", gpu_launches.hashed(physical, "a", 0, 1000, 0), k, device),
        ListPart("list b", IdGroup(("a",), np.array([1]), physical, divisor), k, device),
    ]
    check(gpu_launches.Launches(device, columns, rows, parts, features=2))


def test_crosses(device, size, rng):
    rows, of = size(301, 1_250_000), [[0, 1], [7, 6, 5, 4, 3, 2, 1, 0], [3]]
    words = rng.integers(0, 2**64, (8, rows), np.uint64)
    parameters = np.array([[hashing.feature_seed(name, 1), TWO_BIG - 10, 10] for name in "abc"], np.uint64)
    there, group = device.upload(torch.from_numpy(words)), constants.of_crosses(device, parameters, of)
    starts = device.upload(torch.arange(3) * rows)
    out = device.empty(8 * 3 * rows).view(torch.int64)
    places = there.data_ptr(), rows, out.data_ptr(), starts.data_ptr()
    device.launch(hashing_cuda.CROSS, rows, 3, group.address, *places, np.int64(0))
    device.mark().wait()
    wanted = np.empty((3, rows), np.int64)
    for which, own, ids in zip(of, parameters, wanted, strict=True):
        hashing.cross_cpu(words, np.array(which), own, ids)
    np.testing.assert_array_equal(out.cpu().numpy().reshape(3, rows), wanted)


def test_a_wrong_bit_is_found(device, rng):
    """The comparison itself: one id and one sign of a zero."""
    columns = two(rng, "int32", 9)
    table = Addresses.of(columns)
    parts = [
        gpu_launches.numbers("dense", device, table, "int32", [("a", CHAINS["criteo"])]),
        gpu_launches.ids("hash", device, table, gpu_launches.hashed("int32", "b", 0, 100, 0)),
    ]
    launches = gpu_launches.Launches(device, columns, 9, parts, width=1, features=1)
    one, other = launches.launched(), launches.launched()
    one.dense[3, 0], other.dense[3, 0] = 0.0, -0.0
    other.values[8] += 1
    assert [line.split(" values")[0] for line in gpu_launches.differing(one, other)] == [
        "dense: 1 of 9",
        "values: 1 of 9",
    ]
