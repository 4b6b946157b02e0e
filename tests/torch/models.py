"""Small models with random weights that both llama.cpp and transformers read, of five families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from ggprune.model.model import Model, open_model
from tests.conftest import FIXTURES

N_LAYER, N_EMBD, N_FF, N_HEAD, N_VOCAB = 7, 64, 96, 4, 1024
Shapes = Mapping[str, tuple[int, ...]]  # rows first


@dataclass(frozen=True)
class Family:
    """An architecture: what stands in its metadata, and the tensors of a layer and around them."""

    arch: str
    layer: Shapes
    around: Shapes
    head_dim: int = 16
    n_ff: int = N_FF
    n_head_kv: int = 2
    more: Callable[[gguf.GGUFWriter], object] = lambda _: None


def _attention(head_dim: int, n_kv: int) -> dict[str, tuple[int, ...]]:
    return {
        "attn_q.weight": (N_HEAD * head_dim, N_EMBD),
        "attn_k.weight": (n_kv * head_dim, N_EMBD),
        "attn_v.weight": (n_kv * head_dim, N_EMBD),
        "attn_output.weight": (N_EMBD, N_HEAD * head_dim),
        "attn_norm.weight": (N_EMBD,),
    }


GATED = {
    "ffn_gate.weight": (N_FF, N_EMBD), "ffn_up.weight": (N_FF, N_EMBD),
    "ffn_down.weight": (N_EMBD, N_FF), "ffn_norm.weight": (N_EMBD,),
}  # fmt: skip
AROUND = {"token_embd.weight": (N_VOCAB, N_EMBD), "output_norm.weight": (N_EMBD,)}
QWEN2_BIASES = {"attn_q.bias": (64,), "attn_k.bias": (32,), "attn_v.bias": (32,)}
GPT2 = {  # transformers takes its FFN to be four times as wide as the stream
    "attn_qkv.weight": (3 * N_EMBD, N_EMBD), "attn_qkv.bias": (3 * N_EMBD,),
    "attn_output.weight": (N_EMBD, N_EMBD), "attn_output.bias": (N_EMBD,),
    "ffn_up.weight": (4 * N_EMBD, N_EMBD), "ffn_up.bias": (4 * N_EMBD,),
    "ffn_down.weight": (N_EMBD, 4 * N_EMBD), "ffn_down.bias": (N_EMBD,),
    "attn_norm.weight": (N_EMBD,), "attn_norm.bias": (N_EMBD,),
    "ffn_norm.weight": (N_EMBD,), "ffn_norm.bias": (N_EMBD,),
}  # fmt: skip
GPT2_AROUND = {"output_norm.bias": (N_EMBD,), "position_embd.weight": (1024, N_EMBD)}
QWEN3_NORMS = {"attn_q_norm.weight": (128,), "attn_k_norm.weight": (128,)}
GEMMA3_NORMS = {
    "attn_q_norm.weight": (256,), "attn_k_norm.weight": (256,),
    "post_attention_norm.weight": (N_EMBD,), "post_ffw_norm.weight": (N_EMBD,),
}  # fmt: skip

FAMILIES = {
    family.arch: family
    for family in (
        Family("llama", _attention(16, 2) | GATED, AROUND),
        Family("qwen2", _attention(16, 2) | QWEN2_BIASES | GATED,
               AROUND | {"output.weight": (N_VOCAB, N_EMBD)}),
        Family("qwen3", _attention(128, 2) | QWEN3_NORMS | GATED, AROUND, head_dim=128),
        Family("gemma3", _attention(256, 1) | GEMMA3_NORMS | GATED, AROUND, head_dim=256,
               n_head_kv=1, more=lambda writer: writer.add_sliding_window(16)),
        Family("gpt2", GPT2, AROUND | GPT2_AROUND, n_ff=4 * N_EMBD, n_head_kv=N_HEAD),
    )
}  # fmt: skip


def write_model(arch: str, path: Path, *, seed: int = 0, sigma: float = 0.08) -> Model:
    """All of it in 32-bit floats; the vocabulary is that of the tiny fixture."""
    family, rng = FAMILIES[arch], np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(f"random {arch}")
    writer.add_context_length(1024)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(family.n_ff)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(family.n_head_kv)
    if arch == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_key_length(family.head_dim)
        writer.add_value_length(family.head_dim)
        writer.add_rope_dimension_count(family.head_dim)
        writer.add_rope_freq_base(10000.0)
    family.more(writer)
    _add_vocabulary(writer)
    shapes = dict(family.around)
    for n in range(N_LAYER):
        shapes |= {f"blk.{n}.{name}": shape for name, shape in family.layer.items()}
    for name, shape in shapes.items():
        values = rng.normal(size=shape) * sigma + (1.0 if "norm.weight" in name else 0.0)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_model(path)


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    reader = gguf.GGUFReader(FIXTURES / "tiny.gguf")
    for key, field in reader.fields.items():
        if key.startswith("tokenizer.") and key != "tokenizer.chat_template":
            kind, *inner = field.types
            writer.add_key_value(key, field.contents(), kind, inner[0] if inner else None)
