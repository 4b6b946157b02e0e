"""Experts that leave a file: the bytes of those that stay, the numbers, what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from ggprune.ablation.experts import expert_taps
from ggprune.errors import ArchitectureError
from ggprune.files.documents import to_text
from ggprune.model.cut import Cut, parse_units
from ggprune.model.gguf import Tensor
from ggprune.model.imatrix import read_imatrix
from ggprune.model.metadata import array, scalar
from ggprune.model.model import Model, open_model
from ggprune.surgery.contents import DROPPED_UNITS, contents_of, prunings_of
from ggprune.surgery.plan import make_plan, read_plan
from ggprune.surgery.remap import remap
from tests.arch.families import FAMILIES, U32
from tests.gguf_files import FakeTensor, build, kv_str, kv_u32
from tests.helpers import logits_of, pruned_copy, random_tokens
from tests.random_models import derive_metadata, make_random_model
from tests.surgery.proofs import prove

SETS = {0: (0, 5, 14, 15), 1: (3, 4, 5, 6), 2: (1, 7, 9, 10), 3: (2, 4, 6, 8)}
CUT = Cut.of_experts(SETS)
KEPT = {layer: [n for n in range(16) if n not in gone] for layer, gone in SETS.items()}


def raw(tensor: Tensor) -> bytes:
    return tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.size_bytes]


@pytest.fixture(scope="module")
def fewer(tiny_moe: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return pruned_copy(tiny_moe, CUT, tmp_path_factory.mktemp("experts") / "out.gguf")


def test_the_bytes_of_every_expert_that_stays(tiny_moe: Model, fewer: Model) -> None:
    """Quantized slabs are never decoded."""
    assert tiny_moe.by_name["blk.2.ffn_down_exps.weight"].type.name == "Q5_1"
    for tensor in tiny_moe.tensors:
        after = fewer.by_name[tensor.name]
        if "_exps" not in tensor.name and "gate_inp" not in tensor.name:
            assert raw(after) == raw(tensor)
            continue
        layer = int(tensor.name.split(".")[1])
        parts = np.frombuffer(raw(tensor), np.uint8).reshape(16, -1)
        assert raw(after) == parts[KEPT[layer]].tobytes()
        assert after.shape == (*tensor.shape[:-1], 12)
    prove(tiny_moe, make_plan(tiny_moe, CUT), fewer.path)


def test_the_metadata(tiny_moe: Model, fewer: Model) -> None:
    assert fewer.metadata["llama.expert_count"].decode() == 12
    assert fewer.metadata["llama.expert_used_count"].decode() == 4
    assert fewer.metadata[DROPPED_UNITS].decode() == str(CUT)
    assert [pruning.drop for pruning in prunings_of(fewer)] == [CUT]
    assert fewer.n_param < tiny_moe.n_param


def test_logits_are_those_with_the_experts_left_out_in_memory(
    tiny_moe: Model, fewer: Model
) -> None:
    tokens = random_tokens(1024, 128)
    expected = logits_of(tiny_moe.path, tokens, 64, expert_taps(SETS))
    assert np.array_equal(logits_of(fewer.path, tokens, 64), expected)
    assert not np.array_equal(logits_of(tiny_moe.path, tokens, 64), expected)


def test_beside_layers_in_one_plan(tiny_moe: Model, tmp_path: Path) -> None:
    """Experts of a layer that goes are not spoken of; a half-shift keeps its FFN's."""
    plan = make_plan(tiny_moe, CUT | parse_units("1f-2a", 4))
    assert plan.cut.experts == {n: SETS[n] for n in (0, 2, 3)}
    path = tmp_path / "plan.json"
    path.write_text(to_text(plan))
    assert read_plan(path) == plan
    assert json.loads(path.read_text())["n_expert"] == 16
    result = pruned_copy(tiny_moe, plan.cut, tmp_path / "out.gguf")
    parts = np.frombuffer(raw(tiny_moe.by_name["blk.2.ffn_up_exps.weight"]), np.uint8)
    expected = parts.reshape(16, -1)[KEPT[2]].tobytes()
    assert raw(result.by_name["blk.1.ffn_up_exps.weight"]) == expected
    again = make_plan(result, Cut.of_experts(dict.fromkeys(range(3), (0, 1))))
    last = pruned_copy(result, again.cut, tmp_path / "last.gguf")
    assert last.metadata["llama.expert_count"].decode() == 10
    assert [p.drop for p in prunings_of(last)] == [plan.cut, again.cut]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({0: (1,)}, "layer 0 would keep 15 experts and layer 1 16"),
        (dict.fromkeys(range(4), (1, 16)), "layer 0 has no expert 16: they are 0 to 15"),
        ({n: range(13) for n in range(4)}, "3 experts would stay, and 4 are used at once"),
    ],
)
def test_sets_that_cannot_be(tiny_moe: Model, sets: dict[int, tuple[int, ...]], said: str) -> None:
    with pytest.raises(ArchitectureError, match=said):
        make_plan(tiny_moe, Cut.of_experts(sets))


def test_what_is_no_multiple_of_four_or_passes_eight_is_said(tiny_moe: Model) -> None:
    notes = make_plan(tiny_moe, Cut.of_experts(dict.fromkeys(range(4), (1,)))).notes
    assert "15 experts are no multiple of 4" in notes[0]
    notes = make_plan(tiny_moe, Cut.of_experts({n: range(8) for n in range(4)})).notes
    assert "exactly 8 experts" in notes[0]
    assert make_plan(tiny_moe, CUT).notes == ()


FAMILY = {family.name: family for family in FAMILIES}


