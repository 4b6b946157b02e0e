from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from ggprune.arch import choose_legal, legal_drop, nearest_legal, removal_metadata
from ggprune.arch.rules import RULES
from ggprune.arch.schedules import recurrent_flags, removed_below, swa_flags
from ggprune.model import Model, open_model
from tests.gguf_files import (
    BOOL,
    I32,
    build,
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
        for key, value in removal_metadata(model, keep).items()
    }


def test_every_rule_is_known_and_used() -> None:
    data = json.loads(files("ggprune.arch").joinpath("architectures.json").read_text("utf-8"))
    rows = data["architectures"].values()
    named = {rule["rule"] for row in rows for rule in row.get("rules", ())}
    assert named == set(RULES) - {"generic"}
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


def test_mtp_blocks_stay(tmp_path: Path) -> None:
    model = model_of(tmp_path, "glm4moe", 5, kv_u32("glm4moe.nextn_predict_layers", 1))
    assert changed(model, (3,)) == {"block_count": 4}
    assert not legal_drop(model, (4,))
    assert not legal_drop(model, (0, 1, 2, 3))


def test_whole_periods_only_where_the_code_counts_layers(tmp_path: Path) -> None:
    model = model_of(tmp_path, "smollm3", 12)
    assert [n for n in range(12) if legal_drop(model, (n,))] == [11]
    assert legal_drop(model, (3, 4, 5, 6))
    assert legal_drop(model, (10, 11))
    near = nearest_legal(model, (4, 5, 6))
    assert len(near) == 3
    assert all(legal_drop(model, drop) for drop in near)


def test_a_default_that_depends_on_the_depth_is_written_down(tmp_path: Path) -> None:
    model = model_of(tmp_path, "minicpm", 4)
    assert changed(model, (1,))["residual_scale"] == pytest.approx(0.7)


def test_deepseek_lite_stays_what_it_is(tmp_path: Path) -> None:
    model = model_of(tmp_path, "deepseek2", 27)
    assert changed(model, (5, 6))["attention.q_lora_rank"] == 0
    assert "attention.q_lora_rank" not in changed(model, (5,))  # 26 layers are lite as well


def test_choosing_prefers_the_least_important_legal_set(tmp_path: Path) -> None:
    model = model_of(tmp_path, "smollm3", 12)
    order = (5, 6, 4, 7, 3, 11, 10, 0, 1, 2, 8, 9)
    assert choose_legal(model, order, 4) == (4, 5, 6, 7)
    assert choose_legal(model, order, 1) == (11,)
    uniform = model_of(tmp_path, "llama", 12)
    assert choose_legal(uniform, order, 3) == (4, 5, 6)
