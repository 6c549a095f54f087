"""The shared edge table: one column per physical type and awkward shape, as Arrow arrays.

Whatever an implementation may trip over stands here once, so that each of them is tried on all of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

ROWS = (1, 7, 31, 33, 255, 257, 1000)
"""Row counts that no block divides: around bitmap bytes, 32-row words and cache blocks."""

INTEGERS = tuple(np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64))
NUMBERS = (*(dtype.name for dtype in INTEGERS), "bool", "float32", "float64")
TEXTS = ("string", "binary")
LISTS = ("list<int32>", "list<int64>", "list<uint64>", "list<string>", "large_list<int64>")
OTHERS = (
    "float16",
    "large_string",
    "large_binary",
    "string_view",
    "binary_view",
    "dictionary<string>",
    "dictionary<int64>",
    "list<bool>",
    "list<dictionary<string>>",
    "fixed_size_list<int64>",
)

ARROW = {
    **{dtype.name: pa.from_numpy_dtype(dtype) for dtype in INTEGERS},
    "bool": pa.bool_(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "large_string": pa.large_string(),
    "large_binary": pa.large_binary(),
    "string_view": pa.string_view(),
    "binary_view": pa.binary_view(),
    "dictionary<string>": pa.dictionary(pa.int32(), pa.string()),
    "dictionary<int64>": pa.dictionary(pa.int8(), pa.int64()),
    "list<int32>": pa.list_(pa.int32()),
    "list<int64>": pa.list_(pa.int64()),
    "list<uint64>": pa.list_(pa.uint64()),
    "list<string>": pa.list_(pa.string()),
    "large_list<int64>": pa.large_list(pa.int64()),
    "list<bool>": pa.list_(pa.bool_()),
    "list<dictionary<string>>": pa.list_(pa.dictionary(pa.int16(), pa.string())),
    "fixed_size_list<int64>": pa.list_(pa.int64(), 3),
}


@dataclass(frozen=True)
class Edge:
    """One column.

    Attributes:
        kind: key of `ARROW`.
        shape: what is awkward about it.
        array: the data.
        nullable: whether the table's field says that it can be missing; where False, nothing is null.
    """

    kind: str
    shape: str
    array: pa.Array | pa.ChunkedArray
    nullable: bool = True

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.shape}"

    @property
    def field(self) -> pa.Field:
        return pa.field("x", self.array.type, nullable=self.nullable)

    @property
    def values(self) -> list[Any]:
        """As `naive` takes them."""
        return self.array.to_pylist()


# --------------------------------------------------------------------------------------------------------------- pools


def texts() -> list[str]:
    """Return strings of every length from 0 to 70 bytes (XXH64 turns at 4, 8 and 32), and awkward ones."""
    letters = "The quick brown fox jumps over the lazy dog; 0123456789 times, or more!"
    awkward = [
        "é",
        "日本語",
        "naïve café",
        "🎬 film",
        "\0",
        "a\0b",
        "tab\tnewline\n",
        '"quoted, comma"',
        "ß" * 16,
        "x" * 1000,
    ]
    return [letters[:n] for n in range(71)] + awkward


def integers(dtype: np.dtype) -> list[int]:
    """Return extremes, and numbers whose way to float32 is a tie, beside a tie, or wrong through float64."""
    info = np.iinfo(dtype)
    wide = [2**24 + 1, 2**24 + 3, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**60 + 2**36, 2**60 + 2**36 + 1, 2**63 - 1]
    signed = [sign * value for value in (*range(11), 100, 127, 128, 255, 256, 65535, *wide) for sign in (1, -1)]
    return [info.min, info.min + 1, info.max - 1, info.max] + [v for v in signed if info.min <= v <= info.max]


def floats(dtype: np.dtype) -> list[float]:
    """Return NaN, infinities, both zeros, denormals, both sides of -1, and ties on the way to float32."""
    info = np.finfo(dtype)
    both = [
        0.0,
        float(info.smallest_subnormal),
        float(info.tiny),
        float(info.max),
        np.inf,
        0.5,
        1.0,
        2.5,
        3.1,
        10.0,
        1e3,
    ]
    near = [float(np.nextafter(dtype.type(-1), dtype.type(d))) for d in (-2, 0)]
    small = [1e-45, 1.1754942e-38, 5e-39, 1e-30] if dtype != np.float16 else []
    double = [1e300, 1e-300, 1 + 2**-24, 1 + 3 * 2**-24, 1 + 2**-24 + 2**-50, 3.4028235677973366e38, 7e-46, 2**-150]
    every = [*both, *small, *(double if dtype == np.float64 else [])]
    return [float("nan"), *near, *every, *(-v for v in every)]


def pool(kind: str) -> list[Any]:
    """Return the values that a column of this kind is drawn from."""
    if kind == "bool":
        return [True, False]
    if kind.startswith("float"):
        return floats(np.dtype(kind))
    if "int" in kind:
        return integers(np.dtype(kind.replace("dictionary<", "").replace(">", "")))
    if "binary" in kind:
        return [t.encode()[::-1] for t in texts()] + [bytes(range(200, 256)), b"\xff", b"\0" * 9]
    return list(texts())


def element_of(kind: str) -> str:
    """Return the kind of a list's elements."""
    return kind.split("list<", 1)[1][:-1]


# -------------------------------------------------------------------------------------------------------------- arrays


def rng(*names: object) -> np.random.Generator:
    """Return a generator that depends on the names alone."""
    return np.random.default_rng(zlib.crc32(repr(names).encode()))


