"""Text on a device: the same columns, null bits and bad rows as the CPU's parser, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import Chunk, FlatColumn, LabelRange
from intune_gpu.core.errors import DataError
from intune_gpu.engine.gpu.columns import DeviceChunk, DeviceColumn
from intune_gpu.engine.gpu.device import DeviceMemoryError
from intune_gpu.engine.gpu.text import TextOnDevice, can_parse
from intune_gpu.sources import synthetic
from intune_gpu.sources.text import TextSource
from intune_gpu.sources.text_decode import ChunkDecoder, Layout, Scratch
from intune_gpu.sources.text_format import TextFormat
from tests.conftest import SEED
from tests.devices import HostDevice
from tests.fuzz import lines
from tests.fuzz.lines import CRITEO, MIXED
from tests.shared_data import CRITEO_TINY, needs

NUMBERS = {"label": "float64", "i": "int64", "h": "hex32", "f": "float64"}
FUZZ_S = 20.0


def layout_of(
    types: Mapping[str, str],
    label: str | None = "label",
    label_range: LabelRange | None = None,
    names: tuple[str, ...] | None = None,
    delimiter: str = "\t",
) -> Layout:
    return Layout(names or tuple(types), dict(types), label, TextFormat(delimiter), label_range)


def on_cpu(text: bytes, layout: Layout, rows: int, first_line: int = 1) -> Chunk:
    scratch = Scratch()
    memory = scratch.text(len(text), len(layout.names))
    memory[: len(text)] = np.frombuffer(text, np.uint8)
    return ChunkDecoder(memory, len(text), layout, scratch, BufferPool()).decode(rows, first_line, "a.tsv")


def rows_of(text: bytes) -> int:
    return text.count(b"\n") + (not text.endswith(b"\n"))


def back(column: DeviceColumn) -> FlatColumn:
    """A device's column in host memory."""
    validity = None if column.validity is None else column.validity.cpu().numpy()
    return FlatColumn(column.values.cpu().numpy().view(column.physical), validity)


def check_same(found: DeviceChunk, expected: Chunk) -> None:
    assert found.rows == expected.rows
    assert found.bad == expected.bad
    assert list(found.columns) == list(expected.columns)
    for name, column in expected.columns.items():
        there = back(found.columns[name])
        assert there.values.dtype == column.values.dtype
        np.testing.assert_array_equal(bits_of(there.values), bits_of(column.values), err_msg=name)
        assert (there.validity is None) == (column.validity is None), name
        if column.validity is not None:
            np.testing.assert_array_equal(there.validity, column.validity, err_msg=name)


