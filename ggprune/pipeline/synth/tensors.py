"""Which tensors a shape has, how large they are and how large their numbers.

Names and sizes are those that llama.cpp's src/models/*.cpp ask for. Says nothing about types.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from ggprune.pipeline.synth.shapes import RopeScaling, Shape

ROPE_FREQS = "rope_freqs.weight"
MIDDLE = 0.2  # of the ends' weight in the residual stream

Row = tuple[str, ...]  # name of a tensor, then its sizes in ggml order: row length first

_ATTENTION: tuple[Row, ...] = (
    ("attn_norm.weight", "embd"), ("attn_q.weight", "embd", "q"), ("attn_k.weight", "embd", "kv"),
    ("attn_v.weight", "embd", "kv"), ("attn_output.weight", "q", "embd"),
    ("ffn_norm.weight", "embd"),
)  # fmt: skip
_DENSE: tuple[Row, ...] = (
    ("ffn_gate.weight", "embd", "ff"), ("ffn_up.weight", "embd", "ff"),
    ("ffn_down.weight", "ff", "embd"),
)  # fmt: skip
_EXPERTS: tuple[Row, ...] = (
    ("ffn_gate_inp.weight", "embd", "expert"),
    ("ffn_gate_exps.weight", "embd", "ff_expert", "expert"),
    ("ffn_up_exps.weight", "embd", "ff_expert", "expert"),
    ("ffn_down_exps.weight", "ff_expert", "embd", "expert"),
)
_QKV_BIAS: tuple[Row, ...] = (
    ("attn_q.bias", "q"), ("attn_k.bias", "kv"), ("attn_v.bias", "kv"),
)  # fmt: skip
_QK_NORM: tuple[Row, ...] = (("attn_q_norm.weight", "head"), ("attn_k_norm.weight", "head"))
_GPT2: tuple[Row, ...] = (
    ("attn_norm.weight", "embd"), ("attn_norm.bias", "embd"),
    ("attn_qkv.weight", "embd", "qkv"), ("attn_qkv.bias", "qkv"),
    ("attn_output.weight", "q", "embd"), ("attn_output.bias", "embd"),
    ("ffn_norm.weight", "embd"), ("ffn_norm.bias", "embd"),
    ("ffn_up.weight", "embd", "ff"), ("ffn_up.bias", "ff"),
    ("ffn_down.weight", "ff", "embd"), ("ffn_down.bias", "embd"),
)  # fmt: skip

BLOCKS: dict[str, tuple[Row, ...]] = {
    "llama": _ATTENTION + _DENSE,
    "qwen2": _ATTENTION + _QKV_BIAS + _DENSE,
    "qwen3": _ATTENTION + _QK_NORM + _DENSE,
    "qwen3moe": _ATTENTION + _QK_NORM + _EXPERTS,
    "gpt2": _GPT2,
}
OUTSIDE: dict[str, tuple[Row, ...]] = {
    "gpt2": (("position_embd.weight", "embd", "ctx"), ("output_norm.bias", "embd"))
}
WRITERS = ("attn_output.weight", "ffn_down.weight", "ffn_down_exps.weight")
# Matrices that llama.cpp's converter (conversion/base.py) keeps in F32.
ALWAYS_F32 = ("ffn_gate_inp.weight", "position_embd.weight")


@dataclass(frozen=True)
class Weights:
    """A tensor of normally distributed numbers, or of the given `values`."""

    name: str
    shape: tuple[int, ...]  # ggml order
    _: KW_ONLY
    mean: float = 0.0
    sigma: float = 0.0
    values: tuple[float, ...] = ()

    @property
    def n_element(self) -> int:
        return math.prod(self.shape)

    @property
    def source_type(self) -> str:
        """The type that a conversion to F16 stores it in."""
        return "F32" if len(self.shape) == 1 or self.name.endswith(ALWAYS_F32) else "F16"


def depth_profile(n_layer: int) -> tuple[float, ...]:
    """How strongly each layer writes into the residual stream: 1 at both ends, less between.

    A parabola with its bottom (0.2) in the middle, because layers of trained models differ in this
    way: the first ones matter most, those behind the middle least, the last ones more again
    (ShortGPT; Gromov et al.). The stream grows with depth, so the end weighs less than the start.
    """
    last = max(n_layer - 1, 1)
    offsets = [2 * i / last - 1 for i in range(n_layer)]  # -1 to 1
    return tuple(MIDDLE + (1 - MIDDLE) * x * x for x in offsets)


def make_tensors(shape: Shape) -> tuple[Weights, ...]:
    """All tensors in file order.

    Matrices have sigma 1 / sqrt(row length), so that their output is as large as their input;
    those that write into the residual stream are scaled by `depth_profile`. Norms are 1, biases 0.
    """
    sizes = _sizes(shape)
    rows: list[tuple[float, Row]] = [(1.0, ("token_embd.weight", "embd", "vocab"))]
    rows += [(1.0, row) for row in OUTSIDE.get(shape.arch, ())]
    for i, factor in enumerate(depth_profile(shape.n_layer)):
        rows += [
            (factor if name in WRITERS else 1.0, (f"blk.{i}.{name}", *dims))
            for name, *dims in BLOCKS[shape.arch]
        ]
    rows.append((1.0, ("output_norm.weight", "embd")))
    if not shape.tied:
        rows.append((1.0, ("output.weight", "embd", "vocab")))
    tensors = [
        _weights(name, tuple(sizes[dim] for dim in dims), factor) for factor, (name, *dims) in rows
    ]
    if shape.rope_scaling is not None and shape.rope_base is not None:
        factors = rope_factors(shape.rope_scaling, shape.rope_base, shape.head_dim)
        tensors.append(Weights(ROPE_FREQS, (len(factors),), values=factors))
    return tuple(tensors)


def count_parameters(tensors: tuple[Weights, ...]) -> int:
    """Trained numbers, as model cards count them: without the table of RoPE factors."""
    return sum(tensor.n_element for tensor in tensors if tensor.name != ROPE_FREQS)


def rope_factors(scaling: RopeScaling, base: float, head_dim: int) -> tuple[float, ...]:
    """What the rotation of each pair is slowed down by; llama.cpp's conversion/llama.py."""
    n_ctx = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    factors = []
    for i in range(0, head_dim, 2):
        waves = n_ctx / (2 * math.pi * base ** (i / head_dim))  # within the original context
        smooth = min(max((waves - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return tuple(factors)


def _sizes(shape: Shape) -> dict[str, int]:
    q, kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    return {
        "vocab": shape.n_vocab, "ctx": shape.n_ctx, "embd": shape.n_embd, "head": shape.head_dim,
        "q": q, "kv": kv, "qkv": q + 2 * kv,
        "ff": shape.n_ff, "ff_expert": shape.n_ff_expert, "expert": shape.n_expert,
    }  # fmt: skip


def _weights(name: str, shape: tuple[int, ...], factor: float) -> Weights:
    if name.endswith(".bias"):
        return Weights(name, shape)
    if name.endswith("norm.weight"):
        return Weights(name, shape, mean=1.0)
    return Weights(name, shape, sigma=factor / math.sqrt(shape[0]))
