from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggprune.errors import FormatError
from ggprune.model.gguf import read_gguf
from ggprune.model.metadata import ValueType, array, scalar, string
from ggprune.model.model import open_model
from tests.conftest import TINY
from tests.gguf_files import (
    ARR,
    BOOL,
    F32,
    I32,
    STR,
    U32,
    FakeTensor,
    build,
    kv,
    kv_array,
    kv_str,
    kv_u32,
    layer_tensors,
    llama_kvs,
    text,
)


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return path


def test_reads_what_gguf_py_reads() -> None:
    ours, theirs = read_gguf(TINY), gguf.GGUFReader(TINY)
    assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert mine.type.id == int(other.tensor_type)
        assert mine.shape == tuple(int(n) for n in other.shape)
        assert (mine.offset, mine.size_bytes) == (other.data_offset, other.n_bytes)
    fields = {k: f for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, field in fields.items():
        assert ours.metadata[key].decode() == field.contents()


@pytest.mark.parametrize("version", [2, 3])
def test_reads_version_2_and_3(tmp_path: Path, version: int) -> None:
    model = open_model(write(tmp_path, build(llama_kvs(2), layer_tensors(2), version=version)))
    assert (model.arch, model.n_layer, len(model.layers)) == ("llama", 2, 2)


def test_values_of_every_kind_are_decoded(tmp_path: Path) -> None:
    inner = struct.pack("<IQ", I32, 2) + struct.pack("<2i", -1, 7)
    kvs = [
        kv_array("empty", STR, 0, b""),
        kv_array("words", STR, 2, text("a") + text("b")),
        kv_array("nested", ARR, 1, inner),
        kv_array("flags", BOOL, 3, b"\1\0\1"),
        kv("half", F32, struct.pack("<f", 0.5)),
        kv_str("broken", b"\xff\xfe"),
    ]
    metadata = read_gguf(write(tmp_path, build(kvs))).metadata
    decoded = {key: value.decode() for key, value in metadata.items()}
    assert decoded["empty"] == []
    assert decoded["words"] == ["a", "b"]
    assert decoded["nested"] == [[-1, 7]]
    assert decoded["flags"] == [True, False, True]
    assert decoded["half"] == 0.5
    assert decoded["broken"].encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_encoding_is_the_inverse_of_decoding() -> None:
    for value, plain in (
        (scalar(ValueType.INT16, -3), -3),
        (scalar(ValueType.BOOL, True), True),
        (string("naïve \udcff"), "naïve \udcff"),
        (array(ValueType.STRING, ["x", ""]), ["x", ""]),
        (array(ValueType.UINT64, [1 << 40]), [1 << 40]),
    ):
        assert value.decode() == plain


def test_select_keeps_the_element_type() -> None:
    value = array(ValueType.UINT16, [5, 6, 7, 8]).select([0, 3])
    assert (value.element_type, value.decode()) == (ValueType.UINT16, [5, 8])


def test_a_number_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(FormatError, match="300 does not fit into UINT8"):
        scalar(ValueType.UINT8, 300)


GOOD = build(llama_kvs(1), layer_tensors(1))
EVIL = {
    "empty": (b"", "empty file"),
    "not a GGUF": (b"PK\3\4" + bytes(100), "not a GGUF file"),
    "version 1": (build([], version=1), "version 1"),
    "version 9": (build([], version=9), "version 9"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian"),
    "cut in the header": (GOOD[:40], "truncated"),
    "cut in the data": (GOOD[:-64], "truncated"),
    "too many tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 0), "damaged header"),
    "too many values": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60), "damaged header"),
    "huge string": (build([struct.pack("<Q", 1 << 62)]), "truncated or damaged"),
    "huge array": (build([kv_array("a", U32, 1 << 61, b"")]), "truncated"),
    "unknown value type": (build([kv("a", 99, b"")]), "metadata value a"),
    "deep nesting": (
        build([kv("a", ARR, struct.pack("<IQ", ARR, 1) * 20)]),
        "nested deeper",
    ),
    "same key twice": (build([kv_u32("a", 1), kv_u32("a", 1)]), "a appears twice"),
    "same tensor twice": (
        build([], [FakeTensor("t", bytes(32)), FakeTensor("t", bytes(32))]),
        "t appears twice",
    ),
    "unknown tensor type": (
        build([], [FakeTensor("t", bytes(32), type=77)]),
        "type 77, which is not known; a newer gguf package may know it",
    ),
    "ik_llama.cpp": (
        build([], [FakeTensor("t", bytes(32), type=137)]),
        "type 137, one of ik_llama.cpp; llama",
    ),
    "BitNet": (build([], [FakeTensor("t", bytes(32), type=36)]), "type 36, one of BitNet"),
    "removed": (
        build([], [FakeTensor("t", bytes(32), type=31)]),
        "repacked Q4_0, which llama.cpp has remo",
    ),
    "zero dimension": (build([], [FakeTensor("t", bytes(32), shape=(0,))]), "shape"),
    "five dimensions": (
        build([], [FakeTensor("t", bytes(32), shape=(1, 1, 1, 1, 8))]),
        "5 dimensions",
    ),
    "half a block": (
        build([], [FakeTensor("t", bytes(32), shape=(33,), type=12)]),
        "row of 33",
    ),
    "odd alignment": (build([kv_u32("general.alignment", 48)]), "power of two"),
}