def bits_of(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.view(np.uint64) if values.dtype == np.float64 else values


def check(text: bytes, layout: Layout, seed: int = SEED, first_line: int = 1) -> DeviceChunk:
    """Read on both sides and compare."""
    rows = rows_of(text)
    found = TextOnDevice(HostDevice(seed), layout).parse(np.frombuffer(text, np.uint8), rows, first_line, "a.tsv")
    check_same(found, on_cpu(text, layout, rows, first_line))
    return found


# --- files -----------------------------------------------------------------------------------------------------------


@needs(CRITEO_TINY)
def test_criteo() -> None:
    text = CRITEO_TINY.read_bytes()
    found = check(text, layout_of(CRITEO))
    assert (found.rows, len(found.bad)) == (1999, 0)
    assert found.columns["C1"].physical == "uint32"
    assert int(found.columns["label"].values.sum()) == 418


@needs(CRITEO_TINY)
def test_criteo_with_a_part_of_its_columns() -> None:
    types = {name: CRITEO[name] for name in ("C26", "I1", "label", "C3")}
    check(CRITEO_TINY.read_bytes(), layout_of(types, names=tuple(CRITEO)))


@pytest.mark.parametrize("chunk_bytes", [1 << 12, 1 << 22])
def test_generated_clicks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    synthetic.write_click_logs(tmp_path / "clicks", 700, format="tsv", seed=3, files=1)
    (path,) = sorted((tmp_path / "clicks").glob("*.tsv"))
    source = TextSource(
        [str(path)],
        text_format=TextFormat(),
        needed=list(CRITEO),
        types=CRITEO,
        columns=list(CRITEO),
        label="label",
        chunk_bytes=chunk_bytes,
    )
    parser = TextOnDevice(HostDevice(SEED), source.layout)
    for index in range(len(source.chunks)):
        raw = source.raw(index)
        found = parser.read(raw.fill, raw.nbytes, raw.rows, raw.first_line, raw.file)
        check_same(found, source.read(index))
    source.close()


# --- rows and fields -------------------------------------------------------------------------------------------------

GOOD = b"1\t-5\tff\t0.5"
ROWS = {
    "one row": GOOD + b"\n",
    "no last newline": GOOD + b"\n" + GOOD,
    "crlf": (GOOD + b"\r\n") * 9,
    "a return alone at the end": GOOD + b"\n" + GOOD + b"\r",
    "two returns": GOOD + b"\r\r\n",
    "nothing but a newline": b"\n",
    "nothing but newlines": b"\n" * 200,
    "nothing but returns": b"\r\n\r\n\r",
    "empty fields": b"1\t\t\t\n\t\t\t\n0\t1\t\t2\n",
    "empty lines": GOOD + b"\n\n\n" + GOOD + b"\n\n",
    "too few": b"1\n1\t2\n1\t2\t3\n" + GOOD + b"\n",
    "too many": GOOD + b"\t\n" + GOOD + b"\t1\t2\t3\n" + b"\t" * 500 + b"\n" + GOOD + b"\n",
    "letters": b"x\t1\t1\t1\n1\tx\t1\t1\n1\t1\tx\t1\n1\t1\t1\tx\n1\t1 \t1\t1\n1\t1\t0x1\t1\n",
    "9 hex digits": b"1\t1\t123456789\t1\n1\t1\t12345678\t1\n1\t1\tabcdefABC\t1\n",
    "beyond int64": b"1\t9223372036854775807\t\t\n1\t9223372036854775808\t\t\n1\t-9223372036854775808\t\t\n"
    b"1\t-9223372036854775809\t\t\n1\t99999999999999999999\t\t\n1\t000000000000000000000000042\t\t\n",
    "long lines": b"1\t" + b"0" * 3000 + b"7\tff\t" + b"0" * 999 + b"1\n" + GOOD + b"\n" + b"x" * 5000 + b"\n",
    "a long last line": GOOD + b"\n" + b"1\t" + b"0" * 300 + b"5\tff\t1",
    "nul bytes": b"\0\t\0\t\0\t\0\n1\t1\0\t1\0\t1\0\n" + GOOD + b"\n\0\n",
    "bytes near newlines": b"\x0b\x09\x0b\x0a" * 40,  # a comparison with borrows would find these
    "high bytes": b"\x8a\x8a\x89\x8a\n" * 5 + GOOD + b"\n",
    "later": b"1\t1\t1\t5e-324\n1\t1\t1\t123456789012345678901234567890\n1\t1\t1\t\n12345678901234567890123\t\t\t1\n",
    "labels": b"\t1\t1\t1\nnan\t1\t1\t1\ninf\t1\t1\t1\n1e300\t1\t1\t1\n1e39\t\t\t\n3.4028235677973366e38\t\t\t\n"
    b"1\t1\t1\t1\n3.4028235677973365e38\t\t\t\n-1\t\t\t\n0.5\t\t\t\n",
    "floats": b"1\t1\t1\tinf\n1\t1\t1\t-nan\n1\t1\t1\t1e400\n1\t1\t1\t.5\n1\t1\t1\t.\n1\t1\t1\t1e\n1\t1\t1\t0x1p3\n",
}


@pytest.mark.parametrize("label_range", [None, (0.0, 1.0)])
@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str, label_range: LabelRange | None) -> None:
    check(ROWS[name], layout_of(NUMBERS, label_range=label_range), first_line=17)


