from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError, OutputError
from ggprune.files.documents import to_text
from ggprune.model.cut import parse_units
from ggprune.model.imatrix import read_imatrix
from ggprune.model.model import Model, open_model
from ggprune.surgery.plan import PrunePlan, make_plan, read_plan
from ggprune.surgery.remap import remap
from tests.gguf_files import FakeTensor, build, kv_str, kv_u32


@pytest.fixture
def plan(tiny: Model, tmp_path: Path) -> PrunePlan:
    """Layers 0 and 4 of nine, through a file as a user has it."""
    path = tmp_path / "plan.json"
    path.write_text(to_text(make_plan(tiny, (0, 4))))
    return read_plan(path)


def values_of(path: Path) -> dict[str, list[float]]:
    model, raw = open_model(path), path.read_bytes()
    return {
        t.name: np.frombuffer(raw, "<f4", t.n_element, t.offset).tolist() for t in model.tensors
    }


def numbered(names: list[str]) -> list[FakeTensor]:
    return [FakeTensor(name, struct.pack("<2f", i, i + 0.5), (2,)) for i, name in enumerate(names)]


def test_an_imatrix_in_gguf(plan: PrunePlan, tmp_path: Path) -> None:
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    parts = [".in_sum2", ".counts"]
    names = [f"blk.{i}.ffn_up.weight{p}" for i in range(9) for p in parts]
    kvs = [kv_str("general.type", "imatrix"), kv_u32("imatrix.chunk_count", 7)]
    source.write_bytes(build(kvs, numbered([*names, "output.weight.in_sum2"])))
    done = remap(plan, source, out)
    assert (done.kind, done.n_before, done.n_after) == ("imatrix", 19, 15)
    before, after = values_of(source), values_of(out)
    assert after["blk.0.ffn_up.weight.in_sum2"] == before["blk.1.ffn_up.weight.in_sum2"]
    assert after["blk.3.ffn_up.weight.counts"] == before["blk.5.ffn_up.weight.counts"]
    assert after["output.weight.in_sum2"] == before["output.weight.in_sum2"]
    assert "blk.7.ffn_up.weight.counts" not in after
    assert open_model(out).metadata["imatrix.chunk_count"].decode() == 7


def test_an_imatrix_in_the_legacy_format(plan: PrunePlan, tmp_path: Path) -> None:
    source, out = tmp_path / "in.dat", tmp_path / "out.dat"
    entries = b""
    for i in range(9):
        name = f"blk.{i}.ffn_up.weight".encode()
        entries += struct.pack(f"<i{len(name)}sii3f", len(name), name, 2, 3, i, 2 * i, 1)
    tail = struct.pack("<ii4s", 11, 4, b"text")
    source.write_bytes(struct.pack("<i", 9) + entries + tail)
    assert remap(plan, source, out).n_after == 7
    before, after = read_imatrix(source), read_imatrix(out)
    assert len(after.entries) == 7
    assert after.entries["blk.6.ffn_up.weight"].tolist() == (
        before.entries["blk.8.ffn_up.weight"].tolist()
    )
    assert (after.n_chunk, after.dataset) == (11, "text")


def test_a_lora_adapter(plan: PrunePlan, tmp_path: Path) -> None:
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    kvs = [
        kv_str("general.type", "adapter"),
        kv_str("general.architecture", "llama"),
        kv_str("adapter.type", "lora"),
    ]
    names = [f"blk.{i}.attn_q.weight.lora_{ab}" for i in (3, 4, 5) for ab in "ab"]
    source.write_bytes(build(kvs, numbered(names)))
    done = remap(plan, source, out)
    assert (done.kind, done.n_after) == ("LoRA", 4)
    assert list(values_of(out)) == [
        f"blk.{i}.attn_q.weight.lora_{ab}" for i in (2, 3) for ab in "ab"
    ]
    other = tmp_path / "other.gguf"
    other.write_bytes(build([*kvs[:1], kv_str("general.architecture", "gemma"), kvs[2]],
                            numbered(names)))  # fmt: skip
    with pytest.raises(DataError, match="an adapter for gemma, the plan is for llama"):
        remap(plan, other, tmp_path / "other-out.gguf")


