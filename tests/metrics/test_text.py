from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError
from ggprune.files.reading import TextErrors
from ggprune.metrics.chunks import Chunks, make_chunks, n_scored
from ggprune.metrics.text import CALIBRATION, EVALUATION, Text, read_text, shipped_text


def letters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def test_text_is_cut_into_whole_chunks() -> None:
    chunks = make_chunks(Text("x", "abcdefghijk"), letters, 4).tokens
    assert chunks.shape == (2, 4)
    assert bytes(chunks.astype(np.uint8)) == b"abcdefgh"
    assert make_chunks(Text("x", "abcdefghijklm"), letters, 4, 1).tokens.shape == (1, 4)


def test_the_second_half_is_scored() -> None:
    assert [n_scored(n) for n in (512, 8, 9)] == [255, 3, 4]


def test_a_chunk_knows_what_is_scored() -> None:
    for n_ctx in (8, 9):
        (chunk,) = Chunks(np.arange(n_ctx, dtype=np.int32)[None, :])
        assert n_scored(n_ctx) == chunk.n_output - 1 == len(chunk.targets)
        rows = np.arange(n_ctx, dtype=np.float32)[:, None]  # of all tokens, or of those asked for
        for known in (rows, rows[n_ctx - chunk.n_output :]):
            assert np.array_equal(chunk.scored(known)[:, 0] + 1, chunk.targets)


def test_groups_of_chunks_keep_their_numbers() -> None:
    chunks = Chunks(np.arange(20, dtype=np.int32).reshape(5, 4))
    groups = list(chunks.groups(2))
    assert [group.tokens.shape for group in groups] == [(2, 4), (2, 4), (1, 4)]
    assert [chunk.number for group in groups for chunk in group] == [0, 1, 2, 3, 4]
    assert groups[1][-1].number == chunks[3].number == chunks[2:][1].number == 3
    assert groups[1][0].tokens.tolist() == [8, 9, 10, 11]
    with pytest.raises(IndexError):
        chunks[5]


def test_too_little_text_is_an_error() -> None:
    with pytest.raises(DataError, match="gives 7 tokens, at least 8 are needed"):
        make_chunks(Text("x", "abcdefg"), letters, 4)


def test_all_chunks_where_more_are_asked_for() -> None:
    assert len(make_chunks(Text("x", "abcdefgh"), letters, 4, 3)) == 2
    assert len(make_chunks(Text("x", "abcdefghijklm"), letters, 4, 2)) == 2


def test_one_final_line_break_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("a\n\n")
    assert read_text(path).content == "a\n"


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    cases = ((b"", "empty"), (b" \n", "empty"), (b"ab\xff", "UTF-8 text: byte 2 is 0xff"))
    for content, reason in cases:
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            read_text(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path / "missing")


def test_a_text_that_was_cut_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("ab \u20ac".encode()[:-1])
    with pytest.raises(DataError, match="cut inside the character that begins at byte 3, at its"):
        read_text(path)
    assert read_text(path, TextErrors.REPLACE).content == "ab \ufffd"


def test_the_shipped_texts_are_two_different_ones() -> None:
    calibration, evaluation = shipped_text(CALIBRATION), shipped_text(EVALUATION)
    assert calibration.sha256 != evaluation.sha256
    assert len(calibration.content.split()) > 4000
    assert len(evaluation.content.split()) > 2000
    lines = [set(t.content.splitlines()) for t in (calibration, evaluation)]
    shared = {line for line in lines[0] & lines[1] if len(line) > 40}
    assert not shared
