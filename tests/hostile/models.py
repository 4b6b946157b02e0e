"""Variants of the trained model that a reader accepts and llama.cpp may not: how each is made."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ggprune.model.gguf import Tensor, read_gguf
from tests.fuzz.gguf_parts import ARR, BOOL, F32, STR, U8, Part, Parts, TensorPart, numbers, text

TINY = Path(__file__).parent.parent.parent / "fixtures" / "tiny.gguf"
WIDTH = {0: 4, 1: 2, 26: 4}  # bytes of F32, F16, I32
HUGE = 2**32 - 1

Edit = Callable[[Parts], object]


def parts_of(path: Path) -> Parts:
    file, data = read_gguf(path), path.read_bytes()
    values = [Part(k.encode(), int(v.type), bytes(v.raw)) for k, v in file.metadata.items()]

    def part(t: Tensor) -> TensorPart:
        raw = data[t.offset : t.offset + t.size_bytes]
        return TensorPart(t.name.encode(), list(t.shape), raw, t.type.id)

    return Parts(values, list(map(part, file.tensors)))


def made(name: str, folder: Path) -> Path:
    """The variant of that name, as a file."""
    parts, path = parts_of(TINY), folder / f"{name}.gguf"
    VARIANTS[name](parts)
    path.write_bytes(parts.pack())
    return path


def number(key: str, n: int) -> Edit:
    return lambda parts: parts.put_u32(key.encode(), n)


def fraction(key: str, x: float) -> Edit:
    return lambda parts: parts.put(key.encode(), F32, struct.pack("<f", x))


def string(key: str, content: str) -> Edit:
    return lambda parts: parts.put_text(key.encode(), content.encode())


def strings(key: str, *items: bytes) -> Edit:
    body = struct.pack("<IQ", STR, len(items)) + b"".join(map(text, items))
    return lambda parts: parts.put(key.encode(), ARR, body)


def without(key: str) -> Edit:
    def edit(parts: Parts) -> None:
        parts.values = [value for value in parts.values if value.key != key.encode()]

    return edit


def no_tensor(name: str) -> Edit:
    def edit(parts: Parts) -> None:
        parts.tensors = [tensor for tensor in parts.tensors if tensor.name != name.encode()]

    return edit


def shaped(name: str, *shape: int, kind: int | None = None) -> Edit:
    """Another shape, and type, with as many bytes as that takes."""

    def edit(parts: Parts) -> None:
        tensor = _tensor(parts, name)
        tensor.kind = tensor.kind if kind is None else kind
        size = int(np.prod(shape)) * WIDTH[tensor.kind]
        tensor.shape, tensor.data = (
            list(shape),
            (tensor.data * (size // len(tensor.data) + 1))[:size],
        )

    return edit


def filled(name: str, x: float, every: int = 1) -> Edit:
    """Every so many of a tensor's values replaced."""

    def edit(parts: Parts) -> None:
        tensor = _tensor(parts, name)
        values = np.frombuffer(tensor.data, np.float32 if tensor.kind == 0 else np.float16).copy()
        values[::every] = x
        tensor.data = values.tobytes()

    return edit


def both(*edits: Edit) -> Edit:
    return lambda parts: [edit(parts) for edit in edits]


def added(name: str, *shape: int) -> Edit:
    return lambda parts: parts.add(name, *shape)


def _tensor(parts: Parts, name: str) -> TensorPart:
    return next(tensor for tensor in parts.tensors if tensor.name == name.encode())


def adds_bos(token: int) -> Edit:
    def edit(parts: Parts) -> None:
        parts.put_u32(b"tokenizer.ggml.bos_token_id", token)
        parts.put(b"tokenizer.ggml.add_bos_token", BOOL, b"\1")

    return edit


def types_of_tokens(parts: Parts) -> None:
    parts.put(b"tokenizer.ggml.token_type", ARR, numbers(U8, 1, 2, 3, 4))