@pytest.mark.parametrize("declared", ["int64", "hex32", "float64"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_fields_of_every_kind(declared: str, end: bytes) -> None:
    odd = {"int64": lines.ODD_INTEGERS, "hex32": lines.ODD_HEX, "float64": lines.ODD_FLOATS}[declared]
    fields = [field for field in [*odd, *lines.ODD_STRINGS, b"", *(b"1" * n for n in range(40))] if b"\n" not in field]
    found = check(b"".join(b"7\t" + field + end for field in fields), layout_of({"n": "int64", "x": declared}, None))
    assert 10 < len(found.bad) < len(fields) - 10
    check(b"".join(field + end for field in fields), layout_of({"x": declared}, None))
    check(b"".join(field + end for field in fields), layout_of({"x": declared}, "x"))


@pytest.mark.parametrize("label_range", [None, (0.0, 1.0), (-0.5, 0.5), (2.0, 1.0), (1e300, 1e301), (-1e19, -1e18)])
@pytest.mark.parametrize("declared", ["int64", "hex32"])
def test_labels_that_are_integers(declared: str, label_range: LabelRange | None) -> None:
    values = [*range(-2, 4), 2**53, 2**53 + 1, -(2**60), -(10**18), -(10**18) - 1, 2**63 - 1, -(2**63)]
    fields = [b"%d" % value for value in values] + [b"ffffffff", b""]
    check(
        b"".join(b"x\t" + field + b"\n" for field in fields), layout_of({"y": declared}, "y", label_range, ("a", "y"))
    )


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1031])
def test_numbers_of_rows(rows: int, rng: np.random.Generator) -> None:
    table = rng.integers(-(10**9), 10**9, (rows, 5))
    text = b"".join(b"\t".join(b"%d" % v if v % 7 else b"" for v in row) + b"\n" for row in table.tolist())
    check(text, layout_of({f"c{i}": "int64" for i in range(5)}, None))


def test_every_place_of_a_chunk_in_a_file() -> None:
    text = b"".join(b"%d\t%d\t%x\t%d.5\n" % (i % 2, 10**i, 3 * i, i) for i in range(18))
    places = [0, *(i + 1 for i, byte in enumerate(text) if byte == 10)]
    layout = layout_of(NUMBERS)
    for first, begin in enumerate(places[:-1]):
        for stop in (*places[first + 1 : first + 4], len(text), len(text) - 1):
            if stop > begin:
                check(text[begin:stop], layout, first_line=first + 1)


def test_every_length_of_a_field_at_every_place() -> None:
    """A field, its delimiter and its row's end fall on every byte of the words that are looked at."""
    layout = layout_of({"a": "int64", "b": "hex32", "c": "int64"}, None)
    for lead in range(17):
        rows = [b"0" * lead + b"1\t%s\t%s" % (b"f" * n, b"0" * n + b"7") for n in range(20)]
        check(b"\n".join(rows), layout)


def test_other_delimiters_and_many_fields() -> None:
    names = tuple(f"c{i}" for i in range(300))
    text = b"".join(b"|".join(b"%x" % (i * j) for j in range(300)) + b"\n" for i in range(20))
    check(text, layout_of(dict.fromkeys(names[3::7], "hex32"), None, None, names, "|"))
    check(b"1,2\n3\t,4\n", layout_of({"a": "int64", "b": "int64"}, "a", None, None, ","))


@pytest.mark.parametrize("seed", range(5))
def test_streams_in_any_order(seed: int) -> None:
    text = ROWS["later"] + ROWS["letters"] + ROWS["too many"]
    check(text * 3, layout_of(NUMBERS), seed)


def test_slots_are_used_again() -> None:
    parser = TextOnDevice(HostDevice(SEED), layout_of(NUMBERS), slots=1)
    for text in (ROWS["long lines"], ROWS["one row"], ROWS["letters"], ROWS["long lines"] * 20, ROWS["later"]):
        found = parser.parse(np.frombuffer(text, np.uint8), rows_of(text), 1, "a.tsv")
        check_same(found, on_cpu(text, layout_of(NUMBERS), rows_of(text)))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [1, 2, 4, 900])
def test_another_number_of_rows(counted: int) -> None:
    text = np.frombuffer((GOOD + b"\n") * 3, np.uint8)
    parser = TextOnDevice(HostDevice(SEED), layout_of(NUMBERS), slots=1)
    with pytest.raises(DataError, match=r"gone\.tsv: expected the file as it was indexed, found it changed"):
        parser.parse(text, counted, 1, "gone.tsv")
    assert parser.parse(text, 3, 1, "a.tsv").bad == ()