def test_a_control_vector(plan: PrunePlan, tmp_path: Path) -> None:
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    kvs = [
        kv_str("general.architecture", "controlvector"),
        kv_str("controlvector.model_hint", "llama"),
        kv_u32("controlvector.layer_count", 8),
    ]
    source.write_bytes(build(kvs, numbered([f"direction.{i}" for i in range(1, 9)])))
    done = remap(plan, source, out)
    before, after = values_of(source), values_of(out)
    assert list(after) == [f"direction.{i}" for i in range(1, 7)]
    assert after["direction.1"] == before["direction.2"]
    assert after["direction.3"] == before["direction.5"]
    assert "direction.1 is lost" in done.notes[0]
    assert open_model(out).metadata["controlvector.layer_count"].decode() == 6


def test_directions_that_llama_cpp_leaves_unused_or_refuses(
    plan: PrunePlan, tmp_path: Path
) -> None:
    """llama.cpp ignores the one with the number of layers, and wants none of the first layer."""
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    kvs = [kv_str("general.architecture", "controlvector")]
    source.write_bytes(build(kvs, numbered(["direction.0", "direction.8", "direction.9"])))
    done = remap(plan, source, out)
    n_left = len(plan.keep)
    assert list(values_of(out)) == [f"direction.{n_left - 1}", f"direction.{n_left}"]
    assert done.notes == ("direction.0 is left out: llama.cpp takes none for the first layer",)
    for name in ("direction.10", "direction." + "9" * 5000):
        source.write_bytes(build(kvs, numbered([name])))
        with pytest.raises(DataError, match="is not a direction of one of its layers"):
            remap(plan, source, out, force=True)


def test_what_is_no_companion_is_refused(plan: PrunePlan, tiny: Model, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    with pytest.raises(DataError, match="models are pruned by ggprune prune"):
        remap(plan, tiny.path, out)
    deeper = tmp_path / "deeper.gguf"
    deeper.write_bytes(build([], numbered(["blk.9.ffn_up.weight.in_sum2"])))
    with pytest.raises(DataError, match="belongs to no layer of a model of 9 layers"):
        remap(plan, deeper, out)
    text = tmp_path / "text.dat"
    text.write_text("no matrix")
    with pytest.raises(DataError, match="neither a GGUF nor a legacy importance matrix"):
        remap(plan, text, out)
    with pytest.raises(OutputError, match="is the input itself"):
        remap(plan, text, text, force=True)
    assert not out.exists()


@pytest.mark.parametrize("name", ["direction." + "7" * 5000, "direction.10", "direction.01"])
def test_a_direction_of_no_layer_is_named(plan: PrunePlan, tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.gguf"
    kvs = [kv_str("general.architecture", "controlvector")]
    source.write_bytes(build(kvs, numbered(["direction.2", name])))
    with pytest.raises(DataError, match="is not a direction of one of its layers"):
        remap(plan, source, tmp_path / "out.gguf")
    assert list(tmp_path.glob("out*")) == []


def test_a_run_of_units_divides_what_belongs_to_a_layer(tiny: Model, tmp_path: Path) -> None:
    """3f-4a: the new layer 3 has the attention's entries of 3 and the FFN's of 4."""
    plan = make_plan(tiny, parse_units("3f-4a", 9))
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    parts = ("attn_q.weight.in_sum2", "ffn_up.weight.in_sum2")
    names = [f"blk.{i}.{part}" for i in range(9) for part in parts]
    source.write_bytes(build([kv_str("general.type", "imatrix")], numbered(names)))
    assert remap(plan, source, out).n_after == 16
    before, after = values_of(source), values_of(out)
    assert after["blk.3.attn_q.weight.in_sum2"] == before["blk.3.attn_q.weight.in_sum2"]
    assert after["blk.3.ffn_up.weight.in_sum2"] == before["blk.4.ffn_up.weight.in_sum2"]
    assert after["blk.4.attn_q.weight.in_sum2"] == before["blk.5.attn_q.weight.in_sum2"]
    vector = tmp_path / "vector.gguf"
    kvs = [kv_str("general.architecture", "controlvector")]
    vector.write_bytes(build(kvs, numbered([f"direction.{i}" for i in range(1, 9)])))
    remap(plan, vector, out, force=True)
    before, after = values_of(vector), values_of(out)
    assert after["direction.3"] == before["direction.4"]  # added behind the FFN
    assert len(after) == 7
