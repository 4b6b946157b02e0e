"""Sizes of well-known models: shapes.json, figures of the config.json of each on Hugging Face.

`source` names the repository there; the fields keep the names they have in its config.json. `arch`
is llama.cpp's name of the architecture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from ggprune.errors import UsageError
from ggprune.files.documents import decode

MAX_LAYERS = 512  # llama.cpp: src/llama-hparams.h, LLAMA_MAX_LAYERS


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's way of stretching the context: long waves are slowed down by `factor`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Everything about a model but its weights and its vocabulary's texts."""

    name: str
    source: str
    arch: str
    n_vocab: int
    n_embd: int
    n_layer: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ctx: int
    norm_eps: float
    tied: bool  # the output matrix is the embedding matrix
    rope_base: float | None = None
    rope_scaling: RopeScaling | None = None
    n_expert: int = 0
    n_expert_used: int = 0
    n_ff_expert: int = 0


@cache
def known_shapes() -> tuple[Shape, ...]:
    """All shapes of the table, by name."""
    table = json.loads((files("ggprune.pipeline.synth") / "shapes.json").read_text("utf-8"))
    return tuple(_parse(name, config) for name, config in sorted(table.items()))


def find_shape(name: str, n_layer: int | None = None) -> Shape:
    """The shape of that name, case ignored, with another depth if one is given.

    Raises UsageError if there is none.
    """
    by_name = {shape.name: shape for shape in known_shapes()}
    if name.lower() not in by_name:
        raise UsageError(f"'{name}' is not a known shape: {', '.join(by_name)}")
    shape = by_name[name.lower()]
    if n_layer is None:
        return shape
    if not 1 <= n_layer <= MAX_LAYERS:
        raise UsageError(f"{n_layer} layers: llama.cpp loads 1 to {MAX_LAYERS}")
    return replace(shape, n_layer=n_layer)


def _parse(name: str, config: Mapping[str, object]) -> Shape:
    """As llama.cpp's converter reads a config.json: GPT-2 has names of its own."""
    n_embd = _number(config, "hidden_size", "n_embd")
    n_head = _number(config, "num_attention_heads", "n_head")
    document = {
        "name": name,
        "source": config["source"],
        "arch": config["arch"],
        "n_vocab": config["vocab_size"],
        "n_embd": n_embd,
        "n_layer": _number(config, "num_hidden_layers", "n_layer"),
        "n_ff": config.get("intermediate_size", 4 * n_embd),
        "n_head": n_head,
        "n_head_kv": config.get("num_key_value_heads", n_head),
        "head_dim": config.get("head_dim", n_embd // n_head),
        "n_ctx": _number(config, "max_position_embeddings", "n_ctx"),
        "norm_eps": config.get("rms_norm_eps", config.get("layer_norm_epsilon")),
        "tied": config["tie_word_embeddings"],
        "rope_base": config.get("rope_theta"),
        "rope_scaling": config.get("rope_scaling"),
        "n_expert": config.get("num_experts", 0),
        "n_expert_used": config.get("num_experts_per_tok", 0),
        "n_ff_expert": config.get("moe_intermediate_size", 0),
    }
    return decode(Shape, document)


def _number(config: Mapping[str, object], *names: str) -> int:
    return decode(int, next(config[name] for name in names if name in config))
