from __future__ import annotations

import json
import time
from importlib.resources import files
from pathlib import Path

import pytest

from ggprune.arch.hparams import mtp_blocks, recurrent_flags, removed_below, swa_flags
from ggprune.arch.legal import first_legal, legal_drop, nearest_legal, removal_change, shortest_runs
from ggprune.arch.rules import RULES, Generic
from ggprune.errors import ArchitectureError, FormatError
from ggprune.model.model import Model, open_model
from ggprune.model.newlayer import whole
from tests.gguf_files import (
    ARR,
    BOOL,
    F32,
    I32,
    FakeTensor,
    build,
    kv,
    kv_array,
    kv_str,
    kv_u32,
    layer_tensors,
)


def model_of(tmp_path: Path, arch: str, n_layer: int, *kvs: bytes) -> Model:
    path = tmp_path / "model.gguf"
    head = [kv_str("general.architecture", arch), kv_u32(f"{arch}.block_count", n_layer)]
    path.write_bytes(build([*head, *kvs], layer_tensors(n_layer)))
    return open_model(path)


def changed(model: Model, drop: tuple[int, ...]) -> dict[str, object]:
    keep = [n for n in range(model.n_layer) if n not in drop]
    return {
        key.removeprefix(f"{model.arch}."): value.decode()
        for key, value in removal_change(model, whole(*keep)).values.items()
    }


def test_every_rule_is_known_and_used() -> None:
    data = json.loads(files("ggprune.arch").joinpath("architectures.json").read_text("utf-8"))
    rows = data["architectures"].values()
    named = {rule["rule"] for row in rows for rule in row.get("rules", ())}
    assert named == set(RULES)
    assert Generic not in RULES.values()  # it holds for all without being named
    assert all(("reason" in row) != ("residual_in" in row) for row in rows)
    assert len(rows) == 152


def test_deci_ends_with_a_feed_forward_part(tmp_path: Path) -> None:
    lengths = b"".join(n.to_bytes(4, "little") for n in (8, 8, 0, 8))
    model = model_of(tmp_path, "deci", 4, kv_array("deci.feed_forward_length", I32, 4, lengths))
    assert legal_drop(model, (2,))
    assert not legal_drop(model, (3,))


def test_the_formulas_of_llama_cpp() -> None:
    assert swa_flags(6, 7) == (True, True, True, True, True, False, True)
    assert swa_flags(4, 5, dense_first=True) == (False, True, True, True, False)
    assert swa_flags(0, 2) == (True, True)
    assert recurrent_flags(4, 5) == (True, True, True, False, True)
    assert removed_below((0, 2, 5)) == (0, 1, 3)


def test_a_period_is_kept_while_it_fits_and_an_array_otherwise(tmp_path: Path) -> None:
    model = model_of(tmp_path, "gemma3", 12, kv_u32("gemma3.attention.sliding_window", 512))
    assert changed(model, tuple(range(6))) == {"block_count": 6}
    assert changed(model, (10, 11)) == {"block_count": 10}
    pattern = changed(model, (0,))["attention.sliding_window_pattern"]
    assert pattern == [True] * 4 + [False] + [True] * 5 + [False]
    assert not legal_drop(model, (0, 1, 2, 3, 4, 6, 7, 8, 9, 10))  # no window left
    no_window = model_of(tmp_path, "gemma3", 12)
    assert changed(no_window, (0,)) == {"block_count": 11}


def test_an_explicit_pattern_is_sliced_as_it_is_stored(tmp_path: Path) -> None:
    pattern = kv_array("gpt-oss.attention.sliding_window_pattern", BOOL, 4, b"\1\0\1\0")
    model = model_of(tmp_path, "gpt-oss", 4, pattern)
    assert changed(model, (1,)) == {
        "block_count": 3,
        "attention.sliding_window_pattern": [True, True, False],
    }
    assert not legal_drop(model, (0, 2))


def test_recurrent_layers_become_an_array_when_the_interval_breaks(tmp_path: Path) -> None:
    model = model_of(tmp_path, "qwen3next", 8, kv_u32("qwen3next.full_attention_interval", 4))
    assert changed(model, (0, 1, 2, 3)) == {"block_count": 4}
    assert changed(model, (1,))["attention.recurrent_layers"] == [
        True, True, False, True, True, True, False,
    ]  # fmt: skip
    assert not legal_drop(model, (3, 7))  # no attention left


