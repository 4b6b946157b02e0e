"""Texts from files, from standard input and out of pipes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggprune.errors import DataError
from ggprune.files.reading import (
    STDIN,
    TextErrors,
    name_of,
    read_bytes,
    read_lines,
    read_utf8,
    seekable,
)
from tests.systems import shell


@pytest.fixture
def pipe() -> Iterator[Path]:
    """What a shell makes of `<(printf content)`."""
    reader, writer = os.pipe()
    os.write(writer, b"content")
    os.close(writer)
    yield Path(f"/dev/fd/{reader}")
    os.close(reader)


def test_lines_end_as_they_like(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for content in (b"a\nb c\n\nd\n", b"a\r\nb c\r\n\r\nd\r\n", b"a\nb c\r\n\nd"):
        path.write_bytes(content)
        assert read_lines(path) == ["a", "b c", "", "d"]
    path.write_bytes(b"a\rb\n")
    assert read_lines(path) == ["a\rb"]


def test_documents_know_no_way_out_of_bad_bytes(tmp_path: Path) -> None:
    path = tmp_path / "document"
    path.write_bytes(b"a\n\xff")
    with pytest.raises(DataError, match=r"byte 2 is 0xff \(line 2\)$"):
        read_utf8(path)


def test_utf_16_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("text".encode("utf-16"))
    with pytest.raises(DataError, match=r"iconv -f UTF-16 -t UTF-8 converts it$"):
        read_utf8(path, TextErrors.STRICT)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a text")))
    assert read_bytes(STDIN) == b"a text"
    assert name_of(STDIN) == "stdin"


@shell
def test_a_pipe_is_read_as_often_as_one_likes(pipe: Path) -> None:
    with seekable(pipe) as path:
        assert [read_bytes(path, 3), read_bytes(path), path.stat().st_size] == [
            b"con", b"content", 7
        ]  # fmt: skip
        with pytest.raises(DataError, match=f"^{pipe}: not a UTF-8"), seekable(pipe) as copy:
            raise DataError(f"{copy}: not a UTF-8 text")


def test_a_file_is_itself(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with seekable(path) as same:
            assert same == path
