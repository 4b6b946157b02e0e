"""Mutates GGUF files in parts: other values under known keys, and every count or length a lie."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.fuzz.gguf_parts import (
    ARCHITECTURE,
    ARR,
    BOOL,
    CODES,
    F32,
    F64,
    I32,
    STR,
    U8,
    U16,
    U32,
    U64,
    Parts,
    TensorPart,
    text,
)  # fmt: skip
from tests.fuzz.hostile import FLOATS, INTEGERS, TEXTS, float_bytes, integer_bytes
from tests.fuzz.mutate_bytes import mutate_bytes

SCALARS = (U32, U32, U32, I32, F32, BOOL, U64, F64, U8, U16)
ELEMENTS = (U32, I32, F32, BOOL, STR, ARR, U64, U8, F64)
MAX_DEPTH = 12
LIMIT_TENSORS = 64  # of layers that are added
HEAD_BYTES = 1 << 16
SPLIT_KEYS = (b"split.no", b"split.count", b"split.tensors.count")


@dataclass(frozen=True)
class GGUFMutator:
    """`keys` have {arch} for the architecture's name, `tensors` have {i} for a layer's number."""

    seeds: Sequence[Parts]
    keys: Sequence[str]
    archs: Sequence[str]
    tensors: Sequence[str]
    weights: tuple[int, ...] = ()  # of _MUTATIONS, in place of their own

    def make(self, rng: Random) -> bytes:
        parts = rng.choice(self.seeds).copy()
        self.mutate(parts, rng, rng.choice((1, 1, 1, 2, 2, 3, 5)))
        data = parts.pack()
        return mutate_bytes(data, rng, HEAD_BYTES) if rng.random() < 0.1 else data

    def mutate(self, parts: Parts, rng: Random, n: int) -> None:
        weights = self.weights or tuple(_MUTATIONS.values())
        for mutate in rng.choices(tuple(_MUTATIONS), weights, k=n):
            mutate(self, parts, rng)


def only(*names: str, **weights: int) -> tuple[int, ...]:
    """Weights that leave out all mutations but these."""
    asked = {**dict.fromkeys(names, 1), **weights}
    return tuple(asked.get(mutate.__name__.strip("_"), 0) for mutate in _MUTATIONS)


def any_number(kind: int, rng: Random) -> bytes:
    if kind == F64:
        return struct.pack("<d", rng.choice(FLOATS))
    if kind == F32:
        return float_bytes(rng)
    return integer_bytes(rng, struct.calcsize(CODES[kind]))


def any_value(rng: Random, n_layer: int) -> tuple[int, bytes]:
    """Kind and bytes; arrays often have one entry for each layer."""
    chance = rng.random()
    if chance < 0.15:
        return STR, text(rng.choice(TEXTS))
    if chance < 0.6:
        kind = rng.choice(SCALARS)
        return kind, any_number(kind, rng)
    return ARR, any_array(rng, n_layer)


def any_array(rng: Random, n_layer: int, depth: int = 0) -> bytes:
    element = rng.choice(ELEMENTS) if depth < MAX_DEPTH else U32
    n = rng.choice((0, 1, 2, n_layer, n_layer, n_layer, n_layer + 1, max(n_layer - 1, 0)))
    if element == ARR:
        n = min(n, 2)
        body = b"".join(any_array(rng, n_layer, depth + 1) for _ in range(n))
    elif element == STR:
        body = b"".join(text(rng.choice(TEXTS)) for _ in range(n))
    else:
        body = b"".join(any_number(element, rng) for _ in range(n))
    said = rng.choice(INTEGERS) % 2**64 if rng.random() < 0.06 else n
    return struct.pack("<IQ", element, said) + body


def _own_value(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    """A key of the architecture that the seed has: another number, or an array."""
    prefix = parts.arch + b"."
    own = [v for v in parts.values if v.key.startswith(prefix) and b"block_count" not in v.key]
    if not own:
        return
    value, n = rng.choice(own), parts.n_layer
    if rng.random() < 0.5:
        value.kind = rng.choice((value.kind if value.kind in CODES else U32, U32, I32, F32))
        value.raw = any_number(value.kind, rng)
        return
    kind, length = rng.choice((U32, I32, BOOL, F32)), max(rng.choice((n, n, n - 1, n + 1, 1)), 0)
    items = b"".join(any_number(kind, rng) for _ in range(length))
    value.kind, value.raw = ARR, struct.pack("<IQ", kind, length) + items


def _known_value(self: GGUFMutator, parts: Parts, rng: Random) -> None:
    key = rng.choice(self.keys).encode().replace(b"{arch}", parts.arch)
    parts.put(key, *any_value(rng, parts.n_layer))


def _any_value(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    if parts.values:
        value = rng.choice(parts.values)
        value.kind, value.raw = any_value(rng, parts.n_layer)


def _lying_length(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    """Of a text, or the element type or count of an array."""
    long = [value for value in parts.values if value.kind in (STR, ARR)]
    if long:
        value = rng.choice(long)
        at, size = (0, 8) if value.kind == STR else rng.choice(((0, 4), (4, 8)))
        value.raw = value.raw[:at] + integer_bytes(rng, size) + value.raw[at + size :]


def _change_values(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    """One is there twice, is missing, or has another key."""
    if parts.values:
        at = rng.randrange(len(parts.values))
        how = rng.randrange(3)
        if how == 0:
            parts.values.append(parts.values[at])
        elif how == 1:
            del parts.values[at]
        else:
            parts.values[at].key = rng.choice(TEXTS)


def _other_arch(self: GGUFMutator, parts: Parts, rng: Random) -> None:
    """With its keys, or the name alone."""
    old, new = parts.arch, rng.choice(self.archs).encode()
    if rng.random() < 0.3:
        new = rng.choice((new, rng.choice(TEXTS)))
    else:
        for value in parts.values:
            if value.key.startswith(old + b"."):
                value.key = new + value.key[len(old) :]
    parts.put_text(ARCHITECTURE, new)


def _other_depth(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    """Another number of layers, with tensors for them or without."""
    key = parts.arch + b".block_count"
    if rng.random() < 0.5:
        kind = rng.choice(SCALARS)
        parts.put(key, kind, any_number(kind, rng))
        return
    n_layer = rng.choice([n for n in INTEGERS if 0 <= n < 2**32])
    parts.put_u32(key, n_layer)
    if n_layer < LIMIT_TENSORS:
        names = {tensor.name for tensor in parts.tensors}
        wanted = [f"blk.{i}.attn_q.weight" for i in range(n_layer)]
        for name in wanted:
            if name.encode() not in names:
                parts.add(name, 8)


def _split_values(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    for key in SPLIT_KEYS:
        if rng.random() < 0.7:
            number = U16, struct.pack("<H", rng.choice((0, 1, 2, 3, 65535)))
            parts.put(key, *(any_value(rng, 2) if rng.random() < 0.3 else number))


def _alignment(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    n = rng.choice((0, 1, 2, 3, 8, 16, 64, 4096, 2**20, 2**30, 2**31, 2**32 - 1))
    parts.put_u32(b"general.alignment", n)
    if rng.random() < 0.7 and n in (1, 2, 8, 16, 64, 4096):
        parts.alignment = n


def _header(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    how = rng.randrange(3)
    if how == 0:
        parts.version = rng.choice((0, 1, 2, 2, 4, 0x03000000, 2**32 - 1))
    elif how == 1:
        parts.n_tensor = rng.choice((*INTEGERS, len(parts.tensors) + 1, len(parts.tensors) - 1))
    else:
        parts.n_value = rng.choice((*INTEGERS, len(parts.values) + 1, len(parts.values) - 1))


def _marked_tensor(self: GGUFMutator, parts: Parts, rng: Random) -> None:
    """One that rules know, of some shape: added, or in place of the one of that name."""
    layer = str(rng.choice((0, 1, 2, 3, 5, 11))).encode()
    name, n = rng.choice(self.tensors).encode().replace(b"{i}", layer), rng.choice((12, 24, 32, 48))
    shape = list(rng.choice(((n,), (n, 2), (1, n), (n, 1, 2))))
    data = rng.randbytes(4 * n * (2 if 2 in shape else 1))
    parts.tensors = [tensor for tensor in parts.tensors if tensor.name != name]
    parts.tensors.append(TensorPart(name, shape, data))


def _change_tensor(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    """Another name, shape, type or place."""
    if not parts.tensors:
        return
    tensor, how = rng.choice(parts.tensors), rng.randrange(6)
    if how == 0:
        tensor.name = rng.choice(TEXTS)
    elif how == 1:
        tensor.shape = [rng.choice(INTEGERS) for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 8)))]
    elif how == 2 and tensor.shape:
        tensor.shape[rng.randrange(len(tensor.shape))] = rng.choice(INTEGERS)
    elif how == 3:
        tensor.kind = rng.choice((*range(45), 137, 2**31, 2**32 - 1))
    elif how == 4:
        tensor.offset = rng.choice(INTEGERS)
    else:
        tensor.n_dim = rng.choice((0, 1, 2, 3, 4, 5, 2**31, 2**32 - 1))


def _other_data(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    """Numbers that no tensor has."""
    held = [tensor for tensor in parts.tensors if tensor.data]
    if held:
        tensor = rng.choice(held)
        at = 4 * rng.randrange(len(tensor.data) // 4 or 1)
        tensor.data = tensor.data[:at] + any_number(F32, rng) + tensor.data[at + 4 :]


def _change_tensors(_: GGUFMutator, parts: Parts, rng: Random) -> None:
    """One is there twice or is missing, or they come in another order."""
    if not parts.tensors:
        return
    how = rng.randrange(3)
    if how == 0:
        parts.tensors.append(rng.choice(parts.tensors))
    elif how == 1:
        del parts.tensors[rng.randrange(len(parts.tensors))]
    else:
        rng.shuffle(parts.tensors)


# How often each of them is chosen.
_MUTATIONS: dict[Callable[[GGUFMutator, Parts, Random], None], int] = {
    _own_value: 8, _known_value: 8, _any_value: 3, _lying_length: 2, _change_values: 3,
    _other_arch: 2, _other_depth: 2, _split_values: 1, _alignment: 1, _header: 2,
    _marked_tensor: 2, _change_tensor: 5, _other_data: 2, _change_tensors: 3,
}  # fmt: skip
