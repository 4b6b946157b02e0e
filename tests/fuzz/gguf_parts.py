"""A GGUF file in parts, whose counts, offsets and lengths may lie. Knows no code under test."""

from __future__ import annotations

import struct
from copy import deepcopy
from dataclasses import dataclass, field

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
CODES = {
    U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q",
    I64: "q", F64: "d",
}  # fmt: skip
ARCHITECTURE = b"general.architecture"


@dataclass
class Part:
    """A metadata value: its bytes are what stands behind the type."""

    key: bytes
    kind: int
    raw: bytes


@dataclass
class TensorPart:
    """A tensor; without an `offset` of its own it lies where it should."""

    name: bytes
    shape: list[int]
    data: bytes
    kind: int = 0  # F32
    offset: int | None = None
    n_dim: int | None = None  # what is said


@dataclass
class Parts:
    """A whole file."""

    values: list[Part] = field(default_factory=list)
    tensors: list[TensorPart] = field(default_factory=list)
    version: int = 3
    alignment: int = 32
    n_tensor: int | None = None  # what is said
    n_value: int | None = None

    def copy(self) -> Parts:
        return deepcopy(self)

    def pack(self) -> bytes:
        n_tensor = len(self.tensors) if self.n_tensor is None else self.n_tensor
        n_value = len(self.values) if self.n_value is None else self.n_value
        head = [struct.pack("<4sIQQ", b"GGUF", self.version, n_tensor % 2**64, n_value % 2**64)]
        head += [text(v.key) + struct.pack("<I", v.kind) + v.raw for v in self.values]
        at, body = 0, []
        for tensor in self.tensors:
            head.append(_info(tensor, at))
            body.append(tensor.data + bytes(-len(tensor.data) % self.alignment))
            at += len(body[-1])
        packed = b"".join(head)
        return packed + bytes(-len(packed) % self.alignment) + b"".join(body)

    def put(self, key: bytes, kind: int, raw: bytes) -> None:
        """Set a value, the first one of that key."""
        for value in self.values:
            if value.key == key:
                value.kind, value.raw = kind, raw
                return
        self.values.append(Part(key, kind, raw))

    def put_u32(self, key: bytes, number: int) -> None:
        self.put(key, U32, struct.pack("<I", number))

    def put_text(self, key: bytes, content: bytes) -> None:
        self.put(key, STR, text(content))

    def add(self, name: str | bytes, *shape: int) -> None:
        """An F32 tensor of zeros."""
        n = 1
        for size in shape:
            n *= size
        raw = name.encode() if isinstance(name, str) else name
        self.tensors.append(TensorPart(raw, list(shape), bytes(4 * n)))

    @property
    def arch(self) -> bytes:
        found = (v for v in self.values if v.key == ARCHITECTURE and v.kind == STR)
        return next((v.raw[8:] for v in found), b"llama")

    @property
    def n_layer(self) -> int:
        """As it is stated, for arrays that fit."""
        key = self.arch + b".block_count"
        found = (v for v in self.values if v.key == key and len(v.raw) == 4)
        return next((min(struct.unpack("<I", v.raw)[0], 64) for v in found), 4)


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def numbers(kind: int, *items: float) -> bytes:
    """An array's bytes."""
    return struct.pack(f"<IQ{len(items)}{CODES[kind]}", kind, len(items), *items)


def _info(tensor: TensorPart, at: int) -> bytes:
    n_dim = len(tensor.shape) if tensor.n_dim is None else tensor.n_dim
    shape = b"".join(struct.pack("<Q", size % 2**64) for size in tensor.shape)
    offset = (at if tensor.offset is None else tensor.offset) % 2**64
    place = struct.pack("<IQ", tensor.kind % 2**32, offset)
    return text(tensor.name) + struct.pack("<I", n_dim) + shape + place