def test_hybrids_need_both_kinds(tmp_path: Path) -> None:
    heads = b"".join(n.to_bytes(4, "little") for n in (8, 0, 8, 0))
    model = model_of(tmp_path, "jamba", 4, kv_array("jamba.attention.head_count_kv", I32, 4, heads))
    assert legal_drop(model, (1,))
    assert not legal_drop(model, (1, 3))
    assert not legal_drop(model, (0, 2))


def test_experts_of_every_kth_layer_behind_dense_ones(tmp_path: Path) -> None:
    """ernie4_5-moe.cpp:64: layers 5 and 8 of these nine have experts."""
    step, dense = "ernie4_5-moe.interleave_moe_layer_step", "ernie4_5-moe.leading_dense_block_count"
    model = model_of(tmp_path, "ernie4_5-moe", 9, kv_u32(step, 3), kv_u32(dense, 4))
    assert not legal_drop(model, (3,))
    after = changed(model, (1, 2, 3))
    assert (after["interleave_moe_layer_step"], after["leading_dense_block_count"]) == (3, 1)
    after = changed(model, (0, 4, 6))  # experts in 3 and 5 of six
    assert (after["interleave_moe_layer_step"], after["leading_dense_block_count"]) == (2, 3)


def test_a_first_layer_of_another_kind_would_change_the_sizes_of_all(tmp_path: Path) -> None:
    rope = "gemma3.rope.dimension_count"
    windows = (kv_u32("gemma3.attention.sliding_window", 8), kv_u32(rope, 128))
    pattern = kv_u32("gemma3.attention.sliding_window_pattern", 3)  # layers 2 and 5 have none
    alike = model_of(tmp_path, "gemma3", 7, *windows, pattern, kv_u32(f"{rope}_swa", 128))
    assert legal_drop(alike, (0, 1))
    other = model_of(tmp_path, "gemma3", 7, *windows, pattern, kv_u32(f"{rope}_swa", 64))
    assert not legal_drop(other, (0, 1))
    assert legal_drop(other, (0,))
    flags = kv_array("gemma3.attention.sliding_window_pattern", BOOL, 4, b"\1\0\1\1")
    explicit = model_of(tmp_path, "gemma3", 4, *windows, flags, kv_u32(f"{rope}_swa", 64))
    assert not legal_drop(explicit, (0,))
    assert legal_drop(explicit, (0, 1))
    assert legal_drop(explicit, (2,))


def test_recurrent_layers_have_no_windows_and_other_sizes(tmp_path: Path) -> None:
    heads = b"".join(n.to_bytes(4, "little") for n in (0, 8, 0, 8))
    kvs = [
        kv_array("lfm2.attention.head_count_kv", I32, 4, heads),
        kv_u32("lfm2.rope.dimension_count", 128),
        kv_u32("lfm2.rope.dimension_count_swa", 64),
    ]
    assert legal_drop(model_of(tmp_path, "lfm2", 4, *kvs), (0,))  # no windows at all
    model = model_of(tmp_path, "lfm2", 4, *kvs, kv_u32("lfm2.attention.sliding_window", 8))
    assert not legal_drop(model, (0,))
    assert legal_drop(model, (0, 1))


def test_images_do_not_enter_at_a_layer_that_comes_first(tmp_path: Path) -> None:
    streams = b"".join(n.to_bytes(4, "little", signed=True) for n in (-1, 0, -1, 1))
    mapping = kv_array("granite.deepstack_mapping", I32, 4, streams)
    model = model_of(tmp_path, "granite", 4, mapping)
    assert not legal_drop(model, (0,))
    assert not legal_drop(model, (1,))  # nothing else takes in stream 0
    assert changed(model, (2,))["deepstack_mapping"] == [-1, 0, 1]


def test_the_first_layer_says_how_many_experts_are_picked(tmp_path: Path) -> None:
    used = b"".join(n.to_bytes(4, "little") for n in (2, 1, 2, 1))
    array = kv_array("llama.expert_used_count", I32, 4, used)
    model = model_of(tmp_path, "llama", 4, array)
    assert not legal_drop(model, (0,))
    assert legal_drop(model, (0, 1))
    assert changed(model, (1,))["expert_used_count"] == [2, 2, 1]
    array = kv_array("nemotron_h.expert_used_count", I32, 4, used)
    assert legal_drop(model_of(tmp_path, "nemotron_h", 4, array), (0,))  # asks each layer


