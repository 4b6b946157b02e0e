"""What tells one model from another, and what is remembered of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ggprune.files import digests
from ggprune.files.cachefolder import user_cache
from ggprune.model.fingerprint import fingerprint
from ggprune.model.metadata import Value, scalar, string
from ggprune.model.model import Model, open_model
from tests.conftest import TINY

U32, F32 = open_model(TINY).metadata["llama.block_count"].type, 6


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "copy.gguf"
    shutil.copy(TINY, path)
    return path


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 1.0])
def test_every_byte_of_every_tensor_counts(tiny: Model, copy: Path, place: float) -> None:
    assert open_model(copy).fingerprint == tiny.fingerprint
    for tensor in tiny.tensors[:: len(tiny.tensors) // 6]:
        offset = tensor.offset + round(place * (tensor.size_bytes - 1))
        flip(copy, offset)
        assert open_model(copy).fingerprint != tiny.fingerprint
        flip(copy, offset)
    assert open_model(copy).fingerprint == tiny.fingerprint


SAME: dict[str, dict[str, Value | None]] = {
    "another name": {"general.name": string("other")},
    "no name": {"general.name": None},
    "a license": {"general.license": string("mit")},
    "a chat template": {"tokenizer.chat_template": string("{{ messages }}")},
    "a named chat template": {"tokenizer.chat_template.rag": string("x")},
    "a record of quantizing": {"quantize.imatrix.file": string("x")},
    "a record of ours": {"ggprune.version": string("9")},
    "a file type": {"general.file_type": scalar(U32, 99)},
}
OTHER: dict[str, dict[str, Value | None]] = {
    "another depth": {"llama.block_count": scalar(U32, 8)},
    "a key of the architecture": {"llama.rope.scaling.type": string("linear")},
    "a key that nobody knows": {"mystery.x": scalar(U32, 1)},
    "another tokenizer": {"tokenizer.ggml.pre": string("llama-bpe")},
    "another BOS": {"tokenizer.ggml.bos_token_id": scalar(U32, 7)},
    "a name that llama.cpp's tokenizer asks for": {"general.name": string("Phi-3 mini")},
    "an architecture": {"general.architecture": string("llama2")},
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_metadata_counts_where_it_can_change_a_number(tiny: Model, name: str) -> None:
    changed = {**tiny.metadata, **(SAME | OTHER)[name]}
    metadata = {key: value for key, value in changed.items() if value is not None}
    is_same = fingerprint(metadata, tiny.tensors) == tiny.fingerprint
    assert is_same == (name in SAME)


def test_order_changes_nothing_names_and_shapes_do(tiny: Model) -> None:
    metadata = dict(reversed(list(tiny.metadata.items())))
    assert fingerprint(metadata, tiny.tensors[::-1]) == tiny.fingerprint
    first, *others = tiny.tensors
    for changed in (replace(first, name="x"), replace(first, shape=first.shape[::-1])):
        assert fingerprint(tiny.metadata, [changed, *others]) != tiny.fingerprint


def age(path: Path) -> None:
    """Wait until the times of change lie so far back that the file counts as settled."""
    time.sleep(max(0.0, path.stat().st_ctime + digests.STEP_S + 0.01 - time.time()))


def edit_memory(edit: Callable[[str], str]) -> None:
    """Change what is remembered of the only file."""
    folder = user_cache()
    assert folder is not None
    (memory,) = folder.glob("digests-*.txt")
    memory.write_text(edit(memory.read_text()))


def test_a_settled_file_is_read_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "STEP_S", 0.05)
    age(copy)
    model = open_model(copy)
    assert model.known_fingerprint is None
    made = model.fingerprint
    assert open_model(copy).known_fingerprint == made
    with monkeypatch.context() as patch:
        patch.setattr(digests, "_digest", None)  # nothing is read
        assert open_model(copy).fingerprint == made
    os.utime(copy, ns=(5, 5))  # and so it is another file
    assert open_model(copy).known_fingerprint is None


def test_files_that_cannot_be_told_apart_are_not_remembered() -> None:
    """Some file systems that Windows knows number no files."""
    fields = 0o100644, 5, 1, 1, 0, 0, 10, 1, 1, 1  # mode, inode, device, ...
    assert digests._place(os.stat_result(fields), ()) is not None
    assert digests._place(os.stat_result((fields[0], 0, *fields[2:])), ()) is None


@pytest.mark.parametrize("edit", [
    lambda text: text.replace(text[0], "0" if text[0] != "0" else "1", 1),
    lambda text: text[:100], lambda _: "", lambda text: text + "\n", lambda text: "\xe9" + text,
])  # fmt: skip
def test_a_damaged_memory_is_none(
    copy: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[str], str]
) -> None:
    monkeypatch.setattr(digests, "STEP_S", 0.05)
    age(copy)
    made = open_model(copy).fingerprint
    edit_memory(edit)
    assert open_model(copy).known_fingerprint is None
    assert open_model(copy).fingerprint == made
    assert open_model(copy).known_fingerprint == made


def test_what_changed_moments_ago_is_not_remembered(copy: Path) -> None:
    assert open_model(copy).fingerprint
    assert open_model(copy).known_fingerprint is None


def test_without_a_home_it_is_read_anew(
    copy: Path, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert user_cache() is None
    assert open_model(copy).fingerprint == tiny.fingerprint
