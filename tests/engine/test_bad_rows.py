from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from intune_gpu.core.columns import BadRow
from intune_gpu.core.errors import BadRowError, DataError, TooManyBadRowsError
from intune_gpu.engine.bad_rows import BadRowBook, FoundBadRow


def found(line: int, *, file: str = "a.tsv", text: bytes = b"1\tx", column: str | None = "I1") -> FoundBadRow:
    return FoundBadRow(file, 0, BadRow(line - 1, line, column, "expected a number, found 'x'", text))


def written(folder: Path, name: str = "bad_rows.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_quarantine_writes_the_row_as_it_is(tmp_path: Path) -> None:
    book = BadRowBook("quarantine", 1.0, tmp_path / "runs" / "one")
    book.record([], None)
    assert not (tmp_path / "runs").exists()
    book.record([found(3, text="7\tgrün".encode()), found(9, text=b"\xff\x00", column=None)], None)
    first, second = written(tmp_path / "runs" / "one")  # not closed: it is on disk all the same
    assert first == {
        "file": "a.tsv",
        "line": 3,
        "column": "I1",
        "reason": "expected a number, found 'x'",
        "text": "7\tgrün",
    }
    assert base64.b64decode(second["text_base64"]) == b"\xff\x00"
    assert "text" not in second
    assert second["column"] is None
    book.close()
    book.close()


def test_no_row_is_written_twice(tmp_path: Path) -> None:
    book = BadRowBook("quarantine", 1.0, tmp_path)
    book.record([found(3), found(4)], None)
    book.record([found(4), found(3, file="b.tsv")], None)
    book.close()
    again = BadRowBook("quarantine", 1.0, tmp_path)
    again.record([found(3), found(5)], None)
    again.close()
    assert [(e["file"], e["line"]) for e in written(tmp_path)] == [
        ("a.tsv", 3),
        ("a.tsv", 4),
        ("b.tsv", 3),
        ("a.tsv", 5),
    ]


@pytest.mark.parametrize("torn", [b'{"file": "a.tsv", "line": 4, "col', b"{" * 200_000])
def test_a_line_that_a_kill_tore_is_repaired(tmp_path: Path, torn: bytes) -> None:
    book = BadRowBook("quarantine", 1.0, tmp_path)
    book.record([found(3)], None)
    book.close()
    with open(tmp_path / "bad_rows.jsonl", "ab") as file:
        file.write(torn)
    again = BadRowBook("quarantine", 1.0, tmp_path)
    again.record([found(3), found(4)], None)
    again.close()
    assert [e["line"] for e in written(tmp_path)] == [3, 4]


def test_a_file_that_is_one_torn_line(tmp_path: Path) -> None:
    (tmp_path / "bad_rows.jsonl").write_bytes(b'{"fi')
    book = BadRowBook("quarantine", 1.0, tmp_path)
    book.record([found(3)], None)
    book.close()
    assert [e["line"] for e in written(tmp_path)] == [3]


def test_ranks_have_files_of_their_own_and_know_each_other(tmp_path: Path) -> None:
    (tmp_path / "bad_rows-rank0.jsonl").write_bytes(b"not json\n[1]\n")
    books = [BadRowBook("quarantine", 1.0, tmp_path, rank, 2) for rank in range(2)]
    books[0].record([found(3)], None)
    books[1].record([found(4)], None)
    for book in books:
        book.close()
    books[1].record([found(3), found(5)], None)  # the next epoch gave rank 1 what rank 0 had
    for book in books:
        book.close()
    assert [e["line"] for e in written(tmp_path, "bad_rows-rank1.jsonl")] == [4, 5]
    assert not (tmp_path / "bad_rows.jsonl").exists()


def test_raise_names_everything(tmp_path: Path) -> None:
    book = BadRowBook("raise", 1.0, tmp_path)
    with pytest.raises(BadRowError, match=r"a\.tsv, line 3, column 'I1': expected a number.*the row is '1\\tx'"):
        book.record([found(9), found(3)], found(3))
    with pytest.raises(BadRowError, match=r"a\.tsv, line 9: expected .*\.\.\.'"):
        book.record([found(9, text=b"z" * 10_000, column=None)], None)
    assert list(tmp_path.iterdir()) == []


def test_drop_writes_nothing(tmp_path: Path) -> None:
    book = BadRowBook("drop", 1.0, tmp_path)
    book.record([found(9)], None)
    assert list(tmp_path.iterdir()) == []


def test_too_many(tmp_path: Path) -> None:
    book = BadRowBook("quarantine", 0.01, tmp_path)
    book.record([found(line) for line in range(1, 6)], None)
    book.judge(1000, 99_999, 1_000_000)
    book.judge(1001, 99_999, 1_000_000)
    book.judge(1000, 100_000, 1_000_000)
    book.judge(0, 0, 0)
    book.judge(1, 100, 100)
    book.judge(50, 60, 5000)
    with pytest.raises(TooManyBadRowsError, match=r"at most 1\.0000%.*found 1001 of 100000 \(1\.0010%\)") as info:
        book.judge(1001, 100_000, 1_000_000)
    assert "such as a.tsv:1, a.tsv:2, a.tsv:3;" in str(info.value)
    assert str(tmp_path / "bad_rows.jsonl") in str(info.value)
    assert "max_bad_fraction" in str(info.value)
    with pytest.raises(TooManyBadRowsError):
        book.judge(2, 100, 100)
    with pytest.raises(TooManyBadRowsError, match=r"found 51 of 60"):  # of 5000, not more than 50 may be
        book.judge(51, 60, 5000)
    book.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    book = BadRowBook("quarantine", 1.0, tmp_path / "file")
    with pytest.raises(DataError, match="quarantine_dir"):
        book.record([found(1)], None)


def test_what_a_full_disk_refused_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "bad_rows.jsonl"
    path.symlink_to("/dev/full")
    book = BadRowBook("quarantine", 1.0, tmp_path)
    with pytest.raises(DataError, match="expected to be able to write bad rows there, found No space left on device"):
        book.record([found(3)], None)
    book.close()
    path.unlink()
    book.record([found(3)], None)
    assert [row["line"] for row in written(tmp_path)] == [3]
    book.close()


def test_arguments() -> None:
    with pytest.raises(ValueError, match="on_bad_row: expected one of raise, drop, quarantine, found 'ignore'"):
        BadRowBook("ignore", 0.1, ".")
    with pytest.raises(ValueError, match="max_bad_fraction"):
        BadRowBook("drop", 1.5, ".")
