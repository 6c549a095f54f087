"""The jobs of the suite `gpu` that need kernels only: the fused transform, strings and lists, against what bounds them.

Columns lie on the device before the clock runs, as they were packed for it, and outputs are used again: what is timed
is what a batch costs the device. Every kernel's result is compared with the CPU's, bit for bit, before that.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from bench import gpu_peers, names
from bench.checks import check_equal, exact_output
from bench.clicks import DENSE, NUM_BUCKETS, SPARSE, Clicks, click_recipe, random_clicks
from bench.gpu_clock import is_gpu
from bench.gpu_launches import Launches, differing, hashed, ids, numbers
from bench.harness import Case, CheckError, Engine
from intune_gpu.core.columns import STRING, Addresses, FlatColumn
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.lists import ListPart
from intune_gpu.engine.gpu.parts import Part
from intune_gpu.recipe import Clip, FillMissing, Log1p

ROWS = (1 << 12, 1 << 16, 1 << 20, 1 << 22)
COMPILED_ROWS = 1 << 20
"""Where torch.compile is tried: it takes seconds for each size."""
TINY_ROWS = (257, 1 << 10)
INDEXES = ("int32", "int64")
MAX_RELATIVE = 1e-6
"""Of the peers' dense values: their log1p is another one."""
CHECKED_ROWS = 1 << 14
"""Rows that are compared with NumPy's too; all are compared with the CPU's kernels."""


def launches_of(device: Device, clicks: Clicks, rows: int, index: str, seed: int) -> Launches:
    """Return the fused transform of the first rows of click logs."""
    columns: Mapping[str, FlatColumn] = {name: c.slice(0, rows) for name, c in clicks.raw().columns.items()}
    table, chain = Addresses.of(columns), [FillMissing(0.0), Clip(min=0.0), Log1p()]
    kind = clicks.ids[0].dtype.name
    parts: list[Part] = [
        numbers("label", device, table, "int32", [("label", ())]),
        numbers("dense", device, table, "int32", [(name, chain) for name in DENSE]),
        ids("hash", device, table, hashed(kind, SPARSE, 0, NUM_BUCKETS, seed)),
    ]
    return Launches(device, columns, rows, parts, len(DENSE), len(SPARSE), index)


def transform(device: Device, tiny: bool, seed: int, skipped: dict[str, str]) -> Iterator[Case]:
    """Yield the fused transform over numbers of rows and types of ids."""
    sizes = TINY_ROWS if tiny else ROWS
    clicks = random_clicks(max(sizes), "int32", seed)
    recipe_seed = click_recipe(seed).seed
    for rows in sizes:
        for index in INDEXES:
            yield _transform(device, clicks, rows, index, recipe_seed, skipped)


def _transform(device: Device, clicks: Clicks, rows: int, index: str, seed: int, skipped: dict[str, str]) -> Case:
    launches = launches_of(device, clicks, rows, index, seed)
    written = 4 * len(DENSE) + 4 + np.dtype(index).itemsize * len(SPARSE)
    moved = int((clicks.row_nbytes + written) * rows)
    engines = [
        Engine(names.OURS, "ours", "three launches on columns that are there; null bits read as bits", launches.launch),
        copy_engine(device, moved),
    ]
    peers = _peers(device, clicks, rows, index, seed, skipped)
    engines += [
        Engine(name, "peer", note, lambda work=work: device.transform(work))  # type: ignore[misc]
        for name, (note, work) in peers.items()
    ]

    def check() -> list[str]:
        found = [check_launches(launches)]
        made = launches.flight.out
        first = min(rows, CHECKED_ROWS)
        wanted = exact_output(clicks, 0, first, seed)
        values = made.values.cpu().numpy().reshape(len(SPARSE), rows)
        check_equal(names.OURS, "ids", values[:, :first].astype(np.int64), wanted.ids)
        check_equal(names.OURS, "labels", made.label.cpu().numpy()[:first], wanted.label)
        for name, (_, work) in peers.items():
            found.append(_check_peer(device, name, work, made.dense.cpu().numpy(), values))
        return found

    details = {"moved_bytes": float(moved), "written_bytes_per_row": float(written)}
    return Case("transform", f"{names.ids('int32', index)}, {rows:,} rows", 1, rows, engines, check, details)