def test_mtp_blocks_stay_or_go_together(tmp_path: Path) -> None:
    model = model_of(tmp_path, "glm4moe", 6, kv_u32("glm4moe.nextn_predict_layers", 2))
    assert changed(model, (3,)) == {"block_count": 5}
    assert changed(model, (3, 4, 5)) == {"block_count": 3, "nextn_predict_layers": 0}
    assert not legal_drop(model, (4,))
    assert not legal_drop(model, (0, 1, 2, 3))
    assert tuple(mtp_blocks(model)) == (4, 5)
    assert first_legal(model, (5, 4, 2, 1, 0, 3), 2) == (1, 2)  # never chosen: they cost nothing


def test_whole_periods_only_where_the_code_counts_layers(tmp_path: Path) -> None:
    model = model_of(tmp_path, "afmoe", 12)
    assert [n for n in range(12) if legal_drop(model, (n,))] == [11]
    assert legal_drop(model, (3, 4, 5, 6))
    assert legal_drop(model, (10, 11))
    runs = shortest_runs(model)
    assert runs[11] == (11,)
    assert runs[5] == (2, 3, 4, 5)
    near = nearest_legal(model, (4, 5, 6))
    assert len(near) == 3
    assert all(legal_drop(model, drop) for drop in near)


def test_another_architecture_hosts_what_this_one_cannot_express(tmp_path: Path) -> None:
    heads = kv_u32("smollm3.attention.head_count", 2)
    model = model_of(tmp_path, "smollm3", 8, heads)
    assert removal_change(model, whole(0, 1, 2, 3)).arch is None
    change = removal_change(model, whole(0, 1, 2, 4, 5, 6, 7))
    assert change.arch == "granite_swa"
    rope = change.values["smollm3.attention.rope_pattern"].decode()
    assert rope == [True, True, True, True, True, True, False]
    assert change.added["blk.6.attn_sinks.weight"].values == (-1e30, -1e30)


def test_baichuan_is_hosted_by_what_it_is(tmp_path: Path) -> None:
    for n_layer, host in ((32, "llama"), (40, "refact"), (24, None)):
        model = model_of(tmp_path, "baichuan", n_layer)
        assert removal_change(model, whole(*range(n_layer - 2))).arch == host
    assert not legal_drop(model_of(tmp_path, "baichuan", 33), (0,))


def test_a_layer_that_lends_its_keys_stays_with_the_borrowers(tmp_path: Path) -> None:
    model = model_of(tmp_path, "gemma4", 10, kv_u32("gemma4.attention.shared_kv_layers", 4))
    assert changed(model, (1, 8))["attention.shared_kv_layers"] == 3
    assert not legal_drop(model, (4,))
    assert legal_drop(model, (4, 6, 7, 8, 9))  # nobody is left to borrow


def test_an_indexer_stays_with_those_who_use_it(tmp_path: Path) -> None:
    top = kv_u32("glm-dsa.attention.indexer.top_k", 8)
    types = b"".join(n.to_bytes(4, "little") for n in (1, 0, 1, 0))
    model = model_of(
        tmp_path, "glm-dsa", 4, top, kv_array("glm-dsa.attention.indexer.types", I32, 4, types)
    )
    assert not legal_drop(model, (2,))
    assert legal_drop(model, (2, 3))
    assert changed(model, (1,))["attention.indexer.types"] == [1, 1, 0]
    by_default = model_of(tmp_path, "glm-dsa", 12, top, kv_u32("glm-dsa.context_length", 1 << 20))
    kept = changed(by_default, (3,))["attention.indexer.types"]
    assert kept == [1, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0]  # GLM 5.2's table, written down


def test_experts_every_k_layers(tmp_path: Path) -> None:
    model = model_of(tmp_path, "llama4", 8, kv_u32("llama4.interleave_moe_layer_step", 2))
    assert changed(model, (0, 1, 2, 3))["interleave_moe_layer_step"] == 2
    assert not legal_drop(model, (0,))


