"""GGUF files built byte by byte, right and wrong ones, independent of the code under test."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

U32, I32, F32, BOOL, STR, ARR = 4, 5, 6, 7, 8, 9
TYPE_F32, TYPE_F16 = 0, 1


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def kv(key: str | bytes, value_type: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", value_type) + payload


def kv_u32(key: str, value: int) -> bytes:
    return kv(key, U32, struct.pack("<I", value))


def kv_str(key: str, value: str | bytes) -> bytes:
    return kv(key, STR, text(value))


def kv_array(key: str, element: int, count: int, body: bytes) -> bytes:
    return kv(key, ARR, struct.pack("<IQ", element, count) + body)


@dataclass(frozen=True)
class FakeTensor:
    name: str
    data: bytes
    shape: tuple[int, ...] = (8,)
    type: int = TYPE_F32


def build(
    kvs: Sequence[bytes],
    tensors: Sequence[FakeTensor] = (),
    *,
    version: int = 3,
    alignment: int = 32,
    magic: bytes = b"GGUF",
) -> bytes:
    head = struct.pack("<4sIQQ", magic, version, len(tensors), len(kvs)) + b"".join(kvs)
    offset, body = 0, [head]
    for tensor in tensors:
        head += text(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        head += struct.pack("<IQ", tensor.type, offset)
        padded = tensor.data + bytes(-len(tensor.data) % alignment)
        body.append(padded)
        offset += len(padded)
    body[0] = head + bytes(-len(head) % alignment)
    return b"".join(body)


def llama_kvs(n_layer: int) -> list[bytes]:
    return [kv_str("general.architecture", "llama"), kv_u32("llama.block_count", n_layer)]


def layer_tensors(n_layer: int) -> list[FakeTensor]:
    """Two tensors per layer with contents of their own, one in front and one behind."""
    names = [f"blk.{i}.{part}.weight" for i in range(n_layer) for part in ("attn_q", "ffn_up")]
    named = ["token_embd.weight", *names, "output.weight"]
    return [FakeTensor(name, struct.pack("<8f", *([float(i)] * 8))) for i, name in enumerate(named)]
