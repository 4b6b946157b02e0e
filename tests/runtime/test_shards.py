"""Shards with names that llama.cpp does not look for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ggprune.runtime.shards import findable

NAMES = ("Model-00001-of-00002.GGUF", "Model-00002-of-00002.GGUF")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_text(name, "utf-8")
    return tmp_path / NAMES[0]


def test_they_get_other_names_for_a_while(first: Path) -> None:
    with findable(first) as found:
        assert found.name.endswith("-00001-of-00002.gguf")
        contents = sorted(path.read_text("utf-8") for path in found.parent.glob("*.gguf"))
        assert contents == list(NAMES)
    assert not found.exists()
    assert sorted(path.name for path in first.parent.iterdir()) == list(NAMES)


def test_where_case_does_not_count_they_are_found_as_they_are(first: Path) -> None:
    small = first.with_name("Model-00001-of-00002.gguf")
    if not small.exists():
        os.link(first, small)  # a system to which both are one name
    with findable(first) as found:
        assert found == small


def test_a_file_of_such_a_name_may_be_another_one(first: Path) -> None:
    small = first.with_name("Model-00001-of-00002.gguf")
    if small.exists():
        pytest.skip("case does not count here")
    small.write_text("other", "utf-8")
    with findable(first) as found:
        assert found.read_text("utf-8") == NAMES[0]


def test_other_names_are_llama_cpps_to_judge(tmp_path: Path) -> None:
    for name in ("a.gguf", "a-00001-of-00002.gguf", "A.GGUF"):
        with findable(tmp_path / name) as found:
            assert found == tmp_path / name
