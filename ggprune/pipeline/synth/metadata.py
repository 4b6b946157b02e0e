"""The metadata of a synthetic model: what llama.cpp's converter writes, and a vocabulary.

The vocabulary has the size of the real one and tokenizes any text, into characters and bytes; the
tokens of the real one are not known here.
"""

from __future__ import annotations

from ggprune.model.metadata import Value, ValueType, array, scalar, string
from ggprune.pipeline.synth.shapes import Shape
from ggprune.version import __version__

SPACE = "\u2581"  # how SentencePiece writes a space
SPECIAL = ("<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
CHARACTERS = (SPACE, *(chr(i) for i in range(ord("!"), ord("~") + 1)))
NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6  # LLAMA_TOKEN_TYPE_*


# Keys behind the architecture's name, and the fields of a shape that they hold.
SIZES = {
    "vocab_size": "n_vocab", "block_count": "n_layer", "context_length": "n_ctx",
    "embedding_length": "n_embd", "feed_forward_length": "n_ff",
    "attention.head_count": "n_head", "attention.head_count_kv": "n_head_kv",
}  # fmt: skip
HEAD_SIZES = ("attention.key_length", "attention.value_length", "rope.dimension_count")
EXPERTS = {
    "expert_count": "n_expert", "expert_used_count": "n_expert_used",
    "expert_feed_forward_length": "n_ff_expert",
}  # fmt: skip


def make_metadata(shape: Shape, seed: int) -> dict[str, Value]:
    """Everything but the keys that a quantizer adds."""
    return {
        "general.architecture": string(shape.arch),
        "general.name": string(f"{shape.name} with random weights"),
        "ggprune.version": string(__version__),
        "ggprune.synth.shape": string(shape.name),
        "ggprune.synth.seed": _u32(seed),
        **{f"{shape.arch}.{key}": value for key, value in _sizes(shape).items()},
        **_vocabulary(shape),
    }


def _sizes(shape: Shape) -> dict[str, Value]:
    values = {key: _u32(getattr(shape, field)) for key, field in SIZES.items()}
    epsilon = scalar(ValueType.FLOAT32, shape.norm_eps)
    if shape.rope_base is None:  # learned positions: GPT-2, whose norms have a mean as well
        return {**values, "attention.layer_norm_epsilon": epsilon}
    values["attention.layer_norm_rms_epsilon"] = epsilon
    values |= {key: _u32(shape.head_dim) for key in HEAD_SIZES}
    values["rope.freq_base"] = scalar(ValueType.FLOAT32, shape.rope_base)
    experts = EXPERTS if shape.n_expert else {}
    return values | {key: _u32(getattr(shape, field)) for key, field in experts.items()}


def _vocabulary(shape: Shape) -> dict[str, Value]:
    known = (*SPECIAL, *BYTES, *CHARACTERS)
    tokens = [*known, *(f"[PAD{i}]" for i in range(len(known), shape.n_vocab))][: shape.n_vocab]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * len(BYTES), *[NORMAL] * len(CHARACTERS)]
    types = [*types, *[UNUSED] * shape.n_vocab][: shape.n_vocab]
    return {
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": array(ValueType.STRING, tokens),
        "tokenizer.ggml.scores": array(ValueType.FLOAT32, [0.0] * shape.n_vocab),
        "tokenizer.ggml.token_type": array(ValueType.INT32, types),
        "tokenizer.ggml.unknown_token_id": _u32(0),
        "tokenizer.ggml.bos_token_id": _u32(1),
        "tokenizer.ggml.eos_token_id": _u32(2),
        "tokenizer.ggml.add_bos_token": scalar(ValueType.BOOL, True),
    }


def _u32(number: int) -> Value:
    return scalar(ValueType.UINT32, number)
