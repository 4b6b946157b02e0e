"""Options as text, and patterns as llama.cpp's own expressions read them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from ggprune.errors import DataError, LlamaError, UsageError
from ggprune.model.model import Model
from ggprune.quantize.checks import check_types
from ggprune.quantize.options import (
    FILE_TYPES,
    KvOverride,
    QuantizeOptions,
    TensorTypeRule,
    parse_overrides,
    parse_rule,
    parse_tensor_type,
    parse_type,
    read_rules,
)
from ggprune.quantize.patterns import exact_rules, match_rules
from ggprune.quantize.quantizer import dry_run


def test_types_have_names_and_numbers() -> None:
    assert (parse_type("15"), parse_type("0"), parse_type("copy")) == ("Q4_K_M", "F32", "COPY")
    assert all(FILE_TYPES[parse_type(str(n))] == n for n in FILE_TYPES.values())
    with pytest.raises(UsageError, match="'99' is not a quantization type"):
        parse_type("99")
    with pytest.raises(UsageError, match="is not a quantization type"):
        parse_type("9" * 5000)
    assert parse_tensor_type("q6_k") == "Q6_K"
    for name in ("q8_1", "q8_k", "i32", "f64", "q4_k_m"):
        with pytest.raises(UsageError, match="is not a type of tensors"):
            parse_tensor_type(name)


def test_rules_are_read_as_llama_quantize_reads_them(tmp_path: Path) -> None:
    assert parse_rule(r"BLK\.1\.=q8_0") == TensorTypeRule(r"blk\.1\.", "Q8_0")
    path = tmp_path / "rules.txt"
    path.write_text("attn_v=q6_k ffn_down=q5_k\n\nffn_up=q4_k\n")
    assert [rule.type for rule in read_rules(path)] == ["Q6_K", "Q5_K", "Q4_K"]
    for text in ("", "=q8_0", "attn_v", "attn_v="):
        with pytest.raises(UsageError, match="write REGEX=TYPE"):
            parse_rule(text)
    path.write_text("")
    with pytest.raises(DataError, match="has no REGEX=TYPE"):
        read_rules(path)
    path.write_bytes(b"attn_v=q6_k\r\nnonsense\r\n")
    with pytest.raises(DataError, match=r"rules\.txt: nonsense: write REGEX=TYPE"):
        read_rules(path)


def test_overrides_that_would_be_changed_are_refused() -> None:
    texts = ["a=int:7", "b=float:-0.5", "c=bool:true", "d=str:x=y:z", "e=str:"]
    assert parse_overrides(texts) == (
        KvOverride("a", 7), KvOverride("b", -0.5), KvOverride("c", True), KvOverride("d", "x=y:z"),
        KvOverride("e", ""),
    )  # fmt: skip
    bad = ["a", "a=7", "a=int:-1", "a=int:4294967296", "a=int:7x", f"a=int:{'9' * 5000}",
           "a=float:1x", "a=float:nan", "a=float:1e39", "a=bool:yes",
           f"a=str:{'x' * 128}", f"{'k' * 128}=int:1",
           "general.alignment=int:64", "split.count=int:1"]  # fmt: skip
    for text in bad:
        with pytest.raises(UsageError, match="--override-kv"):
            parse_overrides([text])
    assert math.isclose(float(parse_overrides(["a=float:3.4e38"])[0].value), 3.4e38)


def test_options_that_would_do_nothing_are_refused() -> None:
    rule = (TensorTypeRule("attn", "Q8_0"),)
    with pytest.raises(UsageError, match="--tensor-type has no effect on F16"):
        QuantizeOptions("F16", tensor_types=rule)
    with pytest.raises(UsageError, match="--bump-interface has no effect on COPY"):
        QuantizeOptions("COPY", bump_interface="Q8_0")
    with pytest.raises(UsageError, match="not both"):
        QuantizeOptions("Q8_0", include_weights=("a",), exclude_weights=("b",))


def test_llama_cpp_says_what_a_pattern_matches(tiny: Model) -> None:
    rules = [
        TensorTypeRule(r"blk\.[12]\.ffn_down", "Q8_0"), TensorTypeRule(r"blk\.\d\.ffn_", "Q4_0"),
        TensorTypeRule(r"blk.3.attn_v", "Q4_K"), TensorTypeRule("norm", "Q2_K"),
    ]  # fmt: skip
    found = match_rules(tiny, rules)
    assert found["blk.1.ffn_down.weight"] == found["blk.2.ffn_down.weight"] == "Q8_0"
    assert found["blk.3.ffn_down.weight"] == found["blk.2.ffn_up.weight"] == "Q4_0"
    assert found["blk.3.attn_v.weight"] == "Q4_K"
    assert len(found) == 9 * 3 + 1  # and no norm: these are never quantized
    with pytest.raises(LlamaError, match=r"--tensor-type fails: .*regular expression"):
        match_rules(tiny, [TensorTypeRule("(blk", "Q8_0")])


def test_exact_rules_match_their_names_alone(tiny: Model) -> None:
    types = {
        "blk.1.attn_v.weight": "Q8_0", "blk.2.attn_v.weight": "Q8_0",
        "blk.8.ffn_up.weight": "Q5_K", "token_embd.weight": "Q6_K",
    }  # fmt: skip
    rules = exact_rules(types)
    assert len(rules) == 3
    assert match_rules(tiny, rules) == types


def test_rows_that_a_forced_type_does_not_fit_are_refused(tiny: Model) -> None:
    """llama.cpp would abort the process."""
    narrow = replace(tiny.by_name["token_embd.weight"], shape=(96, 4))
    options = QuantizeOptions("Q8_0", token_embedding_type="Q4_K")
    with pytest.raises(UsageError, match="rows of 96, Q4_K needs multiples of 256"):
        dry_run(replace(tiny, tensors=(narrow,)), options, None)


def test_a_low_type_names_the_tensor_that_needs_a_matrix(tiny: Model) -> None:
    options = QuantizeOptions("Q2_K_S")
    types = dry_run(tiny, options, None)
    with pytest.raises(LlamaError, match=r"blk\.\d\.\w+\.weight would become Q2_K; give one"):
        check_types(tiny, types, options, None)