def grown(name: str, folder: Path, **changes: int | tuple[int, ...]) -> Model:
    """A random model of a family with 16 experts, some of its numbers changed."""
    family = FAMILY[name].with_experts()
    family.store_metadata(folder / "m.gguf")
    values = {
        "{arch}." + key: array(U32, n) if isinstance(n, tuple) else scalar(U32, n)
        for key, n in changes.items()
    }
    arch = family.arch
    meta = derive_metadata(folder / "m.gguf", arch, dict(values), folder / "n.gguf")
    return open_model(make_random_model(meta, folder / "in.gguf"))


def every(model: Model, *experts: int) -> Cut:
    layers = {int(n.split(".")[1]) for n in model.by_name if "_exps" in n}
    return Cut.of_experts(dict.fromkeys(layers, experts))


def test_groups_lose_as_many_each(tmp_path: Path) -> None:
    model = grown("bailingmoe2", tmp_path)  # four groups of four
    with pytest.raises(ArchitectureError, match="4 groups, which would have 2, 4, 4, 4"):
        make_plan(model, every(model, 0, 1))
    with pytest.raises(ArchitectureError, match="as many must leave each, and two must stay"):
        make_plan(model, every(model, *(n for n in range(16) if n % 4)))
    plan = make_plan(model, every(model, 0, 5, 10, 15))
    metadata = contents_of(model, plan).metadata
    assert metadata["bailingmoe2.expert_count"].decode() == 12


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"expert_used_count": (4,) * 11 + (3,)}, "expert_used_count differs"),
        ("llama4", {}, "not known what its experts mean"),
        ("grovemoe", {}, "not known what its experts mean"),
    ],
)
def test_models_whose_experts_cannot_leave(
    tmp_path: Path, name: str, changes: dict[str, int | tuple[int, ...]], said: str
) -> None:
    model = grown(name, tmp_path, **changes)
    with pytest.raises(ArchitectureError, match=said):
        make_plan(model, every(model, 0, 1, 2, 3))


def test_gates_that_grow_are_said(tmp_path: Path) -> None:
    model = grown("olmoe", tmp_path)
    notes = make_plan(model, every(model, 0, 1, 2, 3)).notes
    assert "all gates grow by what the experts that left had" in notes[0]


def slabs(*names: str) -> list[FakeTensor]:
    """(2, 16), a row of two numbers for every expert."""
    values = struct.pack("<32f", *range(32))
    return [FakeTensor(name, values, (2, 16)) for name in names]


def test_companions_follow(tiny_moe: Model, tmp_path: Path) -> None:
    plan = make_plan(tiny_moe, CUT)
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    counts = FakeTensor("blk.1.ffn_up_exps.weight.counts", struct.pack("<16f", *range(16)), (1, 16))
    inputs = FakeTensor("blk.1.ffn_gate_inp.weight.in_sum2", struct.pack("<16f", *range(16)), (16,))
    one = FakeTensor("blk.1.ffn_gate_inp.weight.counts", struct.pack("<f", 1), (1,))
    source.write_bytes(build(
        [kv_str("general.type", "imatrix"), kv_u32("imatrix.chunk_count", 7)],
        [*slabs("blk.1.ffn_up_exps.weight.in_sum2"), counts, inputs, one],
    ))  # fmt: skip
    remap(plan, source, out)
    before, after = read_imatrix(source), read_imatrix(out)
    kept = before.entries["blk.1.ffn_up_exps.weight"].reshape(16, 2)[KEPT[1]]
    assert after.entries["blk.1.ffn_up_exps.weight"].tolist() == kept.ravel().tolist()
    assert after.counts["blk.1.ffn_up_exps.weight"].tolist() == KEPT[1]
    name = "blk.1.ffn_gate_inp.weight"  # of its inputs, not of experts
    assert after.entries[name].tolist() == before.entries[name].tolist()
    followed = contents_of(tiny_moe, plan).followed(before)  # what the quantizer is given
    assert followed.entries.keys() == after.entries.keys()
    for name, values in followed.entries.items():
        assert values.tolist() == after.entries[name].tolist()

    lora = tmp_path / "lora.gguf"
    kvs = [kv_str("general.type", "adapter"), kv_str("general.architecture", "llama"),
           kv_str("adapter.type", "lora")]  # fmt: skip
    names = [f"blk.1.ffn_up_exps.weight.lora_{ab}" for ab in "ab"]
    lora.write_bytes(build(kvs, slabs(*names, "blk.1.ffn_gate_inp.weight.lora_b")))
    remap(plan, lora, tmp_path / "lora-out.gguf")
    for tensor in open_model(tmp_path / "lora-out.gguf").tensors:
        assert np.frombuffer(raw(tensor), "<f4")[::2].tolist() == [2 * n for n in KEPT[1]]


def test_a_legacy_imatrix_follows(tiny_moe: Model, tmp_path: Path) -> None:
    entries = b""
    for name, n in (("blk.1.ffn_up_exps.weight", 32), ("blk.1.ffn_gate_inp.weight", 16)):
        entries += struct.pack(f"<i{len(name)}sii{n}f", len(name), name.encode(), 1, n, *range(n))
    source, out = tmp_path / "in.dat", tmp_path / "out.dat"
    source.write_bytes(struct.pack("<i", 2) + entries)
    remap(make_plan(tiny_moe, CUT), source, out)
    after = read_imatrix(out).entries
    assert after["blk.1.ffn_up_exps.weight"][::2].tolist() == [2 * n for n in KEPT[1]]
    assert after["blk.1.ffn_gate_inp.weight"].tolist() == list(range(16))