def test_no_room() -> None:
    parser = TextOnDevice(HostDevice(SEED, room_bytes=1000), layout_of(NUMBERS))
    with pytest.raises(DeviceMemoryError, match="no room"):
        parser.parse(np.frombuffer(GOOD, np.uint8), 1, 1, "a.tsv")


def test_what_is_read_on_the_cpu() -> None:
    assert can_parse(layout_of(CRITEO)) is None
    quoted = Layout(("a",), {"a": "int64"}, None, TextFormat(",", quoted=True))
    reasons = {
        "fields in quotes are read on the CPU": quoted,
        "string columns are read on the CPU: s, t": layout_of(MIXED),
        "no column is needed": layout_of({}, None, None, ("a",)),
        "rows of 5000 fields are read on the CPU: a device takes at most 4096": layout_of(
            {"1": "int64"}, None, None, tuple(map(str, range(5000)))
        ),
    }
    for reason, layout in reasons.items():
        assert can_parse(layout) == reason
        with pytest.raises(ValueError, match=reason):
            TextOnDevice(HostDevice(), layout)


def test_the_comparison_itself() -> None:
    """A device's chunk that differs by one bit, one null, or one bad row is told apart."""
    text = ROWS["letters"] + ROWS["empty fields"]
    for spoil in ("value", "null", "bad"):
        found, expected = check(text, layout_of(NUMBERS)), on_cpu(text, layout_of(NUMBERS), rows_of(text))
        if spoil == "value":
            found.columns["i"].values[1] += 1
        elif spoil == "null" and (bits := found.columns["h"].validity) is not None:
            bits[0] ^= 1
        else:
            found = DeviceChunk(found.columns, found.rows, found.bad[1:], found.nbytes)
        with pytest.raises(AssertionError):
            check_same(found, expected)


# --- random text -----------------------------------------------------------------------------------------------------


def test_random_files() -> None:
    writer, began, seen = lines.Writer(SEED + 1, 1500), perf_counter(), 0
    device = HostDevice(SEED)
    while seen < 12 or perf_counter() - began < FUZZ_S / 4:
        file = writer.file()
        if file.quoted or perf_counter() - began > FUZZ_S:
            continue
        seen += 1
        names = tuple(file.types)
        layout = layout_of({n: t for n, t in file.types.items() if t != "string"}, names=names)
        text = file.content.removeprefix(b"\xef\xbb\xbf") or b"\n"
        found = TextOnDevice(device, layout).parse(np.frombuffer(text, np.uint8), rows_of(text), 1, "a.tsv")
        check_same(found, on_cpu(text, layout, rows_of(text)))


FIELD = st.one_of(
    st.sampled_from([*lines.ODD_INTEGERS, *lines.ODD_HEX, *lines.ODD_FLOATS, *lines.ODD_STRINGS]),
    st.integers(-(2**66), 2**66).map(lambda v: b"%d" % v),
    st.floats().map(lambda v: repr(v).encode()),
    st.binary(max_size=10),
    st.just(b""),
)


@settings(max_examples=200)
@given(
    rows=st.lists(st.lists(FIELD, min_size=4, max_size=4) | st.lists(FIELD, max_size=6), min_size=1, max_size=8),
    end=st.sampled_from([b"\n", b"\r\n", b"\r\r\n"]),
    junk=st.binary(max_size=6),
    label_range=st.none() | st.just((0.0, 1.0)),
)
def test_any_bytes(rows: list[list[bytes]], end: bytes, junk: bytes, label_range: LabelRange | None) -> None:
    check(end.join(b"\t".join(row) for row in rows) + junk or b"\n", layout_of(NUMBERS, label_range=label_range))


def test_columns_are_tensors_of_the_device() -> None:
    found = check(ROWS["empty fields"], layout_of(NUMBERS))
    kinds = {name: (column.values.dtype, column.physical) for name, column in found.columns.items()}
    assert kinds == {
        "h": (torch.int32, "uint32"),
        "i": (torch.int64, "int64"),
        "label": (torch.float64, "float64"),
        "f": (torch.float64, "float64"),
    }
    assert found.nbytes >= sum(column.values.nbytes for column in found.columns.values())
