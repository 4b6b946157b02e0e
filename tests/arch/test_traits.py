from __future__ import annotations

from pathlib import Path

import pytest

from ggprune.arch.architecture import layer_traits
from ggprune.report.blocks import terminal
from ggprune.report.model import blocks, describe
from tests.arch.families import FAMILIES

EXPECTED = {
    "llama4": {0: "window", 3: "NoPE"},
    "smallthinker by period": {0: "NoPE", 1: "window 8"},
    "cohere2": {2: "window 8", 3: "NoPE"},
    "gemma4 shared KV": {5: "window 8", 8: "window 8, keys of layer 6", 11: "keys of layer 7"},
    "glm4moe with MTP": {10: "", 11: "MTP"},
    "glm-dsa": {3: "", 5: "index of layer 3"},
    "kimi-linear": {0: "", 1: "recurrent"},
    "qwen35moe by interval": {2: "recurrent", 3: ""},
    "t5": {11: "encoder", 12: "decoder"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_layers_are_what_llama_cpp_makes_of_them(name: str, tmp_path: Path) -> None:
    model = next(f for f in FAMILIES if f.name == name).make(tmp_path)
    traits = layer_traits(model)
    assert {n: ", ".join(traits[n]) for n in EXPECTED[name]} == EXPECTED[name]


def test_inspect_says_what_goes_together(tmp_path: Path) -> None:
    model = next(f for f in FAMILIES if f.name == "llama4").make(tmp_path)
    description = describe(model)
    shown = terminal(blocks(description))
    assert "alone: 11; only with others: 0-10" in shown
    assert "attention + MoE, NoPE" in shown
    layers = description.layers
    assert layers[0].removable_with == (0, 1, 2, 3)
    assert [layer.removable for layer in layers] == [False] * 11 + [True]
