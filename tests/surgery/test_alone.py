"""Layers that keep an attention or an FFN alone: as their own architecture, or as another one."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.ablation.taps import ablation_taps
from ggprune.ablation.units import halves_of
from ggprune.arch.architecture import architecture_of
from ggprune.arch.footprint import footprints_of
from ggprune.errors import ArchitectureError, UsageError
from ggprune.files.documents import to_text
from ggprune.model.cut import Cut, parse_units
from ggprune.model.imatrix import read_imatrix
from ggprune.model.metadata import scalar
from ggprune.model.model import Model, open_model
from ggprune.model.types import TENSOR_TYPES
from ggprune.pipeline.files import cache_sizes
from ggprune.pipeline.job import Job, write
from ggprune.quantize.options import QuantizeOptions
from ggprune.runtime.convert import Dequantizer
from ggprune.runtime.nodes import Taps
from ggprune.runtime.session import LlamaModel, Session, Tokens
from ggprune.surgery.plan import load_plan, make_plan
from ggprune.surgery.remap import remap
from tests.arch.families import F32, FAMILIES, U32, Family
from tests.gguf_files import FakeTensor, build, kv, kv_str
from tests.helpers import ONE_GRAPH, logits_of, pruned_copy, random_tokens
from tests.quantize.test_quantizer import legacy_imatrix
from tests.surgery.proofs import prove

SETS = ("3a", "0a", "8a", "3f", "8f", "2a,5f-6a,7f", "0a-3a,5f")


def family(name: str) -> Family:
    return next(f for f in FAMILIES if f.name == name)


def taps_without(model: Model, cut: Cut, tokens: Tokens) -> Taps:
    """What leaves the units out of the model in memory."""
    arch = architecture_of(model)
    with (
        LlamaModel(model.path, ONE_GRAPH) as loaded,
        Session(loaded, tokens.shape[1], compute=ONE_GRAPH, tapped=True) as session,
    ):
        halves = halves_of(arch, session, tokens[0], tokens.shape[1] // 2)
    return ablation_taps(halves.places, halves.parts(cut))


@pytest.mark.parametrize("text", SETS)
def test_logits_are_those_with_the_units_left_out_in_memory(
    text: str, tiny: Model, tmp_path: Path
) -> None:
    cut, tokens = parse_units(text, 9), random_tokens(512, 128)
    out = pruned_copy(tiny, cut, tmp_path / "out.gguf")
    prove(tiny, make_plan(tiny, cut), out.path)
    expected = logits_of(tiny.path, tokens, 64, taps_without(tiny, cut, tokens))
    assert np.array_equal(logits_of(out.path, tokens, 64), expected)
    assert not np.array_equal(logits_of(tiny.path, tokens, 64), expected)


def test_a_deci_that_says_so(tiny: Model, tmp_path: Path) -> None:
    """No heads, but one of zeros in the first layer; an FFN of zeros, one element wide."""
    out = pruned_copy(tiny, parse_units("0a,4a,6f", 9), tmp_path / "out.gguf")
    heads, heads_kv = (tiny.metadata[f"llama.attention.{k}"].decode()
                       for k in ("head_count", "head_count_kv"))  # fmt: skip
    assert out.arch == "deci"
    assert not any(key.startswith("llama.") for key in out.metadata)
    found = out.metadata["deci.attention.head_count"].decode()
    assert found == [1, *[heads] * 3, 0, *[heads] * 4]
    found = out.metadata["deci.attention.head_count_kv"].decode()
    assert found == [1, *[heads_kv] * 3, 0, *[heads_kv] * 4]
    width = tiny.metadata["llama.feed_forward_length"].decode()
    assert out.metadata["deci.feed_forward_length"].decode() == [*[width] * 6, 1, width, width]
    assert not any("attn" in tensor.name for tensor in out.layers[4])
    size = tiny.by_name["blk.0.attn_k.weight"].shape[1] // heads_kv
    n_embd = tiny.by_name["token_embd.weight"].shape[0]
    assert out.by_name["blk.0.attn_output.weight"].shape == (size, n_embd)
    assert out.by_name["blk.6.ffn_up.weight"].shape == (n_embd,)
    assert out.by_name["blk.6.ffn_down.weight"].shape == (1, n_embd)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_norm.weight", "blk.6.ffn_up.weight"):
        tensor = out.by_name[name]
        data = tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.size_bytes]
        assert not any(data)


def test_zeros_of_every_type_are_zeros() -> None:
    """Stubs are bytes of zeros, in whatever type the tensor had that they stand for."""
    for kind in TENSOR_TYPES.values():
        if kind.name in ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"):
            continue
        floats = np.ones(kind.block_size, np.float32)
        Dequantizer(kind)(np.zeros(kind.block_bytes, np.uint8), floats)
        assert not floats.any(), kind.name


def test_the_cache_is_that_much_smaller(tiny: Model, tmp_path: Path) -> None:
    """As llama.cpp allocates it."""
    out = pruned_copy(tiny, parse_units("3a,4a,7f", 9), tmp_path / "out.gguf")
    sizes = cache_sizes(tiny, [out.path])
    assert sizes is not None
    assert sizes.before_bytes * 7 == sizes.after_bytes * 9


def test_it_is_pruned_again(tiny: Model, tmp_path: Path) -> None:
    """What is a deci now loses whole layers, and other halves; the first layer keeps its heads."""
    once = pruned_copy(tiny, parse_units("3a,5f", 9), tmp_path / "once.gguf")
    tokens = random_tokens(512, 128)
    again = parse_units("1,4f-5a,7a", 9)
    twice = pruned_copy(once, again, tmp_path / "twice.gguf")
    expected = logits_of(once.path, tokens, 64, taps_without(once, again, tokens))
    assert np.array_equal(logits_of(twice.path, tokens, 64), expected)
    with pytest.raises(ArchitectureError, match="layer 3 would come first and has no attention"):
        make_plan(once, (0, 1, 2))
    with pytest.raises(ArchitectureError, match="layer 3 has no attention"):
        make_plan(once, parse_units("3a", 9))
    with pytest.raises(ArchitectureError, match="layer 3 has no attention"):
        make_plan(once, parse_units("3f", 9))


def test_what_cannot_be(tiny: Model, tiny_moe: Model, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match=r"\(deci\): --rehost never"):
        make_plan(tiny, parse_units("3a", 9), rehost=False)
    assert make_plan(tiny, parse_units("3f-4a", 9), rehost=False).out_arch == "llama"
    with pytest.raises(ArchitectureError, match="no attention would be left"):
        make_plan(tiny, parse_units(",".join(f"{n}a" for n in range(9)), 9))
    with pytest.raises(UsageError, match="at least one must stay"):
        make_plan(tiny, parse_units("0-8", 9))
    with pytest.raises(ArchitectureError, match="is nothing that deci computes with"):
        make_plan(tiny_moe, parse_units("1a", 4))
    granite = family("granite").make(tmp_path)
    with pytest.raises(ArchitectureError, match="layers of granite cannot keep one half alone"):
        make_plan(granite, parse_units("3a", 12))


def test_a_native_architecture_needs_no_host(tmp_path: Path) -> None:
    model = family("openelm").make_plain(tmp_path)
    plan = make_plan(model, parse_units("3a,5f", 12), rehost=False)
    assert (plan.out_arch, plan.notes) == ("openelm", ())


KEYS: dict[str, tuple[str, dict[str, float], str]] = {
    "internlm2": ("internlm2", {"{arch}.rope.dimension_count": 64}, "have the sizes"),
    "mistral3": ("mistral3", {"{arch}.attention.temperature_scale": 0.1}, "deci does not know"),
    "qwen3": ("qwen3", {"{arch}.rope.scaling.factor": 4.0}, "positions are scaled"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_what_the_host_is_not_told(name: str, tmp_path: Path) -> None:
    known, changes, said = KEYS[name]
    values = {k: scalar(F32 if isinstance(v, float) else U32, v) for k, v in changes.items()}
    case = family(known)
    model = replace(case, changes={**case.changes, **values}).make_plain(tmp_path)
    with pytest.raises(ArchitectureError, match=said):
        make_plan(model, parse_units("3f", 12))


def test_a_step35_that_says_what_it_costs(tmp_path: Path) -> None:
    model = family("qwen2").make_plain(tmp_path)
    tied = tmp_path / "tied.gguf"
    kept = [
        FakeTensor(t.name, raw, t.shape)
        for t in model.tensors if t.name != "output.weight"
        for raw in [t.path.read_bytes()[t.offset : t.offset + t.size_bytes]]
    ]  # fmt: skip
    tied.write_bytes(build([kv(k, v.type, bytes(v.raw)) for k, v in model.metadata.items()], kept))
    model = open_model(tied)
    plan = make_plan(model, parse_units("3a,5f", 12))
    size = model.by_name["token_embd.weight"].size_bytes
    assert plan.out_arch == "step35"
    assert "cannot shift the context" in plan.notes[1]
    assert f"copy of the embeddings, which were one: {size:,} bytes more" in plan.notes[2]
    out = pruned_copy(model, plan.cut, tmp_path / "out.gguf")
    tokens = random_tokens(len(model.fields.texts("tokenizer.ggml.tokens")), 128)
    expected = logits_of(tied, tokens, 64, taps_without(model, plan.cut, tokens))
    assert np.array_equal(logits_of(out.path, tokens, 64), expected)


def test_companions_follow(tiny: Model, tmp_path: Path) -> None:
    """Adapters name the architecture that they are for; what belonged to a half goes with it."""
    plan = make_plan(tiny, parse_units("3a,5f", 9))
    kvs = [kv_str("general.type", "adapter"), kv_str("general.architecture", "llama"),
           kv_str("adapter.type", "lora")]  # fmt: skip
    parts = ("attn_q", "ffn_up")
    names = [f"blk.{n}.{part}.weight.lora_{ab}" for n in (3, 5) for part in parts for ab in "ab"]
    values = struct.pack("<4f", *range(4))
    lora = tmp_path / "lora.gguf"
    lora.write_bytes(build(kvs, [FakeTensor(name, values, (2, 2)) for name in names]))
    remap(plan, lora, tmp_path / "lora-out.gguf")
    after = open_model(tmp_path / "lora-out.gguf")
    assert after.arch == "deci"
    assert [t.name for t in after.tensors] == [
        f"blk.{n}.{part}.weight.lora_{ab}" for n, part in ((3, "ffn_up"), (5, "attn_q"))
        for ab in "ab"
    ]  # fmt: skip
    vector = tmp_path / "vector.gguf"
    kvs = [kv_str("general.architecture", "controlvector"),
           kv_str("controlvector.model_hint", "llama")]  # fmt: skip
    vector.write_bytes(build(kvs, [FakeTensor(f"direction.{n}", values, (4,)) for n in (3, 5)]))
    remap(plan, vector, tmp_path / "vector-out.gguf")
    after = open_model(tmp_path / "vector-out.gguf")
    assert [t.name for t in after.tensors] == ["direction.3", "direction.5"]
    assert after.text("controlvector.model_hint") == "deci"


@pytest.mark.parametrize("kind", ["Q4_K_M", "IQ2_XS", "Q8_0"])
def test_it_is_requantized(kind: str, tiny: Model, tmp_path: Path) -> None:
    """Stubs do not stop llama.cpp's quantizer, with an importance matrix or without."""
    plan = make_plan(tiny, parse_units("0a,3a,5f", 9))
    options = QuantizeOptions(kind, n_threads=1)
    imatrix = read_imatrix(legacy_imatrix(tmp_path / "imatrix.dat", tiny))
    for number, given in enumerate((None, imatrix) if kind != "IQ2_XS" else (imatrix,)):
        out = tmp_path / f"{number}.gguf"
        write(Job(model=tiny, plan=plan, out=out, quantize=options, imatrix=given))
        assert open_model(out).by_name["blk.5.ffn_down.weight"].shape[0] == 1


