from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ggprune.errors import ArchitectureError, FormatError, VerificationError
from ggprune.files import copy as copying
from ggprune.files.system import read_at, write_at
from ggprune.model.cut import Cut, parse_units
from ggprune.model.model import Model, open_model
from ggprune.pipeline.job import Job, planned, write
from ggprune.progress import Progress
from ggprune.surgery import rewrite
from ggprune.surgery.contents import (
    DROPPED_LAYERS,
    HISTORY,
    SOURCE_BLOCK_COUNT,
    SOURCE_FINGERPRINT,
    OutTensor,
    Pruning,
    contents_of,
    prunings_of,
)
from ggprune.surgery.layout import Layout
from ggprune.surgery.plan import make_plan
from ggprune.surgery.rewrite import write_header, write_tensors
from tests.conftest import TINY
from tests.gguf_files import (
    ARR,
    BOOL,
    F32,
    I32,
    STR,
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
from tests.split import split
from tests.surgery.proofs import prove


def write_pruned(model: Model, drop: Cut | tuple[int, ...], path: Path) -> Model:
    plan = make_plan(model, drop)
    job = Job(model=model, plan=plan, out=path, force=True, check_load=False)
    announced = planned(job)
    assert write(job) == announced
    assert path.stat().st_size == announced.size_bytes
    prove(model, plan, path)
    return open_model(path)


def tensor_bytes(model: Model) -> dict[str, bytes]:
    data = {file.path: file.path.read_bytes() for file in model.files}
    return {t.name: data[t.path][t.offset : t.offset + t.size_bytes] for t in model.tensors}


ODD_VALUES = [
    kv_array("empty.strings", STR, 0, b""),
    kv_array("empty.numbers", F32, 0, b""),
    kv_array("nested", ARR, 1, struct.pack("<IQ", I32, 2) + struct.pack("<2i", 1, 2)),
    kv_array("flags", BOOL, 2, b"\1\0"),
    kv_str("not.utf8", b"\xff\xfe\x00x"),
    kv(b"key.\xff", 10, struct.pack("<Q", 1 << 63)),
    kv_str("zz.last", ""),
]


@pytest.mark.parametrize("alignment", [32, 64, 4096])
@pytest.mark.parametrize("version", [2, 3])
def test_an_empty_plan_reproduces_the_file(tmp_path: Path, alignment: int, version: int) -> None:
    kvs = [*llama_kvs(3), *ODD_VALUES, kv_u32("general.alignment", alignment)]
    source = tmp_path / "in.gguf"
    source.write_bytes(build(kvs, layer_tensors(3), version=version, alignment=alignment))
    write_pruned(open_model(source), (), tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == source.read_bytes()


def test_an_empty_plan_reproduces_the_trained_model(tmp_path: Path, tiny: Model) -> None:
    write_pruned(tiny, (), tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == TINY.read_bytes()


def test_layers_are_dropped_and_renumbered(tmp_path: Path) -> None:
    source = tmp_path / "in.gguf"
    source.write_bytes(build([*llama_kvs(5), *ODD_VALUES], layer_tensors(5)))
    model = open_model(source)
    result = write_pruned(model, (1, 3), tmp_path / "out.gguf")
    before, after = tensor_bytes(model), tensor_bytes(result)
    assert result.n_layer == 3
    for new, old in enumerate((0, 2, 4)):
        for part in ("attn_q", "ffn_up"):
            assert after[f"blk.{new}.{part}.weight"] == before[f"blk.{old}.{part}.weight"]
    assert after["output.weight"] == before["output.weight"]
    assert len(after) == 2 + 3 * 2
    for key, value in model.metadata.items():
        if key != "llama.block_count":
            assert result.metadata[key] == value
    assert list(result.metadata)[: len(model.metadata)] == list(model.metadata)


def test_the_source_of_the_file_is_recorded(tmp_path: Path, tiny: Model) -> None:
    once = write_pruned(tiny, (2, 7), tmp_path / "once.gguf")
    assert once.metadata[DROPPED_LAYERS].decode() == [2, 7]
    assert once.metadata[SOURCE_BLOCK_COUNT].decode() == 9
    assert once.metadata[SOURCE_FINGERPRINT].decode() == tiny.fingerprint
    twice = write_pruned(once, (0,), tmp_path / "twice.gguf")
    assert twice.metadata[DROPPED_LAYERS].decode() == [0]
    assert twice.metadata[SOURCE_FINGERPRINT].decode() == once.fingerprint
    (record,) = twice.metadata[HISTORY].decode()
    assert tiny.fingerprint in record


def test_numbers_that_depend_on_the_layers_stay_true(tmp_path: Path) -> None:
    kvs = [
        *llama_kvs(4),
        kv_array("llama.attention.head_count_kv", I32, 4, struct.pack("<4i", 1, 2, 3, 4)),
        kv_u32("llama.leading_dense_block_count", 2),
        kv_str("general.size_label", "1K"),
        kv("general.parameter_count", 10, struct.pack("<Q", 80)),
    ]
    source = tmp_path / "in.gguf"
    source.write_bytes(build(kvs, layer_tensors(4)))
    result = write_pruned(open_model(source), (1, 2), tmp_path / "out.gguf")
    values = {k: v.decode() for k, v in result.metadata.items()}
    assert values["llama.attention.head_count_kv"] == [1, 4]
    assert values["llama.leading_dense_block_count"] == 1
    assert values["general.parameter_count"] == result.n_param == 48
    assert values["general.size_label"] == "0.05K"


def test_what_is_said_about_tensors_follows_them(tmp_path: Path) -> None:
    names = ["blk.0.attn_q.weight", "blk.2.attn_q.weight", "output.weight", "blk.1.ffn_up.weight"]
    kvs = [
        *llama_kvs(3),
        kv_array("general.tensor_extra.name", STR, 4, b"".join(map(text, names))),
        kv_array("general.tensor_extra.prec_a4", BOOL, 4, b"\1\0\1\0"),
    ]
    source = tmp_path / "in.gguf"
    source.write_bytes(build(kvs, layer_tensors(3)))
    result = write_pruned(open_model(source), (0,), tmp_path / "out.gguf")
    values = {k: v.decode() for k, v in result.metadata.items()}
    expected = ["blk.1.attn_q.weight", "output.weight", "blk.0.ffn_up.weight"]
    assert values["general.tensor_extra.name"] == expected
    assert values["general.tensor_extra.prec_a4"] == [False, True, False]


def test_a_head_size_that_came_from_layer_0_is_written_down(tmp_path: Path) -> None:
    heads = kv_array("llama.attention.head_count", I32, 3, struct.pack("<3i", 8, 4, 4))
    width = kv_u32("llama.embedding_length", 512)
    source = tmp_path / "in.gguf"
    source.write_bytes(build([*llama_kvs(3), heads, width], layer_tensors(3)))
    result = write_pruned(open_model(source), (0,), tmp_path / "out.gguf")
    assert result.metadata["llama.attention.value_length"].decode() == 64
    source.write_bytes(build([*llama_kvs(3), heads], layer_tensors(3)))
    with pytest.raises(ArchitectureError, match="layer 0's 8 heads and is not stated"):
        make_plan(open_model(source), (0,))


def test_an_array_of_another_length_is_an_error(tmp_path: Path) -> None:
    kvs = [*llama_kvs(3), kv_array("llama.attention.head_count", I32, 2, bytes(8))]
    source = tmp_path / "in.gguf"
    source.write_bytes(build(kvs, layer_tensors(3)))
    model = open_model(source)
    with pytest.raises(FormatError, match="has 2 entries, expected block_count = 3"):
        planned(Job(model=model, plan=make_plan(model, (1,)), out=tmp_path / "out.gguf"))


def test_a_count_that_is_an_array_is_an_error(tmp_path: Path) -> None:
    """One that is shortened as any array of the layers is; llama.cpp wants a number."""
    counts = kv_array("llama.expert_count", I32, 3, struct.pack("<3i", 4, 4, 4))
    source = tmp_path / "in.gguf"
    source.write_bytes(build([*llama_kvs(3), counts], layer_tensors(3)))
    model = open_model(source)
    plan = make_plan(model, (1,), trust=True)
    with pytest.raises(FormatError, match="expert_count"):
        planned(Job(model=model, plan=plan, out=tmp_path / "out.gguf"))


def test_the_size_label_of_experts_follows_gguf_py(tmp_path: Path) -> None:
    experts = [
        FakeTensor(f"blk.{i}.ffn_up_exps.weight", bytes(4 * 8 * 4), shape=(8, 1, 4))
        for i in range(2)
    ]
    kvs = [*llama_kvs(2), kv_u32("llama.expert_count", 4), kv_str("general.size_label", "4x1K")]
    source = tmp_path / "in.gguf"
    source.write_bytes(build(kvs, [*layer_tensors(2), *experts]))
    result = write_pruned(open_model(source), (0,), tmp_path / "out.gguf")
    assert result.metadata["general.size_label"].decode() == "4x0.04K"  # 32 + 32 / 4 parameters


def test_a_split_model_becomes_one_file(tmp_path: Path, tiny: Model) -> None:
    shards = split(TINY, tmp_path, 3)
    result = write_pruned(open_model(shards[0]), (3,), tmp_path / "out.gguf")
    assert tensor_bytes(result) == tensor_bytes(write_pruned(tiny, (3,), tmp_path / "one.gguf"))
    assert not [key for key in result.metadata if key.startswith("split.")]


@pytest.mark.parametrize("method", [*(method.__name__ for method in copying._METHODS), None])
def test_every_way_of_copying_gives_the_same_file(
    tmp_path: Path, tiny: Model, monkeypatch: pytest.MonkeyPatch, method: str | None
) -> None:
    methods = (getattr(copying, method),) if method else ()
    monkeypatch.setattr(copying, "_METHODS", methods)
    write_pruned(tiny, (), tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == TINY.read_bytes()


def test_a_method_the_file_system_lacks_is_skipped(
    tmp_path: Path, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: int) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(copying, "_METHODS", (unsupported,))
    write_pruned(tiny, (), tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == TINY.read_bytes()


def test_verify_sees_every_kind_of_damage(tmp_path: Path, tiny: Model) -> None:
    path = tmp_path / "out.gguf"
    result = write_pruned(tiny, (4,), path)
    plan, good = make_plan(tiny, (4,)), path.read_bytes()
    last = result.tensors[-1]
    flips = {
        "bytes of": last.offset + last.size_bytes - 1,
        "metadata value": good.index(text("general.name")) + 8 + 12 + 4 + 8,
        "is not as planned": good.index(text("blk.3.attn_q.weight")) + 8 + len("blk.3.attn_"),
    }
    for reason, at in flips.items():
        damaged = bytearray(good)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises((VerificationError, FormatError), match=reason):
            prove(tiny, plan, path)
    path.write_bytes(good)
    prove(tiny, plan, path)
    with pytest.raises(VerificationError, match="is not as planned"):
        prove(tiny, make_plan(tiny, (3, 4)), path)
    with pytest.raises(VerificationError, match=r"bytes of|dropped_layers"):
        prove(tiny, make_plan(tiny, (3,)), path)


@pytest.mark.parametrize(
    ("step", "reason"),
    [("write_header", "is not as planned"), ("write_tensors", "bytes of blk.7.ffn_down.weight")],
)
def test_a_writer_that_goes_wrong_publishes_nothing(
    tmp_path: Path, tiny: Model, monkeypatch: pytest.MonkeyPatch, step: str, reason: str
) -> None:
    """The proof is part of writing: one bit is enough."""

    def damage(fd: int, at: int) -> None:
        write_at(fd, bytes([read_at(fd, 1, at)[0] ^ 1]), at)

    def damaged_header(layout: Layout, fd: int) -> None:
        write_header(layout, fd)
        name = text("blk.3.attn_q.weight")
        damage(fd, layout.header.index(name) + 8 + len("blk.3.attn_"))

    def damaged_tensors(
        layouts: Sequence[Layout], fds: Sequence[int], progress: Progress
    ) -> Iterator[OutTensor]:
        places = {place.tensor.name: place for place in layouts[0].placements}
        for tensor in write_tensors(layouts, fds, progress):
            if tensor.name == "blk.7.ffn_down.weight":
                damage(fds[0], places[tensor.name].offset + tensor.size_bytes - 1)
            yield tensor

    wrong = {"write_header": damaged_header, "write_tensors": damaged_tensors}
    monkeypatch.setattr(rewrite, step, wrong[step])
    with pytest.raises(VerificationError, match=reason):
        write_pruned(tiny, (4,), tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "odd",
    [
        kv_u32("ggprune.history", 1),
        kv_str("ggprune.history", "[]"),
        kv_array("ggprune.history", I32, 1, bytes(4)),
        kv_str("ggprune.dropped_layers", "1"),
        kv_u32("ggprune.source.fingerprint", 1),
        kv_str("ggprune.source.block_count", "9"),
        kv_str("general.tensor_extra.name", "blk.0.attn_q.weight"),
        kv_array("general.tensor_extra.name", I32, 2, bytes(8)),
        kv_str("general.parameter_count", "80"),
        kv_str("llama.expert_count", "8"),
    ],
)
def test_records_of_another_kind_are_named(tmp_path: Path, odd: bytes) -> None:
    key = odd[8 : 8 + odd[0]].decode()
    said = {
        "ggprune.dropped_layers": kv_array("ggprune.dropped_layers", I32, 1, bytes(4)),
        "general.size_label": kv_str("general.size_label", "1K"),
        key: odd,
    }
    source = tmp_path / "in.gguf"
    source.write_bytes(build([*llama_kvs(3), *said.values()], layer_tensors(3)))
    model = open_model(source)
    with pytest.raises(FormatError, match=rf"in\.gguf: {key} is .*, expected "):
        contents_of(model, make_plan(model, (1,)))


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"ggprune.dropped_layers": 1}', "[" * 99_999])
def test_a_history_that_says_nothing_is_an_error(tmp_path: Path, record: str) -> None:
    source = tmp_path / "in.gguf"
    kvs = [
        kv_array("ggprune.dropped_layers", I32, 1, bytes(4)),
        kv_array("ggprune.history", STR, 1, text(record)),
    ]
    source.write_bytes(build([*llama_kvs(3), *kvs], layer_tensors(3)))
    with pytest.raises(FormatError, match=r"ggprune\.history is not what ggprune writes"):
        prunings_of(open_model(source))


def test_prunings_are_told_in_their_order(tmp_path: Path, tiny: Model) -> None:
    once = write_pruned(tiny, (2, 7), tmp_path / "once.gguf")
    twice = write_pruned(once, (0,), tmp_path / "twice.gguf")
    assert prunings_of(tiny) == ()
    assert prunings_of(twice) == (
        Pruning(Cut.of([2, 7]), tiny.fingerprint), Pruning(Cut.of([0]), once.fingerprint),
    )  # fmt: skip


def test_a_run_of_units_is_told_as_users_write_it(tmp_path: Path, tiny: Model) -> None:
    out = write_pruned(tiny, parse_units("1,3f-5a", 9), tmp_path / "out.gguf")
    assert out.text("ggprune.dropped_units") == "1,3f-5a"
    assert "ggprune.dropped_layers" not in out.metadata
    twice = write_pruned(out, (0,), tmp_path / "twice.gguf")
    assert prunings_of(twice) == (
        Pruning(parse_units("1,3f-5a", 9), tiny.fingerprint), Pruning(Cut.of([0]), out.fingerprint),
    )  # fmt: skip
    ours, theirs = (
        tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.size_bytes]
        for tensor in (out.by_name["blk.2.ffn_down.weight"], tiny.by_name["blk.5.ffn_down.weight"])
    )
    assert ours == theirs