TOKENS, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"
DOWN, NORM = "blk.4.ffn_down.weight", "output_norm.weight"
ONE = 10**9  # the first value of a tensor alone
VARIANTS: Mapping[str, Edit] = {
    "shape of attn_q": shaped("blk.3.attn_q.weight", 256, 128),
    "shape of attn_k": shaped("blk.3.attn_k.weight", 128, 256),
    "three dimensions": shaped("blk.3.attn_q.weight", 256, 128, 2),
    "embeddings in one dimension": shaped("token_embd.weight", 256 * 1024),
    "short norm": shaped("blk.2.attn_norm.weight", 255),
    "whole numbers for weights": shaped("blk.1.ffn_up.weight", 256, 256, kind=26),
    "half a norm": shaped("blk.1.attn_norm.weight", 256, kind=1),
    "no attn_v": no_tensor("blk.3.attn_v.weight"),
    "no output_norm": no_tensor(NORM),
    "no embeddings": no_tensor("token_embd.weight"),
    "one tensor more": added("blk.3.nonsense.weight", 8),
    "a name of 64 bytes": added("x" * 64, 8),
    "no tokens": without(TOKENS),
    "no merges": without(MERGES),
    "no tokenizer": without("tokenizer.ggml.model"),
    "tokenizer nobody knows": string("tokenizer.ggml.model", "nonsense"),
    "tokenizer of llama": string("tokenizer.ggml.model", "llama"),
    "tokenizer of bert": string("tokenizer.ggml.model", "bert"),
    "tokenizer of t5": string("tokenizer.ggml.model", "t5"),
    "tokenizer of rwkv": string("tokenizer.ggml.model", "rwkv"),
    "pre-tokenizer nobody knows": string("tokenizer.ggml.pre", "nonsense"),
    "no token in the list": strings(TOKENS),
    "one token a thousand times": strings(TOKENS, *[b"a"] * 1024),
    "tokens with NUL": strings(TOKENS, *(b"\0\xff%d" % i for i in range(1024))),
    "merges of nothing": strings(MERGES, b"nospace", b"", b" "),
    "types of tokens": types_of_tokens,
    "BOS far out": adds_bos(99999),
    "BOS of -1": adds_bos(HUGE),
    "3 heads": number("llama.attention.head_count", 3),
    "0 heads": number("llama.attention.head_count", 0),
    "3 KV heads": number("llama.attention.head_count_kv", 3),
    "0 KV heads": number("llama.attention.head_count_kv", 0),
    "odd RoPE": number("llama.rope.dimension_count", 63),
    "wide RoPE": number("llama.rope.dimension_count", 4096),
    "no RoPE": number("llama.rope.dimension_count", 0),
    "RoPE base 0": fraction("llama.rope.freq_base", 0.0),
    "RoPE base NaN": fraction("llama.rope.freq_base", np.nan),
    "epsilon 0 and a norm of 0": both(
        fraction("llama.attention.layer_norm_rms_epsilon", 0.0),
        filled("blk.0.attn_norm.weight", 0)),
    "epsilon below 0": fraction("llama.attention.layer_norm_rms_epsilon", -1.0),
    "epsilon NaN": fraction("llama.attention.layer_norm_rms_epsilon", np.nan),
    "context of 2^32": number("llama.context_length", HUGE),
    "context of 0": number("llama.context_length", 0),
    "0 embeddings": number("llama.embedding_length", 0),
    "255 embeddings": number("llama.embedding_length", 255),
    "2^32 embeddings": number("llama.embedding_length", HUGE),
    "no feed-forward part": number("llama.feed_forward_length", 0),
    "keys of 0": number("llama.attention.key_length", 0),
    "keys of 2^31": number("llama.attention.key_length", 2**31),
    "more experts used than there are": both(
        number("llama.expert_count", 8), number("llama.expert_used_count", 9)),
    "vocabulary of 7": number("llama.vocab_size", 7),
    "all layers MTP": number("llama.nextn_predict_layers", 9),
    "all layers but one MTP": number("llama.nextn_predict_layers", 8),
    "RoPE scaling nobody knows": string("llama.rope.scaling.type", "nonsense"),
    "RoPE base in words": string("llama.rope.freq_base", "x"),
    "one weight NaN": filled(DOWN, np.nan, ONE),
    "a layer of NaN": filled(DOWN, np.nan),
    "a layer of infinities": filled(DOWN, np.inf),
    "an embedding NaN": filled("token_embd.weight", np.nan, ONE),
    "output_norm NaN": filled(NORM, np.nan),
    "huge weights": filled(DOWN, 6e4),
    "embeddings of 0": filled("token_embd.weight", 0),
    "output_norm of 0": filled(NORM, 0),
}  # fmt: skip