@pytest.mark.parametrize("name", EVIL)
def test_evil_files_give_one_clear_error(tmp_path: Path, name: str) -> None:
    data, reason = EVIL[name]
    with pytest.raises(FormatError, match=reason) as caught:
        read_gguf(write(tmp_path, data))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
@pytest.mark.parametrize("name", ["sound", "truncated", "no GGUF"])
def test_nothing_stays_mapped_or_open(tmp_path: Path, name: str) -> None:
    """Where a file is in use, Windows neither replaces nor removes it."""
    data = TINY.read_bytes()[:200_000]
    path = write(tmp_path, {"sound": TINY.read_bytes(), "truncated": data, "no GGUF": b"x"}[name])
    kept: list[object] = []
    try:
        kept.append(open_model(path))
    except FormatError as e:
        kept.append(e)  # and with it all that its frames hold
    assert str(path) not in Path("/proc/self/maps").read_text("utf-8")
    assert str(path) not in {str(fd.resolve()) for fd in Path("/proc/self/fd").iterdir()}
    assert kept


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    data = bytearray(build([], [FakeTensor("a", bytes(32)), FakeTensor("b", bytes(32))]))
    data[data.index(b"b" + struct.pack("<I", 1)) + 17 :][:8]
    at = data.index(struct.pack("<IQ", 0, 32), 24) + 4
    data[at : at + 8] = struct.pack("<Q", 0)
    with pytest.raises(FormatError, match="overlap"):
        read_gguf(write(tmp_path, bytes(data)))


def test_no_single_damaged_byte_of_the_header_escapes(tmp_path: Path) -> None:
    """Whatever is damaged, the answer is a FormatError or a model, never another exception."""
    rng = np.random.default_rng(0)
    path = tmp_path / "model.gguf"
    for _ in range(1500):
        data = bytearray(GOOD)
        data[rng.integers(len(data) - 128)] = rng.integers(256)
        path.write_bytes(data)
        try:
            model = open_model(path)
            _ = model.arch, model.layers, model.fingerprint
        except FormatError:
            pass


def test_a_file_of_40_gb_is_opened_without_reading_it(tmp_path: Path) -> None:
    n = 10 << 30
    path = tmp_path / "large.gguf"
    head = build(llama_kvs(1), [FakeTensor("blk.0.attn_q.weight", b"", shape=(1024, n // 1024))])
    with path.open("wb") as file:  # sparse: takes no space
        file.write(head)
        file.truncate(len(head) + 4 * n)
    model = open_model(path)
    assert model.size_bytes > 40e9
    assert model.n_param == n
    assert model.known_fingerprint is None