def _peers(
    device: Device, clicks: Clicks, rows: int, index: str, seed: int, skipped: dict[str, str]
) -> dict[str, tuple[str, Callable[[], gpu_peers.Made]]]:
    """Return name → (note, job) of the peers that are installed."""
    given = gpu_peers.inputs(clicks, rows, seed, device.where)
    kind = torch.int32 if index == "int32" else torch.int64
    note = "one matrix a kind, missing as bools; ids equal, dense within 1e-6"
    peers: dict[str, tuple[str, Callable[[], gpu_peers.Made]]] = {}
    xp: ModuleType | None = np
    if is_gpu(device):
        xp = _imported("cupy")
    if xp is None:
        skipped["CuPy"] = "cupy cannot be imported"
    else:
        peers[names.CUPY if xp is not np else "NumPy in CuPy's place"] = note, gpu_peers.cupy_job(xp, given, index)
    peers[names.TORCH] = note, gpu_peers.torch_eager(given, kind)
    if not is_gpu(device) or importlib.util.find_spec("triton") is None:
        skipped["torch.compile"] = "it needs triton and a GPU"
    elif rows == COMPILED_ROWS:
        peers[names.COMPILED] = note, gpu_peers.torch_compiled(given, kind)
    return peers


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):
        return None


def _check_peer(
    device: Device, name: str, work: Callable[[], gpu_peers.Made], dense: np.ndarray[Any, Any], values: Any
) -> str:
    results: list[gpu_peers.Made] = []
    device.transform(lambda: results.append(work()))
    device.mark().wait()
    made = results[0]
    check_equal(name, "ids", gpu_peers.host_array(made.ids), values)
    found = gpu_peers.host_array(made.dense)
    if found.shape != dense.shape:
        raise CheckError(f"{name}: dense: expected the shape {dense.shape}, found {found.shape}")
    furthest = float((np.abs(found - dense) / np.maximum(np.abs(dense), 1e-30)).max())
    if not furthest <= MAX_RELATIVE:
        raise CheckError(f"{name}: dense: expected at most {MAX_RELATIVE} off, found {furthest:.3g}")
    return f"{name}: ids equal bit for bit, dense within {furthest:.2g} of ours"


def check_launches(launches: Launches) -> str:
    """Compare what is launched with the CPU's loops.

    Raises:
        CheckError: a bit differs.
    """
    wrong = differing(launches.launched(), launches.taken_over())
    if wrong:
        raise CheckError(f"{names.OURS}: launched against the CPU: {'; '.join(wrong)}")
    return f"{names.OURS}: {launches.flight.rows} rows equal the CPU's, bit for bit"


def copy_engine(device: Device, moved: int) -> Engine:
    """Return a copy on the device that reads and writes so many bytes in all."""
    source, target = device.empty(max(1, moved // 2)), device.empty(max(1, moved // 2))
    note = "a copy on the device that reads and writes as many bytes in all"
    return Engine(names.COPY, "bound", note, lambda: device.transform(lambda: target.copy_(source)))


def strings(device: Device, tiny: bool, seed: int, skipped: dict[str, str]) -> Iterator[Case]:
    """Yield hashes of 4 columns of strings of 0 to 16 and of 0 to 100 bytes."""
    rows, rng = 301 if tiny else 1 << 20, np.random.default_rng(seed)
    for longest in (16, 100):
        columns = {name: _strings(rng, rows, longest) for name in "abcd"}
        part = ids("hash", device, Addresses.of(columns), hashed(STRING, "abcd", 0, NUM_BUCKETS, seed))
        launches = Launches(device, columns, rows, [part], features=4)
        yield _simple("strings", f"4 columns of 0 to {longest} bytes", launches, 8 * 4 * rows)


def lists(device: Device, tiny: bool, seed: int, skipped: dict[str, str]) -> Iterator[Case]:
    """Yield hashes of a column of lists of 0 to 20 integers, all of them and the first 5."""
    rows, rng = 301 if tiny else 1 << 20, np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 21, rows))]).astype(np.int64)
    values = rng.integers(-(2**62), 2**62, int(offsets[-1]))
    columns = {"a": FlatColumn(values, row_offsets=offsets)}
    for k in (None, 5):
        part = ListPart("list a", hashed("int64", "a", 0, NUM_BUCKETS, seed), k, device)
        launches = Launches(device, columns, rows, [part], features=1)
        written = 8 * launches.flight.total + 4 * rows
        yield _simple("lists", f"0 to 20 integers, {'all' if k is None else f'first {k}'}", launches, written)


def _simple(section: str, name: str, launches: Launches, written: int) -> Case:
    read = sum(launches.flight.raw.columns[n].nbytes for n in launches.flight.raw.columns)
    engines = [
        Engine(names.OURS, "ours", "launches on columns that are there", launches.launch),
        copy_engine(launches.device, read + written),
    ]
    details = {"moved_bytes": float(read + written)}
    return Case(section, name, 1, launches.flight.rows, engines, lambda: [check_launches(launches)], details)


def _strings(rng: np.random.Generator, rows: int, longest: int) -> FlatColumn:
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, longest + 1, rows))]).astype(np.int64)
    missing = np.packbits(rng.random(rows) >= 0.1, bitorder="little")
    return FlatColumn(rng.integers(97, 123, int(offsets[-1]), np.uint8), missing, 0, offsets)