def test_the_first_layers_number_of_heads_is_written_down(tmp_path: Path) -> None:
    heads = b"".join(n.to_bytes(4, "little") for n in (8, 4, 4))
    model = model_of(
        tmp_path,
        "openelm",
        3,
        kv_u32("openelm.embedding_length", 512),
        kv_array("openelm.attention.head_count", I32, 3, heads),
    )
    assert changed(model, (0,))["attention.key_length"] == 64
    assert "attention.key_length" not in changed(model, (1,))


def test_an_unknown_architecture_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    gates = kv_array("newarch.gates", BOOL, 4, b"\1\0\1\0")
    model = model_of(tmp_path, "newarch", 4, gates, kv_u32("newarch.moe_every_n", 2))
    with pytest.raises(ArchitectureError) as refusal:
        legal_drop(model, (1,))
    for seen in ("newarch.gates has one entry", "newarch.moe_every_n", "--trust-uniform-layers"):
        assert seen in str(refusal.value)
    assert legal_drop(model, (1,), trust=True)
    kept = removal_change(model, whole(0, 2, 3), trust=True).values
    assert kept["newarch.gates"].decode() == [True, True, False]


def test_an_unknown_array_of_a_known_architecture_is_refused(tmp_path: Path) -> None:
    gates = kv_array("llama.gates", BOOL, 4, b"\1\0\1\0")
    model = model_of(tmp_path, "llama", 4, gates)
    with pytest.raises(ArchitectureError, match=r"llama.gates has one entry per layer \(4\)"):
        legal_drop(model, (1,))
    assert removal_change(model, whole(0, 2, 3), trust=True).values["llama.gates"].array_len == 3


def test_a_template_known_by_the_depth_is_noted(tmp_path: Path) -> None:
    model = model_of(tmp_path, "llama", 40, kv_str("tokenizer.ggml.pre", "tekken"))
    assert "chat template" in removal_change(model, whole(*range(39))).notes[0]
    other = model_of(tmp_path, "llama", 40, kv_str("tokenizer.ggml.pre", "llama-bpe"))
    assert removal_change(other, whole(*range(39))).notes == ()


def test_a_default_that_depends_on_the_depth_is_written_down(tmp_path: Path) -> None:
    model = model_of(tmp_path, "minicpm", 4)
    assert changed(model, (1,))["residual_scale"] == pytest.approx(0.7)


def test_deepseek_lite_stays_what_it_is(tmp_path: Path) -> None:
    model = model_of(tmp_path, "deepseek2", 27)
    assert changed(model, (5, 6))["attention.q_lora_rank"] == 0
    assert "attention.q_lora_rank" not in changed(model, (5,))  # 26 layers are lite as well


def test_choosing_prefers_the_least_important_legal_set(tmp_path: Path) -> None:
    model = model_of(tmp_path, "afmoe", 12)
    order = (5, 6, 4, 7, 3, 11, 10, 0, 1, 2, 8, 9)
    assert first_legal(model, order, 4) == (4, 5, 6, 7)
    assert first_legal(model, order, 1) == (11,)
    uniform = model_of(tmp_path, "llama", 12)
    assert first_legal(uniform, order, 3) == (4, 5, 6)


ROW = (5).to_bytes(4, "little") + (1).to_bytes(8, "little") + bytes(4)  # an array of one I32