def test_a_plan_is_carried_out_as_another_architecture(tiny: Model, tmp_path: Path) -> None:
    plan = make_plan(tiny, parse_units("3a", 9))
    path = tmp_path / "plan.json"
    path.write_text(to_text(plan))
    assert load_plan(path, tiny) == plan
    with pytest.raises(ArchitectureError, match="--rehost never"):
        load_plan(path, tiny, rehost=False)


def test_a_matrix_in_the_place_of_an_attention(tiny: Model, tmp_path: Path) -> None:
    """Zeros until it is fitted: what the file computes is what leaving the attention out gives."""
    cut = parse_units("4f-5a,3a=linear", 9)
    plan = make_plan(tiny, cut)
    out = pruned_copy(tiny, cut, tmp_path / "out.gguf")
    prove(tiny, plan, out.path)
    n_embd = tiny.by_name["token_embd.weight"].shape[0]
    assert {t.name.split(".", 2)[2] for t in out.layers[3] if "attn" in t.name} == {
        "attn_norm.weight", "attn_output.weight",
    }  # fmt: skip
    assert out.by_name["blk.3.attn_output.weight"].shape == (n_embd, n_embd)
    assert out.metadata["deci.attention.head_count_kv"].decode()[3] == 0
    assert out.metadata["deci.attention.head_count"].decode()[3] > 0
    tokens, without = random_tokens(512, 128), parse_units("3a,4f-5a", 9)
    expected = logits_of(tiny.path, tokens, 64, taps_without(tiny, without, tokens))
    assert np.array_equal(logits_of(out.path, tokens, 64), expected)
    assert (
        footprints_of(out).without(()).token_bytes == footprints_of(tiny).without(cut).token_bytes
    )
    with pytest.raises(ArchitectureError, match="is fitted in a file, not in memory"):
        taps_without(tiny, cut, tokens)
    with pytest.raises(UsageError, match="would leave and be replaced"):
        make_plan(tiny, Cut.of([3]) | Cut.of_linear([3]))
    qwen = family("qwen2").make_plain(tmp_path)
    with pytest.raises(ArchitectureError, match="only a deci has a matrix"):
        make_plan(qwen, parse_units("3a=linear", 12))
