"""Tensor types: their names and how many bytes a row takes.

The table is the gguf package's, with the types llama.cpp has learned since its last release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ggprune.errors import FormatError

# id -> (name, elements per block, bytes per block); ggml/include/ggml.h, ggml/src/ggml-common.h
NEWER_TYPES = {40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18)}


@dataclass(frozen=True)
class TensorType:
    """A ggml tensor type. A row of `n` elements takes `n / block_size * block_bytes` bytes."""

    id: int
    name: str
    block_size: int
    block_bytes: int

    def size_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor; `shape` is in ggml order, the row length first.

        Raises FormatError if the row length is not a multiple of the block size.
        """
        if shape[0] % self.block_size:
            raise FormatError(f"a row of {shape[0]} elements cannot be stored as {self.name}")
        return math.prod(shape) // self.block_size * self.block_bytes


# Numbers that no release of llama.cpp will read: first, last, whose they are. ggml/include/ggml.h;
# the same file of ik_llama.cpp and of BitNet's llama.cpp.
FOREIGN_TYPES = (
    (4, 5, "of Q4_2 or Q4_3, which llama.cpp has removed"),
    (31, 33, "of a repacked Q4_0, which llama.cpp has removed: it repacks Q4_0 itself"),
    (36, 38, "of BitNet (bitnet.cpp), or of a repacked IQ4_NL, which llama.cpp has removed"),
    (97, 399, "of ik_llama.cpp"),
)

TENSOR_TYPES: dict[int, TensorType] = {
    **{i: TensorType(i, *row) for i, row in NEWER_TYPES.items()},
    **{int(t): TensorType(int(t), t.name, *GGML_QUANT_SIZES[t]) for t in GGMLQuantizationType},
}


def describe_unknown(type_id: int) -> str:
    """Of a type that is not in the table: whose it is, and what to do about it."""
    for first, last, whose in FOREIGN_TYPES:
        if first <= type_id <= last:
            return f"one {whose}; llama.cpp cannot read it: quantize the original again"
    return "which is not known; a newer gguf package may know it"


def tensor_type(name: str) -> TensorType:
    """The type of that name. Raises KeyError if there is none."""
    return {t.name: t for t in TENSOR_TYPES.values()}[name]