@pytest.mark.parametrize(
    ("arch", "kvs", "message"),
    [
        ("qwen3next", [kv_u32("{}.full_attention_interval", 0)], "interval is 0, expected 1 to"),
        ("qwen3next", [kv_str("{}.full_attention_interval", "4")], "expected a whole number"),
        (
            "gpt-oss",
            [kv_array("{}.attention.sliding_window_pattern", BOOL, 2, b"\1\0")],
            "sliding_window_pattern has 2 entries, expected block_count = 8",
        ),
        (
            "gpt-oss",
            [kv_array("{}.attention.sliding_window_pattern", F32, 8, bytes(32))],
            "an array of 8 x FLOAT32, expected an array of whole numbers",
        ),
        (
            "gpt-oss",
            [kv_array("{}.attention.sliding_window_pattern", ARR, 8, ROW * 8)],
            "an array of 8 x ARRAY, expected an array of numbers",
        ),
        (
            "jamba",
            [kv_array("{}.attention.head_count_kv", I32, 3, bytes(12))],
            "head_count_kv has 3 entries, expected block_count = 8",
        ),
        (
            "deci",
            [kv_array("{}.feed_forward_length", I32, 2, bytes(8))],
            "feed_forward_length has 2 entries",
        ),
        ("glm4moe", [kv_u32("{}.nextn_predict_layers", 9)], "is 9, expected 0 to 8"),
        ("gemma4", [kv_u32("{}.attention.shared_kv_layers", 8)], "is 8, expected 0 to 6"),
        ("nanbeige", [kv_u32("{}.num_loops", 0)], "num_loops is 0, expected 1 to 64"),
        ("nanbeige", [kv_u32("{}.num_loops", 65)], "num_loops is 65, expected 1 to 64"),
        ("smollm3", [kv_u32("{}.attention.head_count", 1 << 31)], "expected 0 to 16384"),
        ("llama", [kv("{}.leading_dense_block_count", F32, b"\0\0\x80\x7f")], "is inf, expected"),
        (
            "qwen4exp",
            [kv_array("{}.ple.layers", I32, 2, bytes(8))],
            r"ple.layers is \(0, 0\), expected one layer",
        ),
    ],
)
def test_values_that_rules_cannot_use_are_named(
    tmp_path: Path, arch: str, kvs: list[bytes], message: str
) -> None:
    """They were divided by, indexed and multiplied: ZeroDivisionError, IndexError, MemoryError."""
    named = [_of_arch(value, arch) for value in kvs]
    with pytest.raises(FormatError, match=message):
        removal_change(model_of(tmp_path, arch, 8, *named), whole(0, 1, 2, 4, 5, 6, 7))


def test_an_array_speaks_of_all_stacks(tmp_path: Path) -> None:
    """A decoder's tensor makes two stacks of a model whose array has entries for one."""
    path = tmp_path / "model.gguf"
    flags = kv_array("gpt-oss.attention.sliding_window_pattern", BOOL, 4, b"\1\0\1\0")
    head = [kv_str("general.architecture", "gpt-oss"), kv_u32("gpt-oss.block_count", 4)]
    names = [f"{stack}blk.{i}.attn_q.weight" for stack in ("enc.", "dec.") for i in range(4)]
    tensors = [FakeTensor(name, bytes(32)) for name in names]
    path.write_bytes(build([*head, flags], tensors))
    with pytest.raises(FormatError, match="has 4 entries, expected block_count = 8"):
        removal_change(open_model(path), whole(0, 1, 2, 4, 5, 6, 7))


def _of_arch(value: bytes, arch: str) -> bytes:
    """The architecture's name in a key."""
    n = int.from_bytes(value[:8], "little")
    key = value[8 : 8 + n].replace(b"{}", arch.encode())
    return len(key).to_bytes(8, "little") + key + value[8 + n :]


def test_without_any_layer_of_the_trunk_no_rule_is_asked(tmp_path: Path) -> None:
    model = model_of(tmp_path, "minicpm", 4, kv_u32("minicpm.nextn_predict_layers", 4))
    assert not legal_drop(model, (1,))  # and nothing is divided by 0 layers


def test_llama_cpp_computes_no_more_than_512_layers(tmp_path: Path) -> None:
    assert legal_drop(model_of(tmp_path, "llama", 512), (1,))
    with pytest.raises(ArchitectureError, match=r"has 513 layers, llama\.cpp computes at most 512"):
        legal_drop(model_of(tmp_path, "llama", 513), (1,))


def test_the_deepest_models_are_looked_through_in_seconds(tmp_path: Path) -> None:
    """Every layer, alone and in runs; the step of experts was looked for layer by layer."""
    step = kv_u32("llama4.interleave_moe_layer_step", 7)
    model = model_of(tmp_path, "llama4", 512, step)
    start = time.process_time()
    runs = shortest_runs(model)
    assert runs[511] == (511,)
    assert runs[0] is None
    drop = (1, *range(3, 200))
    near = nearest_legal(model, drop)
    assert near
    assert all(legal_drop(model, other) for other in near)
    assert time.process_time() - start < 20