def draw(kind: str, rows: int, missing: float, stir: object = None) -> list[Any]:
    """Return values (lists of them, for a list kind), each missing with this probability."""
    random = rng(kind, rows, missing, stir)
    if "list<" in kind:
        lengths = random.choice([0, 1, 2, 3, 8, 40], rows, p=[0.2, 0.3, 0.2, 0.15, 0.1, 0.05])
        if kind.startswith("fixed"):
            lengths[:] = 3
        flat = iter(draw(element_of(kind), int(lengths.sum()), missing / 2, stir))
        rest = [[next(flat) for _ in range(n)] for n in lengths]
    else:
        choices = pool(kind)
        rest = [choices[i] for i in random.integers(0, len(choices), rows)]
    return [None if gone else value for gone, value in zip(random.random(rows) < missing, rest, strict=True)]


def array(kind: str, values: list[Any]) -> pa.Array:
    """Return an Arrow array of this kind; float kinds keep NaN as a value."""
    if kind == "float16":
        values = [None if v is None else np.float16(v) for v in values]
    return pa.array(values, ARROW[kind], from_pandas=False)


def everything(kind: str) -> list[Any]:
    """Return each value of the pool once, with a few missing between."""
    if "list<" in kind:
        element = pool(element_of(kind))
        if kind.startswith("fixed"):
            return [None, [None] * 3, *(element[i : i + 3] for i in range(len(element) - 2))]
        return [element, [], None, [None], [None, *element[:3], None], element[::-1], *([v] for v in element)]
    values = pool(kind)
    return [None, *values[:5], None, *values[5:], None]


def sliced(kind: str, rows: int, offset: int, missing: float = 0.2) -> pa.Array:
    """Return rows from the middle of a longer array, so that every buffer has an offset."""
    return array(kind, draw(kind, rows + offset + 5, missing, "sliced")).slice(offset, rows)


def hidden(kind: str) -> pa.Array:
    """Return an array whose missing rows hide values in the buffers."""
    full = array(kind, draw(kind, 77, 0.0, "hidden"))
    gone = rng(kind, "gone").random(77) < 0.4
    mask = pa.py_buffer(np.packbits(~gone, bitorder="little").tobytes())
    if "list<" in kind:
        full = array(kind, [row or pool(element_of(kind))[:1] for row in full.to_pylist()])
        return type(full).from_buffers(full.type, 77, [mask, full.buffers()[1]], children=[full.values])
    return pa.Array.from_buffers(full.type, 77, [mask, *full.buffers()[1:]])


def sliced_child(kind: str) -> pa.Array:
    """Return a list array whose child has an offset of its own and whose first offset is not 0."""
    child = array(element_of(kind), draw(element_of(kind), 60, 0.2, "child")).slice(9, 40)
    offsets = pa.array([3, 3, 5, 5, 17, 18, 30, 40], pa.int64() if "large" in kind else pa.int32())
    made = (pa.LargeListArray if "large" in kind else pa.ListArray).from_arrays(offsets, child)
    return made.slice(1, 5)


def chunked(kind: str) -> pa.ChunkedArray:
    """Return chunks of different lengths and offsets; one is empty, one all missing, one has nothing missing."""
    parts = [
        sliced(kind, 9, 3),
        array(kind, []),
        array(kind, [None] * 5),
        array(kind, draw(kind, 11, 0.0)),
        sliced(kind, 50, 17),
    ]
    if kind.startswith("dictionary"):  # one type, but each chunk keeps its own dictionary
        return pa.chunked_array(parts)
    return pa.chunked_array(parts, ARROW[kind])


def edges(kind: str) -> Iterator[Edge]:
    """Yield every shape of this kind."""
    yield Edge(kind, "no_rows", array(kind, []))
    yield Edge(kind, "no_rows_never_null", array(kind, []), nullable=False)
    yield Edge(kind, "everything", array(kind, everything(kind)))
    yield Edge(kind, "one_missing", array(kind, [None]))
    yield Edge(kind, "all_missing", array(kind, [None] * 33))
    yield Edge(kind, "none_missing", array(kind, draw(kind, 257, 0.0)), nullable=False)
    yield Edge(kind, "none_missing_sliced", sliced(kind, 100, 29, 0.0), nullable=False)
    for rows in ROWS:
        yield Edge(kind, f"mixed_{rows}", array(kind, draw(kind, rows, 0.2)))
    for offset in (1, 8, 13):
        yield Edge(kind, f"sliced_at_{offset}", sliced(kind, 131, offset))
    yield Edge(kind, "sliced_to_nothing", sliced(kind, 0, 13))
    yield Edge(kind, "chunked", chunked(kind))
    if kind not in OTHERS:
        yield Edge(kind, "hidden", hidden(kind))
    if "list<" in kind and not kind.startswith("fixed"):
        yield Edge(kind, "sliced_child", sliced_child(kind))


def few(kind: str) -> Iterator[Edge]:
    """Yield the shapes that say most, for kinds that only differ in how they are stored."""
    wanted = ("no_rows", "everything", "all_missing", "none_missing", "sliced_at_13", "chunked", "sliced_child")
    return (edge for edge in edges(kind) if edge.shape in wanted)


def by_kind(*kinds: str) -> list[Edge]:
    """Return the edges of these kinds, few of them where the kind is one of `OTHERS`."""
    return [edge for kind in kinds for edge in (few(kind) if kind in OTHERS else edges(kind))]
