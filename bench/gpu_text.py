"""Criteo's text on a device: from bytes in page-locked memory to columns that stay there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bench import names
from bench.harness import Case, CheckError, Engine
from intune_gpu.core.buffers import BufferPool
from intune_gpu.engine.gpu.columns import DeviceChunk
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.text import TextOnDevice
from intune_gpu.recipe.ready import CRITEO_COLUMNS, CRITEO_DENSE, CRITEO_SPARSE
from intune_gpu.sources.text_decode import ChunkDecoder, Layout, Scratch
from intune_gpu.sources.text_format import TextFormat

LINES, TINY_LINES = 1 << 14, 50
COPIES, TINY_COPIES = (1, 16), (1, 2)
"""Of the lines in a chunk: 4 MiB as files are cut, and more, where starting costs less."""
DISTINCT = 97


def text(device: Device, tiny: bool, seed: int) -> Iterator[Case]:
    """Yield chunks of click logs as text, read on the device beside the CPU's parser with one thread."""
    lines = click_lines(TINY_LINES if tiny else LINES, seed)
    types = {"label": "int64"} | dict.fromkeys(CRITEO_DENSE, "int64") | dict.fromkeys(CRITEO_SPARSE, "hex32")
    layout = Layout(tuple(CRITEO_COLUMNS), types, "label", TextFormat("\t"))
    for copies in TINY_COPIES if tiny else COPIES:
        yield _case(device, layout, np.frombuffer(lines * copies, np.uint8), (TINY_LINES if tiny else LINES) * copies)


def _case(device: Device, layout: Layout, chunk: npt.NDArray[np.uint8], rows: int) -> Case:
    parser, scratch, pool = TextOnDevice(device, layout, slots=1), Scratch(), BufferPool()

    def there() -> DeviceChunk:
        return parser.parse(chunk, rows, 1, "bench")

    def here() -> ChunkDecoder:
        memory = scratch.text(len(chunk), len(layout.names))
        memory[: len(chunk)] = chunk
        return ChunkDecoder(memory, len(chunk), layout, scratch, pool)

    def check() -> list[str]:
        found, expected = there(), here().decode(rows, 1, "bench")
        device.mark().wait()
        for name, column in expected.columns.items():
            values = found.columns[name].values.cpu().numpy().view(column.values.dtype)
            if not np.array_equal(values, column.values):
                raise CheckError(f"text: column {name} differs between the device and the CPU")
        return [f"{len(expected.columns)} columns of {rows:,} rows: the same on the device and on the CPU"]

    engines = [
        Engine(names.OURS, "ours", "copy to page-locked memory, to the device, columns there, waited for", there),
        Engine(
            "CPU parser", "peer", "the same text, 1 thread, columns in host memory", lambda: here().decode(rows, 1, "")
        ),
    ]
    details = {"text_bytes": float(len(chunk))}
    return Case("text", f"chunk of {len(chunk) / 2**20:.1f} MiB", 1, rows, engines, check, details)


def click_lines(rows: int, seed: int) -> bytes:
    """Return Criteo's lines: label, 13 integers, 26 ids of 8 hex digits, a tenth of all fields missing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    numbers = rng.geometric(0.02, (rows, len(CRITEO_DENSE))) - 2
    ids = rng.integers(0, 2**32, (DISTINCT, len(CRITEO_SPARSE)))[rng.integers(0, DISTINCT, rows)]
    missing = rng.random((rows, len(CRITEO_DENSE) + len(CRITEO_SPARSE))) < 0.1
    out = []
    for label, own, hashed, gone in zip(labels, numbers, ids, missing, strict=True):
        fields = [str(n) for n in own] + [f"{i:08x}" for i in hashed]
        out.append("\t".join([str(label), *("" if g else f for f, g in zip(fields, gone, strict=True))]))
    return ("\n".join(out) + "\n").encode()
