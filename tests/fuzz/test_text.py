"""Random files, a little of what `make fuzz` does for long."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import SEED
from tests.fuzz import __main__, bulk, lines
from tests.fuzz.compare import check_loader, check_source
from tests.fuzz.lines import CRITEO, MIXED, Fuzzed


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_short_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    counts = bulk.run(seed=SEED, fields=600_000, seconds=60, rows=3_000)
    assert counts.differences == []
    assert counts.fields >= 600_000
    assert counts.loader_files > 0
    assert len(counts.bad_rows) > 4  # kinds of fault
    assert json.loads(json.dumps(asdict(counts)))["bad_rows"] == counts.bad_rows


FIELD = st.one_of(
    st.sampled_from([*lines.ODD_INTEGERS, *lines.ODD_HEX, *lines.ODD_FLOATS, *lines.ODD_STRINGS, *lines.ODD_QUOTES]),
    st.integers(-(2**66), 2**66).map(lambda v: b"%d" % v),
    st.floats().map(lambda v: repr(v).encode()),
    st.binary(max_size=10),
    st.just(b""),
)


@settings(max_examples=300)
@given(
    rows=st.lists(st.lists(FIELD, min_size=6, max_size=6) | st.lists(FIELD, max_size=8), min_size=1, max_size=8),
    quoted=st.booleans(),
    end=st.sampled_from([b"\n", b"\r\n", b"\r\r\n"]),
    chunk_bytes=st.sampled_from([1, 7, 100, 1 << 16]),
    junk=st.binary(max_size=6),
)
@example(rows=[[b"1", b"", b"", b"", b'"', b""]], quoted=True, end=b"\n", chunk_bytes=1, junk=b"")
def test_any_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[bytes]],
    quoted: bool,
    end: bytes,
    chunk_bytes: int,
    junk: bytes,
) -> None:
    delimiter = b"," if quoted else b"\t"
    content = end.join(delimiter.join(row) for row in rows) + junk
    file = Fuzzed(content, MIXED, delimiter, quoted, chunk_bytes)
    check_source(file, tmp_path_factory.getbasetemp() / "any.txt")


@pytest.mark.parametrize("name", sorted(p.name for p in (Path(__file__).parent / "corpus" / "text").iterdir()))
def test_the_corpus(tmp_path: Path, name: str) -> None:
    from tests.fuzz.guided import text_of

    file = text_of((Path(__file__).parent / "corpus" / "text" / name).read_bytes())
    check_source(file, tmp_path / "a.tsv")


def test_a_miscount_is_found(tmp_path: Path) -> None:
    """The comparison itself: a file whose rows are not those that are parsed."""
    file = lines.Writer(SEED, 50).file()
    parsed, _ = check_source(file, tmp_path / "a.tsv")
    whole = Fuzzed(b"\t".join([b"1"] * 40) + b"\n", CRITEO, b"\t", False, 1 << 16)
    parsed, _ = check_source(whole, tmp_path / "a.tsv")
    (tmp_path / "a.tsv").write_bytes(whole.content * 2)
    with pytest.raises(AssertionError, match="counts: expected"):
        check_loader(whole, tmp_path / "a.tsv", parsed, batch_size=8)


def test_make_fuzz_writes_its_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert __main__.main(__main__.Config(fields=1_000, seconds=0.0, seed=SEED)) == 0
    assert json.loads(Path("fuzz.json").read_text())["random_files"]["files"] == 0  # no time, no files
