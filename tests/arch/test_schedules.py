"""Schedules that a file leaves to llama.cpp's defaults: periods, intervals, depth, MTP blocks.

The committed metadata states its patterns as arrays; here they are taken away or changed, so that
what ggprune writes in their place is proved against llama.cpp itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.arch import architecture_of, legal_drop
from ggprune.model import Value, ValueType, open_model
from ggprune.model.metadata import scalar
from ggprune.runtime.taps import ablation_taps
from tests.conftest import FIXTURES
from tests.helpers import logits_of, pruned_copy, random_tokens
from tests.random_models import derive_metadata, make_random_model, without_keys

N_TOKEN = 96
WINDOW, PATTERN = "{arch}.attention.sliding_window", "{arch}.attention.sliding_window_pattern"
RECURRENT = "{arch}.attention.recurrent_layers"


def u32(n: int) -> Value:
    return scalar(ValueType.UINT32, n)


BY_PERIOD: dict[str, Value | None] = {WINDOW: u32(8), PATTERN: None}
CASES: dict[str, tuple[str, str, dict[str, Value | None]]] = {
    "gemma2": ("llama", "gemma2", BY_PERIOD),
    "gemma3": ("gemma3", "gemma3", BY_PERIOD),
    "gemma3 period 4": ("gemma3", "gemma3", {WINDOW: u32(8), PATTERN: u32(4)}),
    "cohere2": ("llama", "cohere2", BY_PERIOD),
    "cohere2moe": ("cohere2moe", "cohere2moe", BY_PERIOD),
    "olmo2": ("olmo2", "olmo2", BY_PERIOD),
    "mellum": ("mellum", "mellum", BY_PERIOD),
    "exaone-moe": ("exaone-moe", "exaone-moe", BY_PERIOD),
    "gpt-oss": ("qwen3moe", "gpt-oss", BY_PERIOD),
    "afmoe": ("afmoe", "afmoe", BY_PERIOD),
    "smallthinker": ("smallthinker", "smallthinker", BY_PERIOD),
    "laguna": ("deepseek", "laguna", BY_PERIOD),
    "qwen35moe": ("qwen35moe", "qwen35moe", {RECURRENT: None}),
    "minicpm": ("minicpm", "minicpm", {"{arch}.residual_scale": None}),
    "deepseek": ("deepseek", "deepseek", {"{arch}.leading_dense_block_count": u32(3)}),
    "glm4moe": ("llama", "glm4moe", {}),
    "deepseek2": ("deepseek32", "deepseek2", {}),
    "command-r": ("llama", "command-r", {}),
    "exaone4": ("llama", "exaone4", {}),
}
SETS = ((3,), (3, 6), (4, 5, 6, 7), (0,), (0, 1, 2, 3), (10,))


@pytest.mark.parametrize("name", CASES)
def test_what_replaces_a_default_is_exact(name: str, tmp_path: Path) -> None:
    donor, arch_name, changes = CASES[name]
    fixture = FIXTURES / "arch" / f"{donor}.gguf"
    metadata = derive_metadata(fixture, arch_name, changes, tmp_path / "metadata.gguf")
    saved = make_random_model(metadata, tmp_path / "saved.gguf")
    gone = [key for key, value in changes.items() if value is None]
    model = open_model(without_keys(saved, gone, tmp_path / "in.gguf"))
    for key, value in changes.items():
        assert (value is None) == (key.format(arch=arch_name) not in model.metadata), key
    arch, tokens = architecture_of(model), random_tokens(128, N_TOKEN)
    n_exact = 0
    for drop in SETS:
        if not legal_drop(model, drop):
            continue
        predicted = logits_of(model.path, tokens, 48, ablation_taps(arch, drop))
        out = tmp_path / f"{'-'.join(map(str, drop))}.gguf"
        written = logits_of(pruned_copy(model, drop, out).path, tokens, 48)
        assert np.array_equal(predicted, written), drop
        n_exact += 1
    assert n_exact >= (1 if name in ("afmoe", "smallthinker") else 5)
